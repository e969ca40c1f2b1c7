//! The laws of the exchange, for gradients, cuts and forms drawn at random.

use proptest::prelude::*;

use super::ratio::{Ring, adaptive, sending};
use super::ring::all_reduce;
use super::warmup::{keep, ratio_at};
use super::*;
use crate::codec::lags::{Costs, Layer, Layout, Timeline};
use crate::codec::{Floats, Form, decode};
use crate::units::Duration;

fn layers(sizes: &[usize]) -> Vec<Layer> {
    let layer = |size: &usize| Layer { elements: *size, backward: Duration::from_micros(100) };
    sizes.iter().map(layer).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn element() -> impl Strategy<Value = f32> {
    prop_oneof![4 => -1.0f32..1.0, 1 => prop::sample::select(&[0.0f32, -0.0, 1e-40, 3e20, -1e-3])]
}

/// Tensor sizes, a threshold, and gradients of some workers over some steps.
#[derive(Clone, Debug)]
struct Case {
    groups: MergeGroups,
    steps: Vec<Vec<Vec<f32>>>,
}

fn any_case() -> impl Strategy<Value = Case> {
    let sizes = prop::collection::vec(1usize..40, 1..6);
    (sizes, 0usize..90, 1usize..6, 1usize..4).prop_flat_map(|(sizes, threshold, workers, steps)| {
        let groups = MergeGroups::of(&layers(&sizes), threshold).unwrap();
        let gradient = prop::collection::vec(element(), groups.total());
        let step = prop::collection::vec(gradient, workers);
        prop::collection::vec(step, steps)
            .prop_map(move |steps| Case { groups: groups.clone(), steps })
    })
}

fn sparse(groups: &MergeGroups, ratio: usize) -> Vec<Form> {
    let form = |range: &std::ops::Range<usize>| Form::TopK {
        keep: keep(range.len(), ratio),
        values: Floats::F32,
    };
    groups.elements().iter().map(form).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Sent plus residual is the gradient plus the residual before, in the bits of one float addition.
    #[test]
    fn nothing_is_lost_that_the_residual_does_not_hold(case in any_case(), ratio in 1usize..20) {
        for values in [Floats::F32, Floats::Bf16] {
            let mut worker = Worker::new(0, case.groups.clone());
            for gradients in &case.steps {
                for (group, range) in case.groups.elements().iter().enumerate() {
                    let gradient = &gradients[0][range.clone()];
                    let before = worker.residual()[range.clone()].to_vec();
                    let form = Form::TopK { keep: keep(range.len(), ratio), values };
                    let bytes = worker.send(group, form, gradient).unwrap();
                    let mut sent = vec![0.0; range.len()];
                    decode(form, &bytes, &mut sent).unwrap();
                    let after = &worker.residual()[range.clone()];
                    for (((g, old), s), new) in gradient.iter().zip(&before).zip(&sent).zip(after) {
                        prop_assert_eq!(f64::from(g + old), f64::from(*s) + f64::from(*new));
                    }
                }
            }
        }
    }

    /// The same of velocities; and where everything is sent, what arrives is the velocity of a worker's own momentum.
    #[test]
    fn momentum_before_selecting_loses_nothing_either(case in any_case(), ratio in 1usize..20, momentum in 0.0f32..0.99) {
        let mut worker = Worker::new(0, case.groups.clone()).with_momentum(momentum);
        let mut velocity = vec![0.0f32; case.groups.total()];
        for gradients in &case.steps {
            for (group, range) in case.groups.elements().iter().enumerate() {
                let gradient = &gradients[0][range.clone()];
                for (u, g) in velocity[range.clone()].iter_mut().zip(gradient) {
                    *u = momentum * *u + g;
                }
                let before = worker.residual()[range.clone()].to_vec();
                let form = Form::TopK { keep: keep(range.len(), ratio), values: Floats::F32 };
                let bytes = worker.send(group, form, gradient).unwrap();
                let mut sent = vec![0.0; range.len()];
                decode(form, &bytes, &mut sent).unwrap();
                let after = &worker.residual()[range.clone()];
                let velocity = &velocity[range.clone()];
                for (((u, old), s), new) in velocity.iter().zip(&before).zip(&sent).zip(after) {
                    prop_assert_eq!(f64::from(u + old), f64::from(*s) + f64::from(*new));
                    prop_assert!(ratio > 1 || *new == 0.0);
                }
            }
        }
    }

    /// With a ratio of 1 the exchange has the bits of dense messages added in the same order, and leaves nothing out.
    #[test]
    fn all_elements_kept_is_the_dense_exchange_bit_for_bit(case in any_case()) {
        for (group, range) in case.groups.elements().iter().enumerate() {
            let size = range.len();
            let whole = Form::TopK { keep: size, values: Floats::F32 };
            let found = [whole, Form::DENSE].map(|form| {
                let mut out = vec![1.0; size];
                let mut gather = Gather::new(form, size, case.steps[0].len()).unwrap();
                for (place, gradient) in case.steps[0].iter().enumerate() {
                    let mut worker = Worker::new(place, case.groups.clone());
                    let bytes = worker.send(group, form, &gradient[range.clone()]).unwrap();
                    assert!(worker.residual().iter().all(|left| *left == 0.0));
                    gather.arrive(place, bytes).unwrap();
                }
                gather.mean(&mut out).map(|()| bits(&out))
            });
            prop_assert_eq!(&found[0], &found[1]);
        }
    }

    /// A network whose groups are all dense has the bits of one ring over the same elements, step after step.
    #[test]
    fn dense_groups_are_a_ring_all_reduce_bit_for_bit(case in any_case()) {
        let mut exchange = Exchange::new(case.groups.clone(), case.steps[0].len()).unwrap();
        let forms = vec![Form::DENSE; case.groups.len()];
        for gradients in &case.steps {
            let Ok(found) = exchange.run(gradients, &forms) else { continue };
            for range in case.groups.elements() {
                let slices: Vec<&[f32]> = gradients.iter().map(|g| &g[range.clone()]).collect();
                let (means, _) = all_reduce(&slices).unwrap();
                for mean in &means {
                    prop_assert_eq!(bits(mean), bits(&found.mean[range.clone()]));
                }
            }
        }
    }

    /// Whatever the order in which messages arrive, each worker has the same bits; so has each in a ring.
    #[test]
    fn arrivals_in_any_order_make_the_same_bits(case in any_case(), ratio in 1usize..9, turn in 0usize..6) {
        let forms = sparse(&case.groups, ratio);
        let mut exchange = Exchange::new(case.groups.clone(), case.steps[0].len()).unwrap();
        for gradients in &case.steps {
            let mut workers = exchange.workers().to_vec();
            let Ok(found) = exchange.run(gradients, &forms) else { continue };
            for (group, range) in case.groups.elements().iter().enumerate() {
                let form = forms[group];
                let mut messages: Vec<(usize, Vec<u8>)> = workers.iter_mut().enumerate()
                    .map(|(place, w)| (place, w.send(group, form, &gradients[place][range.clone()]).unwrap()))
                    .collect();
                messages.reverse();
                let middle = turn % messages.len();
                messages.rotate_left(middle);
                let mut gather = Gather::new(form, range.len(), messages.len()).unwrap();
                for (place, bytes) in messages {
                    prop_assert!(!gather.is_complete());
                    gather.arrive(place, bytes).unwrap();
                }
                let mut out = vec![0.0; range.len()];
                gather.mean(&mut out).unwrap();
                prop_assert_eq!(bits(&out), bits(&found.mean[range.clone()]));
            }
            prop_assert_eq!(&workers, exchange.workers());
        }
    }

    /// Where additions are exact, the ring's order does not matter: it has the mean of the gather. It sends 2 (P - 1) / P of the
    /// gradient, to within a chunk's rounding.
    #[test]
    fn the_ring_has_the_mean_and_sends_what_it_should(
        gradients in (1usize..9, 0usize..50).prop_flat_map(|(workers, size)| {
            let element = (-1000i16..1000).prop_map(f32::from);
            prop::collection::vec(prop::collection::vec(element, size), workers)
        })
    ) {
        let (workers, size) = (gradients.len(), gradients[0].len());
        let slices: Vec<&[f32]> = gradients.iter().map(Vec::as_slice).collect();
        let (means, sent) = all_reduce(&slices).unwrap();
        let mean = |place: usize| gradients.iter().map(|g| g[place]).sum::<f32>() / workers as f32;
        let wanted: Vec<f32> = (0..size).map(mean).collect();
        for found in &means {
            prop_assert_eq!(found, &wanted);
        }
        let exact = 8.0 * (workers - 1) as f64 / workers as f64 * size as f64;
        prop_assert!((sent.count() as f64 - exact).abs() <= 8.0 * workers as f64, "{} {}", sent, exact);
    }

    /// A dense group only where its ring is hidden; else what is sent is hidden, or is the least that is allowed.
    #[test]
    fn as_much_is_sent_as_the_backward_pass_hides(
        sizes in prop::collection::vec((1usize..2_000_000, 0u64..80_000), 1..12), ratio in 1usize..2000,
        workers in 2u32..64, byte in 1e-10..1e-7
    ) {
        let groups: Vec<Layer> = sizes.iter()
            .map(|(n, micros)| Layer { elements: *n, backward: Duration::from_micros(*micros) }).collect();
        let costs = Costs { select: 2e-10, message: 1e-4, byte, workers, layout: Layout::Together(Floats::F32) };
        let ring = Ring { workers, round: Duration::from_micros(100), byte };
        let forms = adaptive(&groups, &costs, &ring, ratio);
        prop_assert_eq!(forms.len(), groups.len());
        for (place, (group, form)) in groups.iter().zip(&forms).enumerate() {
            let least = group.elements.div_ceil(ratio);
            let takes = sending(&costs, &ring, *form, group.elements);
            let Some(next) = groups.get(place + 1) else {
                prop_assert_eq!(*form, Form::TopK { keep: least, values: Floats::F32 });
                continue;
            };
            let hidden = takes <= next.backward + costs.selecting(next.elements) + Duration::from_micros(1);
            let is_least = matches!(form, Form::TopK { keep, .. } if *keep == least);
            prop_assert!(hidden || is_least, "{:?}", form);
            if *form == Form::DENSE {
                prop_assert_eq!(takes, ring.reducing(group.elements));
            }
        }
    }

    /// From one in four on, ever sparser, and in the end as sparse as was asked.
    #[test]
    fn warm_up_ends_where_it_should(ratio in 1usize..5000, steps in 0u64..500, step in 0u64..600) {
        let found = ratio_at(ratio, steps, step);
        prop_assert!(found <= ratio && found >= ratio.min(4));
        prop_assert!(ratio_at(ratio, steps, step + 1) >= found);
        prop_assert!(step < steps || found == ratio);
    }
}

#[test]
fn the_warm_up_of_the_source_is_reproduced() {
    let found: Vec<usize> = (0..5).map(|epoch| ratio_at(1000, 4, epoch)).collect();
    // 25 %, 6.25 %, 1.5625 %, 0.4 %, 0.1 %.
    assert_eq!(found, [4, 16, 64, 256, 1000]);
    assert_eq!((keep(66_034_000, 1000), keep(10, 1000)), (66_034, 1));
}

#[test]
fn what_cannot_be_exchanged_is_refused_and_changes_nothing() {
    let groups = MergeGroups::of(&layers(&[3, 2]), 0).unwrap();
    assert!(MergeGroups::of(&layers(&[3, 0]), 0).is_err() && MergeGroups::of(&[], 0).is_err());
    let forms = sparse(&groups, 2);
    let mut exchange = Exchange::new(groups.clone(), 2).unwrap();
    let good = vec![vec![1.0, 2.0, 3.0, 4.0, 5.0]; 2];
    exchange.run(&good, &forms).unwrap();
    let before = exchange.clone();
    let with = |place: usize, value: f32| {
        let mut bad = good.clone();
        bad[1][place] = value;
        bad
    };
    let dense = vec![Form::DENSE; 2];
    for (gradients, forms, words) in [
        (with(4, f32::NAN), &forms, "worker 1, merge group 1: 1 elements are NaN"),
        (with(0, f32::INFINITY), &dense, "worker 1, merge group 0: 1 elements are NaN"),
        (good[..1].to_vec(), &forms, "the set of gradients has 1 elements where 2"),
        (vec![vec![1.0; 4]; 2], &forms, "a gradient has 4 elements where 5"),
        (vec![vec![3e38; 5]; 2], &dense, "the sum over workers is not finite at element 0"),
    ] {
        let error = exchange.run(&gradients, forms).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(exchange, before);
    }
    assert!(exchange.run(&good, &forms[..1]).is_err());
    assert!(Exchange::new(groups, 0).is_err());
}

#[test]
fn a_strangers_message_is_refused() {
    let form = Form::TopK { keep: 2, values: Floats::F32 };
    let mut gather = Gather::new(form, 5, 2).unwrap();
    let mut worker = Worker::new(0, MergeGroups::of(&layers(&[5]), 0).unwrap());
    let bytes = worker.send(0, form, &[1.0, 0.0, -3.0, 2.0, 0.5]).unwrap();
    assert!(worker.send(1, form, &[1.0]).is_err() && worker.send(0, form, &[1.0]).is_err());
    gather.arrive(0, bytes.clone()).unwrap();
    assert_eq!(gather.arrive(0, bytes.clone()), Err(ReplicaError::Twice { worker: 0 }));
    assert!(matches!(gather.arrive(2, bytes.clone()), Err(ReplicaError::Workers { .. })));
    let short = bytes[..bytes.len() - 1].to_vec();
    assert!(matches!(gather.arrive(1, short), Err(ReplicaError::Message { worker: 1, .. })));
    let mut out = [0.0; 5];
    assert_eq!(gather.mean(&mut out), Err(ReplicaError::Incomplete { missing: 1 }));
    gather.arrive(1, bytes).unwrap();
    gather.mean(&mut out).unwrap();
    assert_eq!(out, [0.0, 0.0, -3.0, 2.0, 0.0]);
}

/// A hand calculation of two outer steps, and what the rule comes to at its ends.
#[test]
fn the_outer_step_follows_a_hand_calculation() {
    let mut outer = Outer::new(OuterRule::DILOCO, vec![1.0, 2.0]);
    assert_eq!(outer.change(&[0.5, 2.0]).unwrap(), [0.5, 0.0]);
    // v = 0.5; p = 1 - 0.7 (0.5 + 0.45) = 0.335. Then v = 0.95, p = 0.335 - 0.7 (0.5 + 0.855) = -0.6135.
    for (wanted, change) in [(0.335f32, [0.5, 0.0]), (-0.6135, [0.5, 0.0])] {
        outer.apply(&change).unwrap();
        assert!((outer.parameters()[0] - wanted).abs() < 1e-6, "{:?}", outer.parameters());
        assert_eq!(outer.parameters()[1].to_bits(), 2.0f32.to_bits());
    }
    let plain = OuterRule { rate: 1.0, momentum: 0.0, nesterov: false };
    let mut outer = Outer::new(plain, vec![1.0, -4.0]);
    let change = outer.change(&[0.25, -5.0]).unwrap();
    outer.apply(&change).unwrap();
    assert_eq!(outer.parameters(), [0.25, -5.0]);
    assert!(outer.apply(&[1.0]).is_err() && outer.apply(&[f32::INFINITY, 0.0]).is_err());
    assert_eq!(outer.parameters(), [0.25, -5.0]);
}

/// Goal: selecting from the whole model is the one-group cut. Method: the tensors of one group, against a worker over one
/// tensor of all elements; the time line of one group has nothing to overlap with.
#[test]
fn one_group_is_the_whole_model_selection() {
    let groups = MergeGroups::of(&layers(&[3, 2, 4]), usize::MAX).unwrap();
    assert_eq!((groups.len(), groups.total()), (1, 9));
    assert_eq!(groups.tensors().first(), Some(&(0..3)));
    let gradient: Vec<f32> = (0..9u8).map(|n| f32::from(n) - 4.0).collect();
    let form = Form::TopK { keep: 2, values: Floats::F32 };
    let mut worker = Worker::new(0, groups.clone());
    let bytes = worker.send(0, form, &gradient).unwrap();
    let mut sent = [0.0; 9];
    decode(form, &bytes, &mut sent).unwrap();
    assert_eq!(sent, [-4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0]);
    let costs = Costs { select: 0.0, message: 1e-3, byte: 0.0, workers: 4, layout: Layout::Apart };
    let line = Timeline::of(&groups.layers(&layers(&[3, 2, 4])), |_| 2, &costs);
    assert_eq!(line.exposed(), Duration::from_millis(2));
}
