//! The `bridgeward` command.
//! Does nothing yet.

fn main() {}
