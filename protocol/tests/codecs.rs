//! Placements of random problems with codecs: many searches, so that they take longer than the crate's other tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use proptest::prelude::*;
use wattle_protocol::codec::{Codec, Floats, Form};
use wattle_protocol::dag::Dtype;
use wattle_protocol::dag::cut::CutEdge;
use wattle_protocol::ids::{Epoch, JobId};
use wattle_protocol::schedule::advert::Advert;
use wattle_protocol::schedule::fence::{Request, place, stage_graphs};
use wattle_protocol::schedule::forms::EdgeForms;
use wattle_protocol::schedule::repair::repair;
use wattle_protocol::schedule::sample::{Problem, problem};
use wattle_protocol::schedule::{Plan, Standing};

fn placed(problem: &Problem, codec: Codec) -> Option<(Plan, Vec<CutEdge>)> {
    let mut spec = problem.spec.clone();
    spec.swarm.codec = codec;
    let leader = problem.adverts[0].peer;
    let (job, epoch) = (JobId::new([1; 16]), Epoch::default().next());
    let request = Request { spec: &spec, job, epoch, submitter: leader, leader, codec };
    let adverts: Vec<&Advert> = problem.adverts.iter().collect();
    let plan = place(request, &adverts).ok()?;
    let cut = stage_graphs(&spec, &plan.assignment, plan.recompute).unwrap();
    Some((plan, cut.edges))
}

/// Goal: fewer bytes never make a slower plan. Method: random problems, dense and with codecs that adapt.
#[test]
fn a_codec_is_never_behind_its_own_dense_placement() {
    let mut compared = 0;
    for seed in 0..40 {
        let problem = problem(500 + seed, 7, 14);
        let step = |codec| placed(&problem, codec).map(|(plan, _)| plan.prediction.step);
        let Some(dense) = step(Codec::Dense) else { continue };
        for codec in [Codec::AdaTopK(4), Codec::AdaTopK(100), Codec::Adaptive] {
            let less = step(codec).unwrap();
            assert!(less <= dense, "seed {seed}, {codec}: {less} against {dense}");
        }
        compared += 1;
    }
    assert!(compared >= 30, "{compared}");
}

/// Goal: repairs keep forms, so that nobody gets others past them. Method: plans that were made, then with forms that the job's
/// codec does not give, or one too many of them.
#[test]
fn no_repair_takes_forms_that_the_codec_does_not_give() {
    let (mut kept, mut refused) = (0, 0);
    for seed in 0..12 {
        let problem = problem(700 + seed, 5, 10);
        for codec in
            [Codec::Dense, Codec::Int5, Codec::Adaptive, Codec::TopK(10), Codec::AdaTopK(10)]
        {
            let Some((plan, edges)) = placed(&problem, codec) else { continue };
            if edges.is_empty() {
                continue;
            }
            let mut spec = problem.spec.clone();
            spec.swarm.codec = codec;
            let leader = problem.adverts[0].peer;
            let (job, epoch) = (JobId::new([1; 16]), plan.epoch.next());
            let request = Request { spec: &spec, job, epoch, submitter: leader, leader, codec };
            let adverts: Vec<&Advert> = problem.adverts.iter().collect();
            let holders = plan.stages.iter().map(|s| s.holders().collect()).collect();
            let standing = Standing { holders, ..Standing::default() };
            let with = |forms: Vec<EdgeForms>| {
                repair(request, &Plan { forms, ..plan.clone() }, &standing, &adverts)
            };
            assert_eq!(with(plan.forms.clone()).unwrap().forms, plan.forms);
            kept += 1;
            let forged = |form| EdgeForms { there: form, back: Form::DENSE };
            let rough = EdgeForms { there: Form::Int4, back: Form::DENSE };
            let none = Form::TopK { keep: 0, values: Floats::F32 };
            for forms in [
                vec![forged(none); edges.len()],
                vec![forged(Form::Dense(Floats::F16)); edges.len()],
                vec![EdgeForms::DENSE; edges.len() + 1],
                vec![rough; edges.len()],
            ] {
                assert!(with(forms).is_err(), "seed {seed}, {codec}");
                refused += 1;
            }
        }
    }
    assert!(kept >= 20 && refused >= 60, "{kept}, {refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Goal: a plan says of each edge what crosses it, never more than dense, and is not slower for it. Method: plans of
    /// random problems with each codec, beside the dense one.
    #[test]
    fn plans_name_a_form_for_each_edge(seed in 0u64..1 << 40, ratio in 2u32..300) {
        let problem = problem(seed, 5, 10);
        let Some((dense, _)) = placed(&problem, Codec::Dense) else { return Ok(()) };
        prop_assert!(dense.forms.is_empty());
        for codec in [Codec::Int8, Codec::Adaptive, Codec::TopK(ratio), Codec::AdaTopK(ratio)] {
            let (plan, edges) = placed(&problem, codec).unwrap();
            if plan.forms.is_empty() {
                prop_assert!(matches!(codec, Codec::Adaptive | Codec::AdaTopK(_)) || edges.is_empty());
                continue;
            }
            prop_assert_eq!(plan.forms.len(), edges.len());
            let size = |form: Form, edge: &CutEdge| form.bytes(edge.fact.elements());
            for (forms, edge) in plan.forms.iter().zip(&edges) {
                let most = size(Form::DENSE, edge);
                prop_assert!(size(forms.there, edge) <= most && size(forms.back, edge) <= most);
                prop_assert!(edge.fact.dtype != Dtype::I32 || *forms == EdgeForms::DENSE);
            }
            // Whatever adapts goes without what saves less than a fiftieth.
            let most = dense.prediction.step.micros() * (50 + 1) / 50;
            prop_assert!(plan.prediction.step.micros() <= most);
            if let Codec::Adaptive | Codec::AdaTopK(_) = codec {
                let sizes = plan.forms.iter().zip(&edges);
                let both = |(forms, edge): (&EdgeForms, _)| {
                    size(forms.there, edge).count() + size(forms.back, edge).count()
                };
                let all: u64 = sizes.map(both).sum();
                let most: u64 = edges.iter().map(|edge| 2 * size(Form::DENSE, edge).count()).sum();
                prop_assert!(all < most, "it turns itself off or saves something");
            }
        }
    }
}
