//! What a command writes is seen while it runs: by `call --wait`, by whoever asks for the job, and by an operator.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::*;

#[test]
fn output_is_streamed_while_the_command_runs() {
    let site = Site::new();
    site.configure("[admin]\nsocket = \"admin.sock\"");
    let go = site.path("go");
    let script = format!("echo one\nuntil [ -e '{}' ]; do sleep 0.05; done\necho two", go.display());
    let program = site.program("slow", &script);
    site.route(
        "slow",
        &format!(
            "method = \"POST\"\npath = \"/slow\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\n[run]\n\
             steps = [[\"/bin/echo\", \"zero\"], [\"{program}\"]]\n"
        ),
    );
    let gateway = site.serve();
    let mut call = Command::new(BINARY);
    call.args(["call", "--wait", "--key", "jenkins", "-X", "POST", "--secret"])
        .arg(site.path("jenkins.secret"));
    call.arg("--ca").arg(site.path("ca.pem")).arg(gateway.url("/slow"));
    let mut call = call.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = call.stdout.take().unwrap();
    let mut first = [0; 9];
    output.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"zero\none\n");

    // It still runs: what it waits for is not there.
    let jobs = bridgeward(&["jobs", "list", "--json", "--policy", site.dir.path().to_str().unwrap()]);
    let text = String::from_utf8(jobs.stdout).unwrap();
    let id =
        text.split('"').find(|word| word.len() == 36 && word.matches('-').count() == 4).unwrap().to_owned();
    let view = gateway.job(&format!("/-/jobs/{id}"));
    assert_eq!((&view["state"], view["steps"].as_array().unwrap().len()), (&json!("running"), 1), "{view}");
    assert_eq!(view["running"], json!({"step": 2, "argv": [program], "output": "one\n"}));
    let shown = bridgeward(&["jobs", "show", &id, "--policy", site.dir.path().to_str().unwrap()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("step 2     runs; 1 lines of output so far"), "{shown}");

    fs::write(&go, "").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "two\n");
    assert!(call.wait().unwrap().success());
    let view = gateway.job(&format!("/-/jobs/{id}"));
    assert_eq!(view.get("running"), None);
    assert_eq!(view["steps"][1]["output"], "one\ntwo\n");
}
