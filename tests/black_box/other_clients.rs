//! Requests by programs that are not ours: curl and `openssl s_client`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::*;

const ROUTES: &str = "method = \"@\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[[allow]]\ncertname = [\"node.example.com\"]\n[run]\nsteps = [[\"/bin/echo\", \"hello\"]]\nrespond = \"result\"\n";

fn site() -> Site {
    let site = Site::new();
    site.route("get", &ROUTES.replace('@', "GET"));
    site.route("post", &ROUTES.replace('@', "POST"));
    site
}

fn curl(site: &Site, arguments: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--cacert"])
        .arg(site.path("ca.pem"))
        .args(arguments)
        .output()
        .expect("curl is needed: tests/run installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), format!("{body}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn curl_with_a_certificate() {
    let site = site();
    let node = site.node("node.example.com", &[]);
    site.write("node.pem", &node.certificate, 0o644);
    site.write("node.key", &node.key, 0o600);
    let gateway = site.serve();
    let [certificate, key] =
        ["node.pem", "node.key"].map(|name| site.path(name).to_str().unwrap().to_owned());
    for tls in ["--tlsv1.3", "--tls-max=1.2"] {
        let flags: Vec<&str> = match tls {
            "--tlsv1.3" => vec!["--tlsv1.3"],
            _ => vec!["--tls-max", "1.2"],
        };
        let url = gateway.url("/x");
        let mut arguments = vec!["--cert", &certificate, "--key", &key, &url];
        arguments.extend(flags);
        let (status, body) = curl(&site, &arguments);
        assert_eq!(status, 200, "{tls}: {body}");
        assert!(body.contains("hello"), "{body}");
    }
    let (status, body) = curl(&site, &[&gateway.url("/y")]);
    assert_eq!((status, body.as_str()), (404, WALL));
}

#[test]
fn curl_with_headers_that_sign_printed() {
    let site = site();
    let gateway = site.serve();
    let secret = site.path("jenkins.secret");
    let url = gateway.url("/x?a=b");
    let body = site.path("body");
    std::fs::write(&body, "{\"any\": \"thing\"}\n").unwrap();
    let data = format!("@{}", body.display());
    let signed = bridgeward(&[
        "sign",
        "--key",
        "jenkins",
        "--secret",
        secret.to_str().unwrap(),
        "--data",
        &data,
        &url,
    ]);
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    let headers = site.path("headers");
    std::fs::write(&headers, &signed.stdout).unwrap();
    let header = format!("@{}", headers.display());
    let (status, answer) = curl(&site, &["--header", &header, "--data-binary", &data, &url]);
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = curl(&site, &["--header", &header, "--data-binary", "another body", &url]);
    assert_eq!((status, answer.as_str()), (404, WALL));
}

#[test]
fn openssl_s_client_is_answered_and_gets_no_ticket() {
    let site = site();
    let gateway = site.serve();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-ign_eof", "-verify_return_error", "-alpn", "http/1.1", "-connect"])
        .arg(gateway.authority())
        .arg("-CAfile")
        .arg(site.path("ca.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is needed: tests/run installs it");
    let request = "GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    client.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.starts_with("HTTP/1.1 404 Not Found") && answer.ends_with(WALL), "{answer}");

    // Without -quiet it tells of every session ticket, and whether ALPN was agreed on.
    for (version, alpn, agreed) in
        [("-tls1_3", "http/1.1", true), ("-tls1_2", "http/1.1", true), ("-tls1_3", "h2", false)]
    {
        let output = Command::new("openssl")
            .args(["s_client", version, "-alpn", alpn, "-connect"])
            .arg(gateway.authority())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(told.contains("ALPN protocol: http/1.1"), agreed, "{version} {alpn}: {told}");
        assert!(!told.contains("New Session Ticket") && !told.contains("TLS session ticket:"), "{told}");
    }
    let old = Command::new("openssl")
        .args(["s_client", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-connect"])
        .arg(gateway.authority())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!old.status.success(), "TLS 1.1 was accepted");
}
