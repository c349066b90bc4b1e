//! MIGRATE: a running guest goes to another host.

use causeway_core::answer::Failure;
use causeway_core::plan::{Answer, Arg, Goal, Place, Plan, Step};

use super::Drive;
use super::build::{Builder, input};

/// The destination's network is ready before the guest comes, and taken down again if it does not come. What follows
/// the move can only warn: the guest has gone.
///
/// With one host for both (a live change of datastore) the guest's own network is left alone; the stock driver tears
/// it down (contract VMM 7, B5).
pub(super) fn migrate(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let id = b.deploy_id()?.clone();
    let source = b.source();
    let destination = b.need(b.envelope.migr_host.as_ref(), "MIGR_HOST")?;
    b.need(b.envelope.tm_command.first(), "TM_COMMAND")?;
    let moves = source != destination;

    let mut prepare = b.transfer_as("PRE", Some(input::VM_BASE64))?;
    let give_up: Vec<Step> =
        b.transfer_as("FAIL", Some(input::VM_BASE64))?.into_iter().map(Step::ignored).collect();
    // Undone from the end: what the first one is undone by comes last, and also when a later one fails.
    if let Some(first) = prepare.first_mut() {
        first.undo.extend(give_up);
    }
    b.steps(prepare);
    if moves {
        let pre = b.network_pre(destination)?;
        b.steps(pre);
    }

    let place = match b.settings.drive {
        Drive::Libvirtd => Place::Host(source.clone()),
        Drive::Agent => Place::Delegated(source.clone()),
    };
    let argv = vec![Arg::from(id.as_str()), destination.as_str().into(), source.as_str().into()];
    let mut step = b.vmm("migrate", place, argv)?.long().finishes();
    step.deadline = b.guest_time(b.settings.deadlines.migrate);
    let goal = Goal::RunsOn { id: id.clone(), host: destination.clone(), from: Some(source.clone()) };
    b.step(if moves { step.reaching(goal) } else { step });

    if moves {
        let clean = b.network_clean(source)?;
        b.steps(clean.into_iter().map(Step::ignored).collect());
        let post = b.network_post(destination, id.as_str().into(), source)?;
        b.steps(post.into_iter().map(Step::ignored).collect());
    }
    let settle = b.transfer_as("POST", Some(input::VM_BASE64))?;
    b.steps(settle.into_iter().map(Step::ignored).collect());
    Ok(b.finish(Answer::Empty))
}
