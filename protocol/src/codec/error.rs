//! Why a tensor is not encoded, and why bytes are not a tensor.

/// Why a tensor is not encoded; whoever asked may choose a form that holds more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A form that loses something would lose this altogether.
    #[error("{count} elements are NaN or infinite, the first of them at {first}")]
    NotFinite {
        /// Index of the first one.
        first: usize,
        /// How many there are.
        count: usize,
    },
    /// Finite elements that this form would make infinite.
    #[error("{count} elements are too large for this form, the first of them at {first}")]
    TooLarge {
        /// Index of the first one.
        first: usize,
        /// How many there are.
        count: usize,
    },
    /// The residual is another tensor's.
    #[error("the residual has {residual} elements, the tensor {tensor}")]
    Residual {
        /// Elements of the residual.
        residual: usize,
        /// Elements of the tensor.
        tensor: usize,
    },
}

/// Why bytes are not a tensor of the expected form and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end before the tensor does.
    #[error("the bytes end early")]
    Short,
    /// They go on after the tensor, or are more than it can take.
    #[error("{extra} bytes are left over")]
    Long {
        /// Bytes behind the tensor's.
        extra: usize,
    },
    /// More elements than fit, or than were agreed on.
    #[error("{count} elements where at most {most} are awaited")]
    TooMany {
        /// Elements that the bytes name.
        count: usize,
        /// Elements that were agreed on.
        most: usize,
    },
    /// An element beyond the end of its chunk.
    #[error("an element lies beyond the end of the tensor")]
    Outside,
    /// A value, or a block's scale, that no encoder writes.
    #[error("a value is not one that an encoder writes")]
    Value,
    /// A count, a width or unused bits that no encoder writes.
    #[error("a count or a width is not one that an encoder writes")]
    Layout,
    /// The caller's chunk is larger than chunks are.
    #[error("a chunk has at most {most} elements, not {asked}")]
    Chunk {
        /// Elements that were asked for.
        asked: usize,
        /// Elements of a whole chunk.
        most: usize,
    },
}
