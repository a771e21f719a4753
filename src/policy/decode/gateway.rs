//! `gateway.toml`: `[listen]`, `[queue]`, `[audit]`, and the tables that have files of their own.
//! What depends on routes is asked in `compile`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::keys::KnownKey;
use super::{Decoded, Page, Table, Value, admin, keys, limits, rule};
use crate::domain::name::KeyName;
use crate::policy::diagnostic::Finding;
use crate::policy::files::{Files, Surroundings};
use crate::policy::opening::Kind;
use crate::policy::renewal::SecretFile;
use crate::policy::secret::Secret;
use crate::policy::{
    Admin, Audit, ClientTrust, Credentials, Key, Limits, Listen, PemFile, PrivateKeyFile, Purpose, Queue,
    User, units,
};

const DAY: Duration = Duration::from_secs(86_400);

/// All that `gateway.toml` says.
#[derive(Debug)]
pub(in crate::policy) struct Gateway {
    pub(in crate::policy) listen: Option<Listen>,
    pub(in crate::policy) admin: Admin,
    pub(in crate::policy) queue: Queue,
    pub(in crate::policy) audit: Audit,
    pub(in crate::policy) limits: Limits,
    pub(in crate::policy) keys: BTreeMap<KeyName, Key>,
    pub(in crate::policy) secret_files: Vec<SecretFile>,
}

