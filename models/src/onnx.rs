//! ONNX: `MODEL.onnx` to a Dag with its weights.
//!
//! Nothing of the file is trusted: sizes are checked before memory is taken, and every mistake and everything that is
//! not supported is told at once, with the names of the nodes. Shapes are static: symbolic lengths get numbers when a
//! model is imported, and what only computes shapes is evaluated on the spot and leaves no operator behind.
//!
//! Reading order: [`array`], `proto` and `read` (the file), `tensor` (its elements), `graph` (its nodes in order),
//! `import` (what is known of each value), `leaf` (known values enter the Dag), `call` and `emit` (one node: what it
//! reads, what it adds), `fold` (constants), `map` (one function an operator, a file a family), [`report`] (what stands
//! in the way), [`check`] (does it compute the same?).

pub mod array;
mod attribute;
mod call;
pub mod check;
mod emit;
mod fold;
mod graph;
mod import;
mod leaf;
mod map;
mod ports;
mod proto;
mod read;
pub mod report;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use wattle_protocol::dag::{Dag, DagBuilder, DagError};
use wattle_protocol::ids::ValueId;

use crate::weights::Named;
use array::{Array, Kind};
pub use read::ReadError;
pub use report::{ImportError, Problem, Problems, Reason};

/// What a model leaves open and its user decides.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportOptions {
    /// Length of the first axis of inputs where the model leaves it open; default 1.
    pub batch: usize,
    /// Lengths by name for other axes that the model leaves open; an axis without a name is `INPUT.AXIS`.
    pub dims: BTreeMap<String, usize>,
    /// Inputs with fixed elements: they become constants, as what decides about shapes has to be.
    pub fixed: BTreeMap<String, Array>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { batch: 1, dims: BTreeMap::new(), fixed: BTreeMap::new() }
    }
}

/// An input or output of an imported network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the file.
    pub name: String,
    /// Its ONNX type; in the Dag it is f32 or i32.
    pub kind: Kind,
    /// Its value in the Dag.
    pub value: ValueId,
}

/// A network from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The network; its outputs are the file's, in order, after the loss if one was added.
    pub dag: Dag,
    /// Elements of its parameters and buffers, in the order of the Dag.
    pub weights: Vec<Named>,
    /// Inputs that are fed, in order.
    pub inputs: Vec<Port>,
    /// Outputs, in order.
    pub outputs: Vec<Port>,
    /// Version of ONNX's operators that the file uses.
    pub opset: i64,
    /// Nodes in the file that its outputs need, with functions expanded.
    pub nodes: usize,
}

/// Imports a model file; weights may lie in files beside it.
///
/// *Errors*: [`ImportError`], with everything that stands in the way at once.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Imported, ImportError> {
    let model = read::model(path)?;
    import::run(model, &stem(path), Some(read::Folder::of(path)), options, None)
}

/// Imports a model file and adds a loss to it: `add` gets the network and the file's outputs, may add inputs (targets)
/// and operators, and returns the scalar loss, which becomes the first output of the Dag.
///
/// *Errors*: [`ImportError`], with everything that stands in the way at once.
pub fn import_with_loss(
    path: &Path,
    options: &ImportOptions,
    mut add: impl FnMut(&mut DagBuilder, &[Port]) -> Result<ValueId, DagError>,
) -> Result<Imported, ImportError> {
    let model = read::model(path)?;
    import::run(model, &stem(path), Some(read::Folder::of(path)), options, Some(&mut add))
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or("model".into(), |stem| stem.to_string_lossy().into_owned())
}

/// Imports a model from memory; weights in files cannot be reached.
///
/// *Errors*: [`ImportError`], with everything that stands in the way at once.
pub fn import_bytes(bytes: bytes::Bytes, options: &ImportOptions) -> Result<Imported, ImportError> {
    import::run(read::decode_model(bytes)?, "model", None, options, None)
}

/// What a model file says of itself, without being imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The operators of its nodes, in order.
    pub operators: Vec<String>,
    /// Names and types of the inputs that are to be fed; no type where it is none that is read.
    pub inputs: Vec<(String, Option<Kind>)>,
    /// Likewise of the outputs.
    pub outputs: Vec<(String, Option<Kind>)>,
}

/// Reads what a model file says of itself.
///
/// *Errors*: [`ReadError`].
pub fn summarize(path: &Path) -> Result<Summary, ReadError> {
    let graph = read::model(path)?.graph.unwrap_or_default();
    let is_fed = |name: &str| graph.initializers.iter().all(|tensor| tensor.name != name);
    let port = |info: &proto::ValueInfo| {
        (info.name.clone(), ports::tensor_type(info).ok().map(|(kind, _)| kind))
    };
    Ok(Summary {
        operators: graph.nodes.iter().map(|node| node.operator.clone()).collect(),
        inputs: graph.inputs.iter().filter(|info| is_fed(&info.name)).map(port).collect(),
        outputs: graph.outputs.iter().map(port).collect(),
    })
}

/// Returns the names of ONNX's operators that are imported, sorted.
pub fn operators() -> Vec<&'static str> {
    map::operators()
}

/// Reads a file that holds one tensor, as ONNX's test data are.
///
/// *Errors*: [`ImportError`].
pub fn read_tensor(path: &Path) -> Result<(String, Array), ImportError> {
    let tensor = read::tensor(path)?;
    let array = tensor::decode(&tensor, None).map_err(|why| report::single(&tensor.name, why))?;
    Ok((tensor.name, array))
}
