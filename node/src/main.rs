//! The wattle binary.

fn main() -> std::process::ExitCode {
    wattle_node::cli::main()
}
