//! Cases of operators over sequences: attention with masks, other lengths and grouped heads; recurrent layers.

use wattle_protocol::dag::compose::{recurrent, stereo};
use wattle_protocol::dag::op::{HIDDEN, Op};

use super::{Case, built, case};

pub(super) fn cases() -> Vec<Case> {
    let attention = |causal| Op::Attention { causal, scale: 0.5 };
    let sharp = Op::Attention { causal: false, scale: 3.0 };
    vec![
        case("attention long keys", attention(true), &[&[2, 3, 4], &[2, 5, 4], &[2, 5, 3]]),
        case("attention short keys", attention(true), &[&[2, 5, 4], &[2, 3, 4], &[2, 3, 4]]),
        case("attention matrix", sharp.clone(), &[&[3, 4], &[5, 4], &[5, 2]]),
        case("attention grouped", attention(true), &[&[2, 4, 3, 2], &[2, 2, 3, 2], &[2, 2, 3, 2]]),
        case("attention one key head", sharp, &[&[4, 2, 4], &[1, 3, 4], &[1, 3, 4]]),
        case(
            "attention mask",
            attention(false),
            &[&[2, 2, 3, 2], &[2, 2, 3, 2], &[2, 2, 3, 2], &[2, 1, 3, 3]],
        ),
        case(
            "attention mask grouped",
            attention(true),
            &[&[2, 4, 3, 2], &[2, 2, 4, 2], &[2, 2, 4, 2], &[4, 3, 4]],
        ),
        case("attention mask of keys", attention(true), &[&[3, 4], &[3, 4], &[3, 4], &[1, 3]]),
        built("attention hidden", &[&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]], |s, p| {
            // The second query sees nothing; its weights have no gradient.
            let mask = vec![0.0, HIDDEN, 0.3, HIDDEN, HIDDEN, HIDDEN, 0.1, 0.2, 2.0 * HIDDEN];
            let mask = s.floats(&[3, 3], mask)?;
            s.op(Op::Attention { causal: true, scale: 0.5 }, &[p[0], p[1], p[2], mask])
        }),
        case("lstm", Op::Lstm, &[&[4, 2, 8], &[8, 2], &[2, 2], &[2, 2]]),
        case("lstm one step", Op::Lstm, &[&[1, 1, 12], &[12, 3], &[1, 3], &[1, 3]]),
        case("gru", Op::Gru, &[&[4, 2, 6], &[6, 2], &[2], &[2, 2]]),
        case("gru one step", Op::Gru, &[&[1, 1, 9], &[9, 3], &[3], &[1, 3]]),
        built("lstm backwards", &[&[3, 2, 3], &[8, 3], &[8, 2], &[8], &[8]], |s, p| {
            let weights =
                recurrent::Weights { input: p[1], recurrent: p[2], biases: Some([p[3], p[4]]) };
            // Also of the last states, so that their cotangents join those of the sequence.
            let all = recurrent::lstm(s, p[0], weights, None, true)?;
            let cell = s.add(all.last, all.cell)?;
            s.add(all.hidden, cell)
        }),
        built("gru layer", &[&[3, 2, 3], &[6, 3], &[6, 2], &[6], &[6], &[2, 2]], |s, p| {
            let weights =
                recurrent::Weights { input: p[1], recurrent: p[2], biases: Some([p[3], p[4]]) };
            Ok(recurrent::gru(s, p[0], weights, Some(p[5]), true)?.hidden)
        }),
        built("gru reset before", &[&[3, 2, 3], &[6, 3], &[6, 2], &[2, 2]], |s, p| {
            let weights = recurrent::Weights { input: p[1], recurrent: p[2], biases: None };
            Ok(recurrent::gru_reset_before(s, p[0], weights, Some(p[3]), true)?.hidden)
        }),
        built("correlation", &[&[1, 2, 2, 4], &[1, 2, 2, 4]], |s, p| {
            stereo::correlation(s, p[0], p[1], 3)
        }),
    ]
}
