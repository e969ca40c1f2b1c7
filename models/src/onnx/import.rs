//! The import itself: what is known of each value of the file, node after node.
//!
//! A value is *known* (its elements are at hand: constants, and what is computed from them alone), a *weight* (a float
//! initializer: known, but to be trained) or *built* (a value of the Dag). Known values enter the Dag when an operator
//! reads them. A node that cannot be imported is noted and its results count as failed, so that nodes after it are not
//! blamed for it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use wattle_protocol::dag::build::NAME_MAX;
use wattle_protocol::dag::{DagBuilder, DagError, Fact, Source};
use wattle_protocol::ids::ValueId;

use super::array::{Array, Kind};
use super::call::Call;
use super::graph::{self, Step};
use super::leaf::Use;
use super::ports::{Lengths, tensor_type};
use super::proto::{Graph, Model, Tensor};
use super::read::Folder;
use super::report::{ImportError, Problem, Problems, Reason};
use super::{ImportOptions, Imported, Port, fold, map, tensor};
use crate::weights::Named;

/// What part a known value plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Part of the network.
    Constant,
    /// To be trained.
    Weight,
}

/// Elements that are at hand.
#[derive(Debug)]
pub(super) struct Known {
    /// Tells known values apart, so that each enters the Dag once.
    pub(super) id: usize,
    pub(super) name: String,
    pub(super) array: Array,
    pub(super) role: Role,
}

/// What is known of a value.
#[derive(Clone, Debug)]
pub(super) enum Term {
    /// Its elements.
    Known(Rc<Known>),
    /// A value of the Dag, with its ONNX type.
    Built(ValueId, Kind),
}

/// The network under construction.
pub(super) struct Importer {
    pub(super) builder: DagBuilder,
    /// None for results of nodes that could not be imported.
    terms: BTreeMap<String, Option<Term>>,
    initializers: BTreeMap<String, Tensor>,
    folder: Option<Folder>,
    pub(super) weights: BTreeMap<ValueId, Named>,
    /// Known values that are in the Dag.
    pub(super) leaves: BTreeMap<usize, ValueId>,
    known: usize,
    names: BTreeSet<String>,
    problems: Vec<Problem>,
}

/// Adds a loss to an imported network.
pub(super) type AddLoss<'a> = dyn FnMut(&mut DagBuilder, &[Port]) -> Result<ValueId, DagError> + 'a;

/// Imports a decoded model.
///
/// *Errors*: [`ImportError::Problems`].
pub(super) fn run(
    model: Model,
    name: &str,
    folder: Option<Folder>,
    options: &ImportOptions,
    loss: Option<&mut AddLoss<'_>>,
) -> Result<Imported, ImportError> {
    let mut graph = model.graph.unwrap_or_default();
    let opset = check_header(&model.opsets, &graph)?;
    let mut importer = Importer::new(name, folder);
    for tensor in std::mem::take(&mut graph.initializers) {
        importer.initializers.insert(tensor.name.clone(), tensor);
    }
    let wanted: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    let steps = graph::expand(std::mem::take(&mut graph.nodes), opset, &model.functions)
        .and_then(|steps| graph::order(steps, &wanted))
        .map_err(|problem| Problems(vec![*problem]))?;
    let inputs = importer.inputs(&graph, options);
    let nodes = steps.len();
    for step in &steps {
        importer.step(step);
    }
    let outputs = importer.outputs(&graph);
    if importer.problems.is_empty()
        && let Some(add) = loss
    {
        match add(&mut importer.builder, &outputs) {
            Ok(loss) => importer.builder.output(loss),
            Err(error) => importer.note("the loss", error.into()),
        }
    }
    importer.finish(inputs, outputs, opset, nodes)
}

/// Returns the version of the operators.
fn check_header(opsets: &[super::proto::Opset], graph: &Graph) -> Result<i64, Problems> {
    let opset = graph::version(opsets).unwrap_or(1);
    let mut problems = Vec::new();
    let mut note = |reason| {
        problems.push(Problem { node: "the file".into(), operator: String::new(), reason });
    };
    if !graph.sparse_initializers.is_empty() {
        note(Reason::form("sparse initializers are not supported"));
    }
    if graph.outputs.is_empty() {
        note(Reason::malformed("the graph has no output"));
    }
    if problems.is_empty() { Ok(opset) } else { Err(Problems(problems)) }
}

