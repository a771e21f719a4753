//! Requests that other people's code signed: their own libraries for Standard Webhooks, Stripe, Slack, GitHub and RFC 9421,
//! and openssl for the rest. `tests/run` installs them below `target/foreign`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::*;

const BODY: &str = r#"{"n": 1}"#;

/// One sender: the lines of its key, and its secret as the sender knows it.
#[derive(Clone, Copy)]
struct Sender {
    name: &'static str,
    scheme: &'static str,
    key: &'static str,
    secret: &'static str,
}

const SENDERS: [Sender; 12] = [
    sender("native", "rfc9421", "", "the native secret, which is long enough"),
    // `whsec_` and 32 bytes in base64.
    sender("webhooks", "standard-webhooks", "", "whsec_dGhlIHdlYmhvb2tzIHNlY3JldCwgb2YgMzIgYnl0ZXM="),
    sender("github", "github", "", "the secret of GitHub, which is long enough"),
    sender("bitbucket", "bitbucket", "", "the secret of Bitbucket, which is long enough"),
    sender("gitea", "gitea", "", "the secret of Gitea, which is long enough"),
    sender("forgejo", "forgejo", "", "the secret of Forgejo, which is long enough"),
    sender("stripe", "stripe", "", "whsec_the secret of Stripe, which is text"),
    sender("slack", "slack", "", "the secret of Slack, which is long enough"),
    sender("plain", "body-hmac", "header = \"X-Plain\"", "the secret of a plain HMAC, long enough"),
    sender(
        "wide",
        "body-hmac",
        "header = \"X-Wide\"\nprefix = \"v1:\"\nencoding = \"base64\"\ndigest = \"sha512\"",
        "the secret of a wide HMAC, long enough",
    ),
    sender(
        "old",
        "body-hmac",
        "header = \"X-Old\"\nprefix = \"sha1=\"\ndigest = \"sha1\"",
        "the secret of an old HMAC, long enough",
    ),
    sender("gitlab", "gitlab-token", "", "the token of GitLab, which is long enough"),
];

const fn sender(name: &'static str, scheme: &'static str, key: &'static str, secret: &'static str) -> Sender {
    Sender { name, scheme, key, secret }
}

/// What a sender is asked to sign.
#[derive(Clone)]
struct Message {
    sender: Sender,
    authority: String,
    target: String,
    body: String,
    time: i64,
    id: String,
}

type Headers = Vec<(String, String)>;

/// Signs all messages, each by the code of its scheme.
fn sign(messages: &[Message]) -> Vec<Headers> {
    let of = |schemes: &[&str]| -> Vec<Value> {
        let all = messages.iter().filter(|message| schemes.contains(&message.sender.scheme));
        all.map(|message| {
            json!({
                "scheme": message.sender.scheme, "key": message.sender.name, "secret": message.sender.secret,
                "method": "POST", "url": format!("https://{}{}", message.authority, message.target),
                "body": message.body, "time": message.time, "id": message.id,
            })
        })
        .collect()
    };
    let mut python = python(&of(&["rfc9421", "standard-webhooks", "stripe", "slack"])).into_iter();
    let mut node = node(&of(&["github", "bitbucket"])).into_iter();
    let signed = messages.iter().map(|message| match message.sender.scheme {
        "rfc9421" | "standard-webhooks" | "stripe" | "slack" => python.next().unwrap(),
        "github" | "bitbucket" => node.next().unwrap(),
        "gitlab-token" => vec![("X-Gitlab-Token".to_owned(), message.sender.secret.to_owned())],
        _ => {
            let openssl = |digest| openssl(digest, message.sender.secret, &message.body);
            let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let (header, value) = match message.sender.name {
                "gitea" => ("X-Gitea-Signature", hex(openssl("-sha256"))),
                "forgejo" => ("X-Forgejo-Signature", hex(openssl("-sha256"))),
                "plain" => ("X-Plain", hex(openssl("-sha256"))),
                "wide" => ("X-Wide", format!("v1:{}", STANDARD.encode(openssl("-sha512")))),
                "old" => ("X-Old", format!("sha1={}", hex(openssl("-sha1")))),
                other => panic!("{other}"),
            };
            vec![(header.to_owned(), value)]
        }
    });
    signed.collect()
}

/// Where `tests/run` has put a part.
pub fn installed(part: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/foreign").join(part);
    assert!(path.is_dir(), "{} is needed: tests/run installs it", path.display());
    path
}

