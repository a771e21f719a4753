//! How quick the wall stays while 16 senders keep commands busy, and how many round trips with a command in them there are,
//! beside a bare `posix_spawn` loop. Run by `cargo bench --bench wall`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a benchmark fails by panicking, prints, starts programs, and reads the real clock"
)]

use std::process::Command;
use std::time::{Duration, Instant};

use axum::http::Request;
use http_body_util::Full;

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

const SENDERS: usize = 16;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);

fn main() {
    let before = spawns();
    let site = Site::new("waiting = 256");
    // As many at once as there are senders: none waits for another's lock.
    site.write(
        "routes/run.toml",
        &format!(
            "method = \"POST\"\npath = \"/run\"\n[[allow]]\nkey = [\"jenkins\"]\n\
             [run]\nsteps = [[\"/bin/true\"]]\nconcurrency = {SENDERS}\nrespond = \"result\"\n"
        ),
        0o644,
    );
    let gateway = site.serve();
    let target = Target::new(gateway.address, &site.ca, None);
    let idle = load(&target, 0);
    let busy = load(&target, SENDERS);
    let after = spawns();
    let spawn = f64::midpoint(before, after);
    let share = format!("{:.0}/s ({:.2} x)", busy.trips, busy.trips / spawn);
    report::table(
        "wall: one stranger, and 16 senders of a route that runs /bin/true (aims: p99 2 ms, 0.65 x)",
        &[
            ("the wall while nothing runs, p50", figures::ms(idle.p50)),
            ("  p99", figures::ms(idle.p99)),
            ("the wall while commands run, p50", figures::ms(busy.p50)),
            ("  p99", figures::ms(busy.p99)),
            ("posix_spawn of /bin/true on two threads, before", format!("{before:.0}/s")),
            ("posix_spawn of /bin/true on two threads, after", format!("{after:.0}/s")),
            ("round trips with a result", share),
            ("  p50", figures::ms(busy.trip_p50)),
            ("  p99", figures::ms(busy.trip_p99)),
        ],
    );
}

struct Load {
    p50: Duration,
    p99: Duration,
    trips: f64,
    trip_p50: Duration,
    trip_p99: Duration,
}

fn load(target: &Target, senders: usize) -> Load {
    sender::runtime().block_on(tokio::task::LocalSet::new().run_until(async {
        let measured_from = Instant::now() + WARM_UP;
        let until = measured_from + MEASURED;
        let within = move |asked: Instant, took: Duration| asked >= measured_from && asked + took < until;
        let senders: Vec<_> = (0..senders)
            .map(|_| {
                let target = target.clone();
                tokio::task::spawn_local(async move {
                    let key = Key::jenkins();
                    let mut sender = target.connect().await;
                    let mut times = Vec::new();
                    while Instant::now() < until {
                        let request = key.post(&sender.authority, "/run", "{}");
                        let asked = Instant::now();
                        let (status, took) = sender.ask(request).await;
                        assert_eq!(status, 200);
                        if within(asked, took) {
                            times.push(took);
                        }
                    }
                    times
                })
            })
            .collect();
        let mut stranger = target.connect().await;
        let mut times = Vec::new();
        while Instant::now() < until {
            let asked = Instant::now();
            let (status, took) = stranger.ask(Request::get("/run").body(Full::default()).unwrap()).await;
            assert_eq!(status, 404);
            if within(asked, took) {
                times.push(took);
            }
            // A stranger that never rests would measure how much of the machine it takes itself.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut trips = Vec::new();
        for sender in senders {
            trips.extend(sender.await.unwrap());
        }
        Load {
            p50: figures::percentile(&mut times, 0.5),
            p99: figures::percentile(&mut times, 0.99),
            trips: figures::rate(trips.len(), MEASURED),
            trip_p50: figures::percentile(&mut trips, 0.5),
            trip_p99: figures::percentile(&mut trips, 0.99),
        }
    }))
}

/// Processes that two threads start and wait for in a second; std starts them by `posix_spawn`.
fn spawns() -> f64 {
    let began = Instant::now();
    let count = std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut count = 0;
                while began.elapsed() < Duration::from_secs(2) {
                    assert!(Command::new("/bin/true").status().unwrap().success());
                    count += 1;
                }
                count
            })
        });
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    figures::rate(count, began.elapsed())
}
