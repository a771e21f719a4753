//! What a refusal costs over TLS keep-alive, beside the smallest server that the gateway's libraries make; and what it costs
//! to read along, more strictly, with the HTTP library. Run by `cargo bench --bench refusals`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a benchmark fails by panicking, prints, starts the program, and reads the real clock"
)]

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use bridgeward::listener::{Verdict, converse};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

#[path = "load/cpu.rs"]
mod cpu;
#[path = "load/figures.rs"]
mod figures;
#[path = "load/minimal.rs"]
mod minimal;
#[path = "load/report.rs"]
mod report;
#[path = "load/sender.rs"]
mod sender;
#[path = "load/site.rs"]
mod site;

use minimal::Minimal;
use sender::Target;
use site::Site;

const SENDERS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(2);
/// Pairs of measurements, one after the other, of which the middle ones are shown.
const PAIRS: usize = 5;
/// Requests that are read in one go, without a network.
const READ: usize = 20_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == minimal::ROLE) {
        return minimal::serve(&arguments[at + 1], &arguments[at + 2]);
    }
    let site = Site::new("connections_per_source = 1000");
    let gateway = site.serve();
    let least = Minimal::start(&site.path("server.pem"), &site.path("server.key"));
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..PAIRS {
        theirs.push(refusals(&site, least.address, least.child.id()));
        ours.push(refusals(&site, gateway.address, gateway.child.id()));
    }
    let (rate, cpu) = (middle(&ours, |one| one.rate), middle(&ours, |one| one.cpu));
    let [p50, p99] = [middle(&ours, |one| one.p50.as_secs_f64()), middle(&ours, |one| one.p99.as_secs_f64())]
        .map(|seconds| figures::ms(Duration::from_secs_f64(seconds)));
    let (least_rate, least_cpu) = (middle(&theirs, |one| one.rate), middle(&theirs, |one| one.cpu));

    let get = "GET /kick_haproxy_app_internal HTTP/1.1\r\nHost: gateway.example.com:8443\r\nUser-Agent: curl/7.88.1\r\n\
               Accept: */*\r\n\r\n";
    let lines: String = (0..10).map(|line| format!("X-Header-{line}: {}\r\n", "v".repeat(60))).collect();
    let post = format!(
        "POST /promote HTTP/1.1\r\nHost: gateway.example.com:8443\r\n{lines}Content-Length: 300\r\n\r\n{}",
        "x".repeat(300)
    );
    let chunk = "64\r\n".to_owned() + &"x".repeat(100) + "\r\n";
    let chunked = format!(
        "POST /promote HTTP/1.1\r\nHost: gateway.example.com:8443\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    let whole = |text: &str| per_request(&text.repeat(READ), READ, usize::MAX);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "y".repeat(16_000));
    let shown =
        |(alone, strict): (Duration, Duration)| format!("{} + {} ns", alone.as_nanos(), strict.as_nanos());
    report::table(
        "refusals: 64 strangers over TLS keep-alive, beside the smallest server",
        &[
            ("the smallest server", format!("{least_rate:.0}/s")),
            ("  CPU time, each", us(least_cpu)),
            ("the gateway", format!("{rate:.0}/s ({:.2} x)", rate / least_rate)),
            ("  CPU time, each", us(cpu)),
            ("  p50", p50),
            ("  p99", p99),
            ("reading without a network: hyper, and the strict reader", String::new()),
            ("  a plain GET", shown(whole(get))),
            ("  a POST with ten headers and 300 bytes", shown(whole(&post))),
            ("  a POST with three chunks of 100 bytes", shown(whole(&chunked))),
            ("  a head of 16 KB, whole", shown(per_request(&head.repeat(500), 500, usize::MAX))),
            ("  a head of 16 KB, byte by byte", shown(per_request(&head.repeat(10), 10, 1))),
        ],
    );
}

struct Refusals {
    rate: f64,
    /// What each cost the server, in seconds.
    cpu: f64,
    p50: Duration,
    p99: Duration,
}

/// Seconds in microseconds.
fn us(seconds: f64) -> String {
    format!("{:.1} µs", seconds * 1e6)
}

fn middle(all: &[Refusals], figure: impl Fn(&Refusals) -> f64) -> f64 {
    let mut figures: Vec<f64> = all.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn refusals(site: &Site, address: SocketAddr, pid: u32) -> Refusals {
    let target = Target::new(address, &site.ca, None);
    sender::runtime().block_on(tokio::task::LocalSet::new().run_until(async {
        let measured_from = Instant::now() + WARM_UP;
        let until = measured_from + MEASURED;
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let target = target.clone();
                tokio::task::spawn_local(async move {
                    let mut sender = target.connect().await;
                    let mut times = Vec::new();
                    while Instant::now() < until {
                        let request = Request::get("/nothing").body(Full::default()).unwrap();
                        let (status, took) = sender.ask(request).await;
                        assert_eq!(status, StatusCode::NOT_FOUND);
                        if Instant::now() >= measured_from {
                            times.push(took);
                        }
                    }
                    times
                })
            })
            .collect();
        tokio::time::sleep_until(measured_from.into()).await;
        let before = cpu::of(pid);
        let mut times = Vec::new();
        for sender in senders {
            times.extend(sender.await.unwrap());
        }
        let spent = cpu::of(pid).saturating_sub(before);
        let rate = figures::rate(times.len(), MEASURED);
        Refusals {
            rate,
            cpu: spent.as_secs_f64() / (rate * MEASURED.as_secs_f64()),
            p50: figures::percentile(&mut times, 0.5),
            p99: figures::percentile(&mut times, 0.99),
        }
    }))
}

/// What one of `count` requests costs the HTTP library alone, and what reading along adds; the middle of a few pairs.
fn per_request(text: &str, count: usize, at_once: usize) -> (Duration, Duration) {
    let runtime = sender::runtime();
    let answered = Cell::new(0);
    let answer = |request: Request<Incoming>| {
        answered.set(answered.get() + 1);
        refuse(request)
    };
    let mut pairs: Vec<(Duration, Duration)> = (0..PAIRS)
        .map(|_| {
            let stream = || tokio::io::join(Pieces { left: text.as_bytes(), at_once }, tokio::io::sink());
            let began = Instant::now();
            // As `converse` does it, but for its reader.
            let mut builder = http1::Builder::new();
            builder
                .max_headers(64)
                .max_header_size(16 << 10)
                .max_buf_size(16 << 10)
                .header_read_timeout(None);
            let alone = builder.serve_connection(TokioIo::new(stream()), service_fn(&answer));
            // It may call the end behind the last body an early one.
            let _ = runtime.block_on(alone);
            let alone = began.elapsed();
            let began = Instant::now();
            let verdict = Verdict::default();
            let _ = runtime.block_on(converse(stream(), service_fn(&answer), verdict.clone()));
            let both = began.elapsed();
            assert_eq!(verdict.of(&Ok(())), None);
            assert_eq!(answered.take(), 2 * count, "as many by each");
            (alone, both)
        })
        .collect();
    pairs.sort_by_key(|(alone, both)| both.saturating_sub(*alone));
    let (alone, both) = pairs[PAIRS / 2];
    let count = u32::try_from(count).unwrap();
    (alone / count, both.saturating_sub(alone) / count)
}

async fn refuse(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Body::from("You shall not pass!"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    Ok(response)
}

/// Bytes that arrive a few at a time.
struct Pieces<'a> {
    left: &'a [u8],
    at_once: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = self.left.len().min(self.at_once).min(buffer.remaining());
        let (now, later) = self.left.split_at(count);
        buffer.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}
