//! Puts the end of every job on record: of those that ran, that expired, that were cancelled, and that a crash interrupted.
//! The end of a run's last step goes with it.
//!
//! An end is recorded after it is true, and marked after it is recorded: a crash in between repeats the statement, and
//! never contradicts it. Decides nothing about jobs.

use tokio_util::sync::CancellationToken;

use super::persist::Pauses;
use crate::audit::{Record, Recorder};
use crate::queue::sqlite::{Closing, Store, Unrecorded};

/// Records ends as they come, until nothing ends any more, and then what is left; what cannot be recorded then is at the
/// next start.
pub(super) async fn record(store: Store, recorder: Recorder, nothing_ends: CancellationToken) {
    let mut pauses = Pauses::default();
    while !nothing_ends.is_cancelled() {
        tokio::select! {
            () = nothing_ends.cancelled() => break,
            () = store.unrecorded() => {}
        }
        match record_all(&store, &recorder).await {
            Ok(()) => pauses = Pauses::default(),
            Err(NotNow) => tokio::select! {
                () = nothing_ends.cancelled() => {}
                () = tokio::time::sleep(pauses.next()) => {}
            },
        }
    }
    // What cannot be recorded now is at the next start.
    let _ = record_all(&store, &recorder).await;
}

/// Something is left, for another try.
struct NotNow;

async fn record_all(store: &Store, recorder: &Recorder) -> Result<(), NotNow> {
    let mut recorded = Vec::new();
    loop {
        let ends = store.recorded(recorded).await.map_err(|error| {
            tracing::warn!(%error, "the ends of jobs cannot be read, or marked as recorded; they are put on record later");
            NotNow
        })?;
        let (mut jobs, mut records) = (Vec::new(), Vec::new());
        for Unrecorded { job, route, state, reason, closing } in ends {
            jobs.push(job);
            if let Some(Closing { step, exit, dropped }) = closing {
                records.push(Record::Ended { job, route: route.clone(), step, exit, dropped });
            }
            records.push(Record::Finished { job, route, state, reason });
        }
        if jobs.is_empty() {
            return Ok(());
        }
        recorder.all_durable(&records).await.map_err(|error| {
            tracing::warn!(%error, "the ends of jobs are put on record later");
            NotNow
        })?;
        recorded = jobs;
    }
}
