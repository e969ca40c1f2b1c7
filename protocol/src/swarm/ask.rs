//! Asking members what they remember of a job's last steps, and answering who asks.
//!
//! Anybody may ask, so an answer has a size and a pace: the newest steps up to [`ANSWER_BYTES`], [`PAUSE`] between two
//! answers to one peer, [`ASKERS_MAX`] peers at a time. Only who was asked is heard, and once.
//! Not here: what is remembered (`trace`), what follows from it (`why`).

use std::collections::{BTreeMap, BTreeSet};

use super::io::{Effect, Event, Outbox};
use super::{Peer, why};
use crate::ids::{JobId, PeerId};
use crate::units::{Duration, Instant};
use crate::wire::frame::{FRAME_MAX, encode};
use crate::wire::message::Message;
use crate::wire::trace::{StageTrace, Traces};

/// Most bytes of the steps in one answer: what else is in its frame has room beside them.
const ANSWER_BYTES: usize = FRAME_MAX / 2;
/// Pause between two answers to one peer: an answer is megabytes for a question of a few bytes.
const PAUSE: Duration = Duration::from_millis(1_000);
/// Most peers that are answered within a pause: a peer's name costs nothing, and tensors share the line.
const ASKERS_MAX: usize = 2;
/// How long answers to a question are heard.
const HEARD: Duration = Duration::from_millis(10_000);
/// Most questions that wait for answers; the oldest gives way.
const QUESTIONS_MAX: usize = 16;

/// Questions that wait for answers, and who was answered lately.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// By when it was asked and of which job: who has not answered.
    open: BTreeMap<(Instant, JobId), BTreeSet<PeerId>>,
    answered: BTreeMap<PeerId, Instant>,
}

impl Questions {
    /// Says whether somebody may be answered, and notes that it is.
    fn may_answer(&mut self, to: PeerId, now: Instant) -> bool {
        self.answered.retain(|_, at| now.since(*at) < PAUSE);
        let is_free = self.answered.len() < ASKERS_MAX && !self.answered.contains_key(&to);
        if is_free {
            self.answered.insert(to, now);
        }
        is_free
    }

    /// Says whether an answer was asked for and has not come yet, and notes that it has.
    fn awaits(&mut self, from: PeerId, job: JobId, asked: Instant, now: Instant) -> bool {
        self.open.retain(|(asked, _), _| now.since(*asked) < HEARD);
        self.open.get_mut(&(asked, job)).is_some_and(|of| of.remove(&from))
    }
}

impl Peer {
    /// Asks every neighbour what it remembers of a job. Answers to questions before are heard for a while, too.
    pub(super) fn ask_traces(&mut self, job: JobId, now: Instant, out: &mut Outbox) {
        let open = &mut self.questions.open;
        if open.len() >= QUESTIONS_MAX {
            open.pop_first();
        }
        let of: BTreeSet<PeerId> = self.membership.connected().collect();
        for to in &of {
            let message = Box::new(Message::AskTraces { job, sent: now });
            out.push(Effect::Send { to: *to, message });
        }
        open.insert((now, job), of);
    }

    /// Tells somebody what this peer remembers of a job.
    pub(super) fn on_ask_traces(
        &mut self,
        from: PeerId,
        job: JobId,
        asked: Instant,
        now: Instant,
        out: &mut Outbox,
    ) {
        let Some(known) = self.jobs.get(&job).filter(|_| self.questions.may_answer(from, now))
        else {
            return;
        };
        let owned = known.stages.values().map(|stage| &stage.shift.trace);
        let shared = known.backups.values().filter_map(|backup| backup.shift.as_ref());
        let traces = owned.chain(shared.map(|shift| &shift.trace));
        let stages = newest(traces.flat_map(|trace| trace.steps()).collect());
        let decisions = known.lead.iter().flat_map(|lead| lead.trace.list().cloned()).collect();
        let traces = Traces { job, asked, now, stages, decisions };
        let message = Box::new(Message::Traces(Box::new(traces)));
        out.push(Effect::Send { to: from, message });
    }

    /// Takes an answer that was asked for.
    pub(super) fn on_traces(
        &mut self,
        from: PeerId,
        traces: Traces,
        now: Instant,
        out: &mut Outbox,
    ) {
        if self.questions.awaits(from, traces.job, traces.asked, now) {
            let answer = Box::new(why::Answer::of(from, traces.bounded(), now));
            out.push(Effect::Notify(Event::Traces(answer)));
        }
    }
}

