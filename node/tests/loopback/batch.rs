//! Jobs whose files leave open how steps are divided.

use super::*;

/// Goal: where a file leaves open how steps are divided, the planner divides them, once: who hands the job in again gets the
/// same job, whatever the peers were measured to do in between. Method: the first submitter is killed after a few steps.
#[test]
fn a_batch_is_divided_by_the_planner_once() {
    let _turn = turn();
    let network = format!("batch-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job.toml");
    let text =
        "[model]\nname = \"gpt2-nano\"\n[train]\nsteps = 200\nbatch = 12\n[swarm]\nbackups = 0\n";
    std::fs::write(&job, text).unwrap();
    let (_one, ticket) = up(&network, None);
    let (_two, _) = up(&network, Some(&ticket));

    let mut first = train(&job, &network, &ticket);
    let child = first.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = Peer { child, id: String::new(), rest: None };
    let heard = BufReader::new(first.child.stdout.take().unwrap()).lines();
    let mut told = heard.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let divided = told.find(|line| line["schema"] == "wattle.divided.v1").unwrap();
    let tried: Vec<u64> = divided["tried"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["micro_batch"].as_u64().unwrap())
        .collect();
    assert_eq!(tried, [1, 2, 4, 12]);
    let steps = told.filter(|line| line["schema"] == "wattle.step.v1");
    let job_id = steps.take(5).last().unwrap()["job"].clone();
    drop(first);

    let again = train(&job, &network, &ticket).output().unwrap();
    assert!(again.status.success(), "{}", said(&again));
    let told = lines(&again.stdout);
    let last = told.last().unwrap();
    assert_eq!(last["job"], job_id);
    let again = told.iter().find(|line| line["schema"] == "wattle.divided.v1").unwrap();
    for key in ["micro_batch", "micro_batches"] {
        assert_eq!(again[key], divided[key]);
    }
    assert_eq!(
        divided["micro_batch"].as_u64().unwrap() * divided["micro_batches"].as_u64().unwrap(),
        12
    );
    assert_eq!(again["tried"], serde_json::json!([]));
}
