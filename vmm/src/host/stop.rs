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
use causeway_domain::{Code, Domain, XmlView};

use super::{Call, failure};

/// How often libvirt is asked whether a guest is gone.
const POLL: Duration = Duration::from_millis(250);

/// Longest time from a destroy to libvirt's word that the domain is gone.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(60);

/// `shutdown DEPLOY_ID HOST VMID HOST`
pub(super) fn shutdown(call: &Call<'_>) -> Result<Done, Failure> {
    let id = call.deploy_id(0)?;
    if gone(call, &id)? {
        return Ok(Done { output: String::new(), effect: Effect::Already });
    }
    if call.settings.kvmrc.cancel_no_acpi && !has_acpi(call, &id)? {
        (call.log)(Severity::Info, "the guest knows no ACPI and CANCEL_NO_ACPI is set: powering it off");
        return destroy(call, &id);
    }
    ask(call, &id)?;
    let effective = call.settings.effective(&Features::default());
    let start = Instant::now();
    let limit = effective.shutdown_timeout;
    let mut asked_twice = false;
    while start.elapsed() < limit {
        call.pause(POLL)?;
        if gone(call, &id)? {
            return Ok(Done::quiet());
        }
        // A guest that was still booting lost the first request.
        if !asked_twice && start.elapsed() > limit / 2 {
            asked_twice = true;
            ask(call, &id)?;
        }
    }
    let seconds = limit.as_secs();
    if !effective.force_destroy {
        let text = format!("the guest did not shut down within {seconds} s, and FORCE_DESTROY is not set");
        return Err(Failure::new(Kind::Timeout, text));
    }
    let text = format!("the guest did not shut down within {seconds} s: powering it off");
    (call.log)(Severity::Warning, &text);
    destroy(call, &id)
}

/// `cancel DEPLOY_ID HOST VMID HOST`
pub(super) fn cancel(call: &Call<'_>) -> Result<Done, Failure> {
    let id = call.deploy_id(0)?;
    if gone(call, &id)? {
        return Ok(Done { output: String::new(), effect: Effect::Already });
    }
    destroy(call, &id)
}

/// Asks the guest to shut down; one that went meanwhile needs no asking.
fn ask(call: &Call<'_>, id: &DeployId) -> Result<(), Failure> {
    match call.hypervisor.shutdown(id) {
        Err(e) if e.is_absent() => Ok(()),
        Err(e) => Err(failure(&e)),
        Ok(()) => Ok(()),
    }
}

/// Powers the guest off and waits until libvirt has forgotten it.
fn destroy(call: &Call<'_>, id: &DeployId) -> Result<Done, Failure> {
    let start = Instant::now();
    loop {
        // A domain that somebody made persistent would stay behind as a definition (contract VMM 7, C4).
        if look(call, id)?.is_some_and(|domain| domain.persistent)
            && let Err(e) = call.hypervisor.undefine(id)
            && !e.is_absent()
        {
            (call.log)(Severity::Warning, &failure(&e).text);
        }
        match call.hypervisor.destroy(id) {
            Ok(()) => {}
            Err(e) if e.is_absent() || e.code() == Some(Code::WrongState) => {}
            Err(e) if start.elapsed() > DESTROY_TIMEOUT => return Err(failure(&e)),
            Err(e) => (call.log)(Severity::Warning, &failure(&e).text),
        }
        if gone(call, id)? {
            return Ok(Done::quiet());
        }
        if start.elapsed() > DESTROY_TIMEOUT {
            let seconds = DESTROY_TIMEOUT.as_secs();
            return Err(Failure::new(
                Kind::Timeout,
                format!("{id} is still there {seconds} s after its destroy"),
            ));
        }
        call.pause(POLL)?;
    }
}

/// Whether libvirt says that there is no such domain. One that is off but defined is gone as far as oned is concerned.
fn gone(call: &Call<'_>, id: &DeployId) -> Result<bool, Failure> {
    Ok(look(call, id)?.is_none_or(|domain| !domain.state.is_active() && !domain.persistent))
}

fn look(call: &Call<'_>, id: &DeployId) -> Result<Option<Domain>, Failure> {
    call.hypervisor.lookup(id).map_err(|e| failure(&e))
}

fn has_acpi(call: &Call<'_>, id: &DeployId) -> Result<bool, Failure> {
    let xml = match call.hypervisor.xml(id, XmlView::Live) {
        Err(e) if e.is_absent() => return Ok(true),
        other => other.map_err(|e| failure(&e))?,
    };
    let facts = facts(&xml).map_err(|e| Failure::new(Kind::HostState, format!("XML of {id}: {e}")))?;
    Ok(facts.acpi)
}
