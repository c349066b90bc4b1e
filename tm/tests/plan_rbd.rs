//! Plans of the recorded calls of `ceph`, compared with a golden file; names, hosts and refusals.

#![cfg(test)]

use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, VmId};
use causeway_core::plan::{Plan, Slot, Work};
use causeway_testing::golden;
use causeway_tm::datastore::Hosts;
use causeway_tm::facts::{CephFacts, DatastoreFacts, DiskFacts, Facts, VmFacts, VmNeed};
use causeway_tm::{TmSettings, Transfer, built, needs, steps};
use proptest::prelude::*;
use serde_json::Value;

fn slot(text: &str) -> Slot {
    text.parse().unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn access() -> CephFacts {
    CephFacts {
        user: Some("libvirt".to_owned()),
        key: Some("/etc/ceph/libvirt.key".to_owned()),
        pool: Some("one".to_owned()),
        ..CephFacts::default()
    }
}

fn disk(id: u32) -> DiskFacts {
    DiskFacts {
        tm_mad: Some("ceph".to_owned()),
        disk_type: Some("RBD".to_owned()),
        target: Some(format!("vd{}", char::from(b'a' + u8::try_from(id).unwrap()))),
        source: Some("one/one-5".to_owned()),
        clone: true,
        size_mb: Some(1024),
        original_size_mb: Some(1024),
        ceph: access(),
        ..DiskFacts::new(id)
    }
}

/// A VM with a copy of an image, an image itself, and a volatile disk, on node1.
fn facts(vm: u32) -> Facts {
    let vm = VmFacts {
        lcm_state: Some(3),
        deploy_id: Some(DeployId::of_vm(VmId(vm))),
        host: Some("node1".parse().unwrap()),
        disks: vec![
            disk(0),
            DiskFacts { clone: false, persistent: true, ..disk(1) },
            DiskFacts { source: None, tm_mad: None, disk_type: Some("fs".to_owned()), ..disk(2) },
        ],
        ..VmFacts::new(VmId(vm))
    };
    let datastore = DatastoreFacts {
        bridges: vec!["bridge0".parse().unwrap(), "bridge1".parse().unwrap()],
        ceph: access(),
        ..DatastoreFacts::default()
    };
    let hosts =
        Hosts::parse(b"<HOST_POOL><HOST><NAME>bridge0</NAME><STATE>2</STATE></HOST></HOST_POOL>").unwrap();
    let datastores = (0..200).map(|id| (id, datastore.clone())).collect();
    Facts { vm: Some(vm), datastores, hosts: Some(hosts), ..Facts::default() }
}

fn render(title: &str, transfer: &Transfer) -> String {
    let plan = serde_json::json!({"action": title, "vm": 0, "steps": transfer.steps, "answer": "empty"});
    let plan: Plan = serde_json::from_value(plan).unwrap();
    format!("{title}\n{}", plan.render().split_once('\n').unwrap().1)
}

/// The recording was made with images in files: a real `SOURCE` is that of the same image in a pool.
fn in_pool(word: &str) -> String {
    for image in ["/var/lib/one/datastores/1/0123456789abcdef", "/var/lib/one/datastores/1/fedcba9876543210"]
    {
        if let Some((before, id)) = word.split_once(image) {
            return format!("{before}one/one-{id}");
        }
    }
    word.to_owned()
}

fn recorded() -> Vec<(Slot, Vec<String>)> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/tm_ceph.txt"));
    let (mut calls, mut current) = (Vec::new(), None);
    for line in text.unwrap().lines() {
        if let Some(rest) = line.strip_prefix("/var/lib/one/remotes/") {
            current = Some(slot(rest.split_whitespace().next().unwrap()));
        } else if let Some(argv) = line.trim_start().strip_prefix("argv") {
            let argv: Vec<String> = serde_json::from_str(argv.trim()).unwrap();
            calls.push((current.clone().unwrap(), argv.iter().map(|word| in_pool(word)).collect()));
        }
    }
    calls
}

