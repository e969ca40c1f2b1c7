//! VJP rules of functions that are applied element by element.

use super::{GradError, Reverse, Site};
use crate::dag::Op;
use crate::dag::op::{Binary, Comparison, Unary};
use crate::ids::ValueId;

/// `2 / sqrt(pi)`.
const ERF_SLOPE: f32 = std::f32::consts::FRAC_2_SQRT_PI;

impl Reverse {
    pub(super) fn unary(&mut self, site: &Site, function: Unary) -> Result<(), GradError> {
        if !self.wants(site, 0) {
            return Ok(());
        }
        let (x, y, g) = (site.inputs[0], site.result, site.g);
        let value = match function {
            Unary::Exp => self.emit(site.id, Op::Mul, &[g, y])?,
            Unary::Log => self.emit(site.id, Op::Div, &[g, x])?,
            // dx = g / (2 y)
            Unary::Sqrt => {
                let quotient = self.emit(site.id, Op::Div, &[g, y])?;
                self.emit(site.id, Op::Scale { factor: 0.5 }, &[quotient])?
            }
            // dx = g - g y y
            Unary::Tanh => {
                let product = self.emit(site.id, Op::Mul, &[g, y])?;
                let square = self.emit(site.id, Op::Mul, &[product, y])?;
                self.emit(site.id, Op::Sub, &[g, square])?
            }
            // dx = g y - g y y
            Unary::Sigmoid => {
                let product = self.emit(site.id, Op::Mul, &[g, y])?;
                let square = self.emit(site.id, Op::Mul, &[product, y])?;
                self.emit(site.id, Op::Sub, &[product, square])?
            }
            Unary::Sin => {
                let slope = self.emit(site.id, Op::Unary(Unary::Cos), &[x])?;
                self.emit(site.id, Op::Mul, &[g, slope])?
            }
            Unary::Cos => {
                let slope = self.emit(site.id, Op::Unary(Unary::Sin), &[x])?;
                let product = self.emit(site.id, Op::Mul, &[g, slope])?;
                self.emit(site.id, Op::Scale { factor: -1.0 }, &[product])?
            }
            Unary::Asin | Unary::Acos => self.arc(site, function)?,
            // dx = g / (1 + x x)
            Unary::Atan => {
                let square = self.emit(site.id, Op::Mul, &[x, x])?;
                let below = self.emit(site.id, Op::Shift { term: 1.0 }, &[square])?;
                self.emit(site.id, Op::Div, &[g, below])?
            }
            // dx = g 2 / sqrt(pi) e^(-x x)
            Unary::Erf => {
                let square = self.emit(site.id, Op::Mul, &[x, x])?;
                let falls = self.emit(site.id, Op::Scale { factor: -1.0 }, &[square])?;
                let bell = self.emit(site.id, Op::Unary(Unary::Exp), &[falls])?;
                let product = self.emit(site.id, Op::Mul, &[g, bell])?;
                self.emit(site.id, Op::Scale { factor: ERF_SLOPE }, &[product])?
            }
            Unary::Abs => {
                let sign = self.emit(site.id, Op::Unary(Unary::Sign), &[x])?;
                self.emit(site.id, Op::Mul, &[g, sign])?
            }
            // Steps: flat almost everywhere.
            Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round => return Ok(()),
        };
        self.give(site, 0, value);
        Ok(())
    }

    /// `dx = g / sqrt((1 - x) (1 + x))`, negative for the arc cosine; `1 - x x` would cancel near 1.
    fn arc(&mut self, site: &Site, function: Unary) -> Result<ValueId, GradError> {
        let x = site.inputs[0];
        let minus = self.emit(site.id, Op::Scale { factor: -1.0 }, &[x])?;
        let below = self.emit(site.id, Op::Shift { term: 1.0 }, &[minus])?;
        let above = self.emit(site.id, Op::Shift { term: 1.0 }, &[x])?;
        let rest = self.emit(site.id, Op::Mul, &[below, above])?;
        let root = self.emit(site.id, Op::Unary(Unary::Sqrt), &[rest])?;
        let value = self.emit(site.id, Op::Div, &[site.g, root])?;
        if function == Unary::Asin {
            return Ok(value);
        }
        self.emit(site.id, Op::Scale { factor: -1.0 }, &[value])
    }

