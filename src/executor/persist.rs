//! Writes that must happen: tried again, ever more slowly, until they do or the worker ends.
//!
//! A full disk thus holds results instead of losing them, and everything goes on by itself when there is room again.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Attempts that are still made when the worker is to end.
const LAST_ATTEMPTS: u32 = 5;

/// It was not written, and is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GivenUp;

/// Growing pauses between attempts.
#[derive(Debug, Default)]
pub(super) struct Pauses(u32);

impl Pauses {
    /// How long to wait before the next attempt.
    pub(super) fn next(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.0.min(10));
        self.0 = self.0.saturating_add(1);
        pause.min(LONGEST_PAUSE)
    }
}

/// Repeats `write` until it succeeds; once `ending` is cancelled, only a few more times.
pub(super) async fn until_written<E: Display, W: Future<Output = Result<(), E>>>(
    what: &'static str,
    ending: &CancellationToken,
    mut write: impl FnMut() -> W,
) -> Result<(), GivenUp> {
    let mut pauses = Pauses::default();
    let mut attempts_left = LAST_ATTEMPTS;
    while let Err(error) = write().await {
        if ending.is_cancelled() {
            attempts_left -= 1;
            if attempts_left == 0 {
                tracing::error!(what, %error, "not written; given up because the worker ends");
                return Err(GivenUp);
            }
            tokio::time::sleep(FIRST_PAUSE).await;
            continue;
        }
        let pause = pauses.next();
        tracing::warn!(what, %error, ?pause, "not written; it is held and tried again");
        tokio::select! {
            () = ending.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pauses = Pauses::default();
        let first: Vec<u128> = (0..8).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(first, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        (0..100).for_each(|_| assert_eq!(pauses.next(), LONGEST_PAUSE));
    }

    #[tokio::test]
    async fn a_write_is_tried_until_it_succeeds() {
        let attempts = Cell::new(0);
        let write = || {
            attempts.set(attempts.get() + 1);
            std::future::ready(if attempts.get() < 3 { Err("disk full") } else { Ok(()) })
        };
        assert_eq!(until_written("a test", &CancellationToken::new(), write).await, Ok(()));
        assert_eq!(attempts.get(), 3);
    }

    #[tokio::test]
    async fn a_worker_that_ends_gives_up() {
        let attempts = Cell::new(0);
        let ending = CancellationToken::new();
        let write = || {
            attempts.set(attempts.get() + 1);
            // In the middle of the first pause, which is then over at once.
            ending.cancel();
            std::future::ready(Err("disk full"))
        };
        assert_eq!(until_written("a test", &ending, write).await, Err(GivenUp));
        assert_eq!(attempts.get(), LAST_ATTEMPTS);
    }
}
