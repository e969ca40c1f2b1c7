//! A swarm as data: devices, sites, links between them. What `wattle plan --testbed` places jobs on.
//!
//! ```toml
//! name = "two-sites"
//! about = "what it is"
//! [devices.v100]
//! tflops = 125.0                  # published peak
//! memory_gib = 16
//! gbyte = 900.0                   # memory rate, GB/s
//! achieved = 0.35                 # share of the peak that training reaches; so by default
//! [[sites]]
//! name = "rack"
//! inside = { mbit = 10000, round_trip_ms = 0.1 }
//! peers = [{ device = "v100", count = 8 }]
//! up_mbit = 50                    # a line of each peer's own, if there is one
//! down_mbit = 500
//! [between]                       # sites that `links` does not name
//! mbit = 100
//! round_trip_ms = 30
//! [[links]]
//! between = ["rack", "office"]
//! mbit = 50
//! round_trip_ms = 20
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;
use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::advert::{Advert, Hardware, Link};
use wattle_protocol::schedule::kinds::Kinds;
use wattle_protocol::units::{Bytes, Duration, Rate, Speed};

/// Most peers of a testbed.
const PEERS_MAX: usize = 1000;
/// Share of its peak that a device is taken to reach in matrix products where the file does not say.
const ACHIEVED: f64 = 0.35;
/// Convolutions reach so much of what products do: our assumption.
const CONVOLUTIONS: f64 = 0.7;
/// Element-wise arithmetic runs at so much of the peak on the general units.
const ELEMENTS: f64 = 0.1;
/// Share of the memory's rate that element-wise operators reach.
const TOUCHED: f64 = 0.7;
/// Share of the memory that a job may use.
const MEMORY: f64 = 0.9;
/// Time to start an operator.
const OVERHEAD: Duration = Duration::from_micros(10);

