//! Making a Dag, and checking one that a stranger made.
//!
//! [`DagBuilder`] is the only way to write a network: the zoo, ONNX, tests and users all come through here. What it
//! makes is complete, typed, acyclic and in canonical order: a node's operands have smaller ids than its results, and
//! the results of the nodes stand in the value table in node order. [`Dag::checked`] asks the same of a Dag that came
//! over the wire, whatever is in it; nothing else in the swarm looks at a stranger's Dag before that.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::shape::{ShapeError, check_size, infer};
use super::{BufferUpdate, Dag, Dtype, Fact, Init, Node, Op, Source, Value};
use crate::ids::{NodeId, ValueId};

/// Most nodes in one Dag; a 100-layer network with its backward pass has some thousands.
pub const NODES_MAX: usize = 100_000;
/// Most values in one Dag.
pub const VALUES_MAX: usize = 4 * NODES_MAX;
/// Most bytes in a name.
pub const NAME_MAX: usize = 512;

/// Why there is no such Dag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DagError {
    /// Two values have one name.
    #[error("the name `{0}` is used twice")]
    DuplicateName(String),
    /// A name is empty or too long.
    #[error("a name must have 1 to 512 bytes, got {0}")]
    NameLength(usize),
    /// There are too many nodes or values.
    #[error("a Dag may have 100,000 nodes and 400,000 values, got more")]
    TooLarge,
    /// An operator cannot be applied to these operands.
    #[error("node `{node}`: {source}")]
    Shape {
        /// The node.
        node: String,
        /// What was expected and what came.
        source: ShapeError,
    },
    /// A composition cannot be written over these operands.
    #[error("`{name}` needs {expected}, got {got}")]
    Composition {
        /// The composition's nodes stand under this name.
        name: String,
        /// What would fit.
        expected: &'static str,
        /// The operand.
        got: String,
    },
    /// A node, output or update names a value that is not there, or not there yet.
    #[error("`{reader}` reads value %{value}, which does not exist before it")]
    UnknownValue {
        /// The reader.
        reader: String,
        /// The place in the value table.
        value: usize,
    },
    /// A tensor from outside has a size, dtype or initial value that is not allowed.
    #[error("`{name}`: {reason}")]
    Leaf {
        /// The value.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A buffer's update does not fit.
    #[error("the update of `{buffer}` from `{from}` with momentum {momentum} needs {expected}")]
    Update {
        /// The buffer.
        buffer: String,
        /// The value that should flow into it.
        from: String,
        /// The momentum.
        momentum: String,
        /// What would fit.
        expected: &'static str,
    },
    /// No value is named as the result.
    #[error("a Dag needs at least one output")]
    NoOutput,
    /// The tables disagree with each other (a Dag that no builder made).
    #[error("value %{value} and node {node} do not belong together in canonical order")]
    Disordered {
        /// The place in the value table.
        value: usize,
        /// The place in the node table.
        node: usize,
    },
    /// A value's recorded dtype or shape is not what its node computes.
    #[error("`{name}` is said to be {said} but is {found}")]
    Fact {
        /// The value.
        name: String,
        /// The recorded fact.
        said: String,
        /// The inferred fact.
        found: String,
    },
}

/// Makes a [`Dag`] one operator at a time.
#[derive(Clone, Debug)]
pub struct DagBuilder {
    dag: Dag,
    names: BTreeSet<String>,
    /// The first mistake in a leaf; leaves return plain ids so that networks read well, and `finish` reports it.
    mistake: Option<DagError>,
}

impl DagBuilder {
    /// Makes an empty network.
    pub fn new(name: impl Into<String>) -> Self {
        let dag = Dag {
            name: name.into(),
            values: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            updates: Vec::new(),
        };
        Self { dag, names: BTreeSet::new(), mistake: None }
    }

    /// Adds to a network that is there already; its outputs and updates stay.
    pub(crate) fn resume(dag: Dag) -> Self {
        let names = dag.values.iter().map(|v| v.name.clone()).collect();
        Self { dag, names, mistake: None }
    }

    /// Returns the network as far as it is built.
    pub fn dag(&self) -> &Dag {
        &self.dag
    }

    /// Returns the dtype and shape of a value.
    ///
    /// *Panics* if the id is of another Dag.
    pub fn fact(&self, id: ValueId) -> &Fact {
        self.dag.fact(id)
    }

    /// Adds data fed from outside once a micro-batch.
    pub fn input(&mut self, name: impl Into<String>, fact: Fact) -> ValueId {
        self.leaf(Value { name: name.into(), fact, source: Source::Input })
    }

    /// Adds a trained f32 tensor.
    pub fn parameter(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        init: Init,
        decay: bool,
    ) -> ValueId {
        let source = Source::Parameter { init, decay };
        self.leaf(Value { name: name.into(), fact: Fact::f32(shape), source })
    }

