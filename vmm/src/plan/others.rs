//! The actions whose own slots are not built yet. Their plans are whole: a slot that holds somebody else's executable
//! is called as the contract says, and one that does not answers a clear failure.

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::TmCommand;
use causeway_core::plan::{Answer, Arg, Goal, Place, Plan, Step, Work};

use super::build::{Builder, input};

/// LCM state BACKUP: the guest runs, so the backup verbs are the live ones.
const LCM_BACKUP: u32 = 69;

pub(super) fn save(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let id = b.deploy_id()?.as_str();
    let file = b.need(b.envelope.checkpoint_file.as_ref(), "CHECKPOINT_FILE")?;
    let argv = vec![id.into(), file.as_str().into(), b.source().as_str().into()];
    let save = b.vmm("save", b.on_source(), argv)?.long().finishes();
    b.step(save);
    // As with SHUTDOWN: a saved guest does not run, whatever the network says (contract VMM 7, B1).
    let clean = b.network_clean(b.source())?;
    b.steps(clean.into_iter().map(Step::ignored).collect());
    Ok(b.finish(Answer::Empty))
}

pub(super) fn restore(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let id = b.deploy_id()?.as_str();
    let file = b.need(b.envelope.checkpoint_file.as_ref(), "CHECKPOINT_FILE")?;
    let host = b.source();
    let context = b.transfers(None)?;
    b.steps(context);
    let pre = b.network_pre(host)?;
    b.steps(pre);
    let argv = vec![file.as_str().into(), host.as_str().into(), id.into()];
    let cancel = b.vmm("cancel", b.on_source(), vec![id.into(), host.as_str().into()])?;
    let cancel = cancel.reaching(Goal::Gone { id: b.deploy_id()?.clone(), host: host.clone() });
    let restore = b.vmm("restore", b.on_source(), argv)?.long().finishes();
    b.step(restore.undone_by(vec![cancel]));
    let post = b.network_post(host, id.into(), host)?;
    b.steps(post);
    Ok(b.finish(Answer::Empty))
}

/// REBOOT and RESET.
pub(super) fn single(mut b: Builder<'_>, verb: &str) -> Result<Plan, Failure> {
    let argv = vec![b.deploy_id()?.as_str().into(), b.source().as_str().into()];
    let step = b.vmm(verb, b.on_source(), argv)?;
    b.step(step);
    Ok(b.finish(Answer::Empty))
}

/// The target letter's place in the alphabet, `b` for `sdb` being 1 (contract VMM 2.4).
fn index(target: &str) -> String {
    let letter = target.bytes().last().unwrap_or(b'a');
    i32::from(letter).saturating_sub(i32::from(b'a')).to_string()
}

/// `deploy_id disk_target_path target index`, which attach and detach share.
fn disk_argv(b: &Builder<'_>) -> Result<Vec<Arg>, Failure> {
    let disk = b.need(b.envelope.vm.attach_disk(), "a DISK with ATTACH=YES")?;
    let target = b.need(disk.target.as_deref(), "DISK/TARGET")?;
    let path = b.need(b.envelope.disk_target_path.as_ref(), "DISK_TARGET_PATH")?;
    Ok(vec![b.deploy_id()?.as_str().into(), path.as_str().into(), target.into(), index(target).into()])
}

pub(super) fn attach_disk(mut b: Builder<'_>) -> Result<Plan, Failure> {
    b.need(b.envelope.tm_command.first(), "TM_COMMAND")?;
    let mut argv = disk_argv(&b)?;
    argv.push(envelope_argument(&b));
    let prologue = b.transfers(None)?;
    let mut epilogue = Vec::new();
    for command in &b.envelope.tm_rollback {
        epilogue.extend(b.transfer(command, None)?);
    }
    let mut attach = b.vmm("attach_disk", b.on_source(), argv)?;
    // The hypervisor's refusal takes the disk away again (contract VMM 2.4).
    attach.undo = epilogue;
    // The disk may be a copy, as long as its image.
    b.steps(prologue.into_iter().map(Step::long).collect());
    b.step(attach);
    Ok(b.finish(Answer::Empty))
}

