//! The element-wise parts of one step of recurrent layers, forward and back, over rows of a batch.
//!
//! Rows of gates hold the gates one after another, `width` numbers each, in the order that the operators document.

use super::{sigmoid, tanh, vectorised};

/// Splits a row of gates.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn parts<const N: usize>(row: &[f32], width: usize) -> [&[f32]; N] {
    let mut parts = [row; N];
    for (at, part) in parts.iter_mut().enumerate() {
        *part = &row[at * width..(at + 1) * width];
    }
    parts
}

/// Splits a row of four gates to write them.
#[inline(always)]
// Always: it must vectorise within the caller's loop.
fn parts_mut(row: &mut [f32], width: usize) -> [&mut [f32]; 4] {
    let (a, row) = row.split_at_mut(width);
    let (b, row) = row.split_at_mut(width);
    let (c, d) = row.split_at_mut(width);
    [a, b, c, d]
}

/// What a step of an LSTM reads: `[B, 4 H]` from the input and from the hidden state, and the cell `[B, H]`.
#[derive(Clone, Copy, Debug)]
pub struct LstmIn<'a> {
    /// From the input.
    pub fed: &'a [f32],
    /// From the hidden state.
    pub back: &'a [f32],
    /// The cell before.
    pub cell: &'a [f32],
}

/// One step of an LSTM: writes gates `[B, 4 H]`, the hidden state and the cell `[B, H]`.
pub fn lstm(x: LstmIn<'_>, width: usize, gates: &mut [f32], [hidden, cell]: [&mut [f32]; 2]) {
    vectorised(
        #[inline(always)]
        || {
            let rows = gates.chunks_exact_mut(4 * width);
            for (row, gates) in rows.enumerate() {
                let wide = row * 4 * width..(row + 1) * 4 * width;
                let own = row * width..(row + 1) * width;
                let (fed, back) = (&x.fed[wide.clone()], &x.back[wide]);
                for i in 0..4 * width {
                    gates[i] = fed[i] + back[i];
                }
                let [input, forget, candidate, output] = parts_mut(gates, width);
                let (old, cell) = (&x.cell[own.clone()], &mut cell[own.clone()]);
                let hidden = &mut hidden[own];
                for i in 0..width {
                    input[i] = sigmoid(input[i]);
                    forget[i] = sigmoid(forget[i]);
                    candidate[i] = tanh(candidate[i]);
                    output[i] = sigmoid(output[i]);
                    cell[i] = forget[i] * old[i] + input[i] * candidate[i];
                    hidden[i] = output[i] * tanh(cell[i]);
                }
            }
        },
    );
}

/// What a step back through an LSTM reads.
#[derive(Clone, Copy, Debug)]
pub struct LstmOut<'a> {
    /// `[B, 4 H]`.
    pub gates: &'a [f32],
    /// The cell before and after, `[B, H]`.
    pub cells: [&'a [f32]; 2],
    /// Cotangent of the hidden state after: from outside, and from the step after, `[B, H]`.
    pub g_hidden: [&'a [f32]; 2],
    /// Cotangent of the cell after, from outside.
    pub g_cell: &'a [f32],
}

/// One step back: writes the cotangents of the gates' sums; `carry` is the cell's from the step after, and becomes the
/// one for the step before.
pub fn lstm_grad(x: LstmOut<'_>, width: usize, sums: &mut [f32], carry: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (row, sums) in sums.chunks_exact_mut(4 * width).enumerate() {
                let own = row * width..(row + 1) * width;
                let gates = &x.gates[row * 4 * width..(row + 1) * 4 * width];
                let [input, forget, candidate, output] = parts(gates, width);
                let [of_input, of_forget, of_candidate, of_output] = parts_mut(sums, width);
                let [old, cell] = x.cells.map(|cell| &cell[own.clone()]);
                let [from_outside, from_after] = x.g_hidden.map(|g| &g[own.clone()]);
                let (g_cell, carry) = (&x.g_cell[own.clone()], &mut carry[own]);
                for i in 0..width {
                    let shown = tanh(cell[i]);
                    let dh = from_outside[i] + from_after[i];
                    let dc = carry[i] + g_cell[i] + dh * output[i] * (1.0 - shown * shown);
                    of_input[i] = dc * candidate[i] * input[i] * (1.0 - input[i]);
                    of_forget[i] = dc * old[i] * forget[i] * (1.0 - forget[i]);
                    of_candidate[i] = dc * input[i] * (1.0 - candidate[i] * candidate[i]);
                    of_output[i] = dh * shown * output[i] * (1.0 - output[i]);
                    carry[i] = dc * forget[i];
                }
            }
        },
    );
}

