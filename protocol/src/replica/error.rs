//! Why gradients are not exchanged.

use crate::codec::{DecodeError, EncodeError};

/// Why a gradient, a message or a set of workers is refused; nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// There is nobody to exchange with.
    #[error("{count} workers; an exchange has 1 to {most}")]
    Workers {
        /// How many.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// There is no such merge group.
    #[error("merge group {group} of {groups}")]
    Group {
        /// What was asked for.
        group: usize,
        /// How many there are.
        groups: usize,
    },
    /// Something is not as long as what it belongs to.
    #[error("{what} has {found} elements where {wanted} are awaited")]
    Length {
        /// What it is.
        what: &'static str,
        /// Its elements.
        found: usize,
        /// What fits.
        wanted: usize,
    },
    /// A gradient holds NaN or infinity, or a form cannot hold it.
    #[error("the gradient of worker {worker}, merge group {group}: {source}")]
    Gradient {
        /// Whose.
        worker: usize,
        /// Which part of it.
        group: usize,
        /// What is wrong.
        source: EncodeError,
    },
    /// A message is not what was agreed on.
    #[error("the message of worker {worker}: {source}")]
    Message {
        /// Whose.
        worker: usize,
        /// What is wrong.
        source: DecodeError,
    },
    /// A second message of one worker for the same merge group.
    #[error("worker {worker} has sent twice")]
    Twice {
        /// Whose.
        worker: usize,
    },
    /// Not everybody has sent.
    #[error("{missing} workers have not sent")]
    Incomplete {
        /// How many are awaited.
        missing: usize,
    },
    /// Finite gradients whose sum is not.
    #[error("the sum over workers is not finite at element {first}")]
    Overflow {
        /// The first such element.
        first: usize,
    },
}
