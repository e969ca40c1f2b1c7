//! Folders written and read again, and what is said of those that cannot be.

use super::*;
use crate::weights::checkpoint::Checkpoint;
use crate::weights::given::Given;

/// Networks of each family, small.
fn small() -> Vec<Layout> {
    let mut gpt2 = gpt2::Config::named("gpt2-nano").unwrap();
    gpt2.layers = 1;
    let llama = llama::Config { layers: 1, ..llama::Config::named("llama-nano").unwrap() };
    let tied = llama::Config { tied: true, theta: 5e5, ..llama.clone() };
    let resnet = resnet::Config::named("resnet-tiny").unwrap();
    vec![Layout::Gpt2(gpt2), Layout::Llama(llama), Layout::Llama(tied), Layout::Resnet(resnet)]
}

fn drawn(dag: &Dag) -> (Given, Vec<Named>) {
    let given = Given::drawn(dag.values(), 3);
    let tensor = |id| {
        let value = dag.value(id);
        (value.name.clone(), value.fact.shape.clone(), given.elements(&value.name).unwrap())
    };
    let tensors = dag.parameters().chain(dag.buffers()).map(tensor).collect();
    (given, tensors)
}

#[test]
fn what_is_written_is_read_again_with_the_same_numbers() {
    for layout in small() {
        let dag = layout.build(2).unwrap();
        let (given, tensors) = drawn(&dag);
        let folder = tempfile::tempdir().unwrap();
        layout.write(folder.path(), tensors).unwrap();
        let again = match &layout {
            Layout::Resnet(_) => layout.clone(),
            Layout::Gpt2(_) | Layout::Llama(_) => Layout::read(folder.path(), None).unwrap(),
        };
        let rebuilt = again.build(2).unwrap();
        assert_eq!(rebuilt.nodes(), dag.nodes());
        let read = Given::stored(Checkpoint::open(folder.path()).unwrap(), &rebuilt).unwrap();
        assert_eq!(read.start(&rebuilt).unwrap(), given.start(&dag).unwrap());
    }
}

#[test]
fn everything_that_is_not_built_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let said = |json: &str| -> Vec<String> {
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        let misfits = Layout::read(folder.path(), Some(4096)).unwrap_err();
        misfits.into_iter().map(|m| format!("{}: {}", m.name, m.why)).collect()
    };
    let gpt2 = said(
        r#"{"model_type":"gpt2","n_embd":10,"n_head":3,"activation_function":"relu","n_inner":7,"vocab_size":-1}"#,
    );
    assert_eq!(gpt2.len(), 5, "{gpt2:?}");
    let llama = said(
        r#"{"model_type":"llama","hidden_size":64,"num_attention_heads":4,"vocab_size":9,"num_hidden_layers":1,
            "intermediate_size":8,"rope_scaling":{"rope_type":"llama3","factor":8.0},"attention_bias":true}"#,
    );
    let llama = llama.join("\n");
    for part in ["rope_scaling: \"llama3\"", "attention_bias: true", "window: 4096"] {
        assert!(llama.contains(part), "{llama}");
    }
    assert!(said(r#"{"model_type":"mamba"}"#)[0].contains("mamba"));
    assert!(said("[]").len() == 1 && said("{").len() == 1);
}

#[test]
fn newer_files_keep_the_rotary_base_in_an_entry_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let json = r#"{"model_type":"llama","hidden_size":64,"num_attention_heads":4,"vocab_size":9,"num_hidden_layers":1,
        "intermediate_size":8,"rope_parameters":{"rope_type":"default","rope_theta":500000.0}}"#;
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    let Layout::Llama(config) = Layout::read(folder.path(), None).unwrap() else {
        panic!("a Llama");
    };
    assert_eq!((config.theta, config.kv_heads, config.eps), (5e5, 4, 1e-6));
}

#[test]
fn a_tokenizer_is_carried_along() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join("tokenizer.json"), "{}").unwrap();
    std::fs::write(from.path().join("secret.txt"), "x").unwrap();
    assert_eq!(copy_tokenizer(from.path(), to.path()).unwrap(), 1);
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 1);
}
