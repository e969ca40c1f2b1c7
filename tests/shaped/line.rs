//! A delay line with rates for namespaces: every IPv4 packet that comes in from a TUN device leaves by it when its link
//! would have delivered it.
//!
//! For kernels without `sch_netem`, and for rates in one direction of one pair. A link is named by the last octets of both
//! addresses: it sends packets one after another at its rate, drops what its queue has no room for, and lets each travel for
//! its delay. The device is the standard input (`placements.py` opens it); the table is the first argument, a line a link:
//! `FROM TO BYTES_PER_SECOND DELAY_MICROS QUEUE_BYTES LOSS_PER_MILLION`. Packets of other pairs are dropped.
//!
//! Build: `rustc -O --edition 2024 line.rs`. Not built by cargo, and part of no binary of the project.

use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Packets that wait at most, whatever the links: 64 MiB.
const WAITING_MAX: usize = 64 << 20;
/// Largest packet.
const PACKET: usize = 65_536;
/// The least wait: what comes due meanwhile leaves together, a little late. At 1 Gbit/s a packet is due every 12 us, and
/// looking at the clock for each would take a processor that both ends need.
const REST: Duration = Duration::from_micros(60);

struct Link {
    rate: f64,
    delay: Duration,
    queue: f64,
    loss: u64,
    /// When the last packet has been sent.
    free: Instant,
}

/// A packet and when it is due; the heap gives the earliest first, and among equals the first that came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due(std::cmp::Reverse<(Instant, u64)>, Vec<u8>);

#[derive(Default)]
struct Waiting {
    heap: Mutex<(BinaryHeap<Due>, usize)>,
    more: Condvar,
}

fn links(path: &str) -> BTreeMap<(u8, u8), Link> {
    let text = std::fs::read_to_string(path).expect("the table opens");
    let link = |line: &str| {
        let mut words = line.split_whitespace().map(|w| w.parse::<u64>().expect("a number"));
        let mut next = || words.next().expect("six numbers a line");
        let ends = (u8::try_from(next()).expect("an octet"), u8::try_from(next()).expect("an octet"));
        let (rate, delay, queue, loss) = (next(), next(), next(), next());
        let delay = Duration::from_micros(delay);
        (ends, Link { rate: rate as f64, delay, queue: queue as f64, loss, free: Instant::now() })
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(link).collect()
}

/// Writes packets when they are due.
fn deliver(mut out: File, waiting: &Waiting) {
    let mut heap = waiting.heap.lock().expect("no thread panics with it");
    loop {
        let now = Instant::now();
        match heap.0.peek().map(|due| due.0.0.0) {
            None => heap = waiting.more.wait(heap).expect("no thread panics with it"),
            Some(at) if at > now => {
                let pause = (at - now).max(REST);
                heap = waiting.more.wait_timeout(heap, pause).expect("no thread panics with it").0;
            }
            Some(_) => {
                let Some(Due(_, packet)) = heap.0.pop() else { continue };
                heap.1 -= packet.len();
                drop(heap);
                // A device that is full drops, as a link would.
                out.write(&packet).unwrap_or_default();
                heap = waiting.heap.lock().expect("no thread panics with it");
            }
        }
    }
}

fn main() {
    let table = std::env::args().nth(1).expect("usage: line TABLE < TUN");
    let mut links = links(&table);
    let device = std::io::stdin().as_fd().try_clone_to_owned().expect("a device to read from");
    let (mut input, out) = (File::from(device.try_clone().expect("a second handle")), File::from(device));
    let waiting = Arc::new(Waiting::default());
    let other = waiting.clone();
    std::thread::spawn(move || deliver(out, &other));
    let (mut packet, mut sequence, mut random) = (vec![0; PACKET], 0u64, 1u64);
    while let Ok(length) = input.read(&mut packet) {
        let now = Instant::now();
        if length < 20 || packet[0] >> 4 != 4 {
            continue;
        }
        let Some(link) = links.get_mut(&(packet[15], packet[19])) else { continue };
        // xorshift64, from a fixed seed.
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            random ^= if left { random << by } else { random >> by };
        }
        let backlog = link.free.saturating_duration_since(now).as_secs_f64() * link.rate;
        if backlog > link.queue || random % 1_000_000 < link.loss {
            continue;
        }
        link.free = link.free.max(now) + Duration::from_secs_f64(length as f64 / link.rate);
        let due = link.free + link.delay;
        let mut heap = waiting.heap.lock().expect("no thread panics with it");
        if heap.1 + length > WAITING_MAX {
            continue;
        }
        heap.1 += length;
        let is_next = heap.0.peek().is_none_or(|first| due < first.0.0.0);
        heap.0.push(Due(std::cmp::Reverse((due, sequence)), packet[..length].to_vec()));
        sequence += 1;
        drop(heap);
        if is_next {
            waiting.more.notify_one();
        }
    }
}
