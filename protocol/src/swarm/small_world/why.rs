//! Where the time of steps goes, as the members of small worlds tell it.

use super::job::heavy;
use super::runs::LIMIT;
use super::*;
use crate::swarm::why::{Cause, explain};

/// Goal: what members remember hangs together, whoever runs how much of a job: next to nothing is left unattributed. Method:
/// jobs with a backup, with several stages a peer, and with replicas, asked by a bystander in the middle.
#[test]
fn the_time_of_steps_is_booked_to_what_was_measured() {
    let mut several = spec(6, 60);
    several.swarm.stages_per_peer = 2;
    for (job, peers) in [(spec(3, 60), 4), (several, 3), (heavy((2, 2, 1), 60), 4)] {
        let mut world = World::new(peers);
        world.submit(job);
        assert!(world.run_until(LIMIT, |w| w.losses.len() == 20), "{:?}", world.trace);
        let (job, to) = (world.plan.as_ref().unwrap().job, world.submitter);
        let ask = Input::Command(Command::AskTraces(job));
        world.later(to, Duration::ZERO, Happening::Input(ask));
        let all = usize::from(peers);
        assert!(world.run_until(LIMIT, |w| w.answers.len() == all), "{:?}", world.trace);
        let found = explain(&world.answers).unwrap();
        let share = |is: &dyn Fn(&Cause) -> bool| {
            let own = found.parts.iter().filter(|(cause, _)| is(cause));
            own.map(|(_, took)| took.seconds()).sum::<f64>() / found.step.seconds()
        };
        println!("{} of {}, {} steps: {:?}", found.unknown, found.step, found.steps, found.parts);
        assert!(found.steps >= 2 && !found.is_cut, "{found:?}");
        assert!(found.unknown.seconds() < 0.02 * found.step.seconds(), "{found:?}");
        assert!(share(&|cause| matches!(cause, Cause::Around(..))) > 0.4, "{found:?}");
        assert!(share(&|cause| matches!(cause, Cause::Link(..))) > 0.01, "{found:?}");
        let waits = share(&|cause| matches!(cause, Cause::Wait(_) | Cause::Decided(..)));
        assert!(waits < 0.2, "{found:?}");
    }
}
