//! What is the system's or the gateway's want, not the job's: descriptors, processes and memory that run out. It is waited
//! out; a job neither fails by it nor loses an attempt.
//!
//! Knows error numbers and pauses; what is tried, and what ends the waiting, is the caller's.

use std::error::Error;
use std::io;

use super::persist::Pauses;

/// Why something did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotStarted {
    /// In words.
    pub(super) reason: String,
    /// Whether it may happen later, without a change to anything.
    pub(super) is_shortage: bool,
}

impl NotStarted {
    /// For good.
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_shortage: false }
    }

    /// Because whoever was to start it has ended; another one will do.
    pub(super) fn without_supervisor() -> Self {
        let reason = "its supervisor has ended before it took the order".into();
        Self { reason, is_shortage: true }
    }

    /// By what the system says.
    pub(super) fn by(what: &str, error: &io::Error) -> Self {
        Self { reason: format!("{what}: {error}"), is_shortage: is_behind(error) }
    }
}

impl From<io::Error> for NotStarted {
    fn from(error: io::Error) -> Self {
        Self::by("it cannot be started", &error)
    }
}

/// Whether the system had no more of something: see errors(3). `ENOSPC` is of control groups and processes here, of which
/// there are only so many; no file is written.
pub(super) fn is(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::EAGAIN
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::ENOSPC
                | libc::ETOOMANYREFS
        )
    )
}

/// Whether such an error is among the causes of this one.
pub(super) fn is_behind(error: &(dyn Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is)
}

/// A shortage that is waited out.
pub(super) struct Shortage {
    of: &'static str,
    pauses: Pauses,
}

impl Shortage {
    /// What there is no room for.
    pub(super) fn of(of: &'static str) -> Self {
        Self { of, pauses: Pauses::default() }
    }

    /// Waits before the next attempt, ever longer, and says why.
    pub(super) async fn pause(&mut self, why: &NotStarted) {
        let (of, pause) = (self.of, self.pauses.next());
        tracing::warn!(of, reason = %why, ?pause, "the system is short of something; the job waits for it");
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_a_refusal_however_deep_it_lies() {
        let error = |number| io::Error::from_raw_os_error(number);
        for number in [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM] {
            assert!(is(&error(number)) && NotStarted::from(error(number)).is_shortage, "{number}");
        }
        for number in [libc::ENOENT, libc::EACCES, libc::EPERM, libc::E2BIG, libc::EBUSY] {
            assert!(!is(&error(number)) && !NotStarted::from(error(number)).is_shortage, "{number}");
        }
        assert!(is_behind(&around(error(libc::EMFILE))));
        assert!(!is_behind(&around(error(libc::ENOENT))));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("around it")]
    struct Around(#[source] io::Error);

    fn around(error: io::Error) -> Around {
        Around(error)
    }
}