/// What a step of a GRU reads: `[B, 3 H]` from the input and from the hidden state (its product only), the bias `[H]`,
/// the hidden state before `[B, H]`.
#[derive(Clone, Copy, Debug)]
pub struct GruIn<'a> {
    /// From the input.
    pub fed: &'a [f32],
    /// From the hidden state.
    pub back: &'a [f32],
    /// Of the candidate's recurrent part.
    pub bias: &'a [f32],
    /// The hidden state before.
    pub hidden: &'a [f32],
}

/// One step of a GRU: writes gates `[B, 4 H]` (reset, update, candidate, its recurrent part) and the hidden state.
pub fn gru(x: GruIn<'_>, width: usize, gates: &mut [f32], hidden: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (row, gates) in gates.chunks_exact_mut(4 * width).enumerate() {
                let wide = row * 3 * width..(row + 1) * 3 * width;
                let own = row * width..(row + 1) * width;
                let [fed_reset, fed_update, fed_candidate] = parts(&x.fed[wide.clone()], width);
                let [back_reset, back_update, back_candidate] = parts(&x.back[wide], width);
                let [reset, update, candidate, part] = parts_mut(gates, width);
                let (old, hidden) = (&x.hidden[own.clone()], &mut hidden[own]);
                for i in 0..width {
                    reset[i] = sigmoid(fed_reset[i] + back_reset[i]);
                    update[i] = sigmoid(fed_update[i] + back_update[i]);
                    part[i] = back_candidate[i] + x.bias[i];
                    candidate[i] = tanh(fed_candidate[i] + reset[i] * part[i]);
                    hidden[i] = candidate[i] + update[i] * (old[i] - candidate[i]);
                }
            }
        },
    );
}

/// What a step back through a GRU reads.
#[derive(Clone, Copy, Debug)]
pub struct GruOut<'a> {
    /// `[B, 4 H]`.
    pub gates: &'a [f32],
    /// The hidden state before, `[B, H]`.
    pub hidden: &'a [f32],
    /// Cotangent of the hidden state after, from outside, `[B, H]`.
    pub g: &'a [f32],
}

/// One step back: writes the cotangents of the sums from the input and of the recurrent products, `[B, 3 H]` each;
/// `carry` is the hidden state's from the step after, and becomes its direct part for the step before.
pub fn gru_grad(x: GruOut<'_>, width: usize, [fed, back]: [&mut [f32]; 2], carry: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            let rows = fed.chunks_exact_mut(3 * width).zip(back.chunks_exact_mut(3 * width));
            for (row, (fed, back)) in rows.enumerate() {
                let own = row * width..(row + 1) * width;
                let gates = &x.gates[row * 4 * width..(row + 1) * 4 * width];
                let [reset, update, candidate, part] = parts(gates, width);
                let (old, g, carry) = (&x.hidden[own.clone()], &x.g[own.clone()], &mut carry[own]);
                for i in 0..width {
                    let dh = g[i] + carry[i];
                    let of_candidate = dh * (1.0 - update[i]) * (1.0 - candidate[i] * candidate[i]);
                    let of_reset = of_candidate * part[i] * reset[i] * (1.0 - reset[i]);
                    let of_update = dh * (old[i] - candidate[i]) * update[i] * (1.0 - update[i]);
                    fed[i] = of_reset;
                    fed[width + i] = of_update;
                    fed[2 * width + i] = of_candidate;
                    back[i] = of_reset;
                    back[width + i] = of_update;
                    back[2 * width + i] = of_candidate * reset[i];
                    carry[i] = dh * update[i];
                }
            }
        },
    );
}
