//! Who waits for the end of which job, inside this process.
//!
//! Holds an entry only while somebody waits; how many may wait at once is the caller's limit. Knows nothing of the
//! database: it wakes, and whoever was woken looks there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::job::JobId;

/// Everyone who waits; clones share the list.
#[derive(Clone, Default)]
pub(super) struct Waiters(Arc<Mutex<HashMap<JobId, watch::Sender<bool>>>>);

/// One who waits, from its registration until it is dropped.
pub(super) struct Waiter {
    job: JobId,
    ended: watch::Receiver<bool>,
    waiters: Waiters,
}

impl Waiters {
    /// Notes that somebody waits for `job`: an end from now on is not missed.
    pub(super) fn register(&self, job: JobId) -> Waiter {
        let ended = self.list().entry(job).or_insert_with(|| watch::Sender::new(false)).subscribe();
        Waiter { job, ended, waiters: self.clone() }
    }

    /// Wakes everyone who waits for `job`.
    pub(super) fn wake(&self, job: JobId) {
        if let Some(sender) = self.list().remove(&job) {
            sender.send_replace(true);
        }
    }

    /// Wakes everyone, because nothing will end any more.
    pub(super) fn wake_all(&self) {
        for (_, sender) in self.list().drain() {
            sender.send_replace(true);
        }
    }

    fn list(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Returns once the job was woken for, also when that was before this call.
    pub(super) async fn woken(&mut self) {
        // An error means that the list is gone, and with it whoever could wake.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut list = self.waiters.list();
        // This waiter's own receiver still counts.
        if list.get(&self.job).is_some_and(|sender| sender.receiver_count() <= 1) {
            list.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[tokio::test]
    async fn a_wake_up_before_the_wait_is_not_lost() {
        let waiters = Waiters::default();
        let job = JobId::new(Timestamp::UNIX_EPOCH);
        let (mut first, mut second) = (waiters.register(job), waiters.register(job));
        waiters.wake(job);
        first.woken().await;
        second.woken().await;
    }

    #[test]
    fn an_entry_lives_as_long_as_somebody_waits() {
        let waiters = Waiters::default();
        let job = JobId::new(Timestamp::UNIX_EPOCH);
        let (first, second) = (waiters.register(job), waiters.register(job));
        drop(first);
        assert_eq!(waiters.list().len(), 1);
        drop(second);
        assert!(waiters.list().is_empty());
    }
}
