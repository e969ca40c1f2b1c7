//! The wattle binary.

/// The system's allocator hands large tensors back to the kernel and faults their pages in again: a quarter of a
/// `ResNet` step (`docs/decisions/0008-host-kernels.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_decommits`: the option's place in `mimalloc.h`, which keeps the places of options that it drops.
const PURGE_DECOMMITS: libmimalloc_sys::mi_option_t = 5;

/// Lets the kernel take freed memory when it needs some, in place of giving it back after each second: a peer that waits
/// between passes would have all its tensors' pages faulted in and zeroed again, a tenth of its arithmetic.
#[expect(unsafe_code, reason = "mimalloc's options have no other interface in a running program")]
fn keep_freed_pages() {
    // SAFETY: the function sets one entry of a table of numbers; this one is of the options that may change at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DECOMMITS, 0) }
}

fn main() -> std::process::ExitCode {
    keep_freed_pages();
    wattle_node::cli::main()
}
