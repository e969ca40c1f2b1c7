//! How long a step takes with an exchange, in virtual time, and how much of its communication is hidden.
//!
//! *Source*: papers.md 3.5: a worker computes a group's gradients, selects from them, and goes on while they are sent; the link
//! carries one group after another. All workers are alike, so that one time line is everybody's. Not counted: adding
//! up what has arrived, and the update.

use wattle_protocol::codec::lags::{Costs, Layer, gain_max};
use wattle_protocol::codec::{Floats, Form};
use wattle_protocol::replica::MergeGroups;
use wattle_protocol::replica::ratio::{Ring, adaptive, sending};
use wattle_protocol::replica::warmup::{keep, ratio_at};
use wattle_protocol::units::{Bytes, Duration};

use super::layers::Passes;
use super::scenario::{ExchangePart, ReplicaScenario, Way};

/// Thresholds of merge groups that are tried: powers of two from this one on.
const THRESHOLD_MIN: u32 = 10;
/// The last of them.
const THRESHOLD_MAX: u32 = 27;

/// What the steps of a scenario take.
#[derive(Clone, Debug)]
pub struct Clock {
    passes: Passes,
    costs: Costs,
    ring: Ring,
}

/// A step, on average where workers take steps of their own between exchanges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// From one step's begin to the next one's.
    pub step: Duration,
    /// Both passes.
    pub passes: Duration,
    /// Selecting.
    pub selecting: Duration,
    /// All messages one after another.
    pub sending: Duration,
    /// What of that no computation hides.
    pub exposed: Duration,
    /// How many times quicker than with nothing hidden.
    pub gain: f64,
    /// The most that could be: no schedule gains more.
    pub gain_max: f64,
    /// What a worker puts on its link.
    pub bytes: Bytes,
    /// Merge groups.
    pub groups: usize,
    /// Of so many elements one is sent.
    pub ratio: f64,
}

impl StepTime {
    /// Returns how much of what hiding can save is saved: 0 where nothing is hidden, 1 at the bound.
    pub fn hidden_share(&self) -> f64 {
        if self.gain_max <= 1.0 { 1.0 } else { (self.gain - 1.0) / (self.gain_max - 1.0) }
    }
}

impl Clock {
    /// Follows a scenario's network.
    ///
    /// *Errors*: it cannot be trained, for people.
    pub fn of(scenario: &ReplicaScenario) -> Result<Self, String> {
        let dag = scenario.dag(scenario.micro_batch)?;
        let passes = Passes::of(dag, &scenario.compute)?;
        let (costs, ring) = scenario.costs();
        Ok(Self { passes, costs, ring })
    }

    /// Returns the passes of one worker.
    pub fn passes(&self) -> &Passes {
        &self.passes
    }

    /// Returns the merge groups of an exchange: as it says, else those with which its step is shortest in the end.
    pub fn groups(&self, exchange: &ExchangePart) -> MergeGroups {
        let layers = &self.passes.layers;
        let cut = |threshold| {
            MergeGroups::of(layers, threshold)
                .expect("networks have parameters, none of them empty")
        };
        if exchange.way == Way::Whole {
            return cut(usize::MAX);
        }
        if let Some(threshold) = exchange.merge {
            return cut(threshold);
        }
        let powers = (THRESHOLD_MIN..=THRESHOLD_MAX).map(|power| 1 << power);
        let all = [0].into_iter().chain(powers).chain([usize::MAX]).map(cut);
        let best = all.min_by_key(|groups| self.time(exchange, groups, u64::MAX).step);
        best.unwrap_or_else(|| cut(usize::MAX))
    }

    /// Returns the form of each merge group in a step.
    pub fn forms(&self, exchange: &ExchangePart, groups: &MergeGroups, step: u64) -> Vec<Form> {
        let layers = groups.layers(&self.passes.layers);
        let ratio = ratio_at(exchange.ratio, exchange.warmup, step);
        let largest = |layer: &Layer| {
            let keep = keep(layer.elements, ratio);
            let form = Form::TopK { keep, values: Floats::F32 };
            // Messages to everybody are longer than a ring's once they hold about one element in nine.
            let takes = |form| sending(&self.costs, &self.ring, form, layer.elements);
            if takes(form) < takes(Form::DENSE) && ratio > 1 { form } else { Form::DENSE }
        };
        match exchange.way {
            Way::Dense => vec![Form::DENSE; layers.len()],
            Way::Whole | Way::Layers => layers.iter().map(largest).collect(),
            Way::Adaptive => {
                // Where the host selects, a group is under way beside the next one's pass alone.
                let select =
                    if exchange.host_select_ps.is_some() { 0.0 } else { self.costs.select };
                adaptive(&layers, &Costs { select, ..self.costs }, &self.ring, ratio)
            }
        }
    }

