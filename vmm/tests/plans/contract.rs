//! What the contract's step tables (VMM 2.4) say, and what holds for every plan.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use causeway_core::document::Envelope;
use causeway_core::plan::{Answer, Goal, Lane, OnFailure, Place, Work, inputs_of};
use causeway_vmm::plan::{Drive, first_word, first_word_in, lane, removes};

use super::data::{
    action, argv, document, names, of, planned, settings, step, step_names, undo_names, with, without,
};

/// One request of each shape.
const SHAPES: [&str; 29] = [
    "k-ceph-01-create-deploy.deploy",
    "k-ceph-09-disk-attach-detach.attachdisk",
    "k-fail-17-slow-deploy-recover-delete.cleanup",
    "k-fail-19-recover-delete-while-running.cleanup",
    "k-qcow2-01-create-deploy.deploy",
    "k-qcow2-02-suspend-resume.restore",
    "k-qcow2-02-suspend-resume.save",
    "k-qcow2-04-undeploy-resume.shutdown",
    "k-qcow2-05-poweroff-soft-hard-resume.cancel",
    "k-qcow2-06-migrate-live.migrate",
    "k-qcow2-09-disk-attach-detach.attachdisk",
    "k-qcow2-09-disk-attach-detach.detachdisk",
    "k-qcow2-11-disk-snapshots-running.disksnapshotcreate",
    "k-qcow2-14-disk-resize-saveas-running.resizedisk",
    "k-vmm-01-reboot-reset.reboot",
    "k-vmm-01-reboot-reset.reset",
    "k-vmm-02-nic-attach-update-detach.attachnic",
    "k-vmm-02-nic-attach-update-detach.detachnic",
    "k-vmm-02-nic-attach-update-detach.updatenic",
    "k-vmm-06-secgroups.updatesg",
    "k-vmm-07-live-resize.resize",
    "k-vmm-08-updateconf.updateconf",
    "k-vmm-09-exec-cancel.exec",
    "k-vmm-10-system-snapshots.snapshotcreate",
    "k-vmm-10-system-snapshots.snapshotdelete",
    "k-vmm-10-system-snapshots.snapshotrevert",
    "k-vmm-12-backup-running-and-poweroff-restore.backup",
    "k-vmm-12-backup-running-and-poweroff-restore.backupcancel",
    "x01-exec-cancel.exec_cancel",
];

const MIGRATE: &str = "k-qcow2-06-migrate-live.migrate";
const DEPLOY: &str = "k-qcow2-01-create-deploy.deploy";
const ATTACH_NIC: &str = "k-vmm-02-nic-attach-update-detach.attachnic";
const BACKUP: &str = "k-vmm-12-backup-running-and-poweroff-restore.backup";

#[test]
fn what_would_do_harm_if_done_twice_is_done_once() {
    let once = |name: &str| -> Vec<String> {
        of(name).steps.into_iter().filter(|step| step.once).map(|step| step.name).collect()
    };
    for name in [
        DEPLOY,
        MIGRATE,
        "k-qcow2-04-undeploy-resume.shutdown",
        "k-qcow2-05-poweroff-soft-hard-resume.cancel",
    ] {
        assert_eq!(once(name), [""; 0], "{name}");
    }
    let reboot = "k-vmm-01-reboot-reset.reboot";
    assert_eq!(once(reboot), step_names(&of(reboot)));
    let backup = of(BACKUP);
    assert!(backup.steps.iter().all(|step| step.once), "{:?}", step_names(&backup));
    let network = |name: &String| name.starts_with("pre:") || name.starts_with("post:");
    assert!(!once(ATTACH_NIC).iter().any(network));
}

