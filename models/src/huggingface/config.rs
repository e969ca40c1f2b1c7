//! `config.json`: read into a config of the zoo, and written from one.
//!
//! Every entry that changes what a network computes is looked at: one that asks for something else than the zoo builds
//! is told, not passed over. Entries that only matter for generating or training elsewhere are left alone.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Layout;
use crate::weights::checkpoint::read_small;
use crate::weights::given::Misfit;
use crate::zoo::{gpt2, llama};

/// Most of anything that an entry may count; the Dag has limits of its own.
const COUNT_MAX: u64 = 1 << 24;

/// The entries of a file, and what is wrong with them.
struct Entries {
    map: Map<String, Value>,
    misfits: Vec<Misfit>,
}

impl Entries {
    fn wrong(&mut self, name: &str, why: impl Into<String>) {
        self.misfits.push(Misfit { name: name.into(), why: why.into() });
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Reads a whole number.
    fn count(&mut self, name: &str, default: Option<usize>) -> usize {
        let found = self.get(name).map(|v| v.as_u64().filter(|n| (1..=COUNT_MAX).contains(n)));
        let found = match found {
            Some(found) => found.and_then(|n| usize::try_from(n).ok()),
            None => default,
        };
        found.unwrap_or_else(|| {
            self.wrong(name, format!("a whole number from 1 to {COUNT_MAX} is wanted"));
            1
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "settings are stored in single precision")]
    fn number(&mut self, name: &str, default: f32) -> f32 {
        let value = self.get(name).map(|v| v.as_f64().filter(|n| n.is_finite() && *n >= 0.0));
        match value {
            None => default,
            Some(Some(number)) => number as f32,
            Some(None) => {
                self.wrong(name, "a number from 0 is wanted");
                default
            }
        }
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// Notes an entry that says something else than what is built; one that is left out says `default`.
    fn must(&mut self, name: &str, allowed: &[Value], default: &Value) {
        let value = self.get(name).unwrap_or(default).clone();
        if !allowed.contains(&value) {
            let known: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            self.wrong(name, format!("{value} is not built; {} is", known.join(" or ")));
        }
    }
}

/// Reads a folder's file.
///
/// *Errors*: everything in it that is not built.
pub(super) fn read(folder: &Path, window: Option<usize>) -> Result<Layout, Vec<Misfit>> {
    let one = |why: String| vec![Misfit { name: "config.json".into(), why }];
    let bytes = read_small(&folder.join("config.json")).map_err(|error| one(error.to_string()))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| one(error.to_string()))?;
    let Value::Object(map) = value else {
        return Err(one("it holds no entries".into()));
    };
    let mut entries = Entries { map, misfits: Vec::new() };
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let kind = entries.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = if name.is_empty() { &kind } else { name }.to_owned();
    let layout = match kind.as_str() {
        "gpt2" => Layout::Gpt2(read_gpt2(&mut entries, name, window)),
        "llama" => Layout::Llama(read_llama(&mut entries, name, window)),
        other => {
            return Err(one(format!("model_type \"{other}\" is not built; gpt2 and llama are")));
        }
    };
    if entries.misfits.is_empty() { Ok(layout) } else { Err(entries.misfits) }
}

/// Returns the length of a sample.
fn window(entries: &mut Entries, wanted: Option<usize>, positions: usize) -> usize {
    let window = wanted.unwrap_or(positions);
    if window > positions {
        entries.wrong("window", format!("{window} tokens, but there are {positions} positions"));
    }
    window
}

fn read_gpt2(e: &mut Entries, name: String, wanted: Option<usize>) -> gpt2::Config {
    let positions = e.count("n_positions", Some(1024));
    let (width, heads) = (e.count("n_embd", Some(768)), e.count("n_head", Some(12)));
    if width % heads != 0 {
        e.wrong("n_head", format!("{heads} heads do not share {width} channels"));
    }
    let gelu = [json!("gelu_new"), json!("gelu_pytorch_tanh")];
    e.must("activation_function", &gelu, &gelu[0]);
    e.must("layer_norm_epsilon", &[json!(1e-5)], &json!(1e-5));
    e.must("n_inner", &[json!(4 * width)], &json!(4 * width));
    e.must("tie_word_embeddings", &[json!(true)], &json!(true));
    e.must("scale_attn_weights", &[json!(true)], &json!(true));
    e.must("scale_attn_by_inverse_layer_idx", &[json!(false)], &json!(false));
    e.must("add_cross_attention", &[json!(false)], &json!(false));
    gpt2::Config {
        name,
        vocabulary: e.count("vocab_size", Some(50_257)),
        positions,
        window: window(e, wanted, positions),
        width,
        layers: e.count("n_layer", Some(12)),
        heads,
        // What a checkpoint was trained with; a job that goes on from it has none, as the named networks have none.
        dropout: 0.0,
        attention: gpt2::Attention::Fused,
    }
}

fn read_llama(e: &mut Entries, name: String, wanted: Option<usize>) -> llama::Config {
    let (width, heads) = (e.count("hidden_size", None), e.count("num_attention_heads", None));
    let kv_heads = e.count("num_key_value_heads", Some(heads));
    if width % heads != 0 || heads % kv_heads != 0 {
        let why =
            format!("{heads} heads, {kv_heads} of them with keys, do not share {width} channels");
        e.wrong("num_attention_heads", why);
    }
    let depth = width / heads;
    e.must("head_dim", &[json!(depth)], &json!(depth));
    e.must("hidden_act", &[json!("silu")], &json!("silu"));
    e.must("attention_bias", &[json!(false)], &json!(false));
    e.must("mlp_bias", &[json!(false)], &json!(false));
    let theta = rotary(e);
    let positions = e.count("max_position_embeddings", Some(2048));
    llama::Config {
        name,
        vocabulary: e.count("vocab_size", None),
        window: window(e, wanted, positions),
        width,
        layers: e.count("num_hidden_layers", None),
        heads,
        kv_heads,
        hidden: e.count("intermediate_size", None),
        theta,
        eps: e.number("rms_norm_eps", 1e-6),
        tied: e.flag("tie_word_embeddings", false),
    }
}

/// Returns the base of the rotary wave lengths; newer files keep it with its scaling in one entry.
fn rotary(e: &mut Entries) -> f32 {
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(Value::Object(map)) = e.get(name).cloned() else { continue };
        let kind = map.get("rope_type").or_else(|| map.get("type")).and_then(Value::as_str);
        if kind.is_some_and(|kind| kind != "default") {
            e.wrong(name, format!("\"{}\" is not built; \"default\" is", kind.unwrap_or_default()));
        }
        if let Some(theta) = map.get("rope_theta") {
            e.map.entry("rope_theta").or_insert_with(|| theta.clone());
        }
    }
    e.number("rope_theta", 1e4)
}

/// Returns a number as it is written: 1e-5 and not its nearest f32 in double precision.
fn decimal(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, |n| json!(n))
}

/// Returns the file of a network; none for those that have no such file.
pub(super) fn json(layout: &Layout) -> Option<Value> {
    match layout {
        Layout::Gpt2(c) => Some(json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": c.vocabulary,
            "n_positions": c.positions,
            "n_embd": c.width,
            "n_layer": c.layers,
            "n_head": c.heads,
            "n_inner": null,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "resid_pdrop": decimal(c.dropout),
            "embd_pdrop": decimal(c.dropout),
            "attn_pdrop": 0.0,
            "tie_word_embeddings": true,
            "bos_token_id": null,
            "eos_token_id": null,
            "dtype": "float32",
        })),
        Layout::Llama(c) => Some(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": c.vocabulary,
            "max_position_embeddings": c.window,
            "hidden_size": c.width,
            "intermediate_size": c.hidden,
            "num_hidden_layers": c.layers,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.width / c.heads.max(1),
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "rms_norm_eps": decimal(c.eps),
            "rope_theta": decimal(c.theta),
            "rope_parameters": {"rope_type": "default", "rope_theta": decimal(c.theta)},
            "tie_word_embeddings": c.tied,
            "bos_token_id": null,
            "eos_token_id": null,
            "dtype": "float32",
        })),
        Layout::Resnet(_) => None,
    }
}
