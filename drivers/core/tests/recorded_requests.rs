//! Requests as oned 7.4 sent them, read by our parsers; and what the stock driver made of them, written by ours.

// clippy.toml allows unwrapping in tests, but takes only `#[test]` functions for tests, not what they call.
#![expect(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use causeway_core::document::{self, Envelope, VmDocument, reduced_vm};
use causeway_core::protocol::{Action, LineReader, Message, Request};

fn data(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(kind)
}

/// A recorded line, read as a driver reads it.
fn message(name: &str) -> Request {
    let bytes = fs::read(data("requests").join(format!("{name}.line"))).unwrap();
    let mut lines = VecDeque::new();
    LineReader::default().feed(&bytes, &mut lines);
    assert_eq!(lines.len(), 1, "{name}");
    match Message::parse(&lines[0]) {
        Some(Message::Request(request)) => request,
        other => panic!("{name}: {other:?}"),
    }
}

/// The document of a recorded request line.
fn request(name: &str) -> Vec<u8> {
    message(name).document().unwrap()
}

fn envelope(name: &str) -> Envelope {
    Envelope::parse(&request(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a stock step was given on its standard input, decoded where it was base64.
fn stdin(name: &str) -> Vec<u8> {
    let raw = fs::read(data("stdin").join(format!("{name}.txt"))).unwrap();
    if name.ends_with("base64") { document::decode(&raw).unwrap() } else { raw }
}

#[test]
fn every_recorded_request_is_read_without_a_fault() {
    let mut seen = 0;
    for entry in fs::read_dir(data("requests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let envelope = envelope(&name);
        let message = message(&name);
        assert_eq!(envelope.vm.id, message.vm, "{name}");
        assert!(!matches!(message.action, Action::Other(_)), "{name}");
        assert!(envelope.datastore.is_some(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 27);
}

#[test]
fn deploy() {
    let deploy = envelope("deploy-qcow2");
    assert_eq!(deploy.host.as_str(), "node1");
    assert_eq!((&deploy.migr_host, &deploy.deploy_id), (&None, &None));
    let local = deploy.local_deployment_file.as_ref().unwrap();
    assert_eq!(local.as_str(), "/var/lib/one/vms/0/deployment.0");
    let remote = deploy.remote_deployment_file.as_ref().unwrap();
    assert_eq!(remote.as_str(), "/var/lib/one//datastores/102/0/deployment.0");
    assert_eq!(deploy.tm_command.len(), 1);
    assert_eq!(
        deploy.tm_command[0].to_string(),
        "CONTEXT qcow2 /var/lib/one/vms/0/context.sh node1:/var/lib/one//datastores/102/0/disk.1 0 102"
    );
    let disk_path = deploy.disk_target_path.as_ref().unwrap();
    assert_eq!(disk_path.as_str(), "/var/lib/one//datastores/102/0/disk.1");

    let vm = &deploy.vm;
    assert_eq!((vm.name.as_str(), vm.state, vm.lcm_state), ("vm-qcow2", Some(3), Some(2)));
    assert_eq!(vm.history.hostname.as_ref(), Some(&deploy.host));
    assert_eq!((vm.history.seq, vm.history.ds_id), (Some(0), Some(102)));
    assert_eq!(vm.history.vm_mad.as_ref().unwrap(), "kvm");
    assert_eq!((vm.memory_mb, vm.security_group_rules.len()), (Some(128), 2));
    let context = vm.context.as_ref().unwrap();
    assert_eq!((context.disk_id, context.target.as_deref()), (Some(1), Some("sda")));

    let nic = &vm.nics[0];
    assert!(nic.is("ovswitch_vxlan"));
    assert_eq!((nic.nic_id, nic.network_id, nic.mtu), (0, Some(0), Some(1450)));
    assert_eq!((nic.vlan_tag(), nic.vni().map(|vni| vni.get())), (Some(2), Some(2)));
    assert_eq!(nic.target.as_ref().unwrap().as_str(), "one-0-0");
    assert_eq!(nic.mac.unwrap().to_string(), "02:00:0a:0a:00:0a");
    assert_eq!(nic.addresses.ip.unwrap().to_string(), "10.10.0.10");
    assert!(nic.filter_mac_spoofing && nic.filter_ip_spoofing && !nic.attach);
    assert_eq!(nic.security_groups, [0]);

    let disk = &vm.disks[0];
    assert_eq!((disk.disk_id, disk.size_mb, disk.clone), (0, Some(1024), true));
    assert_eq!(disk.tm_mad.as_ref().unwrap(), "qcow2");
    assert_eq!((disk.target.as_deref(), disk.target_index()), (Some("vda"), Some(0)));

    let datastore = deploy.datastore.as_ref().unwrap();
    assert_eq!((datastore.id, datastore.shared), (102, true));
    assert_eq!(datastore.ds_mad, None);
    assert_eq!(datastore.base_path.as_ref().unwrap().as_str(), "/var/lib/one//datastores/102");
}

#[test]
fn migrate_names_both_hosts_and_the_directory_at_the_destination() {
    let migrate = envelope("migrate-live");
    let destination = migrate.migr_host.as_ref().unwrap();
    assert_eq!((migrate.host.as_str(), destination.as_str()), ("node1", "node2"));
    // The history record is already that of the destination (contract VNM 1.4).
    assert_eq!(migrate.vm.history.hostname.as_ref(), Some(destination));
    assert_eq!(migrate.deploy_id, migrate.vm.deploy_id);
    assert!(migrate.deploy_id.is_some());
    let command = &migrate.tm_command[0];
    assert_eq!((command.action(), command.args.len()), ("MIGRATE", 5));
    let target = migrate.disk_target_path.as_ref().unwrap();
    assert_eq!(target.as_str(), "/var/lib/one//datastores/102/0");
}

#[test]
fn shutdown_and_cancel_have_a_deploy_id_and_no_command() {
    for name in ["shutdown-undeploy", "cancel-poweroff", "cancel-qemu"] {
        let envelope = envelope(name);
        assert!(envelope.deploy_id.is_some(), "{name}");
        assert!(envelope.tm_command.is_empty(), "{name}");
        assert!(envelope.checkpoint_file.is_none(), "{name}");
    }
}

#[test]
fn cleanup_deletes_each_disk_and_the_directory() {
    let boot = envelope("cleanup-in-boot");
    assert_eq!(boot.deploy_id, None);
    let running = envelope("cleanup-running");
    assert!(running.deploy_id.is_some());
    for cleanup in [boot, running] {
        assert!(cleanup.tm_command.len() >= 2);
        assert!(cleanup.tm_command.iter().all(|c| c.action() == "DELETE"));
    }
}

#[test]
fn markers_say_what_the_action_is_about() {
    let attach = envelope("attachdisk");
    let disk = attach.vm.attach_disk().unwrap();
    assert_eq!((disk.disk_id, disk.target_index()), (2, Some(1)));
    assert_eq!(attach.tm_rollback.len(), 1);

    let attach = envelope("attachnic");
    let nic = attach.vm.nics.iter().find(|nic| nic.attach).unwrap();
    assert_eq!((nic.nic_id, nic.vni().map(|vni| vni.get())), (1, Some(4)));
    let order: Vec<String> = attach.vm.vn_mads().into_iter().map(String::from).collect();
    assert_eq!(order, ["ovswitch_vxlan", "vxlan"]);

    let update = envelope("updatenic");
    assert_eq!(update.virtual_network_id, Some(2));
    assert_eq!(update.vm.vnet_update.len(), 1, "{:?}", update.vm.vnet_update);
    assert_eq!(envelope("updatesg").security_group_id, Some(100));

    let resize = envelope("resize");
    let old = resize.vm.resize.as_ref().unwrap();
    assert!(old.memory_mb.is_some() && old.vcpu.is_some());
    let revert = envelope("snapshotrevert");
    let snapshot = revert.vm.active_snapshot().unwrap();
    assert_eq!(snapshot.hypervisor_id.as_ref().unwrap(), "snap-0");
    assert!(envelope("disksnapshotcreate").vm.disks.iter().any(|d| d.snapshot_active));
    assert!(envelope("resizedisk").vm.disks.iter().any(|d| d.resize));
    assert_eq!(envelope("exec").vm.qemu_ga_exec.unwrap().command, "uname -a");
}

#[test]
fn network_steps_get_the_bytes_that_stock_gives_them() {
    for (request, step) in [
        ("deploy-qcow2", "vnm_ovswitch_vxlan_pre.base64"),
        ("deploy-qcow2", "vnm_ovswitch_vxlan_post.base64"),
        ("save", "vnm_ovswitch_vxlan_clean.base64"),
        ("updatesg", "vnm_ovswitch_vxlan_update_sg.base64"),
    ] {
        let ours = String::from_utf8(reduced_vm(&envelope(request))).unwrap();
        assert_eq!(ours, String::from_utf8(stdin(step)).unwrap(), "{step}");
    }
    // The whole document, in lines of 60 characters.
    let ours = document::encode_lines(envelope("updatenic").vm_xml().as_bytes());
    let stock = fs::read_to_string(data("stdin/vnm_ovswitch_vxlan_update_nic.base64.txt")).unwrap();
    // The here-document through which stock feeds a step adds a line feed of its own to whatever it carries.
    assert_eq!(format!("{ours}\n"), stock);
}

#[test]
fn other_steps_get_the_bytes_that_stock_gives_them() {
    let text = |name| String::from_utf8(stdin(name)).unwrap().trim_end().to_owned();
    let vm = |name| envelope(name).vm_xml();
    assert_eq!(vm("migrate-live"), text("tm_qcow2_premigrate.base64"));
    assert_eq!(vm("backup"), text("tm_qcow2_prebackup_live.plain"));
    let whole = |name| envelope(name).to_xml();
    assert_eq!(whole("migrate-live"), text("vmm_kvm_migrate.plain"));
    assert_eq!(whole("attachnic"), text("vmm_kvm_attach_nic.plain"));
    assert_eq!(whole("restore"), text("vmm_kvm_restore.plain"));
}

#[test]
fn the_reduced_document_says_the_same_about_the_network() {
    for name in ["deploy-qcow2", "attachnic", "updatesg", "migrate-live"] {
        let whole = envelope(name);
        let reduced = VmDocument::parse(&reduced_vm(&whole)).unwrap();
        assert_eq!(reduced.nics, whole.vm.nics, "{name}");
        assert_eq!(reduced.security_group_rules, whole.vm.security_group_rules);
        assert_eq!(reduced.vn_mads(), whole.vm.vn_mads());
        assert_eq!(reduced.deploy_id, whole.vm.deploy_id);
        assert_eq!(reduced.context, whole.vm.context);
        let (a, b) = (&reduced.history, &whole.vm.history);
        assert_eq!((&a.hostname, a.hid, a.ds_id), (&b.hostname, b.hid, b.ds_id));
        assert_eq!(a.vm_mad, b.vm_mad);
    }
}

#[test]
fn debug_shows_no_secret_of_a_request() {
    let text = String::from_utf8(request("deploy-ceph")).unwrap();
    let secret = "s3cr3t-of-nobody";
    let mut spiked = text.clone();
    for parent in ["<TEMPLATE><ALLOW_ORPHANS>", "<CONTEXT>"] {
        let with = format!(
            "{}<CEPH_SECRET><![CDATA[{secret}]]></CEPH_SECRET>{}",
            &parent[..parent.find('>').unwrap() + 1],
            &parent[parent.find('>').unwrap() + 1..]
        );
        spiked = spiked.replace(parent, &with);
    }
    let user = format!("<USER_TEMPLATE><PASSWORD>{secret}</PASSWORD></USER_TEMPLATE>");
    spiked = spiked.replace("<USER_TEMPLATE></USER_TEMPLATE>", &user);
    assert!(spiked.matches(secret).count() >= 3, "the spike missed");
    let envelope = Envelope::parse(spiked.as_bytes()).unwrap();
    let datastore = envelope.datastore.as_ref().unwrap();
    assert_eq!(datastore.attribute("CEPH_SECRET").as_deref(), Some(secret));
    for shown in [
        format!("{envelope:?}"),
        format!("{:#?}", envelope.vm),
        format!("{datastore:?}"),
        format!("{:?}", envelope.element()),
        format!("{:?}", envelope.vm.disks),
        format!("{:?}", envelope.vm.context),
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
