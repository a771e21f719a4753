//! The gate's way to workers in another process: each question is a connection of its own to their Unix socket.
//!
//! Keeps nothing between questions, so there is nothing to restore after the workers were away: the next question finds
//! them. Never asks twice: whether a submission whose answer was lost is stored, nobody here knows, so its sender is told
//! to try again, and the message's id tells the workers that they have it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::answer::{Answer, Because};
use super::frame::{self, LARGEST_ANSWER};
use super::question::{One, Question, Request, Wait, Whose};
use super::{Found, Intake, OnRecord, SubmitError, Submitted, Unavailable};
use crate::domain::anchor::Anchor;
use crate::domain::identity::Identity;
use crate::domain::job::JobId;
use crate::domain::submission::Submission;

/// For a question and its answer, waiting for a turn included.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Questions at once, but for waits, which `limits.waiting` bounds; further ones take turns.
pub const QUESTIONS_AT_ONCE: usize = 64;

/// How far this process's audit log goes.
pub type OwnHead = Box<dyn Fn() -> Anchor + Send + Sync>;

/// Submits to workers in another process; clones share what they know of them.
#[derive(Clone)]
pub struct SocketIntake(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Largest question, in bytes.
    largest: usize,
    own_head: OwnHead,
    workers_head: Mutex<Option<Anchor>>,
    turns: Semaphore,
    /// Whether the last question was answered.
    reached: AtomicBool,
}

impl SocketIntake {
    /// Asks whoever listens on `path`. `body`: the largest body that a request may have, in bytes.
    #[must_use]
    pub fn new(path: PathBuf, body: usize, own_head: OwnHead) -> Self {
        Self(Arc::new(Inner {
            path,
            largest: frame::largest_question(body),
            own_head,
            workers_head: Mutex::new(None),
            turns: Semaphore::new(QUESTIONS_AT_ONCE),
            reached: AtomicBool::new(true),
        }))
    }

    /// Whether a job could be stored now.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn ready(&self) -> Result<(), Unavailable> {
        let answer = self.ask(&Question::Ready).await?;
        if matches!(answer, Answer::Ready) { Ok(()) } else { Err(unexpected(answer)) }
    }

    /// Asks in turn.
    async fn ask(&self, question: &Question) -> Result<Answer, Unavailable> {
        let in_turn = async {
            let _turn = self.0.turns.acquire().await;
            self.exchange(question).await
        };
        self.within(ANSWERED_WITHIN, in_turn).await
    }

    async fn within(
        &self,
        limit: Duration,
        exchange: impl Future<Output = Result<Answer, Unavailable>>,
    ) -> Result<Answer, Unavailable> {
        let answer = tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
            Err(Unavailable(format!("the workers on {} did not answer in time", self.0.path.display())))
        });
        match &answer {
            Err(error) if self.0.reached.swap(false, Ordering::Relaxed) => {
                tracing::error!(%error, "the workers cannot be reached; nothing is accepted until they can");
            }
            Ok(_) if !self.0.reached.swap(true, Ordering::Relaxed) => {
                tracing::info!("the workers can be reached again");
            }
            Ok(_) | Err(_) => {}
        }
        answer
    }

    async fn exchange(&self, question: &Question) -> Result<Answer, Unavailable> {
        let path = &self.0.path;
        let bytes = frame::encode(question)?;
        if bytes.len() > self.0.largest {
            return Err(Unavailable(format!("{} bytes are more than workers take at once", bytes.len())));
        }
        let mut stream = UnixStream::connect(path).await.map_err(|error| not_there(path, &error))?;
        let worker = stream.peer_cred().map_err(|error| not_there(path, &error))?.uid();
        if !may_listen(path, worker).map_err(|error| not_there(path, &error))? {
            return Err(Unavailable(format!(
                "user {worker} listens on {}, and is neither root nor the owner of its directory",
                path.display()
            )));
        }
        let lost = |error: &dyn std::fmt::Display| {
            let path = path.display();
            Unavailable(format!(
                "the workers on {path} ended before they answered, so what they did is not known: {error}"
            ))
        };
        stream.write_all(&bytes).await.map_err(|error| lost(&error))?;
        let length = frame::read_length(&mut stream, LARGEST_ANSWER).await.map_err(|error| lost(&error))?;
        let bytes = frame::read_bytes(&mut stream, length).await.map_err(|error| lost(&error))?;
        frame::parse(&bytes).map_err(|error| lost(&error))
    }
}

impl Intake for SocketIntake {
    async fn submit(&self, submission: Submission, decision: OnRecord) -> Result<Submitted, SubmitError> {
        decision.await.map_err(Unavailable)?;
        let question = Question::Submit(Box::new(Request::new(submission, (self.0.own_head)())));
        match self.ask(&question).await? {
            Answer::Submitted(stored) => {
                let (submitted, head) = stored.into_parts();
                *self.0.workers_head.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
                Ok(submitted)
            }
            Answer::Conflict(One { job }) => Err(SubmitError::Conflict(job)),
            Answer::Forgotten => Err(SubmitError::Forgotten),
            Answer::Full => Err(SubmitError::Full),
            Answer::Disagrees(Because { reason }) => {
                tracing::error!(
                    reason,
                    "the workers' policy does not offer what this gate's does: compare the two"
                );
                Err(SubmitError::Disagrees(reason))
            }
            other @ (Answer::Found(_) | Answer::Ready | Answer::Unavailable(_)) => {
                Err(unexpected(other).into())
            }
        }
    }

    async fn look_up(&self, job: JobId, by: Vec<Identity>) -> Result<Option<Found>, Unavailable> {
        found(self.ask(&Question::LookUp(Whose { job, by })).await?)
    }

    async fn await_end(&self, job: JobId, limit: Duration) -> Result<Option<Found>, Unavailable> {
        let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let question = Question::AwaitEnd(Wait { job, milliseconds });
        found(self.within(limit.saturating_add(ANSWERED_WITHIN), self.exchange(&question)).await?)
    }

    fn workers_head(&self) -> Option<Anchor> {
        *self.0.workers_head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found(answer: Answer) -> Result<Option<Found>, Unavailable> {
    let Answer::Found(known) = answer else { return Err(unexpected(answer)) };
    Ok(known.map(|known| Found::from(*known)))
}

/// Nothing was done, or it cannot be told what.
fn unexpected(answer: Answer) -> Unavailable {
    match answer {
        Answer::Unavailable(Because { reason }) => Unavailable(reason),
        Answer::Submitted(_)
        | Answer::Conflict(_)
        | Answer::Forgotten
        | Answer::Full
        | Answer::Disagrees(_)
        | Answer::Found(_)
        | Answer::Ready => Unavailable("the workers answered something else than was asked".into()),
    }
}

fn not_there(path: &Path, error: &io::Error) -> Unavailable {
    Unavailable(format!("no workers listen on {} (`bridgeward work`): {error}", path.display()))
}

/// Whether workers of this user can have made the socket: it stands in a directory in which only they or root could.
fn may_listen(path: &Path, worker: u32) -> io::Result<bool> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    Ok(worker == 0 || worker == directory.metadata()?.uid())
}
