//! What convolutions and pools share: windows that slide over spatial axes, and their padding.

use super::super::call::Call;
use super::super::report::Reason;

/// Windows over the spatial axes of one node; every list has one entry an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) kernel: Vec<usize>,
    pub(super) stride: Vec<usize>,
    pub(super) dilation: Vec<usize>,
    /// Padding before the first element.
    pub(super) before: Vec<usize>,
    /// Padding after the last element.
    pub(super) after: Vec<usize>,
}

/// Largest kernel, stride, padding and dilation: far beyond any network's.
const SIZE_MAX: usize = 1 << 16;

/// Returns an attribute of one number an axis.
pub(super) fn numbers(
    call: &Call<'_>,
    name: &str,
    count: usize,
    default: usize,
) -> Result<Vec<usize>, Reason> {
    let Some(given) = call.attributes().ints(name)? else {
        return Ok(vec![default; count]);
    };
    let sizes: Option<Vec<usize>> =
        given.iter().map(|n| usize::try_from(*n).ok().filter(|n| *n <= SIZE_MAX)).collect();
    let wrong = || Reason::form(format!("{name} = {given:?} is not supported"));
    sizes.filter(|sizes| sizes.len() == count).ok_or_else(wrong)
}

impl Windows {
    /// Reads the windows over axes of these lengths.
    pub(super) fn read(
        call: &Call<'_>,
        lengths: &[usize],
        kernel: Vec<usize>,
    ) -> Result<Self, Reason> {
        let count = lengths.len();
        let stride = numbers(call, "strides", count, 1)?;
        let dilation = numbers(call, "dilations", count, 1)?;
        let pads = numbers(call, "pads", 2 * count, 0)?;
        let zero = [&kernel, &stride, &dilation].iter().any(|sizes| sizes.contains(&0));
        if zero || kernel.len() != count {
            return Err(Reason::malformed("windows do not fit the spatial axes"));
        }
        let (before, after) = pads.split_at(count);
        let (before, after) = (before.to_vec(), after.to_vec());
        let mut windows = Self { kernel, stride, dilation, before, after };
        match call.text("auto_pad", "NOTSET")? {
            "NOTSET" | "" => {}
            "VALID" => (windows.before, windows.after) = (vec![0; count], vec![0; count]),
            "SAME_UPPER" => windows.pad_same(lengths, false),
            "SAME_LOWER" => windows.pad_same(lengths, true),
            other => return Err(Reason::malformed(format!("auto_pad = {other:?}"))),
        }
        Ok(windows)
    }

    /// Pads so that each result has its axis's length over the stride; an odd element goes to one side.
    fn pad_same(&mut self, lengths: &[usize], odd_before: bool) {
        for (axis, length) in lengths.iter().enumerate() {
            let results = length.div_ceil(self.stride[axis]);
            let needed = (results - 1) * self.stride[axis] + self.reach(axis);
            let total = needed.saturating_sub(*length);
            let (small, large) = (total / 2, total.div_ceil(2));
            (self.before[axis], self.after[axis]) =
                if odd_before { (large, small) } else { (small, large) };
        }
    }

    /// Returns how many elements lie between a window's first and last, inclusive.
    pub(super) fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// Says whether all axes are padded alike on both sides.
    pub(super) fn is_even(&self) -> bool {
        self.before == self.after
    }

    /// Returns the number of windows on an axis, rounded up where asked; the last one starts within the axis or its
    /// first padding.
    pub(super) fn count(
        &self,
        axis: usize,
        length: usize,
        round_up: bool,
    ) -> Result<usize, Reason> {
        let padded = length + self.before[axis] + self.after[axis];
        let wrong = || Reason::malformed("a window is larger than its axis");
        let room = padded.checked_sub(self.reach(axis)).ok_or_else(wrong)?;
        let stride = self.stride[axis];
        if !round_up {
            return Ok(room / stride + 1);
        }
        let count = room.div_ceil(stride) + 1;
        let starts_beyond = (count - 1) * stride >= length + self.before[axis];
        Ok(if starts_beyond { count - 1 } else { count })
    }
}
