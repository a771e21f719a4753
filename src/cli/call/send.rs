//! One message, sent until there is an answer: again while nobody listens yet, while the gateway is busy, and when the
//! connection broke, each a bounded number of times.
//!
//! Always sends the very same bytes, and repeats nothing that the gateway would not recognise as the same message.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use axum::http::header::HeaderMap;
use jiff::Timestamp;

use super::super::client::{Fate, Outgoing};
use super::super::request::Prepared;
use super::Call;
use super::answer::{self, Answer};

/// How often one message is sent when the gateway is busy, or the connection breaks.
const MOST_TRIES: u32 = 5;
/// First pause before the same message is sent again; each is twice the one before.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two tries; who asks for more is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For one answer; longer than any answer is held by default.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// From the first try to the last: a signature is good for five minutes by default.
const LONGEST_REPEATING: Duration = Duration::from_secs(240);
/// How often a connection is refused before it is believed; a gateway that was just started needs a moment.
const MOST_REFUSALS: u32 = 20;
/// Pause after a refused connection.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// What a message is sent for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// It may make a job, and was signed at this time. The gateway recognises it when it comes again.
    Job {
        /// Where to look for it in a log.
        at: Timestamp,
    },
    /// It makes none; who wants to know asks anew.
    Question,
}

impl<O: Write, E: Write> Call<O, E> {
    /// Sends a request, and the very same again when that may help.
    pub(super) async fn send_patiently(
        &mut self,
        request: &Prepared,
        headers: &HeaderMap,
        purpose: Purpose,
    ) -> anyhow::Result<Answer> {
        let outgoing = Outgoing {
            method: &request.method,
            target: &request.target,
            headers,
            body: request.body.as_deref().unwrap_or_default(),
        };
        let until = self.clock.monotonic() + LONGEST_REPEATING;
        let (mut tries, mut refusals) = (1, 0);
        // When it was signed, once a try may have arrived.
        let mut unsure = None;
        loop {
            let pause = match self.client.send(outgoing, ANSWER_LIMIT).await {
                Ok(response) => {
                    let answer = answer::read(&response);
                    let Some(pause) = pause_when_busy(&answer, backoff(self.first_pause, tries), tries)
                    else {
                        if let Some(at) = unsure.filter(|_| !is_certain(&answer)) {
                            self.report.note(format_args!("{}", doubt(tries, at)))?;
                        }
                        return Ok(answer);
                    };
                    self.report.answer(&answer)?;
                    pause
                }
                Err(failure) => {
                    let fate = failure.fate();
                    if fate == Fate::Refused && refusals < MOST_REFUSALS {
                        refusals += 1;
                        tokio::time::sleep(REFUSED_PAUSE).await;
                        continue;
                    }
                    unsure = unsure.or(match purpose {
                        Purpose::Job { at } if fate == Fate::Unknown => Some(at),
                        Purpose::Job { .. } | Purpose::Question => None,
                    });
                    let Some(at) = unsure else { return Err(failure.into()) };
                    if fate == Fate::Hopeless || tries >= MOST_TRIES || self.clock.monotonic() >= until {
                        bail!("{failure}\n{}", doubt(tries, at));
                    }
                    self.report.note(format_args!("{failure}"))?;
                    backoff(self.first_pause, tries)
                }
            };
            tries += 1;
            self.report.note(format_args!(
                "sending the very same message again in {} s (try {tries} of {MOST_TRIES})",
                pause.as_secs()
            ))?;
            tokio::time::sleep(pause).await;
        }
    }
}

/// How long to wait before the same message is sent again; `None` when it should not be.
fn pause_when_busy(answer: &Answer, unasked: Duration, tries: u32) -> Option<Duration> {
    match answer {
        Answer::Busy(_, _, asked) if tries < MOST_TRIES => {
            let pause = asked.unwrap_or(unasked);
            (pause <= LONGEST_PAUSE).then_some(pause)
        }
        Answer::Busy(..)
        | Answer::Accepted(_)
        | Answer::Job { .. }
        | Answer::Ignored(_)
        | Answer::Wall
        | Answer::Problem(..)
        | Answer::Other(..) => None,
    }
}

/// Whether an answer to a later try says what became of the earlier ones too.
fn is_certain(answer: &Answer) -> bool {
    match answer {
        Answer::Accepted(_) | Answer::Job { .. } | Answer::Ignored(_) | Answer::Problem(..) => true,
        Answer::Busy(..) | Answer::Wall | Answer::Other(..) => false,
    }
}

fn backoff(first: Duration, tries: u32) -> Duration {
    first * (1 << (tries.min(6) - 1))
}

/// What to do when it is not known whether a message was accepted.
fn doubt(tries: u32, at: Timestamp) -> String {
    format!(
        "The message was sent {tries} times, and may have been accepted. A new call would be a new message, and so a \
         new job:\nbefore that, look for {at:.0} in the gateway's log and its audit log."
    )
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn the_pause_is_the_gateways_but_bounded() {
        let seconds = |retry_after: Option<u64>, tries| {
            let retry_after = retry_after.map(Duration::from_secs);
            let busy = Answer::Busy(StatusCode::TOO_MANY_REQUESTS, String::new(), retry_after);
            pause_when_busy(&busy, backoff(FIRST_PAUSE, tries), tries).map(|pause| pause.as_secs())
        };
        assert_eq!(seconds(Some(7), 1), Some(7));
        assert_eq!(seconds(Some(60), 4), Some(60));
        assert_eq!(seconds(Some(61), 1), None);
        assert_eq!(seconds(Some(7), MOST_TRIES), None);
        assert_eq!(seconds(None, 1), Some(1));
        assert_eq!(seconds(None, 4), Some(8));
        for answer in [Answer::Wall, Answer::Problem(StatusCode::CONFLICT, String::new())] {
            assert_eq!(pause_when_busy(&answer, FIRST_PAUSE, 1), None);
        }
    }
}