fn planned(name: &str, argv: &str, facts: &Facts) -> Result<Transfer, Failure> {
    Ok(steps(&slot(name), &words(argv), b"PFZNLz4=", facts, &TmSettings::default())?)
}

fn refused(name: &str, argv: &str, facts: &Facts) -> String {
    planned(name, argv, facts).unwrap_err().text
}

#[test]
fn recorded_calls_become_their_golden_steps() {
    let mut text = String::new();
    for (slot, argv) in recorded() {
        if !built(&slot) {
            continue;
        }
        let mut facts = facts(argv[argv.len() - 2].parse().unwrap());
        if slot.verb() == "mkswap" {
            // Of that VM disk 1 is swap.
            let disk = &mut facts.vm.as_mut().unwrap().disks[1];
            (disk.source, disk.disk_type) = (None, Some("swap".to_owned()));
        }
        let transfer = steps(&slot, &argv, b"PFZNLz4=", &facts, &TmSettings::default()).unwrap();
        text.push_str(&render(&format!("{slot} {}", argv.join(" ")), &transfer));
    }
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recorded_ceph.txt"), &text);
}

/// Every slot of the recording is either built or named here.
#[test]
fn what_is_not_built_is_known() {
    let mut other: Vec<String> = recorded()
        .into_iter()
        .filter(|(slot, _)| !built(slot))
        .map(|(slot, _)| slot.verb().to_owned())
        .collect();
    other.sort();
    other.dedup();
    let known = "monitor postbackup postbackup_live prebackup prebackup_live restore";
    assert_eq!(other, known.split_whitespace().collect::<Vec<_>>());
    // These fall back (contract TM 2): to what does nothing to a disk, or refuses one that is no volume.
    for verb in [
        "mv.ssh",
        "snap_create_live.ssh",
        "snap_create.ssh",
        "snap_delete.ssh",
        "snap_revert.ssh",
        "context.ssh",
    ] {
        assert!(built(&slot(&format!("tm/ceph/{verb}"))), "{verb}");
    }
}

#[test]
fn other_shapes_become_their_golden_steps() {
    let mut text = String::new();
    let mut add = |name: &str, argv: &str, facts: &Facts| {
        text.push_str(&render(&format!("{name} {argv}"), &planned(name, argv, facts).unwrap()));
    };
    let mut odd = facts(7);
    let vm = odd.vm.as_mut().unwrap();
    vm.disks[0].size_mb = Some(4096);
    vm.disks[0].ceph.conf = Some("/etc/ceph/other cluster.conf".to_owned());
    vm.disks[2].fs = Some("ext4".to_owned());
    vm.disks[0].ceph.trash = Some("YES".to_owned());
    vm.disks.push(DiskFacts { tm_mad: Some("vendor".to_owned()), ..disk(3) });
    odd.datastores.get_mut(&100).unwrap().ceph.data_pool = Some("cold".to_owned());
    add("tm/ceph/clone", "fe:one/one-5 node1:/d/100/7/disk.0 7 101", &odd);
    add("tm/ceph/mkimage", "64 raw node1:/d/100/7/disk.2 7 100", &odd);
    add("tm/ceph/mkswap", "64 node1:/d/100/7/disk.2 7 100", &odd);
    add("tm/ceph/delete", "node1:/d/100/7/disk.0 7 101", &odd);
    add("tm/ceph/delete", "node1:/d/100/7/disk.1 7 101", &odd);
    add("tm/ceph/delete", "fe:/d/100/7/disk.2 7 100", &odd);
    add("tm/ceph/cpds", "node1:/d/100/7/disk.1 one/one-9 3 7 101", &odd);
    for verb in ["premigrate", "postmigrate", "failmigrate"] {
        add(&format!("tm/ceph/{verb}"), "h1 h2 /d/100/7 7 100", &odd);
        add(&format!("tm/ceph/{verb}"), "h1 h2 /d/100/7 7 100 qcow2", &odd);
    }
    add("tm/ceph/premigrate", "h1 h1 /d/100/7 7 100", &odd);
    // On the host's own disk.
    add("tm/ceph/clone.ssh", "fe:one/one-5 node1:/d/104/7/disk.0 7 101", &odd);
    add("tm/ceph/ln.ssh", "fe:one/one-5 node1:/d/104/7/disk.1 7 101", &odd);
    add("tm/ceph/mvds.ssh", "node1:/d/104/7/disk.1 one/one-5 7 101", &odd);
    add("tm/ceph/cpds.ssh", "node1:/d/104/7/disk.1 one/one-9 -1 7 101", &odd);
    add("tm/ceph/delete.ssh", "node1:/d/104/7/disk.0 7 101", &odd);
    add("tm/ceph/resize.ssh", "node1:/d/104/7/disk.0 8192 7 101", &odd);
    // While the guest runs.
    odd.vm.as_mut().unwrap().lcm_state = Some(26);
    add("tm/ceph/cpds.ssh", "node1:/d/104/7/disk.1 one/one-9 -1 7 101", &odd);
    odd.vm.as_mut().unwrap().lcm_state = Some(24);
    add("tm/ceph/snap_create_live", "node1:/d/100/7/disk.0 1 7 101", &odd);
    odd.vm.as_mut().unwrap().lcm_state = Some(62);
    add("tm/ceph/resize.ssh", "node1:/d/104/7/disk.0 8192 7 101", &odd);
    add("tm/ceph/resize", "node1:/d/100/7/disk.0 8192 7 101", &odd);
    odd.vm.as_mut().unwrap().lcm_state = Some(60);
    add("tm/ceph/mv", "h1:/d/100/7 h2:/d/100/7 7 100", &odd);
    odd.vm.as_mut().unwrap().lcm_state = Some(67);
    add("tm/ceph/cpds", "fe:/d/100/7/disk.0 one/one-9 -1 7 101", &odd);
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/shapes_ceph.txt"), &text);
}