pub(super) fn detach_disk(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let argv = disk_argv(&b)?;
    let detach = b.vmm("detach_disk", b.on_source(), argv)?;
    b.step(detach);
    let epilogue = b.transfers(None)?;
    b.steps(epilogue);
    Ok(b.finish(Answer::Empty))
}

/// The envelope in base64, which two of the stock scripts take as an argument.
fn envelope_argument(b: &Builder<'_>) -> Arg {
    causeway_core::document::encode(b.envelope.element().render().as_bytes()).into()
}

/// Eject, make, insert: how the guest gets a new context image.
fn reconfigure(b: &mut Builder<'_>, undo_eject: Option<Step>) -> Result<(), Failure> {
    let Some(context) = &b.envelope.vm.context else { return Ok(()) };
    let Some(target) = context.target.as_deref() else { return Ok(()) };
    let id = b.deploy_id()?.as_str();
    let eject = b.vmm("prereconfigure", b.on_source(), vec![id.into(), target.into()])?;
    let make = b.transfers(None)?;
    let path = b.need(b.envelope.disk_target_path.as_ref(), "DISK_TARGET_PATH")?;
    let insert = b.vmm("reconfigure", b.on_source(), vec![id.into(), target.into(), path.as_str().into()])?;
    b.step(eject.undone_by(undo_eject.into_iter().collect()));
    b.steps(make);
    b.step(insert);
    Ok(())
}

pub(super) fn attach_nic(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let id = b.deploy_id()?.as_str();
    let vm = &b.envelope.vm;
    let alias = vm.aliases.iter().find(|n| n.attach);
    let nic = vm.nics.iter().find(|n| n.attach);
    let pci = vm.pcis.iter().filter(|p| p.attach).find_map(|p| p.nic.as_ref());
    let nic = b.need(alias.or(nic).or(pci), "a NIC with ATTACH=YES")?;
    let mac = b.need(nic.mac, "NIC/MAC")?.to_string();
    let host = b.source();
    let detach = b.vmm("detach_nic", b.on_source(), vec![id.into(), mac.as_str().into()])?;
    let pre = b.network_pre(host)?;
    b.steps(pre);
    let is_alias = alias.is_some();
    if !is_alias {
        let text = |value: Option<&str>| Arg::from(value.unwrap_or("-"));
        let argv = vec![
            id.into(),
            mac.as_str().into(),
            text(nic.bridge.as_ref().map(AsRef::as_ref)),
            text(nic.model.as_deref()),
            text(nic.vn_mad.as_ref().map(|d| d.as_str())),
            text(nic.target.as_ref().map(AsRef::as_ref)),
        ];
        let attach = b.vmm("attach_nic", b.on_source(), argv)?;
        b.step(attach.undone_by(vec![detach]));
    }
    let post = b.network_post(host, id.into(), host)?;
    b.steps(post);
    reconfigure(&mut b, None)?;
    Ok(b.finish(Answer::Empty))
}

pub(super) fn detach_nic(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let id = b.deploy_id()?.as_str();
    let vm = &b.envelope.vm;
    if !vm.aliases.iter().any(|n| n.attach) {
        let nic = vm.nics.iter().find(|n| n.attach);
        let pci = vm.pcis.iter().filter(|p| p.attach).find_map(|p| p.nic.as_ref());
        let nic = b.need(nic.or(pci), "a NIC with ATTACH=YES")?;
        let mac = b.need(nic.mac, "NIC/MAC")?.to_string();
        let detach = b.vmm("detach_nic", b.on_source(), vec![id.into(), mac.into()])?;
        b.step(detach);
    }
    let clean = b.network_clean(b.source())?;
    b.steps(clean);
    reconfigure(&mut b, None)?;
    Ok(b.finish(Answer::Empty))
}

