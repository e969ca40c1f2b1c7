//! A job on the peers that it may be placed on: layouts become plans here, cut and predicted in earnest.

use std::collections::BTreeMap;

use super::super::advert::Advert;
use super::super::codec::Codec;
use super::super::estimate::Placement;
use super::super::footprint::Footprints;
use super::super::forms::{EdgeForms, choices};
use super::super::ground::Ground;
use super::super::links::Links;
use super::super::pipeline::Way;
use super::super::roles::{Standby, able_peers, council, ground_of};
use super::super::shortage::{Even, Shortage, even};
use super::super::{Plan, PlanError, Prediction, StagePlan};
use super::baseline::{self, Baseline};
use super::grain::Grain;
use super::judge::{Judge, Rules};
use super::layout::{Layout, Team};
use super::search::finalists;
use super::{Request, cut_as};
use crate::dag::cut::Cut;
use crate::ids::{PeerId, StageId};
use crate::job::{JobSpec, STAGES_MAX, SwarmSpec};

/// A form that loses more has to save more than one in so many of a step.
const WORTH: u64 = 50;

/// A job and the peers that it may be placed on, measured.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    request: Request<'a>,
    pub(super) able: Vec<&'a Advert>,
    pub(super) grain: Grain,
    pub(super) ground: Ground<'a>,
    ways: Vec<Way>,
    /// The job with one worker a stage and one stage a peer, then with the workers that it allows, where it allows more.
    narrower: Vec<JobSpec>,
}

