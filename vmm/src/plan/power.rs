//! DEPLOY, SHUTDOWN, CANCEL, CLEANUP.

use causeway_core::answer::{Failure, Kind};
use causeway_core::document;
use causeway_core::names::{DeployId, DiskPath};
use causeway_core::plan::{Answer, Arg, Goal, Place, Plan, Step, Work};

use super::build::{Builder, input};

/// A guest is started: network first, so that it never runs unprotected.
pub(super) fn deploy(mut b: Builder<'_>, deployment: Option<&[u8]>) -> Result<Plan, Failure> {
    let deployment = b.need(deployment.filter(|d| !d.is_empty()), "a non-empty LOCAL_DEPLOYMENT_FILE")?;
    let remote = b.need(b.envelope.remote_deployment_file.as_ref(), "REMOTE_DEPLOYMENT_FILE")?;
    let id = domain_uuid(&b, deployment)?;
    let directory = parent(remote)?;
    b.set_deployment(deployment);
    let host = b.source();
    let place = b.on_source();
    let short = b.settings.deadlines.short;

    let context = b.transfers(None)?;
    b.steps(context);
    let pre = b.network_pre(host)?;
    b.steps(pre);
    let make = Work::MakeDir { path: directory.clone() };
    b.step(Step::new("mkdir", place.clone(), make, short));
    for name in [input::VM, input::DATASTORE] {
        let path = format!("{}/{name}", directory.as_str());
        let path = path.parse().map_err(|e| Failure::new(Kind::Input, e))?;
        let work = Work::WriteFile { path, input: name.to_owned() };
        b.step(Step::new(name, place.clone(), work, short));
    }
    let cancel = b.vmm("cancel", place.clone(), vec![id.as_str().into(), host.as_str().into()])?;
    let cancel = cancel.reaching(Goal::Gone { id: id.clone(), host: host.clone() });
    let argv = vec![Arg::from(remote.as_str()), host.as_str().into()];
    let deploy = b.vmm_with("deploy", place, argv, true, input::DOMAIN)?;
    let goal = Goal::RunsOn { id, host: host.clone(), from: None };
    // Half a start is worse than a late one: once libvirt is at it, it is let to finish.
    b.step(deploy.undone_by(vec![cancel]).reaching(goal).finishes());
    let post = b.network_post(host, Arg::Output("deploy".to_owned()), host)?;
    b.steps(post);
    Ok(b.finish(Answer::Output("deploy".to_owned())))
}

/// A guest is ended, softly (`shutdown`) or at once (`cancel`).
///
/// A network that can't be cleaned does not turn an ended guest into a running one (contract VMM 7, B1): `clean` only
/// warns, for the guest's end is what oned asked for.
pub(super) fn stop(mut b: Builder<'_>, verb: &str) -> Result<Plan, Failure> {
    let id = b.deploy_id()?.clone();
    let host = b.source();
    let step = b.vmm(verb, b.on_source(), vec![id.as_str().into(), host.as_str().into()])?;
    let step = if verb == "shutdown" { step.long() } else { step };
    b.step(step.reaching(Goal::Gone { id, host: host.clone() }));
    let clean = b.network_clean(host)?;
    b.steps(clean.into_iter().map(Step::ignored).collect());
    Ok(b.finish(Answer::Empty))
}

/// Whatever is left of a VM is taken away, on both hosts of a broken migration too. Failures of the network and of the
/// transfer manager are ignored; a guest that can't be proved to have ended is not: its network and its disks are its
/// own until then. The stock driver goes on and deletes them.
pub(super) fn cleanup(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let hosts = std::iter::once(b.source()).chain(b.envelope.migr_host.as_ref());
    for host in hosts {
        if let Some(id) = &b.envelope.deploy_id {
            let argv = vec![id.as_str().into(), host.as_str().into()];
            let cancel = b.vmm("cancel", Place::Host(host.clone()), argv)?;
            b.step(cancel.reaching(Goal::Gone { id: id.clone(), host: host.clone() }));
        }
        let clean = b.network_clean(host)?;
        b.steps(clean.into_iter().map(Step::ignored).collect());
    }
    for command in &b.envelope.tm_command {
        let delete = b.transfer(command, None)?;
        b.steps(delete.into_iter().map(Step::ignored).collect());
    }
    Ok(b.finish(Answer::Empty))
}

/// The UUID that libvirt will give the guest: oned writes it into the domain's XML (contract VMM 4). Without one the
/// guest is known by its name.
fn domain_uuid(b: &Builder<'_>, deployment: &[u8]) -> Result<DeployId, Failure> {
    let wrong = |what: &str| Failure::new(Kind::Input, format!("LOCAL_DEPLOYMENT_FILE: {what}"));
    let domain = document::parse(deployment).map_err(|e| wrong(&e.to_string()))?;
    if domain.name() != "domain" {
        return Err(wrong(&format!("its root is <{}>, not <domain>", domain.name())));
    }
    match domain.value("uuid").filter(|uuid| !uuid.trim().is_empty()) {
        None => Ok(DeployId::of_vm(b.envelope.vm.id)),
        Some(uuid) => uuid.trim().parse().map_err(|e| wrong(&format!("uuid: {e}"))),
    }
}

fn parent(file: &DiskPath) -> Result<DiskPath, Failure> {
    let directory = file.as_str().rsplit_once('/').map(|(directory, _)| directory).unwrap_or_default();
    directory.parse().map_err(|e| Failure::new(Kind::Input, format!("REMOTE_DEPLOYMENT_FILE: {e}")))
}
