//! Long short-term memory. Gates stand in the order input, forget, candidate, output.

use burn_backend::tensor::Device;
use wattle_protocol::swarm::io::TaskError;

use super::{Lengths, elements, joined, part, rest, slope, step, weight_grad, zeros};
use crate::exec::host::gates;
use crate::exec::kernel::activation::sigmoid;
use crate::exec::kernel::linear::matmul;
use crate::exec::tensor::{Float, HostBackend};

/// `fed [T, B, 4 H], recurrent [4 H, H], h, c [B, H] -> states [2, T, B, H], gates [T, B, 4 H]`.
///
/// *Errors*: the device's.
pub fn forward<B: HostBackend>(
    [fed, recurrent, h, c]: [Float<B>; 4],
    device: &Device<B>,
) -> Result<(Float<B>, Float<B>), TaskError> {
    let mut lengths = Lengths::of(&fed.shape());
    lengths.width /= 4;
    if fed.host().is_some() {
        return on_host([fed, recurrent, h, c], lengths, device);
    }
    let (mut h, mut c) = (h, c);
    let (mut hidden, mut cells, mut gates) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..lengths.steps {
        let sums = step(&fed, at).add(matmul(h, recurrent.clone(), false, true));
        let of = |index: usize| part(&sums, index, lengths.width);
        let (input, forget) = (sigmoid(of(0), device), sigmoid(of(1), device));
        let (candidate, output) = (of(2).tanh(), sigmoid(of(3), device));
        c = forget.clone().mul(c).add(input.clone().mul(candidate.clone()));
        h = output.clone().mul(c.clone().tanh());
        gates.push(Float::concat(vec![input, forget, candidate, output], 1));
        hidden.push(h.clone());
        cells.push(c.clone());
    }
    let Lengths { steps, batch, width } = lengths;
    hidden.extend(cells);
    Ok((joined(hidden).reshape(&[2, steps, batch, width]), joined(gates)))
}

fn on_host<B: HostBackend>(
    [fed, recurrent, mut h, c]: [Float<B>; 4],
    lengths: Lengths,
    device: &Device<B>,
) -> Result<(Float<B>, Float<B>), TaskError> {
    let Lengths { steps, batch, width } = lengths;
    let (row, wide) = (lengths.row(1), lengths.row(4));
    let (fed_values, first) = (elements(&fed)?, elements(&c)?);
    let mut states = vec![0.0; 2 * steps * row];
    let mut kept = vec![0.0; steps * wide];
    let (hidden, cells) = states.split_at_mut(steps * row);
    for at in 0..steps {
        let back = elements(&matmul(h, recurrent.clone(), false, true))?;
        let (before, cell) = cells.split_at_mut(at * row);
        let cell_before = if at == 0 { &first[..] } else { &before[(at - 1) * row..] };
        let fed = &fed_values[at * wide..(at + 1) * wide];
        let hidden = &mut hidden[at * row..(at + 1) * row];
        let x = gates::LstmIn { fed, back: &back, cell: cell_before };
        let gates_at = &mut kept[at * wide..(at + 1) * wide];
        gates::lstm(x, width, gates_at, [&mut hidden[..], &mut cell[..row]]);
        h = Float::new(hidden.to_vec(), &[batch, width], device);
    }
    let states = Float::new(states, &[2, steps, batch, width], device);
    Ok((states, Float::new(kept, &[steps, batch, 4 * width], device)))
}

/// `recurrent, h, c, states, gates, g [2, T, B, H] -> dfed, drecurrent, dh, dc`.
///
/// *Errors*: the device's.
pub fn backward<B: HostBackend>(
    [recurrent, h, c, states, gates, g]: [Float<B>; 6],
    device: &Device<B>,
) -> Result<Vec<Float<B>>, TaskError> {
    let lengths = Lengths::of(&states.shape());
    let shape = &states.shape()[1..];
    let half = |x: &Float<B>, at: usize| x.clone().slice(0, at, at + 1).reshape(shape);
    let (hidden, cells) = (half(&states, 0), half(&states, 1));
    let g = [half(&g, 0), half(&g, 1)];
    let (sums, dh, dc) = if gates.host().is_some() {
        back_on_host(&recurrent, [c, cells, gates], g, lengths, device)?
    } else {
        back(&recurrent, [c, cells, gates], &g, lengths, device)
    };
    let weight = weight_grad(sums.clone(), h, hidden, lengths);
    Ok(vec![sums, weight, dh, dc])
}