    /// Returns what a step takes; `u64::MAX` is one after all warm-up.
    pub fn step(&self, exchange: &ExchangePart, step: u64) -> StepTime {
        self.time(exchange, &self.groups(exchange), step)
    }

    /// The same with groups that were chosen.
    pub fn time(&self, exchange: &ExchangePart, groups: &MergeGroups, step: u64) -> StepTime {
        let forms = self.forms(exchange, groups, step);
        let layers = groups.layers(&self.passes.layers);
        let every = exchange.local_steps.max(1);
        let overlap = exchange.overlap && every == 1 && exchange.way != Way::Whole;
        let (forward, backward) = (self.passes.forward, self.passes.backward());
        let host = exchange.host_select_ps;
        let costs = host.map_or(self.costs, |time| Costs { select: time / 1e12, ..self.costs });
        // What does not overlap begins when all gradients are there.
        let begin = if overlap { Duration::ZERO } else { backward };
        let mut line = Line { computed: begin, selected: begin, ..Line::default() };
        let (mut bytes, mut kept) = (Bytes::ZERO, 0usize);
        for (layer, form) in layers.iter().zip(&forms) {
            let pass = if overlap { layer.backward } else { Duration::ZERO };
            let select = match form {
                Form::TopK { .. } => costs.selecting(layer.elements),
                Form::Dense(_) | Form::Int8 | Form::Int5 | Form::Int4 => Duration::ZERO,
            };
            line.add(
                pass,
                (select, host.is_some()),
                sending(&costs, &self.ring, *form, layer.elements),
            );
            bytes += self.bytes(*form, layer.elements);
            kept += if let Form::TopK { keep, .. } = form { *keep } else { layer.elements };
        }
        let average = |whole: Duration| Duration::from_micros(whole.micros() / every);
        let passes = forward + backward;
        let ready = line.computed.max(line.selected);
        let step = passes + average(forward + line.sent.max(ready) - passes);
        let (selecting, on_link) = (average(line.selecting), average(line.sending));
        let most = match host {
            // Device, host and link at once: no schedule is quicker than the slowest of them.
            Some(_) => {
                let whole = (passes + selecting + on_link).seconds();
                whole / (forward + backward.max(selecting).max(on_link)).seconds()
            }
            None => gain_max(forward, backward + selecting, on_link),
        };
        StepTime {
            step,
            passes,
            selecting,
            sending: on_link,
            exposed: average(line.sent - ready),
            gain: (passes + selecting + on_link).seconds() / step.seconds(),
            gain_max: most,
            bytes: Bytes::new(bytes.count() / every),
            groups: layers.len(),
            ratio: ratio(self.passes.elements(), kept),
        }
    }

    /// Returns what a worker puts on its link for one group.
    fn bytes(&self, form: Form, elements: usize) -> Bytes {
        let others = u64::from(self.ring.workers.saturating_sub(1));
        match form {
            Form::TopK { .. } => form.bytes(elements) * others,
            Form::Dense(_) | Form::Int8 | Form::Int5 | Form::Int4 => {
                let bytes = Form::DENSE.bytes(elements).count();
                Bytes::new(2 * others * bytes / u64::from(self.ring.workers.max(1)))
            }
        }
    }
}

/// Where device, host and link have got to with the groups so far, from the start of the backward pass.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    computed: Duration,
    selected: Duration,
    sent: Duration,
    selecting: Duration,
    sending: Duration,
}

impl Line {
    /// Adds a group: computed, then selected from by the device or on the host, then sent; each does one group at a time.
    ///
    /// *Source*: papers.md 3.5, b, s and c; that the host may select is ours.
    fn add(&mut self, pass: Duration, (select, on_host): (Duration, bool), send: Duration) {
        self.computed += pass;
        if on_host {
            self.selected = self.selected.max(self.computed) + select;
        } else {
            self.computed += select;
            self.selected = self.computed;
        }
        self.sent = self.sent.max(self.selected) + send;
        self.selecting += select;
        self.sending += send;
    }
}

