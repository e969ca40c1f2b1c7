//! The authors' recorded times and the vectors derived from them (papers.md 3.4 to 3.10), and the laws of the ratio.

use proptest::prelude::*;

use super::*;

/// A P102-100 GPU, 16 workers, 1 Gbit/s Ethernet (papers.md 3.4).
const AUTHORS: Costs = Costs {
    select: 2.188_969_57e-10,
    message: 1.1e-2,
    byte: 1.7e-8,
    workers: 16,
    layout: Layout::Apart,
};

fn is_near(found: Duration, seconds: f64) -> bool {
    (found.seconds() - seconds).abs() < 0.000_051
}

/// An LSTM of two layers (papers.md 3.10), tensors in backward order; its backward pass is split by size.
fn lstm() -> Vec<Layer> {
    let weights = [6_000, 6_000, 9_000_000, 9_000_000];
    let sizes = [&[10_000, 15_000_000][..], &weights, &weights, &[15_000_000]].concat();
    let total: usize = sizes.iter().sum();
    let backward = |size: usize| Duration::from_seconds(0.13089 * size as f64 / total as f64);
    sizes.iter().map(|size| Layer { elements: *size, backward: backward(*size) }).collect()
}

fn thousandth(layer: &Layer) -> usize {
    (layer.elements / 1000).max(1)
}

/// Parameters of ResNet-50, in backward order.
fn resnet() -> Vec<Layer> {
    let mut sizes = vec![9_408, 64, 64];
    let mut width = 64;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let planes = 64 << stage;
        for block in 0..blocks {
            for (weights, channels) in [
                (width * planes, planes),
                (9 * planes * planes, planes),
                (4 * planes * planes, 4 * planes),
            ] {
                sizes.extend([weights, channels, channels]);
            }
            if block == 0 {
                sizes.extend([4 * width * planes, 4 * planes, 4 * planes]);
            }
            width = 4 * planes;
        }
    }
    sizes.extend([2_048_000, 1_000]);
    sizes.iter().rev().map(|size| Layer { elements: *size, backward: Duration::ZERO }).collect()
}

#[test]
fn selecting_takes_what_the_authors_recorded() {
    let rows = [
        (14_728_266, 0.0768, 0.0767),
        (25_557_032, 0.1377, 0.1376),
        (42_679_816, 0.2368, 0.2368),
        (66_034_000, 0.3755, 0.37548),
    ];
    for (elements, derived, recorded) in rows {
        let found = AUTHORS.selecting(elements);
        assert!(is_near(found, derived), "{found}");
        assert!((found.seconds() / recorded - 1.0).abs() < 0.002, "{found} {recorded}");
    }
}

#[test]
fn gathering_takes_what_the_notes_derive() {
    let rows = [
        (269_722, 0.0226),
        (14_728_266, 0.0540),
        (25_557_032, 0.0776),
        (42_679_816, 0.1149),
        (66_034_000, 0.1657),
    ];
    for (elements, seconds) in rows {
        let found = AUTHORS.gathering(elements / 1000, elements);
        assert!(is_near(found, seconds), "{found} {seconds}");
    }
}

#[test]
fn the_timeline_of_the_notes_is_reproduced() {
    let layers = lstm();
    let whole = merged(&layers);
    assert_eq!(whole.elements, 66_034_000);
    let alone = Timeline::of(&[whole], thousandth, &AUTHORS);
    assert!(is_near(alone.computed, 0.5064) && is_near(alone.sent, 0.6721), "{alone:?}");
    let each = Timeline::of(&layers, thousandth, &AUTHORS);
    assert!(is_near(each.computed, 0.4696) && is_near(each.sent, 0.5242), "{each:?}");
}

#[test]
fn small_layers_are_put_together_as_the_notes_count() {
    let resnet = resnet();
    assert_eq!((resnet.len(), merged(&resnet).elements), (161, 25_557_032));
    assert_eq!(groups(&resnet, 8_192).len(), 53);
    assert_eq!((lstm().len(), groups(&lstm(), 8_192).len()), (11, 9));
    assert_eq!(groups(&resnet, 0).len(), 161);
    assert_eq!(groups(&resnet, usize::MAX).len(), 1);
}

