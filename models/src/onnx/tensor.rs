//! `TensorProto` to [`Array`]: every way in which ONNX stores elements.
//!
//! Elements are in `raw_data`, in a list of one of five types, or in a file outside. A tensor's shape is believed only
//! where as many elements are there.

use half::{bf16, f16};

use super::array::{Array, ELEMENTS_MAX, Elements, Kind};
use super::proto::Tensor;
use super::read::Folder;

/// `TensorProto.location` of a tensor whose elements lie in another file.
const EXTERNAL: i32 = 1;

/// Decodes a tensor; `folder` is where data files may lie.
///
/// *Errors*: in words, without the tensor's name.
pub(crate) fn decode(tensor: &Tensor, folder: Option<&Folder>) -> Result<Array, String> {
    let code = i64::from(tensor.kind);
    let kind = Kind::of_code(code)
        .ok_or_else(|| format!("elements of type {} are not read", Kind::code_name(code)))?;
    if tensor.segment.is_some() {
        return Err("tensors in segments are not read".into());
    }
    let shape = shape(&tensor.dims)?;
    let count: usize = shape.iter().product();
    let elements = if tensor.location == EXTERNAL {
        let folder = folder.ok_or("its elements lie in a file, but there is no folder")?;
        from_bytes(kind, &folder.read(&tensor.external, count * kind.size())?)?
    } else if let Some(raw) = &tensor.raw {
        need(raw.len(), count * kind.size(), "bytes")?;
        from_bytes(kind, raw)?
    } else {
        from_lists(kind, tensor, count)?
    };
    Ok(match elements {
        Elements::Floats(values) => Array::floats(kind, shape, values),
        Elements::Ints(values) => Array::ints(kind, shape, values),
    })
}

fn shape(dims: &[i64]) -> Result<Vec<usize>, String> {
    let lengths: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
    let lengths = lengths.ok_or_else(|| format!("its shape is {dims:?}"))?;
    let count = lengths.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
    match count {
        Some(count) if count <= ELEMENTS_MAX => Ok(lengths),
        _ => Err(format!("its shape {dims:?} has too many elements")),
    }
}

fn need(got: usize, expected: usize, what: &str) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    Err(format!("it holds {got} {what}, but its shape needs {expected}"))
}

fn chunks<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

