//! A site of its own for each test: a CA, certificates, keys, a policy directory, and the running gateway.
//! Requests are raw bytes over TLS, signed by code that shares nothing with the program's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bridgeward::domain::extension::Oid;
use bridgeward::trust::mint::{Authority, Issued, Validity};
use hmac::{Hmac, KeyInit, Mac};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_bridgeward");
/// Longest that anything in these tests is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const WALL: &str = "You shall not pass!";

/// A policy directory with its certificates and secrets.
pub struct Site {
    pub dir: TempDir,
    pub ca: Authority,
    pub ca_pem: String,
}

impl Site {
    /// A site whose gateway listens on a free port, with the key `jenkins`.
    pub fn new() -> Self {
        Self::with_limits("")
    }

    /// The same, with these lines under `[limits]`.
    pub fn with_limits(limits: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bridgeward-test-").tempdir().unwrap();
        let ca = Authority::new("Test CA", days(30)).unwrap();
        let ca_pem = ca.pem();
        let site = Self { dir, ca, ca_pem };
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "gateway.example.com".to_owned()];
        let server = site.ca.issue_server(&names, days(30)).unwrap();
        site.write("server.pem", &server.certificate, 0o644);
        site.write("server.key", &server.key, 0o600);
        site.write("ca.pem", &site.ca_pem, 0o644);
        site.write("crl.pem", &site.ca.crl(&[], days(30)).unwrap(), 0o644);
        site.secret("jenkins.secret", "jenkins-secret-of-thirty-two-bytes-or-more");
        site.secret("jenkins.next", "the-next-secret-of-jenkins-is-another-one");
        fs::create_dir(site.path("routes")).unwrap();
        site.write(
            "gateway.toml",
            &format!(
                "[listen]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n\
                 client_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\n\
                 [queue]\nfile = \"queue.db\"\n[audit]\nfile = \"audit.jsonl\"\n\
                 [limits]\n{limits}\n\
                 [keys.jenkins]\nscheme = \"rfc9421\"\nsecrets = [\"jenkins.secret\", \"jenkins.next\"]\n"
            ),
            0o644,
        );
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn secret(&self, name: &str, secret: &str) {
        self.write(name, &format!("{secret}\n"), 0o600);
    }

    /// Adds lines to gateway.toml.
    pub fn configure(&self, lines: &str) {
        let text = fs::read_to_string(self.path("gateway.toml")).unwrap();
        self.write("gateway.toml", &format!("{text}\n{lines}\n"), 0o644);
    }

    pub fn route(&self, name: &str, text: &str) {
        self.write(&format!("routes/{name}.toml"), text, 0o644);
    }

    /// A program that appends a line of its arguments to `file`, after `before`, in `sh`.
    pub fn program(&self, name: &str, script: &str) -> String {
        self.write(name, &format!("#!/bin/sh\n{script}\n"), 0o755);
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn node(&self, certname: &str, extensions: &[(&str, &str)]) -> Issued {
        let extensions: BTreeMap<Oid, String> =
            extensions.iter().map(|(name, value)| (Oid::parse(name).unwrap(), (*value).to_owned())).collect();
        self.ca.issue_client(certname, &extensions, days(30)).unwrap()
    }

    /// Starts the gateway and waits until it listens.
    pub fn serve(&self) -> Running {
        self.try_serve().unwrap_or_else(|log| panic!("the gateway did not start:\n{log}"))
    }

    /// Starts the gateway; what it wrote when it ended instead.
    pub fn try_serve(&self) -> Result<Running, String> {
        self.try_serve_by(Command::new(BINARY))
    }

    /// Starts the gateway by a command that ends in the binary.
    pub fn serve_by(&self, command: Command) -> Running {
        self.try_serve_by(command).unwrap_or_else(|log| panic!("the gateway did not start:\n{log}"))
    }

    fn try_serve_by(&self, mut command: Command) -> Result<Running, String> {
        command.args(["serve", "--log-format", "json", "--policy"]).arg(self.dir.path());
        self.try_start(command)
    }

    /// Starts a gateway by its whole command, and waits until it listens.
    pub fn try_start(&self, command: Command) -> Result<Running, String> {
        let (child, log, line) = launch(command, "listening")?;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = line["address"].as_str().unwrap().parse().unwrap();
        Ok(Running { child, address, log, ca_pem: self.ca_pem.clone() })
    }
}

/// Starts a process that logs JSON, and waits until its log says so; what it wrote when it ended instead.
pub fn launch(mut command: Command, ready: &str) -> Result<(Child, Arc<Log>, String), String> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Arc::new(Log::default());
    let stderr = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn({
        let log = Arc::clone(&log);
        move || {
            for line in stderr.lines() {
                log.push(Some(line.unwrap_or_default()));
            }
            log.push(None);
        }
    });
    let Some(line) = log.wait_for(|line| line.contains(&format!("\"message\":\"{ready}\""))) else {
        child.wait().unwrap();
        return Err(log.text());
    };
    Ok((child, log, line))
}

