//! The Puppet module against real parts: certificates by the code of Puppet's own CA, `puppet apply` as the node, the
//! running gateway as the other end.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests fail by panicking, start the programs under test, and read the real clock"
)]

#[path = "../black_box/support.rs"]
#[expect(dead_code, reason = "shared with the black-box tests, which use all of it")]
mod gateway;

mod classes;
mod http_type;
mod kick;
mod module;
mod node;
mod wire;
