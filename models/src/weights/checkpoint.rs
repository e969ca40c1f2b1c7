//! Reading checkpoints: one safetensors file, or a folder of them with an index, a tensor at a time.
//!
//! Only headers are read when a checkpoint is opened. Nothing in them is believed: every tensor must lie within its
//! file and be as long as its shape says before memory is taken for it. Half precision becomes single.
//!
//! Layout: 8 bytes of length (little-endian), a JSON header, then the tensors (safetensors' README, "Format").

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use super::WeightsError;

/// Most bytes of a header, or of an index: thousands of tensors take about one MiB.
const HEADER_MAX: u64 = 16 << 20;
/// Most files of a checkpoint.
const FILES_MAX: usize = 1024;
/// Bytes that are read and converted at a time.
const PART: usize = 1 << 20;
/// The file of a folder that is not split.
const WHOLE: &str = "model.safetensors";
/// Where a split folder says which tensor lies in which file.
const INDEX: &str = "model.safetensors.index.json";

#[derive(Debug)]
struct Place {
    file: usize,
    /// First byte within the file.
    start: u64,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// A checkpoint whose headers have been read.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<PathBuf>,
    places: BTreeMap<String, Place>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn malformed(path: &Path, why: impl Into<String>) -> WeightsError {
    WeightsError::Malformed { path: path.into(), why: why.into() }
}

/// Reads a small file whole.
///
/// *Errors*: [`WeightsError::Io`], or it is longer than a header may be.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(HEADER_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > HEADER_MAX {
        return Err(malformed(path, format!("it has more than {HEADER_MAX} bytes")));
    }
    Ok(bytes)
}

impl Checkpoint {
    /// Opens a safetensors file, or a folder with `model.safetensors` or `model.safetensors.index.json`.
    ///
    /// *Errors*: [`WeightsError`].
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut checkpoint = Self { files: Vec::new(), places: BTreeMap::new() };
        if !path.is_dir() {
            checkpoint.add(path)?;
            return Ok(checkpoint);
        }
        let whole = path.join(WHOLE);
        if whole.is_file() {
            checkpoint.add(&whole)?;
            return Ok(checkpoint);
        }
        let index = path.join(INDEX);
        if !index.is_file() {
            return Err(malformed(path, format!("the folder has neither {WHOLE} nor {INDEX}")));
        }
        checkpoint.add_all(path, &index)?;
        Ok(checkpoint)
    }

    fn add_all(&mut self, folder: &Path, index: &Path) -> Result<(), WeightsError> {
        let Index { weight_map } = serde_json::from_slice(&read_small(index)?)
            .map_err(|error| malformed(index, error.to_string()))?;
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort();
        names.dedup();
        if names.len() > FILES_MAX {
            return Err(malformed(index, format!("it names more than {FILES_MAX} files")));
        }
        for name in names {
            // A file beside the index and nothing else: no folders, no way out of this one.
            let plain = Path::new(name).file_name().is_some_and(|n| n.to_str() == Some(name));
            if !plain {
                return Err(malformed(index, format!("\"{name}\" is no file of this folder")));
            }
            self.add(&folder.join(name))?;
        }
        for (tensor, file) in &weight_map {
            let place = self.places.get(tensor).and_then(|p| self.files.get(p.file));
            if place.and_then(|p| p.file_name()) != Some(file.as_ref()) {
                return Err(malformed(index, format!("{tensor} is not in {file}")));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<(), WeightsError> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut start = [0; 8];
        file.read_exact(&mut start).map_err(|_| malformed(path, "it has no header"))?;
        let header = u64::from_le_bytes(start);
        let limit = HEADER_MAX.min(length.saturating_sub(8));
        if header > limit {
            let why = format!("its header claims {header} bytes; at most {limit} are possible");
            return Err(malformed(path, why));
        }
        let mut json = Vec::new();
        file.take(header).read_to_end(&mut json)?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|error| malformed(path, error.to_string()))?;
        let (number, data) = (self.files.len(), 8 + header);
        for (name, info) in metadata.tensors() {
            let start = place(info, data, length);
            let start = start.map_err(|why| malformed(path, format!("{name}: {why}")))?;
            let (dtype, shape) = (info.dtype, info.shape.clone());
            let place = Place { file: number, start, dtype, shape };
            if self.places.insert(name.clone(), place).is_some() {
                return Err(malformed(path, format!("{name} lies in two files")));
            }
        }
        self.files.push(path.into());
        Ok(())
    }

    /// Returns names and shapes of all tensors, ordered by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.places.iter().map(|(name, place)| (name.as_str(), place.shape.as_slice()))
    }

    /// Returns a tensor's shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| place.shape.as_slice())
    }

    /// Reads a tensor; half precision becomes single.
    ///
    /// *Errors*: [`WeightsError::Missing`], [`WeightsError::Dtype`], [`WeightsError::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let place = self.places.get(name).ok_or_else(|| WeightsError::Missing(name.into()))?;
        let convert: fn(&[u8], &mut Vec<f32>) = match place.dtype {
            Dtype::F32 => |b, out| {
                out.extend(b.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
            },
            Dtype::F16 => |b, out| {
                out.extend(b.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()));
            },
            Dtype::BF16 => |b, out| {
                out.extend(b.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()));
            },
            dtype => return Err(WeightsError::Dtype { name: name.into(), dtype }),
        };
        let mut file = File::open(&self.files[place.file])?;
        file.seek(SeekFrom::Start(place.start))?;
        // Its length was compared with the file's when that was opened.
        let count: usize = place.shape.iter().product();
        let mut left = count * place.dtype.bitsize() / 8;
        let mut values = Vec::with_capacity(count);
        let mut part = vec![0; PART.min(left)];
        while left > 0 {
            let now = &mut part[..PART.min(left)];
            file.read_exact(now)?;
            convert(now, &mut values);
            left -= now.len();
        }
        Ok(values)
    }
}

