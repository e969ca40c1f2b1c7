//! One node as its mapping sees it: operands, attributes, version, and results in the making.
//!
//! Not here: the operators that a mapping adds (`emit`).

use std::rc::Rc;

use wattle_protocol::ids::ValueId;

use super::array::{Array, Kind};
use super::attribute::Attributes;
use super::graph::Step;
use super::import::{Importer, Known, Term};
use super::leaf::Use;
use super::report::Reason;

/// One node with its operands.
pub(super) struct Call<'a> {
    pub(super) importer: &'a mut Importer,
    pub(super) step: &'a Step,
    operands: Vec<Option<Term>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        importer: &'a mut Importer,
        step: &'a Step,
        operands: Vec<Option<Term>>,
    ) -> Self {
        Self { importer, step, operands }
    }

    /// Returns the operator's name.
    pub(super) fn operator(&self) -> &'a str {
        &self.step.node.operator
    }

    /// Returns the version of ONNX's operators.
    pub(super) fn opset(&self) -> i64 {
        self.step.opset
    }

    /// Returns the attributes.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes(&self.step.node.attributes)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, Reason> {
        Ok(self.attributes().int(name)?.unwrap_or(default))
    }

    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, Reason> {
        Ok(self.attributes().float(name)?.unwrap_or(default))
    }

    pub(super) fn text(&self, name: &str, default: &'a str) -> Result<&'a str, Reason> {
        Ok(self.attributes().text(name)?.unwrap_or(default))
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Reason> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// Returns the number of operands, absent ones in the middle included.
    pub(super) fn count(&self) -> usize {
        self.operands.len()
    }

    /// Says whether an operand is given.
    pub(super) fn has(&self, at: usize) -> bool {
        self.operands.get(at).is_some_and(Option::is_some)
    }

    /// Says whether the graph reads a result.
    pub(super) fn wants(&self, at: usize) -> bool {
        self.step.node.outputs.get(at).is_some_and(|name| !name.is_empty())
    }

    /// Returns the number of results that the graph names.
    pub(super) fn results(&self) -> usize {
        self.step.node.outputs.len()
    }

    /// Returns what is known of an operand.
    ///
    /// *Errors*: it is not given.
    pub(super) fn term(&self, at: usize) -> Result<&Term, Reason> {
        let missing = || Reason::malformed(format!("operand {at} is missing"));
        self.operands.get(at).and_then(Option::as_ref).ok_or_else(missing)
    }

    /// Returns all operands that are given.
    pub(super) fn terms(&self) -> impl Iterator<Item = &Term> {
        self.operands.iter().flatten()
    }

    /// Returns an operand's ONNX type.
    pub(super) fn kind(&self, at: usize) -> Result<Kind, Reason> {
        Ok(match self.term(at)? {
            Term::Known(known) => known.array.kind(),
            Term::Built(_, kind) => *kind,
        })
    }

    /// Returns an operand's shape.
    pub(super) fn shape(&self, at: usize) -> Result<Vec<usize>, Reason> {
        Ok(match self.term(at)? {
            Term::Known(known) => known.array.shape().to_vec(),
            Term::Built(value, _) => self.importer.builder.fact(*value).shape.clone(),
        })
    }

    /// Returns an operand's number of axes.
    pub(super) fn rank(&self, at: usize) -> Result<usize, Reason> {
        Ok(self.shape(at)?.len())
    }

    /// Returns an operand's elements.
    ///
    /// *Errors*: [`Reason::NotKnown`].
    pub(super) fn known(&self, at: usize) -> Result<&Array, Reason> {
        match self.term(at)? {
            Term::Known(known) => Ok(&known.array),
            Term::Built(value, _) => {
                let name = self.step.node.inputs[at].clone();
                Err(Reason::NotKnown { name, inputs: self.importer.origins(*value) })
            }
        }
    }

    /// Returns an operand's integers, which decide about shapes.
    ///
    /// *Errors*: they are not known, or no integers.
    pub(super) fn known_ints(&self, at: usize) -> Result<Vec<i64>, Reason> {
        let wrong = || Reason::malformed(format!("operand {at} holds no integers"));
        self.known(at)?.as_ints().map(<[i64]>::to_vec).ok_or_else(wrong)
    }

    /// Returns an operand's floats, which decide about shapes or settings.
    ///
    /// *Errors*: they are not known.
    pub(super) fn known_floats(&self, at: usize) -> Result<Vec<f32>, Reason> {
        Ok(self.known(at)?.to_floats())
    }

    /// Returns a setting that older versions have as an attribute and later ones as an operand.
    pub(super) fn ints_of(&self, at: usize, name: &str) -> Result<Option<Vec<i64>>, Reason> {
        if self.has(at) { self.known_ints(at).map(Some) } else { self.attributes().ints(name) }
    }

    /// Returns the single integer of an operand.
    pub(super) fn known_int(&self, at: usize) -> Result<i64, Reason> {
        let ints = self.known_ints(at)?;
        let wrong = || Reason::malformed(format!("operand {at} must be one integer"));
        if ints.len() == 1 { Ok(ints[0]) } else { Err(wrong()) }
    }

    /// Returns an operand as a value of the Dag.
    pub(super) fn value(&mut self, at: usize) -> Result<ValueId, Reason> {
        self.entered(at, Use::Plain)
    }

    /// Returns an operand as a value of the Dag that is not trained where it is an initializer.
    pub(super) fn statistics(&mut self, at: usize) -> Result<ValueId, Reason> {
        self.entered(at, Use::Statistics)
    }

    fn entered(&mut self, at: usize, for_use: Use) -> Result<ValueId, Reason> {
        match self.term(at)?.clone() {
            Term::Known(known) => self.importer.value(&known, for_use),
            Term::Built(value, _) => Ok(value),
        }
    }

    /// Returns the two operands of an element-wise operator.
    ///
    /// Before version 7, the second one broadcasts only if an attribute says so, from the axis that another one names.
    pub(super) fn pair(&mut self) -> Result<(ValueId, ValueId), Reason> {
        let (a, b) = (self.value(0)?, self.value(1)?);
        let axis = if self.opset() < 7 { self.attributes().int("axis")? } else { None };
        let Some(axis) = axis else {
            return Ok((a, b));
        };
        let (rank, mut shape) = (self.rank(0)?, self.shape(1)?);
        let axis = resolve_axis(axis, rank)?;
        let missing = (rank - axis).checked_sub(shape.len());
        let missing = missing.ok_or_else(|| Reason::malformed("the axis does not fit"))?;
        shape.extend(vec![1; missing]);
        Ok((a, self.reshape(b, &shape)?))
    }

    /// Returns an operand as a value of the Dag if it is given.
    pub(super) fn optional(&mut self, at: usize) -> Result<Option<ValueId>, Reason> {
        if self.has(at) { self.value(at).map(Some) } else { Ok(None) }
    }

    /// Returns all operands as values of the Dag.
    pub(super) fn values(&mut self) -> Result<Vec<ValueId>, Reason> {
        (0..self.count()).map(|at| self.value(at)).collect()
    }

    /// Returns an axis counted from the front; negative ones count from the end of `rank` axes.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize, Reason> {
        resolve_axis(axis, rank)
    }

    /// Returns the axis that an attribute names.
    pub(super) fn axis_of(&self, name: &str, default: i64, rank: usize) -> Result<usize, Reason> {
        resolve_axis(self.int(name, default)?, rank)
    }

    /// Makes the only result, of the first operand's type.
    pub(super) fn like_first(&self, value: ValueId) -> Result<Vec<Term>, Reason> {
        Ok(vec![Term::Built(value, self.kind(0)?)])
    }

    /// Makes a constant result.
    pub(super) fn constant(&mut self, array: Array) -> Term {
        let name = self.step.name();
        self.importer.constant(name, array)
    }

    /// Makes known elements an operand of its own, for mappings that compute them.
    pub(super) fn literal(&mut self, array: Array) -> Result<ValueId, Reason> {
        match self.constant(array) {
            Term::Known(known) => self.importer.value(&known, Use::Plain),
            Term::Built(value, _) => Ok(value),
        }
    }

    /// Returns a known operand's shared elements, if it is one.
    pub(super) fn shared(&self, at: usize) -> Option<Rc<Known>> {
        match self.operands.get(at)? {
            Some(Term::Known(known)) => Some(known.clone()),
            Some(Term::Built(..)) | None => None,
        }
    }
}

