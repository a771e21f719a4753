//! `[limits]`: what strangers and senders may cost, with every default.
//! Enforces nothing; listener, gate and queue do.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::gateway::positive_duration;
use super::{Decoded, Table, Value};
use crate::policy::diagnostic::Finding;
use crate::policy::{Limits, Rate, units};

/// Most connections, jobs or waits that a limit may allow.
const MOST: usize = 10_000_000;

pub(super) fn decode(table: &mut Table<'_>) -> Decoded<Limits> {
    let seconds = Duration::from_secs;
    let body = table.or("body", 64 << 10, positive_size);
    let bodies = table.or("bodies", 64 << 20, positive_size);
    let connections = count(table, "connections", 4096);
    let connections_per_source = count(table, "connections_per_source", 256);
    let requests_per_source = per_second(table, "requests_per_source", 100);
    let connections_per_identity = count(table, "connections_per_identity", 64);
    let requests_per_identity = per_second(table, "requests_per_identity", 50);
    let handshake = table.or("handshake", seconds(5), positive_duration);
    let headers = table.or("headers", seconds(10), positive_duration);
    let request = table.or("request", seconds(15), positive_duration);
    let idle = table.or("idle", seconds(30), positive_duration);
    let jobs = table.or("jobs", 10_000, |value| value.number(1..=MOST));
    let running = count(table, "running", 16);
    let wait = table.or("wait", seconds(60), |value| value.parse(units::duration));
    let waiting = table.or("waiting", 256, |value| value.number(0..=MOST));
    let refusals_logged = per_second(table, "refusals_logged", 10);
    if let (Ok(one), Ok(all)) = (body, bodies)
        && one > all
    {
        let key = if table.has("bodies") { "bodies" } else { "body" };
        let message = "`bodies`, for all bodies together, is less than `body`, for a single one";
        return Err(table.page().report(Finding::error(table.place_of(key), message)));
    }
    Ok(Limits {
        body: body?,
        bodies: bodies?,
        connections: connections?,
        connections_per_source: connections_per_source?,
        requests_per_source: requests_per_source?,
        connections_per_identity: connections_per_identity?,
        requests_per_identity: requests_per_identity?,
        handshake: handshake?,
        headers: headers?,
        request: request?,
        idle: idle?,
        jobs: jobs?,
        running: running?,
        wait: wait?,
        waiting: waiting?,
        refusals_logged: refusals_logged?,
    })
}

/// A size that is not zero, in bytes.
pub(super) fn positive_size(value: Value<'_>) -> Decoded<usize> {
    let size = value.parse(units::size)?;
    if size == 0 { Err(value.refuse("a size of at least 1B")) } else { Ok(size) }
}

fn count(table: &mut Table<'_>, key: &'static str, default: usize) -> Decoded<NonZeroUsize> {
    let count = table.or(key, default, |value| value.number(1..=MOST))?;
    Ok(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN))
}

fn per_second(table: &mut Table<'_>, key: &'static str, default: u32) -> Decoded<Rate> {
    let limit = NonZeroU32::new(default).unwrap_or(NonZeroU32::MIN);
    let default = Rate { limit, period: Duration::from_secs(1), burst: limit };
    table.or(key, default, |value| value.parse(units::rate))
}
