//! The wattle binary.

/// The system's allocator hands large tensors back to the kernel and faults their pages in again: a quarter of a
/// `ResNet` step (`docs/decisions/0008-host-kernels.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wattle_node::cli::main()
}
