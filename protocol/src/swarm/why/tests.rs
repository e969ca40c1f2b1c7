//! Walks over hand-made steps, of which it is known where the time went.

use super::*;
use crate::ids::{EdgeId, JobId, Step};
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
            (Cause::Wait(peer(2)), 5),
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
    // Marks that were left out are said to be.
    let mut full = answers(0);
    full[1].traces.stages[0].is_cut = true;
    assert!(explain(&full).unwrap().is_cut && !explain(&answers(0)).unwrap().is_cut);
}

/// Goal: time is booked to what was measured and to nothing else. Method: of each mark that the path of a step hangs on, see
/// what stays unattributed when it is missing; all up to there, if it is not the wait for a neighbour.
#[test]
fn what_a_missing_mark_would_tell_is_nobodys() {
    let left = |stage: usize, lacks: &dyn Fn(&What) -> bool| {
        let mut gap = answers(5_000_000);
        let marks = &mut gap[stage].traces.stages[0].marks;
        let count = marks.len();
        marks.retain(|mark| !lacks(&mark.what));
        assert!(marks.len() < count);
        explain(&gap).unwrap().unknown.micros() / 1000
    };
    let came = |what: &What| matches!(what, What::Came(_));
    let sent =
        |what: &What| matches!(what, What::Sent(Cargo::Activation(..) | Cargo::Cotangent(..), ..));
    let ran = |kind| move |what: &What| matches!(what, What::Ran(of, _) if *of == kind);
    // Back from the end: stage 0 there again at 70, which needs what stage 1 sent at 60, which needs what came at 40.
    assert_eq!((left(0, &came), left(1, &came)), (70, 45));
    assert_eq!((left(1, &sent), left(0, &sent)), (70, 40));
    // Nothing tells what came before a backward pass, or what made a tensor.
    assert_eq!(left(1, &ran(SpanKind::Forward)), 50);
    assert_eq!(left(0, &ran(SpanKind::Forward)), 30);
    assert_eq!(left(0, &|what| matches!(what, What::Ran(..))), 95);
}

/// Goal: a walk costs no more than its marks. Method: as many tasks and tensors as are believed, at three peers; squared,
/// this would be a billion looks.
#[test]
fn long_traces_are_walked_in_no_time() {
    let mut long = answers(0);
    let marks: Vec<Mark> = (0..4096u64)
        .map(|n| {
            let m = MicroBatch::new(u32::try_from(n % 256).unwrap());
            match n % 2 {
                0 => mark(What::Ran(SpanKind::Forward, Some(m)), 10, 10),
                _ => mark(What::Came(Cargo::Activation(EdgeId::new(1), m)), 11, 11),
            }
        })
        .collect();
    let kept = long[0].traces.stages[0].marks.clone();
    long[0].traces.stages[0].marks = marks.into_iter().chain(kept).collect();
    for stage in 2..200u16 {
        let trace = StageTrace { stage: StageId::new(stage), ..long[0].traces.stages[0].clone() };
        long[0].traces.stages.push(trace);
    }
    let found = explain(&long).unwrap();
    assert_eq!(found.step, Duration::from_millis(100));
}

mod strangers {
    use proptest::prelude::*;

    use super::*;

