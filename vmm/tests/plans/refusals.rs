//! Requests that lack what their action needs, and settings that change a plan.

use causeway_core::answer::Kind;
use causeway_core::document::{Envelope, decode};
use causeway_core::plan::{Place, Slot, Work};
use causeway_core::settings::{ShellRc, VmmExecrc};
use causeway_vmm::plan::{Deadlines, Settings, plan};
use std::time::Duration;

use super::data::{
    TRANSFER, action, argv, deployment, document, names, planned, settings, stdin, step, transfer, with,
    without,
};

const DEPLOY: &str = "k-qcow2-01-create-deploy.deploy";

#[test]
fn what_is_missing_is_named() {
    let nic = "k-vmm-02-nic-attach-update-detach";
    let table = [
        (DEPLOY, "REMOTE_DEPLOYMENT_FILE", "REMOTE_DEPLOYMENT_FILE"),
        ("k-qcow2-02-suspend-resume.save", "CHECKPOINT_FILE", "CHECKPOINT_FILE"),
        ("k-qcow2-02-suspend-resume.restore", "CHECKPOINT_FILE", "CHECKPOINT_FILE"),
        ("k-qcow2-06-migrate-live.migrate", "MIGR_HOST", "MIGR_HOST"),
        ("k-qcow2-06-migrate-live.migrate", "TM_COMMAND", "TM_COMMAND"),
        ("k-qcow2-09-disk-attach-detach.attachdisk", "TM_COMMAND", "TM_COMMAND"),
        ("k-qcow2-09-disk-attach-detach.attachdisk", "DISK_TARGET_PATH", "DISK_TARGET_PATH"),
        ("k-qcow2-09-disk-attach-detach.detachdisk", "ATTACH", "a DISK with ATTACH=YES"),
        (&format!("{nic}.attachnic"), "ATTACH", "a NIC with ATTACH=YES"),
        (&format!("{nic}.attachnic"), "DISK_TARGET_PATH", "DISK_TARGET_PATH"),
        (&format!("{nic}.detachnic"), "ATTACH", "a NIC with ATTACH=YES"),
        (&format!("{nic}.updatenic"), "VIRTUAL_NETWORK_ID", "VIRTUAL_NETWORK_ID"),
        ("k-vmm-06-secgroups.updatesg", "SECURITY_GROUP_ID", "SECURITY_GROUP_ID"),
        ("k-vmm-08-updateconf.updateconf", "DISK_TARGET_PATH", "DISK_TARGET_PATH"),
        ("k-vmm-09-exec-cancel.exec", "QEMU_GA_EXEC", "QEMU_GA_EXEC/COMMAND"),
        ("k-vmm-10-system-snapshots.snapshotcreate", "ACTIVE", "a SNAPSHOT with ACTIVE=YES"),
        ("k-vmm-10-system-snapshots.snapshotrevert", "HYPERVISOR_ID", "SNAPSHOT/HYPERVISOR_ID"),
        ("k-qcow2-11-disk-snapshots-running.disksnapshotcreate", "DISK_SNAPSHOT_ACTIVE", "a DISK with"),
        ("k-qcow2-14-disk-resize-saveas-running.resizedisk", "RESIZE", "a DISK with RESIZE=YES"),
        ("k-vmm-12-backup-running-and-poweroff-restore.backup", "TM_COMMAND", "TM_COMMAND"),
        ("k-vmm-12-backup-running-and-poweroff-restore.backupcancel", "TM_COMMAND", "TM_COMMAND"),
        ("k-vmm-12-backup-running-and-poweroff-restore.backup", "DS_MAD", "DATASTORE/DS_MAD"),
    ];
    for (name, element, named) in table {
        let action = action(name);
        let failure = planned(&action, &without(&document(name), element), &settings()).unwrap_err();
        assert_eq!(failure.kind, Kind::Input, "{name} without {element}: {failure}");
        let expected = format!("{action} needs {named}");
        assert!(failure.text.starts_with(&expected), "{name} without {element}: {failure}");
    }
}

