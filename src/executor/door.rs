//! The workers' door for a gate in another process: a Unix socket on which submissions come in and jobs are asked for.
//!
//! Trusts nothing that comes through it. Only the gate's user is listened to, as the kernel names it; a question is
//! bounded in size and time and read strictly (`queue::frame`); what it asks for is held against this process's own
//! policy (invariant I4), and what it says of times and message ids is kept within what an honest gate could say. What
//! is stored is on record first, with how far the gate's own audit log goes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::intake::LocalIntake;
use crate::audit::{Record, Recorder};
use crate::clock::Clock;
use crate::domain::anchor::Anchor;
use crate::domain::identity::Identity;
use crate::domain::name::RouteName;
use crate::domain::submission::{Message, Submission};
use crate::policy::Limits;
use crate::queue::answer::{Answer, Because};
use crate::queue::frame::{self, NotRead};
use crate::queue::question::{Question, Request, Wait, Whose};
use crate::queue::socket::QUESTIONS_AT_ONCE;
use crate::queue::{Intake, SubmitError, Submitted, Unavailable};

/// From a connection's beginning to the end of its question, waiting for room included.
const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// For the gate to take an answer.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// How long ago a request may have arrived that is submitted now.
const ARRIVED_WITHIN: Duration = Duration::from_secs(300);
/// How long a message's id is kept at most: as long as a policy can ask for.
const KEPT_WITHIN: Duration = Duration::from_secs(3650 * 86_400);
/// Longest id of a message, in bytes: headers are no longer.
const LONGEST_ID: usize = 8 * 1024;
/// Longest identity, in bytes: a common name has 64 (RFC 5280, appendix A.1), and few have more.
const LONGEST_IDENTITY: usize = 1024;
/// Most characters of a reason: what was sent may stand in it.
const LONGEST_REASON: usize = 500;
/// Jobs that are told at once: each may have as much output as its route keeps.
const TOLD_AT_ONCE: usize = 16;

/// What is behind the door.
pub struct Parts {
    /// Where jobs go.
    pub intake: LocalIntake,
    /// Where what comes through is written down.
    pub recorder: Recorder,
    /// What time it is.
    pub clock: Clock,
    /// Who is listened to; without one root and this process's own user.
    pub gate: Option<u32>,
    /// How large questions are, and how long and how many ends are waited for.
    pub limits: Limits,
}

/// Answers whoever comes through.
pub struct Door {
    parts: Parts,
    /// This process's user.
    own: u32,
    /// Largest question, in bytes.
    largest: usize,
    /// A permit a byte of a question that is being read or done.
    room: Semaphore,
    /// A permit a job that is being told.
    tellers: Semaphore,
    /// A permit a wait for the end of a job.
    waits: Semaphore,
}

/// Why a connection got no answer.
enum Refusal {
    /// Somebody else than the gate.
    Stranger,
    /// Not in time.
    Slow,
    /// Not a question.
    NotRead(NotRead),
}

