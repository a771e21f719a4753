//! The control repository without a checkout: fetch a branch's head, read one file of it, commit a new one, push.
//!
//! Works on git's own objects, so that no link is followed, no filter or hook runs, and nothing but the one file can
//! change. Never forces a push: whoever was faster is built upon.

use std::path::PathBuf;

use super::git::{Answer, Git, GitError, is_object_name, told};
use super::order::{Author, Branch, FilePath, Remote};

/// Largest file that is read, in bytes; hiera's are far smaller.
const LARGEST: u64 = 1024 * 1024;
/// Where a fetched head is kept.
const HEAD: &str = "refs/bridgeward/head";

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether it is executable: git's mode.
    pub(super) mode: &'static str,
    /// What is in it.
    pub(super) bytes: Vec<u8>,
}

/// Why a file cannot be edited.
#[derive(Debug, thiserror::Error)]
pub enum NoFile {
    /// A part of the path is a link.
    #[error("`{0}` is a symbolic link, and none is followed; name the file that it leads to")]
    Link(String),
    /// A part of the path is another repository.
    #[error("`{0}` is a submodule: another repository, which is promoted by itself")]
    Submodule(String),
    /// A directory where the file should be, or the other way around.
    #[error("`{0}` is {1}")]
    Kind(String, &'static str),
    /// Too large.
    #[error("`{0}` is larger than {LARGEST} bytes")]
    TooLarge(String),
}

/// How a push ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Push {
    /// The branch stands at the commit now.
    Done,
    /// Somebody else was faster; what git said.
    Raced(String),
}

/// Whatever can go wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A command failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The file is not one.
    #[error(transparent)]
    NoFile(#[from] NoFile),
    /// The repository refuses the change.
    #[error("the push was refused, and not because somebody was faster: {0}")]
    Refused(String),
    /// The machine's own files.
    #[error("cannot {what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
}

/// The local copy, and where it comes from.
#[derive(Debug)]
pub(super) struct Repository<'a> {
    pub(super) git: Git,
    /// A directory for files of the moment.
    pub(super) scratch: PathBuf,
    pub(super) remote: &'a Remote,
    pub(super) branch: &'a Branch,
}

