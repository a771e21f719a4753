//! `[keys.<name>]`: how senders sign, and the secrets that they share with the gateway.
//! Computes no signature; that is the gate's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::gateway::positive_duration;
use super::{Decoded, Table, Value, source};
use crate::domain::name::KeyName;
use crate::policy::Key;
use crate::policy::diagnostic::{Finding, Place};
use crate::policy::files::Files;
use crate::policy::opening::Kind;
use crate::policy::parameter::From;
use crate::policy::renewal::SecretFile;
use crate::policy::scheme::{BodyHmac, Digest, Encoding, Scheme};
use crate::policy::secret::{ENOUGH_BYTES, Secret};

/// The words for schemes. What `body-hmac` looks for stands in keys of its own.
const SCHEMES: [(&str, Word); 10] = [
    ("rfc9421", Word::Plain(|| Scheme::Rfc9421)),
    ("standard-webhooks", Word::Plain(|| Scheme::StandardWebhooks)),
    ("github", Word::Plain(|| Scheme::Github)),
    ("bitbucket", Word::Plain(|| Scheme::Bitbucket)),
    ("gitea", Word::Plain(|| Scheme::Gitea)),
    ("forgejo", Word::Plain(|| Scheme::Forgejo)),
    ("stripe", Word::Plain(|| Scheme::Stripe)),
    ("slack", Word::Plain(|| Scheme::Slack)),
    ("body-hmac", Word::BodyHmac),
    ("gitlab-token", Word::Plain(|| Scheme::GitlabToken)),
];

/// Most secrets of all keys whose signatures stand in the same header: each costs a request with that header one MAC.
const MOST_SECRETS: usize = 64;

/// The least `limits.body`, in bytes, that is not worth a warning where forges push.
const ENOUGH_FOR_PUSHES: usize = 1 << 20;

/// Keys of `[keys.<name>]` that only `body-hmac` has.
const OF_BODY_HMAC: [&str; 4] = ["header", "prefix", "encoding", "digest"];

#[derive(Clone, Copy)]
enum Word {
    Plain(fn() -> Scheme),
    BodyHmac,
}

/// A secret that was read, and where the policy names it.
struct Loaded {
    /// As it is shown, because it may be no name.
    key: String,
    place: Place,
    /// The header of its scheme, where that is known.
    header: Option<String>,
    path: PathBuf,
    secret: Secret,
}

impl Loaded {
    fn file_of(&self, key: &KeyName) -> SecretFile {
        SecretFile { key: key.clone(), path: self.path.clone(), secret: Some(self.secret.clone()) }
    }
}

/// What routes are checked against; `None` where it could not be read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::policy) struct KnownKey {
    /// Whether method, path and query are signed.
    pub(in crate::policy) signs_requests: Option<bool>,
    /// Whether message ids are taken from the body.
    pub(in crate::policy) id: Option<bool>,
}

/// All keys, and what is known of those that are declared, valid or not.
pub(super) fn decode(
    table: &mut Table<'_>,
    files: &Files,
    largest_body: Option<usize>,
    secret_files: &mut Vec<SecretFile>,
) -> (BTreeMap<KeyName, KnownKey>, Decoded<BTreeMap<KeyName, Key>>) {
    let mut known = BTreeMap::new();
    let mut loaded = Vec::new();
    let mut keys = Vec::new();
    for (text, place, value) in table.take_all() {
        let shown = text.escape_debug().to_string();
        let name = KeyName::parse(text).map_err(|error| {
            let message = format!("`{shown}` is not the name of a key: {error}");
            table.page().report(Finding::error(place.clone(), message))
        });
        // Read even without a name, so that all that is wrong in it is said at once.
        let title = format!("`[keys.{shown}]`");
        let mut outline = KnownKey::default();
        let before = loaded.len();
        let key = value.table(&title, |table| key(table, &name, &shown, files, &mut loaded, &mut outline));
        if let (Ok(key), Some(largest)) = (&key, largest_body) {
            warn_of_large_pushes(table, key, place, largest);
        }
        if let Ok(name) = name {
            secret_files.extend(loaded.iter().skip(before).map(|loaded| loaded.file_of(&name)));
            known.insert(name, outline);
        }
        keys.push(key.map(|key| (key.name.clone(), key)));
    }
    let distinct = refuse_shared(table, &loaded);
    let few = refuse_many(table, &loaded);
    let keys = keys.into_iter().collect::<Decoded<_>>();
    (known, distinct.and(few).and(keys))
}

