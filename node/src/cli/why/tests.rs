//! What `wattle why` prints.

use wattle_protocol::ids::StageId;

use super::*;

fn peer(n: u8) -> PeerId {
    PeerId::new([n; 32])
}

fn explanation() -> Explanation {
    let operator =
        |stage, n, name: &str| Cause::Operator(StageId::new(stage), peer(n), name.to_owned());
    let millis = Duration::from_millis;
    Explanation {
        steps: 3,
        step: millis(200),
        parts: vec![
            (Cause::Link(peer(1), peer(2)), millis(66)),
            (operator(1, 2, "linear"), millis(44)),
            (operator(1, 2, "attention"), millis(18)),
            (Cause::Wait(peer(2)), millis(14)),
            (Cause::Store(peer(1), peer(3)), millis(12)),
            (Cause::Around(StageId::new(1), peer(2)), millis(10)),
            (operator(0, 1, "embedding"), millis(8)),
            (Cause::Report(peer(1), peer(2)), millis(6)),
            (Cause::Decided(peer(2), peer(1)), millis(6)),
            (Cause::Reduce(StageId::new(0), peer(1)), millis(5)),
            (Cause::Shared(peer(1), peer(2)), millis(4)),
            (Cause::Update(StageId::new(0), peer(1)), millis(3)),
        ],
        unknown: millis(4),
        is_cut: false,
    }
}

#[test]
fn a_step_is_explained_by_groups_with_the_longest_first() {
    let job = JobId::new([0x1a; 16]);
    insta::assert_snapshot!("why", text(job, &explanation()));
    let cut = text(job, &Explanation { is_cut: true, ..explanation() });
    assert!(cut.contains("unattributed") && cut.ends_with("around it."), "{cut}");
    let line = line(job, &explanation());
    let parts = line["parts"].as_array().unwrap();
    let shares: f64 = parts.iter().map(|part| part["share"].as_f64().unwrap()).sum();
    assert!(
        (shares - 0.98).abs() < 1e-9 && (line["attributed"].as_f64().unwrap() - 0.98).abs() < 1e-9
    );
    let kinds: Vec<&str> = parts.iter().map(|part| part["kind"].as_str().unwrap()).collect();
    let first = ["link", "operator", "operator", "wait", "store", "around", "operator", "report"];
    assert_eq!(
        (&kinds[..8], &kinds[8..]),
        (&first[..], &["decision", "reduce", "shared", "update"][..])
    );
    assert_eq!(parts[1]["operator"], "linear");
}
