//! Runs the passes of a pipeline in integers: each device takes one pass after another, of several stages the one that
//! was ready first; each directed link carries one tensor after another.
//!
//! The same model as papers.md 1.7 for identical jobs on a line, but for any edges between stages, for several stages
//! on a device, and for stages whose micro-batches are dealt out to several workers. Pure; ties break on numbers.
//! Not here: where the times come from (`estimate`, `fence/judge`), nor what follows the last pass (`tail`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::ground::Ground;
use super::pipeline::{Pass, passes};
use crate::job::PipelineOrder;
use crate::units::Bytes;

/// A device that runs passes of a stage, and for how long, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worker {
    pub(super) device: usize,
    pub(super) forward: u64,
    pub(super) backward: u64,
    /// When it can begin.
    pub(super) ready: u64,
}

/// A stage.
#[derive(Clone, Debug)]
pub(super) struct Station {
    /// The owner first, then replicas.
    pub(super) workers: Vec<Worker>,
    /// Which worker runs each micro-batch; empty if the owner runs all.
    pub(super) turns: Vec<u16>,
}

impl Station {
    fn turn(&self, micro_batch: usize) -> usize {
        self.turns.get(micro_batch).map_or(0, |turn| usize::from(*turn))
    }
}

/// What crosses between two stages for each micro-batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) there: Bytes,
    /// The cotangent; None where no gradient flows.
    pub(super) back: Option<Bytes>,
}

/// Something that happened: a pass on a device, or a tensor on a link, with start and end in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Pass { stage: usize, device: usize, pass: Pass, start: u64, end: u64 },
    Transfer { from: usize, to: usize, start: u64, end: u64 },
}

/// What came of a run; times in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// End of the last pass, by stage and worker.
    pub(super) ended: Vec<Vec<u64>>,
    /// Time in passes, by stage and worker.
    pub(super) busy: Vec<Vec<u64>>,
    /// End of the last pass of all.
    pub(super) drained: u64,
    /// How long the busiest link carried tensors.
    pub(super) link_busy: u64,
    /// All that happened, where that was asked for.
    pub(super) spans: Vec<Span>,
}

/// A step to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course<'a> {
    pub(super) ground: &'a Ground<'a>,
    pub(super) order: PipelineOrder,
    pub(super) micro_batches: u32,
    /// Whether to keep what happened.
    pub(super) record: bool,
}

impl Course<'_> {
    /// Runs all passes of one step.
    ///
    /// *Cost*: O(passes x (wires of a stage + log workers)).
    pub(super) fn run(&self, stations: &[Station], wires: &[Wire]) -> Outcome {
        let mut run = Run::new(*self, stations, wires);
        for line in 0..run.lines.len() {
            run.queue(line);
        }
        while let Some(Reverse((start, since, line))) = run.ready.pop() {
            let begin = run.start(line).0;
            if begin > start {
                run.ready.push(Reverse((begin, since, line)));
                continue;
            }
            run.pass(line, begin);
        }
        debug_assert!(
            run.lines.iter().all(|l| l.next == l.passes.len()),
            "every pass has its turn"
        );
        let mut outcome = run.outcome;
        outcome.link_busy = run.links.iter().map(|(_, busy)| *busy).max().unwrap_or(0);
        outcome
    }
}

/// The passes of one worker.
#[derive(Debug)]
struct Line {
    station: usize,
    worker: usize,
    device: usize,
    passes: Vec<Pass>,
    next: usize,
}

#[derive(Debug)]
struct Run<'a> {
    course: Course<'a>,
    stations: &'a [Station],
    lines: Vec<Line>,
    /// First line of each station.
    first: Vec<usize>,
    /// Devices in use, renumbered.
    places: Vec<usize>,
    free: Vec<u64>,
    /// By pair of devices in use: free from, busy for.
    links: Vec<(u64, u64)>,
    /// Wires that start or end at each station.
    sends: Vec<Vec<Wire>>,
    receives: Vec<Vec<Wire>>,
    /// By direction, station and micro-batch: tensors that have not come, and when the last one did.
    inputs: Vec<(u16, u64)>,
    /// Lines whose next pass has its inputs: when it may begin as far as is known, since when it is ready, which line.
    ready: BinaryHeap<Reverse<(u64, u64, usize)>>,
    outcome: Outcome,
}

const fn parts(pass: Pass) -> (usize, bool) {
    match pass {
        Pass::Forward(m) => (m.index() as usize, false),
        Pass::Backward(m) => (m.index() as usize, true),
    }
}

