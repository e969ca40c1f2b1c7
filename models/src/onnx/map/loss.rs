//! Losses over classes on axis 1.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::Comparison;
use wattle_protocol::ids::ValueId;

use super::super::call::Call;
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("SoftmaxCrossEntropyLoss", cross_entropy),
    ("NegativeLogLikelihoodLoss", |call| {
        let x = call.value(0)?;
        let y = likelihood(call, x)?;
        call.like_first(y)
    }),
];

fn cross_entropy(call: &mut Call<'_>) -> Mapped {
    let kind = call.kind(0)?;
    let x = call.value(0)?;
    let log = call.op(Op::LogSoftmax { axis: 1 }, &[x])?;
    let y = likelihood(call, log)?;
    Ok(vec![Term::Built(y, kind), Term::Built(log, kind)])
}

/// The negative log-likelihood of the targets, weighed by class; ignored targets weigh nothing.
fn likelihood(call: &mut Call<'_>, log: ValueId) -> Result<ValueId, Reason> {
    let targets = call.value(1)?;
    let shape = call.shape_of(targets);
    if shape.is_empty() || call.shape_of(log).len() != shape.len() + 1 {
        return Err(Reason::malformed("classes [B, C, ..] and targets [B, ..] are needed"));
    }
    let mut safe = targets;
    let mut counted = None;
    if let Some(ignored) = call.attributes().int("ignore_index")? {
        let ignored = i32::try_from(ignored)
            .map_err(|_| Reason::form(format!("ignore_index = {ignored} is too large")))?;
        let (ignored, zero) = (call.int_literal(ignored)?, call.int_literal(0)?);
        let hit = call.compare(Comparison::Equal, targets, ignored)?;
        // An ignored target may be no class at all: it reads class 0 and counts for nothing.
        safe = call.select(hit, zero, targets)?;
        let kept = call.not(hit)?;
        counted = Some(call.as_float(kept)?);
    }
    let mut line = shape.clone();
    line.insert(1, 1);
    let ids = call.reshape(safe, &line)?;
    let picked = call.op(Op::GatherElements { axis: 1 }, &[log, ids])?;
    let picked = call.reshape(picked, &shape)?;
    let mut loss = call.neg(picked)?;
    let mut weight = None;
    if let Some(classes) = call.optional(2)? {
        let own = call.op(Op::Gather { axis: 0 }, &[classes, safe])?;
        weight = Some(own);
    }
    weight = match (weight, counted) {
        (Some(weight), Some(counted)) => Some(call.mul(weight, counted)?),
        (weight, counted) => weight.or(counted),
    };
    if let Some(weight) = weight {
        loss = call.mul(loss, weight)?;
    }
    let axes: Vec<usize> = (0..shape.len()).collect();
    match (call.text("reduction", "mean")?, weight) {
        ("none", _) => Ok(loss),
        ("sum", _) => call.reduce_sum(loss, &axes, false),
        ("mean", None) => call.reduce_mean(loss, &axes, false),
        ("mean", Some(weight)) => {
            let total = call.reduce_sum(loss, &axes, false)?;
            let weights = call.reduce_sum(weight, &axes, false)?;
            call.div(total, weights)
        }
        (other, _) => Err(Reason::malformed(format!("reduction {other:?}"))),
    }
}
