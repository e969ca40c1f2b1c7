//! Loops on the widest vectors that this processor surely has. They round as scalar ones do: nothing is fused.

/// Runs a loop compiled for the processor at hand. The closure and what it calls must be `#[inline(always)]`: what is
/// compiled by itself has the narrow vectors of every processor.
#[inline(always)]
// Always: the closure's loops are compiled where this one's branches are.
pub(super) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(f);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(f);
        }
    }
    f()
}
