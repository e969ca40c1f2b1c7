//! The operator suite: one table of small networks, at least one for each operator and composition, that feeds every
//! comparison: with PyTorch's values on each device, with central differences, and of two peers with one process.
//!
//! A case is a row of the table, a name, operands and a function over a [`Scope`]; its network weighs the first result,
//! so that each element counts differently, and sums. To add one: a line in the file of its family, and a line of the
//! same name in `make.py`, which makes the reference values (see `docs/reference/op-suite.md`). Used by tests of this
//! room, by `examples/op_suite.rs` and by the node's test over a real link; no part of training.
//!
//! Reading order: [`Case`] and [`Operand`], [`formula`] (what operands hold), the families ([`elements`], [`functions`],
//! [`products`], [`norms`], [`layout`], [`index`], [`images`], [`sampling`], [`sequences`], [`compositions`]), [`run`],
//! [`reference`](mod@reference) (PyTorch's values), [`bundle`] (all cases in one network, in two halves).

pub mod bundle;
pub mod compositions;
pub mod elements;
pub mod formula;
pub mod functions;
pub mod images;
pub mod index;
pub mod layout;
pub mod norms;
pub mod products;
pub mod reference;
pub mod run;
pub mod sampling;
pub mod sequences;

use std::fmt;

use serde_json::{Value, json};
use wattle_protocol::dag::compose::{Built, Scope};
use wattle_protocol::dag::op::Numbers;
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Dtype, Init, Op};
use wattle_protocol::ids::ValueId;

/// What an operand holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Filling {
    /// Floats spread over a range, no two alike and none zero, in an order that looks random.
    Range(f32, f32),
    /// Floats as they stand here.
    Floats(Vec<f32>),
    /// Integers from the first up to, not including, the second.
    Ids(i32, i32),
    /// Integers as they stand here.
    Ints(Vec<i32>),
}

/// One operand of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// What it holds.
    pub filling: Filling,
    /// Whether its gradient is compared; only of floats.
    pub trained: bool,
}

impl Operand {
    fn new(shape: &[usize], filling: Filling) -> Self {
        let trained = matches!(filling, Filling::Range(..) | Filling::Floats(_));
        Self { shape: shape.to_vec(), filling, trained }
    }

    /// The same without a gradient.
    #[must_use]
    pub fn fixed(self) -> Self {
        Self { trained: false, ..self }
    }
}

/// Floats of both signs, up to 1.6.
pub fn x(shape: &[usize]) -> Operand {
    range(-1.6, 1.6, shape)
}

/// Floats above zero.
pub fn above(shape: &[usize]) -> Operand {
    range(0.3, 2.3, shape)
}

/// Floats of a range.
pub fn range(low: f32, high: f32, shape: &[usize]) -> Operand {
    Operand::new(shape, Filling::Range(low, high))
}

/// A row of floats.
pub fn list(values: &[f32]) -> Operand {
    Operand::new(&[values.len()], Filling::Floats(values.to_vec()))
}

/// Floats as they stand.
pub fn floats(values: &[f32], shape: &[usize]) -> Operand {
    Operand::new(shape, Filling::Floats(values.to_vec()))
}

/// Integers from 0 to below `count`.
pub fn ids(count: i32, shape: &[usize]) -> Operand {
    Operand::new(shape, Filling::Ids(0, count))
}

/// Integers from `low` to below `high`.
pub fn whole(low: i32, high: i32, shape: &[usize]) -> Operand {
    Operand::new(shape, Filling::Ids(low, high))
}

/// Integers as they stand.
pub fn ints(values: &[i32], shape: &[usize]) -> Operand {
    Operand::new(shape, Filling::Ints(values.to_vec()))
}

/// Builds a network from operands and returns its results.
type Build =
    Box<dyn Fn(&mut Scope<'_>, &[ValueId]) -> Result<Vec<ValueId>, DagError> + Send + Sync>;

/// How far a result may lie from the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// The difference, relative to the largest element of the tensor.
    Tensor,
    /// The difference, relative to the element itself, or to this number where the element is smaller.
    Element(f32),
}