/// Returns as many traces as fit an answer, of the newest steps, oldest first.
fn newest(mut traces: Vec<&StageTrace>) -> Vec<StageTrace> {
    traces.sort_by_key(|trace| (std::cmp::Reverse(trace.step), trace.stage));
    let mut left = ANSWER_BYTES;
    let mut fits = |trace: &&StageTrace| {
        let bytes = encode(*trace).map_or(usize::MAX, |bytes| bytes.len());
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    };
    let mut list: Vec<StageTrace> = traces.into_iter().take_while(|t| fits(t)).cloned().collect();
    list.reverse();
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{MicroBatch, StageId, Step};
    use crate::wire::message::SpanKind;
    use crate::wire::trace::{Cargo, MARKS_MAX, Mark, What};

    fn full(stage: u16, step: u64) -> StageTrace {
        let far = Instant::from_micros(u64::MAX);
        let what = What::Sent(
            Cargo::Shared(StageId::new(9), StageId::new(8)),
            PeerId::new([7; 32]),
            crate::units::Bytes::new(u64::MAX),
        );
        let marks = vec![Mark { what, began: far, ended: far }; MARKS_MAX];
        let (stage, step) = (StageId::new(stage), Step::new(step));
        StageTrace { stage, step, marks, ..StageTrace::default() }
    }

    #[test]
    fn an_answer_fits_a_frame_and_has_the_newest_steps() {
        let all: Vec<StageTrace> =
            (0..8).flat_map(|stage| (0..4).map(move |step| full(stage, step))).collect();
        let job = JobId::new([1; 16]);
        let message = |stages| {
            let (asked, now, decisions) = (Instant::default(), Instant::default(), vec![]);
            Message::Traces(Box::new(Traces { job, asked, now, stages, decisions }))
        };
        assert!(encode(&message(all.clone())).is_err(), "all of it fits no frame");
        let kept = newest(all.iter().collect());
        assert!(kept.len() >= 8, "{} traces", kept.len());
        assert!(kept.iter().rev().take(8).all(|trace| trace.step == Step::new(3)));
        assert!(kept.windows(2).all(|pair| pair[0].step <= pair[1].step));
        let bytes = encode(&message(kept)).unwrap();
        assert!(bytes.len() < FRAME_MAX * 3 / 4, "{} bytes", bytes.len());
        let few = [full(0, 1), full(0, 0)];
        assert_eq!(newest(few.iter().collect()).len(), 2);
    }

    #[test]
    fn one_answer_a_second_and_none_that_nobody_asked_for() {
        let (peer, job) = (|n| PeerId::new([n; 32]), JobId::new([1; 16]));
        let at = |millis: u64| Instant::from_micros(1 + millis * 1000);
        let mut questions = Questions::default();
        assert!(questions.may_answer(peer(1), at(0)) && questions.may_answer(peer(2), at(0)));
        assert!(!questions.may_answer(peer(1), at(900)) && questions.may_answer(peer(1), at(1000)));
        let many = (10..200).filter(|n| questions.may_answer(peer(*n), at(1500))).count();
        assert!(many < ASKERS_MAX, "{many} answers");
        let of = BTreeSet::from([peer(1), peer(2)]);
        questions.open.insert((at(5), job), of);
        assert!(!questions.awaits(peer(3), job, at(5), at(6)), "it was not asked");
        assert!(!questions.awaits(peer(1), job, at(4), at(6)), "another question");
        assert!(!questions.awaits(peer(1), JobId::new([2; 16]), at(5), at(6)));
        assert!(questions.awaits(peer(1), job, at(5), at(6)));
        assert!(!questions.awaits(peer(1), job, at(5), at(6)), "it has answered");
        assert!(!questions.awaits(peer(2), job, at(5), at(5) + HEARD), "too late");
        let far = Mark {
            what: What::Ran(SpanKind::Forward, Some(MicroBatch::new(0))),
            began: at(1),
            ended: at(2),
        };
        let mut long = full(0, 0);
        long.marks.push(far);
        let (asked, now) = (at(0), at(0));
        let stages = vec![long; 99];
        let bounded = Traces { job, asked, now, stages, decisions: vec![] }.bounded();
        assert_eq!(bounded.stages.len(), 32);
        assert!(bounded.stages.iter().all(|trace| trace.marks.len() == MARKS_MAX && trace.is_cut));
    }
}