impl<'a> Desk<'a> {
    pub(super) fn of(request: Request<'a>, adverts: &[&'a Advert]) -> Result<Self, PlanError> {
        let able = able_peers(adverts);
        if able.is_empty() {
            return Err(PlanError::NotEnoughPeers { wanted: 1, known: 0 });
        }
        let grain = Grain::of(request.spec)?;
        let links = Links::of(adverts);
        let ground = ground_of(&able, [request.leader], adverts, &links);
        let ways = Way::all(&request.spec.swarm);
        let own = request.spec.swarm;
        let one_each = SwarmSpec { stages_per_peer: 1, ..own };
        let mut narrower = vec![SwarmSpec { replicas: 1, ..one_each }, one_each];
        narrower.dedup();
        narrower.retain(|swarm| *swarm != own);
        let with = |swarm| JobSpec { swarm, ..request.spec.clone() };
        let narrower = narrower.into_iter().map(with).collect();
        Ok(Self { request, able, grain, ground, ways, narrower })
    }

    /// Returns a judge that lets layouts take so many thousandths of the peers' memory.
    pub(super) fn judge(&self, share: u64, codec: Codec) -> Judge<'_> {
        self.judge_of(self.request.spec, share, codec)
    }

    fn judge_of<'d>(&'d self, spec: &'d JobSpec, share: u64, codec: Codec) -> Judge<'d> {
        let leader = self.ground.number(self.request.leader);
        let ground = (&self.ground, self.able.len());
        let rules = Rules { leader, codec, share };
        Judge::new(&self.grain, spec, ground, rules)
    }

    /// Searches within a share of the peers' memory; returns layouts that may be the best plan, the best first. Where
    /// several workers a stage or stages a peer are allowed, the search begins where those for fewer end, and with a codec where
    /// one for dense tensors ends: whoever allows more, or sends less, is never behind.
    pub(super) fn finalists(&self, share: u64, plain: &[Layout]) -> Vec<Layout> {
        let (codec, able) = (self.request.codec, self.able.len());
        let mut from = plain.to_vec();
        for spec in &self.narrower {
            let found = finalists(&self.judge_of(spec, share, Codec::Dense), able, &from);
            from.splice(0..0, found);
        }
        let dense = finalists(&self.judge(share, Codec::Dense), able, &from);
        if codec == Codec::Dense {
            return dense;
        }
        from.splice(0..0, dense.iter().cloned());
        let mut found = finalists(&self.judge(share, codec), able, &from);
        found.extend(dense);
        found
    }

    /// Returns the layouts of baselines, each once: the search begins with them too.
    pub(super) fn plain(&self, adverts: &[&Advert]) -> Vec<Layout> {
        let all = [
            Baseline::EqualNumber,
            Baseline::EqualCompute,
            Baseline::EvenLayers,
            Baseline::BestSingle,
        ];
        all.into_iter().flat_map(|one| self.bare(one, adverts)).collect()
    }

    /// Returns the layouts of a baseline, run in every way that the job allows.
    pub(super) fn layouts(&self, baseline: Baseline, adverts: &[&Advert]) -> Vec<Layout> {
        let each = |layout: Layout| {
            (0..).zip(&self.ways).map(move |(way, _)| Layout { way, ..layout.clone() })
        };
        self.bare(baseline, adverts).into_iter().flat_map(each).collect()
    }

    fn bare(&self, baseline: Baseline, adverts: &[&Advert]) -> Vec<Layout> {
        let parts = (&self.ground, self.able.as_slice());
        baseline::layouts(baseline, &self.grain, parts, adverts)
    }

    /// Returns an even cut's plan, or what does not fit.
    ///
    /// *Errors*: [`PlanError::OutOfMemory`].
    pub(super) fn even(&self) -> Result<Plan, PlanError> {
        let (spec, training) = (self.request.spec, &self.grain.training);
        let parts = self.able.len() * usize::from(spec.swarm.stages_per_peer).max(1);
        let most = parts.min(training.forward_nodes).min(usize::from(STAGES_MAX));
        let counts: Vec<usize> = match spec.swarm.stages {
            Some(count) => vec![usize::from(count)],
            None => (1..=most).collect(),
        };
        let mut short: Option<Shortage> = None;
        // The thriftiest order, with and without recomputation.
        let mut ways = self.ways.clone();
        ways.dedup_by_key(|way| way.recompute);
        for (count, way) in counts.into_iter().flat_map(|c| ways.iter().map(move |w| (c, *w))) {
            match even(spec, training, &self.able, (count, way))? {
                Ok(Even { assignment, cut, owners }) => {
                    let alone = |owner: &PeerId| StagePlan::alone(*owner, Vec::new());
                    let workers: Vec<StagePlan> = owners.iter().map(alone).collect();
                    let found = self.planned(&cut, &workers, (way, None)).unwrap_or_default();
                    let found = found.into_iter().map(|(p, parts)| (p, assignment.clone(), parts));
                    if let Some(found) = mildest(found) {
                        return Ok(self.plan(found));
                    }
                }
                Err(more) => {
                    short = Some(match short {
                        Some(short) => short.nearer(more),
                        None => more,
                    });
                }
            }
        }
        let none = PlanError::Network("no cut of it is legal".into());
        Err(short.map_or(none, |short| PlanError::OutOfMemory(Box::new(short))))
    }

    /// Cuts and predicts layouts in earnest; returns the plan of the fastest that fits.
    pub(super) fn best(&self, layouts: &[Layout]) -> Option<Plan> {
        self.best_of(layouts, None)
    }

    /// The same with forms that are given.
    pub(super) fn best_in(&self, layouts: &[Layout], forms: &[EdgeForms]) -> Option<Plan> {
        self.best_of(layouts, Some(forms))
    }

    fn best_of(&self, layouts: &[Layout], given: Option<&[EdgeForms]>) -> Option<Plan> {
        // Layouts often differ in their workers alone.
        let mut cuts: BTreeMap<(&[u16], bool), Option<Cut>> = BTreeMap::new();
        let found = layouts.iter().flat_map(|layout| {
            let recompute = self.ways[usize::from(layout.way)].recompute;
            let assignment = self.grain.spread(&layout.stage_of);
            let cut = cuts
                .entry((&layout.stage_of, recompute))
                .or_insert_with(|| cut_as(&self.grain.training, &assignment, recompute).ok());
            let found = cut.as_ref().and_then(|cut| self.in_earnest(layout, cut, given));
            let found = found.unwrap_or_default().into_iter();
            found.map(move |(prediction, parts)| (prediction, assignment.clone(), parts))
        });
        mildest(found).map(|found| self.plan(found))
    }

    /// Predicts a layout from its cut, in its way or, where that takes more memory than the search counts, in the next
    /// thriftier one that fits. The order of passes does not change the cut.
    fn in_earnest(
        &self,
        layout: &Layout,
        cut: &Cut,
        given: Option<&[EdgeForms]>,
    ) -> Option<Vec<(Prediction, Parts)>> {
        let workers = stage_plans(layout, &self.ground);
        let wanted = self.ways[usize::from(layout.way)];
        let ways = self.ways[..=usize::from(layout.way)].iter().rev();
        let mut ways = ways.filter(|way| way.recompute == wanted.recompute);
        ways.find_map(|way| self.planned(cut, &workers, (*way, given)))
    }

    /// Chooses backups for a cut that was made for a way, and predicts with all forms that the edges may have; None where a
    /// peer has no room.
    fn planned(
        &self,
        cut: &Cut,
        workers: &[StagePlan],
        (way, given): (Way, Option<&[EdgeForms]>),
    ) -> Option<Vec<(Prediction, Parts)>> {
        let (spec, leader) = (self.request.spec, self.request.leader);
        let ground = &self.ground;
        let standby = Standby { spec, able: &self.able, ground, barred: &[] };
        let mut footprints = Footprints::of(spec, cut, way.order);
        let stages = standby.with_backups(cut, workers, &mut footprints);
        if !standby.fits(&stages, &mut footprints) {
            return None;
        }
        let order = way.order;
        let parts = Placement { spec, cut, order, stages: &stages, leader, ground, forms: &[] };
        let stages = parts.dealt();
        let in_form = |forms: &[EdgeForms]| Placement { stages: &stages, forms, ..parts }.predict();
        let codec = self.request.codec;
        let fresh = || choices(codec, &cut.edges, &stages, ground);
        let list = given.map_or_else(fresh, |forms| vec![forms.to_vec()]);
        let each = (0..).zip(list).map(|(rough, forms)| {
            (in_form(&forms), Parts { stages: stages.clone(), forms, rough, way })
        });
        Some(each.collect())
    }

    /// Predicts a step of a running plan, as this job's plans are predicted.
    ///
    /// *Errors*: [`PlanError::Network`] if the plan is not one of this network.
    pub(super) fn predict(&self, running: &Plan) -> Result<Prediction, PlanError> {
        let (spec, leader) = (self.request.spec, self.request.leader);
        let forms = running.forms.as_slice();
        let cut = cut_as(&self.grain.training, &running.assignment, running.recompute)?;
        let mut stages = running.stages.clone();
        for stage in &mut stages {
            // Whoever is gone is not waited for.
            stage.backups.retain(|peer| self.ground.number(*peer).is_some());
        }
        let (cut, stages, ground, order) = (&cut, &stages, &self.ground, running.order);
        Ok(Placement { spec, cut, order, stages, leader, ground, forms }.predict())
    }

    fn plan(&self, (prediction, assignment, parts): Found) -> Plan {
        let Parts { stages, forms, way, .. } = parts;
        let request = &self.request;
        Plan {
            job: request.job,
            epoch: request.epoch,
            assignment,
            council: council(&stages, &self.able, request),
            stages,
            submitter: request.submitter,
            order: way.order,
            recompute: way.recompute,
            forms,
            prediction,
        }
    }
}

