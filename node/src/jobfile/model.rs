//! The `[model]` section: which network, what it starts from, what of it is trained.
//!
//! A network is named, or follows from a folder of weights with its `config.json`, or is imported from an ONNX file
//! ([`super::import`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wattle_models::huggingface::Layout;
use wattle_models::weights::checkpoint::Checkpoint;
use wattle_models::weights::given::{Given, Misfit};
use wattle_models::{losses, zoo};
use wattle_protocol::dag::Dag;
use wattle_protocol::dag::rewrite::freeze;
use wattle_protocol::job::Start;

use super::table::{self, Keys};

/// Most samples in a micro-batch.
pub(super) const MICRO_BATCH_MAX: u64 = 65_536;
/// Most tokens in a sample.
const WINDOW_MAX: u64 = 1 << 20;
/// Most misfits of one kind that are told one by one.
const TOLD: usize = 8;

/// What the section says.
pub(super) struct Asked {
    pub(super) name: Option<String>,
    pub(super) onnx: Option<PathBuf>,
    pub(super) weights: Option<PathBuf>,
    pub(super) micro_batch: Option<usize>,
    /// Other sizes of micro-batches that the planner may take.
    pub(super) sizes: Vec<usize>,
    pub(super) window: Option<usize>,
    pub(super) loss: Option<&'static str>,
    pub(super) output: Option<String>,
    pub(super) target: Option<String>,
    pub(super) freeze: Vec<String>,
    pub(super) dims: BTreeMap<String, usize>,
    pub(super) inputs: BTreeMap<String, String>,
}

/// The network that a job trains.
pub(super) struct Model {
    pub(super) dag: Dag,
    /// The same network for other sizes of micro-batches.
    pub(super) resized: Vec<Dag>,
    /// The data source that suits it; empty where none is known.
    pub(super) source: &'static str,
    pub(super) given: Option<(Given, Start)>,
    pub(super) layout: Option<Layout>,
}

/// Reads the section.
pub(super) fn asked(keys: &mut Keys, folder: &Path) -> Asked {
    let at = keys.section("model");
    let name = keys.optional_text(&at, "name");
    let onnx = keys.optional_text(&at, "onnx");
    let weights = keys.optional_text(&at, "weights");
    if name.is_none() && onnx.is_none() && weights.is_none() {
        keys.wrong(
            "model.name",
            "",
            "this key is missing; model.onnx or model.weights may stand instead",
        );
    }
    if let (Some(name), Some(_)) = (&name, &onnx) {
        let remedy = "model.onnx is another network; leave one of the two out";
        keys.wrong("model.name", &format!("\"{name}\""), remedy);
    }
    let size = |number: Option<u64>| number.and_then(|n| usize::try_from(n).ok());
    let micro_batch = size(keys.whole(&at, "micro_batch", (1, MICRO_BATCH_MAX), None));
    let window = size(keys.whole(&at, "window", (1, WINDOW_MAX), None));
    let loss = match keys.optional_text(&at, "loss") {
        Some(_) => keys.choice(&at, "loss", &losses::NAMES, losses::NAMES[0]),
        None => None,
    };
    let asked = Asked {
        micro_batch,
        sizes: Vec::new(),
        window,
        loss,
        output: keys.optional_text(&at, "output"),
        target: keys.optional_text(&at, "target"),
        freeze: keys.texts(&at, "freeze"),
        dims: keys.entries("model.dims", "a length from 1 is wanted here", |value| {
            value.as_integer().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
        }),
        inputs: keys.entries("model.inputs", "a name in quotes is wanted here", |value| {
            value.as_str().map(str::to_owned)
        }),
        name,
        onnx: onnx.map(|path| folder.join(path)),
        weights: weights.map(|path| folder.join(path)),
    };
    asked.check_company(keys);
    asked
}

impl Asked {
    /// Says whether the network's data source has to be named.
    pub(super) fn is_unnamed(&self) -> bool {
        self.onnx.is_none()
    }

    /// Returns the job's name for people, unless it is given one.
    pub(super) fn title(&self) -> String {
        let stem = |path: &PathBuf| path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let file = self.onnx.as_ref().or(self.weights.as_ref()).and_then(stem);
        self.name.clone().or(file).unwrap_or_else(|| "job".into())
    }

