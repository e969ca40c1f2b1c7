//! Recurrent layers: one operator where the cell is the usual one, else unrolled over time.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::compose::recurrent::{self, Sequence};
use wattle_protocol::dag::op::Unary;
use wattle_protocol::ids::ValueId;

use super::super::call::Call;
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[
    ("LSTM", |call| layer(call, &["Sigmoid", "Tanh", "Tanh"], 4, lstm)),
    ("GRU", |call| layer(call, &["Sigmoid", "Tanh"], 3, gru)),
    ("RNN", |call| layer(call, &["Tanh"], 1, rnn)),
];

type Made = Result<ValueId, Reason>;

/// Longest sequence that is unrolled.
const STEPS_MAX: usize = 4096;

/// One direction's weights and settings.
struct Cell {
    width: usize,
    /// `x W^T + bias` of all steps: `[T, B, gates H]`.
    fed: ValueId,
    /// `[gates H, H]`.
    recurrent: ValueId,
    /// `[gates H]`: bias of the recurrent product, where it is not part of `fed`.
    recurrent_bias: Option<ValueId>,
    peepholes: Option<ValueId>,
    functions: Vec<Unary>,
    /// The candidate's reset gate applies after its product.
    resets_after: bool,
}

/// A step: from the fed part and the state to the next state.
type Step = fn(&mut Call<'_>, &Cell, ValueId, &[ValueId]) -> Result<Vec<ValueId>, Reason>;

fn functions(call: &Call<'_>, defaults: &[&str], direction: usize) -> Result<Vec<Unary>, Reason> {
    let given = call.attributes().texts("activations")?;
    let count = defaults.len();
    let names: Vec<String> = match &given {
        Some(names) => {
            let own = names.get(direction * count..(direction + 1) * count);
            let own = own.ok_or_else(|| Reason::malformed("activations are missing"))?;
            own.iter().map(|name| (*name).to_owned()).collect()
        }
        None => defaults.iter().map(|name| (*name).to_owned()).collect(),
    };
    let known = |name: &String| match name.to_lowercase().as_str() {
        "sigmoid" => Ok(Unary::Sigmoid),
        "tanh" => Ok(Unary::Tanh),
        _ => Err(Reason::form(format!("the activation {name} is not supported in a cell"))),
    };
    names.iter().map(known).collect()
}

/// Returns one direction of an operand `[directions, ..]`.
fn direction_of(call: &mut Call<'_>, at: usize, direction: usize) -> Made {
    let x = call.value(at)?;
    let shape = call.shape_of(x);
    let x = call.slice(x, 0, direction, direction + 1)?;
    call.reshape(x, &shape[1..])
}

fn refuse_rare(call: &Call<'_>) -> Result<(), Reason> {
    for name in ["clip", "activation_alpha", "activation_beta"] {
        if call.attributes().has(name) {
            return Err(Reason::form(format!("{name} is not supported")));
        }
    }
    if call.flag("input_forget", false)? {
        return Err(Reason::form("input_forget is not supported"));
    }
    Ok(())
}

/// Says whether sequences have lengths of their own.
fn need_whole(call: &Call<'_>, steps: usize) -> Result<(), Reason> {
    if !call.has(4) {
        return Ok(());
    }
    let whole = call.known_ints(4)?.iter().all(|n| usize::try_from(*n).is_ok_and(|n| n == steps));
    if whole { Ok(()) } else { Err(Reason::form("sequences of different lengths")) }
}

fn layer(call: &mut Call<'_>, defaults: &[&str], gates: usize, step: Step) -> Mapped {
    refuse_rare(call)?;
    let kind = call.kind(0)?;
    let batch_first = call.flag("layout", false)?;
    let mut x = call.value(0)?;
    if batch_first {
        x = call.transpose(x, &[1, 0, 2])?;
    }
    let [steps, batch, _] = call.shape_of(x)[..] else {
        return Err(Reason::malformed("[T, B, I] is needed"));
    };
    need_whole(call, steps)?;
    let directions = call.shape(1)?[0];
    let width = call.shape(2)?.get(2).copied().unwrap_or(0);
    let named = call.text("direction", "forward")?;
    let states = if gates == 4 { 2 } else { 1 };
    if steps > STEPS_MAX || width == 0 || directions == 0 {
        return Err(Reason::form("the layer's sizes are not supported"));
    }
    let (mut sequences, mut ends) = (Vec::new(), vec![Vec::new(); states]);
    for direction in 0..directions {
        let order = fused_order(call, gates, defaults, direction)?;
        let sizes = [direction, gates, width];
        let cell = cell(call, x, sizes, (defaults, order))?;
        let state = starts(call, direction, states, [batch, width], batch_first)?;
        let backwards = named == "reverse" || direction == 1;
        let lengths = [steps, batch, width];
        let (sequence, state) = match order {
            Some(_) => fused(call, &cell, &state, lengths, backwards)?,
            None => unrolled(call, &cell, (step, state), lengths, backwards)?,
        };
        sequences.push(sequence);
        for (ends, end) in ends.iter_mut().zip(&state) {
            ends.push(call.reshape(*end, &[1, batch, width])?);
        }
    }
    let mut results = vec![call.concat(&sequences, 1)?];
    for ends in ends {
        results.push(call.concat(&ends, 0)?);
    }
    if batch_first {
        results[0] = call.transpose(results[0], &[2, 0, 1, 3])?;
        for end in &mut results[1..] {
            *end = call.transpose(*end, &[1, 0, 2])?;
        }
    }
    Ok(results.into_iter().map(|value| Term::Built(value, kind)).collect())
}

/// Returns the order of the rows for the fused operator, or none where the cell is not the one that it computes.
fn fused_order(
    call: &Call<'_>,
    gates: usize,
    defaults: &[&str],
    direction: usize,
) -> Result<Option<&'static [usize]>, Reason> {
    let usual = match gates {
        4 => vec![Unary::Sigmoid, Unary::Tanh, Unary::Tanh],
        _ => vec![Unary::Sigmoid, Unary::Tanh],
    };
    if call.has(7) || functions(call, defaults, direction)? != usual {
        return Ok(None);
    }
    Ok(match gates {
        // ONNX: input, output, forget, candidate.
        4 => Some(&[0, 2, 3, 1]),
        // ONNX: update, reset, candidate.
        3 if call.flag("linear_before_reset", false)? => Some(&[1, 0, 2]),
        _ => None,
    })
}

