//! What a stage takes of a peer's memory, from sums over its units: the executor's own rule ([`Demand`]) on a rough
//! [`Footprint`], for whoever lays networks and whoever judges layouts.
//!
//! Left out is what only the cut can tell: what passes take beside what they keep, headers, the largest parameter.

use super::super::footprint::{Demand, Footprint};
use super::super::groups::Groups;
use super::grain::Grain;
use crate::dag::bundle::optimizer_slots;
use crate::job::JobSpec;
use crate::units::Bytes;

/// What a job's stages hold beside their values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Copies of parameters, with what the optimizer keeps.
    copies: u64,
    /// Sums of gradients.
    groups: u64,
    has_backups: bool,
}

/// Sums over the units of a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub(super) parameters: Bytes,
    /// Results that backward passes read, and inputs of the network.
    pub(super) saved: Bytes,
    pub(super) inputs: Bytes,
    /// What comes from stages before.
    pub(super) outside: Bytes,
}

/// How a stage's passes run: on how many workers, how many micro-batches each keeps, with recomputation or without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) workers: usize,
    pub(super) kept: u64,
    pub(super) recompute: bool,
}

impl Memory {
    pub(super) fn of(spec: &JobSpec) -> Self {
        let copies = 1 + optimizer_slots(&spec.train.optimizer) as u64;
        let groups = u64::from(Groups::of(spec).count());
        Self { copies, groups, has_backups: spec.swarm.backups > 0 }
    }

    /// Returns what the whole network takes at most, if one peer runs it and keeps so many micro-batches.
    pub(super) fn most(&self, grain: &Grain, micro_batches: u32) -> Bytes {
        let own = grain.parameters.iter().map(|(bytes, _)| *bytes).sum::<Bytes>();
        let tied = grain.ties.iter().map(|(bytes, _)| *bytes).sum::<Bytes>();
        let (saved, inputs) =
            (grain.saved.iter().copied().sum(), grain.inputs.iter().copied().sum());
        let whole = Holding { parameters: own + tied, saved, inputs, outside: Bytes::ZERO };
        let running = Running { workers: 2, kept: u64::from(micro_batches), recompute: false };
        self.demand(&whole, running).peak
    }

    /// Returns what each worker of a stage needs for it.
    pub(super) fn demand(&self, holding: &Holding, running: Running) -> Demand {
        let Holding { parameters, saved, inputs, outside } = *holding;
        let state = parameters * self.copies;
        let (kept, again) = match running.recompute {
            false => (saved + inputs, Bytes::ZERO),
            true => (outside + inputs, saved),
        };
        let footprint = Footprint {
            state,
            saved: kept,
            sums: parameters,
            gathered: parameters,
            backward: again,
            arriving: outside,
            gradient: parameters,
            bundle: state,
            ..Footprint::default()
        };
        let flying = (running.kept, running.kept + 1);
        match running.workers {
            0 | 1 => Demand::of_owner(&footprint, flying, self.has_backups, self.groups),
            _ => Demand::of_worker(&footprint, flying, self.groups),
        }
    }
}
