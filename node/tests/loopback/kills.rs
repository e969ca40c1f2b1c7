//! Real processes that are killed in the middle of a job.

use super::{demo, equals_one_process, turn};

/// Goal: an owner or the leader killed with `kill -9` costs no step and changes no number. Method: each role in turn,
/// real processes, against one process.
#[test]
fn a_killed_process_changes_nothing() {
    let _turn = turn();
    for who in ["first", "middle", "last", "leader"] {
        let last = demo(&["--model", "resnet-tiny", "--steps", "30", "--kill", who]);
        equals_one_process(&last);
        assert_eq!(last["steps"], 30);
        assert_eq!(last["faults"].as_array().unwrap().len(), 1);
        assert!(last["recovery_seconds"].as_f64().unwrap() > 0.0, "{last}");
    }
}

/// Goal: a worker killed with `kill -9`, the owner or a replica, costs no step and changes no number. Method: one stage
/// at two workers and a peer that stands by, against one process.
#[test]
fn a_killed_worker_changes_nothing() {
    let _turn = turn();
    for who in ["replica", "first"] {
        let job = ["--model", "resnet-tiny", "--steps", "30", "--stages", "1", "--replicas", "2"];
        let args = [job.as_slice(), &["--peers", "3", "--kill", who]].concat();
        let last = demo(&args);
        equals_one_process(&last);
        assert_eq!(last["steps"], 30);
        assert_eq!(last["faults"].as_array().unwrap().len(), 1, "{who}: {last}");
        assert!(last["recovery_seconds"].as_f64().unwrap() > 0.0, "{last}");
    }
}