/// Returns where a tensor begins in a file of a length, whose tensors begin at `data`.
///
/// *Errors*: it is not as long as its shape says, or does not lie in the file.
fn place(info: &TensorInfo, data: u64, length: u64) -> Result<u64, String> {
    let (start, end) = info.data_offsets;
    let elements = info.shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
    let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
    let fits = bits.is_some_and(|bits| end.checked_sub(start) == Some(bits.div_ceil(8)));
    if !fits {
        let shape = &info.shape;
        return Err(format!("bytes {start} to {end} do not hold {:?} {shape:?}", info.dtype));
    }
    let last = data.checked_add(end as u64);
    if last.is_none_or(|last| last > length) {
        return Err(format!("bytes {start} to {end} lie beyond the file of {length} bytes"));
    }
    Ok(data + start as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::save;

    fn file(folder: &Path, header: &str, data: &[u8]) -> PathBuf {
        let path = folder.join(WHOLE);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn half_precision_becomes_single() {
        let folder = tempfile::tempdir().unwrap();
        let header = r#"{"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]},"n":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}"#;
        let mut data = Vec::new();
        for half in [1.5, -0.25] {
            data.extend(f16::from_f32(half).to_le_bytes());
        }
        for half in [3.0, -65280.0] {
            data.extend(bf16::from_f32(half).to_le_bytes());
        }
        data.extend([0; 8]);
        let checkpoint = Checkpoint::open(&file(folder.path(), header, &data)).unwrap();
        assert_eq!(checkpoint.read("h").unwrap(), [1.5, -0.25]);
        assert_eq!(checkpoint.read("b").unwrap(), [3.0, -65280.0]);
        assert_eq!(checkpoint.shape("b"), Some(&[1, 2][..]));
        assert!(matches!(checkpoint.read("n"), Err(WeightsError::Dtype { .. })));
        assert!(matches!(checkpoint.read("x"), Err(WeightsError::Missing(_))));
    }

    #[test]
    fn a_split_checkpoint_is_read_through_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        save(&at("one.safetensors"), &[("a".into(), vec![2], vec![1.0, 2.0])]).unwrap();
        save(&at("two.safetensors"), &[("b".into(), vec![1], vec![3.0])]).unwrap();
        let index = |b: &str| {
            format!(r#"{{"metadata":{{}},"weight_map":{{"a":"one.safetensors","b":"{b}"}}}}"#)
        };
        std::fs::write(at(INDEX), index("two.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.read("a").unwrap(), [1.0, 2.0]);
        assert_eq!(checkpoint.read("b").unwrap(), [3.0]);
        for wrong in ["one.safetensors", "../two.safetensors", "/etc/passwd", "..", "none"] {
            std::fs::write(at(INDEX), index(wrong)).unwrap();
            assert!(Checkpoint::open(folder.path()).is_err(), "{wrong}");
        }
    }

    /// Goal: a stranger's header takes no memory that it merely names, and never panics.
    #[test]
    fn hostile_headers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let huge = usize::MAX;
        for header in [
            "{".to_owned(),
            r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,17]}}"#.into(),
            r#"{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}}"#.into(),
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#.into(),
            format!(r#"{{"a":{{"dtype":"F32","shape":[{huge},{huge}],"data_offsets":[0,4]}}}}"#),
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[{},{huge}]}}}}"#,
                huge - 4
            ),
        ] {
            let path = file(folder.path(), &header, &[0; 16]);
            assert!(Checkpoint::open(&path).is_err(), "{header}");
        }
        for bytes in [vec![], vec![1; 7], vec![0xff; 64], u64::MAX.to_le_bytes().to_vec()] {
            let path = folder.path().join(WHOLE);
            std::fs::write(&path, &bytes).unwrap();
            assert!(Checkpoint::open(&path).is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(WHOLE);
            if bytes.len() > 8 {
                let header = (bytes.len() as u64 - 8) / 2;
                bytes[..8].copy_from_slice(&header.to_le_bytes());
            }
            std::fs::write(&path, &bytes).unwrap();
            drop(Checkpoint::open(&path));
        }
    }
}
