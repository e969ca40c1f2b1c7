//! What no step of a layout is shorter than, without running its passes: for changes that cannot help.
//!
//! A test holds it against what the passes take. Not here: what they take (`judge`).

use std::collections::BTreeMap;

use super::super::course::{Station, Wire, Worker};
use super::super::ground::Ground;
use crate::units::Bytes;

/// Returns a bound in microseconds: each device runs its passes, each stage after its first input has come and before its
/// last cotangent has gone all the way back. Wires lead to later stages.
pub(super) fn bound(
    ground: &Ground<'_>,
    stations: &[Station],
    wires: &[Wire],
    micro_batches: u32,
) -> u64 {
    let least = |station: usize, of: fn(&Worker) -> u64| {
        stations[station].workers.iter().map(of).min().unwrap_or(0)
    };
    let link = |from: usize, to: usize, size: Bytes| {
        let ends = |a: &Worker, b: &Worker| {
            let (busy, travel) = ground.transfer(a.device, b.device, size);
            (busy + travel).micros()
        };
        let (from, to) = (&stations[from].workers, &stations[to].workers);
        let times = from.iter().flat_map(|a| to.iter().map(move |b| ends(a, b)));
        times.min().unwrap_or(0)
    };
    let mut arrive: Vec<u64> = (0..stations.len()).map(|at| least(at, |w| w.ready)).collect();
    let mut depart = vec![0u64; stations.len()];
    // Whatever leads to a stage comes before what leads from it.
    let mut wires: Vec<&Wire> = wires.iter().collect();
    wires.sort_by_key(|wire| wire.to);
    for wire in wires {
        let (from, to) = (wire.from, wire.to);
        let sent = arrive[from].saturating_add(least(from, |w| w.forward));
        arrive[to] = arrive[to].max(sent.saturating_add(link(from, to, wire.there)));
        if let Some(size) = wire.back {
            let rest = depart[from].saturating_add(least(from, |w| w.backward));
            depart[to] = depart[to].max(rest.saturating_add(link(to, from, size)));
        }
    }
    let mut bound = 0;
    let mut devices: BTreeMap<usize, u64> = BTreeMap::new();
    for (at, station) in stations.iter().enumerate() {
        for (number, worker) in station.workers.iter().enumerate() {
            let own = station.turns.iter().filter(|turn| usize::from(**turn) == number).count();
            let turns = match station.turns.is_empty() {
                true => u64::from(micro_batches),
                false => own as u64,
            };
            if turns > 0 {
                let busy = worker.forward.saturating_add(worker.backward).saturating_mul(turns);
                bound = bound.max(arrive[at].saturating_add(busy).saturating_add(depart[at]));
                let sum = devices.entry(worker.device).or_insert(worker.ready);
                *sum = sum.saturating_add(busy);
            }
        }
    }
    devices.into_values().max().unwrap_or(0).max(bound)
}