impl Repository<'_> {
    /// Fetches the branch as it stands now; its head.
    pub(super) async fn fetch(&self) -> Result<String, RepositoryError> {
        let refspec = format!("+refs/heads/{}:{HEAD}", self.branch);
        let arguments = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--depth=1",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
        ];
        let place = ["--refmap=", "--end-of-options", self.remote.as_str(), &refspec];
        self.git.run("fetch the branch", &[&arguments[..], &place].concat()).await?;
        Ok(self
            .git
            .name_of("name the branch's head", &["rev-parse", "--verify", &format!("{HEAD}^{{commit}}")])
            .await?)
    }

    /// Looks for a file in a commit; `None` when it, or a directory on the way, is not there.
    pub(super) async fn look_up(
        &self,
        commit: &str,
        file: &FilePath,
    ) -> Result<Option<Entry>, RepositoryError> {
        let mut tree = commit.to_owned();
        let mut path = String::new();
        let mut parts = file.parts().peekable();
        while let Some(part) = parts.next() {
            path = if path.is_empty() { part.to_owned() } else { format!("{path}/{part}") };
            let Some(listed) = self.list(&tree, part).await? else { return Ok(None) };
            match (listed.mode.as_str(), parts.peek().is_some()) {
                ("120000", _) => return Err(NoFile::Link(path).into()),
                ("160000", _) => return Err(NoFile::Submodule(path).into()),
                ("040000", true) => tree = listed.object,
                ("040000", false) => return Err(NoFile::Kind(path, "a directory").into()),
                (_, true) => return Err(NoFile::Kind(path, "a file, not a directory").into()),
                (mode, false) => {
                    let mode = if mode == "100755" { "100755" } else { "100644" };
                    if listed.size.is_none_or(|size| size > LARGEST) {
                        return Err(NoFile::TooLarge(path).into());
                    }
                    let bytes = self.read(&listed.object).await?;
                    return Ok(Some(Entry { mode, bytes }));
                }
            }
        }
        Ok(None)
    }

    async fn list(&self, tree: &str, name: &str) -> Result<Option<Listed>, GitError> {
        let what = "list a directory";
        let arguments = ["ls-tree", "-z", "--long", "--full-tree", "--end-of-options", tree, "--", name];
        let text = self.git.run(what, &arguments).await?;
        if text.is_empty() {
            return Ok(None);
        }
        Listed::parse(&text, name).map(Some).ok_or(GitError::Odd { what, text: told(&text) })
    }

    /// Byte for byte: what a command prints would come together with its warnings.
    async fn read(&self, blob: &str) -> Result<Vec<u8>, RepositoryError> {
        let what = "read the file";
        let text = self.git.run(what, &["unpack-file", blob]).await?;
        let name = text.lines().last().unwrap_or_default();
        if !name.starts_with(".merge_file_") || name.contains('/') {
            return Err(GitError::Odd { what, text: told(&text) }.into());
        }
        let path = self.scratch.join(name);
        let bytes = std::fs::read(&path).map_err(|error| RepositoryError::Io { what, error })?;
        std::fs::remove_file(&path).map_err(|error| RepositoryError::Io { what, error })?;
        Ok(bytes)
    }

    /// The tree of `parent` with this file in it.
    pub(super) async fn write(
        &self,
        parent: &str,
        file: &FilePath,
        entry: &Entry,
    ) -> Result<String, RepositoryError> {
        let what = "write the file";
        let content = self.scratch.join("content");
        std::fs::write(&content, &entry.bytes).map_err(|error| RepositoryError::Io { what, error })?;
        let blob = self.git.name_of(what, &["hash-object", "-w", "--no-filters", "--", "content"]).await?;
        let git = self.git.with("GIT_INDEX_FILE", &self.scratch.join("index").to_string_lossy());
        git.run("read the tree", &["read-tree", parent]).await?;
        let info = format!("{},{blob},{file}", entry.mode);
        git.run("put the file into the tree", &["update-index", "--add", "--cacheinfo", &info]).await?;
        Ok(git.name_of("write the tree", &["write-tree"]).await?)
    }

    /// A commit of `tree` on top of `parent`.
    pub(super) async fn commit(
        &self,
        tree: &str,
        parent: &str,
        message: &str,
        author: &Author,
        committer: &Author,
    ) -> Result<String, RepositoryError> {
        let git = self.git.with("GIT_AUTHOR_NAME", &author.name).with("GIT_AUTHOR_EMAIL", &author.email);
        let git =
            git.with("GIT_COMMITTER_NAME", &committer.name).with("GIT_COMMITTER_EMAIL", &committer.email);
        Ok(git.name_of("commit", &["commit-tree", tree, "-p", parent, "-m", message]).await?)
    }

    /// The difference between two trees, as a patch.
    pub(super) async fn difference(&self, old: &str, new: &str) -> Result<String, RepositoryError> {
        let arguments =
            ["diff-tree", "-r", "-p", "--text", "--no-ext-diff", "--no-textconv", "--no-renames", old, new];
        Ok(self.git.run("show the difference", &arguments).await?)
    }

    /// Moves the branch to `commit`, which stands on the head that was fetched.
    pub(super) async fn push(&self, commit: &str) -> Result<Push, RepositoryError> {
        let refspec = format!("{commit}:refs/heads/{}", self.branch);
        let arguments = [
            "push",
            "--porcelain",
            "--no-verify",
            "--no-signed",
            "--no-follow-tags",
            "--recurse-submodules=no",
        ];
        let place = ["--end-of-options", self.remote.as_str(), &refspec];
        let answer = self.git.try_run("push", &[&arguments[..], &place].concat()).await?;
        outcome(&answer)
    }
}

