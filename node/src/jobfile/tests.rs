use proptest::prelude::*;

use super::*;

#[test]
fn a_short_file_takes_defaults() {
    let spec = parse("[model]\nname = \"gpt2-nano\"\n").unwrap();
    assert_eq!(spec.data.source, "text:kjv");
    assert_eq!((spec.train.steps, spec.train.micro_batches), (100, 8));
    assert_eq!(spec.swarm.stages, None);
    assert_eq!(spec.dag.name(), "gpt2-nano");
}

#[test]
fn the_examples_are_sound() {
    for text in [
        include_str!("../../../examples/gpt2-nano.toml"),
        include_str!("../../../examples/resnet-tiny.toml"),
    ] {
        parse(text).unwrap();
    }
}

/// Goal: a person mends a file in one go. Method: one file with every kind of mistake.
#[test]
fn every_mistake_is_reported_at_once() {
    let text = r#"
        nmae = "x"
        [model]
        name = "gpt2-nan"
        micro_batch = 0
        [data]
        source = "text:bible"
        [train]
        steps = -5
        micro_batches = "many"
        clip_norm = 0.0
        [train.optimizer]
        kind = "adam"
        [train.learning_rate]
        peak = 1e-3
        floor = 1.0
        wramup = 3
        [swarm]
        stages = "all"
        recompute = 1
        [sworm]
        stages = 2
    "#;
    let problems = parse(text).unwrap_err();
    insta::assert_snapshot!(problems, @r#"
    13 mistakes in the job file; nothing was started:
      model.micro_batch = 0: a whole number from 1 to 65536 is wanted here
      model.name = "gpt2-nan": there is no such network; did you mean "gpt2-nano"? There are gpt2-nano, gpt2-mini, gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-nano, tinyllama-1.1b, llama-3.2-1b, lstm-nano, lstm-ptb, resnet-tiny, resnet20, resnet32, resnet56, resnet110, resnet18, resnet34, resnet50, resnet101
      data.source = "text:bible": there is no such source; there are text:kjv, images:digits, noise:normal
      train.steps = -5: a whole number from 1 to 100000000 is wanted here
      train.micro_batches = "many": a whole number from 1 to 256 is wanted here
      train.clip_norm = 0.0: a number above 0 to 1000000000 is wanted here
      train.optimizer.kind = "adam": one of "adamw", "sgd" is wanted here
      train.learning_rate.floor = 1: the floor lies above the peak (0.001); write at most 0.001
      swarm.stages = "all": a whole number from 1 to 64, or "auto" is wanted here
      swarm.recompute = 1: true or false is wanted here
      nmae = "x": there is no such key; did you mean "name"?
      sworm = a section: there is no such key; did you mean "swarm"?
      train.learning_rate.wramup = 3: there is no such key; did you mean "warmup"?
    "#);
}

#[test]
fn a_source_must_suit_the_network() {
    let text = "[model]\nname = \"resnet-tiny\"\n[data]\nsource = \"text:kjv\"\n";
    let problems = parse(text).unwrap_err().0;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].key, "data.source");
}

#[test]
fn what_is_no_toml_is_said_with_its_line() {
    let problems = parse("[model]\nname = gpt2\n").unwrap_err();
    assert!(problems.to_string().contains("line 2"), "{problems}");
    assert!(parse("").unwrap_err().to_string().contains("model.name"));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text).is_ok();
    }

    #[test]
    fn arbitrary_values_never_panic(value in "[-0-9a-z.\"\\[\\]{}= ]{0,20}", key in "[a-z_]{1,12}") {
        let text = format!("[model]\nname = \"gpt2-nano\"\n[train]\n{key} = {value}\nsteps = {value}\n");
        let _ = parse(&text).is_ok();
    }
}
