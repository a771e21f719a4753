//! What commands that run now have written so far: in memory alone, for whoever looks at their job.
//!
//! Bounded by the limits of the runs that write it. Nothing durable rests on it: what a step wrote is stored when the step
//! has ended, and until that is seen, it is shown from here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sqlite::Store;
use crate::domain::argv::Argv;
use crate::domain::job::{JobId, JobView, RunningStep};

/// The outputs of all runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Outputs(Arc<Mutex<HashMap<JobId, Writing>>>);

#[derive(Debug)]
struct Writing {
    step: usize,
    argv: Vec<String>,
    output: Vec<u8>,
}

/// The output of one run, shown as long as this lives.
#[derive(Debug)]
#[must_use = "what is dropped is no longer shown"]
pub struct Live {
    job: JobId,
    outputs: Outputs,
}

impl Outputs {
    fn all(&self) -> MutexGuard<'_, HashMap<JobId, Writing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a view of a job what its command has written, unless that is in it already.
    pub(super) fn show(&self, view: &mut JobView) {
        let all = self.all();
        let writing = all.get(&view.job).filter(|writing| writing.step > view.steps.len());
        view.running = writing.filter(|_| !view.state.is_final()).map(|Writing { step, argv, output }| {
            RunningStep { step: *step, argv: argv.clone(), output: whole(output) }
        });
    }
}

impl Store {
    /// Shows what the run of this job writes.
    pub fn live(&self, job: JobId) -> Live {
        Live { job, outputs: self.outputs().clone() }
    }
}

impl Live {
    /// A step begins; what the one before wrote is stored by now. `step` counts from 1.
    pub fn begin(&self, step: usize, argv: &Argv) {
        let writing = Writing { step, argv: argv.to_list(), output: Vec::new() };
        self.outputs.all().insert(self.job, writing);
    }

    /// The step wrote this, too.
    pub fn wrote(&self, bytes: &[u8]) {
        if let Some(writing) = self.outputs.all().get_mut(&self.job) {
            writing.output.extend_from_slice(bytes);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.outputs.all().remove(&self.job);
    }
}

/// As it will be shown in the end, as far as that is known: a character that is not complete yet waits.
fn whole(bytes: &[u8]) -> String {
    let mut incomplete = 0;
    if let Some(last) = bytes.utf8_chunks().last() {
        let tail = last.invalid();
        let begins = std::str::from_utf8(tail).err().is_some_and(|error| error.error_len().is_none());
        incomplete = if begins { tail.len() } else { 0 };
    }
    String::from_utf8_lossy(&bytes[..bytes.len() - incomplete]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_only_grows() {
        let text = "a é \u{1f600}\n".as_bytes();
        let all = [text, b"\xff\xc3", text, b"\xe2\x82"].concat();
        let last = String::from_utf8_lossy(&all);
        for end in 0..=all.len() {
            let shown = whole(&all[..end]);
            assert!(last.starts_with(&shown), "{end}: {shown:?}");
            assert!(shown.len() + 4 > end.saturating_sub(1), "{end}: {shown:?}");
        }
    }
}
