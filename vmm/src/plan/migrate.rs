//! MIGRATE: a running guest goes to another host.

use causeway_core::answer::Failure;
use causeway_core::plan::{Answer, Arg, Goal, Place, Plan, Step};

use super::Drive;
use super::build::{Builder, Round, input};

/// The destination's network is ready before the guest comes, and taken down again if it does not come. What follows
/// the move can only warn: the guest has gone.
///
/// Snapshots' metadata are put aside before the guest goes, and given back where it is then; its clock is set. The stock
/// `migrate` does this by itself, from the source, and loses the metadata where the move fails (contract VMM 3.4 steps 1,
/// 6 and 7; 7, D1). What is done already is left as it is, so the stock script may stand in its slot.
///
/// What the guest has under way is told before its network there is prepared, and once more when it has gone: what its groups
/// let begin goes on.
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
        let (tell, admit) = b.connections(source, destination, Round::Before)?;
        b.steps(tell);
        let pre = b.network_pre(destination)?;
        b.steps(pre);
        b.steps(admit);
    }

    let place = match b.settings.drive {
        Drive::Libvirtd => Place::Host(source.clone()),
        Drive::Agent => Place::Delegated(source.clone()),
    };
    let directory = if moves && is_ours_to_prepare(&b) { b.envelope.disk_target_path.as_ref() } else { None };
    if let Some(directory) = directory {
        let stay = b.own("stay", source, directory)?;
        // Where it can't be done libvirt does not let the guest go, and its word is the answer.
        let depart = b.own("depart", source, directory)?.undone_by(vec![stay]).ignored();
        b.step(depart);
    }
    let argv = vec![Arg::from(id.as_str()), destination.as_str().into(), source.as_str().into()];
    let mut step = b.vmm("migrate", place, argv)?.long().finishes();
    step.deadline = b.guest_time(b.settings.deadlines.migrate);
    let goal = Goal::RunsOn { id: id.clone(), host: destination.clone(), from: Some(source.clone()) };
    b.step(if moves { step.reaching(goal) } else { step });

    if moves {
        let (tell, admit) = b.connections(source, destination, Round::After)?;
        b.steps(tell);
        let clean = b.network_clean(source)?;
        b.steps(clean.into_iter().map(Step::ignored).collect());
        b.steps(admit);
        let post = b.network_post(destination, id.as_str().into(), source)?;
        b.steps(post.into_iter().map(Step::ignored).collect());
    }
    if let Some(directory) = directory {
        let arrive = b.own("arrive", destination, directory)?.ignored();
        b.step(arrive);
    }
    let settle = b.transfer_as("POST", Some(input::VM_BASE64))?;
    b.steps(settle.into_iter().map(Step::ignored).collect());
    Ok(b.finish(Answer::Empty))
}

/// Whether the guest is one of libvirt's here: a script of `-l`, and the scripts of another hypervisor, see to all of it.
fn is_ours_to_prepare(b: &Builder<'_>) -> bool {
    b.settings.hypervisor == "kvm" && !b.settings.local.contains_key("migrate")
}
