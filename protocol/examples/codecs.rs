//! What codecs take and lose: `codecs [MIB]` encodes and decodes random tensors of so many MiB (default 3) on one core
//! and prints for each form its speed in GB/s of dense floats, its bytes per kept element, and its relative error.

use std::hint::black_box;

use wattle_protocol::codec::subspace::Factors;
use wattle_protocol::codec::{Floats, Form, decode, encode, encode_with};

/// Times that everything runs; the quickest counts.
const TIMES: usize = 60;

/// Bell-shaped elements, or with their largest in runs of a few hundred.
fn tensor(len: usize, is_clustered: bool) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let high = u16::try_from(state >> 48).unwrap_or_default();
        (f32::from(high) + 0.5) / 65536.0
    };
    let mut bell = |place: usize| {
        let sum: f32 = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
        if is_clustered && place / 256 % 16 == 5 { 10.0 * sum } else { sum }
    };
    (0..len).map(&mut bell).collect()
}

/// Returns the least seconds of several runs.
#[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "an example measures")]
fn seconds(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let start = std::time::Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

#[expect(clippy::print_stdout, reason = "an example prints")]
#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn show(name: &str, form: Form, tensor: &[f32], has_residual: bool) {
    let (mut bytes, mut back) = (Vec::new(), vec![0.0; tensor.len()]);
    let mut residual = vec![0.0; tensor.len()];
    let encoding = seconds(|| {
        bytes.clear();
        if has_residual {
            encode_with(form, tensor, &mut residual, &mut bytes).expect("finite and small");
        } else {
            encode(form, tensor, &mut bytes).expect("finite and small");
        }
        black_box(&bytes);
    });
    let decoding = seconds(|| {
        decode(form, &bytes, &mut back).expect("an encoder's bytes");
        black_box(&back);
    });
    let kept = match form {
        Form::Dense(_) | Form::Int8 | Form::Int5 | Form::Int4 => tensor.len(),
        Form::TopK { keep, .. } => keep,
    };
    let square = |value: f64| value * value;
    let norm: f64 = tensor.iter().map(|value| square(f64::from(*value))).sum();
    let pairs = tensor.iter().zip(&back);
    let off: f64 = pairs.map(|(value, back)| square(f64::from(*value) - f64::from(*back))).sum();
    let dense = 4e-9 * tensor.len() as f64;
    println!(
        "| {name} | {:.2} | {:.2} | {:.3} | {:.3} | {:.1} | {} |",
        dense / encoding,
        dense / decoding,
        bytes.len() as f64 / kept as f64,
        form.bytes(tensor.len()).count() as f64 / bytes.len() as f64,
        4.0 * tensor.len() as f64 / bytes.len() as f64,
        if has_residual { "-".to_owned() } else { format!("{:.1e}", (off / norm).sqrt()) },
    );
}

/// A matrix of GPT-2 small's width whose spectrum falls off, times a narrow one: two tensors of neighbouring steps.
#[expect(clippy::print_stdout, reason = "an example prints")]
#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn show_subspace(tensor: &[f32], rank: usize) {
    const COLUMNS: usize = 768;
    let mut matrix = tensor[..tensor.len() / COLUMNS * COLUMNS].to_vec();
    // Column j of noise shrinks as 1 / (1 + j), so that some directions matter more than others.
    for row in matrix.chunks_exact_mut(COLUMNS) {
        for (place, value) in row.iter_mut().enumerate() {
            *value /= 1.0 + place as f32;
        }
    }
    let cold: Vec<f32> = tensor.iter().copied().take(COLUMNS * rank).collect();
    let mut factors = Factors::of(&matrix, COLUMNS, &cold).expect("finite");
    let mut back = vec![0.0; matrix.len()];
    let mut error = |factors: &Factors| {
        factors.restore(&mut back);
        let norm: f32 = matrix.iter().map(|value| value * value).sum();
        let off: f32 = matrix.iter().zip(&back).map(|(v, b)| (v - b) * (v - b)).sum();
        (off / norm).sqrt()
    };
    let first = error(&factors);
    let warm = factors.right.clone();
    let encoding = seconds(|| factors = Factors::of(&matrix, COLUMNS, &warm).expect("finite"));
    let second = error(&factors);
    let decoding = seconds(|| factors.restore(black_box(&mut back)));
    let dense = 4e-9 * matrix.len() as f64;
    let ratio = matrix.len() as f64 / (factors.left.len() + factors.right.len()) as f64;
    println!(
        "| subspace of {rank} | {:.2} | {:.2} | - | 1.000 | {ratio:.1} | {first:.1e}, warm {second:.1e} |",
        dense / encoding,
        dense / decoding,
    );
}

#[expect(clippy::print_stdout, reason = "an example prints")]
#[expect(clippy::disallowed_methods, reason = "an example is told by its arguments what to do")]
fn main() {
    let size = std::env::args().nth(1).and_then(|mib| mib.parse().ok()).unwrap_or(3);
    let len = size << 18;
    let (random, clustered) = (tensor(len, false), tensor(len, true));
    println!(
        "| form | encode, GB/s | decode, GB/s | bytes an element kept | most / real | dense / real | error |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let plain = [
        ("f32", Form::Dense(Floats::F32)),
        ("f16", Form::Dense(Floats::F16)),
        ("bf16", Form::Dense(Floats::Bf16)),
        ("int8", Form::Int8),
        ("int5", Form::Int5),
        ("int4", Form::Int4),
    ];
    for (name, form) in plain {
        show(name, form, &random, false);
    }
    for (values, short) in [(Floats::F32, "f32"), (Floats::F16, "f16")] {
        for ratio in [2, 10, 100, 1000] {
            let form = Form::TopK { keep: len / ratio, values };
            show(&format!("Top-K {short} 1:{ratio}"), form, &random, false);
            show(&format!("Top-K {short} 1:{ratio}, in runs"), form, &clustered, false);
        }
    }
    for (name, form) in plain {
        show(&format!("{name}, residual"), form, &random, true);
    }
    for ratio in [2, 10, 100, 1000] {
        let form = Form::TopK { keep: len / ratio, values: Floats::F32 };
        show(&format!("Top-K f32 1:{ratio}, residual"), form, &random, true);
    }
    for rank in [1, 4, 16, 64] {
        show_subspace(&random, rank);
    }
}
