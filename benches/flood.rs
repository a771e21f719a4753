//! What strangers cost a good client: how long it takes to be answered beside 500 slow ones, and how long after a flood of
//! connections from its own address has ended. Run by `cargo bench --bench flood`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a benchmark fails by panicking, prints, starts the program, and reads the real clock"
)]

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

#[path = "load/figures.rs"]
mod figures;
#[path = "load/report.rs"]
mod report;
#[path = "load/sender.rs"]
mod sender;
#[path = "load/signing.rs"]
mod signing;
#[path = "load/site.rs"]
mod site;

use sender::{Sender, Target};
use signing::Key;
use site::{Gateway, Site};

/// Of each kind: who never ends a handshake, and who never ends a head.
const SLOW: usize = 250;
/// Between two bytes of a slow one.
const TRICKLE: Duration = Duration::from_millis(100);
const REQUESTS: usize = 300;
/// Connections of a flood: more than have a place or may wait for one.
const FLOOD: usize = 2000;
const FLOODS: usize = 5;

const ROUTE: &str = "method = \"POST\"\npath = \"/run\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\n\
                     steps = [[\"/bin/true\"]]\ncoalesce = true\n";

fn main() {
    // This process holds the other ends.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let (mut alone, mut beside, mut kept_alive) = {
        let (site, gateway) = serve("connections_per_source = 4096\nhandshake = \"5m\"\nheaders = \"5m\"");
        let target = Target::new(gateway.address, &site.ca, None);
        run(async {
            let alone = answers(&target).await;
            let held = slow(&gateway, &target).await;
            let beside = answers(&target).await;
            let mut good = target.connect().await;
            let mut kept_alive = Vec::new();
            for _ in 0..REQUESTS {
                kept_alive.push(ask(&mut good).await);
            }
            assert!(held.iter().all(|slow| !slow.is_finished()), "a slow one was ended");
            (alone, beside, kept_alive)
        })
    };
    let mut after = {
        let (site, gateway) = serve("");
        let target = Target::new(gateway.address, &site.ca, None);
        run(async {
            let mut after = Vec::new();
            for _ in 0..FLOODS {
                after.push(after_flood(&gateway, &target).await);
            }
            after
        })
    };
    let rate = |times: &[Duration]| format!("{:.0}/s", figures::rate(times.len(), times.iter().sum()));
    report::table(
        "flood: a good client, with a handshake for each request (aims: 100 ms, 5 s)",
        &[
            ("alone, p50", figures::ms(figures::percentile(&mut alone, 0.5))),
            ("  p99", figures::ms(figures::percentile(&mut alone, 0.99))),
            ("  one after the other", rate(&alone)),
            ("beside 500 slow ones, p50", figures::ms(figures::percentile(&mut beside, 0.5))),
            ("  p99", figures::ms(figures::percentile(&mut beside, 0.99))),
            ("  one after the other", rate(&beside)),
            ("  p99 over one connection", figures::ms(figures::percentile(&mut kept_alive, 0.99))),
            (
                "after 2000 connections of its own address, middle",
                figures::ms(figures::percentile(&mut after, 0.5)),
            ),
            ("  slowest of five", figures::ms(figures::percentile(&mut after, 1.0))),
        ],
    );
}

fn serve(limits: &str) -> (Site, Gateway) {
    let site = Site::new(limits);
    site.write("routes/run.toml", ROUTE, 0o644);
    let gateway = site.serve();
    (site, gateway)
}

fn run<T>(measurement: impl Future<Output = T>) -> T {
    sender::runtime().block_on(LocalSet::new().run_until(measurement))
}

/// How long each of many requests takes, one after the other.
async fn answers(target: &Target) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let began = Instant::now();
        assert!(is_answered(target).await);
        times.push(began.elapsed());
    }
    times
}

/// Whether a connection is let in, and its request accepted.
async fn is_answered(target: &Target) -> bool {
    let Ok(stream) = target.greet().await else { return false };
    ask(&mut target.speak(stream).await).await;
    true
}

async fn ask(good: &mut Sender) -> Duration {
    let request = Key::jenkins().post(&good.authority, "/run", "{}");
    let (status, took) = good.ask(request).await;
    assert_eq!(status, 202);
    took
}

/// Starts those who never come to an end.
async fn slow(gateway: &Gateway, target: &Target) -> Vec<tokio::task::JoinHandle<()>> {
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut handshake = TcpStream::connect(gateway.address).await.unwrap();
        // The head of a record of 16 KiB.
        handshake.write_all(&[0x16, 3, 1, 0x40, 0]).await.unwrap();
        slow.push(tokio::task::spawn_local(trickle(handshake)));
        let mut head = target.greet().await.unwrap();
        head.write_all(b"POST /run HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
        slow.push(tokio::task::spawn_local(trickle(head)));
    }
    slow
}

/// Sends a byte now and then, as long as the other side lets it.
async fn trickle(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while stream.write_all(b"x").await.is_ok() {
        if tokio::time::timeout(TRICKLE, stream.read_u8()).await.is_ok() {
            return;
        }
    }
}

/// How long it takes, from the end of a flood of connections, until a client of the same address is answered.
async fn after_flood(gateway: &Gateway, target: &Target) -> Duration {
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        // One that has been turned away already is part of the flood, too.
        flood.push(TcpStream::connect(gateway.address).await);
    }
    drop(flood);
    let ended = Instant::now();
    while !is_answered(target).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ended.elapsed()
}
