//! What only a restart can change.
//!
//! Says so, key by key, when a policy that is to follow another one changes it; changes nothing itself.

use std::path::Path;

use crate::policy::diagnostic::Diagnostics;
use crate::policy::{Policy, Purpose};

/// Adds an error for each key that has another value in `next`, though `former` is in force in a process for `purpose`.
pub(super) fn refuse(
    former: &Policy,
    next: &Policy,
    purpose: Purpose,
    gateway: &Path,
    found: &mut Diagnostics,
) {
    let addresses = |policy: &Policy| policy.listen.as_ref().map(|listen| listen.addresses.clone());
    let (own, other) = (&former.queue, &next.queue);
    let (limits, others) = (&former.limits, &next.limits);
    let is_part = matches!(purpose, Purpose::Gate | Purpose::Work);
    let works_alone = matches!(purpose, Purpose::Work);
    let changed = [
        ("listen.address", addresses(former) != addresses(next)),
        ("admin.socket", !works_alone && former.admin.socket != next.admin.socket),
        ("admin.work_socket", works_alone && former.admin.work_socket != next.admin.work_socket),
        ("queue.file", !matches!(purpose, Purpose::Gate) && own.file != other.file),
        ("queue.socket", is_part && own.socket != other.socket),
        ("queue.gate_user", works_alone && own.gate_user != other.gate_user),
        ("audit.file", former.audit.file != next.audit.file),
        // What the two processes have told each other.
        ("limits.body", is_part && limits.body != others.body),
        ("limits.bodies", works_alone && limits.bodies != others.bodies),
        ("limits.waiting", works_alone && limits.waiting != others.waiting),
        ("limits.wait", works_alone && limits.wait != others.wait),
    ];
    if !matches!(purpose, Purpose::Gate)
        && let Some((route, user)) = next.unattainable()
    {
        found.error_in_file(
            gateway,
            format!("route `{route}`: this process cannot become its `user` `{user}`"),
        );
    }
    for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
        found.error_in_file(gateway, format!("`{key}` is another one than in force: that needs a restart"));
    }
}
