//! Inputs of a graph: types and shapes with every open length decided.

use wattle_protocol::dag::shape::check_size;
use wattle_protocol::dag::{Dtype, Fact};

use super::ImportOptions;
use super::array::Kind;
use super::proto::{Dimension, Length, TensorType, ValueInfo};
use super::report::Reason;

/// Returns the Dag's dtype for an ONNX type.
pub(super) fn dtype(kind: Kind) -> Dtype {
    if kind.is_float() { Dtype::F32 } else { Dtype::I32 }
}

/// Returns the type of a tensor input or output.
///
/// *Errors*: it is no tensor, or one of a type that is not read.
pub(super) fn tensor_type(info: &ValueInfo) -> Result<(Kind, &TensorType), Reason> {
    let missing = || Reason::malformed("it has no type");
    let kind = info.kind.as_ref().ok_or_else(missing)?;
    let other = [
        (kind.sequence.is_some(), "a sequence"),
        (kind.map.is_some(), "a map"),
        (kind.sparse.is_some(), "a sparse tensor"),
        (kind.optional.is_some(), "an optional value"),
    ];
    if let Some((_, what)) = other.iter().find(|(is, _)| *is) {
        return Err(Reason::form(format!("it is {what}; only dense tensors are supported")));
    }
    let tensor = kind.tensor.as_ref().ok_or_else(missing)?;
    let code = i64::from(tensor.kind);
    let unread = || Reason::form(format!("tensors of {} are not supported", Kind::code_name(code)));
    Ok((Kind::of_code(code).ok_or_else(unread)?, tensor))
}

/// Decides the lengths of inputs' axes.
pub(super) struct Lengths<'a> {
    options: &'a ImportOptions,
    /// Names that stand on a first axis: the batch, wherever else they stand.
    batch_names: Vec<&'a str>,
}

impl<'a> Lengths<'a> {
    pub(super) fn new(inputs: &'a [ValueInfo], options: &'a ImportOptions) -> Self {
        let first = |info: &'a ValueInfo| match info
            .kind
            .as_ref()?
            .tensor
            .as_ref()?
            .shape
            .as_ref()?
            .axes
            .first()?
        {
            Dimension { length: Some(Length::Named(name)) } => Some(name.as_str()),
            _ => None,
        };
        Self { options, batch_names: inputs.iter().filter_map(first).collect() }
    }

    /// Returns an input's type and its fact in the Dag.
    ///
    /// *Errors*: all axes whose lengths nobody gives, in one reason.
    pub(super) fn fact(&self, info: &ValueInfo) -> Result<(Kind, Fact), Reason> {
        let (kind, tensor) = tensor_type(info)?;
        let none = || Reason::form("its number of axes is not given");
        let axes = &tensor.shape.as_ref().ok_or_else(none)?.axes;
        let mut shape = Vec::with_capacity(axes.len());
        let mut open = Vec::new();
        for (axis, dimension) in axes.iter().enumerate() {
            match self.length(&info.name, axis, dimension) {
                Ok(length) => shape.push(length),
                Err(name) => open.push(name),
            }
        }
        if !open.is_empty() {
            let flags: Vec<String> = open.iter().map(|name| format!("--dim {name}=N")).collect();
            return Err(Reason::form(format!("lengths are open: give {}", flags.join(" "))));
        }
        check_size(&shape).map_err(|error| Reason::form(error.to_string()))?;
        Ok((kind, Fact { dtype: dtype(kind), shape }))
    }

    /// Returns an axis's length, or the name under which a user gives it.
    fn length(&self, input: &str, axis: usize, dimension: &Dimension) -> Result<usize, String> {
        let unnamed = format!("{input}.{axis}");
        let given = self.options.dims.get(&unnamed).copied();
        match &dimension.length {
            Some(Length::Fixed(length)) if *length > 0 => {
                usize::try_from(*length).map_err(|_| unnamed)
            }
            Some(Length::Named(name)) if !name.is_empty() => {
                let given = given.or_else(|| self.options.dims.get(name).copied());
                let is_batch = self.batch_names.contains(&name.as_str());
                given.or(is_batch.then_some(self.options.batch)).ok_or_else(|| name.clone())
            }
            // A length of 0 or less is how older exporters write an open one.
            _ => given.or((axis == 0).then_some(self.options.batch)).ok_or(unnamed),
        }
    }
}
