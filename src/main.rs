//! The `bridgeward` command: hands over to [`bridgeward::cli`] and exits with what it says.
//! Owns nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    bridgeward::cli::main()
}
