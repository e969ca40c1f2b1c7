//! What the demonstration says: who takes part, what happens live, and the closing table and JSON line.

use anyhow::Context as _;
use serde_json::json;
use wattle_protocol::ids::{PeerId, StageId};
use wattle_protocol::job::JobSpec;
use wattle_protocol::wire::message::News;

use super::cast::{Cast, Role};
use super::compare::Comparison;
use super::roles::plan_text;
use super::{DemoOptions, Fault, view};
use crate::driver::PeerView;
use crate::follow::Follower;
use crate::output::Output;
use crate::runlog::{RunLog, StepLog};
use crate::up::hex;

/// A line of progress is printed for every such share of all steps, and around faults.
const LINES: u64 = 20;
/// Relative difference of losses up to which a lossless swarm counts as equal to one process (f32 sums in another order).
const EQUAL: f64 = 1e-5;
/// The same where the swarm computes on a GPU and the reference too, with another order of sums.
const EQUAL_GPU: f64 = 1e-3;

/// Says what is about to happen and what is emulated.
pub fn opening(options: &DemoOptions, roles: &[Role], output: &Output) {
    let spec = &options.spec;
    output.progress(&format!(
        "Wattle demo: {} peers train {} ({} parameters) on {} for {} steps of {} micro-batches.",
        roles.len(),
        options.model,
        spec.dag.parameter_count(),
        spec.data.source,
        spec.train.steps,
        spec.train.micro_batches,
    ));
    if !options.limits {
        output.progress(
            "No limits are emulated: each peer has one thread of this machine, links are loopback.",
        );
        return;
    }
    output.progress(
        "Emulated, since this is one machine: each peer's share of a core, and the rate and latency of each link.",
    );
    for (place, role) in roles.iter().enumerate() {
        let links = super::cast::links(roles.len());
        let to: Vec<String> = links
            .iter()
            .filter(|((from, _), _)| *from == place)
            .map(|((_, to), link)| {
                let rate = link.rate.map(|r| format!("{:.0}", r.mbit())).unwrap_or_default();
                format!("{} {rate} Mbit/s {}", roles[*to].peer, link.latency)
            })
            .collect();
        output.progress(&format!(
            "  peer {}: {:.0} % of a core; to {}",
            role.peer,
            role.share * 100.0,
            to.join(", ")
        ));
    }
}

/// Says what the peers have measured.
pub fn peers(peers: &[PeerView], cast: &Cast, output: &Output) {
    output.progress("The peers have found and measured each other:");
    for member in &cast.members {
        let advert = view(peers, member.role.peer).and_then(|v| v.advert.as_ref());
        let Some((advert, hardware)) = advert.and_then(|a| Some((a, a.hardware.as_ref()?))) else {
            continue;
        };
        let links: Vec<String> = advert
            .links
            .iter()
            .filter(|l| cast.place(l.peer).is_some())
            .map(|l| format!("{} {} {}", l.peer, l.rate, l.round_trip))
            .collect();
        output.progress(&format!(
            "  peer {}: {}, {}, memory {}; {}",
            member.role.peer,
            hardware.device,
            hardware.speed,
            hardware.memory,
            links.join(", "),
        ));
    }
}

/// Writes stages as a person would.
pub fn stage_list(stages: &[StageId]) -> String {
    if stages.is_empty() {
        return "no stage".into();
    }
    let names: Vec<String> = stages.iter().map(ToString::to_string).collect();
    format!("stage {}", names.join(", "))
}

/// Returns the elements of data that one step consumes: tokens, or images.
pub fn samples(spec: &JobSpec) -> (u64, &'static str) {
    let dag = &spec.dag;
    let count = |name: &str| {
        dag.inputs().map(|id| dag.value(id)).find(|v| v.name == name).map(|v| v.fact.clone())
    };
    let micro_batches = u64::from(spec.train.micro_batches);
    if let Some(fact) = count("tokens") {
        return (fact.elements() as u64 * micro_batches, "tokens");
    }
    let images = count("images").and_then(|f| f.shape.first().copied()).unwrap_or(0);
    (images as u64 * micro_batches, "images")
}

