//! What a job starts from, on its submitter's machine: parameters and buffers by name, in memory or in a checkpoint.
//!
//! Tensors of a checkpoint are read when they are asked for: once to name the job, once for each owner that pulls them.
//! Names are those of the Dag; a few other spellings are understood. See docs/decisions/0007-given-weights.md.

use std::collections::BTreeMap;

use wattle_protocol::dag::bundle::start_bytes;
use wattle_protocol::dag::cut::StageGraph;
use wattle_protocol::dag::{Dag, Fact, Source, Value};
use wattle_protocol::ids::{TensorHash, ValueId};
use wattle_protocol::job::Start;

use super::checkpoint::Checkpoint;
use super::{Named, WeightsError};
use crate::exec::store::{append, to_bytes};
use crate::init;

/// What is said of a tensor that is not there.
const ABSENT: &str = "there is no such tensor in the weights";

/// Where a tensor's elements are.
#[derive(Debug)]
enum Origin {
    Held(Vec<f32>),
    /// In the checkpoint under this name, followed by so many zeros.
    Stored(String, usize),
}

/// Tensors that a job starts from.
#[derive(Debug)]
pub struct Given {
    origins: BTreeMap<String, Origin>,
    checkpoint: Option<Checkpoint>,
}

/// What does not fit between a network and a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The parameter or buffer.
    pub name: String,
    /// What is wrong, with both shapes where there are two.
    pub why: String,
}

impl Given {
    /// Takes tensors in memory, by the names of parameters and buffers.
    pub fn held(tensors: Vec<Named>) -> Self {
        let held = tensors.into_iter().map(|(name, _, values)| (name, Origin::Held(values)));
        Self { origins: held.collect(), checkpoint: None }
    }

    /// Draws what a job's seed would draw, to compare the two.
    pub fn drawn<'a>(values: impl IntoIterator<Item = &'a Value>, seed: u64) -> Self {
        let draw = |value: &Value| match value.source {
            Source::Parameter { init, .. } | Source::Buffer { init } => {
                let shape = value.fact.shape.clone();
                Some((value.name.clone(), shape, init::draw(seed, value, init)))
            }
            Source::Node { .. } | Source::Input => None,
        };
        Self::held(values.into_iter().filter_map(draw).collect())
    }

    /// Finds each parameter and buffer of a network in a checkpoint. A table over a vocabulary may have fewer rows there
    /// than in the network: the others start from zeros.
    ///
    /// *Errors*: everything that does not fit.
    pub fn stored(checkpoint: Checkpoint, dag: &Dag) -> Result<Self, Vec<Misfit>> {
        let mut origins = BTreeMap::new();
        let mut misfits = Vec::new();
        for id in dag.parameters().chain(dag.buffers()) {
            let value = dag.value(id);
            match find(&checkpoint, &value.name, &value.fact) {
                Ok(origin) => drop(origins.insert(value.name.clone(), origin)),
                Err(why) => misfits.push(Misfit { name: value.name.clone(), why }),
            }
        }
        if misfits.is_empty() {
            return Ok(Self { origins, checkpoint: Some(checkpoint) });
        }
        // A wrong shape says more than a missing name: of another network, nearly all are missing.
        misfits.sort_by_key(|misfit| misfit.why == ABSENT);
        Err(misfits)
    }

    /// Reads a tensor.
    ///
    /// *Errors*: [`WeightsError`].
    pub fn elements(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let missing = || WeightsError::Missing(name.into());
        match (self.origins.get(name).ok_or_else(missing)?, &self.checkpoint) {
            (Origin::Held(values), _) => Ok(values.clone()),
            (Origin::Stored(stored, zeros), Some(checkpoint)) => {
                let mut values = checkpoint.read(stored)?;
                values.resize(values.len() + zeros, 0.0);
                Ok(values)
            }
            (Origin::Stored(..), None) => Err(missing()),
        }
    }

    fn checked(&self, name: &str, fact: &Fact) -> Result<Vec<f32>, WeightsError> {
        let values = self.elements(name)?;
        if values.len() == fact.elements() {
            return Ok(values);
        }
        let (name, shape, count) = (name.into(), fact.shape.clone(), values.len());
        Err(WeightsError::Shape { name, shape, count })
    }

    /// Returns the start of a job: the hash of every tensor of its network.
    ///
    /// *Errors*: [`WeightsError`].
    pub fn start(&self, dag: &Dag) -> Result<Start, WeightsError> {
        let hash = |id: ValueId| {
            let value = dag.value(id);
            Ok(TensorHash::of(&to_bytes(&self.checked(&value.name, &value.fact)?)))
        };
        let hashes = dag.parameters().chain(dag.buffers()).map(hash);
        Ok(Start::Given(hashes.collect::<Result<_, WeightsError>>()?))
    }

    /// Makes a stage's `StageStart` bundle.
    ///
    /// *Errors*: [`WeightsError`].
    pub fn bundle(&self, graph: &StageGraph) -> Result<bytes::Bytes, WeightsError> {
        let size = usize::try_from(start_bytes(graph).count()).unwrap_or(0);
        let mut bytes = Vec::with_capacity(size);
        for id in graph.parameters.iter().chain(&graph.buffers) {
            let value = &graph.values[id];
            append(&mut bytes, &self.checked(&value.name, &value.fact)?);
        }
        Ok(bytes.into())
    }
}

