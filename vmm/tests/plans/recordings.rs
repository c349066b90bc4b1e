//! Arguments and standard inputs, held against what the recorded scripts of the stock driver were called with.

use std::fs;

use causeway_core::document::{Envelope, decode};
use causeway_core::plan::{Plan, Step, Work};

use super::data::{argv, document, names, of, recorded, stdin};

/// A recorded call: `vmm/kvm/deploy`, its scenario, its arguments.
struct Call {
    slot: String,
    scenario: String,
    argv: Vec<String>,
}

fn calls(file: &str) -> Vec<Call> {
    let (mut slot, mut scenario) = (String::new(), String::new());
    let mut calls = Vec::new();
    for line in fs::read_to_string(recorded().join("actions").join(file)).unwrap().lines() {
        if let Some((program, _)) = line.split_once(" (called ") {
            let program = program.trim().trim_start_matches("/var/tmp/one/");
            program.trim_start_matches("/var/lib/one/remotes/").clone_into(&mut slot);
        } else if let Some(name) = line.strip_prefix("  scenario ") {
            name.clone_into(&mut scenario);
        } else if let Some(json) = line.strip_prefix("    argv ") {
            let argv = serde_json::from_str(json.trim()).unwrap();
            calls.push(Call { slot: slot.clone(), scenario: scenario.clone(), argv });
        }
    }
    calls
}

/// The steps of a plan, and of its undo, that call `slot`.
fn calling<'a>(plan: &'a Plan, slot: &str) -> Vec<&'a Step> {
    let calls = |step: &&Step| matches!(&step.work, Work::Slot { slot: s, .. } if s.to_string() == slot);
    plan.steps.iter().filter(calls).collect()
}

/// The recorded argument, with the note in place of a long one, stands for ours.
fn same(recorded: &str, ours: &str, name: &str) -> bool {
    if recorded.starts_with("{the payload}") || recorded.contains("base64 of the VMM_DRIVER_ACTION_DATA") {
        // Stock hands on oned's own bytes, ours are those of every other input (DIFFERENCES, VMM 2.4).
        let envelope = Envelope::parse(document(name).as_bytes()).unwrap();
        return decode(ours.as_bytes()).is_ok_and(|bytes| bytes == envelope.to_xml().as_bytes());
    }
    // What an earlier step printed is not known yet.
    recorded == ours || ours == "<deploy>"
}

#[test]
fn every_recorded_call_of_a_recorded_request_is_in_its_plan() {
    let mut compared = 0;
    for file in [
        "vmm_kvm.txt",
        "vnm_ovswitch_vxlan.txt",
        "vnm_vxlan.txt",
        "tm_qcow2.txt",
        "tm_ceph.txt",
        "datastore_rsync.txt",
    ] {
        for call in calls(file) {
            let prefix = format!("{}.", call.scenario);
            let mut seen = Vec::new();
            let mut found = false;
            for name in names().iter().filter(|n| n.starts_with(&prefix)) {
                let plan = of(name);
                for step in calling(&plan, &call.slot) {
                    let ours = argv(step);
                    found |= ours.len() == call.argv.len()
                        && call.argv.iter().zip(&ours).all(|(theirs, ours)| same(theirs, ours, name));
                    seen.push(ours);
                }
            }
            assert!(
                found || seen.is_empty(),
                "{} {}: {:?}\nours: {seen:?}",
                call.scenario,
                call.slot,
                call.argv
            );
            compared += usize::from(found);
        }
    }
    assert!(compared >= 40, "only {compared} calls were compared");
}

