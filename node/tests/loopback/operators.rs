//! Every operator and composition across a real link: the operator suite as jobs of two stages on two peers.
//!
//! A job holds many cases, each cut in two at a place of its own nodes (`wattle_models::suite::bundle`); one step of plain
//! gradient descent with rate 1 turns parameters, which start at zero, into negative gradients. Each case has a bias whose
//! gradient is the case's loss.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wattle_models::suite::bundle::{MEMORY, Place, bundle, groups, prefix};
use wattle_models::suite::run::job;
use wattle_models::suite::{Case, cases};
use wattle_models::{DeviceChoice, on_one_thread, run_single};
use wattle_node::follow::{Follower, missing_peers};
use wattle_node::runlog::End;
use wattle_node::swarm_options::JoinOptions;
use wattle_protocol::job::JobSpec;

use super::{turn, up_with};

/// How long each part of a job may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest difference from one process, relative to the largest gradient of a parameter: a stage adds its own part of a
/// cotangent first, so that sums of three and more terms may round differently.
const TOLERANCE: f32 = 1e-6;

/// What a swarm made of a job.
struct Ran {
    loss: f64,
    parameters: BTreeMap<String, Vec<f32>>,
    /// Names of the values that crossed the link.
    crossed: Vec<String>,
}

/// Submits a job through one of the peers and follows it to its end.
async fn swarm(spec: &JobSpec, network: &str, ticket: &str) -> Ran {
    let join = JoinOptions {
        network: network.into(),
        tickets: vec![ticket.into()],
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        mdns: false,
        ..JoinOptions::default()
    };
    let mut follower = Follower::join(&join).await.unwrap();
    follower.wait_for_peers(PATIENCE, |peers| missing_peers(peers, 2)).await.unwrap();
    let job = follower.submit(spec, None).await.unwrap();
    while follower.log.end.is_none() {
        tokio::time::timeout(PATIENCE, follower.next()).await.unwrap().unwrap();
    }
    assert_eq!(follower.log.end, Some(End::Finished));
    let works = follower.node().works(job).await;
    assert_eq!(works.len(), 2, "the job has two stages");
    let sent = works.iter().flat_map(|work| {
        work.graph.sends.iter().map(|(_, edge)| work.graph.values[&edge.value].name.clone())
    });
    let crossed = sent.collect();
    let loss = follower.log.loss_curve()[0];
    let pulled = follower.pull(PATIENCE).await.unwrap();
    let parameters = pulled.into_iter().map(|(name, tensor)| (name, tensor.data)).collect();
    follower.leave().await;
    Ran { loss, parameters, crossed }
}

/// Returns which cases have a value that crossed the link.
fn cases_across(cases: &[Case], crossed: &[String]) -> BTreeSet<String> {
    let across = |at: usize| crossed.iter().any(|name| name.starts_with(&prefix(at)));
    let ids = cases.iter().enumerate().filter(|(at, _)| across(*at));
    ids.map(|(_, case)| case.id()).collect()
}

/// Says which parameters of a swarm differ from those of one process, and how many are the very bits.
fn differences(
    cases: &[Case],
    want: &BTreeMap<String, Vec<f32>>,
    ran: &Ran,
) -> (Vec<String>, usize) {
    let (mut wrong, mut equal) = (Vec::new(), 0);
    for (name, want) in want {
        let got = &ran.parameters[name];
        assert_eq!(want.len(), got.len(), "{name}");
        equal += usize::from(want.iter().zip(got).all(|(a, b)| a.to_bits() == b.to_bits()));
        let most = want.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let off = want.iter().zip(got).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        if off > TOLERANCE * most {
            let case = (0..cases.len()).find(|at| name.starts_with(&prefix(*at)));
            let id = case.map_or(String::new(), |at| cases[at].id());
            wrong.push(format!("{id}: {name} off {off} of {most}"));
        }
    }
    (wrong, equal)
}

/// Holds what a swarm made of a job against one process; returns what was compared.
fn check(cases: &[Case], spec: &JobSpec, ran: &Ran, place: Place) -> String {
    let mut loss = f64::NAN;
    let single = || run_single(spec, DeviceChoice::Cpu, |_, mean| loss = mean);
    let want = on_one_thread(single).unwrap().unwrap();
    let (wrong, equal) = differences(cases, &want, ran);
    assert!(wrong.is_empty(), "{place:?}: {} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let off = (loss - ran.loss).abs();
    assert!(off <= f64::from(TOLERANCE) * loss.abs(), "losses {loss} and {}", ran.loss);
    let (cases, crossed, all) = (cases.len(), ran.crossed.len(), want.len());
    format!(
        "{place:?}: {cases} cases, {crossed} values crossed, {equal} of {all} gradients the very bits"
    )
}

/// Goal: whatever the operator, two peers with a link between them compute what one process computes. Method: all cases
/// with a loss, cut before, within and after their own nodes; gradients by parameter, and which case's values crossed.
#[test]
fn every_operator_gives_the_same_across_a_link() {
    let _turn = turn();
    let network = format!("operators-{}", std::process::id());
    let memory = ["--memory", &MEMORY.to_string()];
    let (_one, ticket) = up_with(&network, None, &memory);
    let (_two, _) = up_with(&network, Some(&ticket), &memory);
    let cases = cases().into_iter().filter(|case| !case.forward_only).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut jobs = 0;
    for cases in groups(cases).unwrap() {
        let mut across = BTreeSet::new();
        for place in [Place::Start, Place::Middle, Place::End] {
            jobs += 1;
            let mut spec = job(bundle(&cases, place).unwrap());
            spec.name = format!("{network}-{jobs}");
            spec.swarm.stages = Some(2);
            let ran = runtime.block_on(swarm(&spec, &network, &ticket));
            let here = cases_across(&cases, &ran.crossed);
            let with_operands = cases.iter().filter(|case| !case.operands.is_empty());
            let missing: Vec<_> =
                with_operands.map(Case::id).filter(|id| !here.contains(id)).collect();
            let few = &missing[..missing.len().min(10)];
            assert!(few.is_empty(), "{place:?}: nothing crossed of {}, as {few:?}", missing.len());
            println!("{}", check(&cases, &spec, &ran, place));
            across.extend(here);
        }
        let never: Vec<_> = cases.iter().map(Case::id).filter(|id| !across.contains(id)).collect();
        assert!(never.is_empty(), "nothing of {never:?} ever crossed the link");
    }
}