#[test]
fn what_a_call_needs_is_asked_for_and_no_more() {
    let need = |verb: &str, argv: &str| {
        let needs = needs(&slot(&format!("tm/ceph/{verb}")), &words(argv)).unwrap();
        (needs.vm.is_some(), needs.datastores.into_iter().collect::<Vec<u32>>())
    };
    assert_eq!(need("clone", "fe:one/one-5 h1:/d/100/7/disk.0 7 101"), (true, vec![100]));
    assert_eq!(need("cpds", "h1:/d/100/7/disk.0 one/one-9 -1 7 101"), (true, vec![101]));
    assert_eq!(need("delete", "h1:/d/100/7/disk.0 7 101"), (true, vec![101]));
    assert_eq!(need("delete", "h1:/d/100/7 7 100"), (true, vec![100]));
    assert_eq!(need("mkswap", "64 h1:/d/100/7/disk.0 7 100"), (true, vec![100]));
    assert_eq!(need("clone.ssh", "fe:one/one-5 h1:/d/100/7/disk.0 7 101"), (true, vec![]));
    assert_eq!(need("cpds.ssh", "h1:/d/100/7/disk.0 one/one-9 -1 7 101"), (true, vec![101]));
    assert_eq!(need("delete.ssh", "h1:/d/100/7/disk.0 7 101"), (false, vec![]));
    assert_eq!(need("mvds.ssh", "h1:/d/100/7/disk.0 one/one-5 7 101"), (true, vec![]));
    assert_eq!(need("mvds", "h1:/d/100/7/disk.0 one/one-5 7 101"), (false, vec![]));
    assert_eq!(need("postmigrate", "h1 h2 /d/100/7 7 100 qcow2"), (false, vec![]));
    let migrate = needs(&slot("tm/ceph/premigrate"), &words("h1 h2 /d/100/7 7 100")).unwrap();
    assert_eq!(migrate.vm, Some(VmNeed::Document(VmId(7))));
}