impl<'a> Run<'a> {
    fn new(course: Course<'a>, stations: &'a [Station], wires: &[Wire]) -> Self {
        let mut places = vec![usize::MAX; course.ground.len()];
        let (mut devices, mut free) = (0, Vec::new());
        let (mut lines, mut first) = (Vec::new(), Vec::new());
        for (index, station) in stations.iter().enumerate() {
            first.push(lines.len());
            let all = passes(course.order, index, stations.len(), course.micro_batches);
            for (number, worker) in station.workers.iter().enumerate() {
                if places[worker.device] == usize::MAX {
                    places[worker.device] = devices;
                    devices += 1;
                    free.push(0);
                }
                let from: &mut u64 = &mut free[places[worker.device]];
                *from = (*from).max(worker.ready);
                // A worker runs its share of the order that one worker would run: no two can wait for each other.
                let own = all.iter().copied().filter(|p| station.turn(parts(*p).0) == number);
                let passes = own.collect();
                let device = worker.device;
                lines.push(Line { station: index, worker: number, device, passes, next: 0 });
            }
        }
        let (mut sends, mut receives) =
            (vec![vec![]; stations.len()], vec![vec![]; stations.len()]);
        for wire in wires {
            sends[wire.from].push(*wire);
            receives[wire.to].push(*wire);
        }
        let count = |list: &Vec<Wire>| u16::try_from(list.len()).unwrap_or(u16::MAX);
        let backs = |list: &Vec<Wire>| list.iter().filter(|w| w.back.is_some()).copied().collect();
        let mut inputs = Vec::new();
        for list in &receives {
            inputs.extend((0..course.micro_batches).map(|_| (count(list), 0)));
        }
        for list in &sends {
            let list = count(&backs(list));
            inputs.extend((0..course.micro_batches).map(|_| (list, 0)));
        }
        let by_worker = || stations.iter().map(|s| vec![0; s.workers.len()]).collect();
        let outcome = Outcome { ended: by_worker(), busy: by_worker(), ..Outcome::default() };
        Self {
            course,
            stations,
            lines,
            first,
            places,
            free,
            links: vec![(0, 0); devices * devices],
            sends,
            receives,
            inputs,
            ready: BinaryHeap::new(),
            outcome,
        }
    }

    fn input(&self, station: usize, pass: Pass) -> usize {
        let (micro_batch, back) = parts(pass);
        let row = if back { self.stations.len() + station } else { station };
        row * self.course.micro_batches as usize + micro_batch
    }

    /// Returns when a line's next pass can begin as far as is known, and since when it is ready.
    fn start(&self, line: usize) -> (u64, u64) {
        let line = &self.lines[line];
        let arrived = self.inputs[self.input(line.station, line.passes[line.next])].1;
        let since = arrived.max(self.outcome.ended[line.station][line.worker]);
        (since.max(self.free[self.places[line.device]]), since)
    }

    fn push(&mut self, line: usize) {
        let (begin, since) = self.start(line);
        self.ready.push(Reverse((begin, since, line)));
    }

    /// Queues a line whose next pass has all its inputs.
    fn queue(&mut self, line: usize) {
        let at = &self.lines[line];
        let next = at.passes.get(at.next);
        if next.is_some_and(|pass| self.inputs[self.input(at.station, *pass)].0 == 0) {
            self.push(line);
        }
    }

    fn pass(&mut self, line: usize, start: u64) {
        let at = &mut self.lines[line];
        let (station, number, device) = (at.station, at.worker, at.device);
        let pass = at.passes[at.next];
        at.next += 1;
        let (micro_batch, back) = parts(pass);
        let worker = &self.stations[station].workers[number];
        let span = if back { worker.backward } else { worker.forward };
        let end = start.saturating_add(span);
        self.free[self.places[device]] = end;
        let outcome = &mut self.outcome;
        outcome.ended[station][number] = end;
        outcome.busy[station][number] = outcome.busy[station][number].saturating_add(span);
        outcome.drained = outcome.drained.max(end);
        if self.course.record {
            outcome.spans.push(Span::Pass { stage: station, device, pass, start, end });
        }
        let wires = if back { self.receives[station].len() } else { self.sends[station].len() };
        for place in 0..wires {
            let (other, size) = match back {
                false => (self.sends[station][place].to, Some(self.sends[station][place].there)),
                true => (self.receives[station][place].from, self.receives[station][place].back),
            };
            if let Some(size) = size {
                self.deliver((device, end), (other, micro_batch, back), size);
            }
        }
        self.queue(line);
    }

    /// Sends a tensor to whoever runs a micro-batch at another station.
    fn deliver(
        &mut self,
        (from, end): (usize, u64),
        (station, micro_batch, back): (usize, usize, bool),
        size: Bytes,
    ) {
        let turn = self.stations[station].turn(micro_batch);
        let line = self.first[station] + turn;
        let to = self.lines[line].device;
        let mut arrival = end;
        if from != to {
            let (busy, travel) = self.course.ground.transfer(from, to, size);
            let link = &mut self.links[self.places[from] * self.free.len() + self.places[to]];
            let start = link.0.max(end);
            link.0 = start.saturating_add(busy.micros());
            link.1 = link.1.saturating_add(busy.micros());
            arrival = link.0.saturating_add(travel.micros());
            if self.course.record {
                self.outcome.spans.push(Span::Transfer { from, to, start, end: link.0 });
            }
        }
        let row = if back { self.stations.len() + station } else { station };
        let input = &mut self.inputs[row * self.course.micro_batches as usize + micro_batch];
        input.0 -= 1;
        input.1 = input.1.max(arrival);
        let waits = &self.lines[line];
        let awaited =
            waits.passes.get(waits.next).is_some_and(|p| parts(*p) == (micro_batch, back));
        if input.0 == 0 && awaited {
            self.push(line);
        }
    }
}

#[cfg(test)]
mod tests;