/// Cuts a name to what a Dag takes.
fn short(name: &str) -> String {
    /// Room for a number that tells equal names apart.
    const SPARE: usize = 32;
    let mut end = name.len().min(NAME_MAX - SPARE);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    if end == 0 { "unnamed".into() } else { name[..end].to_owned() }
}

impl Importer {
    /// Starts with an empty network.
    pub(super) fn new(name: &str, folder: Option<Folder>) -> Self {
        Self {
            builder: DagBuilder::new(short(name)),
            terms: BTreeMap::new(),
            initializers: BTreeMap::new(),
            folder,
            weights: BTreeMap::new(),
            leaves: BTreeMap::new(),
            known: 0,
            names: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    fn inputs(&mut self, graph: &Graph, options: &ImportOptions) -> Vec<Port> {
        let lengths = Lengths::new(&graph.inputs, options);
        let mut ports = Vec::new();
        for info in &graph.inputs {
            if self.initializers.contains_key(&info.name) {
                // A default value; Wattle has no inputs that may be left out.
                continue;
            }
            if let Some(array) = options.fixed.get(&info.name) {
                let term = self.constant(&info.name, array.clone());
                self.terms.insert(info.name.clone(), Some(term));
                continue;
            }
            let term = match lengths.fact(info) {
                Ok((kind, fact)) => {
                    let value = self.builder_input(&info.name, fact);
                    ports.push(Port { name: info.name.clone(), kind, value });
                    Some(Term::Built(value, kind))
                }
                Err(reason) => {
                    self.note(&info.name, reason);
                    None
                }
            };
            self.terms.insert(info.name.clone(), term);
        }
        ports
    }

    fn builder_input(&mut self, name: &str, fact: Fact) -> ValueId {
        let name = self.claim(name);
        self.builder.input(name, fact)
    }

    fn note(&mut self, name: &str, reason: Reason) {
        self.problems.push(Problem { node: name.into(), operator: String::new(), reason });
    }

    /// Returns a name that nothing in the Dag has yet.
    pub(super) fn claim(&mut self, name: &str) -> String {
        let name = short(name);
        let mut free = name.clone();
        let mut count = 1;
        // Operators with several results take `name#0` and on: such names are never ours to give.
        while !self.names.insert(free.clone()) {
            count += 1;
            free = format!("{name}~{count}");
        }
        free
    }

    /// Makes a term of elements that are part of the network.
    pub(super) fn constant(&mut self, name: &str, array: Array) -> Term {
        self.known(name, array, Role::Constant)
    }

    fn known(&mut self, name: &str, array: Array, role: Role) -> Term {
        self.known += 1;
        Term::Known(Rc::new(Known { id: self.known, name: name.into(), array, role }))
    }

    /// Returns what is known of a value by name; none if the node that makes it failed.
    ///
    /// *Errors*: nothing makes it, or its initializer is wrong.
    pub(super) fn term(&mut self, name: &str) -> Result<Option<Term>, Reason> {
        if let Some(term) = self.terms.get(name) {
            return Ok(term.clone());
        }
        let Some(tensor) = self.initializers.remove(name) else {
            return Err(Reason::malformed(format!("nothing makes `{name}`")));
        };
        match tensor::decode(&tensor, self.folder.as_ref()) {
            Ok(array) => {
                // A single number is a setting (a factor, an epsilon) far more often than something to train.
                let is_weight = array.kind().is_float() && !array.shape().is_empty();
                let role = if is_weight { Role::Weight } else { Role::Constant };
                let term = self.known(name, array, role);
                self.terms.insert(name.into(), Some(term.clone()));
                Ok(Some(term))
            }
            Err(why) => {
                self.note(name, Reason::Malformed(why));
                self.terms.insert(name.into(), None);
                Ok(None)
            }
        }
    }

    /// Decodes a tensor that stands in an attribute.
    pub(super) fn decode(&self, tensor: &Tensor) -> Result<Array, Reason> {
        tensor::decode(tensor, self.folder.as_ref()).map_err(Reason::Malformed)
    }

    /// Returns the names of the inputs that a value follows from.
    pub(super) fn origins(&self, value: ValueId) -> Vec<String> {
        let dag = self.builder.dag();
        let (mut seen, mut names) = (BTreeSet::new(), Vec::new());
        let mut waiting = vec![value];
        while let Some(value) = waiting.pop() {
            if !seen.insert(value) {
                continue;
            }
            match dag.value(value).source {
                Source::Node { node, .. } => waiting.extend(&dag.node(node).inputs),
                Source::Input => names.push(dag.value(value).name.clone()),
                Source::Parameter { .. } | Source::Buffer { .. } => {}
            }
        }
        names
    }

    /// Imports one node; whatever goes wrong is noted.
    pub(super) fn step(&mut self, step: &Step) {
        match self.results(step) {
            Ok(Some(terms)) => {
                let names = step.node.outputs.iter();
                for (at, name) in names.enumerate().filter(|(_, name)| !name.is_empty()) {
                    if at >= terms.len() {
                        let what = format!("its output {at} is not supported");
                        self.problems.push(step.problem(Reason::form(what)));
                    }
                    self.terms.insert(name.clone(), terms.get(at).cloned());
                }
            }
            Ok(None) => self.fail(step),
            Err(reason) => {
                self.problems.push(step.problem(reason));
                self.fail(step);
            }
        }
    }

    fn fail(&mut self, step: &Step) {
        for name in step.node.outputs.iter().filter(|name| !name.is_empty()) {
            self.terms.insert(name.clone(), None);
        }
    }

    /// Returns a node's results; none where an operand has failed.
    fn results(&mut self, step: &Step) -> Result<Option<Vec<Term>>, Reason> {
        if !graph::is_own(&step.node.domain) {
            let what = format!("the domain {} is not supported", step.node.domain);
            return Err(Reason::form(what));
        }
        let mut operands = Vec::with_capacity(step.node.inputs.len());
        let mut has_failed = false;
        for name in &step.node.inputs {
            if name.is_empty() {
                operands.push(None);
                continue;
            }
            let term = self.term(name)?;
            has_failed |= term.is_none();
            operands.push(term);
        }
        if has_failed {
            return if map::is_mapped(&step.node.operator) {
                Ok(None)
            } else {
                Err(Reason::Operator)
            };
        }
        let mut call = Call::new(self, step, operands);
        if let Some(arrays) = fold::evaluate(&call)? {
            let name = step.name();
            return Ok(Some(arrays.into_iter().map(|a| self.constant(name, a)).collect()));
        }
        map::apply(&mut call).map(Some)
    }

    fn outputs(&mut self, graph: &Graph) -> Vec<Port> {
        let mut ports = Vec::new();
        for info in &graph.outputs {
            if let Err(reason) = tensor_type(info) {
                self.note(&info.name, reason);
                continue;
            }
            let found = self.term(&info.name).and_then(|term| match term {
                Some(Term::Built(value, kind)) => Ok(Some((value, kind))),
                Some(Term::Known(known)) => {
                    Ok(Some((self.value(&known, Use::Plain)?, known.array.kind())))
                }
                None => Ok(None),
            });
            match found {
                Ok(Some((value, kind))) => {
                    ports.push(Port { name: info.name.clone(), kind, value });
                }
                Ok(None) => {}
                Err(reason) => self.note(&info.name, reason),
            }
        }
        ports
    }

    fn finish(
        mut self,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        opset: i64,
        nodes: usize,
    ) -> Result<Imported, ImportError> {
        for port in &outputs {
            self.builder.output(port.value);
        }
        if self.problems.is_empty() {
            match self.builder.finish() {
                Ok(dag) => {
                    let weights = self.weights.into_values().collect();
                    return Ok(Imported { dag, weights, inputs, outputs, opset, nodes });
                }
                Err(error) => {
                    let (node, operator) = ("the network".into(), String::new());
                    self.problems.push(Problem { node, operator, reason: error.into() });
                }
            }
        }
        Err(Problems(self.problems).into())
    }
}
