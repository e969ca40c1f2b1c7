//! What strangers, stale messages and members that lie say changes nothing.

use super::runs::{LIMIT, undisturbed};
use super::*;
use crate::ids::{Epoch, Term};
use crate::wire::message::{Commit, Holding, JobMessage, Span, SpanKind, StageStats};

fn stranger() -> PeerId {
    Peer::new(&[99; 32], Config::default()).id()
}

fn started(steps: u64) -> (World, Plan) {
    let mut world = World::new(4);
    world.submit(spec(3, steps));
    assert!(world.run_until(LIMIT, |w| w.plan.is_some()));
    let plan = world.plan.clone().unwrap();
    (world, plan)
}

/// Everything that a stranger could try to end a reign, a plan or a job with.
fn attacks(epoch: Epoch) -> Vec<JobMessage> {
    let (far, near) = (Term::new(u64::MAX), Term::new(7));
    let sent = Instant::from_micros(1);
    let last = Some(Commit { step: Step::new(9), scale: 9.0, loss: 9.0, norm: 9.0 });
    let mut list = Vec::new();
    for term in [far, near] {
        list.push(JobMessage::Lease { term, epoch, sent, last });
        list.push(JobMessage::Inquire { term });
        list.push(JobMessage::Adopt { term, epoch });
        list.push(JobMessage::RequestVote { term, epoch });
    }
    for term in 0..4 {
        let (term, reason) = (Term::new(term), String::from("made up"));
        list.push(JobMessage::Refuse { term, epoch, reason: reason.clone() });
        list.push(JobMessage::StageFailed {
            epoch,
            stage: StageId::new(1),
            reason,
            of_numbers: true,
        });
        let applied = Step::new(1_000_000);
        let holdings = vec![Holding { stage: StageId::new(0), applied, next_gradient: true }];
        list.push(JobMessage::Report { term, epoch, holdings, last: None });
        list.push(JobMessage::LeaseGranted { term, epoch, sent });
    }
    list.push(JobMessage::News(Box::new(News::Failed { reason: "made up".into() })));
    list.push(JobMessage::Release);
    list
}

#[test]
fn a_stranger_ends_no_reign_no_plan_and_no_job() {
    let expected = undisturbed(12);
    for moment in 0..20u64 {
        let (mut world, plan) = started(12);
        world.pass(Duration::from_micros(moment * 17_300));
        let everybody: Vec<PeerId> = world.peers.keys().copied().collect();
        for to in everybody {
            for body in attacks(plan.epoch) {
                let message = Message::Job { job: plan.job, body: Box::new(body) };
                world.forge(stranger(), to, message);
            }
        }
        assert!(world.run_until(LIMIT, |w| w.finished), "moment {moment}: {:?}", world.trace);
        assert_eq!(world.epochs, 1, "moment {moment}: {:?}", world.trace);
        assert_eq!(world.learnt(), expected, "moment {moment}");
    }
}

/// Goal: reigns go on whatever a member says of their number. Method: a member claims the last term there is, the leader
/// dies, somebody else has to win an election.
#[test]
fn a_member_cannot_use_the_terms_up() {
    let expected = undisturbed(12);
    let (mut world, plan) = started(12);
    let leader = world.leader.unwrap();
    let liar = *plan.council.iter().find(|p| **p != leader && **p != world.submitter).unwrap();
    for &to in &plan.council {
        let (term, sent) = (Term::new(u64::MAX), world.now);
        for body in [
            JobMessage::Lease { term, epoch: plan.epoch, sent, last: None },
            JobMessage::RequestVote { term, epoch: plan.epoch },
        ] {
            world.forge(liar, to, Message::Job { job: plan.job, body: Box::new(body) });
        }
    }
    world.pass(Duration::from_millis(30));
    world.kill(leader);
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.learnt(), expected);
}

#[test]
fn a_word_of_an_older_plan_or_of_no_part_in_it_is_no_failure() {
    let (mut world, plan) = started(12);
    let leader = world.leader.unwrap();
    let stage = StageId::new(0);
    let parts = |p: &PeerId| {
        let roles = &plan.stages[0];
        roles.owner == *p || roles.backups.contains(p)
    };
    let bystander = *plan.council.iter().find(|p| !parts(p) && **p != leader).unwrap();
    let owner = plan.owner(stage).unwrap();
    for (from, epoch) in [(bystander, plan.epoch), (owner, Epoch::default())] {
        let reason = String::from("stale");
        for body in [
            JobMessage::StageFailed { epoch, stage, reason: reason.clone(), of_numbers: true },
            JobMessage::Refuse { term: Term::new(1), epoch: plan.epoch, reason },
        ] {
            world.forge(from, leader, Message::Job { job: plan.job, body: Box::new(body) });
        }
    }
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!(world.epochs, 1, "{:?}", world.trace);
}

#[test]
fn only_who_was_asked_speaks_of_a_job_without_a_plan() {
    let mut world = World::new(4);
    // More stages than peers: the job waits.
    world.submit(spec(9, 3));
    world.pass(Duration::from_millis(2_500));
    let job = crate::wire::frame::job_id(&spec(9, 3)).unwrap();
    let news = News::Failed { reason: "made up".into() };
    let body = Box::new(JobMessage::News(Box::new(news)));
    world.forge(stranger(), world.submitter, Message::Job { job, body });
    world.pass(Duration::from_millis(500));
    assert!(world.failed.is_none());
    assert!(world.trace.iter().any(|line| line.starts_with("Waiting")), "{:?}", world.trace);
}

/// As much as a frame takes, of which two in one report are too much.
fn endless() -> StageStats {
    let far = Instant::from_micros(u64::MAX);
    let span = Span { kind: SpanKind::Forward, micro_batch: None, began: far, ended: far };
    StageStats { spans: vec![span; 180_000], ..StageStats::default() }
}

/// Goal: nobody stops a stage by what it says of its part in a step. Method: strangers and a backup, which runs no pass, say
/// of each stage's step that they hold its gradient and had two frames' worth of work in it; each message of this world has
/// to fit a frame.
#[test]
fn nobody_swells_a_report_until_no_frame_takes_it() {
    let expected = undisturbed(12);
    let (mut world, plan) = started(12);
    let strangers = [98, 99].map(|n| Peer::new(&[n; 32], Config::default()).id());
    for moment in 0..16u64 {
        world.pass(Duration::from_millis(7));
        let step = Step::new(world.losses.len() as u64);
        for (stage, roles) in plan.stage_ids().zip(&plan.stages) {
            let liars = strangers.into_iter().chain(roles.backups.iter().copied());
            for (number, from) in (0..).zip(liars) {
                if moment % 4 != number {
                    continue;
                }
                let (epoch, stats) = (plan.epoch, Some(Box::new(endless())));
                let losses = vec![(crate::ids::MicroBatch::new(0), 1e9)];
                let body = JobMessage::GradientHeld { epoch, stage, step, losses, stats };
                world.forge(
                    from,
                    roles.owner,
                    Message::Job { job: plan.job, body: Box::new(body) },
                );
            }
        }
    }
    assert!(world.run_until(LIMIT, |w| w.finished), "{:?}", world.trace);
    assert_eq!((world.learnt(), world.epochs), (expected, 1), "{:?}", world.trace);
}