/// Why a file is no testbed.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// It is not in the form of one.
    #[error("it is not in the form of a testbed")]
    Toml(#[from] toml::de::Error),
    /// Values are impossible; all of them are listed.
    #[error("the testbed has mistakes:\n  {}", .0.join("\n  "))]
    Values(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    about: String,
    devices: BTreeMap<String, Device>,
    sites: Vec<Site>,
    between: Line,
    #[serde(default)]
    links: Vec<Pair>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    tflops: f64,
    memory_gib: f64,
    gbyte: f64,
    #[serde(default = "achieved")]
    achieved: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Site {
    name: String,
    inside: Line,
    peers: Vec<Group>,
    #[serde(default)]
    up_mbit: Option<f64>,
    #[serde(default)]
    down_mbit: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    device: String,
    count: usize,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    mbit: f64,
    round_trip_ms: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    between: [String; 2],
    mbit: f64,
    round_trip_ms: f64,
}

const fn achieved() -> f64 {
    ACHIEVED
}

/// A swarm that a file describes.
#[derive(Clone, Debug)]
pub struct Testbed {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// Peers as if they had measured themselves and all links.
    pub adverts: Vec<Advert>,
    /// Name of each peer's site, in the order of the adverts.
    pub sites: Vec<String>,
}

impl Testbed {
    /// Reads a testbed.
    ///
    /// *Errors*: [`TestbedError`], with all impossible values at once.
    pub fn parse(text: &str) -> Result<Self, TestbedError> {
        let file: File = toml::from_str(text)?;
        let wrong = file.mistakes();
        if !wrong.is_empty() {
            return Err(TestbedError::Values(wrong));
        }
        Ok(file.build())
    }
}

impl File {
    fn mistakes(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut positive = |what: String, value: f64| {
            if !(value.is_finite() && value > 0.0) {
                wrong.push(format!("{what} is {value}: a number above 0 is wanted"));
            }
        };
        for (name, device) in &self.devices {
            positive(format!("devices.{name}.tflops"), device.tflops);
            positive(format!("devices.{name}.memory_gib"), device.memory_gib);
            positive(format!("devices.{name}.gbyte"), device.gbyte);
            positive(format!("devices.{name}.achieved"), device.achieved);
        }
        for site in &self.sites {
            positive(format!("site {}: inside.mbit", site.name), site.inside.mbit);
            positive(format!("site {}: up_mbit", site.name), site.up_mbit.unwrap_or(1.0));
            positive(format!("site {}: down_mbit", site.name), site.down_mbit.unwrap_or(1.0));
        }
        positive("between.mbit".into(), self.between.mbit);
        for pair in &self.links {
            positive(format!("link {} to {}: mbit", pair.between[0], pair.between[1]), pair.mbit);
        }
        let trips = self.sites.iter().map(|s| s.inside.round_trip_ms);
        let trips = trips.chain(self.links.iter().map(|l| l.round_trip_ms));
        for trip in trips.chain([self.between.round_trip_ms]) {
            if !(trip.is_finite() && trip >= 0.0) {
                wrong.push(format!("a round_trip_ms is {trip}: 0 or more is wanted"));
            }
        }
        let mut count = 0usize;
        for (place, site) in self.sites.iter().enumerate() {
            if self.sites[..place].iter().any(|other| other.name == site.name) {
                wrong.push(format!("there are two sites \"{}\"", site.name));
            }
            for peers in &site.peers {
                count = count.saturating_add(peers.count);
                if !self.devices.contains_key(&peers.device) {
                    let known: Vec<&str> = self.devices.keys().map(String::as_str).collect();
                    let (site, device) = (&site.name, &peers.device);
                    let known = known.join(", ");
                    wrong.push(format!(
                        "site {site}: there is no device \"{device}\"; there are {known}"
                    ));
                }
            }
        }
        if count == 0 || count > PEERS_MAX {
            wrong.push(format!("the sites have {count} peers; 1 to {PEERS_MAX} are possible"));
        }
        for pair in &self.links {
            for end in &pair.between {
                if self.sites.iter().all(|site| site.name != *end) {
                    wrong.push(format!("links: there is no site \"{end}\""));
                }
            }
        }
        wrong
    }

    fn build(&self) -> Testbed {
        let mut peers: Vec<(PeerId, &Site, Hardware)> = Vec::new();
        for site in &self.sites {
            let devices = site.peers.iter().flat_map(|p| std::iter::repeat_n(&p.device, p.count));
            for (number, name) in (1..).zip(devices) {
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&(peers.len() as u64 + 1).to_be_bytes());
                let device = self.devices[name];
                let label = format!("{name} {} {number}", site.name);
                peers.push((PeerId::new(bytes), site, hardware(device, label)));
            }
        }
        let advert = |(peer, site, hardware): &(PeerId, &Site, Hardware)| Advert {
            hardware: Some(hardware.clone()),
            links: peers
                .iter()
                .filter(|(other, ..)| other != peer)
                .map(|(other, there, _)| self.link(site, (*other, there)))
                .collect(),
            ..Advert::new(*peer)
        };
        Testbed {
            name: self.name.clone(),
            about: self.about.clone(),
            adverts: peers.iter().map(advert).collect(),
            sites: peers.iter().map(|(_, site, _)| site.name.clone()).collect(),
        }
    }

    fn link(&self, from: &Site, (peer, to): (PeerId, &Site)) -> Link {
        let named = |pair: &&Pair| {
            let [a, b] = &pair.between;
            (*a == from.name && *b == to.name) || (*a == to.name && *b == from.name)
        };
        let line = if from.name == to.name {
            from.inside
        } else {
            let pair = self.links.iter().find(named);
            pair.map_or(self.between, |p| Line { mbit: p.mbit, round_trip_ms: p.round_trip_ms })
        };
        let up = from.up_mbit.unwrap_or(f64::INFINITY);
        let down = to.down_mbit.unwrap_or(f64::INFINITY);
        Link {
            peer,
            rate: Rate::from_mbit(line.mbit.min(up).min(down)),
            round_trip: Duration::from_seconds(line.round_trip_ms / 1e3),
            loss: None,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates, which is what is wanted"
)]
fn hardware(device: Device, label: String) -> Hardware {
    let peak = device.tflops * 1e12;
    let speed = |share: f64| Speed::from_flops_per_second((peak * share) as u64);
    Hardware {
        device: label,
        speed: speed(device.achieved),
        conv_speed: speed(device.achieved * CONVOLUTIONS),
        vector_speed: speed(ELEMENTS),
        touch_rate: Rate::from_bytes_per_second((device.gbyte * TOUCHED * 1e9) as u64),
        overhead: OVERHEAD,
        kinds: Kinds::default(),
        memory: Bytes::new((device.memory_gib * MEMORY * f64::from(1u32 << 30)) as u64),
        host: 0,
        host_capacity: 0,
        demand: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "two"
about = "two sites"
[devices.v100]
tflops = 125.0
memory_gib = 16
gbyte = 900.0
[[sites]]
name = "rack"
inside = { mbit = 10000, round_trip_ms = 0.1 }
peers = [{ device = "v100", count = 2 }]
[[sites]]
name = "homes"
up_mbit = 40
down_mbit = 250
inside = { mbit = 1000, round_trip_ms = 20 }
peers = [{ device = "v100", count = 1 }]
[between]
mbit = 100
round_trip_ms = 30
"#;

    #[test]
    fn a_line_of_ones_own_bounds_both_directions() {
        let testbed = Testbed::parse(GOOD).unwrap();
        let mbit = |from: usize, to: usize| {
            let to = testbed.adverts[to].peer;
            let link = testbed.adverts[from].links.iter().find(|l| l.peer == to).unwrap();
            link.rate.mbit()
        };
        assert_eq!(testbed.sites, ["rack", "rack", "homes"]);
        assert_eq!((mbit(0, 1), mbit(0, 2), mbit(2, 0)), (10_000.0, 100.0, 40.0));
        let hardware = testbed.adverts[0].hardware.as_ref().unwrap();
        assert_eq!(hardware.speed, Speed::from_flops_per_second(43_750_000_000_000));
    }

    #[test]
    fn all_mistakes_are_named_at_once() {
        let bad = GOOD
            .replace("tflops = 125.0", "tflops = 0.0")
            .replace("\"v100\", count = 1", "\"h100\", count = 1");
        let error = Testbed::parse(&bad).unwrap_err().to_string();
        assert!(
            error.contains("devices.v100.tflops is 0") && error.contains("there are v100"),
            "{error}"
        );
        assert!(Testbed::parse("name = 1").is_err());
    }

    #[test]
    fn every_testbed_of_the_repository_is_one() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testbeds");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let testbed = Testbed::parse(&text).unwrap();
                assert_eq!(Some(testbed.name.as_str()), path.file_stem().and_then(|s| s.to_str()));
                count += 1;
            }
        }
        assert!(count >= 6, "{count}");
    }
}
