//! Whose commands could read what the gateway keeps secret: its private key, and the secrets of those who sign.
//!
//! Warns, and forbids nothing. Judges by owner, groups and mode of the files; what the directories above them keep out is
//! not counted on.

use std::path::{Path, PathBuf};

use super::Purpose;
use super::decode::gateway::Gateway;
use super::diagnostic::{Diagnostics, Finding};
use super::files::Files;
use super::restrictions::{Account, RunAs};
use super::rights::Facts;

/// Most routes that are named in one warning.
const MOST_NAMED: usize = 8;

/// What there is to read, and whom the process that reads it lets its commands be.
pub(super) struct Exposure {
    secrets: Vec<(PathBuf, Facts)>,
    /// The running process's user; `None` where files have no owners.
    own: Option<u32>,
}

impl Exposure {
    pub(super) fn of(gateway: &Gateway, files: &Files) -> Self {
        let key = gateway.listen.iter().map(|listen| &listen.private_key.path);
        let paths = key.chain(gateway.secret_files.iter().map(|file| &file.path));
        let known = |path: &PathBuf| files.facts(path).map(|facts| (path.clone(), facts));
        Self { secrets: paths.filter_map(known).collect(), own: files.own_uid() }
    }

    /// Whether commands of such a `user` run as the process that starts them.
    pub(super) fn is_own(&self, user: Option<&RunAs>) -> bool {
        match user {
            None => self.own.is_some(),
            Some(user) => user.account.as_ref().is_some_and(|account| Some(account.uid) == self.own),
        }
    }

    /// A file that another user's commands could read.
    pub(super) fn readable_by(&self, account: &Account) -> Option<&Path> {
        let mut secrets = self.secrets.iter();
        secrets.find(|(_, facts)| facts.let_read(account)).map(|(path, _)| path.as_path())
    }

    /// Warns, once, of all routes whose commands run as the process itself.
    pub(super) fn warn_of_own(
        &self,
        routes: &[&str],
        (path, gateway): (&Path, &Gateway),
        purpose: Purpose,
        found: &mut Diagnostics,
    ) {
        let named = named(routes);
        let finding = match (purpose, &gateway.listen) {
            (Purpose::Whole, Some(listen)) if !routes.is_empty() => Finding::warning(
                listen.private_key.place.clone(),
                format!("commands of {named} run as the gateway's own user, who can read its private key and its senders' secrets"),
            )
            .help("give them a `user`, or let workers be a process of their own (`serve --no-workers` and `work`)"),
            (Purpose::Work, _) if !routes.is_empty() && self.is_a_reader_of_all(gateway) => Finding::warning_of_file(
                path,
                format!("commands of {named} run as the workers' own user, who can read the gate's private key and its senders' secrets"),
            )
            .help("give them a `user`, or start the workers as a user that is neither root nor the gate's"),
            (Purpose::Whole | Purpose::Work | Purpose::Gate | Purpose::Operate, _) => return,
        };
        found.push(finding);
    }

    /// Whether workers that hold no secrets can read those of the gate on the same machine.
    fn is_a_reader_of_all(&self, gateway: &Gateway) -> bool {
        let gate = gateway.queue.gate_user.as_ref().map(|gate| gate.uid);
        self.own == Some(0) || (self.own.is_some() && self.own == gate)
    }
}

fn named(routes: &[&str]) -> String {
    let (shown, more) = routes.split_at(routes.len().min(MOST_NAMED));
    let shown: Vec<String> = shown.iter().map(|route| format!("`{route}`")).collect();
    match more.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_named_up_to_a_few() {
        assert_eq!(named(&["a", "b"]), "`a`, `b`");
        assert_eq!(named(&["a"; 10]), "`a`, `a`, `a`, `a`, `a`, `a`, `a`, `a` and 2 more");
    }

    #[test]
    fn whoever_owns_a_secret_or_is_let_read_it_is_named() {
        let facts = |uid, gid, mode| Facts { uid, gid, mode };
        let exposure = Exposure {
            secrets: vec![
                ("/key".into(), facts(0, 0, 0o600)),
                ("/one".into(), facts(0, 50, 0o640)),
                ("/two".into(), facts(500, 50, 0o600)),
            ],
            own: Some(500),
        };
        for (uid, groups, path) in [
            (0, vec![0], Some("/key")),
            (501, vec![501, 50], Some("/one")),
            (500, vec![500], Some("/two")),
            (501, vec![501], None),
        ] {
            let account = Account { uid, gid: 0, groups };
            assert_eq!(exposure.readable_by(&account), path.map(Path::new), "{account:?}");
        }
        let user = |uid| RunAs {
            name: "x".into(),
            account: Some(Account { uid, gid: 0, groups: Vec::new() }),
            attainable: true,
        };
        assert!(exposure.is_own(None) && exposure.is_own(Some(&user(500))));
        assert!(!exposure.is_own(Some(&user(501))));
        assert!(!exposure.is_own(Some(&RunAs { account: None, ..user(500) })), "nobody knows who that is");
    }
}
