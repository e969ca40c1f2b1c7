//! All cases in one network of two halves, so that one job of two stages runs every operator across a link.
//!
//! Each case is cut in two at a place of its own nodes. The network holds the first parts of all cases, then ballast, a
//! chain of tensors that together need more memory than a peer offers, then the second parts. The ballast waits for the
//! first parts, and the second parts wait for it, so whoever places the network on two peers cuts the ballast, which
//! every case spans: its values cross forwards and their cotangents come back.

use wattle_protocol::dag::op::{Comparison, Unary};
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Dtype, Init, Op, Source};
use wattle_protocol::ids::ValueId;

use super::run::SuiteError;
use super::{AS_FLOAT, Case, FLAT, RESULT};

/// Rows and columns of the ballast's tensors: 1 MiB each.
const BALLAST_WIDTH: usize = 512;
/// Tensors of the ballast.
const BALLAST_NODES: usize = 100;
/// What each of two peers has to offer in MiB: less than the ballast, so that a search gives neither all of it, and
/// enough for half of it and the cases of a group (some 20 MiB, and what waits for them).
pub const MEMORY: u64 = 90;
/// Most numbers in the literals of a group: four bytes each, of the 4 MiB that a message may have.
const NUMBERS_MAX: usize = 750_000;
/// Most numbers in all values of a group (7 MB forward): a half with its gradients, and with what crosses, which both
/// peers hold, has to fit beside half of the ballast.
const VALUES_MAX: usize = 1_800_000;

/// Where each case is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before its own nodes: operands cross.
    Start,
    /// In the middle of its own nodes.
    Middle,
    /// After its own nodes: results cross.
    End,
}

/// A case on its way into the bundle.
struct Part {
    prefix: String,
    dag: Dag,
    /// For each value of the case, the one of the bundle.
    values: Vec<Option<ValueId>>,
    /// The first node of the second half.
    cut: usize,
}

/// Returns the prefix of the names of a case's values.
pub fn prefix(at: usize) -> String {
    format!("c{at}.")
}

/// Parts cases so that the bundle of each group fits into a message, and each half of it into a peer's memory.
///
/// *Errors*: [`SuiteError::Build`].
pub fn groups(cases: Vec<Case>) -> Result<Vec<Vec<Case>>, SuiteError> {
    let mut groups: Vec<Vec<Case>> = Vec::new();
    let (mut numbers, mut values) = (0, 0);
    for case in cases {
        let dag = case.dag().map_err(|error| SuiteError::Build(case.id(), error.into()))?;
        let own: usize = dag.nodes().iter().map(|node| literal(&node.op)).sum();
        let all: usize = dag.value_ids().map(|id| dag.value(id).fact.elements()).sum();
        (numbers, values) = (numbers + own, values + all);
        match groups.last_mut().filter(|_| numbers <= NUMBERS_MAX && values <= VALUES_MAX) {
            Some(group) => group.push(case),
            None => {
                (numbers, values) = (own, all);
                groups.push(vec![case]);
            }
        }
    }
    Ok(groups)
}

fn literal(op: &Op) -> usize {
    if let Op::Literal { numbers, .. } = op { numbers.len() } else { 0 }
}

/// Joins cases that have a loss; the bundle's loss is the sum of theirs.
///
/// *Errors*: [`SuiteError::Build`].
pub fn bundle(cases: &[Case], place: Place) -> Result<Dag, SuiteError> {
    let mut parts = Vec::with_capacity(cases.len());
    for (at, case) in cases.iter().enumerate() {
        let dag = case.dag().map_err(|error| SuiteError::Build(case.id(), error.into()))?;
        let (prefix, values) = (prefix(at), vec![None; dag.values().len()]);
        let cut = cut(&dag, place);
        parts.push(Part { prefix, dag, values, cut });
    }
    join(&mut parts).map_err(|error| SuiteError::Build("the bundle".into(), error.into()))
}

/// Returns the first node of the second half.
fn cut(dag: &Dag, place: Place) -> usize {
    let own = |name: &str| name.strip_prefix(RESULT).is_some_and(|rest| rest.starts_with('.'));
    // What weighs the result comes next; a composition that has nothing to do adds no node of its own.
    let after = |name: &str| name == AS_FLOAT || name == FLAT;
    let start = dag.nodes().iter().position(|node| own(&node.name) || after(&node.name));
    let start = start.unwrap_or(0);
    let count = dag.nodes().iter().filter(|node| own(&node.name)).count();
    match place {
        Place::Start => start,
        Place::Middle => start + count / 2,
        Place::End => start + count,
    }
}

fn join(parts: &mut [Part]) -> Result<Dag, DagError> {
    let mut b = DagBuilder::new("op-suite");
    for part in parts.iter_mut() {
        part.leaves(&mut b);
        part.nodes(&mut b, 0..part.cut)?;
    }
    let spanning: Vec<Vec<ValueId>> = parts.iter().map(Part::spanning).collect();
    let values = parts.iter().zip(&spanning);
    let values = values.flat_map(|(part, ids)| ids.iter().filter_map(|id| part.values[id.index()]));
    let values: Vec<ValueId> = values.collect();
    let head = nothing(&mut b, "first", &values)?;
    let ballast = ballast(&mut b, head)?;
    let end = nothing(&mut b, "second", &[ballast])?;
    let mut losses = vec![ballast];
    for (part, ids) in parts.iter_mut().zip(&spanning) {
        part.wait(&mut b, ids, end)?;
        part.nodes(&mut b, part.cut..part.dag.nodes().len())?;
        losses.extend(part.values[part.dag.outputs()[0].index()]);
    }
    let loss = b.op("loss", Op::AddN, &losses)?;
    b.output(loss);
    b.finish()
}

