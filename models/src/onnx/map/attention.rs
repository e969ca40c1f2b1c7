//! Attention with everything that ONNX hangs on it: caches, masks, grouped heads, soft caps; rotary embedding.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::op::{Comparison, HIDDEN, Unary};
use wattle_protocol::ids::ValueId;

use super::super::array::{Array, Kind};
use super::super::call::{Call, few};
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[("Attention", attention), ("RotaryEmbedding", rotary)];

type Made = Result<ValueId, Reason>;

/// Returns an operand as `[B, heads, T, D]`; three axes are `[B, T, heads D]`.
fn headed(call: &mut Call<'_>, at: usize, heads: i64) -> Made {
    let x = call.value(at)?;
    let shape = call.shape_of(x);
    match shape[..] {
        [_, _, _, _] => Ok(x),
        [batch, length, width] => {
            let heads = usize::try_from(heads).ok().filter(|n| *n > 0 && width % n == 0);
            let heads = heads.ok_or_else(|| Reason::malformed("the number of heads is wrong"))?;
            let x = call.reshape(x, &[batch, length, heads, width / heads])?;
            call.transpose(x, &[0, 2, 1, 3])
        }
        _ => Err(Reason::malformed("three or four axes are needed")),
    }
}

/// Appends keys or values to those of earlier positions.
fn with_past(call: &mut Call<'_>, x: ValueId, at: usize) -> Made {
    match call.optional(at)? {
        Some(past) => call.concat(&[past, x], 2),
        None => Ok(x),
    }
}

/// Repeats each head for its group of queries.
fn grouped(call: &mut Call<'_>, x: ValueId, heads: usize) -> Made {
    let own = call.shape_of(x)[1];
    if own == heads {
        return Ok(x);
    }
    if own == 0 || !heads.is_multiple_of(own) {
        return Err(Reason::malformed(format!("{heads} heads read {own}")));
    }
    few(&[heads])?;
    let places: Vec<usize> = (0..heads).map(|head| head * own / heads).collect();
    call.take(x, 1, &places)
}

/// Minus infinity, which no literal may be: the logarithm of 0.
fn minus_infinity(call: &mut Call<'_>) -> Made {
    let zero = call.fill(&[], 0.0)?;
    call.unary(Unary::Log, zero)
}

/// What stands beside the products of queries and keys.
struct Sizes {
    queries: usize,
    keys: usize,
    past: usize,
}

/// Keeps scores where a mask of 0 and 1 allows it.
fn allowed(call: &mut Call<'_>, scores: ValueId, mask: ValueId) -> Made {
    let never = minus_infinity(call)?;
    call.select(mask, scores, never)
}

/// The mask operand, made as long as the keys: absent positions are hidden.
fn mask_operand(call: &mut Call<'_>, sizes: &Sizes) -> Result<Option<(ValueId, bool)>, Reason> {
    let Some(mut mask) = call.optional(3)? else { return Ok(None) };
    let is_bool = call.kind(3)? == Kind::Bool;
    let shape = call.shape_of(mask);
    let axis = shape.len().saturating_sub(1);
    let missing = sizes.keys.saturating_sub(shape.last().copied().unwrap_or(0));
    if missing > 0 {
        let mut more = shape.clone();
        more[axis] = missing;
        let never = if is_bool { call.int_literal(0)? } else { minus_infinity(call)? };
        let never = call.expand(never, &more)?;
        mask = call.concat(&[mask, never], axis)?;
    }
    Ok(Some((mask, is_bool)))
}

/// Masks of 0 and 1 that are not operands: later positions, unless the operator excludes them itself, and those beyond
/// a sequence's own length.
fn own_masks(call: &mut Call<'_>, sizes: &Sizes, causal: bool) -> Result<Vec<ValueId>, Reason> {
    let mut masks = Vec::new();
    if causal {
        few(&[sizes.queries, sizes.keys])?;
        let holds = |at: usize| at % sizes.keys <= at / sizes.keys + sizes.past;
        let mask = (0..sizes.queries * sizes.keys).map(|at| i64::from(holds(at))).collect();
        let mask = Array::ints(Kind::Bool, vec![sizes.queries, sizes.keys], mask);
        masks.push(call.literal(mask)?);
    }
    if let Some(lengths) = call.optional(6)? {
        let batch = call.shape_of(lengths)[0];
        let lengths = call.reshape(lengths, &[batch, 1, 1, 1])?;
        let places = call.op(Op::Iota { shape: vec![sizes.keys], axis: 0 }, &[])?;
        masks.push(call.compare(Comparison::Less, places, lengths)?);
    }
    Ok(masks)
}

/// Adds the mask operand and excludes later and absent positions.
fn masked(call: &mut Call<'_>, scores: ValueId, sizes: &Sizes) -> Made {
    let mut scores = scores;
    if let Some((mask, is_bool)) = mask_operand(call, sizes)? {
        scores = if is_bool { allowed(call, scores, mask)? } else { call.add(scores, mask)? };
    }
    let causal = call.flag("is_causal", false)?;
    for mask in own_masks(call, sizes, causal)? {
        scores = allowed(call, scores, mask)?;
    }
    Ok(scores)
}

/// All masks as one that is added, for the fused operator, or none. `causal`: the operator does not exclude later
/// positions itself.
fn added(call: &mut Call<'_>, sizes: &Sizes, causal: bool) -> Result<Option<ValueId>, Reason> {
    let operand = mask_operand(call, sizes)?;
    let mut masks = own_masks(call, sizes, causal)?;
    let mut total = None;
    match operand {
        Some((mask, true)) => masks.push(mask),
        Some((mask, false)) => total = Some(mask),
        None => {}
    }
    for mask in masks {
        let hidden = call.fill(&[], HIDDEN)?;
        let seen = match total {
            Some(total) => total,
            None => call.fill(&[], 0.0)?,
        };
        total = Some(call.select(mask, seen, hidden)?);
    }
    Ok(total)
}

