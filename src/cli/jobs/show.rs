//! What jobs look like on a terminal: tables within its width, times as ages, nothing that acts upon it.
//!
//! Where the output is no terminal nothing is cut off.

use std::fmt::Write as _;
use std::io::{IsTerminal, Result, Write};
use std::os::fd::AsFd;

use jiff::Timestamp;

use super::super::arguments::arguments;
use crate::admin::jobs::Shown;
use crate::domain::job::{JobView, RunningStep, Step};
use crate::domain::printable::printable;
use crate::queue::operate::Summary;
use crate::queue::standing::{Standing, Waits};

/// Columns of a terminal that does not say how many it has.
const USUAL_WIDTH: usize = 80;
/// Columns of an id that is cut off, its ellipsis included: the time to the millisecond, and twelve random bits.
const SHORT_ID: usize = 19;
/// Least room for a route's name, before who asked is cut off.
const LEAST_ROUTE: usize = 12;
/// Least room for who asked: a terminal that has less is too narrow.
const LEAST_WHO: usize = 8;
/// Columns between two cells.
const GAP: usize = 2;
/// Submitters that are shown by name.
const NAMED: usize = 10;

/// How things are shown.
pub(super) struct Look {
    /// `None`: nothing is cut off.
    width: Option<usize>,
    now: Timestamp,
}

impl Look {
    pub(super) fn of(out: &(impl IsTerminal + AsFd), now: Timestamp) -> Self {
        let width = out.is_terminal().then(|| {
            let size = rustix::termios::tcgetwinsize(out).ok();
            size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(USUAL_WIDTH)
        });
        Self { width, now }
    }

