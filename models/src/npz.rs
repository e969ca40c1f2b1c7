//! Arrays from `.npz` files, as NumPy's `savez` and `savez_compressed` write them.
//!
//! Only what tensors need: little-endian numbers in C order. Sizes are checked against what is really there, and a
//! small archive cannot grow without bound.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use half::f16;

use crate::onnx::array::{Array, Kind};

/// Most bytes that all arrays of a file may have together.
const BYTES_MAX: u64 = 8 << 30;
/// Most arrays in a file.
const ARRAYS_MAX: usize = 4096;
/// What a `.npy` file opens with.
const MAGIC: &[u8] = b"\x93NUMPY";

/// Why arrays cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NpzError {
    /// The file system.
    #[error("the file cannot be opened")]
    Io(#[from] std::io::Error),
    /// The archive.
    #[error("not a sound .npz file")]
    Zip(#[from] zip::result::ZipError),
    /// There is too much in it.
    #[error("the file holds more than {ARRAYS_MAX} arrays or {BYTES_MAX} bytes")]
    TooLarge,
    /// One array.
    #[error("the array `{name}` is not read: {why}")]
    Array {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Reads all arrays of a file by name.
///
/// *Errors*: [`NpzError`].
pub fn read(path: &Path) -> Result<BTreeMap<String, Array>, NpzError> {
    let mut archive = zip::ZipArchive::new(BufReader::new(File::open(path)?))?;
    if archive.len() > ARRAYS_MAX {
        return Err(NpzError::TooLarge);
    }
    let mut arrays = BTreeMap::new();
    let mut left = BYTES_MAX;
    for index in 0..archive.len() {
        let entry = archive.by_index(index)?;
        let name = entry.name()?.trim_end_matches(".npy").to_owned();
        let mut bytes = Vec::new();
        // What a header says of its size is not believed: the limit holds for what comes out.
        entry.take(left + 1).read_to_end(&mut bytes)?;
        left = left.checked_sub(bytes.len() as u64).ok_or(NpzError::TooLarge)?;
        let array = decode(&bytes).map_err(|why| NpzError::Array { name: name.clone(), why })?;
        arrays.insert(name, array);
    }
    Ok(arrays)
}

/// Decodes one `.npy` file.
fn decode(bytes: &[u8]) -> Result<Array, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is no .npy file")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or("it is cut off")?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or("it is cut off")?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or("it is cut off")?;
            (usize::try_from(u32::from_le_bytes(*length)).map_err(|e| e.to_string())?, rest)
        }
        other => return Err(format!("version {other} of the format is not read")),
    };
    let (header, data) = rest.split_at_checked(length).ok_or("it is cut off")?;
    let header = std::str::from_utf8(header).map_err(|e| e.to_string())?;
    if !field(header, "fortran_order")?.starts_with("False") {
        return Err("its elements are in Fortran's order; write numpy.ascontiguousarray(x)".into());
    }
    let shape = shape(field(header, "shape")?)?;
    let kind = field(header, "descr")?.trim_start_matches(['\'', '"']);
    elements(kind.split(['\'', '"']).next().unwrap_or_default(), shape, data)
}

/// Returns what stands after a key of the header, which is a Python dictionary.
fn field<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let missing = || format!("its header has no {key}");
    let (_, rest) = header.split_once(&format!("'{key}'")).ok_or_else(missing)?;
    Ok(rest.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start())
}

fn shape(text: &str) -> Result<Vec<usize>, String> {
    let inner = text.strip_prefix('(').and_then(|t| t.split(')').next());
    let inner = inner.ok_or_else(|| format!("its shape is {text:?}"))?;
    let lengths = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
    lengths.map(|part| part.parse().map_err(|_| format!("its shape is {inner:?}"))).collect()
}

fn elements(descr: &str, shape: Vec<usize>, data: &[u8]) -> Result<Array, String> {
    let kind = match descr {
        "<f4" => Kind::F32,
        "<f8" => Kind::F64,
        "<f2" => Kind::F16,
        "<i8" => Kind::I64,
        "<i4" => Kind::I32,
        "<i2" => Kind::I16,
        "|i1" => Kind::I8,
        "|u1" => Kind::U8,
        "<u2" => Kind::U16,
        "<u4" => Kind::U32,
        "|b1" => Kind::Bool,
        other => return Err(format!("elements of type {other:?} are not read")),
    };
    let count = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
    let size = count.and_then(|count| count.checked_mul(kind.size()));
    if size != Some(data.len()) {
        return Err(format!("it holds {} bytes, which is not what its shape needs", data.len()));
    }
    Ok(match kind {
        Kind::F32 => Array::floats(kind, shape, chunks(data, f32::from_le_bytes)),
        Kind::F64 => Array::floats(kind, shape, chunks(data, |b| narrow(f64::from_le_bytes(b)))),
        Kind::F16 | Kind::Bf16 => {
            Array::floats(kind, shape, chunks(data, |b| f16::from_le_bytes(b).to_f32()))
        }
        Kind::I64 | Kind::U64 => Array::ints(kind, shape, chunks(data, i64::from_le_bytes)),
        Kind::I32 => ints(kind, shape, data, i32::from_le_bytes),
        Kind::I16 => ints(kind, shape, data, i16::from_le_bytes),
        Kind::I8 => ints(kind, shape, data, i8::from_le_bytes),
        Kind::U32 => ints(kind, shape, data, u32::from_le_bytes),
        Kind::U16 => ints(kind, shape, data, u16::from_le_bytes),
        Kind::U8 => ints(kind, shape, data, u8::from_le_bytes),
        Kind::Bool => ints(kind, shape, data, |[b]: [u8; 1]| b != 0),
    })
}

fn chunks<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

fn ints<const N: usize, T: Into<i64>>(
    kind: Kind,
    shape: Vec<usize>,
    bytes: &[u8],
    read: impl Fn([u8; N]) -> T,
) -> Array {
    Array::ints(kind, shape, chunks(bytes, |b| read(b).into()))
}

#[expect(clippy::cast_possible_truncation, reason = "Wattle computes in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::write::SimpleFileOptions;

    use super::*;

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    #[test]
    fn arrays_are_read_by_name_from_stored_and_from_packed_entries() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, method) in
            [("a.npy", zip::CompressionMethod::Stored), ("b.npy", zip::CompressionMethod::Deflated)]
        {
            let options = SimpleFileOptions::default().compression_method(method);
            archive.start_file(name, options).unwrap();
            archive.write_all(&npy("<i8", "(2,)", &[1, 0, 0, 0, 0, 0, 0, 0].repeat(2))).unwrap();
        }
        archive.finish().unwrap();
        let arrays = read(&path).unwrap();
        assert_eq!(arrays.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(arrays["b"], Array::vector(vec![1, 1]));
    }

    #[test]
    fn wrong_files_are_refused() {
        assert_eq!(decode(&npy("<f4", "()", &[0, 0, 128, 63])).unwrap().to_floats(), [1.0]);
        assert!(decode(&npy("<f4", "(2,)", &[0; 4])).is_err());
        assert!(decode(&npy("<f4", "(18446744073709551615, 2)", &[0; 4])).is_err());
        assert!(decode(&npy("<U4", "(1,)", &[0; 16])).unwrap_err().contains("U4"));
        let whole = npy("<f4", "(1,)", &[0; 4]);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err());
        }
    }
}