/// Hosts that are off, in error or disabled are not asked (contract TM 3.2), and not to know that is an error.
#[test]
fn a_host_of_the_list_is_taken_only_if_it_is_up() {
    let place = |facts: &Facts, vm: u32| {
        let delete = format!("fe:/d/100/{vm}/disk.0 {vm} 101");
        planned("tm/ceph/delete", &delete, facts).map(|transfer| transfer.steps[0].place.to_string())
    };
    let told = |state: u32| {
        let one = |name| format!("<HOST><NAME>{name}</NAME><STATE>{state}</STATE></HOST>");
        let pool =
            format!("<HOST_POOL>{}<HOST><NAME>x</NAME><STATE>2</STATE></HOST></HOST_POOL>", one("bridge1"));
        Some(Hosts::parse(pool.as_bytes()).unwrap())
    };
    for (state, taken) in [(2, "bridge1"), (3, "bridge0"), (4, "bridge0"), (8, "bridge0")] {
        let facts = Facts { hosts: told(state), ..facts(7) };
        assert_eq!(place(&facts, 7).unwrap(), taken);
    }
    let mut away = facts(7);
    away.hosts = told(8);
    away.datastores.get_mut(&101).unwrap().bridges.remove(0);
    assert!(place(&away, 7).unwrap_err().text.ends_with("no host of BRIDGE_LIST is up: bridge1"));
    away.hosts = None;
    assert_eq!(place(&away, 7).unwrap_err().kind, Kind::Input);
    away.datastores.get_mut(&101).unwrap().bridges.clear();
    assert_eq!(place(&away, 7).unwrap(), "fe");
    for (verb, argv) in [("delete", "h1:/d/100/7/disk.0 7 101"), ("delete", "h1:/d/100/7 7 100")] {
        assert!(needs(&slot(&format!("tm/ceph/{verb}")), &words(argv)).unwrap().hosts);
    }
}

/// W41: what is not said is never taken for something else.
#[test]
fn a_disk_of_an_image_is_never_taken_for_a_volatile_one() {
    let mut facts = facts(7);
    facts.vm.as_mut().unwrap().disks[0].source = None;
    let delete = "node1:/d/100/7/disk.0 7 101";
    assert_eq!(refused("tm/ceph/delete", delete, &facts), "DISK 0 SOURCE is not in the document of VM 7");
    facts.vm.as_mut().unwrap().disks[0].source = Some("one/../one-5".to_owned());
    assert!(
        refused("tm/ceph/delete", delete, &facts).starts_with("SOURCE of DISK 0 of VM 7 is \"one/../one-5\"")
    );
    facts.vm = None;
    assert_eq!(refused("tm/ceph/delete", delete, &facts), "VM is not in the document of VM 7");
}

