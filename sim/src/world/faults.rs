//! Faults of a scenario: who is killed or slowed down when, and who comes back.

use rand_core::RngCore;
use wattle_protocol::ids::StageId;
use wattle_protocol::units::Duration;

use super::{Happening, World};
use crate::scenario::Victim;

impl World<'_> {
    /// Sets the faults going that happen at a time; those without one get a random moment of the undisturbed run.
    pub(super) fn set_faults(&mut self) {
        let whole = self.outcome.predicted_step * self.spec.train.steps as f64;
        for (number, fault) in self.scenario.faults.iter().enumerate() {
            let after = match (fault.at_ms, fault.after_step) {
                (Some(at), _) => Duration::from_millis(at),
                (None, Some(_)) => continue,
                (None, None) => {
                    let part = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
                    Duration::from_seconds(whole * part)
                }
            };
            self.fate(after, number);
        }
    }

    /// Sets the faults going that happen after a step.
    pub(super) fn faults_after(&mut self, step: u64) {
        for (number, fault) in self.scenario.faults.iter().enumerate() {
            if fault.after_step == Some(step) && fault.at_ms.is_none() {
                self.fate(Duration::ZERO, number);
            }
        }
    }

    fn fate(&mut self, after: Duration, number: usize) {
        let place = self.submitter();
        self.later(place, after, Happening::Kill(number));
    }

    /// Does what a fault says to whom it names: who is killed falls silent at once.
    pub(super) fn strike(&mut self, number: usize) {
        let Some(fault) = self.scenario.faults.get(number) else {
            return;
        };
        let Some(place) = fault.victim().ok().and_then(|victim| self.victim(victim)) else {
            return;
        };
        let step = self.outcome.losses.keys().next_back().map_or(0, |s| s + 1);
        if fault.slow.is_some() {
            let times = fault.times;
            self.trace
                .line(self.now, &format!("peer {place} slows down {times} times in step {step}"));
            self.nodes[place].slowness *= times;
            self.outcome.slowed.push((place, step));
            return;
        }
        self.trace.line(self.now, &format!("peer {place} is killed in step {step}"));
        let node = &mut self.nodes[place];
        node.alive = false;
        node.life += 1;
        node.queue.clear();
        node.busy = None;
        node.timers.clear();
        self.outcome.kills.push((place, step));
        self.waiting.push((self.now, step));
        if let Some(after) = fault.rejoin_after_ms {
            self.later(place, Duration::from_millis(after), Happening::Rejoin);
        }
    }

    fn victim(&mut self, victim: Victim) -> Option<usize> {
        let place = match victim {
            Victim::Peer(place) => place,
            Victim::Submitter => self.submitter(),
            Victim::Leader => *self.places.get(&self.plan.as_ref()?.1)?,
            Victim::Stage(stage) => {
                let owner = self.plan.as_ref()?.0.owner(StageId::new(stage))?;
                *self.places.get(&owner)?
            }
            Victim::Replica(stage) => {
                let roles = self.plan.as_ref()?.0.stages.get(usize::from(stage))?;
                *self.places.get(roles.replicas.first()?)?
            }
            Victim::Random => {
                let living: Vec<usize> =
                    (0..self.submitter()).filter(|p| self.nodes[*p].alive).collect();
                let draw = usize::try_from(self.rng.next_u32()).unwrap_or(0);
                *living.get(draw % living.len().max(1))?
            }
        };
        self.nodes.get(place).filter(|n| n.alive).map(|_| place)
    }

    /// Brings a peer back with its identity and nothing else.
    pub(super) fn rejoin(&mut self, place: usize) {
        let life = self.nodes[place].life;
        let hardware = self.nodes[place].hardware.clone();
        let Ok(mut node) = self.node(place, hardware) else {
            return;
        };
        node.life = life;
        self.nodes[place] = node;
        self.trace.line(self.now, &format!("peer {place} is back"));
        let living: Vec<bool> = self.nodes.iter().map(|n| n.alive).collect();
        self.arrive(place, |other| living[other]);
        let me = self.nodes[place].peer.id();
        for other in (0..living.len()).filter(|o| *o != place && living[*o]) {
            let after = self.network.link(other, place).latency;
            let found = wattle_protocol::swarm::io::Input::PeerFound(me);
            self.later(other, after, Happening::Input(found));
        }
    }
}