pub fn days(days: u32) -> Validity {
    Validity::days(now(), days)
}

pub fn now() -> jiff::Timestamp {
    SystemTime::now().try_into().unwrap()
}

#[derive(Default)]
pub struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    fn push(&self, line: Option<String>) {
        let mut lines = self.lines.lock().unwrap();
        match line {
            Some(line) => lines.0.push(line),
            None => lines.1 = true,
        }
        self.changed.notify_all();
    }

    /// The first line that is wanted, or `None` when the log has ended without it.
    pub fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| wanted(line)) {
                return Some(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return None;
            }
            lines = self.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn text(&self) -> String {
        self.lines.lock().unwrap().0.join("\n")
    }
}

/// A gateway that runs; it is killed when dropped.
pub struct Running {
    pub child: Child,
    pub address: SocketAddr,
    pub log: Arc<Log>,
    ca_pem: String,
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and the end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        // The log's end is the process's end, or a moment before.
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the gateway does not end:\n{}", self.log.text());
            std::thread::yield_now();
        }
        self.child.wait().unwrap()
    }

    /// A connection from this address of the loopback network, nothing said on it.
    pub fn socket_from(&self, local: [u8; 4]) -> TcpStream {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&descriptor, &SocketAddr::from((local, 0))).unwrap();
        connect(&descriptor, &self.address).unwrap();
        descriptor.into()
    }

    pub fn connect(&self) -> Tls {
        self.try_connect(None).unwrap()
    }

    pub fn connect_as(&self, who: &Issued) -> Tls {
        self.try_connect(Some(who)).unwrap()
    }

    pub fn try_connect(&self, who: Option<&Issued>) -> std::io::Result<Tls> {
        Tls::connect(self.address, &self.ca_pem, who)
    }

    /// One request on a connection of its own.
    pub fn send(&self, request: &str) -> Response {
        self.connect().ask(request)
    }

    pub fn send_as(&self, who: &Issued, request: &str) -> Response {
        self.connect_as(who).ask(request)
    }

    pub fn get(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.authority())
    }

    /// A signed POST of `jenkins`, ready to be changed.
    pub fn post(&self, path: &str, body: &str) -> Signing {
        Signing::new("POST", &self.authority(), path, body)
    }

    /// Asks for a job until it has ended.
    pub fn ended(&self, location: &str) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.job(location);
            if !matches!(view["state"].as_str().unwrap(), "queued" | "running") {
                return view;
            }
            assert!(Instant::now() < deadline, "the job does not end: {view}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn job(&self, location: &str) -> serde_json::Value {
        let response = self.send(&Signing::new("GET", &self.authority(), location, "").request());
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A TLS connection that sends raw bytes.
pub struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Tls {
    pub fn connect(address: SocketAddr, ca_pem: &str, who: Option<&Issued>) -> std::io::Result<Self> {
        Self::connect_with(
            address,
            ca_pem,
            who.map(|issued| (issued.certificate.as_str(), issued.key.as_str())),
        )
    }

    /// With a chain and a key in PEM.
    pub fn connect_with(
        address: SocketAddr,
        ca_pem: &str,
        chain_and_key: Option<(&str, &str)>,
    ) -> std::io::Result<Self> {
        Self::greet(TcpStream::connect(address)?, &[], ca_pem, chain_and_key)
    }

    /// The same over a connection that is there, on which `before` is sent first.
    pub fn greet(
        mut socket: TcpStream,
        before: &[u8],
        ca_pem: &str,
        chain_and_key: Option<(&str, &str)>,
    ) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match chain_and_key {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                let key = provider.key_provider.load_private_key(key).unwrap();
                // Nothing is checked here: odd certificates are the server's to refuse.
                let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
                builder.with_client_cert_resolver(Arc::new(certified))
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(before)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self(stream))
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    pub fn ask(&mut self, request: &str) -> Response {
        self.write(request.as_bytes()).unwrap();
        self.read().unwrap()
    }

    /// Reads one response; what follows it stays unread only if the server sent nothing more.
    pub fn read(&mut self) -> std::io::Result<Response> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if self.0.read(&mut byte)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response { status, head, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        response.body = vec![0; length];
        self.0.read_exact(&mut response.body)?;
        Ok(response)
    }

    /// Reads the head of a response that has no body although it announces one.
    pub fn read_bodiless(&mut self) -> String {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            assert_eq!(self.0.read(&mut byte).unwrap(), 1);
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// Everything that still comes, up to the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => rest.extend_from_slice(&buffer[..count]),
                Err(error) => {
                    let waited = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(
                        !waited,
                        "the connection is still open after {:?}",
                        String::from_utf8_lossy(&rest)
                    );
                    break;
                }
            }
        }
        String::from_utf8(rest).unwrap()
    }

    pub fn read_exact(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact(buffer)
    }

    /// Whether the server has closed the connection, and sent nothing before that.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => {
                !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
        }
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn location(&self) -> String {
        self.header("location").unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    /// Everything but the `date` line.
    pub fn without_date(&self) -> String {
        let lines = self.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
        lines.collect::<Vec<_>>().join("\n") + &String::from_utf8_lossy(&self.body)
    }

    pub fn is_wall(&self) -> bool {
        self.status == 404 && self.text() == WALL
    }
}

