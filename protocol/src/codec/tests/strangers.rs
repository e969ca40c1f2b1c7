//! Bytes of strangers: arbitrary ones, and an encoder's with a few changed, cut off or added.

use super::*;

/// Decodes in every way; whatever fails leaves its output alone, and what succeeds is finite.
fn check(form: Form, bytes: &[u8], len: usize) -> Result<(), TestCaseError> {
    let held: Vec<f32> = (0..len).map(|place| place as f32).collect();
    let (mut set, mut sum, mut chunk) =
        (held.clone(), held.clone(), held[..len.min(CHUNK)].to_vec());
    let result = decode(form, bytes, &mut set);
    prop_assert_eq!(decode_add(form, bytes, &mut sum), result);
    match result {
        Ok(()) if form == Form::Dense(Floats::F32) => {}
        Ok(()) => prop_assert!(set.iter().all(|value| value.is_finite())),
        Err(_) => prop_assert!(set == held && sum == held),
    }
    match decode_chunk(form, bytes, &mut chunk) {
        Ok(used) => prop_assert!(used <= bytes.len()),
        Err(_) => prop_assert_eq!(&chunk, &held[..chunk.len()]),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_do_no_harm(
        (len, form) in (0usize..200).prop_flat_map(|len| (Just(len), forms(len))),
        bytes in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        check(form, &bytes, len)?;
    }

    /// The head says what a decoder likes to hear; the rest is arbitrary.
    #[test]
    fn a_plausible_head_does_no_harm(
        len in 1usize..400, count in 0usize..400, shift in 0u8..18,
        values in prop::sample::select(&FLOATS), rest in prop::collection::vec(any::<u8>(), 0..400)
    ) {
        let mut bytes = Vec::new();
        bits::push_number(count, &mut bytes);
        bytes.push(shift);
        bytes.extend(vec![1; count * values.size()]);
        bytes.extend(rest);
        check(Form::TopK { keep: len, values }, &bytes, len)?;
    }

    #[test]
    fn changed_bytes_do_no_harm(
        (tensor, form) in with_form(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::of(any::<prop::sample::Index>()), more in prop::collection::vec(any::<u8>(), 0..3)
    ) {
        let mut bytes = encoded(form, &tensor);
        bytes.extend(more);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        check(form, &bytes, tensor.len())?;
    }

    /// Every beginning is too short, and says so; every continuation too long.
    #[test]
    fn a_part_is_not_the_whole((tensor, form) in with_form(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encoded(form, &tensor);
        let mut out = vec![0.0; tensor.len()];
        if !bytes.is_empty() {
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(decode(form, part, &mut out), Err(DecodeError::Short));
        }
        bytes.push(0);
        let is_long = matches!(decode(form, &bytes, &mut out), Err(DecodeError::Long { extra: 1 }));
        prop_assert!(is_long);
    }
}

/// Goal: a count never makes us allocate or loop. Method: the largest that can be written, with nothing behind it.
#[test]
fn a_count_alone_is_worth_nothing() {
    let form = Form::TopK { keep: usize::MAX, values: Floats::F32 };
    let mut out = vec![0.0; CHUNK];
    let whole = decode(form, &[0xff, 0xff, 0x7f], &mut out);
    assert_eq!(whole, Err(DecodeError::TooMany { count: (1 << 21) - 1, most: CHUNK }));
    assert_eq!(decode(form, &[0x80, 0x80, 0x04, 0], &mut out), Err(DecodeError::Short));
    assert_eq!(decode(form, &[0xff, 0xff, 0xff], &mut out), Err(DecodeError::Layout));
    assert_eq!(decode(form, &[2, 17], &mut out), Err(DecodeError::Layout));
}

#[test]
fn more_elements_than_agreed_are_refused() {
    let tensor = [1.0, 2.0, 3.0];
    let bytes = encoded(Form::TopK { keep: 3, values: Floats::F32 }, &tensor);
    let fewer = Form::TopK { keep: 2, values: Floats::F32 };
    assert!(decode(fewer, &bytes, &mut [0.0; 3]).is_err());
    let bytes = encoded(Form::TopK { keep: 3, values: Floats::F16 }, &tensor);
    let fewer = Form::TopK { keep: 1, values: Floats::F32 };
    let taken = decode(fewer, &bytes, &mut [0.0; 3]);
    assert!(taken.is_err());
}
