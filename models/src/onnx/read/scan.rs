//! Counting the fields of a file before anything is decoded, so that a small file cannot become a large structure.
//!
//! A field of two bytes can decode to a structure of some hundred; packed numbers grow eightfold at most. With the
//! number of fields limited, the decoded model is at most eight times the file and some hundred megabytes.

use super::ReadError;

/// Most fields outside packed numbers and byte strings: 100,000 nodes of ten fields.
pub(super) const FIELDS_MAX: usize = 1 << 20;
/// Deepest nesting of messages; graphs within attributes of nodes count three a level.
const DEPTH_MAX: usize = 48;

/// The messages, as far as they hold messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Tensor,
    ValueInfo,
    ValueType,
    TensorType,
    TensorShape,
    /// Holds no message that is read.
    Leaf,
}

impl Kind {
    /// Returns what a field holds if it is a message.
    fn inner(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5) => Self::Tensor,
            (Self::Graph, 11 | 12) => Self::ValueInfo,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::ValueInfo, 2) => Self::ValueType,
            (Self::ValueType, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::TensorShape,
            (Self::Model, 8) | (Self::Function, 9) | (Self::Tensor, 13) => Self::Leaf,
            (Self::TensorShape, 1) => Self::Leaf,
            _ => return None,
        })
    }
}

/// Checks the structure of a message and the number of its fields.
///
/// *Errors*: [`ReadError::Malformed`], [`ReadError::TooManyFields`]. *Cost*: O(bytes), without memory.
pub(super) fn check(bytes: &[u8], kind: Kind) -> Result<(), ReadError> {
    let mut left = FIELDS_MAX;
    walk(bytes, kind, DEPTH_MAX, &mut left)
}

fn walk(mut rest: &[u8], kind: Kind, depth: usize, left: &mut usize) -> Result<(), ReadError> {
    if depth == 0 {
        return Err(malformed("messages are nested too deeply"));
    }
    while !rest.is_empty() {
        *left = left.checked_sub(1).ok_or(ReadError::TooManyFields)?;
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                varint(&mut rest)?;
            }
            1 => {
                take(&mut rest, 8)?;
            }
            2 => {
                let length = varint(&mut rest)?;
                let body = take(&mut rest, length)?;
                if let Some(inner) = kind.inner(key >> 3) {
                    walk(body, inner, depth - 1, left)?;
                }
            }
            5 => {
                take(&mut rest, 4)?;
            }
            other => return Err(malformed(&format!("wire type {other} is not used"))),
        }
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, ReadError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(|| malformed("a number is cut off"))?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed("a number has more than 64 bits"))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], ReadError> {
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (body, after) = split.ok_or_else(|| malformed("a field is cut off"))?;
    *rest = after;
    Ok(body)
}

fn malformed(what: &str) -> ReadError {
    ReadError::Malformed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_empty_nodes_is_refused_before_it_is_decoded() {
        // Field 7 of the model: a graph of two-byte nodes.
        let nodes = [0x0a, 0x00].repeat(FIELDS_MAX + 1);
        let mut file = vec![0x3a];
        let mut length = nodes.len();
        while length >= 0x80 {
            file.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        file.push(u8::try_from(length).unwrap());
        file.extend(nodes);
        assert!(matches!(check(&file, Kind::Model), Err(ReadError::TooManyFields)));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let nested = |levels: usize| {
            let mut body = Vec::new();
            // A graph, in an attribute (6), in a node (5), in the graph's nodes (1).
            for field in [6u8, 5, 1].repeat(levels) {
                let length = u8::try_from(body.len()).unwrap();
                body = [&[field << 3 | 2, length][..], &body].concat();
            }
            body
        };
        assert!(check(&nested(3), Kind::Graph).is_ok());
        assert!(check(&nested(20), Kind::Graph).is_err());
    }
}
