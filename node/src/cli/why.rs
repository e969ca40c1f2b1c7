//! `wattle why`: where the time of a running job's steps goes, from what its members remember of the last ones.

use std::collections::BTreeMap;
use std::time::Duration as StdDuration;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wattle_protocol::ids::{JobId, PeerId};
use wattle_protocol::swarm::io::{Command, Event};
use wattle_protocol::swarm::why::{Answer, Cause, Explanation, explain};
use wattle_protocol::units::Duration;

use super::look::{LookArgs, job};
use crate::driver::Node;
use crate::output::Output;
use crate::survey::settle;
use crate::up::hex;

/// How long answers are waited for; a member answers a peer once a second.
const ANSWERS: StdDuration = StdDuration::from_millis(1200);
/// How often members are asked: the answer that was quickest lays its clock over ours best.
const ROUNDS: usize = 3;
/// Operators of a stage that are named; what is left of it is summed up.
const NAMED: usize = 8;

/// Arguments of `wattle why`.
#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// The job, as 32 hexadecimal digits; not needed where the swarm works on one only.
    #[arg(value_name = "JOB", value_parser = job)]
    job: Option<JobId>,
    #[command(flatten)]
    look: LookArgs,
}

/// Explains the last steps of a job.
///
/// *Errors*: nobody is found, no such job, or no step of which all is remembered.
pub(super) async fn run(args: WhyArgs, output: &Output) -> anyhow::Result<()> {
    let limit = StdDuration::from_secs(args.look.wait);
    let (node, mut events) = Node::start(args.look.join.options().node(None)?).await?;
    if let Some(job) = args.job {
        node.seek(job).await;
    }
    settle(&node, limit).await;
    let found = ask(&node, &mut events, args.job).await;
    node.stop().await;
    let (job, found) = found?;
    output.data(&line(job, &found), &text(job, &found));
    Ok(())
}

async fn ask(
    node: &Node,
    events: &mut mpsc::Receiver<Event>,
    job: Option<JobId>,
) -> anyhow::Result<(JobId, Explanation)> {
    let job = match job {
        Some(job) => job,
        None => the_only(node, events).await?,
    };
    let mut best: BTreeMap<PeerId, Answer> = BTreeMap::new();
    for _ in 0..ROUNDS {
        node.command(Command::AskTraces(job)).await;
        for event in heard(events).await {
            let Event::Traces(answer) = event else { continue };
            if answer.traces.job != job {
                continue;
            }
            // The clocks are laid over each other once: by the answer that was on its way for the shortest time.
            let ahead = match best.get(&answer.peer) {
                Some(known) if known.trip <= answer.trip => (known.ahead, known.trip),
                Some(_) | None => (answer.ahead, answer.trip),
            };
            let answer = Answer { ahead: ahead.0, trip: ahead.1, ..*answer };
            best.insert(answer.peer, answer);
        }
    }
    anyhow::ensure!(
        !best.is_empty(),
        "nobody of job {job} has answered: it may have ended, or its members were not found (pass --join TICKET of one); \
         `wattle status` lists the jobs that run"
    );
    let answers: Vec<Answer> = best.into_values().collect();
    let found = explain(&answers);
    let found =
        found.context("no step is remembered whole yet; try again when the job has done a few")?;
    Ok((job, found))
}

/// Returns what is heard while answers are waited for.
async fn heard(events: &mut mpsc::Receiver<Event>) -> Vec<Event> {
    let mut list = Vec::new();
    let listening = async {
        while let Some(event) = events.recv().await {
            list.push(event);
        }
    };
    // The node may have stopped; then there is nothing more to hear.
    tokio::time::timeout(ANSWERS, listening).await.unwrap_or_default();
    list
}