/// Says what has just happened.
pub fn news(news: &News, follower: &Follower, output: &Output) {
    if output.is_json()
        && let Some(job) = follower.job()
    {
        output.data(&crate::lines::news(job, news), "");
    }
    match news {
        News::Waiting { reason } => output.progress(&format!("  waiting: {reason}")),
        News::Adopted { plan, leader, base, restart } => {
            output.progress(&plan_text(plan, *leader, base.number(), *restart));
        }
        News::Step { commit, .. } => {
            let Some(step) = follower.log.steps.get(&commit.step) else {
                return;
            };
            let text = step_text(step, follower.samples());
            let every = (follower.steps() / LINES).max(1);
            if commit.step.number().is_multiple_of(every) {
                output.progress(&format!("  {text}; {}", links_text(step)));
            } else {
                output.status(&format!("  {text}"));
            }
        }
        News::Lost { peer, stages, step } => {
            let then = if stages.is_empty() { "" } else { "; looking for who holds its state" };
            let held = stage_list(stages);
            output.progress(&format!("  peer {peer} is lost ({held}) in step {step}{then}"));
        }
        News::Finished { steps, .. } => output.progress(&format!("Finished: {steps} steps.")),
        News::Failed { reason } => output.progress(&format!("Failed: {reason}")),
    }
}

/// Most links written out in a line of progress.
const LINKS_SHOWN: usize = 4;

fn step_text(step: &StepLog, (samples, unit): (u64, &str)) -> String {
    let bubble = step.bubble().map_or(String::new(), |b| format!(", bubble {:.0} %", b * 100.0));
    let rate = samples as f64 / step.elapsed.seconds().max(1e-6);
    let number = step.commit.step.number();
    let (loss, elapsed) = (step.commit.loss, step.elapsed);
    format!("step {number:>4}  loss {loss:.4}  {elapsed}, {rate:.0} {unit}/s{bubble}")
}

fn links_text(step: &StepLog) -> String {
    let links = step.links();
    let mut over: Vec<String> = links
        .iter()
        .take(LINKS_SHOWN)
        .map(|((from, to), bytes)| format!("{}>{} {bytes}", brief(*from), brief(*to)))
        .collect();
    if links.len() > LINKS_SHOWN {
        over.push(format!("{} links more", links.len() - LINKS_SHOWN));
    }
    format!("{} over links: {}", step.bytes(), over.join(", "))
}

/// Half a short id: enough to tell the few peers of a line apart.
fn brief(peer: PeerId) -> String {
    peer.short().chars().take(4).collect()
}

/// Everything there is to tell at the end.
pub struct Story<'a> {
    /// What was asked for.
    pub options: &'a DemoOptions,
    /// The peers.
    pub cast: &'a Cast,
    /// What they had measured.
    pub peers: &'a [PeerView],
    /// What happened.
    pub log: &'a RunLog,
    /// What was done to them.
    pub fault: Option<Fault>,
    /// The single process.
    pub comparison: Option<Comparison>,
}

impl std::fmt::Debug for Story<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Story").finish_non_exhaustive()
    }
}

