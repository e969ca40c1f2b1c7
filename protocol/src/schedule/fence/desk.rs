//! A job on the peers that it may be placed on: layouts become plans here, cut and predicted in earnest.

use super::super::advert::Advert;
use super::super::codec::Codec;
use super::super::estimate::Placement;
use super::super::footprint::Footprints;
use super::super::ground::Ground;
use super::super::links::Links;
use super::super::pipeline::Way;
use super::super::roles::{Standby, able_peers, council, ground_of};
use super::super::shortage::{Shortage, even};
use super::super::{Plan, PlanError, Prediction, StagePlan};
use super::baseline::{self, Baseline};
use super::grain::Grain;
use super::judge::{Judge, Layout, Rules};
use super::search::finalists;
use super::{Request, cut_as};
use crate::dag::cut::Cut;
use crate::ids::{PeerId, StageId};
use crate::job::STAGES_MAX;

/// A job and the peers that it may be placed on, measured.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    request: Request<'a>,
    pub(super) able: Vec<&'a Advert>,
    pub(super) grain: Grain,
    pub(super) ground: Ground<'a>,
    ways: Vec<Way>,
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
        Ok(Self { request, able, grain, ground, ways })
    }

    /// Returns a judge that lets layouts take so many thousandths of the peers' memory.
    pub(super) fn judge(&self, share: u64, codec: Codec) -> Judge<'_> {
        let leader = self.ground.number(self.request.leader);
        let ground = (&self.ground, self.able.len());
        let rules = Rules { leader, codec, share };
        Judge::new(&self.grain, self.request.spec, ground, rules)
    }

    /// Searches within a share of the peers' memory; returns layouts that may be the best plan, the best first. With a
    /// codec the search begins where one for dense tensors ends: fewer bytes on the same links are never slower.
    pub(super) fn finalists(&self, share: u64, plain: &[Layout]) -> Vec<Layout> {
        let (codec, able) = (self.request.codec, self.able.len());
        let search = |codec, starts: &[Layout]| finalists(&self.judge(share, codec), able, starts);
        if codec == Codec::Dense {
            return search(codec, plain);
        }
        let dense = search(Codec::Dense, plain);
        let mut found = search(codec, &[plain, dense.as_slice()].concat());
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
        let most = self.able.len().min(training.forward_nodes).min(usize::from(STAGES_MAX));
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
                Ok((assignment, owners)) => {
                    let alone = |owner: &PeerId| StagePlan::alone(*owner, Vec::new());
                    let workers: Vec<StagePlan> = owners.iter().map(alone).collect();
                    let cut = cut_as(training, &assignment, way.recompute)?;
                    if let Some((prediction, stages, way)) = self.planned(&cut, &workers, way) {
                        return Ok(self.plan((prediction, assignment, stages, way)));
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
        let found = layouts.iter().filter_map(|layout| self.in_earnest(layout));
        // The first of equals: the search has put them in order.
        let best = found.reduce(|best, next| if next.0.step < best.0.step { next } else { best });
        best.map(|found| self.plan(found))
    }

    /// Cuts and predicts a layout, in its way or, where that takes more memory than the search counts, in the next
    /// thriftier one that fits. The order of passes does not change the cut.
    fn in_earnest(&self, layout: &Layout) -> Option<Found> {
        let workers = stage_plans(layout, &self.ground);
        let wanted = self.ways[usize::from(layout.way)];
        let assignment = self.grain.spread(&layout.stage_of);
        let cut = cut_as(&self.grain.training, &assignment, wanted.recompute).ok()?;
        let ways = self.ways[..=usize::from(layout.way)].iter().rev();
        let mut ways = ways.filter(|way| way.recompute == wanted.recompute);
        let (prediction, stages, way) = ways.find_map(|way| self.planned(&cut, &workers, *way))?;
        Some((prediction, assignment, stages, way))
    }

    /// Chooses backups for a cut that was made for a way, and predicts; None where a peer has no room.
    fn planned(
        &self,
        cut: &Cut,
        workers: &[StagePlan],
        way: Way,
    ) -> Option<(Prediction, Vec<StagePlan>, Way)> {
        let (spec, leader, codec) = (self.request.spec, self.request.leader, self.request.codec);
        let ground = &self.ground;
        let standby = Standby { spec, able: &self.able, ground, barred: &[] };
        let mut footprints = Footprints::of(spec, cut, way.order);
        let stages = standby.with_backups(cut, workers, &mut footprints);
        if !standby.fits(&stages, &mut footprints) {
            return None;
        }
        let order = way.order;
        let placement = Placement { spec, cut, order, stages: &stages, leader, ground, codec };
        let stages = placement.dealt();
        let prediction = Placement { stages: &stages, ..placement }.predict();
        Some((prediction, stages, way))
    }

    fn plan(&self, (prediction, assignment, stages, way): Found) -> Plan {
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
            prediction,
        }
    }
}

/// What is expected of a placement, the stage of each node, who has a part in each stage, and how passes run.
type Found = (Prediction, Vec<StageId>, Vec<StagePlan>, Way);

/// Returns the workers of each stage, without backups and with no turns yet.
fn stage_plans(layout: &Layout, ground: &Ground<'_>) -> Vec<StagePlan> {
    let one = |peers: &Vec<usize>| {
        let mut peers = peers.iter().map(|number| ground.peer(*number));
        let owner = peers.next().expect("a stage has an owner");
        StagePlan { replicas: peers.collect(), ..StagePlan::alone(owner, Vec::new()) }
    };
    layout.stages.iter().map(one).collect()
}
