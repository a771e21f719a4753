//! Invariant I2, in the large: a sequence of requests, sent to one path after the other, gets the same bytes from each,
//! `date` left out, whether there is something at the path or not.

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/deploy\"\n[[allow]]\nkey = [\"jenkins\"]\n[[allow]]\n\
                     certname = [\"node.example.com\"]\n[parameters]\n\
                     role = { from = \"body:/role\", pattern = \"[a-z]+\" }\n[run]\nsteps = [[\"/bin/echo\", \"{role}\"]]\n";

const METHODS: [&str; 12] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "post",
    "BREW-COFFEE",
];
const CONTENT_TYPES: [&str; 4] = [
    "",
    "content-type: application/json\r\n",
    "content-type: text/plain\r\n",
    "content-type: multipart/form-data\r\n",
];
/// Lines of the head, and the body.
const BODIES: [(&str, &str); 5] = [
    ("", ""),
    ("content-length: 0\r\n", ""),
    ("content-length: 14\r\n", "{\"role\":\"web\"}"),
    ("transfer-encoding: chunked\r\n", "e\r\n{\"role\": NULL}\r\n0\r\n\r\n"),
    // More than `limits.body`, and more than there is.
    ("content-length: 999999999999\r\n", ""),
];

/// Each with each; of HTTP/1.0, which closes after each answer and knows no encoding, the plain ones.
fn variants() -> Vec<(&'static str, &'static str, (&'static str, &'static str), &'static str)> {
    let mut variants = Vec::new();
    for method in METHODS {
        for body in BODIES {
            for expect in ["", "expect: 100-continue\r\n"] {
                variants.push((method, "1.1", body, expect));
            }
        }
        variants.extend([(method, "1.0", BODIES[0], ""), (method, "1.0", BODIES[2], "")]);
    }
    variants.push(("POST", "1.1", BODIES[2], "expect: tea\r\n"));
    variants
}

/// Who asks: what they add to the head; the rest is the certificate's.
fn signatures(gateway: &Running) -> Vec<(&'static str, String)> {
    let signed = |change: fn(&mut Signing)| {
        let mut signing = Signing::new("POST", &gateway.authority(), "/deploy", "");
        change(&mut signing);
        signing.signature_lines()
    };
    vec![
        ("nothing", String::new()),
        ("a signature for something else", signed(|signing| signing.target = "/other".into())),
        ("a wrong secret", signed(|signing| signing.secret = "not the secret of anybody here".into())),
        ("an unknown key", signed(|signing| signing.key_id = "nobody".into())),
        ("no structured field", "signature-input: (\r\nsignature: (\r\n".to_owned()),
        ("half a signature", "signature: sig=:AAAA:\r\n".to_owned()),
    ]
}

/// All answers to all requests for one path.
fn ask_all(gateway: &Running, connect: &dyn Fn() -> Tls, signature: &str, path: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut tls = connect();
    for (number, (method, version, (lines, body), expect)) in variants().into_iter().enumerate() {
        let content_type = CONTENT_TYPES[number % CONTENT_TYPES.len()];
        let request = format!(
            "{method} {path} HTTP/{version}\r\nhost: {}\r\n{content_type}{signature}{lines}{expect}\r\n{body}",
            gateway.authority()
        );
        tls.write(request.as_bytes()).unwrap();
        let mut answer = tls.read_bodiless();
        if answer.starts_with("HTTP/1.1 100") {
            answer += &tls.read_bodiless();
        }
        if method != "HEAD" {
            let mut body = [0; WALL.len()];
            tls.read_exact(&mut body).unwrap();
            answer += std::str::from_utf8(&body).unwrap();
        }
        if version == "1.0" || answer.contains("connection: close\r\n") {
            answer += &tls.rest();
            tls = connect();
        }
        let kept = answer.split("\r\n").filter(|line| !line.starts_with("date: "));
        seen.push(format!("{request:?}\n{}", kept.collect::<Vec<_>>().join("\n")).replace(path, "PATH"));
    }
    seen
}

#[test]
fn i2_no_path_is_told_from_another_by_whatever_is_sent() {
    let site = Site::with_limits(
        "body = \"1KiB\"\nrequests_per_source = \"1000000/s\"\nrequests_per_identity = \"1000000/s\"",
    );
    site.route("deploy", ROUTE);
    let gateway = site.serve();
    let node = site.node("node.example.com", &[]);
    let accepted = gateway.send_as(
        &node,
        "POST /deploy HTTP/1.1\r\nhost: localhost\r\ncontent-length: 14\r\n\r\n{\"role\":\"web\"}",
    );
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let job = accepted.location();
    let paths = ["/deploy", "/deplox", &job, "/-/jobs/00000000-0000-7000-8000-000000000000", "/-/jobs/x/y"];
    let other = site.node("other.example.com", &[]);
    let anonymous = || gateway.connect();
    let certified = || gateway.connect_as(&other);
    let callers: [&(dyn Fn() -> Tls + Sync); 2] = [&anonymous, &certified];
    for (number, (who, signature)) in signatures(&gateway).into_iter().enumerate() {
        // Beside a certificate that is not allowed, a few of them are enough.
        for connect in callers.into_iter().take(if number % 2 == 0 { 2 } else { 1 }) {
            let seen: Vec<Vec<String>> = std::thread::scope(|scope| {
                let ask = |path| {
                    let (gateway, signature) = (&gateway, &signature);
                    scope.spawn(move || ask_all(gateway, connect, signature, path))
                };
                let asking: Vec<_> = paths.into_iter().map(ask).collect();
                asking.into_iter().map(|asked| asked.join().unwrap()).collect()
            });
            for (path, answers) in paths.iter().zip(&seen) {
                assert_eq!(answers.len(), seen[0].len());
                for (answer, expected) in answers.iter().zip(&seen[0]) {
                    assert!(answer.contains("404 Not Found"), "{who}, {path}: {answer}");
                    assert_eq!(answer, expected, "{who}, {path}");
                }
            }
        }
    }
}
