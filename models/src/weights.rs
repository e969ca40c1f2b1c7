//! Checkpoints: tensors by name in a safetensors file, which other tools read.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::exec::store::{to_bytes, to_floats};

/// One tensor: name, shape, elements in row-major order.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file system.
    #[error("the checkpoint file cannot be opened")]
    Io(#[from] std::io::Error),
    /// The format.
    #[error("not a sound safetensors file")]
    Format(#[from] SafeTensorError),
    /// A tensor of another kind than f32.
    #[error("tensor {name} holds {dtype:?}; only F32 is read")]
    Dtype {
        /// The tensor.
        name: String,
        /// What it holds.
        dtype: Dtype,
    },
}

/// Writes tensors to a safetensors file.
///
/// *Errors*: [`WeightsError`], also where a shape and its elements disagree.
pub fn save(path: &Path, tensors: &[Named]) -> Result<(), WeightsError> {
    let bytes: BTreeMap<&str, bytes::Bytes> =
        tensors.iter().map(|(name, _, values)| (name.as_str(), to_bytes(values))).collect();
    let views = tensors
        .iter()
        .map(|(name, shape, _)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), &bytes[name.as_str()])?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    let file = safetensors::serialize(views, None)?;
    std::fs::write(path, file)?;
    Ok(())
}

/// Reads the tensors of a safetensors file, ordered by name.
///
/// *Errors*: [`WeightsError`]; a file that was cut short or tampered with never panics.
pub fn load(path: &Path) -> Result<Vec<Named>, WeightsError> {
    let file = std::fs::read(path)?;
    let tensors = SafeTensors::deserialize(&file)?;
    let mut out = Vec::new();
    for (name, view) in tensors.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(WeightsError::Dtype { name: name.into(), dtype: view.dtype() });
        }
        out.push((name.to_string(), view.shape().to_vec(), to_floats(view.data())));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
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
        let folder = std::env::temp_dir().join(format!("wattle-weights-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("model.safetensors");
        save(&path, &tensors).unwrap();
        assert_eq!(load(&path).unwrap(), tensors);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(matches!(load(&path), Err(WeightsError::Format(_))));
        assert!(save(&path, &[("c".into(), vec![2, 2], vec![1.0])]).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