impl Door {
    /// A door to these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let largest = frame::largest_question(parts.limits.body);
        Self {
            own: rustix::process::geteuid().as_raw(),
            largest,
            room: Semaphore::new(parts.limits.bodies.max(largest).min(Semaphore::MAX_PERMITS)),
            tellers: Semaphore::new(TOLD_AT_ONCE),
            waits: Semaphore::new(parts.limits.waiting),
            parts,
        }
    }

    /// How many connections there may be at once: all waits, and as many questions again as a gate asks at once.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.parts.limits.waiting.saturating_add(2 * QUESTIONS_AT_ONCE)
    }

    /// Answers the one question of a connection.
    pub async fn attend(self: Arc<Self>, mut stream: UnixStream) {
        let Ok(uid) = stream.peer_cred().map(|credentials| credentials.uid()) else { return };
        let asked = if self.listens_to(uid) {
            let asked = tokio::time::timeout(ASKED_WITHIN, self.read(&mut stream)).await;
            asked.unwrap_or(Err(Refusal::Slow))
        } else {
            Err(Refusal::Stranger)
        };
        match asked {
            Ok((question, room)) => self.answer(uid, question, room, &mut stream).await,
            Err(refusal) => {
                let reason = match refusal {
                    Refusal::Stranger => "only the gate's user may submit".to_owned(),
                    Refusal::Slow => "the question did not arrive in time".to_owned(),
                    Refusal::NotRead(error) => cut(&error.to_string()),
                };
                self.turn_away(uid, reason.clone(), None);
                tell(&mut stream, &Answer::Unavailable(Because { reason })).await;
            }
        }
    }

    fn listens_to(&self, uid: u32) -> bool {
        match self.parts.gate {
            Some(gate) => uid == gate,
            None => uid == 0 || uid == self.own,
        }
    }

    /// The question, and the room that it takes.
    async fn read(
        &self,
        stream: &mut UnixStream,
    ) -> Result<(Question, Option<SemaphorePermit<'_>>), Refusal> {
        let length = frame::read_length(stream, self.largest).await.map_err(Refusal::NotRead)?;
        // Nothing is read before there is room for all of it.
        let room = self.room.acquire_many(u32::try_from(length).unwrap_or(u32::MAX)).await.ok();
        let bytes = frame::read_bytes(stream, length).await.map_err(Refusal::NotRead)?;
        Ok((frame::parse(&bytes).map_err(Refusal::NotRead)?, room))
    }

    async fn answer(
        &self,
        uid: u32,
        question: Question,
        room: Option<SemaphorePermit<'_>>,
        stream: &mut UnixStream,
    ) {
        let Parts { intake, recorder, limits, .. } = &self.parts;
        match question {
            Question::Submit(request) => {
                let answer = self.submit(uid, *request).await;
                drop(room);
                tell(stream, &answer).await;
            }
            Question::LookUp(Whose { job, by }) => {
                let _teller = self.tellers.acquire().await;
                tell(stream, &Answer::of_job(intake.look_up(job, by).await)).await;
            }
            Question::AwaitEnd(Wait { job, milliseconds }) => {
                // Whoever waits holds nothing but its place among those who wait, and without one is told at once.
                drop(room);
                if let Ok(_wait) = self.waits.try_acquire() {
                    let limit = Duration::from_millis(milliseconds).min(limits.wait);
                    tokio::select! {
                        _ = intake.await_end(job, limit) => {}
                        () = gone(stream) => return,
                    }
                }
                let _teller = self.tellers.acquire().await;
                tell(stream, &Answer::of_job(intake.await_end(job, Duration::ZERO).await)).await;
            }
            Question::Ready => {
                let (queue, audit) = tokio::join!(intake.ready(), recorder.writable());
                let audit = audit.map_err(|error| Unavailable(error.to_string()));
                let answer = match queue.and(audit) {
                    Ok(()) => Answer::Ready,
                    Err(Unavailable(reason)) => Answer::Unavailable(Because { reason }),
                };
                tell(stream, &answer).await;
            }
        }
    }

    async fn submit(&self, uid: u32, request: Request) -> Answer {
        let Parts { recorder, clock, .. } = &self.parts;
        let (submission, gate) = request.into_parts();
        let outcome = match within_reason(submission, clock.now()) {
            Ok(submission) => self.store(uid, submission, gate).await,
            Err(reason) => {
                self.turn_away(uid, reason.to_owned(), None);
                Err(Unavailable(reason.to_owned()).into())
            }
        };
        Answer::to_submission(outcome, recorder.head().into())
    }

    /// Asks the policy, puts on record what is accepted, and stores it.
    async fn store(&self, uid: u32, submission: Submission, gate: Anchor) -> Result<Submitted, SubmitError> {
        let Parts { intake, recorder, .. } = &self.parts;
        let (route, identity) = (submission.route.clone(), submission.identity.clone());
        let terms = intake.terms_of_stranger(&submission).inspect_err(|disagreement| {
            self.turn_away(uid, cut(&disagreement.to_string()), Some((route.clone(), identity.clone())));
        })?;
        let record = Record::Submitted {
            route: route.clone(),
            identity: identity.clone(),
            source: submission.proofs.source,
            parameters: submission.parameters.clone(),
            gate,
        };
        let (written, lost) = recorder.begin(record).await.map_err(|error| Unavailable(error.to_string()))?;
        let decision = Box::pin(async { written.await.map_err(|error| error.to_string()) });
        let outcome = intake.keep(submission, terms, decision).await;
        match &outcome {
            Ok(Submitted { job, how, .. }) => {
                recorder.note(Record::Stored { route, identity, job: *job, how: *how, worker: None });
            }
            // Only what is on record as submitted has to be taken back there.
            Err(_) if lost.is_known() => {}
            Err(error) => {
                recorder.note(Record::NotStored { route, identity, reason: error.to_string() });
            }
        }
        outcome
    }

    /// Puts on record that somebody got nothing; as many of these as of strangers' refusals at the gate.
    fn turn_away(&self, uid: u32, reason: String, asked: Option<(RouteName, Identity)>) {
        let (route, identity) = asked.unzip();
        self.parts.recorder.note(Record::TurnedAway { uid, reason, route, identity });
    }
}

/// As much of a reason as is told and put on record.
fn cut(reason: &str) -> String {
    reason.chars().take(LONGEST_REASON).collect()
}

async fn tell(stream: &mut UnixStream, answer: &Answer) {
    let written = async {
        let bytes = frame::encode(answer).map_err(std::io::Error::other)?;
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(TAKEN_WITHIN, written).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a gate did not take its answer"),
        Err(_) => tracing::debug!("a gate was too slow for its answer"),
    }
}

/// Returns when nobody is there any more to answer; whoever says more than a question counts as gone.
async fn gone(stream: &mut UnixStream) {
    let _ = stream.read(&mut [0]).await;
}

