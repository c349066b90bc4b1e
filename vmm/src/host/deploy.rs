//! `vmm/kvm/deploy`: starts the guest of a deployment file (contract VMM 3.3).
//!
//! Promise: on success the guest of that UUID runs here, once. A repeat of a deploy that was already done finds the
//! guest and says so; a guest of the same name with another UUID is never touched.

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, DiskPath};
use causeway_core::reach::wire::{Done, Effect, Severity};
use causeway_domain::Domain;
use causeway_domain::domain_xml::{Facts, facts, is_disk_link, rewrite_sources};

use super::snapshots::give_back_or_tell;
use super::{Call, FileAnswer, FileCall, Helper, failure};

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
    let directory = parent(&file)?;
    if let Some(domain) = already_here(call, &name, &facts)? {
        // The one who started it may have died before this.
        give_back_or_tell(call, call.hypervisor, &domain, &directory);
        return Ok(Done { output: DeployId::from(domain.uuid).to_string(), effect: Effect::Already });
    }

    call.files.call(FileCall::Store { path: file, text: xml.to_owned() })?;
    let xml = resolve_links(call, xml, &facts)?;
    call.compact_memory(call.settings.kvmrc.cleanup_memory_on_start);
    prepare_firmware(call, &facts)?;
    let gpus = prepare_devices(call, &facts, &directory)?;
    if call.is_cancelled() {
        gpus.iter().for_each(|gpus| call.help(gpus));
        return Err(Failure::new(Kind::Cancelled, "cancelled before libvirt was asked"));
    }
    match call.hypervisor.create(&xml) {
        Ok(domain) => {
            give_back_or_tell(call, call.hypervisor, &domain, &directory);
            Ok(Done { output: DeployId::from(domain.uuid).to_string(), effect: Effect::Made })
        }
        Err(error) => {
            // Where libvirt's word is missing the guest may run, with them.
            if !error.is_unknown() {
                gpus.iter().for_each(|gpus| call.help(gpus));
            }
            Err(failure(&error))
        }
    }
}

fn parent(file: &DiskPath) -> Result<DiskPath, Failure> {
    let directory = file.as_str().rsplit_once('/').map_or("", |(directory, _)| directory);
    directory.parse().map_err(|e| Failure::new(Kind::Input, format!("deployment file: its directory: {e}")))
}

/// Virtual GPUs and a TPM's state are made by root helpers of the stock release (contract VMM 3.3, deploy steps 5 and 6;
/// 3.5). What they can't do is told and left to libvirt, which does not start a guest whose devices are missing. Returns
/// how GPUs are taken away again.
fn prepare_devices(call: &Call<'_>, facts: &Facts, directory: &DiskPath) -> Result<Option<Helper>, Failure> {
    let mut gpus = None;
    if facts.hostdevs > 0 {
        let document = vm_document(directory)?;
        call.help(&Helper::CreateGpus(document.clone()));
        gpus = Some(Helper::DeleteGpus(document));
    }
    if facts.emulated_tpm
        && let Some(uuid) = facts.uuid
    {
        let state = call.files.call(FileCall::TpmState { directory: directory.clone() });
        match state {
            Ok(FileAnswer::There(true)) => call.help(&Helper::RecoverTpm(uuid.into(), directory.clone())),
            Ok(_) => {}
            Err(failure) => (call.log)(Severity::Warning, &format!("the TPM begins empty: {failure}")),
        }
    }
    Ok(gpus)
}

/// The VM's document, which DEPLOY writes beside the deployment file.
pub(super) fn vm_document(directory: &DiskPath) -> Result<DiskPath, Failure> {
    format!("{}/vm.xml", directory.as_str()).parse().map_err(|e| Failure::new(Kind::Bug, e))
}

fn input(what: String) -> Failure {
    Failure::new(Kind::Input, format!("deployment file: {what}"))
}

/// Whether this very guest is here already. A running twin of the request may have started it a moment ago.
fn already_here(call: &Call<'_>, name: &DeployId, facts: &Facts) -> Result<Option<Domain>, Failure> {
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
    Ok(Some(domain))
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
