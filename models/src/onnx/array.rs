//! Arrays on the host with the element types of ONNX: what initializers, folded constants and test data are.
//!
//! Wattle computes in f32 and i32. Floats of every width are held as f32; integers and booleans as i64, so that sizes
//! and ends such as `i64::MAX` can be computed with before they have to fit.

use std::fmt;

/// Most elements of one host array: 16 GiB of f32.
pub const ELEMENTS_MAX: usize = 1 << 32;

/// Element types of tensors that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the ONNX type of that name")]
pub enum Kind {
    F32,
    F64,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Kind {
    /// Returns the type of an ONNX type code, if tensors of it are read.
    pub fn of_code(code: i64) -> Option<Self> {
        Some(match code {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            4 => Self::U16,
            5 => Self::I16,
            6 => Self::I32,
            7 => Self::I64,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            12 => Self::U32,
            13 => Self::U64,
            16 => Self::Bf16,
            _ => return None,
        })
    }

    /// Returns the name of an ONNX type code, for messages.
    pub fn code_name(code: i64) -> String {
        const OTHERS: [(i64, &str); 14] = [
            (0, "undefined"),
            (8, "string"),
            (14, "complex64"),
            (15, "complex128"),
            (17, "float8e4m3fn"),
            (18, "float8e4m3fnuz"),
            (19, "float8e5m2"),
            (20, "float8e5m2fnuz"),
            (21, "uint4"),
            (22, "int4"),
            (23, "float4e2m1"),
            (24, "float8e8m0"),
            (25, "uint2"),
            (26, "int2"),
        ];
        let other = OTHERS.iter().find(|(other, _)| *other == code);
        let unknown = || other.map_or_else(|| format!("type {code}"), |(_, name)| (*name).into());
        Self::of_code(code).map_or_else(unknown, |kind| kind.to_string())
    }

    /// Says whether elements are floats.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16)
    }

    /// Returns the size of an element in a file.
    pub const fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Returns the least and the greatest value of an integer type, within i64.
    pub const fn range(self) -> Option<(i64, i64)> {
        Some(match self {
            Self::I8 => (-128, 127),
            Self::U8 => (0, 255),
            Self::I16 => (-32_768, 32_767),
            Self::U16 => (0, 65_535),
            Self::I32 => (-(1 << 31), (1 << 31) - 1),
            Self::U32 => (0, (1 << 32) - 1),
            Self::I64 => (i64::MIN, i64::MAX),
            Self::U64 => (0, i64::MAX),
            Self::Bool => (0, 1),
            Self::F32 | Self::F64 | Self::F16 | Self::Bf16 => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float",
            Self::F64 => "double",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
        })
    }
}

/// The elements of an array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Of a float type.
    Floats(Vec<f32>),
    /// Of an integer type, or booleans as 0 and 1.
    Ints(Vec<i64>),
}

/// An array with its ONNX type. As many elements as its shape says; axes may be empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    kind: Kind,
    shape: Vec<usize>,
    elements: Elements,
}

impl Array {
    /// Makes an array of floats.
    ///
    /// *Panics* if the shape has another number of elements, or the kind is no float.
    pub fn floats(kind: Kind, shape: Vec<usize>, elements: Vec<f32>) -> Self {
        assert!(kind.is_float(), "floats have a float kind");
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "as many as the shape says");
        Self { kind, shape, elements: Elements::Floats(elements) }
    }

    /// Makes an array of integers or booleans.
    ///
    /// *Panics* if the shape has another number of elements, or the kind is a float.
    pub fn ints(kind: Kind, shape: Vec<usize>, elements: Vec<i64>) -> Self {
        assert!(!kind.is_float(), "integers have an integer kind");
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "as many as the shape says");
        Self { kind, shape, elements: Elements::Ints(elements) }
    }

    /// Makes a vector of int64, as shapes are.
    pub fn vector(elements: Vec<i64>) -> Self {
        Self::ints(Kind::I64, vec![elements.len()], elements)
    }

    /// Returns the type of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Returns the number of elements.
    pub fn count(&self) -> usize {
        match &self.elements {
            Elements::Floats(values) => values.len(),
            Elements::Ints(values) => values.len(),
        }
    }

    /// Returns the elements as floats, whatever they are.
    #[expect(clippy::cast_precision_loss, reason = "integers become floats as a cast does it")]
    pub fn to_floats(&self) -> Vec<f32> {
        match &self.elements {
            Elements::Floats(values) => values.clone(),
            Elements::Ints(values) => values.iter().map(|v| *v as f32).collect(),
        }
    }

    /// Returns the integers, or none where these are floats.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match &self.elements {
            Elements::Ints(values) => Some(values),
            Elements::Floats(_) => None,
        }
    }

    /// Returns the floats, or none where these are integers.
    pub fn as_floats(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::Floats(values) => Some(values),
            Elements::Ints(_) => None,
        }
    }

    /// Returns the integers as i32, or the first that does not fit.
    ///
    /// *Errors*: the integer.
    pub fn to_i32(&self) -> Result<Vec<i32>, i64> {
        match &self.elements {
            Elements::Ints(values) => {
                values.iter().map(|v| i32::try_from(*v).map_err(|_| *v)).collect()
            }
            Elements::Floats(_) => Ok(Vec::new()),
        }
    }

    /// Returns the same elements under another shape, if it has as many.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        let count = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis))?;
        (count == self.count()).then(|| Self { shape, ..self.clone() })
    }

    /// Returns the elements at these places (in row-major order) as an array of another shape.
    ///
    /// *Panics* if a place is outside, or the shape has another number of elements than there are places.
    pub fn pick(&self, shape: Vec<usize>, places: &[usize]) -> Self {
        match &self.elements {
            Elements::Floats(v) => {
                Self::floats(self.kind, shape, places.iter().map(|i| v[*i]).collect())
            }
            Elements::Ints(v) => {
                Self::ints(self.kind, shape, places.iter().map(|i| v[*i]).collect())
            }
        }
    }
}
