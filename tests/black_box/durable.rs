//! Invariants I5 and I6 across `kill -9`.

use serde_json::json;

use crate::support::*;

fn route(program: &str, more: &str) -> String {
    format!(
        "method = \"POST\"\npath = \"/job\"\n[[allow]]\nkey = [\"jenkins\"]\n\
         [parameters]\nid = {{ from = \"body:/id\", integer = {{ min = 0, max = 9999 }} }}\n\
         [run]\nsteps = [[\"{program}\", \"{{id}}\"]]\nstop_grace = \"100ms\"\n{more}\n"
    )
}

#[test]
fn i5_an_accepted_job_survives_kill_9() {
    let site = Site::new();
    let ran = site.path("ran");
    let gate = site.path("gate");
    let program = site.program(
        "program",
        &format!("echo \"$1\" >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), gate.display()),
    );
    site.route("job", &route(&program, ""));
    let gateway = site.serve();
    let requests: Vec<Signing> = (0..5).map(|id| gateway.post("/job", &format!("{{\"id\":{id}}}"))).collect();
    let jobs: Vec<serde_json::Value> = requests
        .iter()
        .map(|signing| {
            let response = gateway.send(&signing.request());
            assert_eq!(response.status, 202, "{response:?}");
            response.json()["job"].clone()
        })
        .collect();
    // The first one runs, the others wait for its lock.
    wait_for_lines(&ran, 1);
    let port = gateway.address.port();
    gateway.kill();
    std::fs::write(&gate, "").unwrap();

    let gateway = site.serve();
    wait_for_lines(&ran, 5);
    let mut states = Vec::new();
    for (signing, job) in requests.iter().zip(&jobs) {
        // The authority was signed: a replay names the port of the gateway that is gone.
        assert!(signing.authority.ends_with(&port.to_string()));
        let replay = gateway.send(&signing.request()).json();
        assert_eq!((&replay["job"], &replay["duplicate"]), (job, &json!(true)));
        let view = gateway.ended(&format!("/-/jobs/{}", job.as_str().unwrap()));
        states.push(view["state"].as_str().unwrap().to_owned());
    }
    assert_eq!(states, ["interrupted", "succeeded", "succeeded", "succeeded", "succeeded"]);
    assert_eq!(wait_for_lines(&ran, 5), ["0", "1", "2", "3", "4"]);
    assert_eq!(gateway.stop().code(), Some(0));
    let audit = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    assert!(audit.contains("interrupted"), "{audit}");
}

#[test]
fn i6_an_idempotent_job_runs_again_after_a_crash() {
    let site = Site::new();
    let ran = site.path("ran");
    let gate = site.path("gate");
    let program = site.program(
        "program",
        &format!("echo \"$1\" >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done", ran.display(), gate.display()),
    );
    site.route("job", &route(&program, "idempotent = true"));
    let gateway = site.serve();
    let response = gateway.send(&gateway.post("/job", "{\"id\":7}").request());
    wait_for_lines(&ran, 1);
    gateway.kill();
    std::fs::write(&gate, "").unwrap();
    let gateway = site.serve();
    assert_eq!(gateway.ended(&response.location())["state"], "succeeded");
    assert_eq!(wait_for_lines(&ran, 2), ["7", "7"]);
}

#[test]
fn i4_a_queued_job_that_the_policy_no_longer_offers_is_refused() {
    let site = Site::new();
    let ran = site.path("ran");
    let program = site.program("program", &format!("echo \"$1\" >> {}\nsleep 60", ran.display()));
    site.route("job", &route(&program, ""));
    let gateway = site.serve();
    gateway.send(&gateway.post("/job", "{\"id\":1}").request());
    let waiting = gateway.send(&gateway.post("/job", "{\"id\":2000}").request());
    wait_for_lines(&ran, 1);
    gateway.kill();
    site.route("job", &route(&program, "").replace("9999", "1999"));
    let gateway = site.serve();
    let view = gateway.ended(&waiting.location());
    assert_eq!((view["state"].as_str(), view["steps"].as_array().map(Vec::len)), (Some("refused"), Some(0)));
    assert_eq!(wait_for_lines(&ran, 1), ["1"]);
}

#[test]
fn jobs_of_one_lock_do_not_overlap_and_keep_their_order() {
    let site = Site::new();
    let ran = site.path("ran");
    let program = site.program(
        "program",
        &format!("echo \"in $1\" >> {0}\nsleep 0.05\necho \"out $1\" >> {0}", ran.display()),
    );
    site.route("job", &route(&program, ""));
    site.route(
        "twin",
        &route(&program, "").replace("/job", "/twin").replace("[run]", "[run]\nlock = \"job\""),
    );
    let gateway = site.serve();
    let mut expected = Vec::new();
    for id in 0..6 {
        let path = if id % 2 == 0 { "/job" } else { "/twin" };
        assert_eq!(gateway.send(&gateway.post(path, &format!("{{\"id\":{id}}}")).request()).status, 202);
        expected.extend([format!("in {id}"), format!("out {id}")]);
    }
    assert_eq!(wait_for_lines(&ran, 12), expected);
}
