//! `wattle demo`: a whole swarm on this machine: real processes, real network, one of them killed in the middle.
//!
//! Shares of the machine and links between the peers are emulated, and said to be; everything else is the product.
//! [`cast`] starts the peers, [`show`] says what happens, [`compare`] runs the same job in one process.

pub mod cast;
pub mod compare;
pub mod job;
pub mod page;
pub mod roles;
pub mod show;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use anyhow::{Context as _, bail};
use wattle_protocol::ids::{Epoch, PeerId, StageId, Step};
use wattle_protocol::job::JobSpec;
use wattle_protocol::units::Instant;
use wattle_protocol::wire::message::News;

use crate::driver::PeerView;
use crate::follow::{Follower, missing_links, missing_peers};
use crate::output::Output;
use crate::runlog::End;
use crate::swarm_options::JoinOptions;
use cast::{Cast, CastOptions, roles};
use compare::Comparison;

/// How long the peers may take to find and measure each other.
const GATHER: StdDuration = StdDuration::from_secs(120);
/// How long the job may be silent before the demonstration is given up.
const SILENCE: StdDuration = StdDuration::from_secs(120);
/// How long the final state may take to arrive.
const PULL: StdDuration = StdDuration::from_secs(120);

/// Who is killed in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Nobody.
    Nobody,
    /// The owner of a stage in the middle of the pipeline.
    Middle,
    /// The owner of this stage.
    Stage(u16),
    /// Whoever leads the job.
    Leader,
    /// A replica, of the first stage that has one.
    Replica,
}

/// Options of `wattle demo`.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Number of peer processes.
    pub peers: usize,
    /// The job.
    pub spec: JobSpec,
    /// Name of the model, for people.
    pub model: String,
    /// Device name for the peers.
    pub device: String,
    /// Emulate uneven shares and links.
    pub limits: bool,
    /// Who is killed.
    pub victim: Victim,
    /// After which committed step; None: in the middle.
    pub kill_after: Option<u64>,
    /// Pause between that step's commit and the kill, to hit any moment of the next step.
    pub kill_pause: StdDuration,
    /// Run the same job in one process and compare.
    pub reference: bool,
    /// Where the HTML report goes.
    pub report: Option<PathBuf>,
}

/// What the demonstration did to a peer.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Whom.
    pub peer: PeerId,
    /// Stages that it ran.
    pub stages: Vec<StageId>,
    /// Whether it led the job.
    pub leader: bool,
    /// Steps committed before.
    pub step: Step,
    /// When.
    pub at: Instant,
    /// Version of the plan in force then.
    pub epoch: Epoch,
    /// When the first step under a later plan was committed.
    pub recovered: Option<Instant>,
}

