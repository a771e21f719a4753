//! Notices that certificates, keys, secrets or revocation lists have changed.
//!
//! Looks at them every second instead of asking the kernel for news: that sees renamed files, exchanged directories and
//! network file systems alike. What is being written is not taken for what is written: a change counts once it has been
//! seen twice, or after a while in any case.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::live::Live;
use crate::audit::Recorder;
use crate::domain::alarm::Alarm;
use crate::policy::renewal::Look;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// How many looks a change waits for at most when it looks otherwise each time: with the look itself, less than the five
/// seconds that are promised.
const PATIENCE: u32 = 3;
/// How long a look, and what is done about it, may take before an alarm says so.
const LONGEST: Duration = Duration::from_secs(5);
/// After how many looks what could not be used is tried again: a certificate becomes valid, a clock is set.
const AGAIN: u32 = 30;

/// What was seen so far.
#[derive(Default)]
struct Seen<L> {
    last: L,
    /// How often in a row the files were seen to differ from what is in force.
    differing: u32,
    /// The look that was acted upon last, and how many looks ago.
    tried: Option<(L, u32)>,
}

/// Watches until `stop`. Should that end before, an alarm says so until the files are looked at again.
pub(super) async fn files(live: Live, stop: CancellationToken) {
    let watching = || look_on(live.clone(), stop.clone());
    keep_up(live.recorder(), &stop, watching).await;
}

/// Begins anew whenever `watching` ends, until `stop`.
async fn keep_up<F>(recorder: &Recorder, stop: &CancellationToken, watching: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while !stop.is_cancelled() {
        let ended = AbortOnDropHandle::new(tokio::spawn(watching())).await;
        if !stop.is_cancelled() {
            recorder.raise(Alarm::Watch, broken(ended.err().as_ref()));
            stop.run_until_cancelled(sleep(EVERY)).await;
        }
    }
}

/// The same words each time, so that what goes on happening is one alarm.
fn broken(why: Option<&JoinError>) -> String {
    let how = if why.is_some_and(JoinError::is_panic) {
        "an internal error, of which the log says more"
    } else {
        "it ended"
    };
    format!("certificates, keys, secrets and revocation lists are not looked at; please report it: {how}")
}

/// Waits for the end of `look`, however long it takes: a file system that does not answer would keep the next one waiting
/// as well. An alarm says when that is too long.
async fn patiently<T>(recorder: &Recorder, look: impl Future<Output = T>) -> T {
    let mut look = pin!(look);
    if let Ok(ended) = timeout(LONGEST, &mut look).await {
        return ended;
    }
    let seconds = LONGEST.as_secs();
    recorder.raise(
        Alarm::Watch,
        format!(
            "looking at certificates, keys, secrets and revocation lists takes more than {seconds} s, and until it ends \
             changes do not count; see whether the file systems that they stand in answer"
        ),
    );
    look.await
}

async fn look_on(live: Live, stop: CancellationToken) {
    let looking = async {
        let mut seen = Seen::default();
        loop {
            sleep(EVERY).await;
            patiently(live.recorder(), look(&live, &mut seen)).await;
        }
    };
    stop.run_until_cancelled(looking).await;
}

/// Looks once, and acts upon it.
async fn look(live: &Live, seen: &mut Seen<Look>) {
    let policy = Arc::clone(&live.generation().policy);
    let (looked_at, before) = (Arc::clone(&policy), seen.last.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let look = looked_at.look(&before);
        let differs = looked_at.differs(&look);
        (look, differs)
    });
    let (look, differs) = match looked.await {
        Ok(looked) => looked,
        Err(error) => return live.recorder().raise(Alarm::Watch, broken(Some(&error))),
    };
    if seen.is_due(&look, differs) {
        live.renew(&policy, look).await;
    }
    live.review();
    if !seen.is_undecided() {
        live.recorder().clear(&Alarm::Watch);
    }
}

const _: () = assert!(EVERY.as_millis() * (PATIENCE as u128 + 1) < 5000);

