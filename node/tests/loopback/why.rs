//! `wattle why` on a running job of real processes.

use super::*;

/// Goal: of a running job's steps at least 95 % are attributed, operators, links and the end of the step among it. Method:
/// a job of many steps over three processes with a backup, asked in the middle and not by its submitter; with one micro-batch,
/// whose path crosses links, and with several, among which it may stay at one peer.
#[test]
fn a_running_job_says_where_its_time_goes() {
    for micro_batches in [1, 4] {
        check_why(micro_batches);
    }
}

fn check_why(micro_batches: u32) {
    let _turn = turn();
    let network = format!("why-{micro_batches}-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.toml");
    // One micro-batch would stay at one peer if that might run both stages.
    let each = if micro_batches == 1 { 1 } else { 2 };
    let text = format!(
        "[model]\nname = \"gpt2-nano\"\n[train]\nsteps = 100000\nmicro_batches = {micro_batches}\n\
         [swarm]\nstages = 2\nstages_per_peer = {each}\n"
    );
    std::fs::write(&job, text).unwrap();
    let (_one, ticket) = up(&network, None);
    let (_two, _) = up(&network, Some(&ticket));
    let (_three, _) = up(&network, Some(&ticket));
    let child = train(&job, &network, &ticket).stdout(Stdio::piped()).spawn().unwrap();
    let mut submitter = Peer { child, id: String::new(), rest: None };
    let heard = BufReader::new(submitter.child.stdout.take().unwrap()).lines();
    let is_step = |line: &std::io::Result<String>| line.as_ref().unwrap().contains("step.v1");
    let mut heard = heard.filter(is_step);
    assert_eq!(heard.by_ref().take(20).count(), 20);
    // Its pipe must not fill up.
    let sink = std::thread::spawn(move || heard.map(|line| line.unwrap()).collect::<Vec<_>>());
    let ask = |args: &[&str]| {
        let mut command = wattle();
        command.arg("why").args(args).args(["--no-mdns", "--listen", "127.0.0.1:0"]);
        command.args(["--network", &network, "--join", &ticket]).output().unwrap()
    };
    let found = ask(&["--json"]);
    assert!(found.status.success(), "{}", said(&found));
    let line = lines(&found.stdout).pop().unwrap();
    assert_eq!(line["schema"], "wattle.why.v1");
    assert!(line["steps"].as_u64().unwrap() >= 1, "{line}");
    assert!(line["attributed"].as_f64().unwrap() >= 0.95, "{line}");
    let parts = line["parts"].as_array().unwrap();
    let share = |kind: &str| -> f64 {
        let of = parts.iter().filter(|part| part["kind"] == kind);
        of.map(|part| part["share"].as_f64().unwrap()).sum()
    };
    let all: f64 = ["operator", "around", "link", "wait", "reduce", "shared", "store", "report"]
        .into_iter()
        .chain(["decision", "update"])
        .map(share)
        .sum();
    assert!((all - line["attributed"].as_f64().unwrap()).abs() < 0.01, "{line}");
    assert!(share("operator") > 0.1 && share("store") > 0.0, "{line}");
    assert!(micro_batches > 1 || share("link") > 0.0, "{line}");
    assert!(share("wait") + share("decision") < 0.5, "what is left over is called so: {line}");
    assert!(parts.iter().any(|part| part["operator"] == "linear"), "{line}");
    let job = line["job"].as_str().unwrap().to_owned();
    let told = ask(&[&job]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(text.contains("end of step") && text.contains("unattributed"), "{text}");
    let none = ask(&[&"0".repeat(32), "--wait", "3"]);
    assert!(
        !none.status.success() && said(&none).contains("nobody of job 0000"),
        "{}",
        said(&none)
    );
    drop(submitter);
    // As long as the submitter has heard that steps take, but for what else this machine did in between.
    let mut heard = sink.join().unwrap();
    // The last line may be cut off.
    heard.pop();
    let seconds = |line: &Value| line["seconds"].as_f64().unwrap();
    let mut heard: Vec<f64> = lines(heard.join("\n").as_bytes()).iter().map(seconds).collect();
    heard.sort_by(f64::total_cmp);
    let factor = line["step_seconds"].as_f64().unwrap() / heard[heard.len() / 2];
    assert!((0.5..2.0).contains(&factor), "{factor} times the step that was heard: {line}");
}
