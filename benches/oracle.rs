//! Whether the wall's time tells a path that exists from one that does not: Welch's t of interleaved pairs, in random
//! order, on one connection. Run by `cargo bench --bench oracle`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    unreachable_pub,
    reason = "a benchmark fails by panicking, prints, starts the program, reads the real clock, and counts little"
)]

use std::collections::BTreeMap;

use axum::http::Request;
use http_body_util::Full;
use sha2::{Digest as _, Sha256};

#[path = "load/report.rs"]
mod report;
#[path = "load/sender.rs"]
mod sender;
#[path = "load/site.rs"]
mod site;

use sender::{Sender, Target};
use site::Site;

const PAIRS: usize = 10_000;
const WARM_UP: usize = 500;
/// As long as the other one, and no route's.
const KNOWN: &str = "/promote";
const UNKNOWN: &str = "/pr0m0te";
/// Beyond this, two means differ (the threshold of the TVLA methodology for leakage by timing).
const AIM: f64 = 4.5;

fn main() {
    let site = Site::new("");
    site.write(
        "routes/promote.toml",
        "method = \"GET\"\npath = \"/promote\"\npayload = \"none\"\n\
         [[allow]]\nkey = [\"jenkins\"]\n\
         [[allow]]\ncertname = [\"ci-*.example.com\", \"deploy-*.example.com\"]\nnetworks = [\"127.0.0.0/8\"]\n\
         [run]\nsteps = [[\"/bin/true\"]]\n",
        0o644,
    );
    let gateway = site.serve();
    let node = site.ca.issue_client("node1.example.com", &BTreeMap::new(), site::days()).unwrap();
    let stranger = Target::new(gateway.address, &site.ca, None);
    let certified = Target::new(gateway.address, &site.ca, Some(&node));
    let rows = sender::runtime().block_on(async {
        let mut rows = Vec::new();
        for (name, target) in
            [("nothing proven", &stranger), ("a certificate that no rule names", &certified)]
        {
            let mut sender = target.connect().await;
            let same = t(&mut sender, [UNKNOWN, UNKNOWN]).await;
            let differs = t(&mut sender, [KNOWN, UNKNOWN]).await;
            rows.push((name, format!("t = {differs:+.2} ({same:+.2})")));
        }
        rows
    });
    report::table(
        &format!(
            "oracle: Welch's t of {PAIRS} pairs, known against unknown path (aim: within ±{AIM}); \
             in parentheses, unknown against itself"
        ),
        &rows,
    );
}

/// Welch's t of the times that two paths take.
async fn t(sender: &mut Sender, paths: [&'static str; 2]) -> f64 {
    let mut times = [Vec::with_capacity(PAIRS), Vec::with_capacity(PAIRS)];
    for pair in 0..WARM_UP + PAIRS {
        let first = usize::from(Sha256::digest(pair.to_le_bytes())[0] & 1);
        for index in [first, 1 - first] {
            let request = Request::get(paths[index]).body(Full::default()).unwrap();
            let (status, took) = sender.ask(request).await;
            assert_eq!(status, 404);
            if pair >= WARM_UP {
                times[index].push(took.as_secs_f64());
            }
        }
    }
    let [(one, one_spread), (two, two_spread)] = times.map(|times| {
        // What another program did to a few requests must not drown the rest: the slowest hundredth goes, on both sides.
        let kept = trimmed(times);
        let mean = kept.iter().sum::<f64>() / kept.len() as f64;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (kept.len() - 1) as f64;
        (mean, variance / kept.len() as f64)
    });
    (one - two) / (one_spread + two_spread).sqrt()
}

fn trimmed(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_unstable_by(f64::total_cmp);
    times.truncate(times.len() * 99 / 100);
    times
}