/// A submission whose times and message id an honest gate could have sent. A broken-into one must leave nothing behind
/// that outlasts its repair: no job that never expires, and no message after which honest ones count as forgotten, for
/// which a scope's floor would have to lie in the future (see `queue::purge`).
fn within_reason(mut submission: Submission, now: Timestamp) -> Result<Submission, &'static str> {
    let earliest = now.saturating_sub(ARRIVED_WITHIN).unwrap_or(now);
    submission.at = submission.at.clamp(earliest, now);
    let own = submission.identity.to_string();
    if own.len() > LONGEST_IDENTITY {
        return Err("the identity is too long");
    }
    let Message::Identified(message) = &mut submission.message else { return Ok(submission) };
    let (route, identity) = (&submission.route, &submission.identity);
    if message.scope != own && message.scope != format!("{own} route:{route}") {
        return Err("the message's scope is not one of its sender");
    }
    if message.id.is_empty() || message.id.len() > LONGEST_ID {
        return Err("the message's id is empty or too long");
    }
    let latest = now.saturating_add(KEPT_WITHIN).unwrap_or(now);
    message.keep_until = message.keep_until.min(latest);
    match (identity, message.created) {
        (_, None) => Ok(submission),
        (Identity::Certname(_), Some(_)) => Err("a certificate's message does not say when it was made"),
        (Identity::Key(_), Some(created)) if created > latest => {
            Err("the message was made in the far future")
        }
        (Identity::Key(_), Some(created)) => {
            message.keep_until = message.keep_until.max(created);
            Ok(submission)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::submission::MessageId;
    use crate::executor::agreement::tests::{jenkins, named, proofs};

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn submission(at: &str, message: Message) -> Submission {
        Submission {
            route: RouteName::parse("greet").unwrap(),
            parameters: named("world"),
            body: None,
            identity: jenkins(),
            proofs: proofs(),
            message,
            at: time(at),
        }
    }

    fn message(created: Option<&str>, keep_until: &str) -> MessageId {
        MessageId {
            scope: "key:jenkins".into(),
            id: "n1".into(),
            digest: [0; 32],
            created: created.map(time),
            keep_until: time(keep_until),
        }
    }

    #[test]
    fn a_request_arrived_a_short_while_ago() {
        for (at, taken) in [
            (NOW, NOW),
            ("2026-01-01T11:59:58Z", "2026-01-01T11:59:58Z"),
            ("2026-01-01T12:00:01Z", NOW),
            ("9999-01-01T00:00:00Z", NOW),
            ("1970-01-01T00:00:00Z", "2026-01-01T11:55:00Z"),
        ] {
            let taken_at = within_reason(submission(at, Message::Anonymous), time(NOW)).unwrap().at;
            assert_eq!(taken_at, time(taken), "{at}");
        }
    }

    #[test]
    fn no_message_raises_a_floor_above_the_present_or_is_kept_for_ever() {
        for (created, keep_until, kept) in [
            (Some("2026-01-01T11:59:00Z"), "2026-01-01T12:10:00Z", Some("2026-01-01T12:10:00Z")),
            (Some("2027-01-01T00:00:00Z"), "1970-01-01T00:00:00Z", Some("2027-01-01T00:00:00Z")),
            (None, "9999-01-01T00:00:00Z", Some("2035-12-30T12:00:00Z")),
            (None, "1970-01-01T00:00:00Z", Some("1970-01-01T00:00:00Z")),
            (Some("2036-01-01T00:00:00Z"), "9999-01-01T00:00:00Z", None),
        ] {
            let message = Message::Identified(message(created, keep_until));
            let taken =
                within_reason(submission(NOW, message), time(NOW)).ok().map(|taken| match taken.message {
                    Message::Identified(message) => message.keep_until,
                    Message::Anonymous => panic!("it has an id"),
                });
            assert_eq!(taken, kept.map(time), "{created:?} {keep_until}");
        }
    }

    #[test]
    fn a_message_is_of_its_sender() {
        let judge = |change: &dyn Fn(&mut MessageId)| {
            let mut message = message(None, NOW);
            change(&mut message);
            within_reason(submission(NOW, Message::Identified(message)), time(NOW)).is_ok()
        };
        assert!(judge(&|_| {}));
        assert!(judge(&|message| message.scope = "key:jenkins route:greet".into()));
        for scope in ["", "key:other", "key:jenkins route:other", "key:jenkins ", "certname:jenkins"] {
            assert!(!judge(&|message| message.scope = scope.into()), "{scope}");
        }
        assert!(judge(&|message| message.id = "x".repeat(LONGEST_ID)));
        assert!(!judge(&|message| message.id = "x".repeat(LONGEST_ID + 1)));
        assert!(!judge(&|message| message.id = String::new()));
        let mut held = submission(NOW, Message::Identified(message(Some(NOW), NOW)));
        held.identity = Identity::Certname("jenkins".into());
        assert!(within_reason(held, time(NOW)).is_err());
        let mut long = submission(NOW, Message::Anonymous);
        long.identity = Identity::Certname("x".repeat(LONGEST_IDENTITY));
        assert!(within_reason(long, time(NOW)).is_err());
    }
}
