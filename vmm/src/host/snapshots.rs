//! A guest's system snapshots around a move and at its start: the disks hold what they are made of, libvirt holds their
//! metadata, lets no guest go that has any, and forgets them with it (contract VMM 3.3, deploy step 9; 3.4, steps 1 and 6).
//!
//! ```text
//! source  depart: metadata to files ─> forget ─┬─> migrate ─> destination  arrive: files to metadata
//!                                              └─ failed ─> source  stay: files to metadata
//! ```
//!
//! Promise: nothing is forgotten that does not lie in the VM directory. The files are those that the stock scripts write
//! and read, `snap-<id>.xml`; which snapshot is the current one lies beside them.

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::Features;
use causeway_core::names::{DeployId, DiskPath};
use causeway_core::reach::wire::{Done, Effect, Severity};
use causeway_domain::domain_xml::{snapshot_name, snapshot_of};
use causeway_domain::{Code, Domain, Hypervisor, Snapshot};

use super::{Call, FileAnswer, FileCall, Later, failure};

/// `depart DEPLOY_ID VM_DIRECTORY VMID HOST`: the guest is made ready to leave. Repeated, it goes on where it stopped;
/// a guest that is gone has left.
pub(super) fn depart(call: &Call<'_>) -> Result<Done, Failure> {
    let (id, directory) = (call.deploy_id(0)?, call.directory(1)?);
    put_aside(call, &id, &directory)
}

/// `stay DEPLOY_ID VM_DIRECTORY VMID HOST`: the guest has not left after all.
pub(super) fn stay(call: &Call<'_>) -> Result<Done, Failure> {
    let (id, directory) = (call.deploy_id(0)?, call.directory(1)?);
    match call.hypervisor.lookup(&id).map_err(|e| failure(&e))? {
        Some(domain) => give_back(call, call.hypervisor, &domain, &directory),
        None => Ok(already()),
    }
}

/// `arrive DEPLOY_ID VM_DIRECTORY VMID HOST`: the guest has come. Its clock is set as well, if the admin wants that.
pub(super) fn arrive(call: &Call<'_>) -> Result<Done, Failure> {
    let (id, directory) = (call.deploy_id(0)?, call.directory(1)?);
    let found = call.hypervisor.lookup(&id).map_err(|e| failure(&e))?;
    let Some(domain) = found else {
        return Err(Failure::new(Kind::HostState, format!("{id} is not on this host")));
    };
    if call.settings.effective(&Features::default()).sync_time {
        call.machine.later(Later::SyncClock(id));
    }
    give_back(call, call.hypervisor, &domain, &directory)
}

fn already() -> Done {
    Done { output: String::new(), effect: Effect::Already }
}

/// What libvirt knows of the domain's snapshots; none where there is no such domain, or a hypervisor without snapshots.
fn known(hypervisor: &dyn Hypervisor, id: &DeployId) -> Result<Vec<Snapshot>, Failure> {
    match hypervisor.snapshots(id) {
        Err(e) if e.is_absent() || e.code() == Some(Code::Unsupported) => Ok(Vec::new()),
        other => other.map_err(|e| failure(&e)),
    }
}

/// Writes the metadata down and has libvirt forget them.
pub(super) fn put_aside(call: &Call<'_>, id: &DeployId, directory: &DiskPath) -> Result<Done, Failure> {
    let known = known(call.hypervisor, id)?;
    if known.is_empty() {
        return Ok(already());
    }
    if let Some(other) = known.iter().find(|snapshot| !is_opennebulas(&snapshot.name)) {
        let text = format!(
            "snapshot {:?} of {id} is none of OpenNebula's, and libvirt moves no guest with snapshots: \
             `virsh snapshot-delete --metadata {id} ...` has libvirt forget it",
            other.name
        );
        return Err(Failure::new(Kind::HostState, text));
    }
    let current = known.iter().find(|snapshot| snapshot.current).map(|snapshot| snapshot.name.clone());
    let snapshots = known.iter().map(|s| (s.name.clone(), s.xml.clone())).collect();
    call.files.call(FileCall::KeepSnapshots { directory: directory.clone(), snapshots, current })?;
    if call.is_cancelled() {
        return Err(Failure::new(Kind::Cancelled, "cancelled before libvirt was asked"));
    }
    // Children first: each is forgotten while its parent is still known.
    for snapshot in known.iter().rev() {
        call.hypervisor
            .forget_snapshot(id, &snapshot.name)
            .map_err(|e| failure(&e).context(&snapshot.name))?;
    }
    Ok(Done::quiet())
}

/// `snap-<id>`: the only names that the stock scripts give, and read again.
fn is_opennebulas(name: &str) -> bool {
    name.strip_prefix("snap-").is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
}

/// Gives libvirt the metadata that lie in the VM directory and that it does not know. One that it does not take does not
/// keep it from the others.
pub(super) fn give_back(
    call: &Call<'_>,
    hypervisor: &dyn Hypervisor,
    domain: &Domain,
    directory: &DiskPath,
) -> Result<Done, Failure> {
    let FileAnswer::Snapshots { saved, current } =
        call.files.call(FileCall::Snapshots { directory: directory.clone() })?
    else {
        return Err(Failure::new(Kind::Bug, "snapshots were asked for, and something else came back"));
    };
    if saved.is_empty() {
        return Ok(already());
    }
    let id = DeployId::from(domain.uuid);
    let known = known(hypervisor, &id)?;
    let mut made = false;
    let mut refused = Vec::new();
    for xml in &saved {
        match give_one(hypervisor, domain, xml, &known, current.as_deref()) {
            Ok(fresh) => made |= fresh,
            Err(failure) => refused.push(failure.text),
        }
    }
    if !refused.is_empty() {
        let text = format!("snapshots that can't be gone back to: {}", refused.join("; "));
        return Err(Failure::new(Kind::Refused, text));
    }
    Ok(if made { Done::quiet() } else { already() })
}

/// Gives back one snapshot's metadata; false if libvirt knows it.
fn give_one(
    hypervisor: &dyn Hypervisor,
    domain: &Domain,
    xml: &str,
    known: &[Snapshot],
    current: Option<&str>,
) -> Result<bool, Failure> {
    let name = snapshot_name(xml).map_err(|e| Failure::from_chain(Kind::HostState, &e))?;
    if known.iter().any(|snapshot| snapshot.name == name) {
        return Ok(false);
    }
    let named = |failure: Failure| failure.context(&name);
    let xml = snapshot_of(xml, domain.uuid).map_err(|e| named(Failure::from_chain(Kind::HostState, &e)))?;
    let is_current = current == Some(name.as_str());
    let given = hypervisor.redefine_snapshot(&domain.uuid.into(), &xml, is_current);
    given.map(|()| true).map_err(|e| named(failure(&e)))
}

/// [`give_back`] for a guest that runs whatever becomes of it: what is missing is told.
pub(super) fn give_back_or_tell(
    call: &Call<'_>,
    hypervisor: &dyn Hypervisor,
    domain: &Domain,
    directory: &DiskPath,
) {
    if let Err(failure) = give_back(call, hypervisor, domain, directory) {
        (call.log)(Severity::Warning, &failure.text);
    }
}
