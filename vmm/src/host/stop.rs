//! `vmm/kvm/shutdown` and `vmm/kvm/cancel`: end a guest (contract VMM 3.3).
//!
//! Promise: success means that libvirt said the domain is gone. A libvirt that can't be asked is a failure, never "the
//! guest is off" (contract VMM 7, C2).

use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::Features;
use causeway_core::names::DeployId;
use causeway_core::reach::wire::{Done, Effect, Severity};
use causeway_domain::domain_xml::facts;
use causeway_domain::{Code, State, XmlView};

use super::deploy::vm_document;
use super::{Call, Helper, failure};

/// How often libvirt is asked whether a guest is gone.
const POLL: Duration = Duration::from_millis(250);

/// Longest time from a destroy to libvirt's word that the domain is gone.
pub(super) const DESTROY_TIMEOUT: Duration = Duration::from_secs(60);

/// `shutdown DEPLOY_ID HOST VMID HOST`
pub(super) fn shutdown(call: &Call<'_>) -> Result<Done, Failure> {
    let id = call.deploy_id(0)?;
    if gone(call, &id)? {
        return Ok(Done { output: String::new(), effect: Effect::Already });
    }
    let devices = devices(call, &id);
    // Before it stops: libvirt deletes the state of a transient domain's TPM with the domain.
    if let Some(backup) = &devices.tpm {
        call.help(backup);
    }
    let done = end(call, &id)?;
    devices.gpus.iter().for_each(|gpus| call.help(gpus));
    call.compact_memory(call.settings.kvmrc.cleanup_memory_on_stop);
    Ok(done)
}

/// Ends the guest, softly as long as it takes part.
fn end(call: &Call<'_>, id: &DeployId) -> Result<Done, Failure> {
    if call.settings.kvmrc.cancel_no_acpi && !has_acpi(call, id)? {
        (call.log)(Severity::Info, "the guest knows no ACPI and CANCEL_NO_ACPI is set: powering it off");
        return destroy(call, id, DESTROY_TIMEOUT);
    }
    ask(call, id)?;
    let effective = call.settings.effective(&Features::default());
    let start = Instant::now();
    let limit = effective.shutdown_timeout;
    let mut asked_twice = false;
    while start.elapsed() < limit {
        call.pause(POLL)?;
        if gone(call, id)? {
            return Ok(Done::quiet());
        }
        // A guest that was still booting lost the first request.
        if !asked_twice && start.elapsed() > limit / 2 {
            asked_twice = true;
            // It was asked once, and goes on shutting down whatever becomes of this.
            if let Err(failure) = ask(call, id) {
                (call.log)(Severity::Warning, &failure.text);
            }
        }
    }
    let seconds = limit.as_secs();
    if !effective.force_destroy {
        let text = format!("the guest did not shut down within {seconds} s, and FORCE_DESTROY is not set");
        return Err(Failure::new(Kind::Timeout, text));
    }
    let text = format!("the guest did not shut down within {seconds} s: powering it off");
    (call.log)(Severity::Warning, &text);
    destroy(call, id, DESTROY_TIMEOUT)
}

/// `cancel DEPLOY_ID HOST VMID HOST`
pub(super) fn cancel(call: &Call<'_>) -> Result<Done, Failure> {
    let id = call.deploy_id(0)?;
    if gone(call, &id)? {
        return Ok(Done { output: String::new(), effect: Effect::Already });
    }
    let devices = devices(call, &id);
    let done = destroy(call, &id, DESTROY_TIMEOUT)?;
    devices.gpus.iter().for_each(|gpus| call.help(gpus));
    Ok(done)
}

/// What root helpers have to do for a guest that ends (contract VMM 3.3, shutdown steps 2 and 7, cancel).
#[derive(Default)]
struct Devices {
    tpm: Option<Helper>,
    gpus: Option<Helper>,
}

/// Looks for devices that need a helper while the domain can still be asked. A guest is ended whether or not it can.
fn devices(call: &Call<'_>, id: &DeployId) -> Devices {
    let read = || -> Result<Devices, Failure> {
        let xml = match call.hypervisor.xml(id, XmlView::Live) {
            // It went by itself meanwhile.
            Err(e) if e.is_absent() => return Ok(Devices::default()),
            other => other.map_err(|e| failure(&e))?,
        };
        let facts = facts(&xml).map_err(|e| Failure::new(Kind::HostState, format!("XML of {id}: {e}")))?;
        let Some(directory) = facts.metadata.and_then(|metadata| metadata.system_datastore) else {
            return Ok(Devices::default());
        };
        let tpm = facts.uuid.filter(|_| facts.emulated_tpm);
        let document = vm_document(&directory)?;
        Ok(Devices {
            gpus: (facts.hostdevs > 0).then_some(Helper::DeleteGpus(document)),
            tpm: tpm.map(|uuid| Helper::BackupTpm(uuid.into(), directory)),
        })
    };
    read().unwrap_or_else(|failure| {
        (call.log)(Severity::Warning, &format!("devices are not looked after: {failure}"));
        Devices::default()
    })
}

/// Asks the guest to shut down; one that went meanwhile needs no asking.
fn ask(call: &Call<'_>, id: &DeployId) -> Result<(), Failure> {
    match call.hypervisor.shutdown(id) {
        Err(e) if e.is_absent() => Ok(()),
        Err(e) => Err(failure(&e)),
        Ok(()) => Ok(()),
    }
}

/// Powers the guest off and waits, at most `limit`, until libvirt says that it is.
pub(super) fn destroy(call: &Call<'_>, id: &DeployId, limit: Duration) -> Result<Done, Failure> {
    let start = Instant::now();
    loop {
        match call.hypervisor.destroy(id) {
            Ok(()) => {}
            Err(e) if e.is_absent() || e.code() == Some(Code::WrongState) => {}
            Err(e) if start.elapsed() > limit => return Err(failure(&e)),
            Err(e) => (call.log)(Severity::Warning, &failure(&e).text),
        }
        if gone(call, id)? {
            return Ok(Done::quiet());
        }
        if start.elapsed() > limit {
            let seconds = limit.as_secs();
            return Err(Failure::new(
                Kind::Timeout,
                format!("{id} is still there {seconds} s after its destroy"),
            ));
        }
        call.pause(POLL)?;
    }
}

/// Whether libvirt says that the guest has ended: there is no such domain, or only its definition.
///
/// A domain that somebody made persistent leaves one (contract VMM 7, C4), which would stand in the way of the next
/// deploy here. A definition that can't be taken away does not turn an ended guest into a running one.
fn gone(call: &Call<'_>, id: &DeployId) -> Result<bool, Failure> {
    let found = call.hypervisor.lookup(id).map_err(|e| failure(&e))?;
    let Some(domain) = found else { return Ok(true) };
    if domain.id.is_some() && domain.state != State::ShutOff {
        return Ok(false);
    }
    if domain.persistent
        && let Err(e) = call.hypervisor.undefine(id)
        && !e.is_absent()
    {
        (call.log)(Severity::Warning, &failure(&e).text);
    }
    Ok(true)
}

fn has_acpi(call: &Call<'_>, id: &DeployId) -> Result<bool, Failure> {
    let xml = match call.hypervisor.xml(id, XmlView::Live) {
        Err(e) if e.is_absent() => return Ok(true),
        other => other.map_err(|e| failure(&e))?,
    };
    let facts = facts(&xml).map_err(|e| Failure::new(Kind::HostState, format!("XML of {id}: {e}")))?;
    Ok(facts.acpi)
}
