//! The course of a step against formulas, the notes' worked vectors, and what holds for any pipeline.

use super::*;
use crate::ids::PeerId;
use crate::schedule::advert::{Advert, Link};
use crate::schedule::codec::Codec;
use crate::schedule::groups::Groups;
use crate::schedule::links::Links;
use crate::units::{Duration, Rate};

fn run(times: &[(u64, u64)], order: PipelineOrder, micro_batches: u32) -> Outcome {
    let list: Vec<_> =
        (0..times.len()).map(|n| (PeerId::new([u8::try_from(n).unwrap(); 32]), None)).collect();
    let ground = Ground::new(&list, &Links::default());
    let one = |(device, (forward, backward)): (usize, &(u64, u64))| Station {
        workers: vec![Worker { device, forward: *forward, backward: *backward, ready: 0 }],
        turns: vec![],
    };
    let stations: Vec<Station> = times.iter().enumerate().map(one).collect();
    let nothing = Some(Bytes::ZERO);
    let wires: Vec<Wire> = (1..times.len())
        .map(|to| Wire { from: to - 1, to, there: Bytes::ZERO, back: nothing })
        .collect();
    Course { ground: &ground, order, micro_batches, record: true }.run(&stations, &wires)
}

/// papers.md 1.7: GPipe takes line(F; n) + line(B; n); here each unmeasured link adds its travel of 25 ms.
#[test]
fn gpipe_takes_the_time_of_two_lines() {
    let times = [(10_000, 20_000), (30_000, 60_000), (5_000, 10_000)];
    let outcome = run(&times, PipelineOrder::GPipe, 4);
    let line = |list: &[u64]| list.iter().sum::<u64>() + 3 * list.iter().max().unwrap();
    let forward: Vec<u64> = times.iter().map(|t| t.0).collect();
    let backward: Vec<u64> = times.iter().map(|t| t.1).collect();
    // The last stage's last backward pass ends before the others'; the middle one's queue hides it.
    let whole = line(&forward) + line(&backward) + 4 * 25_000;
    assert!(outcome.drained <= whole, "{} {whole}", outcome.drained);
    assert!(outcome.drained >= whole - 3 * 10_000, "{} {whole}", outcome.drained);
    assert_eq!(outcome.spans.len(), 2 * 3 * 4 + 2 * 2 * 4);
}

