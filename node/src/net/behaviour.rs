//! What libp2p does for this node: limits, identify, ping, Kademlia, mDNS, relaying, hole punching and requests, with
//! their settings.

use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, identify, mdns, memory_connection_limits, ping, relay};

use super::hub::REQUEST;
use super::punch::Punch;
use super::relays;
use super::rpc::Codec;

/// All of libp2p that is used.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // Limits first: they are asked first and deny cheaply.
    pub(super) limits: connection_limits::Behaviour,
    pub(super) memory: memory_connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    /// Carries others' circuits, where the owner volunteers.
    pub(super) relay: Toggle<relay::Behaviour>,
    pub(super) circuits: relay::client::Behaviour,
    pub(super) punch: Punch,
    pub(super) rpc: request_response::Behaviour<Codec>,
}

/// The names under which one network speaks; another network's peers answer to none of them.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// What identify says.
    pub(super) network: String,
    pub(super) kad: StreamProtocol,
    pub(super) rpc: StreamProtocol,
}

impl Names {
    /// Makes the names of a network.
    ///
    /// *Errors*: it cannot be part of a protocol's name.
    pub(super) fn new(network: &str) -> anyhow::Result<Self> {
        let name = |what: &str| {
            StreamProtocol::try_from_owned(format!("/{network}/{what}/1"))
                .map_err(|error| anyhow::anyhow!("\"{network}\" is no network name: {error}"))
        };
        Ok(Self { network: format!("/{network}/1"), kad: name("kad")?, rpc: name("rpc")? })
    }
}

impl Behaviour {
    pub(super) fn new(
        key: &Keypair,
        names: Names,
        circuits: relay::client::Behaviour,
        (with_mdns, relays): (bool, bool),
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let me = key.public().to_peer_id();
        let mut kad_config = kad::Config::new(names.kad);
        kad_config
            .set_query_timeout(Duration::from_secs(20))
            .set_provider_record_ttl(Some(Duration::from_secs(1800)))
            .set_provider_publication_interval(Some(Duration::from_secs(600)))
            .set_kbucket_inserts(kad::BucketInserts::Manual)
            .disjoint_query_paths(true)
            .set_max_packet_size(8 * 1024);
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(64))
            .with_max_pending_outgoing(Some(64))
            .with_max_established_incoming(Some(256))
            .with_max_established_outgoing(Some(256))
            .with_max_established(Some(400))
            // One through a relay, its successor, and one that each end has punched.
            .with_max_established_per_peer(Some(4));
        let mdns = with_mdns
            .then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me))
            .transpose()?;
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            memory: memory_connection_limits::Behaviour::with_max_percentage(0.95),
            identify: identify::Behaviour::new(
                identify::Config::new(names.network, key.public())
                    .with_agent_version(concat!("wattle/", env!("CARGO_PKG_VERSION")).into())
                    .with_push_listen_addr_updates(true),
            ),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(15))),
            kad: kad::Behaviour::with_config(me, MemoryStore::new(me), kad_config),
            mdns: mdns.into(),
            relay: relays.then(|| relay::Behaviour::new(me, relays::limits())).into(),
            circuits,
            punch: Punch::new(me),
            rpc: request_response::Behaviour::with_codec(
                Codec,
                [(names.rpc, ProtocolSupport::Full)],
                request_response::Config::default()
                    .with_request_timeout(REQUEST)
                    .with_max_concurrent_streams(1024),
            ),
        })
    }
}
