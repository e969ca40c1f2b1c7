//! Settings of operators: functions of one and of two numbers, comparisons, constants, windows, targets, rotations.

use serde::{Deserialize, Serialize};

use super::Op;

/// A function of one f32, applied element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unary {
    /// `e^x`.
    Exp,
    /// `ln x`.
    Log,
    /// `sqrt x`.
    Sqrt,
    /// `tanh x`.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `sin x`, in radians.
    Sin,
    /// `cos x`, in radians.
    Cos,
    /// `arcsin x`.
    Asin,
    /// `arccos x`.
    Acos,
    /// `arctan x`.
    Atan,
    /// `erf x`.
    Erf,
    /// `|x|`; its derivative at 0 is 0.
    Abs,
    /// -1, 0 or 1; its derivative is 0.
    Sign,
    /// The largest integer not above x; its derivative is 0.
    Floor,
    /// The smallest integer not below x; its derivative is 0.
    Ceil,
    /// The nearest integer, halves to the even one; its derivative is 0.
    Round,
}

impl Unary {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Exp,
        Self::Log,
        Self::Sqrt,
        Self::Tanh,
        Self::Sigmoid,
        Self::Sin,
        Self::Cos,
        Self::Asin,
        Self::Acos,
        Self::Atan,
        Self::Erf,
        Self::Abs,
        Self::Sign,
        Self::Floor,
        Self::Ceil,
        Self::Round,
    ];

    /// Returns the name in text dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Sqrt => "sqrt",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Sin => "sin",
            Self::Cos => "cos",
            Self::Asin => "asin",
            Self::Acos => "acos",
            Self::Atan => "atan",
            Self::Erf => "erf",
            Self::Abs => "abs",
            Self::Sign => "sign",
            Self::Floor => "floor",
            Self::Ceil => "ceil",
            Self::Round => "round",
        }
    }

    /// Says whether it needs more than a few instructions.
    pub const fn is_transcendental(self) -> bool {
        match self {
            Self::Exp | Self::Log | Self::Sqrt | Self::Tanh | Self::Sigmoid => true,
            Self::Sin | Self::Cos | Self::Asin | Self::Acos | Self::Atan | Self::Erf => true,
            Self::Abs | Self::Sign | Self::Floor | Self::Ceil | Self::Round => false,
        }
    }
}

/// A function of two f32, applied element by element; shapes broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Binary {
    /// `a^b`.
    Pow,
    /// The larger one, or a where they are equal; on hosts NaN where either is. Also of i32.
    Max,
    /// The smaller one, or a where they are equal; on hosts NaN where either is. Also of i32.
    Min,
    /// The angle of the point (b, a) from the first axis, in radians.
    Atan2,
    /// What is left of a after taking b away as often as goes: the sign is a's, as C's `fmod`; also of i32.
    Remainder,
}

impl Binary {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pow, Self::Max, Self::Min, Self::Atan2, Self::Remainder];

    /// Returns the name in text dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pow => "pow",
            Self::Max => "max",
            Self::Min => "min",
            Self::Atan2 => "atan2",
            Self::Remainder => "remainder",
        }
    }
}

/// A comparison of two numbers of one dtype; shapes broadcast; the result is an i32 mask of 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Comparison {
    /// `a = b`.
    Equal,
    /// `a < b`.
    Less,
    /// `a <= b`.
    LessEqual,
}

impl Comparison {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Equal, Self::Less, Self::LessEqual];

    /// Returns the name in text dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Less => "less",
            Self::LessEqual => "less_equal",
        }
    }
}

/// Most elements of a literal: what belongs to a network's structure (indices, interpolation weights), not its weights.
pub const LITERAL_MAX: usize = 1 << 16;

/// What a mask of an attention holds, at most, where it hides a position. Finite, since shaders need not represent
/// infinities; far below any score and far above the smallest f32, so that adding to it stays finite.
pub const HIDDEN: f32 = -1e30;

/// Numbers that are known when the network is built, row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Numbers {
    /// f32, finite.
    Floats(Vec<f32>),
    /// i32.
    Ints(Vec<i32>),
}

impl Numbers {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(list) => list.len(),
            Self::Ints(list) => list.len(),
        }
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Geometry of a 2-D convolution: `[height, width]` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conv2d {
    /// Step of the window.
    pub stride: [usize; 2],
    /// Zeros added on both sides.
    pub padding: [usize; 2],
    /// Distance between the window's taps.
    pub dilation: [usize; 2],
    /// Number of channel groups; equal to the input channels for a depthwise convolution.
    pub groups: usize,
}

/// Geometry of a 2-D pooling window: `[height, width]` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool2d {
    /// Size of the window.
    pub kernel: [usize; 2],
    /// Step of the window.
    pub stride: [usize; 2],
    /// Padding on both sides: minus infinity for max, zeros (counted) for average.
    pub padding: [usize; 2],
}

/// Which formula of GELU: they differ by up to 5e-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Gelu {
    /// `x/2 (1 + erf(x / sqrt 2))`.
    Erf,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, which GPT-2 uses.
    Tanh,
}

/// How a cross-entropy reads its targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Share of each target spread evenly over all classes, in [0, 1).
    pub smoothing: f32,
    /// Targets of this value do not count, not even in the mean.
    pub ignore: Option<i32>,
}

/// Settings of a rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Base of the wave lengths; 10,000 in the paper (Su et al. 2021, section 3.2.2).
    pub theta: f32,
    /// Pairs are neighbours (2 i, 2 i + 1); else halves (i, i + D / 2), as Llama's checkpoints have it.
    pub interleaved: bool,
    /// Turn back instead: the VJP.
    pub inverse: bool,
    /// Position of the first row.
    pub start: usize,
}

impl Op {
    /// Says whether the operator moves or combines i32 as well as f32, so that its result has its operand's dtype.
    pub const fn takes_any(&self) -> bool {
        let combines = matches!(
            self,
            Self::Add | Self::Sub | Self::Mul | Self::Div | Self::Where | Self::ReduceSum { .. }
        );
        let selects = matches!(self, Self::Binary(Binary::Max | Binary::Min | Binary::Remainder));
        let views =
            matches!(self, Self::Reshape { .. } | Self::Transpose { .. } | Self::Expand { .. });
        let cuts = matches!(self, Self::Slice { .. } | Self::Unslice { .. } | Self::Concat { .. });
        let reads = matches!(
            self,
            Self::Gather { .. } | Self::GatherElements { .. } | Self::ScatterElements { .. }
        );
        combines || selects || views || cuts || reads
    }
}
