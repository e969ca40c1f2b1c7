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
        order = "1f2b"
        recompute = 1
        [sworm]
        stages = 2
    "#;
    let problems = parse(text).unwrap_err();
    insta::assert_snapshot!(problems, @r#"
    14 mistakes in the job file; nothing was started:
      model.micro_batch = 0: a whole number from 1 to 65536 is wanted here
      train.micro_batches = "many": a whole number from 1 to 256, or "auto" is wanted here
      model.name = "gpt2-nan": there is no such network; did you mean "gpt2-nano"? There are gpt2-nano, gpt2-mini, gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-nano, tinyllama-1.1b, llama-3.2-1b, lstm-nano, lstm-ptb, resnet-tiny, resnet8, resnet20, resnet32, resnet56, resnet110, resnet18, resnet34, resnet50, resnet101
      data.source = "text:bible": there is no such source; there are text:kjv, text:kjv-train, text:kjv-held, images:digits, images:shapes, noise:normal
      train.steps = -5: a whole number from 1 to 100000000 is wanted here
      train.clip_norm = 0.0: a number above 0 to 1000000000 is wanted here
      train.optimizer.kind = "adam": one of "adamw", "sgd" is wanted here
      train.learning_rate.floor = 1: the floor lies above the peak (0.001); write at most 0.001
      swarm.stages = "all": a whole number from 1 to 64, or "auto" is wanted here
      swarm.order = "1f2b": "auto", 1f1b, 1f1b:2 to 1f1b:64, or gpipe is wanted here
      swarm.recompute = 1: true, false, or "auto" is wanted here
      nmae = "x": there is no such key; did you mean "name"?
      sworm = a section: there is no such key; did you mean "swarm"?
      train.learning_rate.wramup = 3: there is no such key; did you mean "warmup"?
    "#);
}

/// Goal: a batch is divided as the file says, as follows, or in several ways of which the planner takes one.
#[test]
fn a_batch_is_divided_as_the_file_says_or_as_follows() {
    let file = |model: &str, train: &str| {
        let text = format!("[model]\nname = \"gpt2-nano\"\n{model}\n[train]\n{train}\n");
        parse_in(&text, Path::new(""))
    };
    let sizes = |model: &str, train: &str| -> Vec<(usize, u32)> {
        let job = file(model, train).unwrap();
        job.divisions().map(|spec| (samples(&spec.dag), spec.train.micro_batches)).collect()
    };
    assert_eq!(sizes("", "batch = 12\nmicro_batches = 3"), [(4, 3)]);
    assert_eq!(sizes("micro_batch = 6", "batch = 12"), [(6, 2)]);
    assert_eq!(sizes("micro_batch = 6", "batch = 12\nmicro_batches = \"auto\""), [(6, 2)]);
    assert_eq!(sizes("micro_batch = 6", "batch = 12\nmicro_batches = 2"), [(6, 2)]);
    // The one with about eight micro-batches comes first: it is what is taken where nobody chooses.
    assert_eq!(sizes("", "batch = 12"), [(2, 6), (1, 12), (4, 3), (12, 1)]);
    let mut job = file("", "batch = 12").unwrap();
    job.take(12);
    assert_eq!((samples(&job.spec.dag), job.spec.train.micro_batches), (12, 1));
    assert_eq!(job.divided.len(), 3);
    let wrong = |model: &str, train: &str| file(model, train).unwrap_err().to_string();
    insta::assert_snapshot!(
        [
            wrong("", "micro_batches = \"auto\""),
            wrong("", "batch = 12\nmicro_batches = 5"),
            wrong("micro_batch = 5", "batch = 12"),
            wrong("micro_batch = 4", "batch = 12\nmicro_batches = 4"),
            wrong("", "batch = 65537"),
            wrong("", "batch = 0"),
        ]
        .join("\n"),
        @r#"
    1 mistake in the job file; nothing was started:
      train.micro_batches = "auto": train.batch is missing, the samples of a step that are to be divided
    1 mistake in the job file; nothing was started:
      train.batch = 12: it does not divide into 5 micro-batches; leave train.micro_batches out, and it follows
    1 mistake in the job file; nothing was started:
      train.batch = 12: it does not divide into 1 to 256 micro-batches of 5 samples; leave model.micro_batch out, and it follows
    1 mistake in the job file; nothing was started:
      train.batch = 12: it does not divide into 4 micro-batches of 4 samples; leave train.micro_batches out, and it follows
    1 mistake in the job file; nothing was started:
      train.batch = 65537: it does not divide into 1 to 256 micro-batches of at most 65536 samples; take a number with small factors
    1 mistake in the job file; nothing was started:
      train.batch = 0: a whole number from 1 to 16777216 is wanted here
    "#
    );
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

/// The folder of the models' reference networks.
fn reference() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/src/tests/reference"))
}

#[test]
fn an_onnx_file_becomes_a_job_with_its_weights() {
    let text = "[model]\nonnx = \"digits-net.onnx\"\nloss = \"cross_entropy\"\nmicro_batch = 5\nfreeze = [\"one.*\"]\n\
                [data]\nsource = \"images:digits\"\n";
    let job = parse_in(text, reference()).unwrap();
    let dag = &job.spec.dag;
    let names = |ids: Vec<wattle_protocol::ids::ValueId>| -> Vec<&str> {
        ids.into_iter().map(|id| dag.value(id).name.as_str()).collect()
    };
    assert_eq!(names(dag.inputs().collect()), ["images", "labels"]);
    assert_eq!(dag.fact(dag.inputs().next().unwrap()).shape, [5, 1, 8, 8]);
    assert_eq!((dag.parameters().count(), dag.buffers().count()), (8, 2));
    assert_eq!(job.spec.start, job.given.unwrap().start(dag).unwrap());
    assert_eq!(job.spec.name, "digits-net");
    // Other weights, or other frozen ones, are another job.
    let all = parse_in(&text.replace("\"one.*\"", ""), reference()).unwrap();
    assert_ne!(all.spec.start, job.spec.start);
}

