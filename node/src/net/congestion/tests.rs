//! Flows through one bottleneck, packet by packet: a queue that drops what it has no room for, loss by chance, and time that only
//! the events move.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand_core::RngCore as _;
use rand_core::SeedableRng as _;

use super::*;

const PACKET: u64 = 1452;
/// An acknowledgement: its size, for how many packets it comes, or after which time.
const ANSWER: u64 = 70;
const ANSWERED: usize = 10;
const ANSWER_DELAY: Duration = Duration::from_millis(5);

/// Bytes a second, one way, in each direction; queue; loss in a thousand.
#[derive(Clone, Copy)]
struct Line {
    rate: f64,
    delay: Duration,
    queue: Duration,
    loss: u32,
}

impl Line {
    /// Puts bytes behind what waits for it; returns when they are there.
    fn queued(self, free: &mut Instant, now: Instant, bytes: u64) -> Instant {
        *free = (*free).max(now) + Duration::from_secs_f64(bytes as f64 / self.rate);
        *free + self.delay
    }
}

fn line(mbit: f64, round_trip: u64, queue: u64, loss: u32) -> Line {
    let [delay, queue] = [round_trip * 500, queue * 1000].map(Duration::from_micros);
    Line { rate: mbit * 125_000.0, delay, queue, loss }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A packet is there, or an acknowledgement of packets.
    Arrived(u64),
    Answered(usize),
    /// An acknowledgement has waited for more packets long enough.
    Answers,
    Acknowledged(u64),
    MaySend,
}

struct Flow {
    window: Steady,
    begins: Duration,
    /// Bytes that come to be sent at once, and how often; None: always enough.
    bursts: Option<(u64, Duration)>,
    /// Packets that are there and not acknowledged.
    arrived: Vec<u64>,
    offered: u64,
    sent_bytes: u64,
    next: u64,
    out: VecDeque<(u64, Instant)>,
    smooth: Duration,
    paced: Instant,
    waits: bool,
    /// When each byte had arrived.
    arrivals: Vec<(Duration, u64)>,
    lost: u64,
}

struct World {
    line: Line,
    zero: Instant,
    now: Instant,
    /// When the line will have sent what waits, in each direction.
    free: [Instant; 2],
    /// Whether every second flow goes the other way, with acknowledgements among its packets.
    both_ways: bool,
    answers: Vec<Vec<u64>>,
    flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(Instant, usize, What)>>,
    chance: rand_chacha::ChaCha8Rng,
    /// The machine looks at what has come only so often.
    held: Duration,
    /// Waits in the queue.
    waits: Vec<(Duration, Duration)>,
}

impl World {
    fn new(line: Line, begins: &[u64]) -> Self {
        let zero = crate::clock::moment();
        let flow = |seconds: &u64| Flow {
            window: Steady::new(zero, PACKET),
            begins: Duration::from_secs(*seconds),
            bursts: None,
            arrived: Vec::new(),
            offered: 0,
            sent_bytes: 0,
            next: 0,
            out: VecDeque::new(),
            smooth: Duration::from_millis(333),
            paced: zero,
            waits: false,
            arrivals: Vec::new(),
            lost: 0,
        };
        let chance = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let flows: Vec<Flow> = begins.iter().map(flow).collect();
        let mut events = BinaryHeap::new();
        for (place, flow) in flows.iter().enumerate() {
            events.push(Reverse((zero + flow.begins, place, What::MaySend)));
        }
        let waits = Vec::new();
        let held = Duration::ZERO;
        let (free, both_ways, answers) = ([zero; 2], false, Vec::new());
        Self { line, zero, now: zero, free, both_ways, answers, flows, events, chance, held, waits }
    }