/// What routes are checked against; `None` where `gateway.toml` did not say it in a way that can be understood.
#[derive(Debug, Default)]
pub(in crate::policy) struct Known {
    /// All keys, valid or not.
    pub(in crate::policy) keys: Option<BTreeMap<KeyName, KnownKey>>,
    /// Whether client certificates are asked for.
    pub(in crate::policy) clients: Option<bool>,
    /// `limits.body`
    pub(in crate::policy) body: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Revocation {
    Required,
    Off,
}

#[derive(Clone, Copy)]
enum Engine {
    Sqlite,
}

/// Decodes the whole file. `known` and `credentials` are filled as far as possible, so that routes and certificates can
/// be checked in any case.
pub(in crate::policy) fn decode(
    page: &Page,
    files: &Files,
    known: &mut Known,
    credentials: &mut Credentials,
) -> Decoded<Gateway> {
    page.read("`gateway.toml`", |top| {
        let purpose = files.purpose();
        let listen = if purpose.listens() {
            let listen = top.required("listen", |value| {
                value.table("`[listen]`", |table| {
                    known.clients = Some(table.has("client_ca"));
                    listen(table, files, credentials)
                })
            });
            listen.map(Some)
        } else {
            top.leave("listen");
            Ok(None)
        };
        let admin = top.table_or_defaults("admin", "`[admin]`", |table| admin::decode(table, files));
        let queue = top.required("queue", |value| value.table("`[queue]`", |table| queue(table, files)));
        let audit = top.required("audit", |value| {
            value.table("`[audit]`", |table| {
                table.required("file", |value| file_to_write(value, files)).map(|file| Audit { file })
            })
        });
        let limits = top.table_or_defaults("limits", "`[limits]`", limits::decode);
        known.body = limits.as_ref().ok().map(|limits| limits.body);
        let mut secret_files = Vec::new();
        let keys = if purpose.listens() {
            top.table_or_defaults("keys", "`[keys]`", |table| {
                let (declared, keys) = keys::decode(table, files, known.body, &mut secret_files);
                known.keys = Some(declared);
                keys
            })
        } else {
            top.leave("keys");
            Ok(BTreeMap::new())
        };
        if let (Ok(queue), Ok(audit)) = (&queue, &audit)
            && queue.file == audit.file
        {
            let both = "`audit.file` and `queue.file` are the same file";
            return Err(page.report(Finding::error(top.place_of("audit"), both)));
        }
        if let (Ok(admin), Ok(queue)) = (&admin, &queue) {
            let sockets = [&admin.socket, &admin.work_socket, &queue.socket].map(Option::as_deref);
            let twice = |(index, socket): (usize, Option<&Path>)| {
                socket.is_some() && sockets.iter().skip(index + 1).any(|s| *s == socket)
            };
            if sockets.into_iter().enumerate().any(twice) {
                let same = "two of `admin.socket`, `admin.work_socket` and `queue.socket` are the same file";
                return Err(page.report(Finding::error(top.place_of("admin"), same)));
            }
        }
        Ok(Gateway {
            listen: listen?,
            admin: admin?,
            queue: queue?,
            audit: audit?,
            limits: limits?,
            keys: keys?,
            secret_files,
        })
    })
}

fn listen(table: &mut Table<'_>, files: &Files, credentials: &mut Credentials) -> Decoded<Listen> {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 8443));
    let addresses = table.or("address", vec![everywhere], |value| {
        if value.is_list() { value.set(address) } else { address(value).map(|address| vec![address]) }
    });
    let certificate = table.required("certificate", |value| pem(value, files, Kind::Certificates));
    let private_key = table.required("private_key", |value| {
        let path = value.path()?;
        let read = files.read(&path, Kind::Secret).map_err(|error| value.refuse(error))?;
        Ok(Arc::new(PrivateKeyFile { path, place: value.place(), pem: Secret::copy(&read.bytes) }))
    });
    let ca = table.optional("client_ca", |value| pem(value, files, Kind::Certificates));
    let crl = table.optional("client_crl", |value| pem(value, files, Kind::RevocationLists));
    let words = [("required", Revocation::Required), ("off", Revocation::Off)];
    let revocation = table.or("revocation", Revocation::Required, |value| value.word(&words, &[]));
    let crl_max_age = table.optional("crl_max_age", positive_duration);
    let authorities = table.optional("authorities", |value| value.set(authority));
    let trusted_proxies = table.or("trusted_proxies", Vec::new(), |value| match value.is_empty_list() {
        true => Ok(Vec::new()),
        false => value.set(rule::network),
    });
    credentials.certificate = certificate.clone().ok();
    credentials.private_key = private_key.clone().ok();
    credentials.clients = ca.clone().ok().flatten().map(|ca| {
        let crl = crl.clone().ok().flatten().filter(|_| revocation != Ok(Revocation::Off));
        ClientTrust { ca, crl }
    });
    let clients = client_trust(table, ca, crl, revocation);
    let crl_max_age = crl_max_age.and_then(|age| match &clients {
        Ok(clients) if age.is_some() && clients.as_ref().is_none_or(|clients| clients.crl.is_none()) => {
            let message = "`crl_max_age`, but no revocation list is looked at";
            let finding = Finding::error(table.place_of("crl_max_age"), message);
            Err(table.page().report(finding.help("give `client_ca` and `client_crl`, or leave it out")))
        }
        Ok(_) | Err(_) => Ok(age),
    });
    Ok(Listen {
        addresses: addresses?,
        certificate: certificate?,
        private_key: private_key?,
        clients: clients?,
        crl_max_age: crl_max_age?,
        trusted_proxies: trusted_proxies?,
        authorities: authorities?,
    })
}

fn client_trust(
    table: &Table<'_>,
    ca: Decoded<Option<Arc<PemFile>>>,
    crl: Decoded<Option<Arc<PemFile>>>,
    revocation: Decoded<Revocation>,
) -> Decoded<Option<ClientTrust>> {
    let refuse = |key: &str, message: &str, help: &str| {
        let finding = Finding::error(table.place_of(key), message);
        Err(table.page().report(finding.help(help)))
    };
    if !table.has("client_ca") {
        if table.has("client_crl") {
            return refuse(
                "client_crl",
                "`client_crl` without `client_ca`",
                "give `client_ca`, the certificates that client certificates are verified against",
            );
        }
        return revocation.and(ca).map(|_| None);
    }
    if !table.has("client_crl") && revocation == Ok(Revocation::Required) {
        return refuse(
            "client_ca",
            "`client_ca` without `client_crl`: a revoked certificate would go on working",
            "give `client_crl`, or write `revocation = \"off\"`",
        );
    }
    let (ca, crl, revocation) = (ca?, crl?, revocation?);
    if crl.is_some() && revocation == Revocation::Off {
        table.page().warn(
            table.place_of("client_crl"),
            "`client_crl` is not looked at, because `revocation` is \"off\"",
            "remove one of the two",
        );
    }
    let crl = crl.filter(|_| revocation == Revocation::Required);
    Ok(ca.map(|ca| ClientTrust { ca, crl }))
}

fn queue(table: &mut Table<'_>, files: &Files) -> Decoded<Queue> {
    let engine =
        table.or("engine", Engine::Sqlite, |value| value.word(&[("sqlite", Engine::Sqlite)], &["nats"]));
    let purpose = files.purpose();
    let file = table.required("file", |value| match purpose.works() {
        true => file_to_write(value, files),
        false => value.path(),
    });
    let keep = table.or("keep", 30 * DAY, positive_duration);
    let keep_bytes = table.or("keep_bytes", 1 << 30, limits::positive_size);
    let is_part = matches!(purpose, Purpose::Gate | Purpose::Work);
    if is_part && !table.has("socket") {
        let message =
            "`socket` is missing in `[queue]`: gate and workers are two processes, and submit over it";
        let finding = Finding::error(table.place(), message);
        return Err(table.page().report(finding.help("write `socket = \"/run/bridgeward/queue.sock\"`")));
    }
    let socket = table.optional("socket", |value| admin::socket(value, files, purpose.works()));
    let gate_user = table.optional("gate_user", |value| match purpose.works() {
        true => gate_user(value, files).map(Some),
        // Whom the workers let in is theirs to say.
        false => value.text().map(|_| None),
    });
    if table.has("gate_user") && !table.has("socket") {
        let finding = Finding::error(table.place_of("gate_user"), "`gate_user` without `socket`");
        return Err(table.page().report(finding.help("give `socket`, where that user may submit")));
    }
    match engine? {
        Engine::Sqlite => Ok(Queue {
            file: file?,
            keep: keep?,
            keep_bytes: keep_bytes?,
            socket: socket?,
            gate_user: gate_user?.flatten(),
        }),
    }
}

/// The user that a gate runs as, by name.
fn gate_user(value: Value<'_>, files: &Files) -> Decoded<User> {
    let name = value.text()?;
    match files.user(name) {
        Ok(Some(user)) => {
            if user.uid == 0 {
                let message = "the gate's user is root: a gate that is broken into needs no workers then";
                value.page().warn(value.place(), message, "let the gate run as a user of its own");
            }
            Ok(user)
        }
        Ok(None) => Err(value.refuse(format!("there is no user `{}` on this machine", name.escape_debug()))),
        Err(error) => Err(value.refuse(format!("users cannot be looked up: {error}"))),
    }
}

/// A duration that is not zero.
pub(super) fn positive_duration(value: Value<'_>) -> Decoded<Duration> {
    let duration = value.parse(units::duration)?;
    if duration.is_zero() { Err(value.refuse("a duration longer than nothing")) } else { Ok(duration) }
}

fn address(value: Value<'_>) -> Decoded<SocketAddr> {
    value.parse(|text| {
        text.parse::<SocketAddr>()
            .map_err(|_| "an IP address and a port, such as `0.0.0.0:8443` or `[::]:8443`")
    })
}

/// A host as it is compared with: in small letters, an IPv6 address without brackets.
fn authority(value: Value<'_>) -> Decoded<String> {
    value.parse(|text| {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(address.to_string());
        }
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if text.split('.').all(is_label) {
            Ok(text.to_ascii_lowercase())
        } else {
            Err("a host name or an IP address, without a port, such as `gateway.example.com`")
        }
    })
}