/// Goal: a person mends a file in one go, also where it names other files.
#[test]
fn every_mistake_about_an_onnx_file_is_reported_at_once() {
    let said = |text: &str| -> Vec<String> {
        let problems = parse_in(text, reference()).unwrap_err().0;
        problems.iter().map(|p| format!("{} | {} | {}", p.key, p.value, p.remedy)).collect()
    };
    let all = said(
        "[model]\nonnx = \"digits-net.onnx\"\nloss = \"hinge\"\noutput = \"score\"\nwindow = 4\nname = \"gpt2\"\n\
         [model.dims]\nbatch = 0\n[model.inputs]\npixel = \"images\"\n[data]\nsource = \"images:digits\"\n",
    );
    for part in [
        "model.name | \"gpt2\" |",
        "model.loss | \"hinge\" | one of \"cross_entropy\"",
        "model.dims.batch | 0 |",
        "model.window | 4 |",
        "model.inputs.pixel | \"images\" | the model has no such input; there are pixels",
    ] {
        assert!(all.iter().any(|p| p.contains(part)), "{part} is not in {all:?}");
    }
    let base = "[model]\nonnx = \"digits-net.onnx\"\n";
    let digits = "[data]\nsource = \"images:digits\"\n";
    for (text, part) in [
        (format!("{base}loss = \"mse\"\noutput = \"score\"\n{digits}"), "did you mean \"scores\"?"),
        (format!("{base}loss = \"cross_entropy\"\n"), "data.source | "),
        (format!("{base}{digits}"), "model.loss adds a loss"),
        (format!("{base}loss = \"mse\"\n{digits}"), "data.source | \"images:digits\""),
        (format!("{base}loss = \"mse\"\nfreeze = [\"*\"]\n{digits}"), "nothing is left to train"),
        (
            format!("{base}loss = \"cross_entropy\"\nfreeze = [\"outer.weigth\"]\n{digits}"),
            "did you mean \"outer.weight\"?",
        ),
        (
            "[model]\nonnx = \"none.onnx\"\n[data]\nsource = \"images:digits\"\n".into(),
            "model.onnx",
        ),
        ("[model]\nonnx = \"make.py\"\n[data]\nsource = \"images:digits\"\n".into(), "model.onnx"),
        ("[model]\nname = \"gpt2-nano\"\nloss = \"mse\"\n".into(), "model.loss | mse"),
        ("[model]\nname = \"gpt2-nano\"\nweights = \"none\"\n".into(), "model.weights"),
        ("[model]\nweights = \"make.py\"\n".into(), "write model.name"),
        ("[model]\nweights = \".\"\n".into(), "config.json"),
    ] {
        let said = said(&text);
        assert!(said.iter().any(|p| p.contains(part)), "{part} is not in {said:?}");
    }
}

#[test]
fn weights_that_do_not_fit_are_told_with_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = vec![("fc.bias".to_owned(), vec![3], vec![0.0; 3])];
    wattle_models::weights::save(&folder.path().join("few.safetensors"), &tensors).unwrap();
    let text = "[model]\nname = \"resnet-tiny\"\nweights = \"few.safetensors\"\n";
    let problems = parse_in(text, folder.path()).unwrap_err().to_string();
    for part in [
        "fc.bias: its shape is [3] in the weights and [10]",
        "conv1.weight: there is no such",
        "more",
    ] {
        assert!(problems.contains(part), "{problems}");
    }
}

#[test]
fn a_folder_of_weights_names_its_network() {
    use wattle_models::huggingface::Layout;
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::named("gpt2-nano").unwrap();
    let dag = layout.build(1).unwrap();
    let given = Given::drawn(dag.values(), 1);
    let tensors = dag.parameters().map(|id| {
        let value = dag.value(id);
        (value.name.clone(), value.fact.shape.clone(), given.elements(&value.name).unwrap())
    });
    layout.write(folder.path(), tensors.collect()).unwrap();
    let path = folder.path().display();
    let job =
        parse_in(&format!("[model]\nweights = \"{path}\"\nwindow = 16\n"), Path::new("")).unwrap();
    let inputs: Vec<_> =
        job.spec.dag.inputs().map(|id| job.spec.dag.fact(id).shape.clone()).collect();
    assert_eq!(inputs, [[1, 16], [1, 16]]);
    assert_eq!(job.spec.start, given.start(&dag).unwrap());
    assert_eq!(job.folder.as_deref(), Some(folder.path()));
    let long = format!("[model]\nweights = \"{path}\"\nwindow = 65\n");
    assert!(parse_in(&long, Path::new("")).unwrap_err().to_string().contains("64 positions"));
}

#[test]
fn a_star_stands_for_anything() {
    for (pattern, name, fits) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("*", "", true),
        ("h.*.weight", "h.0.attn.weight", true),
        ("h.*.weight", "h.weight", false),
        ("*a*a", "aa", true),
        ("*aa", "a", false),
        ("a*b*c", "a-b-b-c", true),
    ] {
        assert_eq!(model::matches(pattern, name), fits, "{pattern} {name}");
    }
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