/// A layer's hidden states `[T, 1, B, H]` and its last states `[B, H]`.
type Run = (ValueId, Vec<ValueId>);

fn fused(
    call: &mut Call<'_>,
    cell: &Cell,
    state: &[ValueId],
    [steps, batch, width]: [usize; 3],
    backwards: bool,
) -> Result<Run, Reason> {
    let bias = match (state, cell.recurrent_bias) {
        ([_], Some(bias)) => call.slice(bias, 0, 2 * width, 3 * width)?,
        _ => call.fill(&[width], 0.0)?,
    };
    let mut found: Option<Sequence> = None;
    call.compose(|s| {
        let recurrent = cell.recurrent;
        let run = match *state {
            [h, c] => recurrent::lstm_of(s, cell.fed, recurrent, Some([h, c]), backwards)?,
            [h, ..] => recurrent::gru_of(s, cell.fed, [recurrent, bias], Some(h), backwards)?,
            [] => recurrent::gru_of(s, cell.fed, [recurrent, bias], None, backwards)?,
        };
        found = Some(run);
        Ok(run.hidden)
    })?;
    let Sequence { hidden, last, cell } =
        found.ok_or_else(|| Reason::form("a layer without steps"))?;
    let sequence = call.reshape(hidden, &[steps, 1, batch, width])?;
    Ok((sequence, [last, cell][..state.len()].to_vec()))
}

fn unrolled(
    call: &mut Call<'_>,
    cell: &Cell,
    (step, mut state): (Step, Vec<ValueId>),
    [steps, batch, width]: [usize; 3],
    backwards: bool,
) -> Result<Run, Reason> {
    let rows = call.shape_of(cell.fed)[2];
    let mut outputs = Vec::new();
    for i in 0..steps {
        let at = if backwards { steps - 1 - i } else { i };
        let fed = call.slice(cell.fed, 0, at, at + 1)?;
        let fed = call.reshape(fed, &[batch, rows])?;
        state = step(call, cell, fed, &state)?;
        outputs.push(call.reshape(state[0], &[1, 1, batch, width])?);
    }
    if backwards {
        outputs.reverse();
    }
    Ok((call.concat(&outputs, 0)?, state))
}

/// Brings blocks of `width` rows into an order.
fn reordered(call: &mut Call<'_>, x: ValueId, width: usize, order: Option<&[usize]>) -> Made {
    let Some(order) = order else { return Ok(x) };
    let mut parts = Vec::with_capacity(order.len());
    for block in order {
        parts.push(call.slice(x, 0, block * width, (block + 1) * width)?);
    }
    call.concat(&parts, 0)
}

fn cell(
    call: &mut Call<'_>,
    x: ValueId,
    [direction, gates, width]: [usize; 3],
    (defaults, order): (&[&str], Option<&[usize]>),
) -> Result<Cell, Reason> {
    let resets_after = call.flag("linear_before_reset", false)?;
    let weight = direction_of(call, 1, direction)?;
    let weight = reordered(call, weight, width, order)?;
    let recurrent = direction_of(call, 2, direction)?;
    let recurrent = reordered(call, recurrent, width, order)?;
    let mut fed = call.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[x, weight])?;
    let mut recurrent_bias = None;
    if call.has(3) {
        let both = direction_of(call, 3, direction)?;
        let own = call.slice(both, 0, 0, gates * width)?;
        let own = reordered(call, own, width, order)?;
        fed = call.add(fed, own)?;
        let other = call.slice(both, 0, gates * width, 2 * gates * width)?;
        let other = reordered(call, other, width, order)?;
        if resets_after && order.is_some() {
            // Those of reset and update stand outside the reset.
            let fills = call.slice(other, 0, 0, 2 * width)?;
            let rows = Op::Unslice { axis: 0, start: 0, len: gates * width };
            let fills = call.op(rows, &[fills])?;
            fed = call.add(fed, fills)?;
            recurrent_bias = Some(other);
        } else if resets_after {
            recurrent_bias = Some(other);
        } else {
            fed = call.add(fed, other)?;
        }
    }
    let peepholes = if call.has(7) { Some(direction_of(call, 7, direction)?) } else { None };
    let functions = functions(call, defaults, direction)?;
    Ok(Cell { width, fed, recurrent, recurrent_bias, peepholes, functions, resets_after })
}