    fn run(&mut self, until: u64) {
        let end = self.zero + Duration::from_secs(until);
        while let Some(Reverse((at, place, what))) = self.events.pop() {
            if at > end {
                self.events.push(Reverse((at, place, what)));
                break;
            }
            self.now = at;
            match what {
                What::Arrived(number) => {
                    self.flows[place].arrived.push(number);
                    match self.flows[place].arrived.len() {
                        1 => self.events.push(Reverse((at + ANSWER_DELAY, place, What::Answers))),
                        ANSWERED => self.answer(place),
                        _ => {}
                    }
                }
                What::Answers => self.answer(place),
                What::Answered(number) => {
                    for number in std::mem::take(&mut self.answers[number]) {
                        self.acknowledged(place, number);
                    }
                }
                What::Acknowledged(number) => self.acknowledged(place, number),
                What::MaySend => self.flows[place].waits = false,
            }
            self.send(place);
        }
    }

    /// The way that a flow goes.
    fn way(&self, place: usize) -> usize {
        if self.both_ways { place % 2 } else { 0 }
    }

    /// Acknowledges what has come, behind what waits for the way back.
    fn answer(&mut self, place: usize) {
        let packets = std::mem::take(&mut self.flows[place].arrived);
        if packets.is_empty() {
            return;
        }
        let way = 1 - self.way(place);
        let at = self.line.queued(&mut self.free[way], self.now, ANSWER);
        self.answers.push(packets);
        self.events.push(Reverse((at, place, What::Answered(self.answers.len() - 1))));
    }

    fn send(&mut self, place: usize) {
        let way = self.way(place);
        let flow = &mut self.flows[place];
        if let Some((bytes, every)) = flow.bursts {
            let turns = (self.now - self.zero).as_nanos() / every.as_nanos() + 1;
            flow.offered = bytes * u64::try_from(turns).unwrap();
        } else {
            flow.offered = u64::MAX;
        }
        // As quinn paces: a quarter faster than a window each round trip.
        let gap = flow.smooth.mul_f64(PACKET as f64 / (1.25 * flow.window.window() as f64));
        while flow.sent_bytes < flow.offered
            && (flow.out.len() as u64 + 1) * PACKET <= flow.window.window()
        {
            if flow.paced > self.now {
                if !flow.waits {
                    flow.waits = true;
                    self.events.push(Reverse((flow.paced, place, What::MaySend)));
                }
                return;
            }
            flow.paced = flow.paced.max(self.now - gap * 4) + gap;
            flow.window.sent(self.now);
            flow.out.push_back((flow.next, self.now));
            flow.sent_bytes += PACKET;
            let wait = self.free[way].saturating_duration_since(self.now);
            self.waits.push((self.now - self.zero, wait));
            let number = flow.next;
            if wait <= self.line.queue && self.chance.next_u32() % 1000 >= self.line.loss {
                let there = self.line.queued(&mut self.free[way], self.now, PACKET);
                if self.both_ways {
                    self.events.push(Reverse((there, place, What::Arrived(number))));
                } else {
                    let mut back = there + self.line.delay;
                    if !self.held.is_zero() {
                        let turns = (back - self.zero).as_nanos() / self.held.as_nanos() + 1;
                        back = self.zero + self.held * u32::try_from(turns).unwrap();
                    }
                    self.events.push(Reverse((back, place, What::Acknowledged(number))));
                }
            }
            flow.next += 1;
        }
        if let Some((_, every)) =
            flow.bursts.filter(|_| !flow.waits && flow.sent_bytes >= flow.offered)
        {
            flow.waits = true;
            let turns =
                u32::try_from((self.now - self.zero).as_nanos() / every.as_nanos()).unwrap();
            self.events.push(Reverse((self.zero + every * (turns + 1), place, What::MaySend)));
        }
    }

    fn acknowledged(&mut self, place: usize, number: u64) {
        let flow = &mut self.flows[place];
        // The line keeps the order: three later ones tell that a packet is lost.
        while let Some((_, sent)) =
            flow.out.front().filter(|(first, _)| first + 3 <= number).copied()
        {
            flow.out.pop_front();
            flow.lost += PACKET;
            flow.window.lost(self.now, sent, PACKET, false);
        }
        let Some(at) = flow.out.iter().position(|(one, _)| *one == number) else { return };
        let (_, sent) = flow.out.remove(at).unwrap();
        let round_trip = self.now - sent;
        flow.smooth = (flow.smooth * 7 + round_trip) / 8;
        if flow.arrivals.is_empty() {
            flow.smooth = round_trip;
        }
        flow.arrivals.push((self.now - self.zero, PACKET));
        flow.window.arrived(sent, PACKET);
        let is_limited = flow.sent_bytes >= flow.offered;
        flow.window.told(self.now, flow.out.len() as u64 * PACKET, is_limited);
    }