impl<L: Clone + PartialEq> Seen<L> {
    /// Whether to act upon a look now.
    fn is_due(&mut self, look: &L, differs: bool) -> bool {
        let stands_still = *look == self.last;
        self.last = look.clone();
        self.differing = if differs { self.differing + 1 } else { 0 };
        if !differs {
            // All is well again, or was loaded otherwise; alarms, if any, are over.
            return self.tried.take().is_some();
        }
        if let Some((tried, ago)) = &mut self.tried
            && tried == look
        {
            *ago += 1;
            if *ago < AGAIN {
                return false;
            }
        } else if !stands_still && self.differing < PATIENCE {
            return false;
        }
        self.differing = 0;
        self.tried = Some((look.clone(), 0));
        true
    }

    /// Whether the last look differs from what is in force and has not been acted upon yet.
    fn is_undecided(&self) -> bool {
        self.differing > 0 && self.tried.as_ref().is_none_or(|(tried, _)| *tried != self.last)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_raises_an_alarm_and_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (clock, _hands) = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let rate = (NonZeroU32::MIN, Duration::from_secs(1));
        let recorder = Recorder::open(&directory.path().join("audit.jsonl"), rate, clock).unwrap();
        let stop = CancellationToken::new();
        let begun = Arc::new(AtomicU32::new(0));
        let watching = || {
            let (time, recorder, stop) =
                (begun.fetch_add(1, Ordering::SeqCst), recorder.clone(), stop.clone());
            async move {
                match time {
                    0 => panic!("broken"),
                    1 => {
                        let alarms = recorder.alarms();
                        let reason = &alarms[&Alarm::Watch];
                        assert!(
                            reason.contains("internal error") && reason.contains("are not looked at"),
                            "{reason}"
                        );
                    }
                    _ => {
                        assert!(recorder.alarms()[&Alarm::Watch].contains("it ended"));
                        recorder.clear(&Alarm::Watch);
                        stop.cancel();
                    }
                }
            }
        };
        keep_up(&recorder, &stop, watching).await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
        assert!(recorder.alarms().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_does_not_end_raises_an_alarm_and_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (clock, _hands) = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let rate = (NonZeroU32::MIN, Duration::from_secs(1));
        let recorder = Recorder::open(&directory.path().join("audit.jsonl"), rate, clock).unwrap();
        let (answers, look) = tokio::sync::oneshot::channel();
        let waiting = patiently(&recorder, look);
        tokio::pin!(waiting);
        let begun = tokio::time::Instant::now();
        while recorder.alarms().is_empty() {
            assert!(timeout(EVERY / 4, &mut waiting).await.is_err());
            assert!(begun.elapsed() <= LONGEST + EVERY, "no alarm");
        }
        assert!(begun.elapsed() >= LONGEST);
        assert!(recorder.alarms()[&Alarm::Watch].contains("more than 5 s"));
        answers.send("seen").unwrap();
        assert_eq!(waiting.await, Ok("seen"), "the same look");

        assert_eq!(patiently(&recorder, async { "at once" }).await, "at once");
    }

    #[test]
    fn a_look_is_decided_once_it_was_acted_upon_or_found_nothing() {
        let mut seen = Seen { last: 0, ..Seen::default() };
        let mut undecided = |look: u32| {
            seen.is_due(&look, look != 0);
            seen.is_undecided()
        };
        assert_eq!(
            [0, 1, 1, 1, 2, 2, 0].map(&mut undecided),
            [false, true, false, false, true, false, false]
        );
    }

    /// Looks in order, 0 being what is in force; whether each was acted upon.
    fn due(looks: &[u32]) -> Vec<bool> {
        let mut seen = Seen { last: 0, ..Seen::default() };
        looks.iter().map(|look| seen.is_due(look, *look != 0)).collect()
    }

    #[test]
    fn a_change_counts_once_it_has_been_seen_twice_and_is_tried_once() {
        assert_eq!(due(&[0, 0, 1, 1, 1, 1]), [false, false, false, true, false, false]);
        // What was half written, and whole at the next look.
        assert_eq!(due(&[1, 2, 2, 0]), [false, false, true, true]);
        assert_eq!(due(&[1, 0, 0]), [false, false, false]);
        let again = due(&[1; 3 + AGAIN as usize]);
        assert_eq!(again.iter().filter(|due| **due).count(), 2, "what is wrong is tried again");
    }

    #[test]
    fn files_that_change_all_the_time_do_not_put_it_off() {
        for start in 1..4 {
            let looks: Vec<u32> = (start..start + 12).collect();
            let due = due(&looks);
            assert!(due.windows(PATIENCE as usize).all(|few| few.contains(&true)), "{due:?}");
        }
    }
}
