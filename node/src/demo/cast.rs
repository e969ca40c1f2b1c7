//! The demonstration's peers: separate processes of this binary with uneven, emulated shares and links.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration as StdDuration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use wattle_protocol::ids::PeerId;
use wattle_protocol::swarm::{Config, Peer};
use wattle_protocol::units::{Duration, Rate};

use crate::net::{EmulatedLink, EmulatedLinks};

/// Relative speeds, repeated as needed.
const SPEEDS: [f64; 4] = [1.0, 0.8, 0.65, 0.5];
/// Share of the machine's cores that all peers together may use; the rest is for the network and the parent.
const CORES_USED: f64 = 0.9;
/// Link classes as (Mbit/s, one-way milliseconds), by the sum of the two peers' places.
const LINKS: [(f64, u64); 5] = [(400.0, 1), (200.0, 2), (300.0, 1), (100.0, 3), (250.0, 2)];
/// How long a peer may take to open its ports.
const START: StdDuration = StdDuration::from_secs(60);

/// What a member of the cast is made to be.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its identity.
    pub identity: [u8; 32],
    /// Its id.
    pub peer: PeerId,
    /// Share of the machine.
    pub share: f64,
}

/// A running member.
#[derive(Debug)]
pub struct Member {
    /// What it is.
    pub role: Role,
    child: Child,
    /// Whether the demonstration has killed it.
    pub killed: bool,
}

/// All members.
#[derive(Debug)]
pub struct Cast {
    /// In order.
    pub members: Vec<Member>,
    /// Emulated link of each ordered pair of places.
    pub links: BTreeMap<(usize, usize), EmulatedLink>,
    /// Ticket of the first member.
    pub ticket: String,
    /// Directory of identities and logs.
    pub folder: PathBuf,
}

/// How the members are started.
#[derive(Clone, Debug)]
pub struct CastOptions {
    /// How many.
    pub peers: usize,
    /// Device name for `wattle up --device`.
    pub device: String,
    /// Emulate uneven shares and links; otherwise each peer runs as fast as it can.
    pub limits: bool,
    /// Where identities and logs go.
    pub folder: PathBuf,
    /// Name of the network, so that two demonstrations do not meet.
    pub network: String,
}

/// Decides shares and identities.
///
/// *Errors*: no randomness.
pub fn roles(options: &CastOptions) -> anyhow::Result<Vec<Role>> {
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let speeds: Vec<f64> = (0..options.peers).map(|i| SPEEDS[i % SPEEDS.len()]).collect();
    let scale = cores * CORES_USED / speeds.iter().sum::<f64>();
    speeds
        .into_iter()
        .map(|speed| {
            let identity = crate::identity::fresh()?;
            let peer = Peer::new(&identity, Config::default()).id();
            let share = if options.limits { (speed * scale).min(1.0) } else { 1.0 };
            Ok(Role { identity, peer, share: (share * 100.0).round() / 100.0 })
        })
        .collect()
}

/// Returns the emulated link of each ordered pair.
pub fn links(peers: usize) -> BTreeMap<(usize, usize), EmulatedLink> {
    let mut links = BTreeMap::new();
    for from in 0..peers {
        for to in (0..peers).filter(|to| *to != from) {
            let (mbit, millis) = LINKS[(from + to) % LINKS.len()];
            let link = EmulatedLink {
                rate: Some(Rate::from_mbit(mbit)),
                latency: Duration::from_millis(millis),
            };
            links.insert((from, to), link);
        }
    }
    links
}

impl Cast {
    /// Makes a cast without members.
    pub fn new(options: &CastOptions) -> Self {
        Self {
            members: Vec::new(),
            links: if options.limits { links(options.peers) } else { BTreeMap::new() },
            ticket: String::new(),
            folder: options.folder.clone(),
        }
    }

