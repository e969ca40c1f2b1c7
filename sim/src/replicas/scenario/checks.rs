//! What each part of a scenario may say; every mistake is added to a list, for people.

use super::{ComputePart, ExchangePart, OuterPart, TrainPart, Way, WorkerLink};

/// Most steps of training: what is kept of each is little, but a mistyped number should not run for days.
const STEPS_MAX: u64 = 1_000_000;

impl WorkerLink {
    pub(super) fn check(self, wrong: &mut Vec<String>) {
        if !(self.mbit > 0.0 && self.mbit < 1e9) {
            wrong.push(format!("link: mbit = {} is no rate; write a number above 0", self.mbit));
        }
        let times = [
            ("latency_ms", Some(self.latency_ms)),
            ("gather_ms", self.gather_ms),
            ("gather_ns", self.gather_ns),
        ];
        for (name, value) in times {
            if let Some(value) = value.filter(|value| !(0.0..1e6).contains(value)) {
                wrong.push(format!("link: {name} = {value}; write 0 or more"));
            }
        }
    }
}

impl ComputePart {
    pub(super) fn check(self, wrong: &mut Vec<String>) {
        let Self { gflops, forward_ms, backward_ms, select_ps } = self;
        if gflops.is_some() == (forward_ms.is_some() && backward_ms.is_some())
            || forward_ms.is_some() != backward_ms.is_some()
        {
            wrong.push("compute: write either gflops, or forward_ms and backward_ms".into());
        }
        let times = [("gflops", gflops), ("forward_ms", forward_ms), ("backward_ms", backward_ms)];
        for (name, value) in times {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && *value < 1e9)) {
                wrong.push(format!("compute: {name} = {value}; write a number above 0"));
            }
        }
        if !(0.0..1e6).contains(&select_ps) {
            wrong.push(format!("compute: select_ps = {select_ps}; write 0 or more"));
        }
    }
}

impl ExchangePart {
    pub(super) fn check(&self, name: &str, wrong: &mut Vec<String>) {
        if self.ratio == 0 {
            wrong.push(format!("{name}: ratio = 0; one element in 1 or more is sent"));
        }
        if !(1..=STEPS_MAX).contains(&self.local_steps) {
            wrong.push(format!("{name}: local_steps = {}; write 1 or more", self.local_steps));
        }
        let OuterPart { rate, momentum, .. } = self.outer;
        if !(rate > 0.0 && rate <= 10.0 && (0.0..1.0).contains(&momentum)) {
            wrong.push(format!(
                "{name}: outer.rate = {rate}, outer.momentum = {momentum}; a rate lies above 0, momentum in [0, 1)"
            ));
        }
        if self.momentum_first && self.local_steps > 1 {
            wrong.push(format!("{name}: momentum_first is for gradients, not for changes"));
        }
        if self.host_select_ps.is_some_and(|time| !(0.0..1e6).contains(&time)) {
            wrong.push(format!("{name}: host_select_ps; write 0 or more"));
        }
        if self.learning_rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1000.0)) {
            wrong.push(format!("{name}: learning_rate lies above 0"));
        }
        if self.way == Way::Adaptive && self.local_steps > 1 {
            wrong.push(format!(
                "{name}: no backward pass hides the exchange of changes; take way = \"layers\""
            ));
        }
    }
}

impl TrainPart {
    pub(super) fn check(&self, wrong: &mut Vec<String>) {
        if !(1..=STEPS_MAX).contains(&self.steps) {
            wrong.push(format!("train: steps = {}; 1 to {STEPS_MAX} are possible", self.steps));
        }
        if self.seeds.is_empty() {
            wrong.push("train: seeds is empty; write at least one".into());
        }
        let known = wattle_models::data::names();
        for name in [&self.data, &self.held].into_iter().flatten() {
            if !known.contains(&name.as_str()) {
                wrong.push(format!(
                    "train: there is no data source \"{name}\"; there are {}",
                    known.join(", ")
                ));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1000.0) {
            wrong.push(format!(
                "train: learning_rate = {}; write a number above 0",
                self.learning_rate
            ));
        }
        if !(0.0..1.0).contains(&self.momentum) {
            wrong.push(format!("train: momentum = {} lies outside [0, 1)", self.momentum));
        }
        if self.clip_norm.is_some_and(|most| most <= 0.0 || most.is_nan()) {
            wrong.push("train: clip_norm lies above 0".into());
        }
        if self.held_batch == 0 || self.held_batches == 0 {
            wrong.push("train: held_batch and held_batches are 1 or more".into());
        }
    }
}
