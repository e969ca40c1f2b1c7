//! What tensors take of the processors that compute: whoever sends or receives a byte encrypts, copies and hands it on.
//!
//! Where computing leaves processors to spare, or is a GPU's, that is done beside it and costs no time. Where it does not,
//! passes take so much longer. Without this, of two placements that are equally fast the one that sends three times as
//! much is as good, and on links of a gigabit is slower by a fifth. Not here: what gradients and states take. The simulator's
//! devices carry for nothing.

use super::advert::Hardware;
use super::course::{Station, Wire};
use super::ground::{Crowd, Ground};
use crate::units::Bytes;

/// Picoseconds of one processor for each byte that is sent, and received: our figures for QUIC with AES-128-GCM on shaped
/// links and on loopback (`docs/reference/measurements.md`).
const SENT: u64 = 2000;
const RECEIVED: u64 = 1500;
/// How a device is called that computes on its machine's processors.
const PROCESSORS: &str = "cpu";

/// Makes the passes of each stage's workers longer by what carrying their tensors takes.
pub(super) fn carry(ground: &Ground<'_>, crowd: &Crowd, stations: &mut [Station], wires: &[Wire]) {
    if crowd.is_nobody() {
        return;
    }
    for wire in wires {
        let back = wire.back.unwrap_or(Bytes::ZERO);
        let there = (work(wire.there, SENT), work(wire.there, RECEIVED));
        let back = (work(back, SENT), work(back, RECEIVED));
        let [from, to] = [wire.from, wire.to].map(|place| only(&stations[place]));
        for (place, other, forward, backward) in
            [(wire.from, to, there.0, back.1), (wire.to, from, there.1, back.0)]
        {
            // Within a peer nothing is carried.
            for worker in stations[place].workers.iter_mut().filter(|w| other != Some(w.device)) {
                let longer = |work| ground.beside(worker.device, work, crowd);
                worker.forward = worker.forward.saturating_add(longer(forward));
                worker.backward = worker.backward.saturating_add(longer(backward));
            }
        }
    }
}

/// Returns the peer that runs all of a stage; None where there are several.
fn only(station: &Station) -> Option<usize> {
    let [worker] = station.workers.as_slice() else { return None };
    Some(worker.device)
}

/// Returns the picoseconds of one processor that so many bytes take.
fn work(bytes: Bytes, each: u64) -> u64 {
    bytes.count().saturating_mul(each)
}

/// Returns by how many microseconds so many picoseconds of a processor lengthen what a peer computes, if computing asks so
/// much of its machine's processors (thousandths that are asked for, and that there are).
pub(super) fn lengthened(hardware: &Hardware, work: u64, (demand, capacity): (u64, u64)) -> u64 {
    let own = u64::from(hardware.demand);
    if hardware.device != PROCESSORS || own == 0 || capacity == 0 || demand < capacity {
        return 0;
    }
    // The work is shared out as computing is: over the peer's threads, and these over the machine.
    let alone = u128::from(work) / 1_000_000 * 1000 / u128::from(own);
    u64::try_from(alone * u128::from(demand) / u128::from(capacity)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::kinds::Kinds;
    use crate::units::{Duration, Rate, Speed};

    fn hardware(device: &str, demand: u32) -> Hardware {
        let speed = Speed::from_flops_per_second(1_000_000_000);
        Hardware {
            device: device.into(),
            speed,
            conv_speed: speed,
            vector_speed: speed,
            touch_rate: Rate::from_bytes_per_second(1_000_000_000),
            overhead: Duration::from_micros(1),
            kinds: Kinds::default(),
            memory: Bytes::ZERO,
            host: 7,
            host_capacity: 2000,
            demand,
        }
    }

    /// Goal: bytes cost what the processors lack. Method: a gigabyte sent (two seconds of one processor) by one peer that
    /// computes with both processors of its machine, by one of three with a thread each on two, by one that leaves a
    /// processor, by an emulated share, and by a GPU.
    #[test]
    fn bytes_cost_time_where_computing_takes_all_processors() {
        let work = work(Bytes::new(1_000_000_000), SENT);
        assert_eq!(lengthened(&hardware("cpu", 2000), work, (2000, 2000)), 1_000_000);
        assert_eq!(lengthened(&hardware("cpu", 1000), work, (3000, 2000)), 3_000_000);
        assert_eq!(lengthened(&hardware("cpu", 1000), work, (1000, 2000)), 0);
        assert_eq!(lengthened(&hardware("cpu", 185), work, (900, 2000)), 0);
        assert_eq!(lengthened(&hardware("a GPU", 2000), work, (2000, 2000)), 0);
    }
}
