//! Looking up a job, on connections that cannot write and on threads that may block.
//!
//! One transaction a look-up, so that a job and its steps are of one moment.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Semaphore;

use super::{Found, Submitter, Unavailable, open, stored};
use crate::domain::body::Body;
use crate::domain::identity::Identity;
use crate::domain::job::{JobId, JobView, State, Step};

/// Most look-ups at once; others wait their turn.
const READERS: usize = 4;

/// A small pool of connections, opened as they are needed.
pub(super) struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(file: PathBuf) -> Arc<Self> {
        Arc::new(Self { file, idle: Mutex::default(), turns: Arc::new(Semaphore::new(READERS)) })
    }

    /// What is stored of a job.
    pub(super) async fn find(self: &Arc<Self>, job: JobId) -> Result<Option<Found>, Unavailable> {
        self.read(move |connection| {
            let moment = connection.transaction()?;
            find(&moment, job)
        })
        .await
    }

    /// The same, if one of these asked for the job.
    pub(super) async fn find_of(
        self: &Arc<Self>,
        job: JobId,
        by: Vec<Identity>,
    ) -> Result<Option<Found>, Unavailable> {
        self.read(move |connection| {
            let moment = connection.transaction()?;
            for identity in by {
                if asked(&moment, job, &identity)? {
                    return find(&moment, job);
                }
            }
            Ok(None)
        })
        .await
    }

    /// Where a job stands; `None` when there is none.
    pub(super) async fn state(self: &Arc<Self>, job: JobId) -> Result<Option<State>, Unavailable> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached("SELECT state FROM jobs WHERE id = ?1")?;
            let state = statement.query_row([job.to_string()], |row| row.get::<_, String>(0));
            state.optional()?.as_deref().map(stored::state).transpose()
        })
        .await
    }

    /// The body that is stored for the commands of a job, if there is one.
    pub(super) async fn body(self: &Arc<Self>, job: JobId) -> Result<Option<Body>, Unavailable> {
        self.read(move |connection| body(connection, job)).await
    }

    /// Reads on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> Result<T, Unavailable> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let readers = Arc::clone(self);
        let look_up = move || {
            // Held by the thread, not by the caller, who may stop waiting before it ends.
            let _turn = turn;
            let mut connection = readers.take()?;
            let found = work(&mut connection);
            readers.put(connection);
            found
        };
        let ended = tokio::task::spawn_blocking(look_up).await;
        ended.unwrap_or_else(|error| Err(Unavailable(format!("the look-up did not end: {error}"))))
    }

    fn take(&self) -> Result<Connection, Unavailable> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => Ok(open::reader(&self.file)?),
        }
    }

    fn put(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

fn asked(connection: &Connection, job: JobId, identity: &Identity) -> Result<bool, Unavailable> {
    let mut statement = connection.prepare_cached(
        "SELECT 1 FROM jobs WHERE id = ?1
             AND (identity = ?2 OR EXISTS (SELECT 1 FROM submitters WHERE job = seq AND submitters.identity = ?2))",
    )?;
    Ok(statement.exists([job.to_string(), identity.to_string()])?)
}

fn body(connection: &mut Connection, job: JobId) -> Result<Option<Body>, Unavailable> {
    let mut statement = connection
        .prepare_cached("SELECT bytes FROM bodies WHERE job = (SELECT seq FROM jobs WHERE id = ?1)")?;
    let bytes = statement.query_row([job.to_string()], |row| row.get::<_, Vec<u8>>(0));
    Ok(bytes.optional()?.map(Body::from))
}

/// All of it is of one moment where `moment` is a transaction.
pub(super) fn find(moment: &Connection, job: JobId) -> Result<Option<Found>, Unavailable> {
    let mut statement = moment.prepare_cached(
        "SELECT seq, route, state, identity, parameters, submitted, started, finished, keeps, retry_of, proofs
         FROM jobs WHERE id = ?1",
    )?;
    let row = statement.query_row([job.to_string()], |row| {
        let text = |column| row.get::<_, String>(column);
        let time = |column| row.get::<_, Option<i64>>(column);
        Ok((
            row.get(0)?,
            text(1)?,
            text(2)?,
            text(3)?,
            text(4)?,
            row.get(5)?,
            time(6)?,
            time(7)?,
            row.get::<_, i64>(8)?,
            row.get::<_, Option<String>>(9)?,
            text(10)?,
        ))
    });
    let Some((
        seq,
        route,
        state,
        identity,
        parameters,
        submitted,
        started,
        finished,
        keeps,
        retry_of,
        proofs,
    )) = row.optional()?
    else {
        return Ok(None);
    };
    let view = JobView {
        job,
        route: stored::route(&route)?,
        state: stored::state(&state)?,
        identity: stored::identity(&identity)?,
        parameters: stored::json(&parameters)?,
        submitted: stored::time(submitted)?,
        started: started.map(stored::time).transpose()?,
        finished: finished.map(stored::time).transpose()?,
        steps: steps(moment, seq, keeps < 0)?,
        running: None,
        retry_of: retry_of.as_deref().map(stored::job_id).transpose()?,
    };

    let mut statement = moment.prepare_cached(
        "SELECT identity, proofs, parameters FROM submitters WHERE job = ?1 ORDER BY rowid",
    )?;
    let rows = statement.query_map([seq], |row| {
        let text = |column| row.get::<_, String>(column);
        Ok((text(0)?, text(1)?, text(2)?))
    })?;
    let (identity, parameters) = (view.identity.clone(), view.parameters.clone());
    let mut submitters = vec![Submitter { identity, proofs: stored::json(&proofs)?, parameters }];
    for row in rows {
        let (identity, proofs, parameters) = row?;
        let identity = stored::identity(&identity)?;
        let (proofs, parameters) = (stored::json(&proofs)?, stored::json(&parameters)?);
        let submitter = Submitter { identity, proofs, parameters };
        match submitters.first_mut() {
            Some(first) if first.identity == submitter.identity => *first = submitter,
            Some(_) | None => submitters.push(submitter),
        }
    }
    Ok(Some(Found { view, submitters }))
}

/// The steps of a job; of one whose output is discarded, those that had some say so.
fn steps(connection: &Connection, seq: i64, discarded: bool) -> Result<Vec<Step>, Unavailable> {
    let mut statement = connection
        .prepare_cached("SELECT argv, exit, output, dropped FROM steps WHERE job = ?1 ORDER BY number")?;
    let rows = statement.query_map([seq], |row| {
        let text = |column| row.get::<_, String>(column);
        Ok((text(0)?, text(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, i64>(3)?))
    })?;
    let mut steps = Vec::new();
    for row in rows {
        let (argv, exit, output, dropped) = row?;
        steps.push(Step {
            argv: stored::json(&argv)?,
            exit: stored::json(&exit)?,
            output: String::from_utf8_lossy(&output).into_owned(),
            truncated: dropped > 0,
            dropped: u64::try_from(dropped).unwrap_or(0),
            discarded: discarded && dropped > 0,
        });
    }
    Ok(steps)
}
