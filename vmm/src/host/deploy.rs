//! `vmm/kvm/deploy`: starts the guest of a deployment file (contract VMM 3.3).
//!
//! Promise: on success the guest of that UUID runs here, once. A repeat of a deploy that was already done finds the
//! guest and says so; a guest of the same name with another UUID is never touched.

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, DiskPath};
use causeway_core::reach::wire::{Done, Effect, Severity};
use causeway_domain::domain_xml::{Facts, facts, is_disk_link, rewrite_sources};

use super::{Call, FileAnswer, FileCall, failure};

/// `deploy FILE HOST VMID HOST`, the domain's XML on standard input.
pub(super) fn deploy(call: &Call<'_>) -> Result<Done, Failure> {
    let file: DiskPath =
        call.text(0, "deployment file")?.parse().map_err(|e| Failure::new(Kind::Input, e))?;
    let vm = call.vm(2)?;
    let xml = std::str::from_utf8(call.stdin).map_err(|e| input(format!("not UTF-8: {e}")))?;
    let facts = facts(xml).map_err(|e| input(e.to_string()))?;
    let name = DeployId::of_vm(vm);
    if facts.name != name.as_str() {
        return Err(input(format!("its name is {:?}, and VM {vm} is called {name}", facts.name)));
    }
    if let Some(done) = already_here(call, &name, &facts)? {
        return Ok(done);
    }

    call.files.call(FileCall::Store { path: file, text: xml.to_owned() })?;
    let xml = resolve_links(call, xml, &facts)?;
    prepare_firmware(call, &facts)?;
    if call.is_cancelled() {
        return Err(Failure::new(Kind::Cancelled, "cancelled before libvirt was asked"));
    }
    match call.hypervisor.create(&xml) {
        Ok(domain) => Ok(Done { output: DeployId::from(domain.uuid).to_string(), effect: Effect::Made }),
        Err(error) => Err(failure(&error)),
    }
}

fn input(what: String) -> Failure {
    Failure::new(Kind::Input, format!("deployment file: {what}"))
}

/// Whether this very guest is here already. A running twin of the request may have started it a moment ago.
fn already_here(call: &Call<'_>, name: &DeployId, facts: &Facts) -> Result<Option<Done>, Failure> {
    let found = call.hypervisor.lookup(name).map_err(|e| failure(&e))?;
    let Some(domain) = found else { return Ok(None) };
    if facts.uuid.is_some_and(|uuid| uuid != domain.uuid) {
        let text = format!("a domain {name} with UUID {} is on this host already", domain.uuid);
        return Err(Failure::new(Kind::HostState, text));
    }
    if !domain.state.is_active() {
        let text =
            format!("{name} is defined on this host and off: `virsh undefine {name}` lets it start again");
        return Err(Failure::new(Kind::HostState, text));
    }
    (call.log)(Severity::Warning, &format!("{name} runs here already; taken over as it is"));
    Ok(Some(Done { output: DeployId::from(domain.uuid).to_string(), effect: Effect::Already }))
}

/// A disk that is a symbolic link is named by what it leads to: QEMU's images know their backing files by that path.
fn resolve_links(call: &Call<'_>, xml: &str, facts: &Facts) -> Result<String, Failure> {
    let linked = |disk: &causeway_domain::domain_xml::Disk| match &disk.source {
        causeway_domain::domain_xml::Source::File(path) if is_disk_link(path) => Some(path.clone()),
        _ => None,
    };
    let paths: Vec<String> = facts.disks.iter().filter_map(linked).collect();
    if paths.is_empty() {
        return Ok(xml.to_owned());
    }
    let FileAnswer::Links(targets) = call.files.call(FileCall::Links { paths: paths.clone() })? else {
        return Err(Failure::new(Kind::Bug, "links were asked for, and something else came back"));
    };
    let targets: Vec<(String, String)> =
        paths.into_iter().zip(targets).filter_map(|(path, target)| Some((path, target?))).collect();
    rewrite_sources(xml, |path| targets.iter().find(|(from, _)| from == path).map(|(_, to)| to.clone()))
        .map_err(|e| input(e.to_string()))
}

/// Firmware variables are made once and kept: the stock script makes them anew at every deploy when the formats of
/// template and file differ (contract VMM 7, F1).
fn prepare_firmware(call: &Call<'_>, facts: &Facts) -> Result<(), Failure> {
    let Some(nvram) = &facts.nvram else { return Ok(()) };
    let path = nvram.path.parse().map_err(|e| input(format!("os/nvram: {e}")))?;
    let template = nvram.template.as_ref().map_or_else(|| call.settings.kvmrc.ovmf_nvram.path(), Into::into);
    let format = nvram.format.clone().unwrap_or_else(|| "raw".to_owned());
    if !matches!(format.as_str(), "raw" | "qcow2") {
        return Err(input(format!("os/nvram format {format:?} is neither raw nor qcow2")));
    }
    call.files.call(FileCall::Firmware { path, template, format })?;
    Ok(())
}
