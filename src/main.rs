//! The `bridgeward` command: hands over to [`bridgeward::cli`] and exits with what it says.
//! Owns the choice of the allocator, and nothing else.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// An accepted request is taken in by one thread, put on record by another, stored by a third and answered by the first: what
/// one allocates, another frees. The C library's allocator takes locks for that, which costs an eighth of such a request.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    bridgeward::cli::main()
}