#[test]
fn what_can_t_be_done_is_refused_by_name() {
    let mut facts = facts(7);
    for (name, argv, said) in [
        ("tm/ceph/clone", "fe:/d/1/abc node1:/d/100/7/disk.0 7 1", "argument 1: volume \"d/1/abc\" is"),
        ("tm/ceph/clone", "fe:one/one-5@x node1:/d/100/7/disk.0 7 1", "argument 1: volume"),
        ("tm/ceph/clone", "fe:one/one-5 node1:/d/100/7/kernel 7 1", "kernel is no disk"),
        ("tm/ceph/clone", "fe:one/one-5 node1:/d/100/8/disk.0 7 1", "is not a path of VM 7"),
        ("tm/ceph/mkimage", "64 qcow2 node1:/d/100/7/disk.2 7 100", "is \"qcow2\", not raw or swap"),
        (
            "tm/ceph/mkimage",
            "64 raw node1:/d/100/7/disk.1 7 100",
            "SOURCE of DISK 1 of VM 7 is \"one/one-5\", not empty",
        ),
        ("tm/ceph/mkswap", "64 node1:/d/100/7/disk.0 7 100", "SOURCE of DISK 0 of VM 7"),
        ("tm/ceph/snap_create", "node1:/d/100/7/disk.2 1 7 100", "TYPE of DISK 2 of VM 7 is \"fs\", not RBD"),
        ("tm/ceph/snap_create_live", "node1:/d/100/7/disk.2 1 7 100", "is \"fs\", not RBD"),
        ("tm/ceph/snap_revert.ssh", "node1:/d/100/7/disk.2 1 7 100", "is \"fs\", not RBD"),
        ("tm/ceph/cpds.ssh", "node1:/d/100/7/disk.0 one/one-9 3 7 101", "snapshot 3 can't become an image"),
        ("tm/ceph/ln.ssh", "fe:/d/1/abc node1:/d/100/7/disk.0 7 1", "argument 1: volume"),
        ("tm/ceph/mvds.ssh", "node1:/d/100/7/disk.0 /d/1/abc 7 1", "argument 2: volume"),
        ("tm/ceph/mv", "h1:/d/100/7 h2:/d/101/7 7 101", "moving a VM from /d/100/7 to /d/101/7 is not built"),
    ] {
        assert!(refused(name, argv, &facts).contains(said), "{name} {argv}: {}", refused(name, argv, &facts));
    }
    let clone = "fe:one/one-5 node1:/d/100/7/disk.0 7 101";
    facts.datastores.get_mut(&100).unwrap().ceph.format = Some("1".to_owned());
    assert!(refused("tm/ceph/clone", clone, &facts).starts_with("RBD_FORMAT of datastore 100 is \"1\""));
    facts.vm.as_mut().unwrap().disks[0].ceph.key = Some("AQBsecret==".to_owned());
    assert!(
        refused("tm/ceph/resize", "node1:/d/100/7/disk.0 2048 7 101", &facts)
            .starts_with("CEPH_KEY of DISK 0")
    );
    facts.vm.as_mut().unwrap().lcm_state = None;
    let failure = planned("tm/ceph/cpds", "node1:/d/100/7/disk.1 one/one-9 -1 7 101", &facts).unwrap_err();
    assert_eq!((failure.kind, failure.text.contains("LCM_STATE")), (Kind::Input, true));
}

/// A removal may take as long as the data are large; other requests are not held up by a cluster that does not answer.
#[test]
fn each_kind_of_work_has_its_time() {
    let settings = TmSettings::default();
    let of = |verb: &str, argv: &str| {
        let step = planned(&format!("tm/ceph/{verb}"), argv, &facts(7)).unwrap().steps.remove(0);
        (step.deadline, format!("{:?}", step.lane))
    };
    let (short, long) = (settings.short_deadline, settings.copy_deadline);
    let lane = |name: &str| name.to_owned();
    assert_eq!(of("clone", "fe:one/one-5 node1:/d/100/7/disk.0 7 101"), (short, lane("Short")));
    assert_eq!(of("delete", "node1:/d/100/7/disk.0 7 101"), (long, lane("Short")));
    assert_eq!(of("cpds", "node1:/d/100/7/disk.0 one/one-9 -1 7 101"), (long, lane("Long")));
}

proptest! {
    #[test]
    fn no_arguments_make_it_panic(
        verb in "(clone|ln|mv|mvds|cpds|delete|resize)(\\.ssh)?|mkimage|mkswap|snap_create|snap_create_live|snap_delete|snap_revert|premigrate|postmigrate|failmigrate",
        argv in proptest::collection::vec("(fe|node1)?:?(/d/[0-9]{1,3}/7/disk\\.[0-9]|one/one-[0-9])?|[0-9]{1,3}|\\PC{0,20}", 0..8),
    ) {
        let slot = slot(&format!("tm/ceph/{verb}"));
        let _ = needs(&slot, &argv);
        if let Ok(transfer) = steps(&slot, &argv, b"", &facts(7), &TmSettings::default()) {
            prop_assert!(needs(&slot, &argv).is_ok());
            for step in &transfer.steps {
                let text = serde_json::to_string(step).unwrap();
                prop_assert_eq!(step, &serde_json::from_str(&text).unwrap());
                // A call is what the worker reads.
                if let Work::Transfer { call, .. } = &step.work {
                    let read: Result<causeway_tm::host::Call, _> = serde_json::from_value::<causeway_tm::host::Call>(call.clone());
                    prop_assert_eq!(serde_json::to_value(read.unwrap()).unwrap(), Value::clone(call));
                }
            }
        }
    }
}