impl Part {
    /// Returns what nodes of the first half make and nodes of the second half read.
    fn spanning(&self) -> Vec<ValueId> {
        let (near, far) = self.dag.nodes().split_at(self.cut);
        let read = |id: &&ValueId| far.iter().any(|node| node.inputs.contains(id));
        near.iter().flat_map(|node| &node.outputs).filter(read).copied().collect()
    }

    /// Lets the second half read spanning values with a zero added that is there when the ballast is.
    fn wait(
        &mut self,
        b: &mut DagBuilder,
        spanning: &[ValueId],
        end: ValueId,
    ) -> Result<(), DagError> {
        for (at, id) in spanning.iter().enumerate() {
            let Some(value) = self.values[id.index()] else { continue };
            let mut zero = end;
            let dtype = b.fact(value).dtype;
            if dtype != Dtype::F32 {
                zero = b.op(format!("{}zero.{at}", self.prefix), Op::Cast { dtype }, &[zero])?;
            }
            let name = format!("{}waits.{at}", self.prefix);
            self.values[id.index()] = Some(b.op(name, Op::Add, &[value, zero])?);
        }
        Ok(())
    }

    fn leaves(&mut self, b: &mut DagBuilder) {
        for id in self.dag.value_ids() {
            let value = self.dag.value(id);
            let name = format!("{}{}", self.prefix, value.name);
            self.values[id.index()] = match value.source {
                Source::Node { .. } => None,
                Source::Input => Some(b.input(name, value.fact.clone())),
                Source::Buffer { init } => Some(b.buffer(name, &value.fact.shape, init)),
                Source::Parameter { init, decay } => {
                    Some(b.parameter(name, &value.fact.shape, init, decay))
                }
            };
        }
    }

    fn nodes(&mut self, b: &mut DagBuilder, range: std::ops::Range<usize>) -> Result<(), DagError> {
        for node in &self.dag.nodes()[range] {
            let operands: Vec<ValueId> =
                node.inputs.iter().filter_map(|id| self.values[id.index()]).collect();
            let name = format!("{}{}", self.prefix, node.name);
            let results = b.apply(name, node.op.clone(), &operands)?;
            for (id, result) in node.outputs.iter().zip(results) {
                self.values[id.index()] = Some(result);
            }
        }
        Ok(())
    }
}

/// Returns a zero that depends on all of these values, whatever they hold (a comparison is a number even of NaN), and
/// through which no gradient flows.
fn nothing(b: &mut DagBuilder, name: &str, values: &[ValueId]) -> Result<ValueId, DagError> {
    let mut sums =
        vec![b.op(format!("{name}.none"), Op::Fill { shape: vec![], value: 0.0 }, &[])?];
    for (at, value) in values.iter().enumerate() {
        let axes: Vec<usize> = (0..b.fact(*value).shape.len()).collect();
        let same = Op::Compare(Comparison::Equal);
        let same = b.op(format!("{name}.{at}"), same, &[*value, *value])?;
        let float = Op::Cast { dtype: Dtype::F32 };
        let float = b.op(format!("{name}.{at}.float"), float, &[same])?;
        sums.push(match axes.is_empty() {
            true => float,
            false => {
                let sum = Op::ReduceSum { axes, keep: false };
                b.op(format!("{name}.{at}.sum"), sum, &[float])?
            }
        });
    }
    let all = b.op(format!("{name}.all"), Op::AddN, &sums)?;
    b.op(format!("{name}.zero"), Op::Scale { factor: 0.0 }, &[all])
}

/// A chain of zeros, each of which its derivative reads, that begins with a zero; returns their sum.
fn ballast(b: &mut DagBuilder, zero: ValueId) -> Result<ValueId, DagError> {
    let parameter = b.parameter("ballast", &[BALLAST_WIDTH; 2], Init::Constant(0.0), false);
    let mut last = b.op("ballast.0", Op::Add, &[parameter, zero])?;
    for at in 1..BALLAST_NODES {
        last = b.op(format!("ballast.{at}"), Op::Unary(Unary::Tanh), &[last])?;
    }
    b.op("ballast.sum", Op::ReduceSum { axes: vec![0, 1], keep: false }, &[last])
}

#[cfg(test)]
mod tests {
    use wattle_protocol::dag::grad::differentiate;

    use super::*;
    use crate::suite::cases;
    use crate::suite::run::job;
    use wattle_protocol::wire::frame::job_id;

    #[test]
    fn every_case_with_operands_spans_the_ballast() {
        let cases: Vec<Case> = cases().into_iter().filter(|case| !case.forward_only).collect();
        for place in [Place::Start, Place::Middle, Place::End] {
            let dag = bundle(&cases, place).unwrap();
            let middle = dag.nodes().iter().position(|n| n.name == "ballast.0").unwrap();
            for (at, case) in cases.iter().enumerate() {
                let prefix = prefix(at);
                let late = dag.nodes()[middle..].iter().filter(|n| n.name.starts_with(&prefix));
                let spans = late
                    .flat_map(|n| &n.inputs)
                    .any(|id| dag.producer(*id).is_some_and(|node| node.index() < middle));
                let has_any = place == Place::End || !case.operands.is_empty();
                assert!(spans || !has_any, "{} {place:?}", case.id());
            }
            differentiate(dag, 1).unwrap();
        }
    }

    #[test]
    fn the_bundle_of_a_group_fits_into_a_message() {
        let all = cases();
        let count = all.len();
        let groups = groups(all).unwrap();
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), count);
        for group in groups {
            job_id(&job(bundle(&group, Place::Middle).unwrap())).unwrap();
        }
    }
}