proptest::proptest! {
    #[test]
    fn every_pass_runs_once_and_no_device_runs_two_at_once(
        stages in 1usize..5, workers in proptest::collection::vec(1usize..4, 5),
        micro_batches in 1u32..12, gpipe: bool, spans in proptest::collection::vec(1u64..9, 15),
    ) {
        let order = if gpipe { PipelineOrder::GPipe } else { PipelineOrder::OneFOneB };
        let list: Vec<_> = (0..15u8).map(|n| (PeerId::new([n; 32]), None)).collect();
        let ground = Ground::new(&list, &Links::default());
        let mut device = 0;
        let stations: Vec<Station> = workers.iter().take(stages).map(|count| {
            let workers: Vec<Worker> = (0..*count).map(|_| {
                device += 1;
                Worker { device: device - 1, forward: spans[device - 1], backward: spans[device - 1], ready: 0 }
            }).collect();
            let times: Vec<u64> = workers.iter().map(|w| w.forward + w.backward).collect();
            Station { turns: Groups::new(4, micro_batches).deal(&times), workers }
        }).collect();
        let wires: Vec<Wire> = (1..stages).flat_map(|to| (0..to).map(move |from| {
            Wire { from, to, there: Bytes::ZERO, back: (from + 1 == to).then_some(Bytes::ZERO) }
        })).collect();
        let outcome = Course { ground: &ground, order, micro_batches, record: true }.run(&stations, &wires);
        let mut by_device: Vec<Vec<(u64, u64)>> = vec![vec![]; 15];
        let mut count = 0;
        for span in &outcome.spans {
            if let Span::Pass { device, start, end, .. } = span {
                by_device[*device].push((*start, *end));
                count += 1;
            }
        }
        proptest::prop_assert_eq!(count, 2 * stages * micro_batches as usize);
        for list in &mut by_device {
            list.sort_unstable();
            proptest::prop_assert!(list.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        }
    }
}

/// GPT-2 small as 14 operators on four devices (papers.md 1.11): forward milliseconds of each operator at 40 TFLOPS.
fn vector(order: [usize; 4], ends: [usize; 3], codec: Codec, factor: u64) -> f64 {
    // 17.72 GFLOP a block, 79.05 the head, exactly: 24 s h^2 + 4 s^2 h, and 2 s h V.
    let (block, head) =
        (24 * 1024 * 768 * 768 + 4 * 1024 * 1024 * 768u64, 2 * 1024 * 768 * 50_257u64);
    let flops = |operator: usize| match operator {
        0 => 0,
        13 => head,
        _ => block,
    };
    let peers: Vec<PeerId> =
        order.iter().map(|n| PeerId::new([u8::try_from(*n).unwrap(); 32])).collect();
    // Devices 0 and 1 are A, 2 and 3 are B.
    let adverts: Vec<Advert> = order
        .iter()
        .map(|from| Advert {
            links: (0..4)
                .filter(|to| to != from)
                .map(|to| Link {
                    peer: PeerId::new([u8::try_from(to).unwrap(); 32]),
                    rate: Rate::from_mbit(if to / 2 == from / 2 { 10_000.0 } else { 100.0 }),
                    round_trip: Duration::ZERO,
                    loss: None,
                })
                .collect(),
            ..Advert::new(PeerId::new([u8::try_from(*from).unwrap(); 32]))
        })
        .collect();
    let links = Links::of(&adverts.iter().collect::<Vec<_>>());
    let list: Vec<_> = peers.iter().map(|peer| (*peer, None)).collect();
    let ground = Ground::new(&list, &links);
    let bounds = [0, ends[0], ends[1], ends[2], 14];
    let station = |stage: usize| {
        let work: u64 = (bounds[stage]..bounds[stage + 1]).map(flops).sum();
        let speed = if order[stage] < 2 { 40 } else { 20 };
        let forward = (work + speed * 500_000) / (speed * 1_000_000);
        Station {
            workers: vec![Worker { device: stage, forward, backward: 2 * forward, ready: 0 }],
            turns: vec![],
        }
    };
    let stations: Vec<Station> = (0..4).map(station).collect();
    let size = Bytes::new(1024 * 768 * 4);
    let wire = |from: usize| Wire { from, to: from + 1, there: size, back: Some(size) };
    let mut wires = codec.compress(&ground, &stations, (0..3).map(wire).collect());
    for wire in &mut wires {
        wire.there = Bytes::new(wire.there.count() * factor / 100);
        wire.back = Some(wire.there);
    }
    let order = PipelineOrder::GPipe;
    let course = Course { ground: &ground, order, micro_batches: 8, record: false };
    Duration::from_micros(course.run(&stations, &wires).drained).seconds()
}

/// The worked vectors of papers.md 1.11, to the digits that it prints.
#[test]
fn the_notes_vectors_are_reproduced() {
    let (mixed, fenced) = ([0, 2, 1, 3], [0, 1, 2, 3]);
    let rows = [
        (mixed, [4, 8, 11], Codec::Dense, 100, 5.0689),
        (mixed, [6, 9, 13], Codec::Dense, 100, 5.0650),
        (fenced, [4, 8, 11], Codec::Dense, 100, 4.0710),
        (fenced, [4, 12, 13], Codec::Dense, 100, 4.0657),
        // Uniform Top-K of ratio 100, with indices of 64 and of 32 bits.
        (fenced, [4, 12, 13], Codec::Dense, 3, 0.1527),
        (fenced, [4, 12, 13], Codec::Dense, 2, 0.1300),
        (fenced, [4, 12, 13], Codec::AdaTopK(100), 100, 0.1272),
    ];
    for (order, ends, codec, percent, seconds) in rows {
        let found = vector(order, ends, codec, percent);
        assert!((found - seconds).abs() < 0.00011, "{codec:?} {ends:?}: {found} {seconds}");
    }
    // Our own indices take fewer bits than the notes' 32.
    let found = vector(fenced, [4, 12, 13], Codec::TopK(100), 100);
    assert!((0.1150..0.1270).contains(&found), "{found}");
}