/// Returns the job that the swarm works on, where there is one.
async fn the_only(node: &Node, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<JobId> {
    node.command(Command::AskRuns).await;
    let (mut jobs, mut peers) = (BTreeMap::new(), 0);
    for event in heard(events).await {
        if let Event::Runs { briefs, .. } = event {
            peers += 1;
            let open = briefs.into_iter().filter(|brief| brief.done < brief.steps);
            jobs.extend(open.map(|brief| (brief.job, brief.name)));
        }
    }
    let names: Vec<String> =
        jobs.iter().map(|(job, name)| format!("{} ({name})", hex(job.bytes()))).collect();
    match jobs.first_key_value() {
        Some((job, _)) if jobs.len() == 1 => Ok(*job),
        Some(_) => anyhow::bail!("there are several jobs; name one: {}", names.join(", ")),
        None if peers > 0 => anyhow::bail!("none of the {peers} peers that were asked runs a job"),
        None => {
            anyhow::bail!(
                "no peer has answered; pass --join TICKET of one that takes part in the job"
            )
        }
    }
}

/// What a group of causes is called, and what within it.
fn names(cause: &Cause) -> (String, String) {
    let end = || "end of step".to_owned();
    match cause {
        Cause::Operator(stage, peer, name) => {
            (format!("stage {} on {peer}", stage.index()), name.clone())
        }
        Cause::Around(stage, peer) => {
            (format!("stage {} on {peer}", stage.index()), "around operators".to_owned())
        }
        Cause::Link(from, to) => (format!("link {from} -> {to}"), String::new()),
        Cause::Wait(peer) => ("waits between tasks".to_owned(), format!("at {peer}")),
        Cause::Reduce(stage, _) => (end(), format!("sums of stage {}", stage.index())),
        Cause::Shared(from, to) => (end(), format!("gradients {from} -> {to}")),
        Cause::Store(from, to) => (end(), format!("gradient to backup {from} -> {to}")),
        Cause::Report(from, to) => (end(), format!("report {from} -> {to}")),
        Cause::Decided(from, to) => (end(), format!("decision {from} -> {to}")),
        Cause::Update(stage, _) => (end(), format!("update of stage {}", stage.index())),
    }
}

/// Causes that a line sums up.
struct Group {
    name: String,
    took: Duration,
    parts: Vec<(String, Duration)>,
}

/// Returns groups of causes with their time and parts, the longest first.
fn groups(found: &Explanation) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (cause, took) in &found.parts {
        let (name, part) = names(cause);
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => {
                group.took += *took;
                group.parts.push((part, *took));
            }
            None => groups.push(Group { name, took: *took, parts: vec![(part, *took)] }),
        }
    }
    groups.sort_by(|a, b| b.took.cmp(&a.took).then_with(|| a.name.cmp(&b.name)));
    groups
}

fn percent(took: Duration, found: &Explanation) -> f64 {
    100.0 * took.seconds() / found.step.seconds().max(1e-9)
}

fn text(job: JobId, found: &Explanation) -> String {
    let known = 100.0 - percent(found.unknown, found);
    let mut text = format!(
        "Job {job}: {} a step (mean of {}), {known:.0} % of it on the critical path of members' own clocks.\n",
        found.step, found.steps
    );
    for Group { name, took, parts } in groups(found) {
        let share = percent(took, found);
        if share < 0.05 {
            continue;
        }
        text.push_str(&format!("{share:>5.1} %  {name}"));
        let named = parts.iter().filter(|(part, _)| !part.is_empty()).take(NAMED);
        let list: Vec<String> = named
            .filter(|(_, took)| percent(*took, found) >= 0.05)
            .map(|(part, took)| format!("{part} {:.1} %", percent(*took, found)))
            .collect();
        if !list.is_empty() {
            text.push_str(&format!(" ({})", list.join(", ")));
        }
        text.push('\n');
    }
    text.push_str(&format!("{:>5.1} %  unattributed", percent(found.unknown, found)));
    if found.is_cut {
        text.push_str("\nA member had no room for all that happened: some of it is booked to what was around it.");
    }
    text
}

fn line(job: JobId, found: &Explanation) -> Value {
    let part = |(cause, took): &(Cause, Duration)| {
        let (kind, stage, peer, to, operator) = match cause {
            Cause::Operator(stage, peer, name) => {
                ("operator", Some(stage), peer, None, Some(name.as_str()))
            }
            Cause::Around(stage, peer) => ("around", Some(stage), peer, None, None),
            Cause::Link(from, to) => ("link", None, from, Some(to), None),
            Cause::Wait(peer) => ("wait", None, peer, None, None),
            Cause::Reduce(stage, peer) => ("reduce", Some(stage), peer, None, None),
            Cause::Shared(from, to) => ("shared", None, from, Some(to), None),
            Cause::Store(from, to) => ("store", None, from, Some(to), None),
            Cause::Report(from, to) => ("report", None, from, Some(to), None),
            Cause::Decided(from, to) => ("decision", None, from, Some(to), None),
            Cause::Update(stage, peer) => ("update", Some(stage), peer, None, None),
        };
        json!({
            "kind": kind,
            "stage": stage.map(|s| s.index()),
            "peer": hex(peer.bytes()),
            "to": to.map(|to| hex(to.bytes())),
            "operator": operator,
            "seconds": took.seconds(),
            "share": percent(*took, found) / 100.0,
        })
    };
    json!({
        "schema": "wattle.why.v1",
        "job": hex(job.bytes()),
        "steps": found.steps,
        "step_seconds": found.step.seconds(),
        "is_cut": found.is_cut,
        "attributed": 1.0 - percent(found.unknown, found) / 100.0,
        "parts": found.parts.iter().map(part).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
