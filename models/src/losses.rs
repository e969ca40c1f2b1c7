//! Losses by name, for networks that come without one.
//!
//! Not here: the losses themselves (`protocol/src/dag/compose/loss.rs`).

use wattle_protocol::dag::compose::{Scope, loss};
use wattle_protocol::dag::op::{Op, Targets};
use wattle_protocol::dag::{DagBuilder, DagError, Dtype, Fact, Source};
use wattle_protocol::ids::ValueId;

/// What a network is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy of class scores with class numbers, in nats. Classes lie on the last axis; on axis 1 where there are
    /// four axes or more, as for images.
    CrossEntropy,
    /// Mean squared error.
    Mse,
    /// Mean absolute error.
    L1,
    /// Mean of `d d / 2` where |d| is below 1, `|d| - 1 / 2` elsewhere.
    SmoothL1,
}

/// Names of all losses, in the order of [`Loss::named`].
pub const NAMES: [&str; 4] = ["cross_entropy", "mse", "l1", "smooth_l1"];

impl Loss {
    /// Returns the loss of a name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::CrossEntropy, Self::Mse, Self::L1, Self::SmoothL1];
        NAMES.iter().zip(all).find(|(known, _)| **known == name).map(|(_, loss)| loss)
    }

    /// Adds the loss of a result to a network. The target is the input of that name; where there is none it is added with
    /// the type and shape that fit.
    ///
    /// *Errors*: [`DagError`] where result and target do not fit.
    pub fn add(
        self,
        b: &mut DagBuilder,
        result: ValueId,
        target: &str,
    ) -> Result<ValueId, DagError> {
        let shape = b.fact(result).shape.clone();
        let (result, wanted) = match self {
            Self::CrossEntropy => {
                let axis = if shape.len() >= 4 { 1 } else { shape.len().saturating_sub(1) };
                let mut rows: Vec<usize> = (0..shape.len()).collect();
                if rows.is_empty() {
                    let name = b.dag().value(result).name.clone();
                    let reason = "a single number has no axis of classes".into();
                    return Err(DagError::Leaf { name, reason });
                }
                let classes = rows.remove(axis);
                let fact = Fact::i32(&rows.iter().map(|a| shape[*a]).collect::<Vec<_>>());
                if classes == rows.len() {
                    (result, fact)
                } else {
                    rows.push(classes);
                    let last = Op::Transpose { perm: rows };
                    (b.op("loss.classes_last", last, &[result])?, fact)
                }
            }
            Self::Mse | Self::L1 | Self::SmoothL1 => (result, Fact::f32(&shape)),
        };
        let target = find_input(b, target).unwrap_or_else(|| b.input(target, wanted.clone()));
        check_target(b, target, &wanted)?;
        let mut s = Scope::new(b, "loss");
        match self {
            Self::CrossEntropy => {
                b.op("loss", Op::CrossEntropy(Targets::default()), &[result, target])
            }
            Self::Mse => loss::mse(&mut s, result, target, None),
            Self::L1 => loss::l1(&mut s, result, target, None),
            Self::SmoothL1 => loss::smooth_l1(&mut s, result, target, 1.0, None),
        }
    }
}

fn find_input(b: &DagBuilder, name: &str) -> Option<ValueId> {
    let dag = b.dag();
    let is = |id: &ValueId| dag.value(*id).source == Source::Input && dag.value(*id).name == name;
    dag.value_ids().find(is)
}

/// Compares a target that is there already with what fits.
fn check_target(b: &DagBuilder, target: ValueId, wanted: &Fact) -> Result<(), DagError> {
    let value = b.dag().value(target);
    let integers = value.fact.dtype == Dtype::I32;
    if value.fact.shape == wanted.shape && integers == (wanted.dtype == Dtype::I32) {
        return Ok(());
    }
    let reason = format!("the target is {}, but {wanted} fits the result", value.fact);
    Err(DagError::Leaf { name: value.name.clone(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(shape: &[usize], loss: &str, target: &str) -> Result<Fact, DagError> {
        let mut b = DagBuilder::new("n");
        let x = b.input("x", Fact::f32(shape));
        let y = b.op("y", Op::Relu, &[x])?;
        let loss = Loss::named(loss).unwrap().add(&mut b, y, target)?;
        assert_eq!(b.fact(loss), &Fact::f32(&[]));
        let target = find_input(&b, target).unwrap();
        Ok(b.fact(target).clone())
    }

    #[test]
    fn targets_fit_the_result() {
        assert_eq!(network(&[4, 10], "cross_entropy", "labels"), Ok(Fact::i32(&[4])));
        assert_eq!(network(&[4, 7, 10], "cross_entropy", "labels"), Ok(Fact::i32(&[4, 7])));
        assert_eq!(network(&[4, 10, 5, 6], "cross_entropy", "labels"), Ok(Fact::i32(&[4, 5, 6])));
        for name in ["mse", "l1", "smooth_l1"] {
            assert_eq!(network(&[4, 10], name, "wanted"), Ok(Fact::f32(&[4, 10])));
            // An autoencoder: the target is the input itself.
            assert_eq!(network(&[4, 10], name, "x"), Ok(Fact::f32(&[4, 10])));
        }
        let error = network(&[4, 10], "cross_entropy", "x").unwrap_err().to_string();
        assert!(error.contains("i32[4] fits"), "{error}");
        assert!(network(&[], "cross_entropy", "labels").is_err());
        assert_eq!(Loss::named("hinge"), None);
    }
}
