//! One git command: its argv, its exact environment, its time limit.
//!
//! Asks nobody: no prompt, no hook, no editor, no protocol but files, HTTPS and SSH. Takes from the caller's environment
//! only the names of [`INHERITED`], and needs none of them. git's own system and user configuration count, because
//! credentials, proxies and `safe.directory` are written there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::argv::Argv;
use crate::domain::job::Exit;
use crate::executor::launcher::{Call, LaunchError, Launcher, NotStarted};
use crate::executor::output::Room;
use crate::executor::spawn::Conditions;
use crate::executor::step::{self, Patience};

/// Where git is looked for; there is no search path.
const PROGRAMS: [&str; 3] = ["/usr/bin/git", "/usr/local/bin/git", "/bin/git"];
/// Variables that are handed on: for SSH keys and agents, for proxies and private CAs.
pub const INHERITED: [&str; 12] = [
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "all_proxy",
];
/// For one command, such as a fetch.
const TIME: Duration = Duration::from_secs(120);
/// From TERM to KILL.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Most output of one command, in bytes; what is longer cannot be judged.
const MOST_OUTPUT: usize = 4 * 1024 * 1024;

/// What stands before every subcommand.
const SETTINGS: [&str; 11] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "credential.interactive=false",
    "color.ui=false",
    "commit.gpgSign=false",
    "push.gpgSign=false",
    "push.followTags=false",
    // In the background they would outlive the command.
    "gc.autoDetach=false",
    "maintenance.autoDetach=false",
    "fetch.recurseSubmodules=false",
];

/// git, set up for one repository.
#[derive(Clone, Debug)]
pub(super) struct Git {
    launcher: Launcher,
    program: &'static str,
    directory: PathBuf,
    env: BTreeMap<String, String>,
    interrupt: CancellationToken,
}

/// What a command answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) succeeded: bool,
    /// Standard output and standard error.
    pub(super) text: String,
}

/// Why a command has no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It is not installed.
    #[error("git is not there; install it as one of {}", PROGRAMS.join(", "))]
    Missing,
    /// Nothing can be started.
    #[error(transparent)]
    Launcher(#[from] LaunchError),
    /// It did not start.
    #[error("git was not started: {0}")]
    NotStarted(#[from] NotStarted),
    /// It failed.
    #[error("git could not {what}: {text}")]
    Failed {
        /// What it was for.
        what: &'static str,
        /// What it said.
        text: String,
    },
    /// It took too long.
    #[error("git was ended because it took longer than {} s to {what}; is the repository reachable?", TIME.as_secs())]
    TimedOut {
        /// What it was for.
        what: &'static str,
    },
    /// The caller was asked to end.
    #[error("ended before git could {what}")]
    Interrupted {
        /// What it was for.
        what: &'static str,
    },
    /// More than can be read, or nothing that can be understood.
    #[error("git's answer to the wish to {what} is not understood: {text}")]
    Odd {
        /// What it was for.
        what: &'static str,
        /// The start of the answer.
        text: String,
    },
}

impl Git {
    /// git for the repository `git_dir`, run in `directory`, with what it may have of the environment `inherited`.
    pub(super) fn new(
        git_dir: &Path,
        directory: &Path,
        inherited: &BTreeMap<String, String>,
        interrupt: CancellationToken,
    ) -> Result<Self, GitError> {
        let program = PROGRAMS.into_iter().find(|program| Path::new(program).is_file());
        let program = program.ok_or(GitError::Missing)?;
        let named = INHERITED.iter().filter_map(|name| inherited.get_key_value(*name));
        let mut env: BTreeMap<String, String> =
            named.map(|(name, value)| (name.clone(), value.clone())).collect();
        env.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
        for (name, value) in [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS_REQUIRE", "never"),
            ("GIT_ALLOW_PROTOCOL", "file:https:ssh"),
            ("GIT_LITERAL_PATHSPECS", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            // What it says is read.
            ("LC_ALL", "C"),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        let launcher = Launcher::alone()?;
        let mut git = Self { launcher, program, directory: directory.to_owned(), env, interrupt };
        git = git.with("GIT_DIR", &git_dir.to_string_lossy());
        Ok(git)
    }

    /// The same with one more variable.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut git = self.clone();
        git.env.insert(name.to_owned(), value.to_owned());
        git
    }

    /// Runs a command; its answer, whether it succeeded or not.
    pub(super) async fn try_run(&self, what: &'static str, arguments: &[&str]) -> Result<Answer, GitError> {
        let odd = |text: String| GitError::Odd { what, text };
        let settings = SETTINGS.iter().flat_map(|setting| ["-c", setting]);
        let all = settings.chain(arguments.iter().copied()).map(str::to_owned).collect();
        let argv = Argv::new(self.program, all).map_err(|error| odd(error.to_string()))?;
        let conditions = Conditions::new(self.directory.clone(), self.env.clone());
        let call = Call { argv: &argv, conditions: &conditions, input: None };
        let patience = Patience { time: TIME, stop_grace: STOP_GRACE };
        let mut room = Room::new(MOST_OUTPUT);
        let ended = step::execute(&self.launcher, &call, patience, 1, &mut room, &self.interrupt).await?;
        if ended.interrupted {
            return Err(GitError::Interrupted { what });
        }
        if ended.dropped > 0 {
            return Err(odd(format!("more than {MOST_OUTPUT} bytes")));
        }
        // Names that are not UTF-8 are nobody's that could be asked for.
        let text = String::from_utf8_lossy(&ended.output).into_owned();
        match ended.exit {
            Exit::Code(code) => Ok(Answer { succeeded: code == 0, text }),
            Exit::Signal(_) => Err(GitError::Failed { what, text: told(&text) }),
            Exit::TimedOut => Err(GitError::TimedOut { what }),
        }
    }

    /// Runs a command that must succeed; what it wrote.
    pub(super) async fn run(&self, what: &'static str, arguments: &[&str]) -> Result<String, GitError> {
        let answer = self.try_run(what, arguments).await?;
        if answer.succeeded {
            Ok(answer.text)
        } else {
            Err(GitError::Failed { what, text: told(&answer.text) })
        }
    }

    /// Runs a command whose last line is an object's name.
    pub(super) async fn name_of(&self, what: &'static str, arguments: &[&str]) -> Result<String, GitError> {
        let text = self.run(what, arguments).await?;
        let name = text.lines().last().unwrap_or_default();
        if is_object_name(name) {
            Ok(name.to_owned())
        } else {
            Err(GitError::Odd { what, text: told(&text) })
        }
    }
}

/// SHA-1 or SHA-256, in hexadecimal.
pub(super) fn is_object_name(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What git said, fit for a terminal and not too long.
pub(super) fn told(text: &str) -> String {
    const LONGEST: usize = 2000;
    let lines = text.trim_end().chars().take(LONGEST);
    let told: String = lines.map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    if told.is_empty() { "it said nothing".to_owned() } else { told }
}
