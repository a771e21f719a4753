//! `[keys.<name>]`: how senders sign, and the secrets that they share with the gateway.
//! Computes no signature; that is the gate's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::gateway::positive_duration;
use super::{Decoded, Table, Value};
use crate::domain::name::KeyName;
use crate::policy::diagnostic::{Finding, Place};
use crate::policy::files::Files;
use crate::policy::opening::Kind;
use crate::policy::secret::{ENOUGH_BYTES, Secret};
use crate::policy::{Key, Scheme};

/// Schemes of the language that are not built yet.
const LATER: [&str; 9] = [
    "standard-webhooks",
    "github",
    "bitbucket",
    "gitea",
    "forgejo",
    "stripe",
    "slack",
    "body-hmac",
    "gitlab-token",
];

/// A secret that was read, and where the policy names it.
struct Loaded {
    /// As it is shown, because it may be no name.
    key: String,
    place: Place,
    secret: Secret,
}

/// All keys, and the names of those that are declared, valid or not.
pub(super) fn decode(
    table: &mut Table<'_>,
    files: &Files,
) -> (BTreeSet<KeyName>, Decoded<BTreeMap<KeyName, Key>>) {
    let mut names = BTreeSet::new();
    let mut loaded = Vec::new();
    let mut keys = Vec::new();
    for (text, place, value) in table.take_all() {
        let shown = text.escape_debug().to_string();
        let name = KeyName::parse(text).map_err(|error| {
            let message = format!("`{shown}` is not the name of a key: {error}");
            table.page().report(Finding::error(place, message))
        });
        names.extend(name.clone());
        // Read even without a name, so that all that is wrong in it is said at once.
        let title = format!("`[keys.{shown}]`");
        let key = value.table(&title, |table| key(table, &name, &shown, files, &mut loaded));
        keys.push(key.map(|key| (key.name.clone(), key)));
    }
    let distinct = refuse_shared(table, &loaded);
    let keys = keys.into_iter().collect::<Decoded<_>>();
    (names, distinct.and(keys))
}

fn key(
    table: &mut Table<'_>,
    name: &Decoded<KeyName>,
    shown: &str,
    files: &Files,
    loaded: &mut Vec<Loaded>,
) -> Decoded<Key> {
    let scheme = table.required("scheme", |value| value.word(&[("rfc9421", Scheme::Rfc9421)], &LATER));
    let secrets = table.required("secrets", |value| {
        value.list(|value| {
            let secret = secret(value, files)?;
            loaded.push(Loaded { key: shown.to_owned(), place: value.place(), secret: secret.clone() });
            Ok(secret)
        })
    });
    let window = table.or("window", Duration::from_secs(300), positive_duration);
    let remember = table.optional("remember", positive_duration);
    for later in ["id", "header", "prefix", "encoding", "digest"] {
        table.unsupported(later);
    }
    let window = window?;
    let remember = remember?.unwrap_or(window * 2);
    Ok(Key { name: name.clone()?, scheme: scheme?, secrets: secrets?, window, remember })
}

fn secret(value: Value<'_>, files: &Files) -> Decoded<Secret> {
    let path = value.path()?;
    let bytes = files.read(&path, Kind::Secret).map_err(|error| value.refuse(error))?;
    let secret = Secret::shared(&bytes).map_err(|error| value.refuse(error))?;
    if secret.is_weak() {
        value.page().warn(
            value.place(),
            format!("the secret has fewer than {ENOUGH_BYTES} bytes"),
            "write 32 random ones, such as `openssl rand -hex 32`",
        );
    }
    Ok(secret)
}

/// The same secret in two keys would let the holder of one speak as the other.
fn refuse_shared(table: &Table<'_>, loaded: &[Loaded]) -> Decoded<()> {
    let mut outcome = Ok(());
    for (index, second) in loaded.iter().enumerate() {
        let first = loaded
            .iter()
            .take(index)
            .find(|first| first.key != second.key && first.secret.is_same(&second.secret));
        if let Some(first) = first {
            let message = format!("the keys `{}` and `{}` have the same secret", first.key, second.key);
            let finding = Finding::error(second.place.clone(), message)
                .also(first.place.clone(), "first here")
                .help("give each key secrets of its own, so that it is known who signed");
            outcome = Err(table.page().report(finding));
        }
    }
    outcome
}