fn key(
    table: &mut Table<'_>,
    name: &Decoded<KeyName>,
    shown: &str,
    files: &Files,
    loaded: &mut Vec<Loaded>,
    outline: &mut KnownKey,
) -> Decoded<Key> {
    let word = table.required("scheme", |value| value.word(&SCHEMES, &[]));
    let form = body_hmac(table, word);
    let scheme = match word {
        Ok(Word::Plain(scheme)) => form.map(|_| scheme()),
        Ok(Word::BodyHmac) => form.map(Scheme::BodyHmac),
        Err(reported) => Err(reported),
    };
    let secrets = table.required("secrets", |value| {
        value.list(|value| {
            // Without a scheme it is not known how the secret is written.
            let path = value.path()?;
            let secret = secret(value, &path, files, scheme.as_ref().unwrap_or(&Scheme::Rfc9421))?;
            let header = scheme.as_ref().ok().map(|scheme| scheme.header().to_owned());
            let (key, place) = (shown.to_owned(), value.place());
            loaded.push(Loaded { key, place, header, path, secret: secret.clone() });
            Ok(secret)
        })
    });
    let window = table.or("window", Duration::from_secs(300), positive_duration);
    let remember = table.optional("remember", positive_duration);
    let id = table.optional("id", id);
    let scheme = scheme?;
    outline.signs_requests = Some(scheme.signs_requests());
    outline.id = Some(id != Ok(None));
    warn(table, &scheme);
    if scheme.numbers_messages() && table.has("id") {
        let message = "`id`: messages of this scheme carry an id of their own";
        return Err(table.page().report(Finding::error(table.place_of("id"), message)));
    }
    let window = window?;
    let remember = remember?.unwrap_or_else(|| scheme.remember(window));
    Ok(Key { name: name.clone()?, scheme, secrets: secrets?, window, remember, id: id? })
}

/// What `body-hmac` looks for; for other schemes nothing of value, and an error where one of its keys is there.
fn body_hmac(table: &mut Table<'_>, word: Decoded<Word>) -> Decoded<BodyHmac> {
    let header = table.optional("header", |value| match value.text()? {
        text if source::is_header_name(text) => Ok(text.to_ascii_lowercase()),
        _ => Err(value.refuse("the name of a header, such as `X-Signature`")),
    });
    let prefix = table.or("prefix", String::new(), |value| match value.text()? {
        text if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(text.to_owned()),
        _ => Err(value.refuse("printable ASCII without blanks, such as `sha256=`")),
    });
    let words = [("hex", Encoding::Hex), ("base64", Encoding::Base64)];
    let encoding = table.or("encoding", Encoding::Hex, |value| value.word(&words, &[]));
    let words = [("sha256", Digest::Sha256), ("sha512", Digest::Sha512), ("sha1", Digest::Sha1)];
    let digest = table.or("digest", Digest::Sha256, |value| value.word(&words, &[]));
    let header = match word {
        Ok(Word::BodyHmac) if !table.has("header") => {
            let message = format!("`header` is missing in {}", table.title());
            Err(table.page().report(Finding::error(table.place(), message)))
        }
        Ok(Word::Plain(_)) if OF_BODY_HMAC.iter().any(|key| table.has(key)) => {
            let key = OF_BODY_HMAC.into_iter().find(|key| table.has(key)).unwrap_or_default();
            let message = format!("`{key}` is a key of the scheme `body-hmac`; this scheme has its own");
            Err(table.page().report(Finding::error(table.place_of(key), message)))
        }
        Ok(Word::BodyHmac | Word::Plain(_)) | Err(_) => header.map(Option::unwrap_or_default),
    };
    Ok(BodyHmac { header: header?, prefix: prefix?, encoding: encoding?, digest: digest? })
}

fn id(value: Value<'_>) -> Decoded<Vec<String>> {
    let pointer = value.text()?.strip_prefix("body:").and_then(From::pointer);
    pointer.ok_or_else(|| {
        value.refuse(
            "`body:` and a JSON pointer (RFC 6901), such as `body:/build_tag`: only the body is signed",
        )
    })
}

fn warn(table: &Table<'_>, scheme: &Scheme) {
    if *scheme == Scheme::GitlabToken {
        table.page().warn(
            table.place_of("scheme"),
            "`gitlab-token` signs nothing: whoever sees one request can send any other",
            "give GitLab a signing token, and use `standard-webhooks`",
        );
    }
    if !scheme.tells_the_time() && table.has("window") {
        table.page().warn(
            table.place_of("window"),
            "signatures of this scheme carry no time: `window` does nothing",
            "remove it; `remember` says how long a repeated message is recognised",
        );
    }
}

