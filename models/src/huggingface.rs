//! Folders as other tools keep networks: `config.json`, `model.safetensors` (or several with an index), `tokenizer.json`.
//!
//! Parameters have the names and layouts of Hugging Face's `GPT2LMHeadModel` and `LlamaForCausalLM` and of torchvision's
//! `ResNet` in the zoo already, so that nothing is transposed or permuted on the way: GPT-2's `Conv1D` weights are
//! `[in, out]`, Llama's rotary pairs are halves. What is left is the prefix, tied tables and `config.json`.
//! A further family needs an arm of [`Layout`], and lines in `config` if it has a `config.json`.

mod config;

use std::path::Path;

use wattle_protocol::dag::{Dag, DagError};

use crate::weights::given::Misfit;
use crate::weights::{Named, WeightsError, save_with};
use crate::zoo::{gpt2, llama, resnet};

/// Files that belong to a tokenizer: carried along, not read.
const TOKENIZER: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];
/// Most bytes of such a file.
const TOKENIZER_MAX: u64 = 64 << 20;

/// A network whose folder other tools read.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// GPT-2.
    Gpt2(gpt2::Config),
    /// Llama.
    Llama(llama::Config),
    /// torchvision's `ResNet`; it has no `config.json`.
    Resnet(resnet::Config),
}

impl Layout {
    /// Returns the layout of a network of the zoo; none where other tools have no such network.
    pub fn named(name: &str) -> Option<Self> {
        let gpt2 = gpt2::Config::named(name).map(Self::Gpt2);
        gpt2.or_else(|| llama::Config::named(name).map(Self::Llama))
            .or_else(|| resnet::Config::named(name).map(Self::Resnet))
    }

    /// Reads a folder's `config.json`; samples have `window` tokens, by default as many as the network has positions for.
    ///
    /// *Errors*: every entry that says something that the zoo does not build.
    pub fn read(folder: &Path, window: Option<usize>) -> Result<Self, Vec<Misfit>> {
        config::read(folder, window)
    }

    /// Builds the network.
    ///
    /// *Errors*: [`DagError`].
    pub fn build(&self, micro_batch: usize) -> Result<Dag, DagError> {
        match self {
            Self::Gpt2(config) => gpt2::build(config, micro_batch),
            Self::Llama(config) => llama::build(config, micro_batch),
            Self::Resnet(config) => resnet::build(config, micro_batch),
        }
    }

    /// Writes a folder that `from_pretrained` (or, for a `ResNet`, `load_state_dict`) reads.
    ///
    /// *Errors*: [`WeightsError`].
    pub fn write(&self, folder: &Path, tensors: Vec<Named>) -> Result<(), WeightsError> {
        std::fs::create_dir_all(folder)?;
        if let Some(json) = config::json(self) {
            std::fs::write(folder.join("config.json"), format!("{json:#}\n"))?;
        }
        let mut counters = Vec::new();
        let tensors: Vec<Named> = match self {
            Self::Gpt2(_) => {
                let prefixed =
                    |(name, shape, values)| (format!("transformer.{name}"), shape, values);
                tensors.into_iter().map(prefixed).collect()
            }
            Self::Llama(_) => tensors,
            Self::Resnet(_) => {
                let norms =
                    tensors.iter().filter_map(|(name, ..)| name.strip_suffix("running_mean"));
                counters.extend(norms.map(|norm| format!("{norm}num_batches_tracked")));
                tensors
            }
        };
        save_with(&folder.join("model.safetensors"), &tensors, &counters)
    }
}

/// Copies the files of a tokenizer from one folder to another, as far as they are there; returns how many.
///
/// *Errors*: the file system's; a file that is too long for a tokenizer.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<usize, WeightsError> {
    let mut count = 0;
    for name in TOKENIZER {
        let source = from.join(name);
        let Ok(about) = std::fs::metadata(&source) else {
            continue;
        };
        if about.len() > TOKENIZER_MAX {
            let why = format!("{} bytes are too many for a tokenizer's file", about.len());
            return Err(WeightsError::Malformed { path: source, why });
        }
        std::fs::copy(&source, to.join(name))?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