/// Most places or numbers that an import works out for one operator; a network holds fewer still as literals.
const FEW_MAX: usize = 1 << 24;

/// Says whether so many elements may be worked out: a file's numbers must not decide how much memory is taken.
///
/// *Errors*: they are too many.
pub(super) fn few(lengths: &[usize]) -> Result<usize, Reason> {
    let count = lengths.iter().try_fold(1usize, |n, length| n.checked_mul(*length));
    let wrong = || Reason::form(format!("{lengths:?} are too many elements to be worked out"));
    count.filter(|count| *count <= FEW_MAX).ok_or_else(wrong)
}

/// Counts an axis from the front.
///
/// *Errors*: there is no such axis.
pub(super) fn resolve_axis(axis: i64, rank: usize) -> Result<usize, Reason> {
    let wrong = || Reason::malformed(format!("there is no axis {axis} among {rank}"));
    let length = i64::try_from(rank).map_err(|_| wrong())?;
    let place = if axis < 0 { axis + length } else { axis };
    usize::try_from(place).ok().filter(|place| *place < rank).ok_or_else(wrong)
}

/// Counts axes from the front, in ascending order, each once.
///
/// *Errors*: one does not exist or stands twice.
pub(super) fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Reason> {
    let mut resolved =
        axes.iter().map(|axis| resolve_axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?;
    resolved.sort_unstable();
    if resolved.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Reason::malformed(format!("axes {axes:?} name one axis twice")));
    }
    Ok(resolved)
}