#[test]
fn every_action_on_a_guest_needs_to_know_which() {
    for name in names() {
        let action = action(&name);
        if matches!(action.as_str(), "DEPLOY" | "CLEANUP" | "DISKSNAPSHOTCREATE" | "EXEC" | "EXEC_CANCEL")
            || action.starts_with("BACKUP")
        {
            continue;
        }
        let failure = planned(&action, &without(&document(&name), "DEPLOY_ID"), &settings()).unwrap_err();
        assert_eq!(failure.kind, Kind::Input, "{name}");
        assert_eq!(failure.text, format!("{action} needs DEPLOY_ID, and the request has none"), "{name}");
    }
}

#[test]
fn an_unknown_action_is_not_built() {
    let failure = planned("DANCE", &document(DEPLOY), &settings()).unwrap_err();
    assert_eq!((failure.kind, failure.text.as_str()), (Kind::NotBuilt, "no such action: DANCE"));
}

#[test]
fn a_deployment_file_must_be_a_domain_and_may_lack_a_uuid() {
    let envelope = Envelope::parse(document(DEPLOY).as_bytes()).unwrap();
    let made = |file: Option<&[u8]>| plan("DEPLOY", &envelope, file, &settings(), &transfer);
    for (file, part) in [
        (None, "DEPLOY needs a non-empty LOCAL_DEPLOYMENT_FILE"),
        (Some("".as_bytes()), "DEPLOY needs a non-empty LOCAL_DEPLOYMENT_FILE"),
        (Some(b"<domain"), "LOCAL_DEPLOYMENT_FILE: "),
        (Some(b"\xff\xfe"), "LOCAL_DEPLOYMENT_FILE: "),
        (Some(b"<network/>"), "LOCAL_DEPLOYMENT_FILE: its root is <network>, not <domain>"),
        (Some(b"<domain><uuid>x; rm</uuid></domain>"), "LOCAL_DEPLOYMENT_FILE: uuid: "),
    ] {
        let failure = made(file).unwrap_err();
        assert_eq!(failure.kind, Kind::Input, "{failure}");
        assert!(failure.text.starts_with(part), "{failure}");
    }
    for file in ["<domain/>", "<domain><uuid>  </uuid></domain>"] {
        let plan = made(Some(file.as_bytes())).unwrap();
        assert_eq!(argv(&step(&plan, "deploy").undo[0])[0], "one-0", "known by its name");
    }
}

#[test]
fn a_failed_transfer_makes_no_plan() {
    let refuse = |command: &causeway_core::document::TmCommand, _: Option<&str>| {
        Err(causeway_core::answer::Failure::new(Kind::NotBuilt, command.verb()))
    };
    for name in names() {
        let envelope = Envelope::parse(document(&name).as_bytes()).unwrap();
        if envelope.tm_command.is_empty() || action(&name) == "BACKUPCANCEL" {
            continue;
        }
        let failure = plan(&action(&name), &envelope, Some(&deployment()), &settings(), &refuse).unwrap_err();
        assert_eq!(failure.kind, Kind::NotBuilt, "{name}");
    }
}

#[test]
fn a_disk_that_may_not_be_snapshot_live_is_refused_with_the_setting() {
    let execrc = VmmExecrc::read(&ShellRc::parse("vmm_execrc", "LIVE_DISK_SNAPSHOTS='kvm-ceph'")).unwrap();
    let settings = Settings { execrc, ..settings() };
    let name = "k-qcow2-11-disk-snapshots-running.disksnapshotcreate";
    let failure = planned("DISKSNAPSHOTCREATE", &document(name), &settings).unwrap_err();
    assert_eq!(failure.kind, Kind::HostState);
    assert!(failure.text.starts_with("kvm-qcow2 is not in LIVE_DISK_SNAPSHOTS"), "{failure}");
}

