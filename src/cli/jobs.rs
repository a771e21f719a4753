//! `bridgeward jobs`: the operators' view of the jobs of a running gateway, through its Unix socket.
//!
//! Decides nothing: the gateway says who may, and the policy what a retried job may be. What a command wrote goes to
//! standard output; a terminal gets it without characters that would act upon it.

use std::io::{IsTerminal as _, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use axum::http::Method;

use self::client::Client;
use self::show::Look;
use crate::admin::jobs::{Done, Shown};
use crate::clock::Clock;
use crate::domain::job::{JobId, JobPrefix, JobView, NotAJobId, State};
use crate::domain::name::RouteName;
use crate::domain::printable::printable;
use crate::policy::Admin;
use crate::queue::operate::Page;

pub(super) mod client;
pub(super) mod named;
mod show;

/// Where a gateway's socket is, unless something else is said.
pub(super) const DEFAULT_SOCKET: &str = "/run/bridgeward/admin.sock";
/// Time between two looks at a job that is followed.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// See, cancel and repeat the jobs of a running gateway
///
/// Speaks to the gateway's socket, `[admin] socket` in gateway.toml, which is open to root and to the gateway's own user.
/// Exits with 0 when it was done, with 1 when it was refused or failed; with --follow also when the job did not succeed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bridgeward jobs list --state failed
  bridgeward jobs output --follow 01890a5d-ac96-774b-bcce-b302099a8057
  bridgeward jobs retry 01890a5d-ac96-774b-bcce-b302099a8057")]
pub struct Args {
    /// The gateway's socket [default: that of --policy, or /run/bridgeward/admin.sock]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "policy")]
    socket: Option<PathBuf>,
    /// The policy's directory, for its `[admin] socket` or `work_socket`
    #[arg(long, global = true, value_name = "DIR")]
    policy: Option<PathBuf>,
    /// Print JSON, one line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List jobs, the newest first
    List {
        /// Only jobs in this state
        #[arg(long, value_parser = state)]
        state: Option<State>,
        /// Only jobs of this route
        #[arg(long, value_parser = RouteName::parse)]
        route: Option<RouteName>,
        /// Only jobs that are older than this one
        #[arg(long, value_name = "JOB", value_parser = JobId::parse)]
        before: Option<JobId>,
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show one job: who, what, its steps
    Show(One),
    /// Print what a job's commands wrote
    Output(One),
    /// Cancel a job: one that waits at once, one that runs by ending its commands
    Cancel {
        /// The job's id, or the beginning of it
        #[arg(value_parser = JobPrefix::parse)]
        job: JobPrefix,
    },
    /// Run a job that has ended once more, as a new job
    Retry(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// The job's id, or the beginning of it
    #[arg(value_parser = JobPrefix::parse)]
    job: JobPrefix,
    /// Wait until the job has ended
    #[arg(long, short)]
    follow: bool,
}

fn state(word: &str) -> Result<State, String> {
    State::parse(word).ok_or_else(|| format!("one of {}", State::ALL.map(State::as_str).join(", ")))
}

/// Does what the subcommand says.
///
/// # Errors
/// When there is no gateway, or it refuses.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let socket = socket(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let out = std::io::stdout();
    let look = Look::of(&out, Clock::system().now());
    let is_terminal = out.is_terminal();
    let desk = Desk { client: Client::new(socket), json: args.json, look, is_terminal, out };
    let done = runtime.block_on(desk.perform(&args.command))?;
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The socket that is meant.
fn socket(args: &Args) -> anyhow::Result<PathBuf> {
    let Some(directory) = &args.policy else {
        return Ok(args.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into()));
    };
    match keeper(named::sockets(directory)?) {
        Some(socket) => Ok(socket),
        None => bail!(
            "{} names no socket: write `socket = \"{DEFAULT_SOCKET}\"` under `[admin]`, and restart the gateway",
            directory.join("gateway.toml").display()
        ),
    }
}

/// The socket of whoever keeps the jobs: workers that are a process of their own, if they run, else the gateway.
fn keeper(admin: Admin) -> Option<PathBuf> {
    let Admin { socket, work_socket } = admin;
    let listens = |path: &PathBuf| UnixStream::connect(path).is_ok();
    match (socket, work_socket) {
        (Some(socket), Some(work)) if !listens(&work) && listens(&socket) => Some(socket),
        (socket, work) => work.or(socket),
    }
}

struct Desk<O> {
    client: Client,
    json: bool,
    look: Look,
    is_terminal: bool,
    out: O,
}

impl<O: Write> Desk<O> {
    /// Whether the exit code is 0.
    async fn perform(mut self, command: &Command) -> anyhow::Result<bool> {
        match command {
            Command::List { state, route, before, limit } => {
                let mut query = form_urlencoded::Serializer::new(format!("limit={limit}"));
                state.map(|state| query.append_pair("state", state.as_str()));
                route.as_ref().map(|route| query.append_pair("route", route.as_str()));
                before.map(|before| query.append_pair("before", &before.to_string()));
                let path = format!("/jobs?{}", query.finish());
                self.list(&path).await
            }
            Command::Show(One { job, follow }) => self.show(self.which(job).await?, *follow).await,
            Command::Output(One { job, follow }) => self.output(self.which(job).await?, *follow).await,
            Command::Cancel { job } => self.cancel(self.which(job).await?).await,
            Command::Retry(One { job, follow }) => self.retry(self.which(job).await?, *follow).await,
        }
    }

    async fn list(&mut self, path: &str) -> anyhow::Result<bool> {
        let page: Page = serde_json::from_slice(&self.client.ask(Method::GET, path).await?)?;
        if self.json {
            writeln!(self.out, "{}", serde_json::to_string(&page)?)?;
            return Ok(true);
        }
        self.look.table(&mut self.out, &page.jobs)?;
        if page.more
            && let Some(last) = page.jobs.last()
        {
            note(format_args!("there are older ones: --before {}", last.job))?;
        }
        Ok(true)
    }

    async fn show(&mut self, job: JobId, follow: bool) -> anyhow::Result<bool> {
        let shown = if follow { self.end(job, |_, _| Ok(())).await? } else { self.view(job).await? };
        if self.json {
            writeln!(self.out, "{}", serde_json::to_string(&shown)?)?;
        } else {
            self.look.job(&mut self.out, &shown)?;
        }
        Ok(!follow || shown.view.state == State::Succeeded)
    }

    async fn output(&mut self, job: JobId, follow: bool) -> anyhow::Result<bool> {
        if self.json {
            let shown = if follow { self.end(job, |_, _| Ok(())).await? } else { self.view(job).await? };
            writeln!(self.out, "{}", serde_json::to_string(&shown.view.steps)?)?;
            return Ok(!follow || shown.view.state == State::Succeeded);
        }
        if !follow {
            let view = self.view(job).await?.view;
            self.steps(&view, 0)?;
            return Ok(true);
        }
        let mut shown = 0;
        let Shown { view, .. } = self
            .end(job, |desk, view| {
                desk.steps(view, shown)?;
                shown = shown.max(view.steps.len());
                Ok(())
            })
            .await?;
        note(format_args!("job {job}: {}", view.state))?;
        Ok(view.state == State::Succeeded)
    }

    async fn cancel(&mut self, job: JobId) -> anyhow::Result<bool> {
        let done: Done =
            serde_json::from_slice(&self.client.ask(Method::POST, &format!("/jobs/{job}/cancel")).await?)?;
        let state = if done.state.is_final() {
            done.state
        } else {
            note(format_args!("job {job}: its commands are being ended"))?;
            self.end(job, |_, _| Ok(())).await?.view.state
        };
        self.told(&Done { state, ..done }, format_args!("job {job}: {state}"))?;
        Ok(state == State::Cancelled)
    }

    async fn retry(&mut self, job: JobId, follow: bool) -> anyhow::Result<bool> {
        let done: Done =
            serde_json::from_slice(&self.client.ask(Method::POST, &format!("/jobs/{job}/retry")).await?)?;
        if follow && !self.json {
            note(format_args!("job {}: {}", done.job, done.state))?;
        } else {
            self.told(&done, format_args!("{}", done.job))?;
        }
        if follow { self.output(done.job, true).await } else { Ok(true) }
    }

    /// The one job that is meant.
    async fn which(&self, prefix: &JobPrefix) -> anyhow::Result<JobId> {
        match JobId::parse(&prefix.to_string()) {
            Ok(job) => Ok(job),
            Err(NotAJobId) => {
                let path = format!("/jobs/{prefix}");
                let shown: Shown = serde_json::from_slice(&self.client.ask(Method::GET, &path).await?)?;
                Ok(shown.view.job)
            }
        }
    }

    async fn view(&mut self, job: JobId) -> anyhow::Result<Shown> {
        Ok(serde_json::from_slice(&self.client.ask(Method::GET, &format!("/jobs/{job}")).await?)?)
    }

    /// Looks at a job until it has ended; `each` sees every look.
    async fn end(
        &mut self,
        job: JobId,
        mut each: impl FnMut(&mut Self, &JobView) -> anyhow::Result<()>,
    ) -> anyhow::Result<Shown> {
        loop {
            let shown = self.view(job).await?;
            each(self, &shown.view)?;
            if shown.view.state.is_final() {
                return Ok(shown);
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// What the steps after the first `shown` wrote.
    fn steps(&mut self, view: &JobView, shown: usize) -> anyhow::Result<()> {
        for (index, step) in view.steps.iter().enumerate().skip(shown) {
            if self.is_terminal {
                self.out.write_all(printable(&step.output, true).as_bytes())?;
            } else {
                self.out.write_all(step.output.as_bytes())?;
            }
            self.out.flush()?;
            if step.discarded {
                note(format_args!(
                    "what step {} wrote is no longer kept: {} bytes",
                    index + 1,
                    step.dropped
                ))?;
            } else if step.truncated {
                note(format_args!(
                    "step {} wrote more than what is kept: {} bytes are missing",
                    index + 1,
                    step.dropped
                ))?;
            }
        }
        Ok(())
    }

    fn told(&mut self, done: &Done, text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
        if self.json {
            writeln!(self.out, "{}", serde_json::to_string(done)?)?;
        } else {
            writeln!(self.out, "{text}")?;
        }
        Ok(())
    }
}

fn note(text: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{text}")
}