    /// Adds an f32 tensor that lives across steps without being trained.
    pub fn buffer(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> ValueId {
        let source = Source::Buffer { init };
        self.leaf(Value { name: name.into(), fact: Fact::f32(shape), source })
    }

    fn leaf(&mut self, value: Value) -> ValueId {
        let id = next_id(&self.dag.values);
        let verdict = check_leaf(&value)
            .and_then(|()| check_name(&value.name))
            .and_then(|()| claim(&mut self.names, &value.name));
        if let Err(error) = verdict {
            self.mistake.get_or_insert(error);
        }
        self.dag.values.push(value);
        id
    }

    /// Applies an operator and returns all of its results.
    ///
    /// A single result is named as the node; several are named `node#0`, `node#1` and so on.
    ///
    /// *Errors*: [`DagError::Shape`] if the operands do not fit, [`DagError::DuplicateName`], [`DagError::TooLarge`].
    pub fn apply(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, DagError> {
        let name = name.into();
        check_name(&name)?;
        check_operands(&name, inputs, self.dag.values.len())?;
        let facts: Vec<&Fact> = inputs.iter().map(|id| self.dag.fact(*id)).collect();
        let facts =
            infer(&op, &facts).map_err(|source| DagError::Shape { node: name.clone(), source })?;
        check_counts(self.dag.nodes.len() + 1, self.dag.values.len() + facts.len())?;
        let node = NodeId::new(u32::try_from(self.dag.nodes.len()).expect("at most NODES_MAX"));
        let names = result_names(&name, facts.len());
        for name in &names {
            claim(&mut self.names, name)?;
        }
        let mut outputs = Vec::with_capacity(facts.len());
        for (slot, (fact, name)) in (0u8..).zip(facts.into_iter().zip(names)) {
            outputs.push(next_id(&self.dag.values));
            self.dag.values.push(Value { name, fact, source: Source::Node { node, slot } });
        }
        let (inputs, results) = (inputs.to_vec(), outputs.clone());
        self.dag.nodes.push(Node { name, op, inputs, outputs });
        Ok(results)
    }

    /// Applies an operator and returns its first result.
    ///
    /// *Errors*: as [`DagBuilder::apply`].
    pub fn op(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, DagError> {
        Ok(self.apply(name, op, inputs)?[0])
    }

    /// Says whether a value of this name exists.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Lets a value flow into a buffer after each micro-batch: `buffer <- (1 - momentum) buffer + momentum from`.
    ///
    /// *Errors*: [`DagError::Update`] if one is no buffer, the other no node's result, or their facts differ.
    pub fn update(
        &mut self,
        buffer: ValueId,
        from: ValueId,
        momentum: f32,
    ) -> Result<(), DagError> {
        let update = BufferUpdate { buffer, from, momentum };
        check_update(&self.dag.values, &update)?;
        self.dag.updates.push(update);
        Ok(())
    }

    /// Names a value as a result; the first is the scalar loss where the Dag is to be trained.
    pub fn output(&mut self, value: ValueId) {
        self.dag.outputs.push(value);
    }

    /// Returns the network.
    ///
    /// *Errors*: the first mistake in a leaf, [`DagError::NoOutput`], [`DagError::UnknownValue`] of an output.
    pub fn finish(self) -> Result<Dag, DagError> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        check_counts(self.dag.nodes.len(), self.dag.values.len())?;
        check_outputs(&self.dag)?;
        Ok(self.dag)
    }
}

impl Dag {
    /// Checks a Dag of unknown origin completely: order, names, facts, sizes, settings of operators.
    ///
    /// *Errors*: the first [`DagError`]. Never panics. *Cost*: O(values log values).
    pub fn checked(self) -> Result<Self, DagError> {
        check_name(&self.name)?;
        check_counts(self.nodes.len(), self.values.len())?;
        let mut names = BTreeSet::new();
        for value in &self.values {
            check_name(&value.name)?;
            claim(&mut names, &value.name)?;
        }
        let mut at = 0;
        let mut nodes = self.nodes.iter().enumerate();
        while let Some(value) = self.values.get(at) {
            match value.source {
                Source::Node { .. } => {
                    let (index, node) = nodes
                        .next()
                        .ok_or(DagError::Disordered { value: at, node: self.nodes.len() })?;
                    at += check_node(&self.values, at, index, node)?;
                }
                Source::Input | Source::Parameter { .. } | Source::Buffer { .. } => {
                    check_leaf(value)?;
                    at += 1;
                }
            }
        }
        if let Some((node, _)) = nodes.next() {
            return Err(DagError::Disordered { value: at, node });
        }
        check_outputs(&self)?;
        for update in &self.updates {
            check_update(&self.values, update)?;
        }
        Ok(self)
    }
}

/// Checks the node whose first result stands at `at`; returns the number of its results.
fn check_node(values: &[Value], at: usize, index: usize, node: &Node) -> Result<usize, DagError> {
    check_name(&node.name)?;
    check_operands(&node.name, &node.inputs, at)?;
    let inputs: Vec<&Fact> = node.inputs.iter().map(|id| &values[id.index()].fact).collect();
    let found = infer(&node.op, &inputs)
        .map_err(|source| DagError::Shape { node: node.name.clone(), source })?;
    let disordered = DagError::Disordered { value: at, node: index };
    let results = values[at..].get(..found.len()).ok_or(disordered.clone())?;
    if !node.outputs.iter().map(|id| id.index()).eq(at..at + found.len()) {
        return Err(disordered);
    }
    for (slot, (value, found)) in (0u8..).zip(results.iter().zip(&found)) {
        let placed = matches!(value.source,
            Source::Node { node, slot: at } if node.index() == index && at == slot);
        if !placed {
            return Err(disordered);
        }
        if value.fact != *found {
            let (name, said) = (value.name.clone(), value.fact.to_string());
            return Err(DagError::Fact { name, said, found: found.to_string() });
        }
    }
    Ok(found.len())
}

/// Returns the names of a node's results.
pub(crate) fn result_names(node: &str, results: usize) -> Vec<String> {
    match results {
        1 => vec![node.to_owned()],
        _ => (0..results).map(|slot| format!("{node}#{slot}")).collect(),
    }
}

fn next_id(values: &[Value]) -> ValueId {
    // Beyond u32 the ids repeat, but `finish` refuses such a Dag by its count.
    ValueId::new(u32::try_from(values.len()).unwrap_or(u32::MAX))
}

fn claim(names: &mut BTreeSet<String>, name: &str) -> Result<(), DagError> {
    if names.insert(name.to_owned()) {
        return Ok(());
    }
    Err(DagError::DuplicateName(name.to_owned()))
}

fn check_name(name: &str) -> Result<(), DagError> {
    if (1..=NAME_MAX).contains(&name.len()) {
        Ok(())
    } else {
        Err(DagError::NameLength(name.len()))
    }
}

fn check_counts(nodes: usize, values: usize) -> Result<(), DagError> {
    if nodes <= NODES_MAX && values <= VALUES_MAX { Ok(()) } else { Err(DagError::TooLarge) }
}

fn check_operands(reader: &str, inputs: &[ValueId], limit: usize) -> Result<(), DagError> {
    match inputs.iter().find(|id| id.index() >= limit) {
        Some(id) => Err(DagError::UnknownValue { reader: reader.to_owned(), value: id.index() }),
        None => Ok(()),
    }
}

fn check_outputs(dag: &Dag) -> Result<(), DagError> {
    if dag.outputs.is_empty() {
        return Err(DagError::NoOutput);
    }
    check_operands("the outputs", &dag.outputs, dag.values.len())
}

fn check_leaf(value: &Value) -> Result<(), DagError> {
    let leaf = |reason: String| DagError::Leaf { name: value.name.clone(), reason };
    check_size(&value.fact.shape).map_err(|error| leaf(error.to_string()))?;
    let init = match value.source {
        Source::Parameter { init, .. } | Source::Buffer { init } => Some(init),
        Source::Input | Source::Node { .. } => None,
    };
    let dtypes: &[Dtype] = if init.is_some() { &[Dtype::F32] } else { &[Dtype::F32, Dtype::I32] };
    if !dtypes.contains(&value.fact.dtype) {
        return Err(leaf(format!("the dtype must be one of {dtypes:?}, got {}", value.fact)));
    }
    let number = match init {
        None => return Ok(()),
        Some(Init::Constant(number)) => number,
        // A spread below zero would be the same draw mirrored; it is a mistake.
        Some(Init::Normal(spread) | Init::Uniform(spread)) if spread < 0.0 => f32::NAN,
        Some(Init::Normal(spread) | Init::Uniform(spread)) => spread,
    };
    if number.is_finite() {
        return Ok(());
    }
    Err(leaf(format!("the initial value must be finite, a spread not below 0, got {init:?}")))
}

fn check_update(values: &[Value], update: &BufferUpdate) -> Result<(), DagError> {
    let find = |id: ValueId| {
        let unknown = || DagError::UnknownValue { reader: "an update".into(), value: id.index() };
        values.get(id.index()).ok_or_else(unknown)
    };
    let (buffer, from) = (find(update.buffer)?, find(update.from)?);
    let expected = match (buffer.source, from.source) {
        (Source::Buffer { .. }, Source::Node { .. }) if buffer.fact != from.fact => "equal facts",
        (Source::Buffer { .. }, Source::Node { .. })
            if update.momentum > 0.0 && update.momentum <= 1.0 =>
        {
            return Ok(());
        }
        (Source::Buffer { .. }, Source::Node { .. }) => "a momentum in (0, 1]",
        _ => "a buffer and a node's result",
    };
    let (buffer, from) = (buffer.name.clone(), from.name.clone());
    Err(DagError::Update { buffer, from, momentum: update.momentum.to_string(), expected })
}
