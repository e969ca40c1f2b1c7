//! Reading an ONNX file in bounded memory, whatever is in it.
//!
//! Three steps: the file's size is checked, [`scan`] counts its fields without decoding any, and only then prost
//! decodes it. Weights stay slices of the file's buffer until something uses them. Data files beside the model are
//! read by [`external`], one tensor at a time.

mod external;
mod scan;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;

use super::proto;
pub(crate) use external::Folder;

/// Longest model file: what protobuf itself allows. Larger models keep their weights in files beside it.
pub(crate) const MODEL_BYTES_MAX: u64 = 1 << 31;

/// Why a file cannot be read as a model or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system.
    #[error("{path} cannot be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is longer than any model may be.
    #[error("{path} has {bytes} bytes; a model file has at most {MODEL_BYTES_MAX}")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The bytes are no protocol buffer.
    #[error("this is no ONNX file: {0}")]
    Malformed(String),
    /// There are more fields than any sensible model has.
    #[error("the file has more than {} fields outside its weights", scan::FIELDS_MAX)]
    TooManyFields,
    /// There is no graph in the file.
    #[error("this is no ONNX model: it holds no graph")]
    NoGraph,
}

/// Reads a model.
///
/// *Errors*: [`ReadError`].
pub(crate) fn model(path: &Path) -> Result<proto::Model, ReadError> {
    decode_model(bytes(path)?)
}

/// Decodes a model.
///
/// *Errors*: [`ReadError`].
pub(crate) fn decode_model(bytes: Bytes) -> Result<proto::Model, ReadError> {
    scan::check(&bytes, scan::Kind::Model)?;
    let model = proto::Model::decode(bytes).map_err(|e| ReadError::Malformed(e.to_string()))?;
    if model.graph.is_none() {
        return Err(ReadError::NoGraph);
    }
    Ok(model)
}

/// Reads a file that holds one tensor, as ONNX's test data are.
///
/// *Errors*: [`ReadError`].
pub(crate) fn tensor(path: &Path) -> Result<proto::Tensor, ReadError> {
    let bytes = bytes(path)?;
    scan::check(&bytes, scan::Kind::Tensor)?;
    proto::Tensor::decode(bytes).map_err(|e| ReadError::Malformed(e.to_string()))
}

fn bytes(path: &Path) -> Result<Bytes, ReadError> {
    let io = |source| ReadError::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length > MODEL_BYTES_MAX {
        return Err(ReadError::TooLong { path: path.into(), bytes: length });
    }
    // A file may grow while it is read, and a device has no length: the limit holds for what comes, too.
    let mut bytes = Vec::new();
    file.take(MODEL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    let length = bytes.len() as u64;
    if length > MODEL_BYTES_MAX {
        return Err(ReadError::TooLong { path: path.into(), bytes: length });
    }
    Ok(bytes.into())
}
