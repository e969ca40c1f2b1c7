//! Gated recurrent units whose reset gate applies after the candidate's recurrent product.

use burn_backend::tensor::Device;
use wattle_protocol::swarm::io::TaskError;

use super::{Lengths, elements, joined, part, rest, slope, step, weight_grad, zeros};
use crate::exec::host::gates;
use crate::exec::kernel::activation::sigmoid;
use crate::exec::kernel::linear::matmul;
use crate::exec::tensor::{Float, HostBackend};

/// `fed [T, B, 3 H], recurrent [3 H, H], bias [H], h [B, H] -> y [T, B, H], gates [T, B, 4 H]`.
///
/// *Errors*: the device's.
pub fn forward<B: HostBackend>(
    [fed, recurrent, bias, h]: [Float<B>; 4],
    device: &Device<B>,
) -> Result<(Float<B>, Float<B>), TaskError> {
    let mut lengths = Lengths::of(&fed.shape());
    lengths.width /= 3;
    if fed.host().is_some() {
        return on_host([fed, recurrent, bias, h], lengths, device);
    }
    let width = lengths.width;
    let mut h = h;
    let (mut hidden, mut kept) = (Vec::new(), Vec::new());
    for at in 0..lengths.steps {
        let fed = step(&fed, at);
        let back = matmul(h.clone(), recurrent.clone(), false, true);
        let both = |index: usize| part(&fed, index, width).add(part(&back, index, width));
        let (reset, update) = (sigmoid(both(0), device), sigmoid(both(1), device));
        let own = part(&back, 2, width).add(bias.clone());
        let candidate = part(&fed, 2, width).add(reset.clone().mul(own.clone())).tanh();
        h = candidate.clone().add(update.clone().mul(h.sub(candidate.clone())));
        kept.push(Float::concat(vec![reset, update, candidate, own], 1));
        hidden.push(h.clone());
    }
    Ok((joined(hidden), joined(kept)))
}

fn on_host<B: HostBackend>(
    [fed, recurrent, bias, mut h]: [Float<B>; 4],
    lengths: Lengths,
    device: &Device<B>,
) -> Result<(Float<B>, Float<B>), TaskError> {
    let Lengths { steps, batch, width } = lengths;
    let (row, fed_row, wide) = (lengths.row(1), lengths.row(3), lengths.row(4));
    let (fed, bias) = (elements(&fed)?, elements(&bias)?);
    let mut before = elements(&h)?;
    let (mut y, mut kept) = (vec![0.0; steps * row], vec![0.0; steps * wide]);
    for at in 0..steps {
        let back = elements(&matmul(h, recurrent.clone(), false, true))?;
        let fed = &fed[at * fed_row..(at + 1) * fed_row];
        let x = gates::GruIn { fed, back: &back, bias: &bias, hidden: &before };
        let own = &mut y[at * row..(at + 1) * row];
        gates::gru(x, width, &mut kept[at * wide..(at + 1) * wide], own);
        before.copy_from_slice(own);
        h = Float::new(before.clone(), &[batch, width], device);
    }
    let y = Float::new(y, &[steps, batch, width], device);
    Ok((y, Float::new(kept, &[steps, batch, 4 * width], device)))
}

/// `recurrent, h, y, gates, g [T, B, H] -> dfed, drecurrent, dbias, dh`.
///
/// *Errors*: the device's.
pub fn backward<B: HostBackend>(
    [recurrent, h, y, gates, g]: [Float<B>; 5],
    device: &Device<B>,
) -> Result<Vec<Float<B>>, TaskError> {
    let lengths = Lengths::of(&y.shape());
    let (fed, back, dh) = if gates.host().is_some() {
        back_on_host(&recurrent, [&h, &y, &gates, &g], lengths, device)?
    } else {
        back(&recurrent, [&h, &y, &gates, &g], lengths, device)
    };
    let width = lengths.width;
    let bias = back.clone().slice(2, 2 * width, 3 * width).sum_axes(&[0, 1]).reshape(&[width]);
    let weight = weight_grad(back, h, y, lengths);
    Ok(vec![fed, weight, bias, dh])
}

/// Cotangents of the sums from the input and of the recurrent products `[T, B, 3 H]`, and of the first hidden state.
type Back<B> = (Float<B>, Float<B>, Float<B>);

fn back<B: HostBackend>(
    recurrent: &Float<B>,
    [h, y, gates, g]: [&Float<B>; 4],
    lengths: Lengths,
    device: &Device<B>,
) -> Back<B> {
    let mut dh = zeros(lengths, device);
    let (mut fed, mut back) = (Vec::new(), Vec::new());
    for at in (0..lengths.steps).rev() {
        let gates = step(gates, at);
        let of = |index: usize| part(&gates, index, lengths.width);
        let (reset, update, candidate, own) = (of(0), of(1), of(2), of(3));
        let before = if at == 0 { h.clone() } else { step(y, at - 1) };
        dh = dh.add(step(g, at));
        let flat = rest(candidate.clone().mul(candidate.clone()));
        let of_candidate = dh.clone().mul(rest(update.clone())).mul(flat);
        let of_reset = of_candidate.clone().mul(own).mul(slope(reset.clone()));
        let of_update = dh.clone().mul(before.sub(candidate)).mul(slope(update.clone()));
        let of_own = of_candidate.clone().mul(reset);
        let row = Float::concat(vec![of_reset.clone(), of_update.clone(), of_own], 1);
        fed.push(Float::concat(vec![of_reset, of_update, of_candidate], 1));
        dh = dh.mul(update).add(row.clone().matmul(recurrent.clone()));
        back.push(row);
    }
    fed.reverse();
    back.reverse();
    (joined(fed), joined(back), dh)
}

fn back_on_host<B: HostBackend>(
    recurrent: &Float<B>,
    [h, y, gates, g]: [&Float<B>; 4],
    lengths: Lengths,
    device: &Device<B>,
) -> Result<Back<B>, TaskError> {
    let Lengths { steps, batch, width } = lengths;
    let (row, fed_row, wide) = (lengths.row(1), lengths.row(3), lengths.row(4));
    let (first, y) = (elements(h)?, elements(y)?);
    let (gates_values, g) = (elements(gates)?, elements(g)?);
    let (mut fed, mut back) = (vec![0.0; steps * fed_row], vec![0.0; steps * fed_row]);
    let mut carry = vec![0.0; row];
    for at in (0..steps).rev() {
        let own = at * row..(at + 1) * row;
        let of_step = at * fed_row..(at + 1) * fed_row;
        let x = gates::GruOut {
            gates: &gates_values[at * wide..(at + 1) * wide],
            hidden: if at == 0 { &first } else { &y[(at - 1) * row..at * row] },
            g: &g[own],
        };
        let back = &mut back[of_step.clone()];
        gates::gru_grad(x, width, [&mut fed[of_step], &mut back[..]], &mut carry);
        let sums = Float::new(back.to_vec(), &[batch, 3 * width], device);
        let from_product = elements(&sums.matmul(recurrent.clone()))?;
        carry.iter_mut().zip(from_product).for_each(|(carry, part)| *carry += part);
    }
    let sums = |values: Vec<f32>| Float::new(values, &[steps, batch, 3 * width], device);
    Ok((sums(fed), sums(back), Float::new(carry, &[batch, width], device)))
}