    pub(super) fn binary(&mut self, site: &Site, function: Binary) -> Result<(), GradError> {
        let (a, b) = (site.inputs[0], site.inputs[1]);
        let (mut da, mut db) = (None, None);
        match function {
            Binary::Pow => return self.pow(site),
            Binary::Max => {
                let mask = self.compare(site, Comparison::LessEqual, b, a)?;
                (da, db) = self.parted(site, mask)?;
            }
            Binary::Min => {
                let mask = self.compare(site, Comparison::LessEqual, a, b)?;
                (da, db) = self.parted(site, mask)?;
            }
            // y = atan(a / b): da = g b / r, db = -g a / r with r = a a + b b
            Binary::Atan2 => {
                let aa = self.emit(site.id, Op::Mul, &[a, a])?;
                let bb = self.emit(site.id, Op::Mul, &[b, b])?;
                let square = self.emit(site.id, Op::Add, &[aa, bb])?;
                let share = self.emit(site.id, Op::Div, &[site.g, square])?;
                if self.wants(site, 0) {
                    da = Some(self.emit(site.id, Op::Mul, &[share, b])?);
                }
                if self.wants(site, 1) {
                    let product = self.emit(site.id, Op::Mul, &[share, a])?;
                    db = Some(self.emit(site.id, Op::Scale { factor: -1.0 }, &[product])?);
                }
            }
            // y = a - b n with n whole: da = g, db = -g n = g (y - a) / b
            Binary::Remainder => {
                da = Some(site.g);
                if self.wants(site, 1) {
                    let taken = self.emit(site.id, Op::Sub, &[site.result, a])?;
                    let times = self.emit(site.id, Op::Div, &[taken, b])?;
                    db = Some(self.emit(site.id, Op::Mul, &[site.g, times])?);
                }
            }
        }
        self.give_broadcast(site, 0, da)?;
        self.give_broadcast(site, 1, db)
    }

    /// `da = g b a^(b - 1)`, 0 where b is 0; `db = g y ln a`, 0 where a is not above 0.
    fn pow(&mut self, site: &Site) -> Result<(), GradError> {
        let (a, b, g) = (site.inputs[0], site.inputs[1], site.g);
        let zero = self.emit(site.id, Op::Fill { shape: vec![], value: 0.0 }, &[])?;
        if self.wants(site, 0) {
            let less = self.emit(site.id, Op::Shift { term: -1.0 }, &[b])?;
            let power = self.emit(site.id, Op::Binary(Binary::Pow), &[a, less])?;
            let slope = self.emit(site.id, Op::Mul, &[b, power])?;
            let product = self.emit(site.id, Op::Mul, &[g, slope])?;
            let flat = self.compare(site, Comparison::Equal, b, zero)?;
            let value = self.emit(site.id, Op::Where, &[flat, zero, product])?;
            self.give_broadcast(site, 0, Some(value))?;
        }
        if self.wants(site, 1) {
            let one = self.emit(site.id, Op::Fill { shape: vec![], value: 1.0 }, &[])?;
            let above = self.compare(site, Comparison::Less, zero, a)?;
            let safe = self.emit(site.id, Op::Where, &[above, a, one])?;
            let log = self.emit(site.id, Op::Unary(Unary::Log), &[safe])?;
            let slope = self.emit(site.id, Op::Mul, &[site.result, log])?;
            let value = self.emit(site.id, Op::Mul, &[g, slope])?;
            self.give_broadcast(site, 1, Some(value))?;
        }
        Ok(())
    }

    pub(super) fn choice(&mut self, site: &Site) -> Result<(), GradError> {
        let mask = site.inputs[0];
        let zero = self.emit(site.id, Op::Fill { shape: vec![], value: 0.0 }, &[])?;
        if self.wants(site, 1) {
            let value = self.emit(site.id, Op::Where, &[mask, site.g, zero])?;
            self.give_broadcast(site, 1, Some(value))?;
        }
        if self.wants(site, 2) {
            let value = self.emit(site.id, Op::Where, &[mask, zero, site.g])?;
            self.give_broadcast(site, 2, Some(value))?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        site: &Site,
        comparison: Comparison,
        a: ValueId,
        b: ValueId,
    ) -> Result<ValueId, GradError> {
        self.emit(site.id, Op::Compare(comparison), &[a, b])
    }

    /// The cotangent where the mask holds, and where it does not.
    fn parted(
        &mut self,
        site: &Site,
        mask: ValueId,
    ) -> Result<(Option<ValueId>, Option<ValueId>), GradError> {
        let zero = self.emit(site.id, Op::Fill { shape: vec![], value: 0.0 }, &[])?;
        let part = |this: &mut Self, operand: usize, a, b| match this.wants(site, operand) {
            true => this.emit(site.id, Op::Where, &[mask, a, b]).map(Some),
            false => Ok(None),
        };
        let da = part(self, 0, site.g, zero)?;
        Ok((da, part(self, 1, zero, site.g)?))
    }

    fn give_broadcast(
        &mut self,
        site: &Site,
        operand: usize,
        value: Option<ValueId>,
    ) -> Result<(), GradError> {
        if let Some(value) = value.filter(|_| self.wants(site, operand)) {
            let value = self.sum_to(site, operand, value)?;
            self.give(site, operand, value);
        }
        Ok(())
    }
}