fn python(messages: &[Value]) -> Vec<Headers> {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", installed("python"));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/sign.py"));
    headers(&told(command, &serde_json::to_vec(messages).unwrap()))
}

fn node(messages: &[Value]) -> Vec<Headers> {
    let mut command = Command::new("node");
    // Without a file of its own, the script finds its packages from the working directory.
    command.current_dir(installed("npm"));
    command.args(["--input-type=module", "--eval", include_str!("../foreign/sign.mjs")]);
    headers(&told(command, &serde_json::to_vec(messages).unwrap()))
}

fn headers(json: &[u8]) -> Vec<Headers> {
    let all: Vec<serde_json::Map<String, Value>> = serde_json::from_slice(json).unwrap();
    let text = |value: Value| value.as_str().unwrap().to_owned();
    all.into_iter().map(|one| one.into_iter().map(|(name, value)| (name, text(value))).collect()).collect()
}

fn openssl(digest: &str, secret: &str, body: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["dgst", digest, "-binary", "-hmac", secret]);
    told(command, body.as_bytes())
}

/// What a command answers to its input.
fn told(mut command: Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn site() -> Site {
    let site =
        Site::with_limits("requests_per_source = \"1000000/s\"\nbody = \"1MiB\"\nrefusals_logged = \"1/m\"");
    for Sender { name, scheme, key, secret } in SENDERS {
        site.secret(&format!("{name}.secret"), secret);
        site.configure(&format!(
            "[keys.{name}]\nscheme = \"{scheme}\"\nsecrets = [\"{name}.secret\"]\n{key}"
        ));
        site.route(
            name,
            &format!(
                "method = \"POST\"\npath = \"/{name}\"\n[[allow]]\nkey = [\"{name}\"]\n\
                 [parameters]\nn = {{ from = \"body:/n\", pattern = \"[0-9]+\" }}\n\
                 [run]\nsteps = [[\"/bin/echo\", \"{name}\", \"{{n}}\"]]\nrespond = \"result\"\n"
            ),
        );
    }
    site
}

fn message(gateway: &Running, sender: Sender, id: &str) -> Message {
    Message {
        sender,
        authority: gateway.authority(),
        target: format!("/{}", sender.name),
        body: BODY.to_owned(),
        time: now().as_second(),
        id: id.to_owned(),
    }
}

fn request(
    authority: &str,
    method: &str,
    target: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head =
        format!("{method} {target} HTTP/1.1\r\nhost: {authority}\r\n{lines}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A gateway's answers, over one connection as long as it stays open.
struct Asking<'g> {
    gateway: &'g Running,
    connection: Tls,
}

impl<'g> Asking<'g> {
    fn new(gateway: &'g Running) -> Self {
        Self { gateway, connection: gateway.connect() }
    }

    fn post(&mut self, target: &str, headers: &[(String, String)], body: &[u8]) -> Response {
        self.send("POST", target, headers, body)
    }

    fn send(&mut self, method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> Response {
        let request = request(&self.gateway.authority(), method, target, headers, body);
        self.connection.write(&request).unwrap();
        let response = self.connection.read().unwrap();
        if response.header("connection") == Some("close") {
            self.connection = self.gateway.connect();
        }
        response
    }

    fn meets_the_wall(&mut self, what: &str, target: &str, headers: &[(String, String)], body: &[u8]) {
        let response = self.post(target, headers, body);
        assert!(response.is_wall(), "{target}, {what}: {headers:?} {response:?}");
    }
}

#[test]
fn what_other_peoples_code_signs_is_accepted_and_its_repetition_recognised() {
    let site = site();
    let gateway = site.serve();
    let messages = SENDERS.map(|sender| message(&gateway, sender, "m1"));
    // The same once more, signed at another time; and a different one.
    let later = messages.clone().map(|message| Message { time: message.time + 7, ..message });
    let other = messages.clone().map(|message| Message {
        body: r#"{"n": 2}"#.to_owned(),
        id: "m2".to_owned(),
        ..message
    });
    let signed = sign(&[messages.clone(), later, other.clone()].concat());
    let mut asking = Asking::new(&gateway);
    for (at, Message { sender, target, body, .. }) in messages.iter().enumerate() {
        let first = asking.post(target, &signed[at], body.as_bytes());
        assert_eq!(first.status, 200, "{}: {first:?}", sender.name);
        assert_eq!(first.json()["steps"][0]["output"], format!("{} 1\n", sender.name));
        assert_eq!(first.json()["identity"], format!("key:{}", sender.name));
        for again in [at, at + SENDERS.len()] {
            let again = asking.post(target, &signed[again], body.as_bytes());
            assert_eq!((again.status, &again.json()["job"]), (200, &first.json()["job"]), "{}", sender.name);
        }
        let other = asking.post(target, &signed[at + 2 * SENDERS.len()], other[at].body.as_bytes());
        assert_eq!(other.status, 200, "{}: {other:?}", sender.name);
        assert_ne!(other.json()["job"], first.json()["job"], "{}", sender.name);
    }
}

#[test]
fn i2_whatever_is_changed_of_what_other_peoples_code_signed_is_the_wall() {
    let site = site();
    let gateway = site.serve();
    let messages = SENDERS.map(|sender| message(&gateway, sender, "m1"));
    let signed = sign(&messages);
    let mut asking = Asking::new(&gateway);
    for (Message { sender, target, body, .. }, headers) in messages.iter().zip(&signed) {
        for at in 0..headers.len() {
            let without = [&headers[..at], &headers[at + 1..]].concat();
            asking.meets_the_wall("a header missing", target, &without, body.as_bytes());
            let doubled = [&headers[..], &headers[at..=at]].concat();
            asking.meets_the_wall("a header doubled", target, &doubled, body.as_bytes());
            for bit in 0..8 * headers[at].1.len() {
                let mut value = headers[at].1.clone().into_bytes();
                value[bit / 8] ^= 1 << (bit % 8);
                // What no header can hold is malformed HTTP, and what stands at its ends is not part of it.
                let Ok(value) = String::from_utf8(value) else { continue };
                if value.trim() != value || value.contains(|letter: char| letter.is_control()) {
                    continue;
                }
                let mut changed = headers.clone();
                changed[at].1 = value;
                asking.meets_the_wall("a bit of a header", target, &changed, body.as_bytes());
            }
        }
        asking.meets_the_wall("no header", target, &[], body.as_bytes());
        asking.meets_the_wall("no body", target, headers, b"");
        // GitLab's token signs nothing, so that nothing but it can be wrong.
        if sender.scheme != "gitlab-token" {
            asking.meets_the_wall("a longer body", target, headers, format!("{body} ").as_bytes());
            for bit in 0..8 * body.len() {
                let mut changed = body.clone().into_bytes();
                changed[bit / 8] ^= 1 << (bit % 8);
                asking.meets_the_wall("a bit of the body", target, headers, &changed);
            }
        }
        if sender.scheme == "rfc9421" {
            asking.meets_the_wall("a query", &format!("{target}?a=b"), headers, body.as_bytes());
            asking.meets_the_wall("an empty query", &format!("{target}?"), headers, body.as_bytes());
        }
        let put = asking.send("PUT", target, headers, body.as_bytes());
        assert!(put.is_wall(), "{}: {put:?}", sender.name);
        // Another sender's good signature, alone.
        for (other, theirs) in messages.iter().zip(&signed).filter(|(other, _)| other.target != *target) {
            asking.meets_the_wall("another's signature", target, theirs, other.body.as_bytes());
        }
    }
    // None of all this ran anything.
    gateway.stop();
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    let started = audit.lines().filter(|line| line.contains("\"started\"")).count();
    assert_eq!(started, 0, "{audit}");
}

#[test]
fn i2_a_signature_of_another_secret_or_of_another_time_is_the_wall() {
    let site = site();
    let gateway = site.serve();
    let timed = ["rfc9421", "standard-webhooks", "stripe", "slack"];
    let mut messages = Vec::new();
    for sender in SENDERS {
        let message = message(&gateway, sender, "m1");
        let secret = if sender.scheme == "standard-webhooks" {
            "whsec_YW5vdGhlciB3ZWJob29rcyBzZWNyZXQgb2YgdGhlIHNhbWU="
        } else {
            "another secret, which is long enough, too"
        };
        messages.push(Message { sender: Sender { secret, ..sender }, ..message.clone() });
        if timed.contains(&sender.scheme) {
            for ahead in [-360, 360] {
                messages.push(Message { time: message.time + ahead, ..message.clone() });
            }
        }
    }
    assert_eq!(messages.len(), SENDERS.len() + 2 * timed.len());
    let mut asking = Asking::new(&gateway);
    for (Message { target, body, .. }, headers) in messages.iter().zip(sign(&messages)) {
        asking.meets_the_wall("secret or time", target, &headers, body.as_bytes());
    }
}
