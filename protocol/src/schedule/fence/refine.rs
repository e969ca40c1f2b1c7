//! Improves a layout by small changes, each kept if the step gets shorter, until none helps or the budget is spent.
//!
//! Deterministic: changes are tried in a fixed order. Not here: which changes there are (`changes`).

use super::changes::{KINDS, Kind};
use super::judge::{Judge, Verdict};
use super::layout::Layout;
use super::stretch::Stretch;

/// What changes are made from.
#[derive(Debug)]
pub(super) struct Scene<'j, 'a> {
    pub(super) judge: &'j Judge<'a>,
    /// One for each order of the units.
    pub(super) stretches: Vec<Stretch<'a>>,
    /// Peers below this number may work.
    pub(super) able: usize,
}

/// What layouts are improved for, and by which changes.
pub(super) struct Aim<'f> {
    pub(super) kinds: &'f [Kind],
    /// Less is better; a longer step never costs less.
    pub(super) price: &'f dyn Fn(&Layout, Verdict) -> u64,
}

/// Improves a layout for the shortest step until nothing helps or the judge has spent so much in all. Returns it with its
/// verdict.
pub(super) fn refine(
    scene: &Scene<'_, '_>,
    start: (Layout, Verdict),
    budget: u64,
) -> (Layout, Verdict) {
    let aim = Aim { kinds: &KINDS, price: &|_, verdict| verdict.step };
    refine_for(scene, start, budget, &aim)
}

/// The same for any aim.
pub(super) fn refine_for(
    scene: &Scene<'_, '_>,
    (mut layout, mut verdict): (Layout, Verdict),
    budget: u64,
    aim: &Aim<'_>,
) -> (Layout, Verdict) {
    let mut price = (aim.price)(&layout, verdict);
    loop {
        let mut improved = false;
        for kind in aim.kinds {
            let mut from = 0;
            // A change that helps is followed by the changes after it in the list of the new layout.
            loop {
                let changes = kind(scene, &layout);
                scene.judge.made(changes.len(), &layout);
                let better = |change: &Layout| {
                    let at_least = |step| (aim.price)(change, Verdict { step });
                    let verdict = scene.judge.cost_if(change, |step| at_least(step) < price)?;
                    let lower = (aim.price)(change, verdict);
                    (lower < price).then_some((verdict, lower))
                };
                let Some((place, found)) = first(scene.judge, &changes, (from, budget), better)
                else {
                    break;
                };
                (verdict, price) = found;
                layout = changes[place].clone();
                from = place;
                improved = true;
            }
        }
        if !improved || scene.judge.spent() >= budget {
            return (layout, verdict);
        }
    }
}

fn first(
    judge: &Judge<'_>,
    changes: &[Layout],
    (from, budget): (usize, u64),
    better: impl Fn(&Layout) -> Option<(Verdict, u64)>,
) -> Option<(usize, (Verdict, u64))> {
    let list = changes.iter().enumerate().skip(from);
    let mut within = list.take_while(|_| judge.spent() < budget);
    within.find_map(|(place, change)| better(change).map(|found| (place, found)))
}
