//! Laws that hold for all forms: what comes back, what is left over, how long it gets, and what strangers can do.

use proptest::prelude::*;

use super::floats::magnitude;
use super::*;

mod strangers;

const FLOATS: [Floats; 3] = [Floats::F32, Floats::F16, Floats::Bf16];

/// Any form, for a tensor of so many elements.
fn forms(len: usize) -> impl Strategy<Value = Form> {
    let floats = prop::sample::select(&FLOATS);
    prop_oneof![
        floats.clone().prop_map(Form::Dense),
        Just(Form::Int8),
        Just(Form::Int5),
        Just(Form::Int4),
        (0..=len + 1, floats).prop_map(|(keep, values)| Form::TopK { keep, values }),
    ]
}

/// A generator without a state that anybody must keep.
fn random(place: usize, seed: u64) -> u64 {
    let mixed = (place as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 32
}

/// A tensor of one of five kinds: of every magnitude that all forms hold, bell-shaped, of few values, mostly zeros, or
/// with its largest side by side.
fn tensor(kind: u8, seed: u64, len: usize) -> Vec<f32> {
    let element = |place: usize| {
        let bits = random(place, seed);
        let low = u32::try_from(bits & 0xffff_ffff).unwrap();
        let bell = (0..4).map(|part| (bits >> (16 * part) & 0xffff) as f32 / 65536.0 - 0.5).sum();
        match kind {
            0 => f32::from_bits((low & 0x8000_0000) | (low % 0x477f_e000)),
            1 => bell,
            2 => (low % 5) as f32 - 2.0,
            3 => {
                if low % 4 == 0 {
                    bell
                } else {
                    -0.0
                }
            }
            _ => {
                if place / 300 % 7 == 3 {
                    10.0 * bell
                } else {
                    bell
                }
            }
        }
    };
    (0..len).map(element).collect()
}

/// Short tensors of all kinds, and some of several chunks.
fn tensors() -> impl Strategy<Value = Vec<f32>> {
    let len = prop_oneof![8 => 0usize..300, 1 => CHUNK - 2..CHUNK + 3, 1 => 2 * CHUNK..3 * CHUNK];
    (0u8..5, any::<u64>(), len).prop_map(|(kind, seed, len)| tensor(kind, seed, len))
}

fn with_form() -> impl Strategy<Value = (Vec<f32>, Form)> {
    tensors().prop_flat_map(|tensor| {
        let form = forms(tensor.len());
        (Just(tensor), form)
    })
}

fn encoded(form: Form, tensor: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(form, tensor, &mut bytes).unwrap();
    bytes
}

fn decoded(form: Form, bytes: &[u8], len: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; len];
    decode(form, bytes, &mut out).unwrap();
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The `keep` largest by sorting, the first of equal ones, zeros left out.
fn largest(tensor: &[f32], keep: usize) -> Vec<f32> {
    let mut order: Vec<usize> = (0..tensor.len()).filter(|i| tensor[*i] != 0.0).collect();
    order.sort_by_key(|place| (std::cmp::Reverse(magnitude(tensor[*place])), *place));
    let mut out = vec![0.0; tensor.len()];
    for place in order.into_iter().take(keep) {
        out[place] = tensor[place];
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn dense_floats_are_those_that_went_in(tensor in prop::collection::vec(any::<u32>(), 0..300)) {
        let tensor: Vec<f32> = tensor.into_iter().map(f32::from_bits).collect();
        let form = Form::Dense(Floats::F32);
        let back = decoded(form, &encoded(form, &tensor), tensor.len());
        prop_assert_eq!(bits(&back), bits(&tensor));
    }

    #[test]
    fn the_largest_arrive_and_nothing_else(tensor in tensors(), share in 0usize..110) {
        let keep = tensor.len() * share / 100;
        let form = Form::TopK { keep, values: Floats::F32 };
        let back = decoded(form, &encoded(form, &tensor), tensor.len());
        prop_assert_eq!(bits(&back), bits(&largest(&tensor, keep)));
    }

    /// Values in 16 bits change no choice: what arrives is the selection, rounded as dense tensors are.
    #[test]
    fn short_values_are_rounded_after_the_choice(
        tensor in tensors(), share in 0usize..110, values in prop::sample::select(&FLOATS)
    ) {
        let keep = tensor.len() * share / 100;
        let form = Form::TopK { keep, values };
        let back = decoded(form, &encoded(form, &tensor), tensor.len());
        let dense = Form::Dense(values);
        let chosen = decoded(dense, &encoded(dense, &largest(&tensor, keep)), tensor.len());
        prop_assert_eq!(bits(&back), bits(&chosen));
    }

    /// Sent and left add up to what was there: as real numbers, hence as floats too.
    #[test]
    fn nothing_is_lost_that_the_residual_does_not_hold(
        (tensor, form) in with_form(), seed: u64, steps in 1u64..4
    ) {
        let mut residual = vec![0.0; tensor.len()];
        for step in 0..steps {
            let tensor: Vec<f32> = tensor.iter().enumerate()
                .map(|(place, v)| if random(place, seed ^ step) & 1 == 0 { *v } else { v * 0.5 })
                .collect();
            let sum: Vec<f32> = tensor.iter().zip(&residual).map(|(t, r)| t + r).collect();
            let before = residual.clone();
            let mut bytes = Vec::new();
            if encode_with(form, &tensor, &mut residual, &mut bytes).is_err() {
                // Sums may be too large for 16 bits.
                prop_assert_eq!(bits(&residual), bits(&before));
                prop_assert!(bytes.is_empty());
                break;
            }
            let sent = decoded(form, &bytes, tensor.len());
            for ((sent, left), sum) in sent.iter().zip(&residual).zip(&sum) {
                prop_assert_eq!(f64::from(*sent) + f64::from(*left), f64::from(*sum));
                prop_assert_eq!(sent + left, *sum);
            }
            if let Form::TopK { values: Floats::F32, .. } = form {
                // A sent element leaves nothing, another is left whole.
                for ((sent, left), sum) in sent.iter().zip(&residual).zip(&sum) {
                    prop_assert_eq!(left.to_bits(), if *sent == 0.0 { sum.to_bits() } else { 0 });
                }
            }
        }
    }

    /// A residual of zeros changes no byte.
    #[test]
    fn an_empty_residual_changes_nothing((tensor, form) in with_form()) {
        let tensor: Vec<f32> = tensor.iter().map(|value| value + 0.0).collect();
        let mut with = Vec::new();
        encode_with(form, &tensor, &mut vec![0.0; tensor.len()], &mut with).unwrap();
        prop_assert_eq!(with, encoded(form, &tensor));
    }

    #[test]
    fn bytes_are_as_many_as_the_form_says((tensor, form) in with_form()) {
        let (bytes, most) = (encoded(form, &tensor).len() as u64, form.bytes(tensor.len()).count());
        match form {
            Form::Dense(_) | Form::Int8 | Form::Int5 | Form::Int4 => prop_assert_eq!(bytes, most),
            Form::TopK { .. } => prop_assert!(bytes <= most, "{} {}", bytes, most),
        }
    }

    #[test]
    fn sums_grow_by_what_arrives((tensor, form) in with_form(), seed: u64) {
        let bytes = encoded(form, &tensor);
        let held: Vec<f32> = (0..tensor.len()).map(|i| (random(i, seed) % 65536) as f32).collect();
        let mut sum = held.clone();
        decode_add(form, &bytes, &mut sum).unwrap();
        let back = decoded(form, &bytes, tensor.len());
        for ((sum, held), back) in sum.iter().zip(&held).zip(&back) {
            prop_assert_eq!(*sum, held + back);
        }
    }

    #[test]
    fn chunks_decode_one_by_one((tensor, form) in with_form()) {
        let mut encoder = Encoder::new(form, &tensor, None).unwrap();
        let (mut bytes, mut back) = (Vec::new(), vec![f32::NAN; tensor.len()]);
        for slots in back.chunks_mut(CHUNK) {
            bytes.clear();
            prop_assert!(encoder.next_chunk(&mut bytes));
            prop_assert_eq!(decode_chunk(form, &bytes, slots), Ok(bytes.len()));
        }
        prop_assert!(!encoder.next_chunk(&mut bytes));
        prop_assert_eq!(bits(&back), bits(&decoded(form, &encoded(form, &tensor), tensor.len())));
    }

    /// Whatever loses something refuses what is not finite, and says where; the residual is left alone.
    #[test]
    fn what_is_not_finite_is_refused(
        (tensor, form) in with_form(), at in any::<prop::sample::Index>(), which in 0usize..3, twice: bool
    ) {
        prop_assume!(!tensor.is_empty() && form != Form::Dense(Floats::F32));
        let mut tensor = tensor;
        let first = at.index(tensor.len());
        tensor[first] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][which];
        let count = if twice && first + 1 < tensor.len() { 2 } else { 1 };
        tensor[first + count - 1] = f32::NAN;
        let mut residual = vec![1.0; tensor.len()];
        let mut bytes = Vec::new();
        let refused = encode_with(form, &tensor, &mut residual, &mut bytes);
        prop_assert_eq!(refused, Err(EncodeError::NotFinite { first, count }));
        prop_assert!(bytes.is_empty() && residual.iter().all(|left| *left == 1.0));
    }
}

#[test]
fn what_a_form_would_make_infinite_is_refused() {
    let rows = [(Floats::F16, 65519.99, 65520.0), (Floats::Bf16, 3.39e38, f32::MAX)];
    for (values, fits, large) in rows {
        for form in [Form::Dense(values), Form::TopK { keep: 2, values }] {
            let mut bytes = Vec::new();
            assert_eq!(encode(form, &[0.0, -fits], &mut bytes), Ok(()));
            let refused = Err(EncodeError::TooLarge { first: 1, count: 2 });
            assert_eq!(encode(form, &[0.0, large, -large], &mut bytes), refused);
        }
    }
    let limit = 2f32.powi(127);
    let refused = Err(EncodeError::TooLarge { first: 0, count: 1 });
    for form in [Form::Int8, Form::Int5, Form::Int4] {
        assert_eq!(encode(form, &[limit], &mut Vec::new()), Ok(()));
        assert_eq!(encode(form, &[limit * 1.5], &mut Vec::new()), refused);
    }
}

#[test]
fn a_residual_of_another_length_is_refused() {
    let refused = encode_with(Form::Int8, &[1.0], &mut [], &mut Vec::new());
    assert_eq!(refused, Err(EncodeError::Residual { residual: 0, tensor: 1 }));
}

/// Goal: equal elements are kept from the front, across chunks. Method: all are alike; count where they end.
#[test]
fn of_equal_elements_the_first_are_kept() {
    let tensor: Vec<f32> = (0..3 * CHUNK).map(|i| if i % 2 == 0 { 1.5 } else { -1.5 }).collect();
    for keep in [0, 1, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77, 3 * CHUNK] {
        let form = Form::TopK { keep, values: Floats::F32 };
        let back = decoded(form, &encoded(form, &tensor), tensor.len());
        assert_eq!(back[..keep], tensor[..keep]);
        assert!(back[keep..].iter().all(|value| *value == 0.0));
    }
}

/// Goal: bytes are the same for every machine and release. Method: small tensors in all forms, byte by byte.
#[test]
fn bytes_are_these() {
    let tensor = [0.0, -2.0, 0.5, 0.0, 1.0, -0.25];
    let top = |keep, values| Form::TopK { keep, values };
    let rows: [(Form, &[u8]); 7] = [
        (Form::Dense(Floats::F16), &[0, 0, 0, 0xc0, 0, 0x38, 0, 0, 0, 0x3c, 0, 0xb4]),
        (Form::Dense(Floats::Bf16), &[0, 0, 0, 0xc0, 0, 0x3f, 0, 0, 0x80, 0x3f, 0x80, 0xbe]),
        // A scale of 130 / 8192: the least of 8 bits that is no less than 2 / 127.
        (Form::Int8, &[0x82, 0x3c, 0, 130, 32, 0, 63, 240]),
        // A scale of 137 / 1024: the least that is no less than 2 / 15. Low bits in halves, then the second's and last's signs.
        (Form::Int5, &[0x09, 0x3e, 0, 0x71, 0xe4, 0b10_0010]),
        // A scale of 147 / 512: the least that is no less than 2 / 7. Halves of the first three, then of the last three.
        (Form::Int4, &[0x93, 0x3e, 0, 0x39, 0xf2]),
        // Two elements; no low bits; values; places 1 and 4 in a bitmap.
        (top(2, Floats::F16), &[2, 0, 0, 0xc0, 0, 0x3c, 0b1_0010]),
        (top(0, Floats::F32), &[0]),
    ];
    for (form, bytes) in rows {
        assert_eq!(encoded(form, &tensor), bytes, "{form:?}");
    }
}
