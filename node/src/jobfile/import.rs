//! Networks of ONNX files in a job: imported with a loss, their inputs named as the data source names them.
//!
//! Not here: the import (`models/src/onnx`) and the losses (`models/src/losses.rs`).

use std::collections::BTreeMap;
use std::path::Path;

use wattle_models::data;
use wattle_models::losses::Loss;
use wattle_models::onnx::{ImportOptions, Imported, Port, import, import_with_loss, summarize};
use wattle_models::weights::given::Given;
use wattle_protocol::dag::grad::differentiate;
use wattle_protocol::dag::rewrite::rename_inputs;
use wattle_protocol::dag::{DagBuilder, DagError};
use wattle_protocol::ids::ValueId;

use super::model::{Asked, Model};
use super::table::{self, Keys};

/// What the target is called where the data source has no name for it.
const TARGET: &str = "target";

/// What the loss reads.
struct Reads {
    output: String,
    target: String,
}

impl Asked {
    /// Imports a network of a file; none where there is none, or something is wrong.
    pub(super) fn imported(&self, keys: &mut Keys, source: Option<&str>) -> Option<Model> {
        let path = self.onnx.as_ref()?;
        let shown = format!("\"{}\"", path.display());
        let about = match summarize(path) {
            Ok(about) => about,
            Err(error) => {
                let why = std::error::Error::source(&error);
                let why = why.map_or(String::new(), |why| format!(": {why}"));
                keys.wrong("model.onnx", &shown, &format!("{error}{why}"));
                return None;
            }
        };
        let inputs: Vec<&str> = about.inputs.iter().map(|(name, _)| name.as_str()).collect();
        let outputs: Vec<&str> = about.outputs.iter().map(|(name, _)| name.as_str()).collect();
        let fields = source.and_then(data::fields);
        let target = self.target.clone();
        let target = target.unwrap_or_else(|| fields.map_or(TARGET, |[_, target]| target).into());
        let names = self.fed(keys, &inputs, fields, &target);
        let reads = match self.loss {
            Some(_) => Some(Reads { output: self.read_output(keys, &outputs)?, target }),
            None => None,
        };
        let (names, batch) = (names?, self.micro_batch.unwrap_or(1));
        let imported = match self.import(path, batch, &names, reads.as_ref()) {
            Ok(imported) => imported,
            Err(why) => {
                keys.wrong("model.onnx", &shown, &why);
                return None;
            }
        };
        if self.sizes.is_empty() {
            self.check_batch(keys, &imported);
        }
        let resized = self.sizes.iter().filter_map(|size| {
            let imported = self.import(path, *size, &names, reads.as_ref()).ok()?;
            (fixed(&imported) == Some(*size)).then_some(imported.dag)
        });
        let network = (imported.dag, resized.collect());
        let model = self.complete(keys, network, "", None, Some(Given::held(imported.weights)))?;
        if let Err(error) = differentiate(model.dag.clone(), 1) {
            let missing = if self.loss.is_none() { "; model.loss adds a loss" } else { "" };
            keys.wrong("model.onnx", &shown, &format!("it cannot be trained: {error}{missing}"));
            return None;
        }
        Some(model)
    }

    /// Returns which of the file's inputs get other names: those of the data source.
    fn fed(
        &self,
        keys: &mut Keys,
        inputs: &[&str],
        fields: Option<[&'static str; 2]>,
        target: &str,
    ) -> Option<BTreeMap<String, String>> {
        let mut names = self.inputs.clone();
        let mut sound = true;
        for name in names.keys().filter(|name| !inputs.contains(&name.as_str())) {
            let remedy = format!("the model has no such input; there are {}", inputs.join(", "));
            keys.wrong(&format!("model.inputs.{name}"), &format!("\"{}\"", names[name]), &remedy);
            sound = false;
        }
        let Some(fields) = fields else {
            return sound.then_some(names);
        };
        let is_known =
            |name: &&&str| names.contains_key(**name) || **name == target || fields.contains(*name);
        let open: Vec<&str> = inputs.iter().filter(|name| !is_known(name)).copied().collect();
        let samples = fields[0];
        let has_samples = names.values().any(|name| name == samples) || inputs.contains(&samples);
        match (open.as_slice(), has_samples) {
            ([], _) => {}
            ([one], false) => drop(names.insert((*one).into(), samples.into())),
            (several, _) => {
                let remedy = format!(
                    "nothing says what feeds the inputs {}; write a line INPUT = \"FIELD\" for each, with a field of the data source: {}",
                    several.join(", "),
                    fields.join(", ")
                );
                keys.wrong("model.inputs", "", &remedy);
                sound = false;
            }
        }
        sound.then_some(names)
    }

    /// Returns the output that the loss reads.
    fn read_output(&self, keys: &mut Keys, outputs: &[&str]) -> Option<String> {
        match (&self.output, outputs) {
            (Some(name), _) if outputs.contains(&name.as_str()) => Some(name.clone()),
            (None, [only]) => Some((*only).to_owned()),
            (name, _) => {
                let shown = name.as_ref().map_or(String::new(), |name| format!("\"{name}\""));
                let near = name.as_ref().and_then(|n| table::nearest(n, outputs.iter().copied()));
                let hint = near.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
                let remedy =
                    format!("one of the outputs is wanted here: {}{hint}", outputs.join(", "));
                keys.wrong("model.output", &shown, &remedy);
                None
            }
        }
    }

    fn import(
        &self,
        path: &Path,
        batch: usize,
        names: &BTreeMap<String, String>,
        reads: Option<&Reads>,
    ) -> Result<Imported, String> {
        let options = ImportOptions { batch, dims: self.dims.clone(), fixed: BTreeMap::new() };
        let imported = match (self.loss.and_then(Loss::named), reads) {
            (Some(loss), Some(reads)) => {
                // The target may be an input of the file, under the name that the file or the source has for it.
                let own = names.iter().find(|(_, field)| **field == reads.target);
                let target = own.map_or(reads.target.as_str(), |(name, _)| name);
                import_with_loss(path, &options, |b: &mut DagBuilder, ports: &[Port]| {
                    add(loss, b, ports, &reads.output, target)
                })
            }
            _ => import(path, &options),
        };
        let mut imported =
            imported.map_err(|error| error.to_string().replace("--dim ", "dims."))?;
        imported.dag = rename_inputs(imported.dag, names).map_err(|error| error.to_string())?;
        Ok(imported)
    }

    /// Notes a micro-batch that the file does not leave open.
    fn check_batch(&self, keys: &mut Keys, imported: &Imported) {
        let Some(wanted) = self.micro_batch else {
            return;
        };
        if let Some(fixed) = fixed(imported).filter(|fixed| *fixed != wanted) {
            let remedy = format!("the model is made for {fixed} samples; write {fixed}");
            keys.wrong("model.micro_batch", &wanted.to_string(), &remedy);
        }
    }
}

/// Returns the samples that an imported network takes at once.
fn fixed(imported: &Imported) -> Option<usize> {
    let port = imported.inputs.first()?;
    imported.dag.fact(port.value).shape.first().copied()
}

fn add(
    loss: Loss,
    b: &mut DagBuilder,
    ports: &[Port],
    output: &str,
    target: &str,
) -> Result<ValueId, DagError> {
    let missing = || DagError::Leaf { name: output.into(), reason: "it is not imported".into() };
    let port = ports.iter().find(|port| port.name == output).ok_or_else(missing)?;
    loss.add(b, port.value, target)
}
