//! Who leads a job: terms, votes, and a lease that the leader renews.
//!
//! | state     | meaning                                   | leaves by                                            |
//! |-----------|-------------------------------------------|------------------------------------------------------|
//! | follows   | a leader lives and renews its lease       | leader lost or lease silent -> waits                 |
//! | waits     | stands after a pause by place in council  | a lease -> follows; pause over -> candidate          |
//! | candidate | asks the council for votes                | majority -> leads; a higher term -> follows          |
//! | leads     | see `lead`                                | a higher term, or no majority renews -> follows      |
//!
//! Votes as in Raft (Ongaro and Ousterhout 2014, section 5.2), with a leader's lease: a member whose leader lives
//! votes for nobody else. The log of Raft is not needed: the only history is (epoch, last decided step).

use std::collections::BTreeSet;

use super::Ctx;
use super::job::{Ending, Job};
use super::lead::Lead;
use crate::ids::{Epoch, PeerId, Term};
use crate::schedule::Plan;
use crate::units::{Duration, Instant};
use crate::wire::message::JobMessage;

/// Pause between members that stand for election, by their place in the council.
const STAGGER: Duration = Duration::from_millis(150);
/// Pause before a candidate without a majority asks again.
const RETRY: Duration = Duration::from_millis(700);

/// A member's view of who leads.
#[derive(Debug)]
pub(super) struct Election {
    pub(super) term: Term,
    pub(super) leader: Option<PeerId>,
    heard: Instant,
    voted: Option<PeerId>,
    votes: BTreeSet<PeerId>,
    /// Who has said that a plan later than any known here is in force.
    ahead: BTreeSet<PeerId>,
    stands_at: Option<Instant>,
}

impl Election {
    pub(super) fn new(term: Term, leader: Option<PeerId>, now: Instant) -> Self {
        Self {
            term,
            leader,
            heard: now,
            voted: leader,
            votes: BTreeSet::new(),
            ahead: BTreeSet::new(),
            stands_at: None,
        }
    }

    /// Says whether a leader of this term is one to follow.
    pub(super) fn may_follow(&self, from: PeerId, term: Term) -> bool {
        let rival = term == self.term && self.leader.is_some_and(|l| l != from);
        term >= self.term && !rival && self.term.may_hear(term)
    }

    /// Takes word from a leader. Returns whether it is one that this member follows.
    fn follow(&mut self, from: PeerId, term: Term, now: Instant) -> bool {
        if !self.may_follow(from, term) {
            return false;
        }
        self.term = term;
        self.leader = Some(from);
        self.heard = now;
        self.votes.clear();
        self.ahead.clear();
        self.stands_at = None;
        true
    }
}

impl Job {
    /// Says whether a peer may speak of who leads: a member of the council of the plan in force, or of the accepted one.
    pub(super) fn is_voter(&self, peer: PeerId) -> bool {
        let accepted = self.proposal.as_ref().map(|p| &p.plan);
        let mut plans = self.plan.iter().chain(accepted);
        plans.any(|plan| plan.council.contains(&peer))
    }

    /// Takes word from a leader. Returns whether it is one that this member follows: a stranger never is.
    pub(super) fn heed(&mut self, from: PeerId, term: Term, ctx: &Ctx<'_>) -> bool {
        if !self.is_voter(from) || !self.election.follow(from, term, ctx.now) {
            return false;
        }
        if from != ctx.me {
            self.lead = None;
        }
        true
    }

    /// Says whether nobody has been heard of this job for so long that it will not come to a plan here.
    pub(super) fn is_stillborn(&self, ctx: &Ctx<'_>) -> bool {
        let silent = ctx.now.since(self.election.heard) >= ctx.config.lease * 2;
        self.plan.is_none() && self.lead.is_none() && silent
    }

    fn leader_lives(&self, ctx: &Ctx<'_>) -> bool {
        let fresh = ctx.now.since(self.election.heard) < ctx.config.lease * 2;
        self.election.leader.is_some_and(|l| l == ctx.me || (ctx.membership.is_living(l) && fresh))
    }