impl Story<'_> {
    /// Seconds from the kill to the next committed step.
    pub fn recovery_seconds(&self) -> Option<f64> {
        let fault = self.fault.as_ref()?;
        Some(fault.recovered?.since(fault.at).seconds())
    }

    /// Steps that were begun again because of the kill: measured, from the plans that followed.
    pub fn recovery_steps(&self) -> Option<u64> {
        self.log.steps_redone(self.fault.as_ref()?.at)
    }

    /// Says what the kill cost, from what was heard afterwards.
    pub fn recovery(&self) -> String {
        let curve = self.log.loss_curve();
        let all = curve.len() as u64 == self.options.spec.train.steps;
        let lost = if all { "no step was lost" } else { "steps are missing" };
        match self.recovery_steps() {
            None => format!("{lost}, and no other plan was needed"),
            Some(1) => format!("the step in work was begun again, {lost}"),
            Some(steps) => format!("{steps} steps were begun again, {lost}"),
        }
    }

    /// Entropy of single tokens in nats, where the data are tokens.
    pub fn unigram_entropy(&self) -> Option<f64> {
        wattle_models::data::unigram_entropy(&self.options.spec.data.source)
    }

    /// Writes the report, the table and the last line.
    ///
    /// *Errors*: the report cannot be written, or the numbers disagree.
    pub fn close(&self, output: &Output) -> anyhow::Result<()> {
        if let Some(path) = &self.options.report {
            std::fs::write(path, crate::report::render(&super::page::page(self)))
                .with_context(|| format!("while writing the report {}", path.display()))?;
            output.progress(&format!("The report is in {}.", path.display()));
        }
        output.data(&self.json(), &self.table());
        let curve = self.log.loss_curve();
        let limit = if self.options.device == "cpu" { EQUAL } else { EQUAL_GPU };
        if let Some(comparison) = &self.comparison {
            let difference = comparison.loss_difference(&curve);
            if difference > limit || curve.len() != comparison.losses.len() {
                anyhow::bail!(
                    "the swarm's losses differ from the single process's by {difference:.2e} (allowed: {limit:.0e})"
                );
            }
        }
        if let Some((step, before, after)) = self.log.contradictions.first() {
            anyhow::bail!("step {step} was done twice with different losses: {before} and {after}");
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let curve = self.log.loss_curve();
        let comparison = self.comparison.as_ref();
        let faults: Vec<_> = self
            .fault
            .iter()
            .map(|fault| {
                json!({
                    "peer": hex(fault.peer.bytes()),
                    "stages": fault.stages.iter().map(|s| s.index()).collect::<Vec<_>>(),
                    "leader": fault.leader,
                    "step": fault.step.number(),
                })
            })
            .collect();
        json!({
            "schema": "wattle.demo.v1",
            "model": self.options.model,
            "peers": self.options.peers,
            "stages": self.log.plan().map(|p| p.plan.stages.len()),
            "parameters": self.options.spec.dag.parameter_count(),
            "steps": curve.len(),
            "first_loss": curve.first(),
            "last_loss": curve.last(),
            "unigram_entropy": self.unigram_entropy(),
            "reference_last_loss": comparison.and_then(|c| c.losses.last()),
            "max_relative_loss_difference": comparison.map(|c| c.loss_difference(&curve)),
            "tensors_compared": comparison.map(|c| c.tensors),
            "tensors_equal": comparison.map(|c| c.equal),
            "max_relative_tensor_difference": comparison.map(|c| c.difference),
            "faults": faults,
            "recovery_seconds": self.recovery_seconds(),
            "recovery_steps": self.recovery_steps(),
            "epochs": self.log.plans.len(),
            "bytes_sent": self.log.bytes().count(),
            "predicted_step_seconds": self.log.plans.first().map(|p| p.plan.prediction.step.seconds()),
            "measured_step_seconds": self.log.step_time().map(|d| d.seconds()),
            "reference_step_seconds": comparison.map(|c| c.step_seconds),
            "one_thread_step_seconds": comparison.map(|c| c.one_thread_seconds),
            "ideal_step_seconds": comparison.map(Comparison::ideal_seconds),
        })
    }

    fn table(&self) -> String {
        let rows = self.rows();
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter()
            .map(|(name, value)| format!("{name:<width$}  {value}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Returns the closing table: names and values.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let curve = self.log.loss_curve();
        let mut rows: Vec<(&'static str, String)> = vec![("steps", curve.len().to_string())];
        let loss = |x: Option<&f64>| x.map_or("-".into(), |l| format!("{l:.4}"));
        rows.push(("first loss", loss(curve.first())));
        rows.push(("last loss", loss(curve.last())));
        if let Some(entropy) = self.unigram_entropy() {
            rows.push(("unigram entropy of the corpus", format!("{entropy:.4} nats")));
        }
        if let Some(c) = &self.comparison {
            rows.push(("last loss in one process", loss(c.losses.last())));
            rows.push((
                "largest relative loss difference",
                format!("{:.2e}", c.loss_difference(&curve)),
            ));
            let worst = format!(
                "{} of {} bit-equal; largest relative difference {:.2e} {}",
                c.equal, c.tensors, c.difference, c.worst
            );
            rows.push(("final tensors", worst));
        }
        if let Some(fault) = &self.fault {
            let text = format!(
                "peer {} ({}) in step {}",
                fault.peer,
                stage_list(&fault.stages),
                fault.step
            );
            rows.push(("killed", text));
        }
        if let Some(seconds) = self.recovery_seconds() {
            let text = format!("{seconds:.2} s from the kill to the next committed step");
            rows.push(("recovery", format!("{text}; {}", self.recovery())));
        }
        rows.push(("tensor bytes over links", self.log.bytes().to_string()));
        if let (Some(plan), Some(step)) = (self.log.plans.first(), self.log.step_time()) {
            rows.push(("predicted step", plan.plan.prediction.step.to_string()));
            rows.push(("measured step (median)", step.to_string()));
            let (count, what) = samples(&self.options.spec);
            rows.push(("throughput", format!("{:.0} {what}/s", count as f64 / step.seconds())));
        }
        if let Some(c) = &self.comparison {
            let millis = |seconds: f64| format!("{:.1} ms a step", seconds * 1e3);
            rows.push(("one process, all cores", millis(c.step_seconds)));
            rows.push(("one process, one thread", millis(c.one_thread_seconds)));
            rows.push(("ideal: that over all cores", millis(c.ideal_seconds())));
        }
        rows
    }
}