    /// Numbers that a stranger may say: small ones meet each other, large ones overflow what is careless.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..12, Just(u64::MAX), Just(u64::MAX / 2), Just(1 << 63), any::<u64>()]
    }

    fn moment() -> impl Strategy<Value = Instant> {
        number().prop_map(Instant::from_micros)
    }

    fn whoever() -> impl Strategy<Value = PeerId> {
        (0u8..4).prop_map(peer)
    }

    fn stage() -> impl Strategy<Value = StageId> {
        (0u16..3).prop_map(StageId::new)
    }

    fn batch() -> impl Strategy<Value = MicroBatch> {
        (0u32..3).prop_map(MicroBatch::new)
    }

    fn cargo() -> impl Strategy<Value = Cargo> {
        prop_oneof![
            batch().prop_map(|m| Cargo::Activation(EdgeId::new(0), m)),
            batch().prop_map(|m| Cargo::Cotangent(EdgeId::new(0), m)),
            (stage(), stage()).prop_map(|(from, to)| Cargo::Shared(from, to)),
            (stage(), any::<u16>(), any::<u16>()).prop_map(|(s, w, c)| Cargo::Sums(s, w, c)),
            stage().prop_map(Cargo::Gradient),
        ]
    }

    fn what() -> impl Strategy<Value = What> {
        let kind = prop_oneof![
            Just(SpanKind::Forward),
            Just(SpanKind::Backward),
            Just(SpanKind::Reduce),
            Just(SpanKind::Optimizer),
        ];
        prop_oneof![
            (kind, prop::option::of(batch())).prop_map(|(kind, m)| What::Ran(kind, m)),
            cargo().prop_map(What::Came),
            (cargo(), whoever(), number()).prop_map(|(c, to, n)| What::Sent(c, to, Bytes::new(n))),
            whoever().prop_map(What::Held),
            Just(What::Ready),
        ]
    }

    fn traces() -> impl Strategy<Value = StageTrace> {
        let marks = (what(), moment(), moment());
        let marks = marks.prop_map(|(what, began, ended)| Mark { what, began, ended });
        let ops = (any::<bool>(), number()).prop_map(|(is_back, took)| OpTime {
            name: "linear".into(),
            is_back,
            took: Duration::from_micros(took),
        });
        let lists = (prop::collection::vec(marks, 0..40), prop::collection::vec(ops, 0..4));
        (stage(), number(), moment(), lists, any::<bool>()).prop_map(
            |(stage, step, began, (marks, ops), is_cut)| {
                let step = Step::new(step);
                StageTrace { stage, step, began, marks, ops, is_cut }
            },
        )
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let heard = prop::collection::vec((stage(), moment()), 0..4);
        let decision = (number(), moment(), heard).prop_map(|(step, decided, heard)| Decision {
            step: Step::new(step),
            decided,
            heard,
        });
        let lists = (prop::collection::vec(traces(), 0..6), prop::collection::vec(decision, 0..6));
        (whoever(), moment(), moment(), moment(), lists).prop_map(
            |(peer, asked, now, came, (stages, decisions))| {
                let job = JobId::new([1; 16]);
                let traces = Traces { job, asked, now, stages, decisions };
                Answer::of(peer, traces.bounded(), came)
            },
        )
    }

    /// Of one step, no part is longer than all of it, however far off the clocks are: a sum that ran over would be.
    fn check(answers: &[Answer]) {
        if let Some(found) = explain(answers).filter(|found| found.steps == 1) {
            let longest = found.parts.iter().map(|(_, took)| *took).max().unwrap_or_default();
            assert!(longest.max(found.unknown) <= found.step, "{found:?}");
        }
    }

    proptest! {
        /// Whatever members say, there is an explanation or none.
        #[test]
        fn no_answer_panics_us(answers in prop::collection::vec(answer(), 0..4)) {
            check(&answers);
        }

        /// The same with steps that follow each other, so that there is something to walk.
        #[test]
        fn nor_do_answers_that_hang_together(
            mut list in prop::collection::vec(answer(), 1..4),
            marks in prop::collection::vec((what(), moment(), moment()), 1..60),
        ) {
            let whole = answers(u64::MAX / 4000);
            let mut whole = whole.into_iter();
            list.extend(whole.by_ref());
            for (at, (what, began, ended)) in marks.into_iter().enumerate() {
                let count = list.len();
                let stages = &mut list[count - 1 - at % 2].traces.stages;
                let marks = &mut stages[0].marks;
                marks.insert(at % (marks.len() + 1), Mark { what, began, ended });
            }
            check(&list);
        }
    }
}
