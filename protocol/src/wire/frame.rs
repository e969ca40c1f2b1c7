//! The only place that turns values into bytes and back: version first, then bincode with a hard limit.
//!
//! A stranger's bytes can neither panic here nor make us allocate more than the limit. Ids that are hashes of
//! values are made here too, since a hash is a hash of these bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::JobId;
use crate::job::JobSpec;
use crate::schedule::Plan;

/// First byte of every frame; a peer refuses others and says so.
pub const VERSION: u8 = 5;

/// Most bytes of one control message. A job's OP-DAG is the largest: GPT-2 XL takes about 0.3 MB.
pub const FRAME_MAX: usize = 4 << 20;

/// Why bytes are not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Nothing there.
    #[error("the frame is empty")]
    Empty,
    /// Over the limit.
    #[error("the frame has {0} bytes; at most {FRAME_MAX} are allowed")]
    TooLong(usize),
    /// Another version of the protocol.
    #[error(
        "the frame speaks version {0} of the protocol, this peer speaks {VERSION}; update the older one"
    )]
    Version(u8),
    /// Not the bytes of such a value.
    #[error("the frame does not parse: {0}")]
    Malformed(String),
    /// Bytes after the value.
    #[error("the frame has {0} bytes after its value")]
    Trailing(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<FRAME_MAX>()
}

/// Writes a value with its version byte.
///
/// *Errors*: [`FrameError::TooLong`] or [`FrameError::Malformed`] (a value that cannot be written).
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![VERSION];
    let body = bincode::serde::encode_to_vec(value, config())
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    bytes.extend_from_slice(&body);
    if bytes.len() > FRAME_MAX {
        return Err(FrameError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// Reads a value, all of it and nothing after it.
///
/// *Errors*: every [`FrameError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let (version, body) = bytes.split_first().ok_or(FrameError::Empty)?;
    if bytes.len() > FRAME_MAX {
        return Err(FrameError::TooLong(bytes.len()));
    }
    if *version != VERSION {
        return Err(FrameError::Version(*version));
    }
    let (value, read) = bincode::serde::decode_from_slice(body, config())
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    if read != body.len() {
        return Err(FrameError::Trailing(body.len() - read));
    }
    Ok(value)
}

/// Returns a job's id: the hash of everything in its specification.
///
/// *Errors*: [`FrameError::TooLong`] for a specification that no message could carry.
pub fn job_id(spec: &JobSpec) -> Result<JobId, FrameError> {
    let hash = blake3::hash(&encode(spec)?);
    let mut id = [0; 16];
    id.copy_from_slice(&hash.as_bytes()[..16]);
    Ok(JobId::new(id))
}

/// Returns a plan's hash, by which members name it.
///
/// *Errors*: [`FrameError::TooLong`] for a plan that no message could carry.
pub fn plan_hash(plan: &Plan) -> Result<[u8; 32], FrameError> {
    Ok(*blake3::hash(&encode(plan)?).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_a_stranger_names_is_not_allocated() {
        // A vector that claims 2^60 elements in a ten-byte frame.
        let bytes = [VERSION, 253, 0, 0, 0, 0, 0, 0, 0, 16, 1];
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn other_versions_empty_and_trailing_frames_are_refused() {
        assert_eq!(decode::<u8>(&[]), Err(FrameError::Empty));
        assert_eq!(decode::<u8>(&[VERSION + 1, 3]), Err(FrameError::Version(VERSION + 1)));
        assert_eq!(decode::<u8>(&[VERSION, 3, 4]), Err(FrameError::Trailing(1)));
        assert_eq!(decode::<u8>(&encode(&7u8).unwrap()), Ok(7));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..512)) {
            let mut framed = vec![VERSION];
            framed.extend_from_slice(&bytes);
            drop(decode::<crate::wire::message::Message>(&framed));
            drop(decode::<JobSpec>(&framed));
        }
    }
}