#[test]
fn inputs_are_those_of_the_recordings_byte_for_byte() {
    let (nic, snapshots) = ("k-vmm-02-nic-attach-update-detach", "k-vmm-10-system-snapshots");
    let backup = "k-vmm-12-backup-running-and-poweroff-restore";
    let (migrate, attach) = ("k-qcow2-06-migrate-live.migrate", "k-qcow2-09-disk-attach-detach");
    let table = [
        ("k-qcow2-01-create-deploy.deploy".to_owned(), "vmm/kvm/deploy", "vmm_kvm_deploy.plain"),
        ("k-qcow2-04-undeploy-resume.shutdown".to_owned(), "vmm/kvm/shutdown", "vmm_kvm_shutdown.plain"),
        ("k-qcow2-05-poweroff-soft-hard-resume.cancel".to_owned(), "vmm/kvm/cancel", "vmm_kvm_cancel.plain"),
        ("k-qcow2-02-suspend-resume.save".to_owned(), "vmm/kvm/save", "vmm_kvm_save.plain"),
        ("k-qcow2-02-suspend-resume.restore".to_owned(), "vmm/kvm/restore", "vmm_kvm_restore.plain"),
        (migrate.to_owned(), "vmm/kvm/migrate", "vmm_kvm_migrate.plain"),
        (migrate.to_owned(), "tm/qcow2/premigrate", "tm_qcow2_premigrate.base64"),
        (migrate.to_owned(), "tm/qcow2/postmigrate", "tm_qcow2_postmigrate.base64"),
        (format!("{attach}.attachdisk"), "vmm/kvm/attach_disk", "vmm_kvm_attach_disk.plain"),
        (format!("{attach}.detachdisk"), "vmm/kvm/detach_disk", "vmm_kvm_detach_disk.plain"),
        (format!("{nic}.attachnic"), "vmm/kvm/attach_nic", "vmm_kvm_attach_nic.plain"),
        (format!("{nic}.attachnic"), "vmm/kvm/prereconfigure", "vmm_kvm_prereconfigure.plain"),
        (format!("{nic}.attachnic"), "vmm/kvm/reconfigure", "vmm_kvm_reconfigure.plain"),
        (format!("{nic}.detachnic"), "vmm/kvm/detach_nic", "vmm_kvm_detach_nic.plain"),
        (format!("{nic}.updatenic"), "vnm/ovswitch_vxlan/update_nic", "vnm_ovswitch_vxlan_update_nic.base64"),
        (
            "k-vmm-06-secgroups.updatesg".to_owned(),
            "vnm/ovswitch_vxlan/update_sg",
            "vnm_ovswitch_vxlan_update_sg.base64",
        ),
        (
            "k-qcow2-01-create-deploy.deploy".to_owned(),
            "vnm/ovswitch_vxlan/pre",
            "vnm_ovswitch_vxlan_pre.base64",
        ),
        (
            "k-qcow2-01-create-deploy.deploy".to_owned(),
            "vnm/ovswitch_vxlan/post",
            "vnm_ovswitch_vxlan_post.base64",
        ),
        (
            "k-qcow2-02-suspend-resume.save".to_owned(),
            "vnm/ovswitch_vxlan/clean",
            "vnm_ovswitch_vxlan_clean.base64",
        ),
        ("k-vmm-01-reboot-reset.reboot".to_owned(), "vmm/kvm/reboot", "vmm_kvm_reboot.plain"),
        ("k-vmm-01-reboot-reset.reset".to_owned(), "vmm/kvm/reset", "vmm_kvm_reset.plain"),
        ("k-vmm-07-live-resize.resize".to_owned(), "vmm/kvm/resize", "vmm_kvm_resize.plain"),
        ("k-vmm-09-exec-cancel.exec".to_owned(), "vmm/kvm/exec", "vmm_kvm_exec.plain"),
        ("x01-exec-cancel.exec_cancel".to_owned(), "vmm/kvm/exec_cancel", "vmm_kvm_exec_cancel.plain"),
        (format!("{snapshots}.snapshotcreate"), "vmm/kvm/snapshot_create", "vmm_kvm_snapshot_create.plain"),
        (format!("{snapshots}.snapshotdelete"), "vmm/kvm/snapshot_delete", "vmm_kvm_snapshot_delete.plain"),
        (format!("{snapshots}.snapshotrevert"), "vmm/kvm/snapshot_revert", "vmm_kvm_snapshot_revert.plain"),
        (
            "k-qcow2-14-disk-resize-saveas-running.resizedisk".to_owned(),
            "vmm/kvm/resize_disk",
            "vmm_kvm_resize_disk.plain",
        ),
        (format!("{backup}.backup"), "tm/qcow2/prebackup_live", "tm_qcow2_prebackup_live.plain"),
        (format!("{backup}.backup"), "tm/qcow2/postbackup_live", "tm_qcow2_postbackup_live.plain"),
        (format!("{backup}.backup"), "datastore/rsync/backup", "datastore_rsync_backup.plain"),
        (
            format!("{backup}.backupcancel"),
            "datastore/rsync/backup_cancel",
            "datastore_rsync_backup_cancel.plain",
        ),
    ];
    for (name, slot, sample) in table {
        let plan = of(&name);
        let steps = calling(&plan, slot);
        assert!(!steps.is_empty(), "{name} calls no {slot}");
        let theirs = fs::read(recorded().join("actions/stdin").join(format!("{sample}.txt"))).unwrap();
        let ours = stdin(&plan, steps[0]);
        if theirs != ours {
            let show = |bytes: &[u8]| match sample.ends_with("base64") {
                true => String::from_utf8_lossy(&decode(bytes).unwrap()).into_owned(),
                false => String::from_utf8_lossy(bytes).into_owned(),
            };
            let (theirs, ours) = (show(&theirs), show(ours));
            let at = theirs.bytes().zip(ours.bytes()).take_while(|(a, b)| a == b).count();
            let around = |text: &str| text.chars().skip(at.saturating_sub(60)).take(160).collect::<String>();
            panic!("{name} {slot}: at {at}\n  recorded: {}\n  ours:     {}", around(&theirs), around(&ours));
        }
    }
}