#[expect(clippy::cast_precision_loss, reason = "a head's width is small")]
fn attention(call: &mut Call<'_>) -> Mapped {
    let kind = call.kind(0)?;
    let (q_heads, kv_heads) = (call.int("q_num_heads", 0)?, call.int("kv_num_heads", 0)?);
    let q = headed(call, 0, q_heads)?;
    let (k, v) = (headed(call, 1, kv_heads)?, headed(call, 2, kv_heads)?);
    let past = if call.has(4) { call.shape(4)?[2] } else { 0 };
    let (present_k, present_v) = (with_past(call, k, 4)?, with_past(call, v, 5)?);
    let [batch, heads, queries, width] = call.shape_of(q)[..] else {
        return Err(Reason::malformed("queries have four axes"));
    };
    let scale = call.attributes().float("scale")?.unwrap_or(1.0 / (width as f32).sqrt());
    let causal = call.flag("is_causal", false)?;
    let cap = call.float("softcap", 0.0)?;
    let sizes = Sizes { queries, keys: call.shape_of(present_k)[2], past };
    let (y, product) = if cap == 0.0 && !call.wants(3) {
        let mask = added(call, &sizes, causal && past > 0)?;
        let operands: Vec<ValueId> = [q, present_k, present_v].into_iter().chain(mask).collect();
        (call.op(Op::Attention { causal: causal && past == 0, scale }, &operands)?, q)
    } else {
        let (k, v) = (grouped(call, present_k, heads)?, grouped(call, present_v, heads)?);
        weighed(call, [q, k, v], &sizes, scale, cap)?
    };
    let y = if call.rank(0)? == 3 {
        let value_width = call.shape_of(y)[3];
        let y = call.transpose(y, &[0, 2, 1, 3])?;
        call.reshape(y, &[batch, queries, heads * value_width])?
    } else {
        y
    };
    let results = [y, present_k, present_v, product];
    Ok(results.map(|value| Term::Built(value, kind)).to_vec())
}

/// Returns the result and the scores at the stage that the node asks for.
fn weighed(
    call: &mut Call<'_>,
    [q, k, v]: [ValueId; 3],
    sizes: &Sizes,
    scale: f32,
    cap: f32,
) -> Result<(ValueId, ValueId), Reason> {
    let op = Op::MatMul { transpose_a: false, transpose_b: true };
    let raw = call.op(op, &[q, k])?;
    let raw = call.scale(raw, scale)?;
    let capped = if cap > 0.0 {
        let small = call.scale(raw, 1.0 / cap)?;
        let small = call.unary(Unary::Tanh, small)?;
        call.scale(small, cap)?
    } else {
        raw
    };
    let scores = masked(call, capped, sizes)?;
    let axis = call.shape_of(scores).len() - 1;
    let weights = call.op(Op::Softmax { axis }, &[scores])?;
    let y = call.matmul(weights, v)?;
    let product = match call.int("qk_matmul_output_mode", 0)? {
        0 => raw,
        1 => capped,
        2 => scores,
        _ => weights,
    };
    Ok((y, product))
}

/// Turns pairs of each head by the angles of their positions.
fn rotary(call: &mut Call<'_>) -> Mapped {
    let shape = call.shape(0)?;
    let x = headed(call, 0, call.int("num_heads", 0)?)?;
    let [batch, _, length, width] = call.shape_of(x)[..] else {
        return Err(Reason::malformed("four axes are needed"));
    };
    let turned = usize::try_from(call.int("rotary_embedding_dim", 0)?).unwrap_or(0);
    let turned = if turned == 0 { width } else { turned };
    if turned > width || !turned.is_multiple_of(2) {
        return Err(Reason::malformed("rotary_embedding_dim does not fit"));
    }
    let half = turned / 2;
    let mut angle = |at: usize| -> Made {
        let mut table = call.value(at)?;
        if call.has(3) {
            let ids = call.value(3)?;
            table = call.op(Op::Gather { axis: 0 }, &[table, ids])?;
        }
        call.reshape(table, &[batch, 1, length, half])
    };
    let (cos, sin) = (angle(1)?, angle(2)?);
    let interleaved = call.flag("interleaved", false)?;
    let (a, b) = if interleaved {
        let evens: Vec<usize> = (0..half).map(|i| 2 * i).collect();
        let odds: Vec<usize> = (0..half).map(|i| 2 * i + 1).collect();
        (call.take(x, 3, &evens)?, call.take(x, 3, &odds)?)
    } else {
        (call.slice(x, 3, 0, half)?, call.slice(x, 3, half, turned)?)
    };
    let (a_cos, b_sin) = (call.mul(a, cos)?, call.mul(b, sin)?);
    let (a_sin, b_cos) = (call.mul(a, sin)?, call.mul(b, cos)?);
    let (real, imaginary) = (call.sub(a_cos, b_sin)?, call.add(a_sin, b_cos)?);
    let mut y = call.concat(&[real, imaginary], 3)?;
    if interleaved {
        let places: Vec<usize> = (0..turned).map(|i| i / 2 + i % 2 * half).collect();
        y = call.take(y, 3, &places)?;
    }
    if turned < width {
        let rest = call.slice(x, 3, turned, width)?;
        y = call.concat(&[y, rest], 3)?;
    }
    if shape.len() == 3 {
        y = call.transpose(y, &[0, 2, 1, 3])?;
        y = call.reshape(y, &shape)?;
    }
    call.like_first(y)
}