/// Says whether a tensor has a row for each word of a vocabulary.
fn is_table(name: &str) -> bool {
    ["wte.weight", "embed_tokens.weight", "lm_head.weight"].iter().any(|end| name.ends_with(end))
}

/// Finds a tensor under its name or another spelling.
fn find(checkpoint: &Checkpoint, name: &str, fact: &Fact) -> Result<Origin, String> {
    let spellings = [
        name.to_owned(),
        // GPT-2 with a head; Llama without one; an output table that is tied to the input's.
        format!("transformer.{name}"),
        name.strip_prefix("model.").unwrap_or(name).to_owned(),
        name.replace("lm_head.", "model.embed_tokens."),
    ];
    let found = spellings.iter().find_map(|s| Some((s, checkpoint.shape(s)?)));
    let Some((stored, shape)) = found else {
        return Err(ABSENT.into());
    };
    if shape == fact.shape {
        return Ok(Origin::Stored(stored.clone(), 0));
    }
    let wanted = &fact.shape;
    match (shape, wanted.as_slice()) {
        ([had, width], [rows, columns]) if is_table(name) && width == columns && had < rows => {
            Ok(Origin::Stored(stored.clone(), (rows - had) * width))
        }
        _ => Err(format!("its shape is {shape:?} in the weights and {wanted:?} in the network")),
    }
}

#[cfg(test)]
mod tests {
    use wattle_protocol::dag::{DagBuilder, Init, Op};

    use super::*;
    use crate::weights::save;

    fn dag(rows: usize) -> Dag {
        let mut b = DagBuilder::new("table");
        let ids = b.input("tokens", Fact::i32(&[2]));
        let table = b.parameter("wte.weight", &[rows, 3], Init::Normal(0.1), true);
        let x = b.op("rows", Op::Embedding, &[table, ids]).unwrap();
        b.output(x);
        b.finish().unwrap()
    }

    fn given(rows: usize, name: &str, shape: &[usize]) -> Result<Given, Vec<Misfit>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let values = (1u8..).map(f32::from).take(shape.iter().product()).collect();
        save(&path, &[(name.into(), shape.to_vec(), values)]).unwrap();
        let given = Given::stored(Checkpoint::open(&path).unwrap(), &dag(rows))?;
        // Read while the file is there.
        let values = given.elements("wte.weight").unwrap();
        Ok(Given::held(vec![("wte.weight".into(), vec![rows, 3], values)]))
    }

    #[test]
    fn a_vocabulary_may_grow_and_a_prefix_may_stand() {
        let read = |rows, name, shape: &[usize]| {
            given(rows, name, shape).map(|g| g.elements("wte.weight").unwrap())
        };
        let same = read(2, "wte.weight", &[2, 3]).unwrap();
        assert_eq!(same, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(read(2, "transformer.wte.weight", &[2, 3]).unwrap(), same);
        assert_eq!(read(3, "wte.weight", &[2, 3]).unwrap()[3..], [4., 5., 6., 0., 0., 0.]);
        let why =
            |rows, name, shape: &[usize]| given(rows, name, shape).unwrap_err()[0].why.clone();
        assert!(why(2, "wte.weight", &[3, 3]).contains("[3, 3]"));
        assert!(why(2, "wte.weight", &[2, 2]).contains("[2, 2]"));
        assert!(why(2, "wpe.weight", &[2, 3]).contains("no such tensor"));
    }

    #[test]
    fn a_start_names_every_tensor_and_changes_with_each() {
        let start = |g: &Given| g.start(&dag(2)).unwrap();
        let one = given(2, "wte.weight", &[2, 3]).unwrap();
        let tensor = |last| ("wte.weight".to_owned(), vec![2, 3], vec![1., 2., 3., 4., 5., last]);
        assert_eq!(start(&one), start(&Given::held(vec![tensor(6.0)])));
        assert_ne!(start(&one), start(&Given::held(vec![tensor(6.5)])));
        let short = Given::held(vec![("wte.weight".into(), vec![1], vec![1.0])]);
        assert!(matches!(short.start(&dag(2)), Err(WeightsError::Shape { .. })));
    }
}