/// An entry as `ls-tree --long` lists it.
struct Listed {
    mode: String,
    object: String,
    /// In bytes, of files alone.
    size: Option<u64>,
}

impl Listed {
    fn parse(text: &str, name: &str) -> Option<Self> {
        let (facts, listed) = text.strip_suffix('\0')?.split_once('\t')?;
        let mut facts = facts.split_ascii_whitespace();
        let (mode, _, object, size) = (facts.next()?, facts.next()?, facts.next()?, facts.next()?);
        let is_mode = mode.len() == 6 && mode.bytes().all(|byte| byte.is_ascii_digit());
        let is_listed = listed == name && is_mode && is_object_name(object);
        is_listed.then(|| Self { mode: mode.to_owned(), object: object.to_owned(), size: size.parse().ok() })
    }
}

/// Reads what a push answered. Lost races come in two kinds: git here sees that the branch has moved on, or git there
/// finds that it moved between its offer and the push.
fn outcome(answer: &Answer) -> Result<Push, RepositoryError> {
    if answer.succeeded {
        return Ok(Push::Done);
    }
    let text = told(&answer.text);
    let Some(line) = answer.text.lines().find(|line| line.starts_with("!\t")) else {
        return Err(GitError::Failed { what: "push", text }.into());
    };
    let why = line.rsplit('\t').next().unwrap_or_default();
    let here = ["[rejected] (fetch first)", "[rejected] (non-fast-forward)"].contains(&why);
    let moved = ["cannot lock ref", "failed to update ref", "incorrect old value", "failed to lock"];
    let there = why.starts_with("[remote rejected]") && moved.iter().any(|moved| why.contains(moved));
    if here || there { Ok(Push::Raced(told(why))) } else { Err(RepositoryError::Refused(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(why: &str) -> Result<Push, RepositoryError> {
        let text =
            format!("To /srv/control\n!\t0123:refs/heads/production\t{why}\nDone\nerror: failed to push\n");
        outcome(&Answer { succeeded: false, text })
    }

    #[test]
    fn lost_races_are_told_from_refusals() {
        for raced in [
            "[rejected] (fetch first)",
            "[rejected] (non-fast-forward)",
            "[remote rejected] (failed to update ref)",
            "[remote rejected] (cannot lock ref 'refs/heads/production': is at 01 but expected 02)",
            "[remote rejected] (incorrect old value provided)",
        ] {
            assert_eq!(pushed(raced).unwrap(), Push::Raced(raced.into()));
        }
        for refused in [
            "[remote rejected] (pre-receive hook declined)",
            "[remote rejected] (branch is currently checked out)",
            "[remote rejected] (protected branch hook declined)",
            "[rejected] (would clobber existing tag)",
            "[remote failure] (remote failed to report status)",
        ] {
            assert!(matches!(pushed(refused), Err(RepositoryError::Refused(_))), "{refused}");
        }
        let broken = outcome(&Answer { succeeded: false, text: "fatal: unable to access\n".into() });
        assert!(matches!(broken, Err(RepositoryError::Git(_))));
        assert_eq!(outcome(&Answer { succeeded: true, text: String::new() }).unwrap(), Push::Done);
    }

    #[test]
    fn i1_fail_closed_on_lists_that_are_not_understood() {
        let object = "a8926a52d8dcba5c4386945476ab6a2ad008afd4";
        let good = format!("100644 blob {object}       5\tweb.yaml\0");
        assert_eq!(Listed::parse(&good, "web.yaml").unwrap().size, Some(5));
        let warned = format!("warning: something\n{good}");
        for bad in [&*warned, &good[1..], &format!("{good}{good}"), &good.replace(object, "x"), "", "\0"] {
            assert!(Listed::parse(bad, "web.yaml").is_none(), "{bad:?}");
        }
        assert!(Listed::parse(&good, "other.yaml").is_none());
    }
}