    /// Share of the line that a flow's arrivals took from one second to another.
    fn share(&self, place: usize, from: u64, until: u64) -> f64 {
        let within = |at: &Duration| (from..until).contains(&at.as_secs());
        let bytes: u64 =
            self.flows[place].arrivals.iter().filter(|(at, _)| within(at)).map(|(_, b)| b).sum();
        bytes as f64 / self.line.rate / (until - from) as f64
    }

    /// The wait in the queue that 99 of 100 packets stay below.
    fn wait(&self, from: u64, until: u64) -> Duration {
        let within = |at: &Duration| (from..until).contains(&at.as_secs());
        let mut waits: Vec<Duration> =
            self.waits.iter().filter(|(at, _)| within(at)).map(|(_, wait)| *wait).collect();
        waits.sort();
        waits[waits.len() * 99 / 100]
    }

    /// Share of packets that were lost.
    fn lost(&self) -> f64 {
        let lost: u64 = self.flows.iter().map(|flow| flow.lost).sum();
        lost as f64 / self.flows.iter().map(|flow| flow.sent_bytes).sum::<u64>() as f64
    }
}

const LINES: [(f64, u64); 5] = [(8.0, 40), (50.0, 20), (100.0, 40), (1000.0, 10), (300.0, 150)];

/// Goal: lines are full, with and without loss by chance, and nobody waits long. Method: one flow, queues of 100 ms.
#[test]
fn a_line_is_full_and_its_queue_is_not() {
    for (mbit, round_trip) in LINES {
        for loss in [0, 10] {
            let mut world = World::new(line(mbit, round_trip, 100, loss), &[0]);
            world.run(12);
            let (share, wait, lost) = (world.share(0, 3, 12), world.wait(3, 12), world.lost());
            println!("{mbit} Mbit/s, {round_trip} ms, loss {loss}: {share:.3} {wait:?} {lost:.4}");
            assert!(share > 0.95 - f64::from(loss) / 1000.0, "{mbit} {round_trip} {loss}: {share}");
            assert!(wait < Duration::from_millis(50), "{mbit} {round_trip} {loss}: {wait:?}");
            assert!(lost < 0.01 + f64::from(loss) / 900.0, "{mbit} {round_trip} {loss}: {lost}");
        }
    }
}

/// Goal: delays of a busy machine, which no smaller window shortens, do not keep the window small. Method: whatever has
/// come is looked at every 15 ms only.
#[test]
fn a_busy_machine_fills_most_of_the_line() {
    for (mbit, round_trip) in [(25.0, 4), (200.0, 12), (300.0, 20)] {
        let mut world = World::new(line(mbit, round_trip, 100, 0), &[0]);
        world.held = Duration::from_millis(15);
        world.run(12);
        let share = world.share(0, 3, 12);
        assert!(share > 0.6, "{mbit} {round_trip}: {share}");
    }
}

/// Goal: a queue that has less room than is wanted of it is not flooded.
#[test]
fn a_shallow_queue_loses_little() {
    for (mbit, round_trip) in LINES {
        let mut world = World::new(line(mbit, round_trip, 10, 0), &[0]);
        world.run(12);
        let (share, lost) = (world.share(0, 3, 12), world.lost());
        assert!(share > 0.9, "{mbit} {round_trip}: {share}");
        assert!(lost < 0.05, "{mbit} {round_trip}: {lost}");
    }
}

