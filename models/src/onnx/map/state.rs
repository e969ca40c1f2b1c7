//! Operators that carry a state from call to call: caches, causal convolution, linear attention.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::{Binary, Unary};
use wattle_protocol::ids::ValueId;

use super::super::call::{Call, few};
use super::super::import::Term;
use super::super::report::Reason;
use super::conv::convolved;
use super::window::Windows;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("CausalConvWithState", causal),
    ("LinearAttention", linear_attention),
    ("TensorScatter", tensor_scatter),
];

type Made = Result<ValueId, Reason>;

/// Longest sequence that is unrolled.
const STEPS_MAX: usize = 4096;

/// A depthwise convolution over what came before and comes now.
fn causal(call: &mut Call<'_>) -> Mapped {
    let kind = call.kind(0)?;
    let (shape, kernel) = (call.shape(0)?, call.shape(1)?);
    let ([batch, channels, _], [_, _, taps]) = (&shape[..], &kernel[..]) else {
        return Err(Reason::malformed("[B, C, L] and a kernel [C, 1, K] are needed"));
    };
    let x = call.value(0)?;
    if *taps < 2 {
        return Err(Reason::form("a kernel of one tap has an empty state"));
    }
    let past = match call.optional(3)? {
        Some(past) => past,
        None => call.fill(&[*batch, *channels, taps - 1], 0.0)?,
    };
    let whole = call.concat(&[past, x], 2)?;
    let (w, bias) = (call.value(1)?, call.optional(2)?);
    let windows = Windows {
        kernel: vec![*taps],
        stride: vec![1],
        dilation: vec![1],
        before: vec![0],
        after: vec![0],
    };
    let mut y = convolved(call, whole, w, bias, windows, *channels)?;
    match call.text("activation", "none")? {
        "none" => {}
        "silu" | "swish" => {
            let gate = call.unary(Unary::Sigmoid, y)?;
            y = call.mul(y, gate)?;
        }
        other => return Err(Reason::malformed(format!("activation {other:?}"))),
    }
    let length = call.shape_of(whole)[2];
    let state = call.slice(whole, 2, length - (taps - 1), length)?;
    Ok(vec![Term::Built(y, kind), Term::Built(state, kind)])
}

/// Brings `[B, T, heads D]` to `[B, heads, T, D]`.
fn headed(call: &mut Call<'_>, at: usize, heads: usize) -> Made {
    let x = call.value(at)?;
    let [batch, steps, width] = call.shape_of(x)[..] else {
        return Err(Reason::malformed("[B, T, heads D] is needed"));
    };
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(Reason::malformed("the number of heads is wrong"));
    }
    let x = call.reshape(x, &[batch, steps, heads, width / heads])?;
    call.transpose(x, &[0, 2, 1, 3])
}

/// A state `[B, heads, K, V]` that decays, is corrected by what it already holds, takes up `k v^T`, and is read by q.
#[expect(clippy::cast_precision_loss, reason = "a head's width is small")]
fn linear_attention(call: &mut Call<'_>) -> Mapped {
    let kind = call.kind(0)?;
    let heads = |name: &str| Ok::<_, Reason>(usize::try_from(call.int(name, 0)?).unwrap_or(0));
    let (q_heads, kv_heads) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    let rule = call.text("update_rule", "gated_delta")?;
    let (gated, corrected) = (rule.starts_with("gated"), rule.ends_with("delta"));
    let (q, k) = (headed(call, 0, q_heads)?, headed(call, 1, kv_heads)?);
    let v = headed(call, 2, kv_heads)?;
    let [batch, _, steps, width] = call.shape_of(k)[..] else {
        return Err(Reason::malformed("keys have four axes"));
    };
    let value_width = call.shape_of(v)[3];
    if steps > STEPS_MAX || !q_heads.is_multiple_of(kv_heads) {
        return Err(Reason::form("the layer's sizes are not supported"));
    }
    let decay = if gated {
        let decay = headed(call, 4, kv_heads)?;
        Some(call.unary(Unary::Exp, decay)?)
    } else {
        None
    };
    let beta = if corrected {
        let width = *call.shape(5)?.last().unwrap_or(&0);
        Some(headed(call, 5, width)?)
    } else {
        None
    };
    let scale = call.float("scale", 0.0)?;
    let scale = if scale == 0.0 { 1.0 / (width as f32).sqrt() } else { scale };
    let mut state = match call.optional(3)? {
        Some(state) => state,
        None => call.fill(&[batch, kv_heads, width, value_width], 0.0)?,
    };
    let mut outputs = Vec::new();
    let places: Vec<usize> = (0..q_heads).map(|head| head * kv_heads / q_heads).collect();
    for i in 0..steps {
        // Rows: [B, heads, 1, width].
        let (row, mut fresh) = (call.slice(k, 2, i, i + 1)?, call.slice(v, 2, i, i + 1)?);
        let column = call.transpose(row, &[0, 1, 3, 2])?;
        if let Some(decay) = decay {
            let rate = call.slice(decay, 2, i, i + 1)?;
            let rate = call.transpose(rate, &[0, 1, 3, 2])?;
            state = call.mul(state, rate)?;
        }
        if let Some(beta) = beta {
            let held = call.matmul(row, state)?;
            let gap = call.sub(fresh, held)?;
            let share = call.slice(beta, 2, i, i + 1)?;
            fresh = call.mul(share, gap)?;
        }
        let written = call.matmul(column, fresh)?;
        state = call.add(state, written)?;
        let read = if q_heads == kv_heads { state } else { call.take(state, 1, &places)? };
        let query = call.slice(q, 2, i, i + 1)?;
        outputs.push(call.matmul(query, read)?);
    }
    let y = call.concat(&outputs, 2)?;
    let y = call.scale(y, scale)?;
    let y = call.transpose(y, &[0, 2, 1, 3])?;
    let y = call.reshape(y, &[batch, steps, q_heads * value_width])?;
    let state_kind = if call.has(3) { call.kind(3)? } else { kind };
    Ok(vec![Term::Built(y, kind), Term::Built(state, state_kind)])
}

/// Writes a run of positions into a cache, for each sequence of the batch from its own place on.
fn tensor_scatter(call: &mut Call<'_>) -> Mapped {
    let (shape, update) = (call.shape(0)?, call.shape(1)?);
    let axis = call.axis_of("axis", -2, shape.len())?;
    let fits = shape.len() == update.len() && update[axis] <= shape[axis] && axis > 0;
    if !fits {
        return Err(Reason::malformed("the update does not fit the cache"));
    }
    let (batch, run) = (shape[0], few(&[update[axis]])?);
    let mut line = vec![1; shape.len()];
    line[axis] = run;
    let mut ids = call.op(Op::Iota { shape: line, axis }, &[])?;
    if let Some(starts) = call.optional(2)? {
        let mut column = vec![1; shape.len()];
        column[0] = batch;
        let starts = call.reshape(starts, &column)?;
        ids = call.add(ids, starts)?;
    }
    if call.text("mode", "linear")? == "circular" {
        let length =
            i32::try_from(shape[axis]).map_err(|_| Reason::form("the cache is too long"))?;
        let length = call.int_literal(length)?;
        ids = call.binary(Binary::Remainder, ids, length)?;
    }
    let ids = call.expand(ids, &update)?;
    let (x, fresh) = (call.value(0)?, call.value(1)?);
    let y = call.op(Op::ScatterElements { axis, add: false }, &[x, ids, fresh])?;
    call.like_first(y)
}
