//! Records as events of the log, so that whoever follows the log sees what the audit log holds.
//!
//! Whatever strangers chose is given as text, which the log's formats escape: it can forge no line there either.

use std::fmt::Display;

use tracing::field::{DisplayValue, display};

use super::record::Record;

/// The name of the span in which a job is run; its fields `job`, `route` and `identity` are not said again within it.
pub const JOB_SPAN: &str = "job";

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
            let tree: &str = (*tree).into();
            let landlock = landlock.map(|landlock| <&str>::from(landlock.enforced));
            let (job, route, identity) = (unsaid(job), unsaid(route), unsaid(identity));
            tracing::info!(job, route, identity, rule, step, ?argv, tree, landlock, "started");
        }
        Record::Ended { job, route, step, exit, dropped } => {
            let (job, route) = (unsaid(job), unsaid(route));
            let exit = exit.to_string();
            tracing::info!(job, route, step, exit, dropped, "ended");
        }
        Record::Finished { job, route, state, reason } => {
            tracing::info!(%job, %route, %state, reason, "finished");
        }
        Record::Retried { job, route, attempt, reason } => {
            let (job, route) = (unsaid(job), unsaid(route));
            tracing::info!(job, route, attempt, reason, "tried again");
        }
        Record::Operated { uid, act, job, route } => {
            tracing::info!(uid, act = <&str>::from(*act), %job, %route, "operated");
        }
        Record::Repeated { uid, job, retry_of, route, identity } => {
            let identity = identity.to_string();
            tracing::info!(uid, %job, %retry_of, %route, identity, "repeated");
        }
        Record::Loaded { cause, policy } => {
            tracing::info!(cause = cause.word(), uid = cause.uid(), policy, "this policy is in force");
        }
        Record::NotLoaded { cause, reason } => {
            let (cause, uid) = (cause.word(), cause.uid());
            tracing::error!(cause, uid, reason, "the policy is not valid; the former one stays in force");
        }
        Record::Renewed { policy, changed } => {
            let changed = changed.join(", ");
            tracing::info!(policy, changed, "files have changed and are used as they are now");
        }
        Record::Alarm { alarm, reason } => tracing::error!(alarm, reason, "alarm"),
        Record::AlarmOver { alarm } => tracing::info!(alarm, "the alarm is over"),
    }
}

/// What the log is told; nothing where the span says it.
fn unsaid<T: Display>(value: T) -> Option<DisplayValue<T>> {
    let is_said = tracing::Span::current().metadata().is_some_and(|span| span.name() == JOB_SPAN);
    (!is_said).then(|| display(value))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::*;
    use crate::audit::{Act, Cause, Keeper};
    use crate::domain::identity::Identity;
    use crate::domain::job::{Exit, JobId};
    use crate::domain::name::RouteName;

    fn logged(tell_all: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Arc::new(File::create(file.path()).unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(log).with_ansi(false).finish();
        // Other tests, which listen to nothing, turn these events off for all threads, unless there is more than one who
        // could listen.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        tracing::subscriber::with_default(subscriber, || {
            tracing::callsite::rebuild_interest_cache();
            tell_all();
        });
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn what_the_span_of_a_job_says_is_said_once() {
        let job = JobId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let route = RouteName::parse("promote").unwrap();
        let identity = Identity::Certname("node1".into());
        let started = Record::Started {
            job,
            route: route.clone(),
            identity: identity.clone(),
            rule: 1,
            step: 1,
            argv: vec!["/bin/x".into()],
            tree: Keeper::Subreaper,
            landlock: None,
        };
        let ended = Record::Ended { job, route: route.clone(), step: 1, exit: Exit::Code(0), dropped: 0 };
        let tried = Record::Retried { job, route: route.clone(), attempt: 1, reason: None };
        for record in [started, ended, tried] {
            let within = logged(|| {
                let span = tracing::info_span!(JOB_SPAN, %job, %route, %identity);
                span.in_scope(|| tell(&record));
            });
            let beside = logged(|| tell(&record));
            for line in [within, beside] {
                assert_eq!(line.matches("job=01890a5d").count(), 1, "{line}");
                assert_eq!(line.matches("route=promote").count(), 1, "{line}");
                assert!(line.matches("identity=").count() <= 1, "{line}");
            }
        }
    }

    #[test]
    fn the_log_has_the_words_of_the_audit_log() {
        let loaded = |cause| Record::Loaded { cause, policy: "x".into() };
        let job = JobId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let operated =
            Record::Operated { uid: 7, act: Act::Cancel, job, route: RouteName::parse("promote").unwrap() };
        for (record, words) in [
            (loaded(Cause::Start), "cause=\"start\""),
            (loaded(Cause::Signal), "cause=\"signal\""),
            (loaded(Cause::Operator(7)), "cause=\"operator\" uid=7"),
            (operated, "act=\"cancel\""),
        ] {
            let line = logged(|| tell(&record));
            assert!(line.contains(words), "{line}");
        }
    }
}
