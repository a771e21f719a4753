//! `--wait`: looks at the job until it has ended, and tells what is new at each look.
//!
//! Each look is a message of its own, with a fresh signature. Gives up a wait, never a job.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::Method;

use super::super::request::Prepared;
use super::Call;
use super::answer::{Answer, Receipt};
use super::report::Shown;
use super::send::Purpose;

/// First pause between two looks at a job, also after each change; each is twice the one before.
pub(super) const SHORTEST_LOOK: Duration = Duration::from_millis(250);
/// Longest pause between two looks at a job.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// How many looks in a row may fail, or meet the wall, before the wait is given up.
const MOST_BLIND_LOOKS: u32 = 5;
/// How often the elapsed time is shown anew.
const TICK: Duration = Duration::from_secs(1);

impl<O: Write, E: Write> Call<O, E> {
    /// Whether the job succeeded; what it writes is printed as it comes.
    pub(super) async fn follow(&mut self, receipt: &Receipt) -> anyhow::Result<bool> {
        let target = self.prepared.target.at_path(&receipt.location);
        let target = target.context("the gateway's answer does not say where to look for the job")?;
        let look = Prepared { target, method: Method::GET, headers: Vec::new(), body: None, id: None };
        let began = self.clock.monotonic();
        let (mut pause, mut blind) = (self.first_look, 0);
        let (mut shown, mut state) = (Shown::default(), receipt.state);
        let mut started = None;
        loop {
            let headers = look.sent_headers(self.signer.as_ref(), self.clock.now())?;
            match self.send_patiently(&look, &headers, Purpose::Question).await {
                Ok(Answer::Job { view, .. }) => {
                    blind = 0;
                    if view.started != started {
                        // A run that is tried again begins with its first step.
                        (started, shown) = (view.started, Shown::default());
                    }
                    if view.state != state && !view.state.is_final() {
                        self.report.state(&view)?;
                    }
                    let before = (shown, state);
                    self.report.steps(&view, &mut shown)?;
                    if view.state.is_final() {
                        self.report.state(&view)?;
                        return Ok(Answer::Job { ok: true, view }.is_success(true));
                    }
                    state = view.state;
                    if (shown, state) != before {
                        pause = self.first_look;
                    }
                }
                // A gate whose workers are away shows the wall to whoever asks for a job.
                Ok(Answer::Wall) => {
                    blind += 1;
                    if blind >= MOST_BLIND_LOOKS {
                        bail!(
                            "the gateway no longer shows us the job {}; its log says how the job goes on",
                            receipt.job
                        );
                    }
                    self.report.note(format_args!("the gateway does not show us the job; looking again"))?;
                }
                Ok(other) => {
                    self.report.answer(&other)?;
                    blind += 1;
                }
                Err(error) => {
                    self.report.note(format_args!("{error:#}"))?;
                    blind += 1;
                }
            }
            if blind >= MOST_BLIND_LOOKS {
                bail!("giving up waiting; the job {} goes on without us", receipt.job);
            }
            let mut left = pause;
            while !left.is_zero() {
                let elapsed = self.clock.monotonic().saturating_sub(began).as_secs();
                self.report.progress(format_args!("job {}: {state}, {elapsed} s", receipt.job))?;
                let tick = left.min(TICK);
                tokio::time::sleep(tick).await;
                left = left.saturating_sub(tick);
            }
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }
}