fn from_bytes(kind: Kind, bytes: &[u8]) -> Result<Elements, String> {
    let ints = Elements::Ints;
    Ok(match kind {
        Kind::F32 => Elements::Floats(chunks(bytes, f32::from_le_bytes)),
        Kind::F64 => Elements::Floats(chunks(bytes, |b| narrow(f64::from_le_bytes(b)))),
        Kind::F16 => Elements::Floats(chunks(bytes, |b| f16::from_le_bytes(b).to_f32())),
        Kind::Bf16 => Elements::Floats(chunks(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        Kind::I8 => ints(chunks(bytes, |b| i64::from(i8::from_le_bytes(b)))),
        Kind::I16 => ints(chunks(bytes, |b| i64::from(i16::from_le_bytes(b)))),
        Kind::I32 => ints(chunks(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        Kind::I64 => ints(chunks(bytes, i64::from_le_bytes)),
        Kind::U8 => ints(chunks(bytes, |b| i64::from(u8::from_le_bytes(b)))),
        Kind::U16 => ints(chunks(bytes, |b| i64::from(u16::from_le_bytes(b)))),
        Kind::U32 => ints(chunks(bytes, |b| i64::from(u32::from_le_bytes(b)))),
        Kind::U64 => ints(signed(chunks(bytes, u64::from_le_bytes))?),
        Kind::Bool => ints(chunks(bytes, |[b]: [u8; 1]| i64::from(b != 0))),
    })
}

fn from_lists(kind: Kind, tensor: &Tensor, count: usize) -> Result<Elements, String> {
    match kind {
        Kind::F32 => {
            need(tensor.floats.len(), count, "floats")?;
            Ok(Elements::Floats(tensor.floats.clone()))
        }
        Kind::F64 => {
            need(tensor.doubles.len(), count, "doubles")?;
            Ok(Elements::Floats(tensor.doubles.iter().map(|v| narrow(*v)).collect()))
        }
        Kind::F16 | Kind::Bf16 => {
            need(tensor.ints.len(), count, "numbers")?;
            let bits = |v: &i32| u16::try_from(*v).map_err(|_| format!("{v} is no 16-bit float"));
            let bits = tensor.ints.iter().map(bits).collect::<Result<Vec<u16>, _>>()?;
            let widen = |b: u16| match kind {
                Kind::F16 => f16::from_bits(b).to_f32(),
                _ => bf16::from_bits(b).to_f32(),
            };
            Ok(Elements::Floats(bits.into_iter().map(widen).collect()))
        }
        Kind::I64 => {
            need(tensor.longs.len(), count, "integers")?;
            Ok(Elements::Ints(tensor.longs.clone()))
        }
        Kind::U32 | Kind::U64 => {
            need(tensor.unsigned.len(), count, "integers")?;
            in_range(kind, signed(tensor.unsigned.clone())?)
        }
        Kind::I8 | Kind::U8 | Kind::I16 | Kind::U16 | Kind::I32 | Kind::Bool => {
            need(tensor.ints.len(), count, "integers")?;
            in_range(kind, tensor.ints.iter().map(|v| i64::from(*v)).collect())
        }
    }
}

fn in_range(kind: Kind, values: Vec<i64>) -> Result<Elements, String> {
    let (least, most) = kind.range().unwrap_or((i64::MIN, i64::MAX));
    match values.iter().find(|v| !(least..=most).contains(*v)) {
        Some(value) => Err(format!("{value} is no {kind}")),
        None => Ok(Elements::Ints(values)),
    }
}

fn signed(values: Vec<u64>) -> Result<Vec<i64>, String> {
    let fit =
        |v: u64| i64::try_from(v).map_err(|_| format!("{v} is beyond the integers used here"));
    values.into_iter().map(fit).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "Wattle computes in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_from_bytes_and_from_lists() {
        let raw = |kind, dims: &[i64], bytes: &'static [u8]| Tensor {
            kind,
            dims: dims.to_vec(),
            raw: Some(bytes::Bytes::from_static(bytes)),
            ..Tensor::default()
        };
        let check = |tensor: Tensor, expected: Array| {
            assert_eq!(decode(&tensor, None).unwrap(), expected);
        };
        check(
            raw(10, &[2], &[0, 0x3c, 0, 0xc0]),
            Array::floats(Kind::F16, vec![2], vec![1.0, -2.0]),
        );
        check(raw(16, &[1], &[0x80, 0x3f]), Array::floats(Kind::Bf16, vec![1], vec![1.0]));
        check(raw(3, &[2], &[255, 1]), Array::ints(Kind::I8, vec![2], vec![-1, 1]));
        check(raw(9, &[], &[1]), Array::ints(Kind::Bool, vec![], vec![1]));
        check(raw(7, &[0], &[]), Array::ints(Kind::I64, vec![0], vec![]));
        let halves = Tensor { kind: 10, dims: vec![1], ints: vec![0x3c00], ..Tensor::default() };
        check(halves, Array::floats(Kind::F16, vec![1], vec![1.0]));
        let bytes = Tensor { kind: 2, dims: vec![1], ints: vec![200], ..Tensor::default() };
        check(bytes, Array::ints(Kind::U8, vec![1], vec![200]));
    }

    #[test]
    fn a_shape_that_its_elements_do_not_fill_is_refused() {
        let floats = |dims: &[i64]| Tensor {
            kind: 1,
            dims: dims.to_vec(),
            floats: vec![1.0, 2.0],
            ..Tensor::default()
        };
        assert!(decode(&floats(&[2]), None).is_ok());
        for dims in [&[3][..], &[-2], &[i64::MAX, 2], &[1 << 20, 1 << 20], &[]] {
            assert!(decode(&floats(dims), None).is_err(), "{dims:?}");
        }
        let text = Tensor { kind: 8, dims: vec![1], ..Tensor::default() };
        assert!(decode(&text, None).unwrap_err().contains("string"));
    }
}
