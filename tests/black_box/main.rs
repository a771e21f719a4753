//! Black-box tests: the real binary on loopback, certificates minted at run time, real TLS, and raw bytes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests fail by panicking, start the binary under test, and read the real clock"
)]

mod bodies;
mod certificates;
mod cgroups;
mod check;
mod coalesce;
mod command_line;
mod crash;
mod documents;
mod durable;
mod explain;
mod flood;
mod foreign;
mod full_disk;
mod hard_ends;
mod hygiene;
mod jenkins;
mod lifecycle;
mod limits;
mod live_output;
mod metrics;
mod odd_certificates;
mod operators;
mod oracle;
mod other_clients;
mod patience;
mod promote;
mod proxies;
mod ready_routes;
mod reload;
mod renewal;
mod rights;
mod scanners;
mod secrets;
mod senders;
mod shortage;
mod signed;
mod standing;
mod support;
mod trees;
mod two_processes;
mod two_reloads;
mod wall;
