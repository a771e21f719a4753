//! A promotion: sets values in a YAML file of a control repository, commits, and pushes.
//!
//! [`Order`] is what is wanted, checked; [`promote`] does it. `yaml` edits a text, and `scalar` writes one value;
//! `repository` moves commits, by `git`, in a `place` of its own. Knows nothing of the gateway: it is a command like any
//! other, and a route's step is where the gateway meets it.
//!
//! What holds:
//! - The file changes where it was asked to, and nowhere else; a second parser has to agree before anything is committed.
//! - Nothing leaves the repository: no link is followed, no other file can change.
//! - A push is never forced. Whoever was faster is built upon, a bounded number of times, from the new head.
//! - Where nothing is to change, nothing is committed.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::git::Git;
use self::order::{Author, Order};
use self::place::{NoPlace, Place};
use self::repository::{Entry, Push, Repository};
use self::yaml::NotEdited;

mod git;
pub mod order;
mod place;
mod repository;
mod scalar;
mod yaml;

pub use self::git::{GitError, INHERITED};
pub use self::repository::{NoFile, RepositoryError};
pub use self::yaml::Change;

/// How often a promotion is built upon a new head before it gives up. With N gateways pushing at once, one of them wins
/// each time.
const MOST_ATTEMPTS: u32 = 30;
/// Longest first pause after a lost race, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How a promotion ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The file says so already.
    Nothing {
        /// The head that says so.
        head: String,
    },
    /// What would be committed.
    Difference {
        /// As a patch.
        patch: String,
        /// The values.
        changes: Vec<Change>,
    },
    /// It is pushed.
    Pushed {
        /// The new head.
        commit: String,
        /// The values.
        changes: Vec<Change>,
        /// How many heads it was built upon.
        attempts: u32,
    },
}

/// Why a promotion did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is nowhere to work.
    #[error(transparent)]
    Place(#[from] NoPlace),
    /// git, or the repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The file is not there.
    #[error("there is no `{file}` on {branch}; look for a typing error, or give --create to make it")]
    NoSuchFile {
        /// Which.
        file: String,
        /// Where.
        branch: String,
    },
    /// The file is not UTF-8.
    #[error("`{0}` is not UTF-8 text")]
    NotText(String),
    /// The file cannot be edited so.
    #[error("`{file}` on {branch} stays as it is: {error}")]
    NotEdited {
        /// Which.
        file: String,
        /// Where.
        branch: String,
        /// Why.
        error: NotEdited,
    },
    /// Others were faster, again and again.
    #[error(
        "others pushed to the branch faster {MOST_ATTEMPTS} times; nothing was changed. The last time: {0}"
    )]
    Outrun(String),
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Self {
        Self::Repository(error.into())
    }
}

/// Promotes, or with `dry_run` says what would be. `inherited` is the caller's environment, of which [`INHERITED`] counts;
/// `work_dir` is kept for the next time; `interrupt` ends it.
///
/// # Errors
/// When nothing was pushed, and should have been.
pub async fn promote(
    order: &Order,
    dry_run: bool,
    work_dir: Option<&Path>,
    inherited: &BTreeMap<String, String>,
    interrupt: CancellationToken,
) -> Result<Outcome, Failure> {
    let place = Place::open(work_dir).await?;
    let git = Git::new(&place.repository, &place.scratch, inherited, interrupt)?;
    if !place.repository.exists() {
        git.run("make a repository", &["init", "--quiet", "--bare", "--template="]).await?;
    }
    let (remote, branch) = (&order.remote, &order.branch);
    let repository = Repository { git, scratch: place.scratch.clone(), remote, branch };
    let outcome = attempt(order, dry_run, &repository).await;
    // A command that broke off may have left anything; all else leaves the repository whole.
    let whole =
        !matches!(outcome, Err(Failure::Repository(RepositoryError::Git(_) | RepositoryError::Io { .. })));
    if whole {
        let path = place.repository.clone();
        place.finish().map_err(|error| NoPlace::Io { path, error })?;
    }
    outcome
}

async fn attempt(order: &Order, dry_run: bool, repository: &Repository<'_>) -> Result<Outcome, Failure> {
    let (file, committer) = (&order.file, this_machine());
    let mut attempts = 1;
    loop {
        let head = repository.fetch().await?;
        let (entry, changes) = edit(order, repository, &head).await?;
        if changes.is_empty() {
            return Ok(Outcome::Nothing { head });
        }
        let tree = repository.write(&head, file, &entry).await?;
        if dry_run {
            let patch = repository.difference(&head, &tree).await?;
            return Ok(Outcome::Difference { patch, changes });
        }
        let message =
            order.message.as_ref().map_or_else(|| message(order), |message| message.as_str().to_owned());
        let author = order.author.as_ref().unwrap_or(&committer);
        let commit = repository.commit(&tree, &head, &message, author, &committer).await?;
        match repository.push(&commit).await? {
            Push::Done => return Ok(Outcome::Pushed { commit, changes, attempts }),
            Push::Raced(why) if attempts == MOST_ATTEMPTS => return Err(Failure::Outrun(why)),
            Push::Raced(_) => {}
        }
        tokio::time::sleep(pause(attempts, random())).await;
        attempts += 1;
    }
}

/// The file as it is to be at `head`.
async fn edit(
    order: &Order,
    repository: &Repository<'_>,
    head: &str,
) -> Result<(Entry, Vec<Change>), Failure> {
    let (file, branch) = (order.file.to_string(), order.branch.to_string());
    let entry = match repository.look_up(head, &order.file).await? {
        Some(entry) => entry,
        None if order.create => Entry { mode: "100644", bytes: Vec::new() },
        None => return Err(Failure::NoSuchFile { file, branch }),
    };
    let Entry { mode, bytes } = entry;
    let text = String::from_utf8(bytes).map_err(|_| Failure::NotText(file.clone()))?;
    let edited = yaml::edit(&text, order.settings.as_slice(), order.create);
    let (text, changes) = edited.map_err(|error| Failure::NotEdited { file, branch, error })?;
    Ok((Entry { mode, bytes: text.into_bytes() }, changes))
}

fn message(order: &Order) -> String {
    let set = |setting: &order::Setting| format!("{} to {}", setting.key, setting.value);
    match order.settings.as_slice() {
        [setting] => format!("Set {}", set(setting)),
        settings => {
            let lines: Vec<String> = settings.iter().map(|setting| format!("Set {}", set(setting))).collect();
            format!("Set {} values in {}\n\n{}", settings.len(), order.file, lines.join("\n"))
        }
    }
}

fn this_machine() -> Author {
    let name = rustix::system::uname();
    let host = name.nodename().to_string_lossy();
    let address = Author::parse(&format!("bridgeward <bridgeward@{host}>"));
    address.unwrap_or_else(|_| Author {
        name: "bridgeward".to_owned(),
        email: "bridgeward@localhost".to_owned(),
    })
}

/// A share of the longest pause after `attempts`, so that those who collided do not collide again.
fn pause(attempts: u32, share: u16) -> Duration {
    let longest = (FIRST_PAUSE * (1 << attempts.min(10))).min(LONGEST_PAUSE);
    longest * u32::from(share) / u32::from(u16::MAX)
}

fn random() -> u16 {
    let [a, b, ..] = std::hash::RandomState::new().build_hasher().finish().to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(1, u16::MAX), Duration::from_millis(80));
        assert_eq!(pause(3, u16::MAX), Duration::from_millis(320));
        assert_eq!((pause(MOST_ATTEMPTS, u16::MAX), pause(9, 0)), (LONGEST_PAUSE, Duration::ZERO));
    }
}