#[expect(clippy::cast_precision_loss, reason = "gradients have far fewer than 2^53 elements")]
fn ratio(elements: usize, kept: usize) -> f64 {
    elements as f64 / kept.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The link and device of papers.md 3.4: a P102-100 among 16 workers on 1 Gbit/s Ethernet, as measured.
    fn authors(model: &str, [forward, backward]: [f64; 2], exchange: &str) -> ReplicaScenario {
        ReplicaScenario::parse(&format!(
            "model = \"{model}\"\nmicro_batch = 1\nworkers = 16\n\
             [link]\nmbit = 888.9\nlatency_ms = 0.436\ngather_ms = 11.0\ngather_ns = 17.0\nauthors_bytes = true\n\
             [compute]\nforward_ms = {forward}\nbackward_ms = {backward}\nselect_ps = 218.896957\n\
             [[exchanges]]\nname = \"one\"\n{exchange}"
        ))
        .unwrap()
    }

    fn time(model: &str, passes: [f64; 2], exchange: &str) -> StepTime {
        let scenario = authors(model, passes, exchange);
        Clock::of(&scenario).unwrap().step(&scenario.exchanges[0], u64::MAX)
    }

    /// Whole-model selection: 3.10's end of communication, 0.6721 s after the backward pass began, and 3.8's selection.
    #[test]
    fn the_whole_models_time_line_is_that_of_the_notes() {
        let found = time("lstm-ptb", [76.0, 130.89], "way = \"whole\"");
        assert!((found.step.seconds() - 0.076 - 0.6721).abs() < 0.0001, "{found:?}");
        assert!((found.selecting.seconds() - 0.3755).abs() < 0.0001, "{found:?}");
        assert!((found.exposed.seconds() - 0.1657).abs() < 0.0001, "{found:?}");
        assert!((found.gain - 1.0).abs() < 1e-9 && found.hidden_share().abs() < 1e-9);
        let resnet = time("resnet50", [90.0, 120.0], "way = \"whole\"");
        assert!((resnet.exposed.seconds() - 0.0776).abs() < 0.0001, "{resnet:?}");
    }

    /// A dense ring at the line's rate moves what 3.8's caution says.
    #[test]
    fn a_dense_ring_takes_what_the_line_allows() {
        let text = "model = \"resnet50\"\nmicro_batch = 1\nworkers = 16\n[link]\nmbit = 1000.0\nlatency_ms = 0.0\n\
                    [compute]\nforward_ms = 90.0\nbackward_ms = 120.0\nselect_ps = 218.9\n\
                    [[exchanges]]\nname = \"dense\"\nway = \"dense\"\nmerge = 1000000000\n";
        let scenario = ReplicaScenario::parse(text).unwrap();
        let found = Clock::of(&scenario).unwrap().step(&scenario.exchanges[0], 0);
        assert!((found.bytes.count() as f64 - 191.7e6).abs() < 0.1e6, "{found:?}");
        assert!((found.sending.seconds() - 1.533).abs() < 0.001, "{found:?}");
    }

    /// No exchange gains more than the bound, and merge groups that are chosen are no worse than any that are asked for.
    #[test]
    fn chosen_groups_are_the_best_of_those_tried_and_no_step_beats_the_bound() {
        for way in ["dense", "layers", "adaptive"] {
            let best = time("resnet50", [90.0, 120.0], &format!("way = \"{way}\""));
            assert!(best.gain <= best.gain_max + 1e-9 && best.hidden_share() <= 1.0, "{best:?}");
            for merge in [0usize, 8192, 1 << 20, usize::MAX >> 1] {
                let text = format!("way = \"{way}\"\nmerge = {merge}");
                let found = time("resnet50", [90.0, 120.0], &text);
                assert!(
                    found.step >= best.step && found.gain <= found.gain_max + 1e-9,
                    "{way} {merge}"
                );
            }
        }
    }

    /// A host that selects as quickly as the device makes a step shorter, and hides what the device would have waited for.
    #[test]
    fn selecting_on_the_host_holds_nothing_up() {
        let passes = [90.0, 120.0];
        let device = time("resnet50", passes, "way = \"layers\"");
        let host = time("resnet50", passes, "way = \"layers\"\nhost_select_ps = 218.896957");
        assert!(host.step < device.step && host.gain <= host.gain_max + 1e-9, "{host:?}");
        let free = time("resnet50", passes, "way = \"layers\"\nhost_select_ps = 0.0");
        assert!(free.step <= host.step && free.selecting == Duration::ZERO);
    }

    /// Steps of one's own share the cost of an exchange; warm-up sends more at first.
    #[test]
    fn local_steps_divide_and_warm_up_adds() {
        let passes = [90.0, 120.0];
        let one = time("resnet50", passes, "way = \"whole\"");
        let ten = time("resnet50", passes, "way = \"whole\"\nlocal_steps = 10");
        let extra = |time: &StepTime| (time.step - time.passes).seconds();
        assert!((extra(&one) / extra(&ten) - 10.0).abs() < 0.01);
        let scenario = authors("resnet50", passes, "way = \"layers\"\nwarmup = 4");
        let clock = Clock::of(&scenario).unwrap();
        let at = |step| clock.step(&scenario.exchanges[0], step);
        assert!(at(0).bytes > at(3).bytes && at(3).bytes > at(4).bytes);
        assert_eq!(at(4), at(u64::MAX));
    }
}
