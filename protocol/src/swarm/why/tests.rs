//! Walks over hand-made steps, of which it is known where the time went.

use super::*;
use crate::ids::{EdgeId, JobId};
use crate::units::Bytes;
use crate::wire::trace::OpTime;

fn peer(n: u8) -> PeerId {
    PeerId::new([n; 32])
}

fn at(millis: u64) -> Instant {
    Instant::from_micros(1_000_000_000 + millis * 1000)
}

fn mark(what: What, began: u64, ended: u64) -> Mark {
    Mark { what, began: at(began), ended: at(ended) }
}

const M: MicroBatch = MicroBatch::new(0);

/// Two stages and a backup on clocks that are hours apart. The step takes 100 ms: 10 until the first stage hears of the
/// decision, 20 forward, 10 over the link, 5 of waiting and 15 there and back, 10 back over the link, 20 backward, 5 for the
/// sum, 3 to the backup and back, 2 for the report.
fn answers(ahead: u64) -> Vec<Answer> {
    let edge = EdgeId::new(0);
    let (there, back) = (Cargo::Activation(edge, M), Cargo::Cotangent(edge, M));
    let op = |name: &str, is_back, millis| OpTime {
        name: name.into(),
        is_back,
        took: Duration::from_millis(millis),
    };
    let first = StageTrace {
        stage: StageId::new(0),
        step: Step::new(1),
        began: at(10),
        marks: vec![
            mark(What::Ran(SpanKind::Forward, Some(M)), 10, 30),
            mark(What::Sent(there, peer(2), Bytes::new(9)), 30, 50),
            mark(What::Came(back), 70, 70),
            mark(What::Ran(SpanKind::Backward, Some(M)), 70, 90),
            mark(What::Ran(SpanKind::Reduce, None), 90, 95),
            mark(What::Sent(Cargo::Gradient(StageId::new(0)), peer(2), Bytes::new(9)), 95, 97),
            mark(What::Held(peer(2)), 98, 98),
            mark(What::Ready, 98, 98),
        ],
        ops: vec![op("linear", false, 15), op("linear", true, 12), op("add", true, 4)],
        is_cut: false,
    };
    let later = |millis| millis + ahead;
    let second = StageTrace {
        stage: StageId::new(1),
        step: Step::new(1),
        began: at(later(1)),
        marks: vec![
            mark(What::Came(there), later(40), later(40)),
            mark(What::Ran(SpanKind::Forward, Some(M)), later(45), later(50)),
            mark(What::Ran(SpanKind::Backward, Some(M)), later(50), later(60)),
            mark(What::Sent(back, peer(1), Bytes::new(9)), later(60), later(75)),
            mark(What::Ready, later(61), later(61)),
        ],
        ops: vec![],
        is_cut: false,
    };
    let job = JobId::new([1; 16]);
    let decision = |step, decided, heard: &[(u16, u64)]| Decision {
        step: Step::new(step),
        decided: at(later(decided)),
        heard: heard.iter().map(|(stage, when)| (StageId::new(*stage), at(later(*when)))).collect(),
    };
    let traces = |stages, decisions, now| Traces { job, asked: at(200), now, stages, decisions };
    let decisions = vec![decision(0, 0, &[(0, 0)]), decision(1, 100, &[(0, 100), (1, 62)])];
    vec![
        Answer::of(peer(1), traces(vec![first], vec![], at(205)), at(210)),
        Answer::of(peer(2), traces(vec![second], decisions, at(later(203))), at(206)),
    ]
}

#[test]
fn all_of_a_step_is_booked_to_what_it_went_to_whatever_the_clocks_say() {
    for ahead in [0, 5_000_000] {
        let found = explain(&answers(ahead)).unwrap();
        assert_eq!((found.steps, found.step), (1, Duration::from_millis(100)));
        assert_eq!(found.unknown, Duration::ZERO);
        let operator = |name: &str| Cause::Operator(StageId::new(0), peer(1), name.into());
        let want = [
            (operator("linear"), 27),
            (Cause::Around(StageId::new(1), peer(2)), 15),
            (Cause::Link(peer(1), peer(2)), 10),
            (Cause::Link(peer(2), peer(1)), 10),
            (Cause::Decided(peer(2), peer(1)), 10),
            (Cause::Around(StageId::new(0), peer(1)), 9),
            (Cause::Turn(peer(2)), 5),
            (Cause::Reduce(StageId::new(0), peer(1)), 5),
            (operator("add"), 4),
            (Cause::Store(peer(1), peer(2)), 3),
            (Cause::Report(peer(1), peer(2)), 2),
        ];
        for (cause, millis) in want.clone() {
            let got = found.parts.iter().find(|(c, _)| *c == cause).map(|(_, took)| *took);
            assert_eq!(got, Some(Duration::from_millis(millis)), "{cause:?}");
        }
        assert_eq!(found.parts.len(), want.len());
    }
}

#[test]
fn what_no_trace_tells_is_left_over_and_strangers_change_nothing_else() {
    let mut cut = answers(0);
    // Nobody says when the activation was sent.
    let sent = |m: &Mark| !matches!(m.what, What::Sent(Cargo::Activation(..), ..));
    cut[0].traces.stages[0].marks.retain(sent);
    let found = explain(&cut).unwrap();
    let known: u64 = found.parts.iter().map(|(_, took)| took.micros()).sum();
    assert!(found.unknown > Duration::ZERO, "{found:?}");
    assert_eq!(known + found.unknown.micros(), 100_000);
    assert_eq!(explain(&[]), None);
    let mut wild = answers(0);
    wild[0].traces.stages[0].began = Instant::from_micros(u64::MAX);
    for mark in &mut wild[0].traces.stages[0].marks {
        std::mem::swap(&mut mark.began, &mut mark.ended);
        mark.ended = Instant::from_micros(u64::MAX);
    }
    explain(&wild);
}