/// One network of the suite.
pub struct Case {
    /// The operator or composition that it stands for.
    pub row: String,
    /// What is special about it.
    pub name: &'static str,
    /// The family, which is the name of the file with its reference values.
    pub family: &'static str,
    /// Operands in order.
    pub operands: Vec<Operand>,
    build: Build,
    /// Results hold infinities or no numbers, so that there is no loss.
    pub forward_only: bool,
    /// Central differences say nothing: a jump or a kink lies too near, or an exponential is too steep.
    pub is_rough: bool,
    /// How differences from the reference count.
    pub measure: Measure,
    /// Largest difference on a CPU.
    pub cpu: f32,
    /// Largest difference on a GPU; None: this case is not for shaders, which know no infinities.
    pub gpu: Option<f32>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("id", &self.id()).field("operands", &self.operands).finish()
    }
}

/// Largest difference on a CPU, as [`Measure`] counts: products and sums of some hundred terms in f32.
const CPU_TOLERANCE: f32 = 3e-6;
/// Largest difference on a GPU, where exponentials and orders of sums are other ones.
const GPU_TOLERANCE: f32 = 1e-4;

/// A case of one operator; all of its results are compared.
pub(crate) fn op(name: &'static str, op: Op, operands: impl Into<Vec<Operand>>) -> Case {
    let row = op.name();
    case(row, name, operands, move |s, operands| s.all(op.clone(), operands))
}