fn warn_of_large_pushes(table: &Table<'_>, key: &Key, place: Place, largest_body: usize) {
    if key.scheme.is_a_forges() && largest_body < ENOUGH_FOR_PUSHES {
        table.page().warn(
            place,
            format!("a forge's pushes can be larger than `limits.body`, {largest_body} bytes"),
            "write `body = \"1MiB\"` or more in `[limits]`, and a smaller `body` in the routes of others",
        );
    }
}

fn secret(value: Value<'_>, path: &Path, files: &Files, scheme: &Scheme) -> Decoded<Secret> {
    let read = files.read(path, Kind::Secret).map_err(|error| value.refuse(error))?;
    let secret = scheme.secret(&read.bytes).map_err(|error| value.refuse(error))?;
    if secret.is_weak() {
        value.page().warn(
            value.place(),
            format!("the secret has fewer than {ENOUGH_BYTES} bytes"),
            "write 32 random ones, such as `openssl rand -hex 32`",
        );
    }
    Ok(secret)
}

/// Requests without a proven sender cost so many MACs at most.
fn refuse_many(table: &Table<'_>, loaded: &[Loaded]) -> Decoded<()> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut outcome = Ok(());
    for Loaded { header, place, .. } in loaded {
        let Some(header) = header else { continue };
        let count = counts.entry(header).or_default();
        *count += 1;
        if *count == MOST_SECRETS + 1 {
            let message = format!(
                "more than {MOST_SECRETS} secrets for signatures in `{header}`: each costs a stranger's request a MAC"
            );
            outcome = Err(table.page().report(Finding::error(place.clone(), message)));
        }
    }
    outcome
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};

    /// A gateway with a further key, `k`, of these lines.
    fn gateway(lines: &str) -> String {
        format!("{GATEWAY}\n[limits]\nbody = \"1MiB\"\n[keys.k]\nsecrets = [\"secrets/other\"]\n{lines}")
    }

    fn with(lines: &str) -> Vec<String> {
        findings(&gateway(lines), &[("r", ROUTE)])
    }

    fn key(lines: &str) -> Key {
        let loaded = compile(&gateway(lines), &[("r", ROUTE)]).unwrap_or_else(|found| panic!("{found}"));
        let mut keys = loaded.policy.keys;
        keys.remove(&KeyName::parse("k").unwrap()).unwrap()
    }

    #[test]
    fn each_scheme_has_its_defaults() {
        const DAY: u64 = 86_400;
        for (word, scheme, header, remember) in [
            ("rfc9421", Scheme::Rfc9421, "signature", 600),
            ("github", Scheme::Github, "x-hub-signature-256", 30 * DAY),
            ("bitbucket", Scheme::Bitbucket, "x-hub-signature", 30 * DAY),
            ("gitea", Scheme::Gitea, "x-gitea-signature", 30 * DAY),
            ("forgejo", Scheme::Forgejo, "x-forgejo-signature", 30 * DAY),
            ("stripe", Scheme::Stripe, "stripe-signature", 30 * DAY),
            ("slack", Scheme::Slack, "x-slack-signature", 30 * DAY),
            ("gitlab-token", Scheme::GitlabToken, "x-gitlab-token", 30 * DAY),
        ] {
            let key = key(&format!("scheme = \"{word}\""));
            assert_eq!((key.scheme.header(), key.remember.as_secs(), &key.id), (header, remember, &None));
            assert_eq!(key.scheme, scheme);
        }
        let webhooks = gateway("scheme = \"standard-webhooks\"").replace("secrets/other", "secrets/whsec");
        let webhooks =
            &compile(&webhooks, &[("r", ROUTE)]).unwrap().policy.keys[&KeyName::parse("k").unwrap()];
        assert_eq!(webhooks.secrets[0].expose(), b"the webhooks secret, of 32 bytes");
        assert_eq!((webhooks.scheme.header(), webhooks.remember.as_secs()), ("webhook-signature", 30 * DAY));
    }

    #[test]
    fn a_body_hmac_is_what_its_keys_say() {
        let form = |header: &str, prefix: &str, encoding, digest| {
            let (header, prefix) = (header.to_owned(), prefix.to_owned());
            Scheme::BodyHmac(BodyHmac { header, prefix, encoding, digest })
        };
        let plain = key("scheme = \"body-hmac\"\nheader = \"X-Signature\"");
        assert_eq!(plain.scheme, form("x-signature", "", Encoding::Hex, Digest::Sha256));
        let all = key(
            "scheme = \"body-hmac\"\nheader = \"X-S\"\nprefix = \"v1=\"\nencoding = \"base64\"\ndigest = \"sha1\"\nid = \"body:/a~1b/0\"",
        );
        assert_eq!(all.scheme, form("x-s", "v1=", Encoding::Base64, Digest::Sha1));
        assert_eq!(all.id, Some(vec!["a/b".to_owned(), "0".to_owned()]));
    }

    #[test]
    fn what_a_scheme_has_no_use_for_is_refused() {
        for (lines, finding) in [
            ("scheme = \"body-hmac\"", "`header` is missing in `[keys.k]`"),
            (
                "scheme = \"body-hmac\"\nheader = \"a b\"",
                "`header`: the name of a header, such as `X-Signature`",
            ),
            (
                "scheme = \"body-hmac\"\nheader = \"X\"\nprefix = \"a b\"",
                "`prefix`: printable ASCII without blanks, such as `sha256=`",
            ),
            (
                "scheme = \"body-hmac\"\nheader = \"X\"\ndigest = \"md5\"",
                "`digest`: `md5` is not one of its values",
            ),
            (
                "scheme = \"github\"\ndigest = \"sha1\"",
                "`digest` is a key of the scheme `body-hmac`; this scheme has its own",
            ),
            (
                "scheme = \"rfc9421\"\nid = \"body:/x\"",
                "`id`: messages of this scheme carry an id of their own",
            ),
            (
                "scheme = \"github\"\nid = \"header:X-GitHub-Delivery\"",
                "`id`: `body:` and a JSON pointer (RFC 6901), such as `body:/build_tag`: only the body is signed",
            ),
            (
                "scheme = \"standard-webhooks\"",
                "`secrets`: the secret is not base64, with or without `whsec_` before it, as Standard Webhooks have it",
            ),
        ] {
            let lines =
                if lines.contains("standard-webhooks") { format!("{lines}\n") } else { lines.to_owned() };
            let text = gateway(&lines).replace(
                "secrets/other",
                if lines.contains("webhooks") { "secrets/third" } else { "secrets/other" },
            );
            assert_eq!(findings(&text, &[("r", ROUTE)]), [finding], "{lines}");
        }
    }

    #[test]
    fn what_is_allowed_but_unwise_is_warned_of() {
        let weak = "`gitlab-token` signs nothing: whoever sees one request can send any other";
        assert_eq!(with("scheme = \"gitlab-token\""), [weak]);
        let window = "signatures of this scheme carry no time: `window` does nothing";
        assert_eq!(with("scheme = \"gitea\"\nwindow = \"1m\""), [window]);
        assert_eq!(with("scheme = \"stripe\"\nwindow = \"1m\""), [""; 0]);
        let small = gateway("scheme = \"github\"").replace("1MiB", "1023KiB");
        let large = "a forge's pushes can be larger than `limits.body`, 1047552 bytes";
        assert_eq!(findings(&small, &[("r", ROUTE)]), [large]);
        assert_eq!(findings(&small.replace("github", "stripe"), &[("r", ROUTE)]), [""; 0]);
    }

    #[test]
    fn i7_secrets_that_a_strangers_request_is_tried_with_are_bounded() {
        let list = |count: usize| vec!["\"secrets/other\""; count].join(", ");
        let text = |count: usize, header: &str| {
            let third = format!(
                "[keys.l]\nscheme = \"body-hmac\"\nheader = \"{header}\"\nsecrets = [\"secrets/third\"]"
            );
            gateway(&format!("scheme = \"gitea\"\n{third}")).replace("\"secrets/other\"", &list(count))
        };
        assert_eq!(findings(&text(MOST_SECRETS - 1, "X-Gitea-Signature"), &[("r", ROUTE)]), [""; 0]);
        assert_eq!(findings(&text(MOST_SECRETS, "X-Other"), &[("r", ROUTE)]), [""; 0]);
        let many = "more than 64 secrets for signatures in `x-gitea-signature`: each costs a stranger's request a MAC";
        assert_eq!(findings(&text(MOST_SECRETS, "X-Gitea-Signature"), &[("r", ROUTE)]), [many]);
    }
}
