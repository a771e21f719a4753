//! Puts the end of every job on record: of those that ran, that expired, that were cancelled, and that a crash interrupted.
//!
//! An end is recorded after it is true, and marked after it is recorded: a crash in between repeats the statement, and
//! never contradicts it. Decides nothing about jobs.

use tokio_util::sync::CancellationToken;

use super::persist::Pauses;
use crate::audit::{Record, Recorder};
use crate::queue::sqlite::{Store, Unrecorded};

/// Records ends as they come, until nothing ends any more, and then what is left; what cannot be recorded then is at the
/// next start.
pub(super) async fn record(store: Store, recorder: Recorder, nothing_ends: CancellationToken) {
    let mut pauses = Pauses::default();
    while !nothing_ends.is_cancelled() {
        tokio::select! {
            () = nothing_ends.cancelled() => break,
            () = store.unrecorded() => {}
        }
        match record_next(&store, &recorder).await {
            Ok(_) => pauses = Pauses::default(),
            Err(NotNow) => tokio::select! {
                () = nothing_ends.cancelled() => {}
                () = tokio::time::sleep(pauses.next()) => {}
            },
        }
    }
    while record_next(&store, &recorder).await == Ok(true) {}
}

#[derive(Debug, PartialEq, Eq)]
struct NotNow;

/// Whether there was anything.
async fn record_next(store: &Store, recorder: &Recorder) -> Result<bool, NotNow> {
    let ends = store.next_unrecorded().await.map_err(|error| {
        tracing::warn!(%error, "the ends of jobs cannot be read; they are put on record later");
        NotNow
    })?;
    let jobs: Vec<_> = ends.iter().map(|end| end.job).collect();
    for Unrecorded { job, route, state, reason } in ends {
        recorder.durable(Record::Finished { job, route, state, reason }).await.map_err(|error| {
            tracing::warn!(%error, "the end of a job is put on record later");
            NotNow
        })?;
    }
    if jobs.is_empty() {
        return Ok(false);
    }
    store.mark_recorded(jobs).await.map(|()| true).map_err(|error| {
        tracing::warn!(%error, "ends of jobs are recorded, but not marked as such; they are recorded again");
        NotNow
    })
}