/// A case of a composition, or of an operator with something before it.
pub(crate) fn built(
    row: &str,
    name: &'static str,
    operands: impl Into<Vec<Operand>>,
    build: impl Fn(&mut Scope<'_>, &[ValueId]) -> Built + Send + Sync + 'static,
) -> Case {
    case(row, name, operands, move |s, operands| Ok(vec![build(s, operands)?]))
}

fn case(
    row: &str,
    name: &'static str,
    operands: impl Into<Vec<Operand>>,
    build: impl Fn(&mut Scope<'_>, &[ValueId]) -> Result<Vec<ValueId>, DagError> + Send + Sync + 'static,
) -> Case {
    Case {
        row: row.into(),
        name,
        family: "",
        operands: operands.into(),
        build: Box::new(build),
        forward_only: false,
        is_rough: false,
        measure: Measure::Tensor,
        cpu: CPU_TOLERANCE,
        gpu: Some(GPU_TOLERANCE),
    }
}

impl Case {
    /// Says that differences tell nothing here.
    pub(crate) fn rough(self) -> Self {
        Self { is_rough: true, ..self }
    }

    /// Says that results are of all magnitudes: each element counts by its own, down to `least`.
    pub(crate) fn each(self, least: f32) -> Self {
        Self { measure: Measure::Element(least), ..self }
    }

    /// Says that results may be infinite or no numbers: only they are compared, and only on hosts.
    pub(crate) fn edges(self) -> Self {
        Self { forward_only: true, is_rough: true, gpu: None, ..self }.each(1e-30)
    }

    /// Says that there is a loss but that only hosts keep to the rule that this case is about.
    pub(crate) fn on_hosts(self) -> Self {
        Self { gpu: None, ..self }
    }

    /// Gives hosts a tolerance of their own, where the operands are so large that f32 rounds them too much.
    pub(crate) fn within(self, tolerance: f32) -> Self {
        Self { cpu: tolerance, ..self }
    }

    /// Returns the name that the reference values have.
    pub fn id(&self) -> String {
        format!("{}/{}", self.row, self.name)
    }

    /// Returns the operands whose gradient is compared.
    pub fn trained(&self) -> impl Iterator<Item = usize> + '_ {
        let trained = self.operands.iter().enumerate().filter(|(_, o)| o.trained);
        trained.map(|(at, _)| at).filter(|_| !self.forward_only)
    }

    /// Builds the network: its loss is the first output, all results are the others.
    ///
    /// A trained operand is a parameter `p0` that starts at zero, plus what the formula gives: after one step of plain
    /// gradient descent with rate 1 each parameter is its negative gradient.
    ///
    /// *Errors*: as `DagBuilder::apply`.
    pub fn dag(&self) -> Result<Dag, DagError> {
        let mut b = DagBuilder::new(self.id());
        let mut operands = Vec::new();
        for (at, operand) in self.operands.iter().enumerate() {
            operands.push(leaf(&mut b, at, operand)?);
        }
        let results = (self.build)(&mut Scope::new(&mut b, RESULT), &operands)?;
        let loss = weighed(&mut b, results[0])?;
        b.output(loss);
        results.into_iter().for_each(|y| b.output(y));
        b.finish()
    }

    /// Describes the case to `make.py`.
    pub fn describe(&self) -> Value {
        let operands: Vec<Value> = self.operands.iter().map(describe).collect();
        json!({
            "id": self.id(), "family": self.family, "operands": operands,
            "forward_only": self.forward_only,
        })
    }
}

/// The name under which a case's own nodes stand.
const RESULT: &str = "y";
/// The names of the first nodes after them.
const AS_FLOAT: &str = "as_float";
const FLAT: &str = "flat";

fn describe(operand: &Operand) -> Value {
    let filling = match &operand.filling {
        Filling::Range(low, high) => json!({"range": [low, high]}),
        Filling::Floats(list) => json!({"floats": list}),
        Filling::Ids(low, high) => json!({"ids": [low, high]}),
        Filling::Ints(list) => json!({"ints": list}),
    };
    json!({"shape": operand.shape, "filling": filling, "trained": operand.trained})
}

fn literal(b: &mut DagBuilder, name: String, shape: &[usize], numbers: Numbers) -> Built {
    b.op(name, Op::Literal { shape: shape.to_vec(), numbers }, &[])
}

fn leaf(b: &mut DagBuilder, at: usize, operand: &Operand) -> Built {
    let numbers = formula::values(at, operand);
    if !operand.trained {
        return literal(b, format!("x{at}"), &operand.shape, numbers);
    }
    let start = b.parameter(format!("p{at}"), &operand.shape, Init::Constant(0.0), true);
    let values = literal(b, format!("v{at}"), &operand.shape, numbers)?;
    b.op(format!("x{at}"), Op::Add, &[values, start])
}

/// `(1 + bias) sum(weights y)`: the bias gives a network without trained operands a gradient, which is the sum.
fn weighed(b: &mut DagBuilder, y: ValueId) -> Built {
    let fact = b.fact(y).clone();
    let count = fact.elements();
    let y = match fact.dtype {
        Dtype::I32 => b.op(AS_FLOAT, Op::Cast { dtype: Dtype::F32 }, &[y])?,
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => y,
    };
    let flat = b.op(FLAT, Op::Reshape { shape: vec![count] }, &[y])?;
    let weights = Numbers::Floats(formula::weights(count));
    let weights = literal(b, "weights".into(), &[count], weights)?;
    let each = b.op("weighed", Op::Mul, &[flat, weights])?;
    let sum = b.op("sum", Op::ReduceSum { axes: vec![0], keep: false }, &[each])?;
    let bias = b.parameter("bias", &[], Init::Constant(0.0), false);
    let factor = b.op("factor", Op::Shift { term: 1.0 }, &[bias])?;
    b.op("loss", Op::Mul, &[sum, factor])
}

/// Returns all cases.
pub fn cases() -> Vec<Case> {
    let families: [(&'static str, Vec<Case>); 10] = [
        ("elements", elements::cases()),
        ("functions", functions::cases()),
        ("products", products::cases()),
        ("norms", norms::cases()),
        ("layout", layout::cases()),
        ("index", index::cases()),
        ("images", images::cases()),
        ("sampling", sampling::cases()),
        ("sequences", sequences::cases()),
        ("compositions", compositions::cases()),
    ];
    let named = |(family, cases): (&'static str, Vec<Case>)| {
        cases.into_iter().map(move |case| Case { family, ..case })
    };
    families.into_iter().flat_map(named).collect()
}