pub(super) fn update_conf(mut b: Builder<'_>) -> Result<Plan, Failure> {
    b.deploy_id()?;
    reconfigure(&mut b, None)?;
    Ok(b.finish(Answer::Empty))
}

pub(super) fn snapshot_create(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let snapshot = b.need(b.envelope.vm.active_snapshot(), "a SNAPSHOT with ACTIVE=YES")?;
    let argv = vec![b.deploy_id()?.as_str().into(), snapshot.snapshot_id.to_string().into()];
    let step = b.vmm_with("snapshot_create", b.on_source(), argv, true, input::ENVELOPE_BARE)?;
    b.step(step.long().finishes());
    Ok(b.finish(Answer::Output("snapshot_create".to_owned())))
}

fn snapshot_argv(b: &Builder<'_>) -> Result<Vec<Arg>, Failure> {
    let snapshot = b.need(b.envelope.vm.active_snapshot(), "a SNAPSHOT with ACTIVE=YES")?;
    let name = b.need(snapshot.hypervisor_id.as_ref(), "SNAPSHOT/HYPERVISOR_ID")?;
    Ok(vec![b.deploy_id()?.as_str().into(), name.as_str().into()])
}

pub(super) fn snapshot_revert(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let argv = snapshot_argv(&b)?;
    let id = b.deploy_id()?.as_str();
    let revert = b.vmm("snapshot_revert", b.on_source(), argv)?;
    b.step(revert.long().finishes());
    let post = b.network_post(b.source(), id.into(), b.source())?;
    b.steps(post);
    Ok(b.finish(Answer::Empty))
}

pub(super) fn snapshot_delete(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let argv = snapshot_argv(&b)?;
    let step = b.vmm_with("snapshot_delete", b.on_source(), argv, true, input::ENVELOPE_BARE)?;
    b.step(step.long().finishes());
    Ok(b.finish(Answer::Empty))
}

pub(super) fn disk_snapshot_create(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let disk = b.envelope.vm.disks.iter().find(|d| d.snapshot_active);
    let disk = b.need(disk, "a DISK with DISK_SNAPSHOT_ACTIVE=YES")?;
    let vm_mad = b.need(b.envelope.vm.history.vm_mad.as_ref(), "HISTORY/VM_MAD")?;
    let tm_mad = b.need(disk.tm_mad.as_ref(), "DISK/TM_MAD")?;
    if !b.settings.execrc.allows_live_disk_snapshot(vm_mad.as_str(), tm_mad.as_str()) {
        let text = format!(
            "{vm_mad}-{tm_mad} is not in LIVE_DISK_SNAPSHOTS: power the VM off to snapshot this disk"
        );
        return Err(Failure::new(Kind::HostState, text));
    }
    let commands: Vec<TmCommand> = b.envelope.tm_command.clone();
    for command in &commands {
        let live = command.with_action(&format!("{}_LIVE", command.action()));
        let steps = b.transfer(&live.map_err(|e| Failure::new(Kind::Input, e))?, None)?;
        b.steps(steps.into_iter().map(Step::long).collect());
    }
    Ok(b.finish(Answer::Empty))
}

pub(super) fn resize_disk(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let disk = b.need(b.envelope.vm.disks.iter().find(|d| d.resize), "a DISK with RESIZE=YES")?;
    let size = b.need(disk.size_mb, "DISK/SIZE")?.to_string();
    let argv = vec![
        b.deploy_id()?.as_str().into(),
        disk.disk_id.to_string().into(),
        size.into(),
        envelope_argument(&b),
        b.source().as_str().into(),
    ];
    let grow = b.transfers(None)?;
    b.steps(grow);
    let step = b.vmm("resize_disk", b.on_source(), argv)?;
    b.step(step);
    Ok(b.finish(Answer::Empty))
}

pub(super) fn resize(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let argv = vec![b.deploy_id()?.as_str().into()];
    let step = b.vmm_with("resize", b.on_source(), argv, true, input::ENVELOPE_BARE)?;
    b.step(step);
    Ok(b.finish(Answer::Empty))
}

