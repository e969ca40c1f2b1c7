//! Opening the network: libp2p's swarm with our transports, and the hub around it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, kad, noise, relay, tcp, yamux};
use tokio::sync::mpsc;

use super::{Hub, Order};
use crate::net::behaviour::{Behaviour, Names};
use crate::net::desk::Desk;
use crate::net::fallback::Inbox;
use crate::net::lookup::Lookup;
use crate::net::paths::{Board, Ways};
use crate::net::reach::Reach;
use crate::net::relays::Relays;
use crate::net::transport::{Connections, OneQuic, quic_address};
use crate::net::{NetConfig, NetEvent};

impl Hub {
    /// Makes the loop's state; what it listens at is known once it runs.
    ///
    /// *Errors*: the identity or the network's name is bad, or a port is taken.
    pub(in super::super) fn new(
        config: &NetConfig,
        (connections, desk, board): (Connections, Desk, Board),
        (events, orders): (mpsc::Sender<NetEvent>, mpsc::WeakSender<Order>),
    ) -> anyhow::Result<Self> {
        let names = Names::new(&config.network)?;
        let mut hub = Self {
            swarm: swarm(config, names.clone(), connections.clone())?,
            connections,
            inbox: Inbox::new(desk.clone()),
            desk,
            events,
            asked: BTreeMap::new(),
            sent: BTreeSet::new(),
            members: BTreeSet::new(),
            strangers: BTreeSet::new(),
            lookup: Lookup::default(),
            orders,
            listening: Vec::new(),
            circuits: Vec::new(),
            board,
            ways: Ways::default(),
            reach: Reach::default(),
            relays: Relays::default(),
            unasked: BTreeSet::new(),
            ticks: 0,
            is_to_tell: false,
            names,
            quic_port: config.quic.then_some(0),
        };
        hub.listen(config)?;
        Ok(hub)
    }

    fn listen(&mut self, config: &NetConfig) -> anyhow::Result<()> {
        self.swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Server));
        if config.quic {
            self.swarm
                .listen_on(quic_address(SocketAddr::new(config.listen.ip(), 0)))
                .with_context(|| format!("while listening at UDP {}", config.listen))?;
        }
        self.swarm
            .listen_on(tcp_address(config.listen))
            .with_context(|| format!("while listening at TCP {}", config.listen))?;
        if let Some(external) = config.external {
            let quic = config.quic.then(|| quic_address(external));
            for address in quic.into_iter().chain([tcp_address(external)]) {
                self.swarm.add_external_address(address.clone());
                self.reach.declare(address);
            }
        }
        Ok(())
    }
}

fn tcp_address(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// Makes libp2p's swarm: our QUIC transport and TCP, names, relayed connections, and what it does.
fn swarm(
    config: &NetConfig,
    names: Names,
    connections: Connections,
) -> anyhow::Result<Swarm<Behaviour>> {
    let key = Keypair::ed25519_from_bytes(config.identity).context("a bad identity")?;
    let options = (config.mdns, config.relay);
    let behaviour = move |key: &Keypair, circuits: relay::client::Behaviour| {
        Behaviour::new(key, names, circuits, options)
    };
    let builder = SwarmBuilder::with_existing_identity(key).with_tokio().with_tcp(
        tcp::Config::default().nodelay(true),
        noise::Config::new,
        yamux::Config::default,
    )?;
    let tune = |c: libp2p::swarm::Config| {
        c.with_idle_connection_timeout(Duration::from_secs(3600))
            .with_max_negotiating_inbound_streams(256)
            // The name of the protocol goes with the first bytes: a frame travels once, and not there, back and there.
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
    };
    // What goes through a relay is encrypted between the two ends, as over TCP.
    Ok(if config.quic {
        let listen = config.listen;
        builder
            .with_other_transport(move |key| {
                OneQuic::new(key, listen, connections)
                    .map_err(Box::<dyn std::error::Error + Send + Sync>::from)
            })
            .with_context(|| format!("while binding UDP {listen}"))?
            .with_dns()?
            .with_relay_client(noise::Config::new, yamux::Config::default)?
            .with_behaviour(behaviour)?
            .with_swarm_config(tune)
            .build()
    } else {
        builder
            .with_dns()?
            .with_relay_client(noise::Config::new, yamux::Config::default)?
            .with_behaviour(behaviour)?
            .with_swarm_config(tune)
            .build()
    })
}