    /// Starts all members; each is ready to be joined when this returns. Safe to drop midway: who has been started is a
    /// member, and the one that is being started is killed.
    ///
    /// *Errors*: a process that does not start or does not say its ticket; its log is named.
    pub async fn start(&mut self, options: &CastOptions, roles: Vec<Role>) -> anyhow::Result<()> {
        let ids: Vec<PeerId> = roles.iter().map(|r| r.peer).collect();
        for (place, role) in roles.into_iter().enumerate() {
            let folder = options.folder.join(format!("peer-{place}"));
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("while making {}", folder.display()))?;
            crate::identity::write_private(&folder.join("identity"), &role.identity)?;
            let emulated = EmulatedLinks {
                default: None,
                to: self
                    .links
                    .iter()
                    .filter(|((from, _), _)| *from == place)
                    .map(|((_, to), link)| (ids[*to], *link))
                    .collect(),
            };
            let text = serde_json::to_string(&emulated).context("while writing emulated links")?;
            std::fs::write(folder.join("links.json"), text)
                .with_context(|| format!("while writing into {}", folder.display()))?;
            let (child, ticket) = spawn(options, &folder, &role, &self.ticket).await?;
            if self.ticket.is_empty() {
                self.ticket = ticket;
            }
            self.members.push(Member { role, child, killed: false });
        }
        Ok(())
    }

    /// Returns a member's place.
    pub fn place(&self, peer: PeerId) -> Option<usize> {
        self.members.iter().position(|m| m.role.peer == peer)
    }

    /// Kills a member at once, as a power cut would.
    ///
    /// *Errors*: it is gone already.
    pub async fn kill(&mut self, peer: PeerId) -> anyhow::Result<()> {
        let place = self.place(peer).context("no such member")?;
        let member = &mut self.members[place];
        member.killed = true;
        member.child.kill().await.with_context(|| format!("while killing peer {peer}"))
    }

    /// Returns a member that has ended by itself, with its log.
    pub fn ended(&mut self) -> Option<(PeerId, PathBuf)> {
        let folder = self.folder.clone();
        self.members.iter_mut().enumerate().find_map(|(place, m)| {
            let ended = !m.killed && matches!(m.child.try_wait(), Ok(Some(_)));
            ended.then(|| (m.role.peer, folder.join(format!("peer-{place}/log"))))
        })
    }

    /// Ends all members in good order; whoever does not leave in time is killed.
    pub async fn stop(&mut self) {
        for member in &mut self.members {
            drop(member.child.stdin.take());
        }
        for member in &mut self.members {
            let left = tokio::time::timeout(StdDuration::from_secs(5), member.child.wait()).await;
            if left.is_err()
                && let Err(error) = member.child.kill().await
            {
                tracing::warn!(%error, "a member could not be ended");
            }
        }
    }
}

async fn spawn(
    options: &CastOptions,
    folder: &Path,
    role: &Role,
    ticket: &str,
) -> anyhow::Result<(Child, String)> {
    let log = folder.join("log");
    let errors =
        std::fs::File::create(&log).with_context(|| format!("while making {}", log.display()))?;
    let program = std::env::current_exe().context("while looking for this program")?;
    let mut command = Command::new(program);
    command
        .arg("--json")
        .arg("up")
        .args(["--device", &options.device, "--listen", "127.0.0.1:0", "--no-mdns"])
        .args(["--network", &options.network, "--until-stdin-closes"])
        .args(["--share", &role.share.to_string()])
        .arg("--state")
        .arg(folder)
        .arg("--links")
        .arg(folder.join("links.json"))
        // One thread a peer: the peers are what runs in parallel.
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors)
        .kill_on_drop(true);
    if !ticket.is_empty() {
        command.args(["--join", ticket]);
    }
    let mut child = command.spawn().context("while starting a peer process")?;
    let out = child.stdout.take().context("a child without standard output")?;
    let mut lines = BufReader::new(out).lines();
    let first = tokio::time::timeout(START, lines.next_line())
        .await
        .with_context(|| format!("a peer said nothing within {START:?}; see {}", log.display()))?
        .context("while reading what a peer says")?;
    let Some(line) = first else {
        bail!("a peer ended at once; see {}", log.display());
    };
    let said: serde_json::Value = serde_json::from_str(&line)
        .with_context(|| format!("a peer said \"{line}\" instead of its ticket"))?;
    let ticket = said["ticket"].as_str().context("a peer without a ticket")?.to_owned();
    // The rest of what it says is not needed, but its pipe must not fill up.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, ticket))
}