/// Goal: the bound, with the inputs of the authors' script. Method: forward, backward and selection of papers.md 3.8.
#[test]
fn the_most_that_overlap_gains_is_the_authors() {
    let rows = [
        (0.021, 0.0313, 0.0767, 1.320),
        (0.09, 0.12, 0.1376, 1.527),
        (0.305, 0.524, 0.2368, 1.286),
        (0.076, 0.13089, 0.37548, 1.290),
    ];
    for (forward, backward, other, gain) in rows {
        let [forward, backward, other] = [forward, backward, other].map(Duration::from_seconds);
        let found = gain_max(forward, backward, other);
        assert!((found - gain).abs() < 0.000_51, "{found} {gain}");
    }
}

fn any_layers() -> impl Strategy<Value = Vec<Layer>> {
    let layer = (1usize..3_000_000, 0u64..300_000);
    let layer = layer
        .prop_map(|(n, micros)| Layer { elements: n, backward: Duration::from_micros(micros) });
    prop::collection::vec(layer, 1..20)
}

fn any_costs() -> impl Strategy<Value = Costs> {
    let layout = prop::sample::select(&[
        Layout::Apart,
        Layout::Together(Floats::F32),
        Layout::Together(Floats::F16),
    ]);
    (0.0..1e-9, 0.0..1e-2, 1e-10..1e-6, 2u32..64, layout).prop_map(
        |(select, message, byte, workers, layout)| Costs { select, message, byte, workers, layout },
    )
}

proptest! {
    /// Between one in a thousand and all; what fits is used up; more to hide behind or a quicker network keeps no less.
    #[test]
    fn as_much_is_kept_as_can_be_hidden(
        costs in any_costs(), elements in 1usize..3_000_000, micros in 0u64..3_000_000, more in 0u64..1_000_000
    ) {
        let following = Duration::from_micros(micros);
        let keep = costs.keep(elements, following);
        let least = elements.div_ceil(RATIO_MAX);
        prop_assert!((least..=elements).contains(&keep));
        let takes = |keep| costs.selecting(elements) + costs.gathering(keep, elements);
        prop_assert!(keep == least || takes(keep) <= following);
        prop_assert!(keep == elements || takes(keep + 1) > following);
        prop_assert!(costs.keep(elements, following + Duration::from_micros(more)) >= keep);
        let slower = Costs { byte: costs.byte * 1.5, ..costs };
        prop_assert!(slower.keep(elements, following) <= keep);
    }

    /// Every layer is in one group, in order; all but the last reach the threshold, none before its last layer.
    #[test]
    fn groups_are_as_small_as_the_threshold_allows(layers in any_layers(), threshold in 0usize..5_000_000) {
        let groups = groups(&layers, threshold);
        let places: Vec<usize> = groups.iter().cloned().flatten().collect();
        prop_assert_eq!(places, (0..layers.len()).collect::<Vec<_>>());
        for (place, group) in groups.iter().enumerate() {
            let all = merged(&layers[group.clone()]).elements;
            prop_assert!(all >= threshold || place + 1 == groups.len());
            let before = merged(&layers[group.start..group.end - 1]).elements;
            prop_assert!(before < threshold || group.len() == 1);
        }
    }

    /// Overlap never gains more than its bound, with selection counted among the computing.
    #[test]
    fn no_timeline_gains_more_than_the_bound(layers in any_layers(), costs in any_costs(), forward in 0u64..500_000) {
        let forward = Duration::from_micros(forward + 1);
        let line = Timeline::of(&layers, thousandth, &costs);
        let each = |layer: &Layer| costs.gathering(thousandth(layer), layer.elements);
        let sending = layers.iter().fold(Duration::ZERO, |sum, layer| sum + each(layer));
        prop_assert!(line.sent >= line.computed.max(sending) && line.sent <= line.computed + sending);
        prop_assert!(line.exposed() <= sending);
        let gain = (forward + line.computed + sending).seconds() / (forward + line.sent).seconds();
        prop_assert!(gain <= gain_max(forward, line.computed, sending) + 1e-12);
    }
}