fn pem(value: Value<'_>, files: &Files, kind: Kind) -> Decoded<Arc<PemFile>> {
    let path = value.path()?;
    let mut read = files.read(&path, kind).map_err(|error| value.refuse(error))?;
    let bytes = std::mem::take(&mut *read.bytes);
    Ok(Arc::new(PemFile { path, place: value.place(), bytes, modified: read.modified }))
}

/// A file that the gateway makes when it starts.
fn file_to_write(value: Value<'_>, files: &Files) -> Decoded<PathBuf> {
    let path = value.path()?;
    let (path, surroundings) = files.may_be_created(&path).map_err(|error| {
        let help = "the file is made when it is needed, but its directory must be there and be safe";
        value.page().report(value.finding(error).help(help))
    })?;
    match surroundings {
        Surroundings::Private => {}
        Surroundings::Shared => value.page().warn(
            value.place(),
            "the file is in a directory in which others may make files, too",
            "give it a directory of its own",
        ),
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile_text;
    use crate::policy::tests::{FILES, GATEWAY, ROUTE, compile, findings};

    /// The findings once `from` is replaced in the gateway's text.
    fn with(from: &str, to: &str) -> Vec<String> {
        assert!(GATEWAY.contains(from), "{from}");
        findings(&GATEWAY.replace(from, to), &[("r", ROUTE)])
    }

    fn listen(line: &str) -> Vec<String> {
        with("[listen]", &format!("[listen]\n{line}"))
    }

    #[test]
    fn defaults_are_those_of_the_language() {
        let policy = compile(GATEWAY, &[("r", ROUTE)]).unwrap().policy;
        let listen = policy.listen.unwrap();
        assert_eq!(listen.addresses, ["0.0.0.0:8443".parse().unwrap()]);
        assert_eq!(listen.authorities, None);
        assert_eq!(listen.certificate.path, PathBuf::from("/policy/certs/server.pem"));
        assert_eq!(listen.certificate.bytes, b"server");
        assert_eq!(listen.private_key.pem.expose(), b"key");
        let clients = listen.clients.unwrap();
        assert_eq!(
            (&clients.ca.bytes[..], clients.crl.as_ref().map(|crl| &crl.bytes[..])),
            (&b"ca"[..], Some(&b"crl"[..]))
        );
        assert_eq!((policy.queue.keep, policy.queue.keep_bytes), (30 * DAY, 1 << 30));
        let limits = policy.limits;
        assert_eq!(
            (limits.body, limits.bodies, limits.jobs, limits.waiting),
            (65_536, 67_108_864, 10_000, 256)
        );
        assert_eq!((limits.connections.get(), limits.connections_per_source.get()), (4096, 256));
        assert_eq!((limits.connections_per_identity.get(), limits.running.get()), (64, 16));
        let per_second = |rate: crate::policy::Rate| {
            assert_eq!((rate.period, rate.burst), (Duration::from_secs(1), rate.limit));
            rate.limit.get()
        };
        assert_eq!(per_second(limits.requests_per_source), 100);
        assert_eq!(per_second(limits.requests_per_identity), 50);
        assert_eq!(per_second(limits.refusals_logged), 10);
        let seconds = [limits.handshake, limits.headers, limits.request, limits.idle, limits.wait];
        assert_eq!(seconds.map(|duration| duration.as_secs()), [5, 10, 15, 30, 60]);
        let key = policy.keys.values().next().unwrap();
        assert_eq!((key.window.as_secs(), key.remember.as_secs()), (300, 600));
        assert_eq!(key.secrets[0].expose(), b"0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        let text = GATEWAY
            .replace("[listen]", "[listen]\naddress = [\"[::]:1\", \"127.0.0.1:2\"]\nauthorities = [\"Gate.Example.com\", \"[::1]\", \"10.0.0.1\"]\nrevocation = \"required\"")
            .replace("[queue]", "[limits]\nbody = \"1MiB\"\nwait = \"0s\"\nwaiting = 0\nrefusals_logged = \"7/h\"\n[queue]\nengine = \"sqlite\"\nkeep = \"12h\"\nkeep_bytes = \"2MiB\"")
            + "window = \"30s\"\nremember = \"2d\"";
        let policy = compile(&text, &[("r", ROUTE)]).unwrap().policy;
        let listen = policy.listen.unwrap();
        assert_eq!(listen.addresses.len(), 2);
        assert_eq!(listen.authorities.unwrap(), ["gate.example.com", "::1", "10.0.0.1"]);
        assert_eq!((policy.queue.keep, policy.queue.keep_bytes), (Duration::from_secs(43_200), 2 << 20));
        assert_eq!((policy.limits.body, policy.limits.waiting), (1 << 20, 0));
        assert!(policy.limits.wait.is_zero());
        assert_eq!(policy.limits.refusals_logged.period.as_secs(), 3600);
        let key = policy.keys.values().next().unwrap();
        assert_eq!((key.window.as_secs(), key.remember.as_secs()), (30, 172_800));
    }

    #[test]
    fn a_part_of_a_gateway_looks_only_at_what_it_uses() {
        let socket = "[queue]\nsocket = \"/run/queue.sock\"\ngate_user = \"nobody\"";
        let text = GATEWAY.replace("[queue]", socket);
        let examine = |purpose, text: &str, files: &[&str]| {
            let files = FILES.iter().filter(|(path, _)| files.iter().any(|name| path.ends_with(name)));
            let files = Files::Memory(files.map(|(path, bytes)| (path.clone(), bytes.clone())).collect());
            let loaded = compile_text(text, &[("r", ROUTE)], &Files::For(purpose, Box::new(files)));
            loaded
                .map(|loaded| loaded.policy)
                .map_err(|found| found.messages().map(str::to_owned).collect::<Vec<_>>())
        };
        let gates = ["server.pem", "server.key", "ca.pem", "crl.pem", "jenkins"];
        let gate = examine(Purpose::Gate, &text, &gates).unwrap();
        assert!(gate.listen.is_some() && gate.keys.len() == 1);
        assert_eq!(
            (gate.queue.socket.as_deref(), gate.queue.gate_user),
            (Some(Path::new("/run/queue.sock")), None)
        );
        // Neither certificates nor secrets, and not even the tables that name them.
        let rest = &text[text.find("[queue]").unwrap()..text.find("[keys").unwrap()];
        for text in [&text, rest, &text.replace("scheme", "no_such_key")] {
            let work = examine(Purpose::Work, text, &["bin/a"]).unwrap();
            assert!(work.listen.is_none() && work.keys.is_empty());
            assert_eq!(work.queue.gate_user.map(|user| user.uid), Some(65534));
            assert_eq!(work.audit.work_file(), Path::new("/var/log/bridgeward/audit.work.jsonl"));
            assert!(examine(Purpose::Operate, text, &[]).is_ok());
        }
        let route = format!("{ROUTE}user = \"nobody\"");
        let files = Files::Memory(FILES.iter().map(|(path, bytes)| (path.clone(), bytes.clone())).collect());
        let found = compile_text(&text, &[("r", &route)], &Files::For(Purpose::Work, Box::new(files)));
        let found = found.err().map(|found| found.messages().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(found, Some(vec!["`user` is `nobody`, the `gate_user` of `[queue]`".to_owned()]));
        for purpose in [Purpose::Gate, Purpose::Work] {
            let found = examine(purpose, GATEWAY, &gates).unwrap_err();
            assert!(found[0].starts_with("`socket` is missing in `[queue]`"), "{found:?}");
        }
        assert!(examine(Purpose::Operate, GATEWAY, &[]).is_ok());
        let unknown = text.replace("\"nobody\"", "\"x\"");
        assert!(
            examine(Purpose::Gate, &unknown, &gates).is_ok()
                && examine(Purpose::Work, &unknown, &["bin/a"]).is_err()
        );
    }

    #[test]
    fn a_missing_part_is_named() {
        let none = [
            "`listen` is missing in `gateway.toml`",
            "`queue` is missing in `gateway.toml`",
            "`audit` is missing in `gateway.toml`",
        ];
        assert_eq!(findings("", &[("r", "")])[..3], none);
        for (line, finding) in [
            ("certificate = \"certs/server.pem\"", "`certificate` is missing in `[listen]`"),
            ("private_key = \"certs/server.key\"", "`private_key` is missing in `[listen]`"),
            ("file = \"/var/lib/bridgeward/queue.db\"", "`file` is missing in `[queue]`"),
            ("file = \"/var/log/bridgeward/audit.jsonl\"", "`file` is missing in `[audit]`"),
            ("scheme = \"rfc9421\"", "`scheme` is missing in `[keys.jenkins]`"),
            ("secrets = [\"secrets/jenkins\"]", "`secrets` is missing in `[keys.jenkins]`"),
        ] {
            assert_eq!(with(line, ""), [finding]);
        }
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_allowed() {
        for (line, finding) in [
            (
                "address = \"8443\"",
                "`address`: an IP address and a port, such as `0.0.0.0:8443` or `[::]:8443`",
            ),
            ("address = []", "`address`: a list of at least one; leave the key out if it is not meant"),
            ("address = 8443", "`address`: takes a string, not an integer"),
            ("address = [\"[::]:1\", \"[::]:1\"]", "`address`: it is listed twice"),
            (
                "authorities = [\"gate:8443\"]",
                "`authorities`: a host name or an IP address, without a port, such as `gateway.example.com`",
            ),
            ("revocation = \"on\"", "`revocation`: `on` is not one of its values"),
            ("colour = 1", "unknown key `colour` in `[listen]`"),
            ("crl_max_age = \"0s\"", "`crl_max_age`: a duration longer than nothing"),
            (
                "trusted_proxies = [\"10.0.0.1/8\"]",
                "`trusted_proxies`: the address has bits beyond the network's prefix",
            ),
            ("trusted_proxies = \"10.0.0.0/8\"", "`trusted_proxies`: takes a list, not a string"),
        ] {
            assert_eq!(listen(line), [finding], "{line}");
        }
        for (from, to, finding) in [
            ("[queue]", "[queue]\nengine = \"nats\"", "`engine`: `nats` is not supported yet"),
            ("[queue]", "[queue]\nengine = \"redis\"", "`engine`: `redis` is not one of its values"),
            ("[queue]", "[queue]\nkeep = \"0s\"", "`keep`: a duration longer than nothing"),
            ("[queue]", "[queue]\nkeep_bytes = \"0B\"", "`keep_bytes`: a size of at least 1B"),
            ("[queue]", "[queue]\nsocket = 1", "`socket`: takes a string, not an integer"),
            ("[queue]", "[queue]\ngate_user = \"nobody\"", "`gate_user` without `socket`"),
            (
                "[queue]",
                "[queue]\nsocket = \"/run/x\"\ngate_user = \"x\"",
                "`gate_user`: there is no user `x` on this machine",
            ),
            (
                "[queue]",
                "[queue]\nsocket = \"/run/x\"\ngate_user = \"root\"",
                "the gate's user is root: a gate that is broken into needs no workers then",
            ),
            (
                "[queue]",
                "[admin]\nsocket = \"/run/x\"\n[queue]\nsocket = \"/run/x\"",
                "two of `admin.socket`, `admin.work_socket` and `queue.socket` are the same file",
            ),
            ("[queue]", "[quota]\n[queue]", "unknown key `quota` in `gateway.toml`"),
            (
                "[audit]\n        file = \"/var/log/bridgeward/audit.jsonl\"",
                "[audit]\nfile = \"/var/lib/bridgeward/queue.db\"",
                "`audit.file` and `queue.file` are the same file",
            ),
            (
                "\"certs/server.pem\"",
                "\"certs/none.pem\"",
                "`certificate`: `/policy/certs/none.pem` does not exist",
            ),
            ("\"certs/server.pem\"", "\"\"", "`certificate`: the path of a file"),
            ("rfc9421", "rfc9422", "`scheme`: `rfc9422` is not one of its values"),
            ("\"secrets/jenkins\"", "\"secrets/none\"", "`secrets`: `/policy/secrets/none` does not exist"),
            (
                "\"secrets/jenkins\"",
                "\"secrets/short\"",
                "`secrets`: the secret has fewer than 16 bytes: write 32 random ones, such as `openssl rand -hex 32`",
            ),
            ("\"secrets/jenkins\"", "\"secrets/middling\"", "the secret has fewer than 32 bytes"),
            ("[\"secrets/jenkins\"]", "\"secrets/jenkins\"", "`secrets`: takes a list, not a string"),
            ("scheme =", "window = \"0s\"\nscheme =", "`window`: a duration longer than nothing"),
        ] {
            assert_eq!(with(from, to), [finding], "{to}");
        }
    }

    #[test]
    fn limits_are_bounded_and_never_zero() {
        for (line, finding) in [
            ("body = \"0B\"", "`body`: a size of at least 1B"),
            ("body = 65536", "`body`: takes a string, not an integer"),
            ("body = \"65MiB\"", "`bodies`, for all bodies together, is less than `body`, for a single one"),
            ("bodies = \"1B\"", "`bodies`, for all bodies together, is less than `body`, for a single one"),
            ("connections = 0", "`connections`: a whole number from 1 to 10000000"),
            ("jobs = -1", "`jobs`: a whole number from 1 to 10000000"),
            ("running = 99999999999999999999", "`running`: a whole number from 1 to 10000000"),
            ("waiting = 1.5", "`waiting`: takes a whole number, not a float"),
            (
                "requests_per_source = \"0/s\"",
                "`requests_per_source`: a rate is a whole number from 1, a slash and one of s, m, h, d, such as `60/m`",
            ),
            (
                "handshake = \"5\"",
                "`handshake`: a duration is a whole number and one of the units ms, s, m, h, d, such as `5m`",
            ),
            ("idle = \"0s\"", "`idle`: a duration longer than nothing"),
            ("handshakes = \"5s\"", "unknown key `handshakes` in `[limits]`"),
        ] {
            assert_eq!(with("[queue]", &format!("[limits]\n{line}\n[queue]")), [finding], "{line}");
        }
    }

    #[test]
    fn client_certificates_need_a_revocation_list_or_a_plain_no() {
        let ca = "client_ca = \"certs/ca.pem\"";
        let crl = "client_crl = \"certs/crl.pem\"";
        assert_eq!(
            with(crl, ""),
            ["`client_ca` without `client_crl`: a revoked certificate would go on working"]
        );
        assert_eq!(with(ca, ""), ["`client_crl` without `client_ca`"]);
        let text = GATEWAY.replace(crl, "revocation = \"off\"");
        let clients = compile(&text, &[("r", ROUTE)]).unwrap().policy.listen.unwrap().clients.unwrap();
        assert!(clients.crl.is_none());
        let loaded =
            compile(&GATEWAY.replace(crl, &format!("{crl}\nrevocation = \"off\"")), &[("r", ROUTE)]).unwrap();
        assert!(loaded.policy.listen.unwrap().clients.unwrap().crl.is_none());
        assert_eq!(
            loaded.warnings.messages().collect::<Vec<_>>(),
            ["`client_crl` is not looked at, because `revocation` is \"off\""]
        );
        let aged = |text: &str| text.replace("[listen]", "[listen]\ncrl_max_age = \"7d\"");
        let listen = compile(&aged(GATEWAY), &[("r", ROUTE)]).unwrap().policy.listen;
        assert_eq!(listen.unwrap().crl_max_age, Some(7 * DAY));
        let off = findings(&aged(&text), &[("r", ROUTE)]);
        assert_eq!(off, ["`crl_max_age`, but no revocation list is looked at"]);
        let neither = GATEWAY.replace(crl, "").replace(ca, "");
        assert!(compile(&neither, &[("r", ROUTE)]).unwrap().policy.listen.unwrap().clients.is_none());
    }

    #[test]
    fn the_same_secret_in_two_keys_is_an_error_that_shows_both() {
        let text = format!(
            "{GATEWAY}\n[keys.other]\nscheme = \"rfc9421\"\nsecrets = [\"secrets/other\", \"secrets/jenkins\"]"
        );
        let found = compile(&text, &[("r", ROUTE)]).unwrap_err();
        assert_eq!(
            found.messages().collect::<Vec<_>>(),
            ["the keys `jenkins` and `other` have the same secret"]
        );
        let shown = found.to_string();
        assert!(shown.contains("secrets = [\"secrets/jenkins\"]") && shown.contains("first here"), "{shown}");
        assert!(!shown.contains("0123456789abcdef"), "I8: {shown}");
        let twice = GATEWAY.replace("[\"secrets/jenkins\"]", "[\"secrets/jenkins\", \"secrets/other\"]");
        assert_eq!(findings(&twice, &[("r", ROUTE)]), [""; 0]);
    }

    #[test]
    fn names_of_keys_are_checked_and_one_bad_key_hides_no_other() {
        let text = format!(
            "{GATEWAY}\n[keys.\"a b\"]\nsecrets = []\nwindow = \"0s\"\n[keys.c]\nscheme = \"x\"\nsecret = 1"
        );
        assert_eq!(
            findings(&text, &[("r", ROUTE)]),
            [
                "`scheme` is missing in `[keys.a b]`",
                "`a b` is not the name of a key: a key's name is made of letters, digits, `_`, `-` and `.`, and starts with a letter or digit",
                "`secrets`: a list of at least one; leave the key out if it is not meant",
                "`window`: a duration longer than nothing",
                "`secrets` is missing in `[keys.c]`",
                "`scheme`: `x` is not one of its values",
                "unknown key `secret` in `[keys.c]`",
            ]
        );
    }
}
