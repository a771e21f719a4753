//! `bridgeward promote`: flags to a promotion, its outcome to words and an exit code.
//! Decides nothing: what may be asked for says [`crate::promote::order`].

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::domain::printable::printable;
use crate::promote::order::{Author, Branch, FilePath, Message, Order, Remote, Setting, Settings};
use crate::promote::{Change, INHERITED, Outcome, promote};

/// Set values in a YAML file of a control repository, commit, and push
///
/// Only the values change: comments, order, quoting and layout of the file stay, and a value that could be read as a
/// number, a date or a truth value is quoted. When the file says so already, nothing is committed, and the exit code is 0.
/// When somebody else pushes meanwhile, the change is made anew upon theirs; a push is never forced. No working tree is
/// needed, and no environment: run it as a route's step, as the user that may push.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bridgeward promote --repo git@git.example.com:control --branch production \\
      --file data/roles/web.yaml --set web::version=1.2.3
  bridgeward promote --repo /srv/control --branch staging --file data/common.yaml \\
      --set app::version=2.0.0 --set app::build=0017 --dry-run")]
pub struct Args {
    /// The control repository: a path, or an https, ssh or file URL; credentials come from git's helpers or from SSH
    #[arg(long, value_name = "URL", allow_hyphen_values = true)]
    repo: String,

    /// The branch to change; it must be there
    #[arg(long, value_name = "NAME", value_parser = Branch::parse, allow_hyphen_values = true)]
    branch: Branch,

    /// The YAML file, from the repository's root
    #[arg(long, value_name = "PATH", value_parser = FilePath::parse, allow_hyphen_values = true)]
    file: FilePath,

    /// A key at the top of the file, and the text that becomes its value (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = Setting::parse, required = true, allow_hyphen_values = true)]
    set: Vec<Setting>,

    /// The commit's message; by default it says what is set
    #[arg(long, value_name = "TEXT", value_parser = Message::parse, allow_hyphen_values = true)]
    message: Option<Message>,

    /// The commit's author, `Name <address>`; by default bridgeward on this machine, which is the committer always
    #[arg(long, value_name = "NAME <ADDRESS>", value_parser = Author::parse, allow_hyphen_values = true)]
    author: Option<Author>,

    /// A directory to keep a copy of the repository in, so that the next fetch has less to bring; promotions that share
    /// one take turns
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,

    /// Print what would be changed, as a patch; push nothing
    #[arg(long)]
    dry_run: bool,

    /// Make the file or a key when it is missing
    #[arg(long)]
    create: bool,
}

/// Promotes.
///
/// # Errors
/// When something was refused or failed; nothing was pushed then, unless the connection broke while pushing.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let order = order(args, &std::env::current_dir().context("there is no current directory")?)?;
    let known = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        INHERITED.contains(&name.as_str()).then_some((name, value))
    };
    let inherited = std::env::vars_os().filter_map(known).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let interrupt = CancellationToken::new();
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
            let (mut signal, interrupt) = (signal(kind)?, interrupt.clone());
            tokio::spawn(async move {
                signal.recv().await;
                interrupt.cancel();
            });
        }
        let promoted = promote(&order, args.dry_run, args.work_dir.as_deref(), &inherited, interrupt).await;
        anyhow::Ok(promoted?)
    });
    // A wait for another promotion's end cannot be broken off otherwise.
    runtime.shutdown_background();
    tell(&order, &outcome?, &mut std::io::stdout().lock()).context("cannot write to the standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn order(args: &Args, here: &Path) -> anyhow::Result<Order> {
    let remote = Remote::parse(&args.repo, here).map_err(|why| anyhow!("--repo {:?}: {why}", args.repo))?;
    Ok(Order {
        remote,
        branch: args.branch.clone(),
        file: args.file.clone(),
        settings: Settings::new(args.set.clone()).map_err(|why| anyhow!("--set: {why}"))?,
        message: args.message.clone(),
        author: args.author.clone(),
        create: args.create,
    })
}

fn tell(order: &Order, outcome: &Outcome, out: &mut impl Write) -> std::io::Result<()> {
    let Order { remote, branch, file, .. } = order;
    match outcome {
        Outcome::Nothing { head } => {
            writeln!(out, "nothing to change: {file} on {branch} of {remote} says so already, at {head}")
        }
        Outcome::Difference { patch, changes } => {
            write!(out, "{}", printable(patch, true))?;
            tell_changes(changes, out)?;
            writeln!(out, "nothing was committed: this is what would be, to {branch} of {remote}")
        }
        Outcome::Pushed { commit, changes, attempts } => {
            writeln!(out, "{file} on {branch} of {remote}:")?;
            tell_changes(changes, out)?;
            let again = if *attempts > 1 {
                format!(", upon the work of others, at attempt {attempts}")
            } else {
                String::new()
            };
            writeln!(out, "pushed {commit}{again}")
        }
    }
}

fn tell_changes(changes: &[Change], out: &mut impl Write) -> std::io::Result<()> {
    changes.iter().try_for_each(|Change { key, before, after }| match before.as_deref() {
        None => writeln!(out, "  {key}: {after} (new)"),
        Some("") => writeln!(out, "  {key}: no value -> {after}"),
        Some(before) => writeln!(out, "  {key}: {} -> {after}", printable(before, false)),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    const GOOD: [&str; 9] =
        ["promote", "--repo", "control", "--branch", "production", "--file", "a.yaml", "--set", "a::b=1"];

    #[test]
    fn what_is_wrong_is_said_at_once() {
        let args = CommandLine::try_parse_from(GOOD).unwrap().args;
        assert_eq!(order(&args, Path::new("/srv")).unwrap().remote.to_string(), "/srv/control");
        for (at, bad) in [(4, "--force"), (4, "a..b"), (6, "../x"), (6, "/x"), (8, "a"), (8, "a=\n")] {
            let mut words = GOOD;
            words[at] = bad;
            assert!(CommandLine::try_parse_from(words).is_err(), "{bad:?}");
        }
        let mut words = GOOD;
        words[2] = "ext::sh -c x";
        let args = CommandLine::try_parse_from(words).unwrap().args;
        assert!(order(&args, Path::new("/srv")).unwrap_err().to_string().contains("--repo"));
    }
}