/// Goal: a line that becomes slower or faster is filled again, without a standing queue.
#[test]
fn a_change_is_followed() {
    for (before, after) in [(100.0, 10.0), (10.0, 100.0)] {
        let mut world = World::new(line(before, 40, 100, 0), &[0]);
        world.run(5);
        world.line.rate = after * 125_000.0;
        world.free = [world.now; 2];
        world.run(15);
        let (share, wait) = (world.share(0, 8, 15), world.wait(8, 15));
        assert!(share > 0.9, "{before} to {after}: {share}");
        assert!(wait < Duration::from_millis(50), "{before} to {after}: {wait:?}");
    }
}

/// Goal: two tensors to two peers share the uplink, whoever came first.
#[test]
fn two_flows_share_a_line() {
    for (mbit, round_trip) in LINES {
        let mut world = World::new(line(mbit, round_trip, 100, 0), &[0, 5]);
        world.run(40);
        let shares = [world.share(0, 20, 40), world.share(1, 20, 40)];
        let wait = world.wait(20, 40);
        println!("{mbit} Mbit/s, {round_trip} ms: {shares:.3?} {wait:?}");
        assert!(shares[0] + shares[1] > 0.93, "{mbit} {round_trip}: {shares:?}");
        assert!(shares.iter().all(|share| *share > 0.25), "{mbit} {round_trip}: {shares:?}");
        assert!(wait < Duration::from_millis(100), "{mbit} {round_trip}: {wait:?}");
    }
}

/// Goal: a window that has grown is there for the next tensor. Method: bursts that fill a third of the line.
#[test]
fn bursts_find_the_window_that_earlier_ones_made() {
    let burst = 700 * PACKET;
    let mut world = World::new(line(100.0, 40, 100, 0), &[0]);
    world.flows[0].bursts = Some((burst, Duration::from_millis(240)));
    world.run(20);
    let flow = &world.flows[0];
    // The last byte of each of the last forty bursts, after the burst began: sending takes 80 ms, the round trip 40.
    let every = Duration::from_millis(240);
    let mut last = vec![Duration::ZERO; 100];
    let mut sum = 0;
    for (at, bytes) in &flow.arrivals {
        sum += bytes;
        let turn = usize::try_from((sum - 1) / burst).unwrap();
        if turn < last.len() {
            last[turn] = *at - every * u32::try_from(turn).unwrap();
        }
    }
    let slowest = last[40..80].iter().max().unwrap();
    println!("{slowest:?}");
    assert!(*slowest < Duration::from_millis(150), "{slowest:?}");
}

/// Goal: a line that went away for a while is filled soon after. Method: everything under way is lost at once, as quinn tells
/// it: that all is lost, then packets of before that are missed round after round.
#[test]
fn what_was_lost_before_a_new_start_does_not_hold_it_back() {
    let mut world = World::new(line(40.0, 28, 100, 0), &[0]);
    world.run(2);
    let (before, now) = (world.now, world.now + Duration::from_millis(1));
    let window = &mut world.flows[0].window;
    window.lost(now, before, 40 * PACKET, true);
    let after = window.window();
    assert_eq!(after, LEAST * PACKET);
    for round in 1..8 {
        let window = &mut world.flows[0].window;
        window.lost(now + Duration::from_millis(30 * round), before, 10 * PACKET, false);
        window.end_round(false);
    }
    assert!(world.flows[0].window.ceiling.is_none());
    world.run(4);
    let share = world.share(0, 3, 4);
    assert!(share > 0.9, "{share}");
}

/// Goal: tensors that meet on a line fill it both ways, though acknowledgements of each wait behind the other.
#[test]
fn tensors_in_both_directions_fill_both() {
    for (mbit, round_trip) in LINES {
        for loss in [0, 10] {
            let mut world = World::new(line(mbit, round_trip, 100, loss), &[0, 0]);
            world.both_ways = true;
            world.run(20);
            let shares = [world.share(0, 3, 20), world.share(1, 3, 20)];
            let wait = world.wait(3, 20);
            let least = if mbit < 1000.0 { 0.9 } else { 0.75 };
            assert!(shares.iter().all(|s| *s > least), "{mbit} {round_trip} {loss}: {shares:?}");
            assert!(wait < Duration::from_millis(50), "{mbit} {round_trip} {loss}: {wait:?}");
        }
    }
}