    /// Returns the folder of the weights.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.weights.clone().filter(|path| path.is_dir())
    }

    /// Notes keys that mean nothing beside the others.
    fn check_company(&self, keys: &mut Keys) {
        let own = [
            ("loss", self.loss.map(str::to_owned)),
            ("output", self.output.clone()),
            ("target", self.target.clone()),
            ("dims", (!self.dims.is_empty()).then(|| "a section".into())),
            ("inputs", (!self.inputs.is_empty()).then(|| "a section".into())),
        ];
        if self.onnx.is_none() {
            for (key, value) in own.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                let remedy = "this is for networks of model.onnx; others come with their loss";
                keys.wrong(&format!("model.{key}"), &value, remedy);
            }
        }
        let is_folder = self.name.is_none() && self.onnx.is_none();
        if let (Some(window), false) = (self.window, is_folder) {
            let remedy = "this is for networks that follow from the folder of model.weights";
            keys.wrong("model.window", &window.to_string(), remedy);
        }
    }

    /// Builds a network that is named, or follows from a folder; none of a file, or where something is wrong.
    pub(super) fn named(&self, keys: &mut Keys) -> Option<Model> {
        if self.onnx.is_some() {
            return None;
        }
        let (layout, source, usual) = match &self.name {
            Some(name) => {
                let dag = self.zoo(keys, name)?;
                let source = zoo::find(name).map_or("", |entry| entry.data);
                let resized =
                    self.sizes.iter().filter_map(|size| zoo::by_name(name, Some(*size))?.ok());
                let network = (dag, resized.collect());
                return self.complete(keys, network, source, Layout::named(name), None);
            }
            None => (self.config(keys)?, wattle_models::data::text::KJV, 1),
        };
        match layout.build(self.micro_batch.unwrap_or(usual)) {
            Ok(dag) => {
                let resized = self.sizes.iter().filter_map(|size| layout.build(*size).ok());
                let network = (dag, resized.collect());
                self.complete(keys, network, source, Some(layout), None)
            }
            Err(error) => {
                let remedy = format!("its network cannot be built: {error}");
                keys.wrong("model.weights", &self.shown(), &remedy);
                None
            }
        }
    }

    fn zoo(&self, keys: &mut Keys, name: &str) -> Option<Dag> {
        match zoo::by_name(name, self.micro_batch) {
            Some(Ok(dag)) => Some(dag),
            Some(Err(error)) => {
                let remedy = format!("the network cannot be built: {error}");
                let micro_batch = self.micro_batch.unwrap_or(0).to_string();
                keys.wrong("model.micro_batch", &micro_batch, &remedy);
                None
            }
            None => {
                let names = zoo::names();
                let near = table::nearest(name, names.iter().copied());
                let hint = near.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
                let remedy =
                    format!("there is no such network{hint} There are {}", names.join(", "));
                keys.wrong("model.name", &format!("\"{name}\""), &remedy);
                None
            }
        }
    }

    fn config(&self, keys: &mut Keys) -> Option<Layout> {
        let folder = self.weights.as_ref()?;
        if !folder.is_dir() {
            let remedy = "the network does not follow from a single file; write model.name, or take a folder with config.json";
            keys.wrong("model.weights", &self.shown(), remedy);
            return None;
        }
        let layout = Layout::read(folder, self.window);
        layout.map_err(|misfits| self.tell(keys, misfits, "config.json")).ok()
    }

    fn shown(&self) -> String {
        self.weights.as_ref().map_or(String::new(), |path| format!("\"{}\"", path.display()))
    }

    fn tell(&self, keys: &mut Keys, misfits: Vec<Misfit>, what: &str) {
        let rest = misfits.len().saturating_sub(TOLD);
        for Misfit { name, why } in misfits.into_iter().take(TOLD) {
            keys.wrong("model.weights", &self.shown(), &format!("{what}: {name}: {why}"));
        }
        if rest > 0 {
            keys.wrong("model.weights", &self.shown(), &format!("{what}: and {rest} more"));
        }
    }

    /// Freezes what is to stay, in the network and in the same for other sizes, and finds what it starts from.
    pub(super) fn complete(
        &self,
        keys: &mut Keys,
        (dag, resized): (Dag, Vec<Dag>),
        source: &'static str,
        layout: Option<Layout>,
        held: Option<Given>,
    ) -> Option<Model> {
        let names: Vec<&str> = dag.parameters().map(|id| dag.value(id).name.as_str()).collect();
        for pattern in &self.freeze {
            if !names.iter().any(|name| matches(pattern, name)) {
                let near = table::nearest(pattern, names.iter().copied());
                let hint = near.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
                let remedy = format!("no parameter has such a name{hint}; * stands for anything");
                keys.wrong("model.freeze", &format!("\"{pattern}\""), &remedy);
            }
        }
        let is_frozen = |name: &str| self.freeze.iter().any(|pattern| matches(pattern, name));
        if names.iter().all(|name| is_frozen(name)) {
            keys.wrong("model.freeze", "", "nothing is left to train; freeze less");
        }
        let dag = freeze(dag, is_frozen);
        let resized = resized.into_iter().map(|dag| freeze(dag, is_frozen)).collect();
        let given = match &self.weights {
            Some(path) => match Checkpoint::open(path) {
                Ok(checkpoint) => Given::stored(checkpoint, &dag)
                    .map_err(|misfits| self.tell(keys, misfits, "it does not fit the network")),
                Err(error) => {
                    keys.wrong("model.weights", &self.shown(), &error.to_string());
                    Err(())
                }
            }
            .map(Some)
            .ok()?,
            None => held,
        };
        let given = match given.map(|given| given.start(&dag).map(|start| (given, start))) {
            Some(Ok(given)) => Some(given),
            Some(Err(error)) => {
                keys.wrong("model.weights", &self.shown(), &error.to_string());
                return None;
            }
            None => None,
        };
        Some(Model { dag, resized, source, given, layout })
    }
}

/// Says whether a name fits a pattern, in which `*` stands for any run of characters.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else {
            return false;
        };
        left = &left[at + part.len()..];
    }
    left.len() >= last.len() && left.ends_with(last)
}