    /// One line a job, under a heading.
    pub(super) fn table(&self, out: &mut impl Write, jobs: &[Summary]) -> Result<()> {
        let mut rows = vec![["JOB", "STATE", "AGE", "TOOK", "ROUTE", "WHO"].map(str::to_owned)];
        rows.extend(jobs.iter().map(|job| {
            let took = job.started.map(|started| age(started, job.finished.unwrap_or(self.now)));
            [
                job.job.to_string(),
                state(job),
                age(job.submitted, self.now),
                took.unwrap_or_else(|| "-".into()),
                job.route.to_string(),
                printable(&job.identity.to_string(), false),
            ]
        }));
        let mut widths: [usize; 6] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        if let Some(width) = self.width {
            if widths.iter().map(|width| width + GAP).sum::<usize>() > width + GAP {
                widths[0] = widths[0].min(SHORT_ID);
            }
            let fixed: usize = widths[..4].iter().map(|width| width + GAP).sum();
            let room = width.saturating_sub(fixed + GAP);
            // Who asked is looked for first: the route gives way to it, as long as it stays legible.
            widths[4] = widths[4].min(room.saturating_sub(widths[5]).max(LEAST_ROUTE));
            widths[5] = widths[5].min(room.saturating_sub(widths[4]).max(LEAST_WHO));
        }
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(line, "{:width$}{:GAP$}", clipped(cell, width), "");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn waits(&self, waits: &Waits) -> String {
        match waits {
            Waits::Lock { active, concurrency, before } => {
                let before = before.map(|before| format!(", {before} wait before it"));
                format!("its lock: {active} of {concurrency} hold it{}", before.unwrap_or_default())
            }
            Waits::Retry { not_before } => {
                let left = age(self.now, *not_before);
                format!("another attempt, not before {not_before:.0} (in {left})")
            }
            Waits::File { awaits } => format!("the end of {}", printable(awaits, false)),
            Waits::Turn => "a place among the commands that run (`limits.running`)".to_owned(),
            Waits::Start => "its start; the log says so if the system is short of something".to_owned(),
        }
    }

    /// All that is known of a job but what it wrote.
    pub(super) fn job(&self, out: &mut impl Write, shown: &Shown) -> Result<()> {
        let Shown { view, submitters, standing } = shown;
        let Standing { reason, attempt, lock, waits } = standing;
        let JobView {
            job,
            route,
            state,
            identity,
            parameters,
            submitted,
            started,
            finished,
            steps,
            running,
            retry_of,
        } = view;
        let ago = |at: Timestamp| format!("{at:.0} ({} ago)", age(at, self.now));
        let mut line = |name: &str, value: &str| writeln!(out, "{name:<11}{value}");
        line("job", &job.to_string())?;
        line("route", route.as_str())?;
        line("state", state.as_str())?;
        if let Some(reason) = reason {
            line("reason", &printable(reason, false))?;
        }
        if let Some(waits) = waits {
            line("waits for", &self.waits(waits))?;
        }
        if *attempt > 1 {
            line("attempt", &attempt.to_string())?;
        }
        line("lock", &printable(lock, false))?;
        line("identity", &printable(&identity.to_string(), false))?;
        if submitters.len() > 1 {
            let named: Vec<_> =
                submitters.iter().take(NAMED).map(|who| printable(&who.to_string(), false)).collect();
            let more = submitters.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            line("asked by", &format!("{}{more}", named.join(", ")))?;
        }
        if let Some(retry_of) = retry_of {
            line("retry of", &retry_of.to_string())?;
        }
        line("submitted", &ago(*submitted))?;
        if let Some(started) = started {
            line("started", &ago(*started))?;
        }
        if let Some(finished) = finished {
            let took = started.map(|started| format!(", took {}", age(started, *finished)));
            line("finished", &format!("{}{}", ago(*finished), took.unwrap_or_default()))?;
        }
        for (index, (name, value)) in parameters.0.iter().enumerate() {
            let heading = if index == 0 { "parameters" } else { "" };
            line(heading, &format!("{name} = {}", printable(&value.to_string(), false)))?;
        }
        for (index, step) in steps.iter().enumerate() {
            line(&format!("step {}", index + 1), &ended(step))?;
            line("", &arguments(&step.argv))?;
        }
        if let Some(RunningStep { step, argv, output }) = running {
            line(
                &format!("step {step}"),
                &format!("runs; {} lines of output so far", output.lines().count()),
            )?;
            line("", &arguments(argv))?;
        }
        Ok(())
    }
}

/// The state, and in one word what keeps a job in it.
fn state(summary: &Summary) -> String {
    let state = summary.state;
    match summary.standing.waits {
        Some(Waits::Lock { .. }) => format!("{state}: lock"),
        Some(Waits::Retry { .. }) => format!("{state}: retry"),
        Some(Waits::File { .. }) => format!("{state}: file"),
        Some(Waits::Turn | Waits::Start) | None => state.to_string(),
    }
}

fn ended(step: &Step) -> String {
    let lines = step.output.lines().count();
    let cut = match (step.discarded, step.truncated) {
        (true, _) => format!("; {} bytes are no longer kept", step.dropped),
        (false, true) => format!("; {} more bytes are not kept", step.dropped),
        (false, false) => String::new(),
    };
    format!("{}; lines of output: {lines}{cut}", step.exit)
}

fn clipped(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(width.saturating_sub(1)).collect();
    clipped.push('…');
    clipped
}

/// How long ago, in one unit.
fn age(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Identity;
    use crate::domain::job::{Exit, JobId, State};
    use crate::domain::name::{ParameterName, RouteName};
    use crate::domain::parameters::RawParameters;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn summary(state: State, route: &str, who: &str) -> Summary {
        Summary {
            job: JobId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap(),
            route: RouteName::parse(route).unwrap(),
            state,
            identity: Identity::Certname(who.into()),
            submitted: at(1000),
            started: Some(at(1010)),
            finished: Some(at(1140)),
            retry_of: None,
            standing: standing(None),
        }
    }

    fn standing(waits: Option<Waits>) -> Standing {
        Standing { reason: None, attempt: 1, lock: "kick".into(), waits }
    }

    fn table(width: Option<usize>, jobs: &[Summary]) -> Vec<String> {
        let mut out = Vec::new();
        Look { width, now: at(90_000) }.table(&mut out, jobs).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_table_reads_well_in_80_columns_and_is_whole_in_a_pipe() {
        let jobs = [
            summary(State::Interrupted, "kick_haproxy_app_internal", "node1.example.com"),
            summary(State::Succeeded, "promote", "x\u{1b}[2J\ny"),
        ];
        let lines = table(Some(80), &jobs);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert_eq!(
            lines,
            [
                "JOB                  STATE        AGE  TOOK  ROUTE         WHO",
                "01890a5d-ac96-774b…  interrupted  1d   2m    kick_haprox…  certname:node1.examp…",
                "01890a5d-ac96-774b…  succeeded    1d   2m    promote       certname:x\\u{1b}[2J\\…",
            ]
        );
        let lines = table(None, &jobs);
        assert!(lines[1].ends_with("kick_haproxy_app_internal  certname:node1.example.com"), "{lines:#?}");
        assert!(lines[2].ends_with("promote                    certname:x\\u{1b}[2J\\ny"), "{lines:#?}");
        let lines = table(Some(120), &jobs);
        assert!(lines[1].ends_with("kick_haproxy_app_internal  certname:node1.example.com"), "{lines:#?}");
        let lines = table(Some(100), &jobs);
        assert!(lines[1].starts_with("01890a5d-ac96-774b…  "), "{lines:#?}");
        assert!(lines[1].ends_with("kick_haproxy_app_internal  certname:node1.example.com"), "{lines:#?}");
        let lines = table(Some(40), &jobs);
        assert!(lines[1].ends_with("kick_haprox…  certnam…"), "{lines:#?}");
        assert_eq!(table(Some(80), &[]), ["JOB  STATE  AGE  TOOK  ROUTE  WHO"]);
    }

    #[test]
    fn a_job_is_shown_without_anything_that_acts() {
        let summary = summary(State::Failed, "promote", "node1\u{2028}");
        let parameter = ParameterName::parse("role").unwrap();
        let view = JobView {
            job: summary.job,
            route: summary.route,
            state: summary.state,
            identity: summary.identity.clone(),
            parameters: RawParameters([(parameter, "a\nstate      succeeded".into())].into()),
            submitted: summary.submitted,
            started: summary.started,
            finished: summary.finished,
            steps: vec![Step {
                argv: vec!["/bin/x".into(), "two words".into(), "\u{1b}]0;".into()],
                exit: Exit::Code(1),
                output: "a\nb\n".into(),
                truncated: true,
                dropped: 70_000,
                discarded: false,
            }],
            running: None,
            retry_of: Some(summary.job),
        };
        let mut out = Vec::new();
        let reason = Some("step 1:\nexit code 1".into());
        let standing = Standing { reason, attempt: 3, ..standing(None) };
        let shown = Shown { view, submitters: vec![summary.identity; 12], standing };
        Look { width: None, now: at(90_000) }.job(&mut out, &shown).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains(['\u{1b}', '\u{2028}']), "{text}");
        assert_eq!(text.matches("\nstate").count(), 1, "{text}");
        for part in [
            "state      failed\n",
            "retry of   01890a5d",
            "reason     step 1:\\nexit code 1\n",
            "attempt    3\n",
            "lock       kick\n",
            "submitted  1970-01-01T00:16:40Z (1d ago)\n",
            ", took 2m\n",
            "and 2 more",
            "step 1     exit code 1; lines of output: 2; 70000 more bytes are not kept\n",
            "/bin/x \"two words\" ",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn what_a_job_waits_for_is_named() {
        let look = Look { width: Some(80), now: at(90_000) };
        let lock = |before| Waits::Lock { active: 1, concurrency: 2, before };
        for (waits, word, text) in [
            (lock(None), "queued: lock", "its lock: 1 of 2 hold it"),
            (lock(Some(3)), "queued: lock", "its lock: 1 of 2 hold it, 3 wait before it"),
            (
                Waits::Retry { not_before: at(90_120) },
                "queued: retry",
                "another attempt, not before 1970-01-02T01:02:00Z (in 2m)",
            ),
            (Waits::File { awaits: "/run/a\nb".into() }, "queued: file", "the end of /run/a\\nb"),
            (Waits::Turn, "queued", "a place among the commands that run (`limits.running`)"),
            (Waits::Start, "queued", "its start; the log says so if the system is short of something"),
        ] {
            assert_eq!(look.waits(&waits), text);
            let standing = standing(Some(waits));
            assert_eq!(state(&Summary { standing, ..summary(State::Queued, "kick", "node1") }), word);
        }
    }
}