    /// Lets time pass for a member that does not lead.
    pub(super) fn elect_tick(&mut self, ctx: &mut Ctx<'_>) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        if self.over || self.lead.is_some() || self.leader_lives(ctx) {
            self.election.stands_at = None;
            return;
        }
        let living = plan.council.iter().filter(|p| **p == ctx.me || ctx.membership.is_living(**p));
        let Some(rank) = living.clone().position(|p| *p == ctx.me) else {
            return;
        };
        let rank = u64::try_from(rank).unwrap_or(u64::MAX);
        let Some(at) = self.election.stands_at else {
            self.election.stands_at = Some(ctx.now + STAGGER * rank);
            return;
        };
        if ctx.now < at {
            return;
        }
        self.election.stands_at = Some(ctx.now + RETRY + STAGGER * rank);
        self.election.term = self.election.term.next();
        self.election.leader = None;
        self.election.voted = Some(ctx.me);
        self.election.votes = BTreeSet::from([ctx.me]);
        let (term, epoch) = (self.election.term, plan.epoch);
        tracing::info!(job = %self.id, term = term.number(), "stands for election");
        for peer in &plan.council {
            if *peer != ctx.me {
                ctx.send(*peer, self.id, JobMessage::RequestVote { term, epoch });
            }
        }
        self.count_votes(ctx);
    }

    pub(super) fn on_request_vote(
        &mut self,
        from: PeerId,
        term: Term,
        epoch: Epoch,
        ctx: &mut Ctx<'_>,
    ) {
        let member = self.is_voter(from) && self.election.term.may_hear(term);
        let election = &self.election;
        let free = term > election.term
            || (term == election.term && election.voted.is_none_or(|v| v == from));
        let leads = self.lead.is_some() && term <= election.term;
        let granted =
            member && free && !leads && epoch >= self.epoch() && !self.serves_other(from, ctx);
        if granted {
            self.election.term = term;
            self.election.voted = Some(from);
            self.election.leader = None;
            self.election.heard = ctx.now;
            self.election.stands_at = None;
            self.lead = None;
        }
        if member && !granted && self.lead.is_some() && term > self.election.term {
            // A member of a later reign cannot follow this one: as in Raft (section 5.1), the earlier reign ends.
            tracing::info!(job = %self.id, term = term.number(), "steps down for a member of a later term");
            self.lead = None;
            self.election.leader = None;
            self.election.term = term;
            self.election.voted = None;
        }
        ctx.send(from, self.id, JobMessage::Vote { term, granted, epoch: self.epoch() });
    }

    /// Whether this member has a living leader other than the candidate.
    fn serves_other(&self, candidate: PeerId, ctx: &Ctx<'_>) -> bool {
        self.election.leader != Some(candidate) && self.leader_lives(ctx)
    }

    pub(super) fn on_vote(
        &mut self,
        from: PeerId,
        (term, granted): (Term, bool),
        epoch: Epoch,
        ctx: &mut Ctx<'_>,
    ) {
        if term != self.election.term || self.election.voted != Some(ctx.me) {
            return;
        }
        if granted {
            self.election.votes.insert(from);
            return self.count_votes(ctx);
        }
        if epoch <= self.epoch_seen() {
            return;
        }
        // A plan that this member never heard of is in force, so it has no part in it, and its leader may be one that
        // this member does not know. It can come back as a new member only.
        self.election.ahead.insert(from);
        let ahead = |plan: &Plan| {
            plan.council.iter().filter(|p| self.election.ahead.contains(p)).count()
                >= plan.majority()
        };
        if self.plan.as_ref().is_some_and(|plan| ahead(plan)) {
            tracing::warn!(job = %self.id, "was left behind by its council: lets the job go");
            self.unload(|_| true, ctx);
            self.ending = Some(Ending::LeftBehind);
        }
    }

    fn count_votes(&mut self, ctx: &mut Ctx<'_>) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        let votes = plan.council.iter().filter(|p| self.election.votes.contains(p)).count();
        if self.lead.is_some() || votes < plan.majority() {
            return;
        }
        tracing::info!(job = %self.id, term = self.election.term.number(), votes, "leads");
        self.election.leader = Some(ctx.me);
        self.election.heard = ctx.now;
        self.election.stands_at = None;
        self.lead = Some(Lead::elected(self.election.term, plan.epoch, ctx.now));
        self.tell_losses(ctx);
        self.inquire(ctx);
    }
}