/// What is expected of a placement, the stage of each node, and the rest of it.
type Found = (Prediction, Vec<StageId>, Parts);

/// Who has a part in each stage, what crosses links in which form, and how passes run.
struct Parts {
    stages: Vec<StagePlan>,
    forms: Vec<EdgeForms>,
    /// The place of the forms among those that the codec offers, the mildest first.
    rough: usize,
    way: Way,
}

/// Returns the fastest of those whose forms lose least, and of those with other forms where these are faster by enough: what is
/// lost is worth more than what little would be saved. The first of equals: the search has put them in order.
fn mildest(found: impl Iterator<Item = Found>) -> Option<Found> {
    let found: Vec<Found> = found.collect();
    let least = found.iter().map(|(prediction, ..)| prediction.step.micros()).min()?;
    let worth = least + least / WORTH;
    let enough = found.into_iter().filter(|(prediction, ..)| prediction.step.micros() <= worth);
    enough.min_by_key(|(prediction, _, parts)| (parts.rough, prediction.step))
}

/// Returns the workers of each stage, without backups and with no turns yet.
fn stage_plans(layout: &Layout, ground: &Ground<'_>) -> Vec<StagePlan> {
    let one = |peers: &Team| {
        let mut peers = peers.iter().map(|number| ground.peer(*number));
        let owner = peers.next().expect("a stage has an owner");
        StagePlan { replicas: peers.collect(), ..StagePlan::alone(owner, Vec::new()) }
    };
    layout.stages.iter().map(one).collect()
}