/// The sums' cotangents `[T, B, 4 H]`, and those of the first hidden state and cell.
type Back<B> = (Float<B>, Float<B>, Float<B>);

fn back<B: HostBackend>(
    recurrent: &Float<B>,
    [first, cells, gates]: [Float<B>; 3],
    g: &[Float<B>; 2],
    lengths: Lengths,
    device: &Device<B>,
) -> Back<B> {
    let (mut dh, mut dc) = (zeros(lengths, device), zeros(lengths, device));
    let mut sums = Vec::with_capacity(lengths.steps);
    for at in (0..lengths.steps).rev() {
        let gates = step(&gates, at);
        let of = |index: usize| part(&gates, index, lengths.width);
        let (input, forget, candidate, output) = (of(0), of(1), of(2), of(3));
        let before = if at == 0 { first.clone() } else { step(&cells, at - 1) };
        let shown = step(&cells, at).tanh();
        let through = rest(shown.clone().mul(shown.clone()));
        dh = dh.add(step(&g[0], at));
        dc = dc.add(step(&g[1], at)).add(dh.clone().mul(output.clone()).mul(through));
        let of_input = dc.clone().mul(candidate.clone()).mul(slope(input.clone()));
        let of_forget = dc.clone().mul(before).mul(slope(forget.clone()));
        let flat = rest(candidate.clone().mul(candidate));
        let of_candidate = dc.clone().mul(input).mul(flat);
        let of_output = dh.mul(shown).mul(slope(output));
        let row = Float::concat(vec![of_input, of_forget, of_candidate, of_output], 1);
        dc = dc.mul(forget);
        dh = row.clone().matmul(recurrent.clone());
        sums.push(row);
    }
    sums.reverse();
    (joined(sums), dh, dc)
}

fn back_on_host<B: HostBackend>(
    recurrent: &Float<B>,
    [first, cells, gates]: [Float<B>; 3],
    [g_hidden, g_cell]: [Float<B>; 2],
    lengths: Lengths,
    device: &Device<B>,
) -> Result<Back<B>, TaskError> {
    let Lengths { steps, batch, width } = lengths;
    let (row, wide) = (lengths.row(1), lengths.row(4));
    let (first, cells, gates_values) = (elements(&first)?, elements(&cells)?, elements(&gates)?);
    let (g_hidden, g_cell) = (elements(&g_hidden)?, elements(&g_cell)?);
    let mut sums = vec![0.0; steps * wide];
    let (mut carry, mut from_after) = (vec![0.0; row], vec![0.0; row]);
    for at in (0..steps).rev() {
        let own = at * row..(at + 1) * row;
        let before = if at == 0 { &first[..] } else { &cells[(at - 1) * row..at * row] };
        let x = gates::LstmOut {
            gates: &gates_values[at * wide..(at + 1) * wide],
            cells: [before, &cells[own.clone()]],
            g_hidden: [&g_hidden[own.clone()], &from_after],
            g_cell: &g_cell[own],
        };
        let sums = &mut sums[at * wide..(at + 1) * wide];
        gates::lstm_grad(x, width, sums, &mut carry);
        let sums = Float::new(sums.to_vec(), &[batch, 4 * width], device);
        from_after = elements(&sums.matmul(recurrent.clone()))?;
    }
    let state = |values: Vec<f32>| Float::new(values, &[batch, width], device);
    let sums = Float::new(sums, &[steps, batch, 4 * width], device);
    Ok((sums, state(from_after), state(carry)))
}
