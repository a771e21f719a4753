//! Records as events of the log, so that whoever follows the log sees what the audit log holds.
//!
//! Whatever strangers chose is given as text, which the log's formats escape: it can forge no line there either.

use super::Record;

/// Emits a record as an event, within the span of whoever made it.
pub(super) fn tell(record: &Record) {
    match record {
        Record::Refused { source, method, path, status, reason, refusal: _, route, identity } => {
            let (route, identity) =
                (route.as_ref().map(ToString::to_string), identity.as_ref().map(ToString::to_string));
            let (method, path, reason) = (method.as_str(), path.as_str(), reason.as_str());
            tracing::warn!(%source, method, path, status, reason, route, identity, "refused");
        }
        Record::Malformed { source, reason } => {
            tracing::warn!(%source, reason = reason.as_str(), "malformed");
        }
        Record::Accepted { route, identity, rule, source, .. } => {
            let identity = identity.to_string();
            // Whatever becomes of it follows at once, in the same span: `stored` or `not stored`.
            tracing::debug!(%route, identity, rule, %source, "accepted");
        }
        Record::Stored { route, identity, job, how, worker: _ } => {
            let identity = identity.to_string();
            tracing::info!(%job, %route, identity, how = how.as_str(), "stored");
        }
        Record::Submitted { route, identity, source, gate, .. } => {
            let identity = identity.to_string();
            tracing::debug!(%route, identity, %source, gate = gate.seq, "submitted");
        }
        Record::TurnedAway { uid, reason, route, identity } => {
            let (route, identity) =
                (route.as_ref().map(ToString::to_string), identity.as_ref().map(ToString::to_string));
            tracing::error!(uid, reason = reason.as_str(), route, identity, "turned away");
        }
        Record::NotStored { route, identity, reason } => {
            let identity = identity.to_string();
            tracing::warn!(%route, identity, reason, "not stored");
        }
        Record::Started { job, route, identity, rule, step, argv, tree, landlock } => {
            let identity = identity.to_string();
            let tree: &str = (*tree).into();
            let landlock = landlock.map(|landlock| <&str>::from(landlock.enforced));
            tracing::info!(%job, %route, identity, rule, step, ?argv, tree, landlock, "started");
        }
        Record::Ended { job, route, step, exit, dropped } => {
            let exit = exit.to_string();
            tracing::info!(%job, %route, step, exit, dropped, "ended");
        }
        Record::Finished { job, route, state, reason } => {
            tracing::info!(%job, %route, %state, reason, "finished");
        }
        Record::Retried { job, route, attempt, reason } => {
            tracing::info!(%job, %route, attempt, reason, "tried again");
        }
        Record::Operated { uid, act, job, route } => tracing::info!(uid, ?act, %job, %route, "operated"),
        Record::Repeated { uid, job, retry_of, route, identity } => {
            let identity = identity.to_string();
            tracing::info!(uid, %job, %retry_of, %route, identity, "repeated");
        }
        Record::Loaded { cause, policy } => tracing::info!(?cause, policy, "this policy is in force"),
        Record::NotLoaded { cause, reason } => {
            tracing::error!(?cause, reason, "the policy is not valid; the former one stays in force");
        }
        Record::Renewed { policy, changed } => {
            let changed = changed.join(", ");
            tracing::info!(policy, changed, "files have changed and are used as they are now");
        }
        Record::Alarm { alarm, reason } => tracing::error!(alarm, reason, "alarm"),
        Record::AlarmOver { alarm } => tracing::info!(alarm, "the alarm is over"),
    }
}