/// Contract VMM 1.2 `-l`, 2.3 step 3.
#[test]
fn a_local_step_runs_its_script_on_the_front_end_and_reads_base64() {
    let local = [("migrate", "migrate_local"), ("snapshotcreate", "snapshot_create"), ("deploy", "deploy")];
    let local = local.map(|(step, script)| (step.to_owned(), script.to_owned())).into();
    let settings = Settings { local, ..settings() };
    let name = "k-qcow2-06-migrate-live.migrate";
    let plan = planned("MIGRATE", &document(name), &settings).unwrap();
    let migrate = step(&plan, "migrate");
    assert_eq!(migrate.place, Place::FrontEnd);
    let Work::Slot { slot, .. } = &migrate.work else { panic!("{migrate:?}") };
    assert_eq!(*slot, Slot::new("vmm", "kvm", "migrate_local").unwrap());
    assert_eq!(argv(migrate)[1..], ["node2", "node1", "0", "node1"], "the tail names the host all the same");
    let envelope = Envelope::parse(document(name).as_bytes()).unwrap();
    assert_eq!(decode(stdin(&plan, migrate)).unwrap(), envelope.to_xml().as_bytes());

    let name = "k-vmm-10-system-snapshots.snapshotcreate";
    let plan = planned("SNAPSHOTCREATE", &document(name), &settings).unwrap();
    assert_eq!(plan.steps[0].place, Place::FrontEnd, "the option has the step's name, not the script's");
    let plan = planned("DEPLOY", &document(DEPLOY), &settings).unwrap();
    assert_eq!(decode(stdin(&plan, step(&plan, "deploy"))).unwrap(), deployment());
}

#[test]
fn a_network_action_is_local_where_vmm_execrc_or_an_option_says_so() {
    let execrc = ShellRc::parse("vmm_execrc", "VNMAD_LOCAL_ACTIONS='ovswitch_vxlan-post'");
    let execrc = VmmExecrc::read(&execrc).unwrap();
    let by_file = planned("DEPLOY", &document(DEPLOY), &Settings { execrc, ..settings() }).unwrap();
    assert_eq!(step(&by_file, "post:ovswitch_vxlan").place, Place::FrontEnd);
    assert_ne!(step(&by_file, "pre:ovswitch_vxlan").place, Place::FrontEnd);
    let local = [("clean".to_owned(), "clean".to_owned())].into();
    let by_option = planned("DEPLOY", &document(DEPLOY), &Settings { local, ..settings() }).unwrap();
    assert_eq!(step(&by_option, "pre:ovswitch_vxlan").undo[0].place, Place::FrontEnd);
}

#[test]
fn the_hypervisors_directory_is_that_of_the_arguments() {
    let settings = Settings { hypervisor: "qemu".to_owned(), ..settings() };
    let plan = planned("DEPLOY", &document(DEPLOY), &settings).unwrap();
    assert!(plan.render().contains("vmm/qemu/deploy [") && !plan.render().contains("vmm/kvm/"));
    let settings = Settings { hypervisor: "../kvm".to_owned(), ..settings };
    assert_eq!(planned("DEPLOY", &document(DEPLOY), &settings).unwrap_err().kind, Kind::Input);
}

#[test]
fn deadlines_are_those_of_the_lane_and_w_is_that_of_every_vmm_step() {
    let usual = Deadlines::default();
    for name in names() {
        let plan = planned(&action(&name), &document(&name), &settings()).unwrap();
        for step in &plan.steps {
            let Work::Slot { slot, .. } = &step.work else { continue };
            let expected = match (slot.family(), slot.verb()) {
                ("vmm", "migrate") => usual.migrate,
                ("vmm", "shutdown" | "save" | "restore" | "snapshot_create" | "snapshot_revert") => {
                    usual.long
                }
                ("vmm", "snapshot_delete") | ("datastore", _) => usual.long,
                ("tm", _) if step.lane == causeway_core::plan::Lane::Long => usual.long,
                ("tm", _) => TRANSFER,
                _ => usual.short,
            };
            assert_eq!(step.deadline, expected, "{name}: {}", step.name);
        }
        let step_time = Duration::from_secs(33);
        let deadlines = Deadlines { step: Some(step_time), ..usual };
        let plan = planned(&action(&name), &document(&name), &Settings { deadlines, ..settings() }).unwrap();
        for step in &plan.steps {
            let Work::Slot { slot, .. } = &step.work else { continue };
            assert_eq!(step.deadline == step_time, slot.family() == "vmm", "{name}: {}", step.name);
        }
    }
}

#[test]
fn a_path_without_a_directory_is_refused() {
    let name = "REMOTE_DEPLOYMENT_FILE";
    let flat = with(
        &document(DEPLOY),
        "<REMOTE_DEPLOYMENT_FILE>/var/lib/one//datastores/102/0/",
        &format!("<{name}>/"),
    );
    let failure = planned("DEPLOY", &flat, &settings()).unwrap_err();
    assert_eq!(failure.kind, Kind::Input);
    assert!(failure.text.starts_with(name), "{failure}");
}