/// A request that is signed by RFC 9421, each part of which a test may change before or after signing.
#[derive(Clone)]
pub struct Signing {
    pub method: String,
    pub authority: String,
    pub target: String,
    pub body: String,
    pub secret: String,
    pub key_id: String,
    pub created: i64,
    pub nonce: String,
    /// Further headers: name, value, whether it is covered.
    pub headers: Vec<(String, String, bool)>,
    /// Lines put in after signing.
    pub unsigned: String,
}

impl Signing {
    pub fn new(method: &str, authority: &str, target: &str, body: &str) -> Self {
        Self {
            method: method.to_owned(),
            authority: authority.to_owned(),
            target: target.to_owned(),
            body: body.to_owned(),
            secret: "jenkins-secret-of-thirty-two-bytes-or-more".to_owned(),
            key_id: "jenkins".to_owned(),
            created: now().as_second(),
            nonce: fresh_nonce(),
            headers: Vec::new(),
            unsigned: String::new(),
        }
    }

    pub fn header(mut self, name: &str, value: &str, covered: bool) -> Self {
        self.headers.push((name.to_owned(), value.to_owned(), covered));
        self
    }

    /// The signature's own header lines.
    pub fn signature_lines(&self) -> String {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let mut lines = String::new();
        let mut base = String::new();
        let mut covered = Vec::new();
        let mut cover = |name: &str, value: &str| {
            writeln!(base, "\"{name}\": {value}").unwrap();
            covered.push(format!("\"{name}\""));
        };
        cover("@method", &self.method);
        cover("@authority", &self.authority);
        cover("@path", path);
        if let Some(query) = query {
            cover("@query", &format!("?{query}"));
        }
        if !self.body.is_empty() {
            let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&self.body)));
            cover("content-digest", &digest);
            write!(lines, "content-digest: {digest}\r\n").unwrap();
        }
        for (name, value, is_covered) in &self.headers {
            if *is_covered {
                cover(name, value);
            }
        }
        let parameters = format!(
            "({});created={};keyid=\"{}\";nonce=\"{}\";alg=\"hmac-sha256\"",
            covered.join(" "),
            self.created,
            self.key_id,
            self.nonce
        );
        write!(base, "\"@signature-params\": {parameters}").unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).unwrap();
        mac.update(base.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        write!(lines, "signature-input: sig={parameters}\r\nsignature: sig=:{signature}:\r\n").unwrap();
        lines
    }

    pub fn request(&self) -> String {
        let mut lines = String::new();
        for (name, value, _) in &self.headers {
            write!(lines, "{name}: {value}\r\n").unwrap();
        }
        if !self.body.is_empty() {
            write!(lines, "content-length: {}\r\n", self.body.len()).unwrap();
        }
        format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n{lines}{}{}\r\n{}",
            self.method,
            self.target,
            self.authority,
            self.signature_lines(),
            self.unsigned,
            self.body
        )
    }
}

pub fn fresh_nonce() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Runs the binary to its end.
pub fn bridgeward(arguments: &[&str]) -> std::process::Output {
    Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Waits until a file has as many lines.
pub fn wait_for_lines(path: &Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < deadline, "{} has {} of {count} lines", path.display(), lines.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One request to the operators' socket: status and body.
pub fn ask_socket(socket: &Path, method: &str, path: &str) -> (u16, serde_json::Value) {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| serde_json::json!(body)))
}
