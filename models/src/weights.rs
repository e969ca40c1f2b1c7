//! Checkpoints: tensors by name in safetensors files, which other tools read.
//!
//! Reading is in [`checkpoint`]; what a job starts from in [`given`]. Tensors are written one after another, so that
//! none is in memory twice.

pub mod checkpoint;
pub mod given;

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use checkpoint::Checkpoint;

/// One tensor: name, shape, elements in row-major order.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file system.
    #[error("the checkpoint file cannot be opened: {0}")]
    Io(std::io::Error),
    /// A file that contradicts itself.
    #[error("{} is not a sound checkpoint: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A tensor of a kind that is not read.
    #[error("tensor {name} holds {dtype:?}; F32, F16 and BF16 are read")]
    Dtype {
        /// The tensor.
        name: String,
        /// What it holds.
        dtype: Dtype,
    },
    /// A tensor that is not there.
    #[error("there is no tensor {0} in the weights")]
    Missing(String),
    /// A tensor whose shape and elements disagree.
    #[error("tensor {name} of shape {shape:?} has {count} elements")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many elements came.
        count: usize,
    },
}

/// By hand: the message holds the cause, which a chain of causes would print a second time.
impl From<std::io::Error> for WeightsError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes tensors to a safetensors file.
///
/// *Errors*: [`WeightsError`], also where a shape and its elements disagree.
pub fn save(path: &Path, tensors: &[Named]) -> Result<(), WeightsError> {
    save_with(path, tensors, &[])
}

/// The same with 64-bit integers beside them, each a single 0: counters that other tools ask for and nothing reads.
///
/// *Errors*: as [`save`].
pub fn save_with(path: &Path, tensors: &[Named], counters: &[String]) -> Result<(), WeightsError> {
    // Readers of PyTorch's world ask for this entry.
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut end = 0;
    let mut add = |name: &str, dtype: Dtype, shape: &[usize], length: usize| {
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]});
        end += length;
        header.insert(name.into(), entry).is_none()
    };
    for (name, shape, values) in tensors {
        let fits = shape.iter().product::<usize>() == values.len();
        if !fits || !add(name, Dtype::F32, shape, values.len() * 4) {
            let (name, shape, count) = (name.clone(), shape.clone(), values.len());
            return Err(WeightsError::Shape { name, shape, count });
        }
    }
    for name in counters {
        add(name, Dtype::I64, &[], 8);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let write = |file: &mut dyn Write| -> std::io::Result<()> {
        let mut file = BufWriter::new(file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, _, values) in tensors {
            for value in values {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        for _ in counters {
            file.write_all(&0u64.to_le_bytes())?;
        }
        file.flush()
    };
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        // A device or a pipe takes what is written, and stays what it is.
        return Ok(write(&mut OpenOptions::new().write(true).open(path)?)?);
    }
    // Where a link leads, not the link.
    let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut part = part(&place)?;
    write(&mut part)?;
    part.as_file().sync_all()?;
    part.persist(&place).map_err(|error| error.error)?;
    Ok(())
}

/// Opens a file beside the one that it becomes when it is whole; until then, an earlier one stays as it is.
fn part(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".part-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder.unwrap_or(Path::new(".")))
}

/// Reads the tensors of a safetensors file, ordered by name.
///
/// *Errors*: [`WeightsError`]; a file that was cut short or tampered with never panics.
pub fn load(path: &Path) -> Result<Vec<Named>, WeightsError> {
    let checkpoint = Checkpoint::open(path)?;
    let read = |(name, shape): (&str, &[usize])| {
        Ok((name.to_owned(), shape.to_vec(), checkpoint.read(name)?))
    };
    checkpoint.tensors().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_survives_the_way_through_a_file() {
        let tensors = vec![
            (
                "a.weight".to_string(),
                vec![2, 3],
                vec![0.5, -1.0, 2.0, f32::MIN_POSITIVE, -0.0, 7.0],
            ),
            ("b".to_string(), vec![], vec![3.25]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save(&path, &tensors).unwrap();
        assert_eq!(load(&path).unwrap(), tensors);
        let whole = std::fs::read(&path).unwrap();
        // The format's own reader agrees.
        assert_eq!(safetensors::SafeTensors::deserialize(&whole).unwrap().len(), 2);
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(matches!(load(&path), Err(WeightsError::Malformed { .. })));
        assert!(save(&path, &[("c".into(), vec![2, 2], vec![1.0])]).is_err());
    }

    /// Goal: an old checkpoint goes when the new one is whole, and nothing else is left behind.
    #[test]
    fn a_checkpoint_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("model.safetensors"), folder.path().join("plain"));
        std::fs::write(&path, "an old one").unwrap();
        let tensors = vec![("b".to_string(), vec![], vec![3.25])];
        save(&path, &tensors).unwrap();
        assert_eq!(load(&path).unwrap(), tensors);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // Others may read it as they may read any file.
        std::fs::write(&plain, "").unwrap();
        let rights = |path: &Path| std::fs::metadata(path).unwrap().permissions();
        assert_eq!(rights(&path), rights(&plain));
        // Links stay links, and folders folders.
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            save(&link, &[("c".to_string(), vec![], vec![1.5])]).unwrap();
            assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(load(&path).unwrap()[0].0, "c");
            // What is no file is not replaced by one.
            let socket = folder.path().join("socket");
            let _heard = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            assert!(matches!(save(&socket, &tensors), Err(WeightsError::Io(_))));
            assert!(!std::fs::metadata(&socket).unwrap().is_file());
        }
        assert!(matches!(save(folder.path(), &tensors), Err(WeightsError::Io(_))));
        let nowhere = folder.path().join("none").join("model.safetensors");
        assert!(matches!(save(&nowhere, &tensors), Err(WeightsError::Io(_))));
    }
}