/// Returns the states before the first step: hidden, and for an LSTM the cell's.
fn starts(
    call: &mut Call<'_>,
    direction: usize,
    states: usize,
    shape: [usize; 2],
    batch_first: bool,
) -> Result<Vec<ValueId>, Reason> {
    let mut found = Vec::new();
    for at in (5..).take(states) {
        found.push(if call.has(at) {
            let mut x = call.value(at)?;
            if batch_first {
                x = call.transpose(x, &[1, 0, 2])?;
            }
            let x = call.slice(x, 0, direction, direction + 1)?;
            call.reshape(x, &shape)?
        } else {
            call.fill(&shape, 0.0)?
        });
    }
    Ok(found)
}

/// One gate's part of `[B, gates H]` or `[gates H]`.
fn gate(call: &mut Call<'_>, cell: &Cell, x: ValueId, index: usize) -> Made {
    let axis = call.shape_of(x).len() - 1;
    call.slice(x, axis, index * cell.width, (index + 1) * cell.width)
}

fn turned(call: &mut Call<'_>, x: ValueId, weight: ValueId) -> Made {
    call.op(Op::MatMul { transpose_a: false, transpose_b: true }, &[x, weight])
}

fn rnn(
    call: &mut Call<'_>,
    cell: &Cell,
    fed: ValueId,
    state: &[ValueId],
) -> Result<Vec<ValueId>, Reason> {
    let back = turned(call, state[0], cell.recurrent)?;
    let sum = call.add(fed, back)?;
    Ok(vec![call.unary(cell.functions[0], sum)?])
}

/// Gates in ONNX's order: input, output, forget, candidate.
fn lstm(
    call: &mut Call<'_>,
    cell: &Cell,
    fed: ValueId,
    state: &[ValueId],
) -> Result<Vec<ValueId>, Reason> {
    let back = turned(call, state[0], cell.recurrent)?;
    let sum = call.add(fed, back)?;
    let [squash, feed, show] = [cell.functions[0], cell.functions[1], cell.functions[2]];
    let peek = |call: &mut Call<'_>, x: ValueId, index: usize, c: ValueId| match cell.peepholes {
        Some(peepholes) => {
            let weight = gate(call, cell, peepholes, index)?;
            let seen = call.mul(weight, c)?;
            call.add(x, seen)
        }
        None => Ok(x),
    };
    let input = gate(call, cell, sum, 0)?;
    let input = peek(call, input, 0, state[1])?;
    let input = call.unary(squash, input)?;
    let forget = gate(call, cell, sum, 2)?;
    let forget = peek(call, forget, 2, state[1])?;
    let forget = call.unary(squash, forget)?;
    let candidate = gate(call, cell, sum, 3)?;
    let candidate = call.unary(feed, candidate)?;
    let (kept, fresh) = (call.mul(forget, state[1])?, call.mul(input, candidate)?);
    let c = call.add(kept, fresh)?;
    let output = gate(call, cell, sum, 1)?;
    let output = peek(call, output, 1, c)?;
    let output = call.unary(squash, output)?;
    let shown = call.unary(show, c)?;
    Ok(vec![call.mul(output, shown)?, c])
}

/// Gates in ONNX's order: update, reset, candidate.
fn gru(
    call: &mut Call<'_>,
    cell: &Cell,
    fed: ValueId,
    state: &[ValueId],
) -> Result<Vec<ValueId>, Reason> {
    let h = state[0];
    let mut back = turned(call, h, cell.recurrent)?;
    if let Some(bias) = cell.recurrent_bias {
        back = call.add(back, bias)?;
    }
    let [squash, feed] = [cell.functions[0], cell.functions[1]];
    let mut gates = Vec::new();
    for index in 0..2 {
        let (own, other) = (gate(call, cell, fed, index)?, gate(call, cell, back, index)?);
        let sum = call.add(own, other)?;
        gates.push(call.unary(squash, sum)?);
    }
    let (update, reset) = (gates[0], gates[1]);
    let own = gate(call, cell, fed, 2)?;
    let other = if cell.resets_after {
        let other = gate(call, cell, back, 2)?;
        call.mul(reset, other)?
    } else {
        let kept = call.mul(reset, h)?;
        let weight = call.slice(cell.recurrent, 0, 2 * cell.width, 3 * cell.width)?;
        turned(call, kept, weight)?
    };
    let candidate = call.add(own, other)?;
    let candidate = call.unary(feed, candidate)?;
    // `(1 - z) n + z h = n + z (h - n)`.
    let gap = call.sub(h, candidate)?;
    let part = call.mul(update, gap)?;
    Ok(vec![call.add(candidate, part)?])
}
