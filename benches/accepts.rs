//! Durable accepts a second from 64 signed senders over TLS, beside the rate at which the same file system completes
//! `fdatasync`. Run by `cargo bench --bench accepts`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a benchmark fails by panicking, prints, starts the program, and reads the real clock"
)]

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[path = "load/cpu.rs"]
mod cpu;
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

use sender::Target;
use signing::Key;
use site::Site;

const SENDERS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);
/// Requests that each sender has ready when it begins.
const PRESIGNED: usize = 2000;
const BODY: &str = r#"{"environment":"production","role":"haproxy_app_internal","version":"1.2.3"}"#;

fn main() {
    let site = Site::new("");
    let route = |held: &str| {
        format!(
            "method = \"POST\"\npath = \"/promote\"\n[[allow]]\nkey = [\"jenkins\"]\n\
             [parameters]\nenvironment = {{ from = \"body:/environment\", one_of = [\"production\"] }}\n\
             role = {{ from = \"body:/role\", pattern = \"[a-z][a-z0-9_]{{0,62}}\" }}\n\
             version = {{ from = \"body:/version\", pattern = \"\\\\d+\\\\.\\\\d+\\\\.\\\\d+\" }}\n\
             [run]\nsteps = [[\"/bin/true\", \"{{role}}\", \"{{version}}\"]]\n{held}\n"
        )
    };
    let held = format!("wait_while_exists = \"{}\"", site.path("gateway.toml").display());
    site.write("routes/promote.toml", &route(&held), 0o644);
    let before = fdatasyncs(&site);
    let waiting = accepts(&site);
    let after = fdatasyncs(&site);
    site.write("routes/promote.toml", &route("expires = \"10m\""), 0o644);
    let _ = std::fs::remove_file(site.path("queue.db"));
    let running = accepts(&site);

    let fdatasync = f64::midpoint(before, after);
    let shown = |accepts: f64| format!("{accepts:.0}/s ({:.1} x)", accepts / fdatasync);
    report::table(
        "accepts: 64 signed senders over TLS keep-alive (aims: 4 x fdatasync, p99 15 ms)",
        &[
            ("append of 4 KiB and fdatasync, before", format!("{before:.0}/s")),
            ("append of 4 KiB and fdatasync, after", format!("{after:.0}/s")),
            ("durable accepts, jobs wait", shown(waiting.rate)),
            ("  p50", figures::ms(waiting.p50)),
            ("  p99", figures::ms(waiting.p99)),
            ("  CPU time of the gateway, each", format!("{} µs", waiting.cpu.as_micros())),
            ("durable accepts, jobs run one after the other", shown(running.rate)),
            ("  p50", figures::ms(running.p50)),
            ("  p99", figures::ms(running.p99)),
            ("  CPU time of the gateway, each", format!("{} µs", running.cpu.as_micros())),
        ],
    );
}

struct Accepts {
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// What each cost the gateway.
    cpu: Duration,
}

fn accepts(site: &Site) -> Accepts {
    let gateway = site.serve();
    let target = Target::new(gateway.address, &site.ca, None);
    sender::runtime().block_on(tokio::task::LocalSet::new().run_until(async {
        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            senders.push((target.connect().await, VecDeque::new()));
        }
        // Signed beforehand, in the order in which they go: what signing costs must not slow the gateway beside it.
        let key = Rc::new(Key::jenkins());
        for _ in 0..PRESIGNED {
            for (sender, signed) in &mut senders {
                signed.push_back(key.post(&sender.authority, "/promote", BODY));
            }
        }
        let measured_from = Instant::now() + WARM_UP;
        let until = measured_from + MEASURED;
        let senders = senders.into_iter().map(|(mut sender, mut signed)| {
            let key = Rc::clone(&key);
            tokio::task::spawn_local(async move {
                let mut times = Vec::new();
                let mut all = 0;
                while Instant::now() < until {
                    let request = signed.pop_front();
                    let request = request.unwrap_or_else(|| key.post(&sender.authority, "/promote", BODY));
                    let asked = Instant::now();
                    let (status, took) = sender.ask(request).await;
                    assert_eq!(status, 202);
                    all += 1;
                    if asked >= measured_from && asked + took < until {
                        times.push(took);
                    }
                }
                (times, all)
            })
        });
        let senders: Vec<_> = senders.collect();
        let (mut times, mut all) = (Vec::new(), 0);
        for sender in senders {
            let (its_times, its_all) = sender.await.unwrap();
            times.extend(its_times);
            all += its_all;
        }
        let rate = figures::rate(times.len(), MEASURED);
        Accepts {
            rate,
            p50: figures::percentile(&mut times, 0.5),
            p99: figures::percentile(&mut times, 0.99),
            cpu: cpu::of(gateway.child.id()) / all,
        }
    }))
}

/// How many appends of a page the file system makes durable in a second, one after the other.
fn fdatasyncs(site: &Site) -> f64 {
    let mut file = OpenOptions::new().create(true).append(true).open(site.path("fdatasync")).unwrap();
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < Duration::from_secs(2) {
        file.write_all(&[0x55; 4096]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    figures::rate(count, began.elapsed())
}