/// Runs the demonstration.
///
/// *Errors*: peers that do not start or find each other, a job that fails, numbers that disagree.
pub async fn demo(options: DemoOptions, output: Arc<Output>) -> anyhow::Result<()> {
    let end = crate::interrupt::asked_to_end().context("while listening to signals")?;
    let folder = std::env::temp_dir().join(format!("wattle-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("while making {}", folder.display()))?;
    let network = format!("wattle-demo-{}", std::process::id());
    let cast_options = CastOptions {
        peers: options.peers,
        device: options.device.clone(),
        limits: options.limits,
        folder: folder.clone(),
        network,
    };
    let (mut cast, mut follower) = (Cast::new(&cast_options), None);
    let ran = tokio::select! {
        ran = play(&options, &cast_options, &mut cast, &mut follower, &output) => ran,
        () = end => {
            output.progress("Interrupted: the peers are told to leave.");
            Err(anyhow::Error::new(Interrupted))
        }
    };
    // Whatever has been started ends here, however far it came.
    if let Some(follower) = follower {
        follower.leave().await;
    }
    cast.stop().await;
    // Who asks for logs wants to read them, and so does who has to find out what went wrong.
    let calm = ran.as_ref().map_or_else(|error| error.is::<Interrupted>(), |()| true);
    if calm && std::env::var_os("WATTLE_LOG").is_none() {
        std::fs::remove_dir_all(&folder).unwrap_or_default();
    } else {
        output.progress(&format!("The peers' logs are in {}.", folder.display()));
    }
    ran
}

/// Starts the peers, joins them, and runs the job.
async fn play(
    options: &DemoOptions,
    cast_options: &CastOptions,
    cast: &mut Cast,
    follower: &mut Option<Follower>,
    output: &Output,
) -> anyhow::Result<()> {
    let roles = roles(cast_options)?;
    show::opening(options, &roles, output);
    cast.start(cast_options, roles).await?;
    let join = JoinOptions {
        network: cast_options.network.clone(),
        tickets: vec![cast.ticket.clone()],
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        mdns: false,
        ..JoinOptions::default()
    };
    let follower = follower.insert(Follower::join(&join).await?);
    run(options, cast, follower, output).await
}

/// The user, or the system, asked the command to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

async fn run(
    options: &DemoOptions,
    cast: &mut Cast,
    follower: &mut Follower,
    output: &Output,
) -> anyhow::Result<()> {
    let wanted = options.peers;
    let peers = follower
        .wait_for_peers(GATHER, |peers| {
            missing_peers(peers, wanted).or_else(|| missing_links(peers))
        })
        .await?;
    show::peers(&peers, cast, output);
    follower.submit(&options.spec, None).await?;
    let mut fault = train(options, cast, follower, output).await?;
    if let Some(fault) = &mut fault {
        fault.recovered = follower
            .log
            .steps
            .values()
            .find(|s| s.epoch > fault.epoch && s.heard > fault.at)
            .map(|s| s.heard);
    }
    let learnt = follower.pull(PULL).await?;
    let comparison = if options.reference {
        output.progress("Running the same job in one process to compare.");
        let spec = options.spec.clone();
        let device = options.device.clone();
        let compared =
            tokio::task::spawn_blocking(move || Comparison::run(&spec, &device, &learnt));
        Some(compared.await.context("while running the reference")??)
    } else {
        None
    };
    let story = show::Story { options, cast, peers: &peers, log: &follower.log, fault, comparison };
    story.close(output)
}

/// Follows the job to its end, killing whom the options name on the way.
async fn train(
    options: &DemoOptions,
    cast: &mut Cast,
    follower: &mut Follower,
    output: &Output,
) -> anyhow::Result<Option<Fault>> {
    let middle = options.spec.train.steps / 2;
    let kill_after = options.kill_after.unwrap_or(middle.saturating_sub(1));
    let mut fault: Option<Fault> = None;
    loop {
        let next = tokio::time::timeout(SILENCE, follower.next()).await;
        let Ok(news) = next else {
            bail!("the job has been silent for {} s", SILENCE.as_secs());
        };
        let news = news?;
        show::news(&news, follower, output);
        if let Some((peer, log)) = cast.ended() {
            bail!("peer {peer} ended by itself; see {}", log.display());
        }
        match follower.log.end.clone() {
            Some(End::Finished) => return Ok(fault),
            Some(End::Failed(reason)) => bail!("the job failed: {reason}"),
            None => {}
        }
        let News::Step { commit, .. } = &news else {
            continue;
        };
        if fault.is_some() || commit.step.number() < kill_after {
            continue;
        }
        let Some((peer, stages, leader)) = victim(options.victim, follower) else {
            continue;
        };
        tokio::time::sleep(options.kill_pause).await;
        let at = follower.clock().now();
        cast.kill(peer).await?;
        let step = commit.step.next();
        output.progress(&format!(
            "  *** kill -9 of peer {peer} (owner of {}{}) during step {step}",
            show::stage_list(&stages),
            if leader { ", leader" } else { "" },
        ));
        let epoch = follower.log.plan().map(|p| p.plan.epoch).unwrap_or_default();
        fault = Some(Fault { peer, stages, leader, step, at, epoch, recovered: None });
    }
}

/// Finds whom to kill in the plan in force.
fn victim(who: Victim, follower: &Follower) -> Option<(PeerId, Vec<StageId>, bool)> {
    let current = follower.log.plan()?;
    let plan = &current.plan;
    let count = u16::try_from(plan.stages.len()).ok()?;
    let peer = match who {
        Victim::Nobody => return None,
        Victim::Middle => plan.owner(StageId::new(count / 2))?,
        Victim::Stage(index) => plan.owner(StageId::new(index.min(count.saturating_sub(1))))?,
        Victim::Leader => current.leader,
        Victim::Replica => *plan.stages.iter().find_map(|s| s.replicas.first())?,
    };
    let works = |s: &StageId| plan.stages[s.index()].place(peer).is_some();
    let stages = plan.stage_ids().filter(works).collect();
    Some((peer, stages, peer == current.leader))
}

/// Finds a peer's view by id.
pub(crate) fn view(peers: &[PeerView], id: PeerId) -> Option<&PeerView> {
    peers.iter().find(|p| p.peer == id)
}