pub(super) fn update_sg(mut b: Builder<'_>) -> Result<Plan, Failure> {
    b.need(b.envelope.security_group_id, "SECURITY_GROUP_ID")?;
    let id = b.deploy_id()?.as_str();
    let steps = b.vnm("update_sg", b.source(), vec![id.into()], input::NETWORK)?;
    b.steps(steps);
    Ok(b.finish(Answer::Empty))
}

pub(super) fn update_nic(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let network = b.need(b.envelope.virtual_network_id, "VIRTUAL_NETWORK_ID")?;
    let argv = vec![b.deploy_id()?.as_str().into(), network.to_string().into()];
    let steps = b.vnm("update_nic", b.source(), argv, input::VM_LINES)?;
    b.steps(steps);
    Ok(b.finish(Answer::Empty))
}

/// A step of the backup datastore's driver: on the front-end, with the transfer command's words from the third on.
fn datastore(b: &Builder<'_>, verb: &str, input: &str) -> Result<Step, Failure> {
    let command = b.need(b.envelope.tm_command.first(), "TM_COMMAND")?;
    let driver = b.envelope.datastore.as_ref().and_then(|d| d.ds_mad.as_ref());
    let driver = b.need(driver, "DATASTORE/DS_MAD")?;
    let slot = b.slot("datastore", driver.as_str(), verb)?;
    let argv = command.args.iter().map(|word| word.as_str().into()).collect();
    let work = Work::Slot { slot, argv, input: Some(input.to_owned()) };
    Ok(Step::new(verb, Place::FrontEnd, work, b.settings.deadlines.long))
}

pub(super) fn backup(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let command = b.need(b.envelope.tm_command.first(), "TM_COMMAND")?;
    let live = if b.envelope.vm.lcm_state == Some(LCM_BACKUP) { "_LIVE" } else { "" };
    let verb = |prefix: &str| {
        let command = command.with_action(&format!("{prefix}BACKUP{live}"));
        command.map_err(|e| Failure::new(Kind::Input, e))
    };
    let mut prepare = b.transfer(&verb("PRE")?, Some(input::VM_BARE))?;
    let tidy = b.transfer(&verb("POST")?, Some(input::VM_BARE))?;
    // The backup is only as good as its clean-up is late: a failure there does not unmake it (contract VMM 7, B10).
    if let Some(first) = prepare.first_mut() {
        first.undo.extend(tidy.iter().cloned());
    }
    let upload = datastore(&b, "backup", input::BACKUP)?;
    b.steps(prepare.into_iter().map(Step::long).collect());
    b.step(upload.long());
    b.steps(tidy.into_iter().map(|s| s.long().ignored()).collect());
    Ok(b.finish(Answer::Output("backup".to_owned())))
}

pub(super) fn backup_cancel(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let step = datastore(&b, "backup_cancel", input::VM_BARE)?;
    b.step(step);
    Ok(b.finish(Answer::Empty))
}

pub(super) fn exec(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let exec = b.envelope.vm.qemu_ga_exec.as_ref().filter(|exec| !exec.command.trim().is_empty());
    let exec = b.need(exec, "QEMU_GA_EXEC/COMMAND")?;
    let host = b.source().as_str();
    let mut argv = vec![Arg::from(b.envelope.vm.id.to_string()), host.into(), exec.command.as_str().into()];
    // The stock engine splices STDIN into a shell line, where an empty one vanishes (contract VMM 2.4).
    if !exec.stdin.is_empty() {
        argv.push(exec.stdin.as_str().into());
    }
    let step = b.vmm_with("exec", b.on_source(), argv, false, input::ENVELOPE_BARE)?;
    b.step(step);
    Ok(b.finish(Answer::Empty))
}

pub(super) fn exec_cancel(mut b: Builder<'_>) -> Result<Plan, Failure> {
    let step = b.vmm_with("exec_cancel", b.on_source(), Vec::new(), true, input::ENVELOPE_BARE)?;
    b.step(step);
    Ok(b.finish(Answer::Empty))
}