#[test]
fn the_plans_of_all_actions_are_the_golden_ones() {
    let mut text = String::new();
    for name in SHAPES {
        text.push_str(&format!("# {name}\n{}", of(name).render()));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plans.txt");
    causeway_testing::golden::compare(&golden, &text);
}

#[test]
fn every_action_word_has_a_plan_of_a_recorded_request() {
    let planned: BTreeSet<String> = names().iter().map(|name| of(name).action).collect();
    assert_eq!(planned.len(), 26, "{planned:?}");
    let golden: BTreeSet<String> = SHAPES.iter().map(|name| action(name)).collect();
    assert_eq!(planned, golden);
}

#[test]
fn every_step_has_a_name_of_its_own_and_all_that_it_reads() {
    for name in names() {
        let plan = of(&name);
        let unique: BTreeSet<&str> = step_names(&plan).into_iter().collect();
        assert_eq!(unique.len(), plan.steps.len(), "{name}");
        for step in plan.steps.iter().flat_map(|s| std::iter::once(s).chain(&s.undo)) {
            assert!(inputs_of(step).iter().all(|input| plan.inputs.contains_key(*input)), "{name}: {step:?}");
            assert!(step.undo.is_empty() || plan.steps.contains(step), "{name}: an undo is not undone");
        }
        let read: BTreeSet<&str> =
            plan.steps.iter().flat_map(|s| std::iter::once(s).chain(&s.undo)).flat_map(inputs_of).collect();
        assert_eq!(read.len(), plan.inputs.len(), "{name}: what nobody reads does not travel");
    }
}

#[test]
fn a_word_tells_the_lane_of_its_plan() {
    for name in names() {
        let plan = of(&name);
        assert_eq!(lane(&plan.action), plan.lane(), "{name}");
    }
    assert_eq!((lane("DEPLOY"), lane("NONSENSE")), (Lane::Short, Lane::Short));
}

#[test]
fn what_is_answered_is_the_output_of_a_step_of_the_plan() {
    for name in names() {
        let plan = of(&name);
        let expected = match plan.action.as_str() {
            "DEPLOY" => Answer::Output("deploy".to_owned()),
            "SNAPSHOTCREATE" => Answer::Output("snapshot_create".to_owned()),
            "BACKUP" => Answer::Output("backup".to_owned()),
            _ => Answer::Empty,
        };
        assert_eq!(plan.answer, expected, "{name}");
        if let Answer::Output(from) = &plan.answer {
            step(&plan, from);
        }
    }
}

#[test]
fn deploy_has_its_network_first_and_an_undo_for_all_that_it_makes() {
    let plan = of(DEPLOY);
    assert_eq!(
        step_names(&plan),
        ["tm_context", "pre:ovswitch_vxlan", "mkdir", "vm.xml", "ds.xml", "deploy", "post:ovswitch_vxlan"]
    );
    assert_eq!(undo_names(step(&plan, "pre:ovswitch_vxlan")), ["clean:ovswitch_vxlan"]);
    let deploy = step(&plan, "deploy");
    // The UUID of the deployment file: what `deploy` prints may be lost.
    let uuid = "0a9740f1-4d50-4438-a1af-70d224786bbe";
    assert_eq!(argv(&deploy.undo[0]), [uuid, "node1", "0", "node1"]);
    let (id, host) = (uuid.parse().unwrap(), "node1".parse().unwrap());
    assert_eq!(deploy.goal, Some(Goal::RunsOn { id, host, from: None }));
    assert!(!deploy.cancellable);
    assert_eq!(argv(step(&plan, "post:ovswitch_vxlan")), ["<deploy>", "node1"]);
    for side in ["vm.xml", "ds.xml"] {
        let Work::WriteFile { path, .. } = &step(&plan, side).work else { panic!("{side}") };
        assert_eq!(path.as_str(), format!("/var/lib/one//datastores/102/0/{side}"));
    }
}

#[test]
fn a_request_without_context_has_no_transfer() {
    for (name, first) in
        [(DEPLOY, "pre:ovswitch_vxlan"), ("k-qcow2-02-suspend-resume.restore", "pre:ovswitch_vxlan")]
    {
        let plan = planned(&action(name), &without(&document(name), "TM_COMMAND"), &settings()).unwrap();
        assert_eq!(step_names(&plan)[0], first, "{name}");
    }
}

#[test]
fn a_vm_without_networks_has_no_network_steps() {
    for name in names() {
        let document = document(&name);
        let (mut bare, mut rest) = (String::new(), document.as_str());
        while let Some((before, after)) = rest.split_once("<VN_MAD>") {
            bare.push_str(before);
            rest = after.split_once("</VN_MAD>").unwrap().1;
        }
        bare.push_str(rest);
        let plan = planned(&action(&name), &bare, &settings()).unwrap();
        let steps = plan.steps.iter().flat_map(|s| std::iter::once(s).chain(&s.undo));
        let network = |work: &Work| matches!(work, Work::Slot { slot, .. } if slot.family() == "vnm");
        assert_eq!(steps.filter(|s| network(&s.work)).count(), 0, "{name}");
    }
}

#[test]
fn after_the_move_nothing_of_a_migration_can_fail_it() {
    let plan = of(MIGRATE);
    assert_eq!(
        step_names(&plan),
        [
            "tm_premigrate",
            "connections:ovswitch_vxlan",
            "pre:ovswitch_vxlan",
            "admit:ovswitch_vxlan",
            "depart",
            "migrate",
            "connections:ovswitch_vxlan#2",
            "clean:ovswitch_vxlan",
            "admit:ovswitch_vxlan#2",
            "post:ovswitch_vxlan",
            "arrive",
            "tm_postmigrate"
        ]
    );
    let places: Vec<String> = plan.steps.iter().map(|s| s.place.to_string()).collect();
    let (source, destination) = ("node1", "node2");
    let before = [source, destination, destination, source, source];
    let after = [source, source, destination, destination, destination];
    assert_eq!(places, [&["front-end"][..], &before, &after, &["front-end"]].concat());
    let stops = plan.steps.iter().filter(|s| s.on_failure == OnFailure::Stop).map(|s| s.name.as_str());
    assert_eq!(stops.collect::<Vec<_>>(), ["tm_premigrate", "pre:ovswitch_vxlan", "migrate"]);
    let id = "6e1f0f2a-0000-4000-8000-000000926517";
    assert_eq!(argv(step(&plan, "migrate")), [id, "node2", "node1", "0", "node1"]);
    assert_eq!(argv(step(&plan, "post:ovswitch_vxlan")), [id, "node1"], "post is told the source");
    let directory = "/var/lib/one//datastores/102/0";
    assert_eq!(argv(step(&plan, "depart")), [id, directory, "0", "node1"]);
    assert_eq!(argv(step(&plan, "arrive")), [id, directory, "0", "node2"]);
    assert_eq!(undo_names(step(&plan, "depart")), ["stay"], "what was put aside is given back");
    let (id, host, from) = (id.parse().unwrap(), "node2".parse().unwrap(), Some("node1".parse().unwrap()));
    assert_eq!(step(&plan, "migrate").goal, Some(Goal::RunsOn { id, host, from }));
    let undo = &step(&plan, "tm_premigrate").undo;
    assert_eq!((undo[0].name.as_str(), undo[0].on_failure), ("tm_failmigrate", OnFailure::Warn));
    assert_eq!(argv(&step(&plan, "pre:ovswitch_vxlan").undo[0]), ["node2"], "the destination's network");
}

#[test]
fn failmigrate_also_follows_the_first_of_several_preparations() {
    let line = "MIGRATE qcow2 node1 node2 /var/lib/one//datastores/102/0 0 102\n";
    let twice = with(&document(MIGRATE), line, &format!("{line}{line}"));
    let plan = planned("MIGRATE", &twice, &settings()).unwrap();
    assert_eq!(step_names(&plan)[..2], ["tm_premigrate", "tm_premigrate#2"]);
    assert_eq!(undo_names(&plan.steps[0]), ["tm_failmigrate", "tm_failmigrate"]);
    assert!(plan.steps[1].undo.is_empty());
}

/// Contract VMM 1.2: a script of `-l` does the whole of a migration.
#[test]
fn a_migration_by_a_script_of_the_front_end_is_left_to_it() {
    let local = [("migrate".to_owned(), "migrate_local".to_owned())].into();
    let settings = causeway_vmm::plan::Settings { local, ..settings() };
    let plan = planned("MIGRATE", &document(MIGRATE), &settings).unwrap();
    assert!(!step_names(&plan).iter().any(|name| ["depart", "arrive"].contains(name)), "{}", plan.render());
    assert_eq!(step(&plan, "migrate").place, Place::FrontEnd);
}

/// Contract VMM 1.2, `-d`: in the place of the shipped list.
#[test]
fn the_agent_goes_with_the_hypervisors_steps_of_the_actions_that_d_names() {
    let delegate = ["deploy", "attach_disk", "execcancel"].map(str::to_owned).to_vec();
    let settings = causeway_vmm::plan::Settings { delegate, ..settings() };
    let mut seen = BTreeSet::new();
    for name in names() {
        let plan = planned(&action(&name), &document(&name), &settings).unwrap();
        let named = ["DEPLOY", "ATTACHDISK", "EXEC_CANCEL"].contains(&plan.action.as_str());
        for step in plan.steps.iter().flat_map(|s| std::iter::once(s).chain(&s.undo)) {
            let ours = matches!(&step.work, Work::Slot { slot, .. } if slot.family() == "vmm");
            assert_eq!(matches!(step.place, Place::Delegated(_)), named && ours, "{name}: {}", step.name);
            seen.extend((named && ours).then(|| step.name.clone()));
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["attach_disk", "cancel", "deploy", "exec_cancel"]);
}

/// Contract VMM 1.2, `-r`: the steps that the stock driver runs by an ssh call of their own, and no others.
#[test]
fn r_is_for_steps_by_a_call_of_their_own() {
    let plain = settings();
    let settings = causeway_vmm::plan::Settings { retries: 2, ..settings() };
    let mut again = BTreeSet::new();
    for name in names() {
        let plan = planned(&action(&name), &document(&name), &settings).unwrap();
        let once = planned(&action(&name), &document(&name), &plain).unwrap();
        for (step, once) in plan.steps.iter().zip(&once.steps) {
            let retried = step.retries > 0;
            let time = if retried { once.deadline * 3 + Duration::from_secs(2) } else { once.deadline };
            assert_eq!((step.retries, step.deadline), (if retried { 2 } else { 0 }, time), "{name}");
            again.extend(retried.then(|| step.name.clone()));
        }
    }
    let expected = ["exec", "exec_cancel", "resize", "snapshot_create", "snapshot_delete"];
    assert_eq!(again.into_iter().collect::<Vec<_>>(), expected);
}

/// Contract VMM 1.2, `-w`: seconds of a VMM step, and of no other.
#[test]
fn w_is_for_the_hypervisors_steps_and_leaves_the_others_their_time() {
    let wanted = Duration::from_secs(33);
    let plain = settings();
    let deadlines = causeway_vmm::plan::Deadlines { step: Some(wanted), ..plain.deadlines };
    let settings = causeway_vmm::plan::Settings { deadlines, ..settings() };
    for name in names() {
        let plan = planned(&action(&name), &document(&name), &settings).unwrap();
        let without = planned(&action(&name), &document(&name), &plain).unwrap();
        for (step, plain) in plan.steps.iter().zip(&without.steps) {
            let ours = matches!(&step.work, Work::Slot { slot, .. } if slot.family() == "vmm");
            assert_eq!(step.deadline, if ours { wanted } else { plain.deadline }, "{name}: {}", step.name);
        }
    }
}

#[test]
fn only_a_migration_that_we_drive_gets_the_agent() {
    for (drive, place) in [
        (Drive::Libvirtd, Place::Host("node1".parse().unwrap())),
        (Drive::Agent, Place::Delegated("node1".parse().unwrap())),
    ] {
        let settings = causeway_vmm::plan::Settings { drive, ..settings() };
        for name in names() {
            let plan = planned(&action(&name), &document(&name), &settings).unwrap();
            for step in &plan.steps {
                match step.name.as_str() {
                    "migrate" => assert_eq!(step.place, place),
                    _ => assert!(!matches!(step.place, Place::Delegated(_)), "{name}: {}", step.name),
                }
            }
        }
    }
}

#[test]
fn ending_a_guest_has_its_absence_for_a_goal() {
    for (name, verb, host) in [
        ("k-qcow2-04-undeploy-resume.shutdown", "shutdown", "node2"),
        ("k-qcow2-05-poweroff-soft-hard-resume.cancel", "cancel", "node1"),
    ] {
        let plan = of(name);
        assert_eq!(step_names(&plan), [verb, "clean:ovswitch_vxlan"]);
        let id = plan.deploy_id.clone().unwrap();
        assert_eq!(argv(&plan.steps[0]), [id.as_str(), host, "0", host]);
        assert_eq!(plan.steps[0].goal, Some(Goal::Gone { id, host: host.parse().unwrap() }));
        assert!(plan.steps[0].cancellable);
    }
}

#[test]
fn cleanup_tries_everything_once_the_guest_has_ended() {
    let name = "k-fail-19-recover-delete-while-running.cleanup";
    let both = with(&document(name), "<MIGR_HOST/>", "<MIGR_HOST>node2</MIGR_HOST>");
    let plan = planned("CLEANUP", &both, &settings()).unwrap();
    let (clean, cleaned_too) = ("clean:ovswitch_vxlan", "clean:ovswitch_vxlan#2");
    assert_eq!(step_names(&plan), ["cancel", clean, "cancel#2", cleaned_too, "tm_delete", "tm_delete#2"]);
    let hosts: Vec<&str> = plan.steps[..4].iter().map(|s| s.place.host().unwrap().as_str()).collect();
    assert_eq!(hosts, ["node1", "node1", "node2", "node2"]);
    assert_eq!(argv(step(&plan, "cancel#2"))[1..], ["node2", "6", "node2"]);
    for step in &plan.steps {
        // Only a guest that can't be proved to have ended keeps its network and its disks.
        let ends = step.name.starts_with("cancel");
        assert_eq!(step.on_failure, if ends { OnFailure::Stop } else { OnFailure::Warn }, "{}", step.name);
        assert_eq!(step.goal.is_some(), ends, "{}", step.name);
    }
    let never_started = of("k-fail-17-slow-deploy-recover-delete.cleanup");
    assert_eq!(
        step_names(&never_started),
        [clean, "tm_delete", "tm_delete#2"],
        "there is no guest to cancel"
    );
}

#[test]
fn an_alias_is_no_device_and_a_nic_is_taken_off_again() {
    let nic = of(ATTACH_NIC);
    assert_eq!(undo_names(step(&nic, "attach_nic")), ["detach_nic"]);
    let id = nic.deploy_id.clone().unwrap();
    let mac = "02:00:0a:0b:00:0a";
    let attach = [id.as_str(), mac, "br-vxlan", "-", "vxlan", "one-3-1", "3", "node1"];
    assert_eq!(argv(step(&nic, "attach_nic")), attach);
    assert_eq!(argv(&step(&nic, "attach_nic").undo[0]), [id.as_str(), mac, "3", "node1"]);

    let document = document(ATTACH_NIC);
    // The attached NIC is the one with ATTACH in it.
    let at = document.find("<ATTACH>").unwrap();
    let start = document[..at].rfind("<NIC>").unwrap();
    let end = at + document[at..].find("</NIC>").unwrap();
    let alias = format!(
        "{}<NIC_ALIAS><PARENT_ID>0</PARENT_ID>{}</NIC_ALIAS>{}",
        &document[..start],
        &document[start + 5..end],
        &document[end + 6..]
    );
    let plan = planned("ATTACHNIC", &alias, &settings()).unwrap();
    let names = step_names(&plan);
    assert!(!names.contains(&"attach_nic") && names.contains(&"post:vxlan"), "{names:?}");
    let plan = planned("DETACHNIC", &alias, &settings()).unwrap();
    assert!(!step_names(&plan).contains(&"detach_nic"), "{}", plan.render());
}

#[test]
fn the_live_verbs_of_a_backup_go_by_the_vms_state() {
    let live = of(BACKUP);
    assert_eq!(step_names(&live), ["tm_prebackup_live", "backup", "tm_postbackup_live"]);
    assert_eq!(undo_names(&live.steps[0]), ["tm_postbackup_live"]);
    assert!(live.steps.iter().all(|s| s.lane == Lane::Long));
    let off = with(&document(BACKUP), "<LCM_STATE>69</LCM_STATE>", "<LCM_STATE>70</LCM_STATE>");
    let off = planned("BACKUP", &off, &settings()).unwrap();
    assert_eq!(step_names(&off), ["tm_prebackup", "backup", "tm_postbackup"]);
    let live_suffix = with(
        &document("k-qcow2-11-disk-snapshots-running.disksnapshotcreate"),
        "SNAP_CREATE ",
        "SNAP_CREATE.ssh ",
    );
    let plan = planned("DISKSNAPSHOTCREATE", &live_suffix, &settings()).unwrap();
    assert_eq!(step_names(&plan), ["tm_snap_create_live.ssh"]);
}

#[test]
fn an_empty_standard_input_of_a_guest_command_is_no_argument() {
    let name = "k-vmm-09-exec-cancel.exec";
    assert_eq!(argv(&of(name).steps[0]), ["3", "node1", "uname -a"]);
    let command = "<COMMAND><![CDATA[uname -a]]></COMMAND>";
    let given = with(&document(name), command, &format!("{command}<STDIN><![CDATA[aGk=]]></STDIN>"));
    let given = planned("EXEC", &given, &settings()).unwrap();
    assert_eq!(argv(&given.steps[0]), ["3", "node1", "uname -a", "aGk="]);
}

#[test]
fn two_actions_answer_with_an_id_in_failure_too() {
    for name in names() {
        let document = document(&name);
        let expected = match action(&name).as_str() {
            "UPDATESG" => Some(100),
            "UPDATENIC" => Some(2),
            _ => None,
        };
        let envelope = Envelope::parse(document.as_bytes()).unwrap();
        assert_eq!(first_word(&action(&name), &envelope), expected, "{name}");
        assert_eq!(first_word_in(&action(&name), document.as_bytes()), expected, "{name}");
        assert_eq!(of(&name).first_word, expected, "{name}");
    }
    let word = |document: &str| first_word_in("UPDATESG", document.as_bytes());
    assert_eq!(word("<X><SECURITY_GROUP_ID> 7 </SECURITY_GROUP_ID><VM>no VM</VM></X>"), Some(7));
    for broken in
        ["", "<X/>", "<X><SECURITY_GROUP_ID>seven</SECURITY_GROUP_ID></X>", "<X><SECURITY_GROUP_ID>7"]
    {
        assert_eq!(word(broken), None, "{broken}");
    }
}

#[test]
fn what_takes_a_vm_away_is_known() {
    let away: BTreeSet<String> = names().iter().map(|n| action(n)).filter(|a| removes(a)).collect();
    assert_eq!(away, ["CANCEL", "CLEANUP", "SHUTDOWN"].map(str::to_owned).into());
}
