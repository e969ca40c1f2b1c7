//! How a process of this machine joins a swarm: identity, tickets, local discovery, emulated limits.
//!
//! Shared by `up`, `train`, `peers`, `status` and `demo`, which differ only in what they do then.

use std::path::PathBuf;

use anyhow::Context as _;
use wattle_models::exec::DeviceChoice;
use wattle_protocol::ids::PeerId;
use wattle_protocol::swarm::Config;

use crate::driver::{NodeConfig, WorkerSettings};
use crate::net::{EmulatedLinks, NetConfig, Ticket};

/// Name of the network; peers of other names do not see each other.
pub const NETWORK: &str = "wattle";

/// How to join.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Name of the network.
    pub network: String,
    /// Directory of the identity; None: a fresh identity for this run.
    pub state: Option<PathBuf>,
    /// Tickets of peers to join through.
    pub tickets: Vec<String>,
    /// Address to listen at, as `IP:PORT` (port 0: any).
    pub listen: std::net::SocketAddr,
    /// Find peers on the local network by mDNS.
    pub mdns: bool,
    /// Speak TCP only (for networks that block UDP).
    pub tcp_only: bool,
    /// Carry others' circuits, once this machine is known to be reached from everywhere.
    pub relay: bool,
    /// Where others reach this machine from everywhere, if its owner knows.
    pub external: Option<std::net::SocketAddr>,
    /// File with emulated link limits.
    pub links: Option<PathBuf>,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self {
            network: NETWORK.into(),
            state: None,
            tickets: Vec::new(),
            listen: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
            mdns: true,
            tcp_only: false,
            relay: false,
            external: None,
            links: None,
        }
    }
}

/// How to compute.
#[derive(Clone, Debug)]
pub struct ComputeOptions {
    /// Which device.
    pub device: DeviceChoice,
    /// Share of the machine that this peer is made to have, in (0, 1].
    pub share: f64,
    /// Memory that jobs may use, in bytes.
    pub memory: Option<u64>,
}

impl JoinOptions {
    /// Turns options into a node's configuration.
    ///
    /// *Errors*: a bad ticket, identity file or links file.
    pub fn node(&self, compute: Option<&ComputeOptions>) -> anyhow::Result<NodeConfig> {
        let identity = match &self.state {
            Some(state) => crate::identity::load_or_make(state)?,
            None => crate::identity::fresh()?,
        };
        let join = self
            .tickets
            .iter()
            .map(|text| {
                let ticket: Ticket =
                    text.parse().with_context(|| format!("while reading the ticket \"{text}\""))?;
                Ok((ticket.peer, ticket.addresses))
            })
            .collect::<anyhow::Result<Vec<(PeerId, Vec<String>)>>>()?;
        let links = match &self.links {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("while reading emulated links {}", file.display()))?;
                serde_json::from_str::<EmulatedLinks>(&text)
                    .with_context(|| format!("while reading emulated links {}", file.display()))?
            }
            None => EmulatedLinks::default(),
        };
        let mut seed = [0; 8];
        seed.copy_from_slice(&blake3::hash(&identity).as_bytes()[..8]);
        let worker =
            compute.map(|c| WorkerSettings { device: c.device, share: c.share, memory: c.memory });
        Ok(NodeConfig {
            net: NetConfig {
                identity,
                listen: self.listen,
                mdns: self.mdns,
                network: self.network.clone(),
                quic: !self.tcp_only,
                relay: self.relay,
                external: self.external,
                links,
            },
            peer: Config { seed: u64::from_le_bytes(seed), ..Config::default() },
            worker,
            join,
        })
    }
}
