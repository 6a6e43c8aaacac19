//! The `ferry` command.

fn main() -> std::process::ExitCode {
    ferry_vmm::cli::main()
}
