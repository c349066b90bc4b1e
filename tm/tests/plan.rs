//! Plans of the recorded calls, compared with golden files; plans of calls that must be refused.

#![cfg(test)]

use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{VmDocument, decode};
use causeway_core::names::{DeployId, VmId};
use causeway_core::plan::{Input, OnFailure, Place, Plan, Slot, Work};
use causeway_testing::golden;
use causeway_tm::carry::Manner;
use causeway_tm::facts::{DatastoreFacts, DiskFacts, Facts, Format, VmFacts, VmNeed, lcm};
use causeway_tm::plan::{absent, reading};
use causeway_tm::{Source, TmSettings, Transfer, built, needs, steps};
use proptest::prelude::*;

fn slot(text: &str) -> Slot {
    text.parse().unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn disk(id: u32, format: Format) -> DiskFacts {
    DiskFacts {
        tm_mad: Some("qcow2".to_owned()),
        source: Some("/var/lib/one//datastores/1/abc".to_owned()),
        clone: true,
        target: Some(format!("vd{}", char::from(b'a' + u8::try_from(id).unwrap()))),
        format: Some(format),
        size_mb: Some(1024),
        original_size_mb: Some(1024),
        ..DiskFacts::new(id)
    }
}

/// What oned would say of a VM with three disks of that format that has not left its datastore.
fn facts(vm: u32, format: &Format, datastore: u32) -> Facts {
    let disks = (0..3).map(|id| disk(id, format.clone())).collect();
    let vm = VmFacts {
        lcm_state: Some(3),
        deploy_id: Some(DeployId::of_vm(VmId(vm))),
        disks,
        datastores: vec![datastore, datastore],
        ..VmFacts::new(VmId(vm))
    };
    Facts {
        vm: Some(vm),
        datastores: (0..200).map(|id| (id, DatastoreFacts::default())).collect(),
        ..Facts::default()
    }
}

fn render(title: &str, transfer: &Transfer) -> String {
    let plan = serde_json::json!({"action": title, "vm": 0, "steps": transfer.steps, "answer": "empty"});
    let plan: Plan = serde_json::from_value(plan).unwrap();
    let rendered = plan.render();
    let mut text = format!("{title}\n{}", rendered.split_once('\n').unwrap().1);
    for (name, source) in &transfer.inputs {
        let from = match source {
            Source::File(path) => path.to_string(),
            Source::Address(address) => address.to_string(),
            Source::Bytes(_) => "standard input".to_owned(),
        };
        text.push_str(&format!("  input {name} from {from}\n"));
    }
    text
}

/// The calls in a recording: the slot and the argument vector.
fn recorded(driver: &str) -> Vec<(Slot, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recorded/tm_{driver}.txt"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut calls = Vec::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("/var/lib/one/remotes/") {
            current = Some(slot(rest.split_whitespace().next().unwrap()));
        } else if let Some(argv) = line.trim_start().strip_prefix("argv") {
            calls.push((current.clone().unwrap(), serde_json::from_str(argv.trim()).unwrap()));
        }
    }
    calls
}

#[test]
fn recorded_calls_become_their_golden_steps() {
    for (driver, format) in [("qcow2", Format::Qcow2), ("shared", Format::Raw)] {
        let mut text = String::new();
        for (slot, argv) in recorded(driver) {
            // What a restore does is decided by what is in the backup: plan_restore.rs.
            if !built(&slot) || slot.verb() == "restore" {
                continue;
            }
            let vm = argv[argv.len() - 2].parse().unwrap();
            let datastore = argv[argv.len() - 1].parse().unwrap();
            let facts = facts(vm, &format, datastore);
            let transfer = steps(&slot, &argv, b"PFZNLz4=", &facts, &TmSettings::default()).unwrap();
            text.push_str(&render(&format!("{slot} {}", argv.join(" ")), &transfer));
        }
        let golden = format!("tests/golden/recorded_{driver}.txt");
        golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join(golden), &text);
    }
}

/// The slots of the release are listed in the recordings: every one is either built or named here.
#[test]
fn what_is_not_built_is_known() {
    let mut other: Vec<String> = Vec::new();
    for driver in ["qcow2", "shared"] {
        for (slot, _) in recorded(driver) {
            let name = slot.verb().to_owned();
            if !built(&slot) && !other.contains(&name) {
                other.push(name);
            }
        }
    }
    other.sort();
    let known = "monitor";
    for name in &other {
        assert!(known.split_whitespace().any(|word| word == name), "{name}");
    }
    assert!(absent(&slot("tm/ceph/monitor_ds")).unwrap().contains("ssh and local"));
    assert_eq!(absent(&slot("tm/ceph/monitor")), None);
    for text in [
        "tm/lvm/clone",
        "vmm/qcow2/clone",
        "tm/qcow2/clones",
        "tm/ssh/clone",
        "tm/ssh/premigrate",
        "vmm/ssh/mv",
    ] {
        assert!(!built(&slot(text)), "{text}");
    }
    // Some have a form of their own; every other suffix falls back (contract TM 1.3).
    for text in [
        "tm/qcow2/delete.ssh",
        "tm/qcow2/mv.ssh",
        "tm/shared/ln.ssh",
        "tm/shared/clone.other",
        "tm/qcow2/context.ssh",
        "tm/shared/premigrate",
    ] {
        assert!(built(&slot(text)), "{text}");
    }
}

#[test]
fn other_shapes_become_their_golden_steps() {
    let mut text = String::new();
    let mut add = |name: &str, argv: &str, facts: &Facts, settings: &TmSettings| {
        let transfer = steps(&slot(name), &words(argv), b"PFZNLz4=", facts, settings).unwrap();
        text.push_str(&render(&format!("{name} {argv}"), &transfer));
    };
    let plain = TmSettings::default();
    let mut grown = facts(7, &Format::Qcow2, 100);
    let vm = grown.vm.as_mut().unwrap();
    vm.disks[0].size_mb = Some(4096);
    vm.disks[1] = DiskFacts { standalone: true, sparse: false, size_mb: Some(2048), ..vm.disks[1].clone() };
    vm.disks[2].format = Some(Format::Other("vmdk".to_owned()));
    let options = TmSettings { qcow2_options: words("-o cluster_size=2M"), ..TmSettings::default() };
    add("tm/qcow2/clone", "fe:/d/1/abc h1:/d/100/7/disk.0 7 1", &grown, &options);
    add("tm/qcow2/clone", "fe:/d/1/abc h1:/d/100/7/disk.1 7 1", &grown, &plain);
    add("tm/shared/clone.other", "fe:/d/1/abc h1:/d/100/7/disk.2 7 1", &grown, &plain);
    add("tm/shared/ln", "fe:/d/1/abc h1:/d/100/7/disk.2 7 1", &grown, &plain);
    add("tm/shared/ln", "fe:/d/1/abc h1:/d/100/7/disk.0 7 1", &facts(7, &Format::Raw, 100), &plain);
    add("tm/shared/clone", "fe:/d/2/vmlinuz h1:/d/100/7/kernel 7 2", &facts(7, &Format::Raw, 100), &plain);
    add(
        "tm/shared/context",
        "/var/lib/one/vms/7/context.sh /a/init.sh /b/c:'my first script' /d/e:plain http://h:8/x/y.sh?z=1 h1:/d/100/7/disk.1 7 100",
        &Facts::default(),
        &plain,
    );

    let here = facts(7, &Format::Raw, 102);
    add("tm/qcow2/mv.ssh", "h1:/d/100/7 h2:/d/100/7 7 100", &here, &plain);
    add("tm/qcow2/mv.ssh", "h1:/d/100/7 h1:/d/102/7 7 102", &here, &plain);
    add("tm/qcow2/mv.ssh", "h1:/d/100/7/disk.0 h2:/d/100/7/disk.0 7 1", &here, &plain);
    add("tm/qcow2/mv", "h1:/d/100/7 h2:/d/102/7 7 102", &here, &plain);
    let careful = Manner { bytes_per_second: Some(50 << 20), idle: true, packed: false };
    let careful = TmSettings { carry: careful, ..TmSettings::default() };
    add("tm/shared/mv.ssh", "h1:/d/100/7 h2:/d/102/7 7 102", &here, &careful);
    // Where the source can't be asked, the VM's files are said to have moved, or not to have.
    for state in [60, 61] {
        let mut unknown = here.clone();
        unknown.vm.as_mut().unwrap().lcm_state = Some(state);
        add("tm/qcow2/mv.ssh", "h1:/d/100/7 h2:/d/100/7 7 100", &unknown, &plain);
    }

    for (driver, format) in
        [("qcow2", Format::Qcow2), ("shared", Format::Raw), ("shared", Format::Other("vmdk".into()))]
    {
        let facts = facts(7, &format, 100);
        add(&format!("tm/{driver}/ln.ssh"), "fe:/d/1/abc h1:/d/100/7/disk.0 7 1", &facts, &plain);
        add(&format!("tm/{driver}/mvds.ssh"), "h1:/d/100/7/disk.0 /d/1/abc 7 1", &facts, &plain);
    }

    // What oned asks of the system datastore's own transfer manager.
    add("tm/ssh/mv", "h1:/d/100/7 h2:/d/100/7 7 100", &here, &plain);
    add("tm/ssh/mv", "h1:/d/100/7/disk.0 h2:/d/100/7/disk.0 7 1", &here, &plain);
    add("tm/ssh/delete", "h1:/d/100/7/disk.1 7 100", &here, &plain);
    add("tm/ssh/delete", "h1:/d/100/7 7 100", &here, &plain);
    add("tm/ssh/mkimage", "64 raw h1:/d/100/7/disk.1 7 100", &here, &plain);
    add("tm/ssh/mkswap", "64 h1:/d/100/7/disk.1 7 100", &here, &plain);
    add("tm/ssh/context", "/a/context.sh h1:/d/100/7/disk.1 7 100", &here, &plain);

    let mut moved = facts(7, &Format::Qcow2, 102);
    let vm = moved.vm.as_mut().unwrap();
    vm.datastores = vec![90, 100, 102];
    vm.disks[1].tm_mad = Some("ceph".to_owned());
    vm.disks[2].tm_mad = None;
    vm.disks.push(DiskFacts { tm_mad: Some("vendor".to_owned()), ..disk(3, Format::Raw) });
    vm.disks.push(DiskFacts { tm_mad: Some("ceph".to_owned()), ..disk(4, Format::Raw) });
    for verb in ["premigrate", "postmigrate", "failmigrate"] {
        add(&format!("tm/qcow2/{verb}"), "h1 h2 /d/102/7 7 102", &moved, &plain);
        add(&format!("tm/qcow2/{verb}"), "h1 h2 /d/102/7 7 102 ceph", &moved, &plain);
        add(&format!("tm/qcow2/{verb}"), "h1 h1 /d/102/7 7 102", &moved, &plain);
    }
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/shapes.txt"), &text);
}

/// A running guest's disk: what is read first, and the turns of worker and hypervisor.
#[test]
fn disks_of_a_running_guest_become_their_golden_steps() {
    let mut text = String::new();
    let plain = TmSettings::default();
    let mut add = |title: &str, name: &str, argv: &str, facts: &Facts| {
        let read = reading(&slot(name), &words(argv), facts, &plain).unwrap();
        text.push_str(&format!("# {title}\n"));
        if let Some(step) = read.as_ref().and_then(|read| read.steps.first()) {
            text.push_str(&format!("reads {}\n", causeway_core::plan::describe(&step.work)));
        }
        let transfer = steps(&slot(name), &words(argv), b"", facts, &plain).unwrap();
        text.push_str(&render(&format!("{name} {argv}"), &transfer));
    };
    let with = |format: Format, state: u32, persistent: bool| {
        let mut facts = facts(7, &format, 100);
        let vm = facts.vm.as_mut().unwrap();
        vm.lcm_state = Some(state);
        vm.disks[0].clone = !persistent;
        facts
    };
    let disk = "h1:/d/100/7/disk.0";
    for persistent in [false, true] {
        for format in [Format::Qcow2, Format::Raw] {
            let facts = with(format.clone(), 25, persistent);
            let title = format!("{format:?}, persistent: {persistent}");
            add(&title, "tm/qcow2/snap_create_live", &format!("{disk} 1 7 1"), &facts);
            let facts = with(format, lcm::HOTPLUG_SAVEAS, persistent);
            add(&title, "tm/qcow2/cpds", &format!("{disk} /d/1/saved -1 7 1"), &facts);
        }
    }
    add("a snapshot", "tm/qcow2/cpds", &format!("{disk} /d/1/saved 0 7 1"), &with(Format::Qcow2, 26, false));
    add(
        "on a host's own disk",
        "tm/qcow2/snap_create_live.ssh",
        &format!("{disk} 1 7 1"),
        &with(Format::Qcow2, 25, true),
    );
    let chain = r#"{"directory":"/d/100/7/disk.0.snap","active":3,"moved":{},
        "layers":{"0":{"file":"/d/1/abc"},"1":{"layer":0},"2":{"layer":1},"3":{"layer":2}}}"#;
    let leaf = chain.replace(r#""3":{"layer":2}"#, r#""3":{"layer":1}"#);
    let merged = chain
        .replace(r#""moved":{}"#, r#""moved":{"1":0}"#)
        .replace(r#""1":{"layer":0},"2":{"layer":1}"#, r#""2":{"layer":0}"#);
    for (title, chain, id) in [
        ("the active layer stands on it", chain, 2),
        ("a frozen layer stands on it", chain, 1),
        ("it stands on the image", chain, 0),
        ("nothing stands on it", leaf.as_str(), 2),
        ("it is in another layer", merged.as_str(), 1),
        ("it is gone", merged.as_str(), 0),
    ] {
        let mut facts = with(Format::Qcow2, lcm::DISK_SNAPSHOT_DELETE, false);
        facts.take_reading(chain).unwrap();
        add(title, "tm/qcow2/snap_delete", &format!("{disk} {id} 7 1"), &facts);
    }
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/live.txt"), &text);

    let mut facts = with(Format::Qcow2, lcm::DISK_SNAPSHOT_DELETE, false);
    let delete = format!("{disk} 1 7 1");
    assert!(refused("tm/qcow2/snap_delete", &delete, &facts).text.starts_with("the layers of disk.0"));
    facts.take_reading(&leaf).unwrap();
    assert!(refused("tm/qcow2/snap_delete", &delete, &facts).text.contains("power the VM off first"));
    assert!(facts.take_reading("{}").is_err());
    let vm = facts.vm.as_mut().unwrap();
    vm.disks[0].target = Some("vd a".to_owned());
    let live = format!("{disk} 1 7 1");
    assert!(refused("tm/qcow2/snap_create_live", &live, &facts).text.contains("DISK 0 TARGET of VM 7"));
    facts.vm.as_mut().unwrap().vm_mad = Some("lxc".to_owned());
    assert!(refused("tm/qcow2/snap_create_live", &live, &facts).text.contains("VM_MAD of VM 7 is \"lxc\""));
}

#[test]
fn what_a_call_needs_is_asked_for_and_no_more() {
    let need = |name: &str, argv: &str| {
        let needs = needs(&slot(name), &words(argv)).unwrap();
        (needs.vm, needs.datastores.into_iter().collect::<Vec<u32>>())
    };
    let vm = VmId(7);
    let image = "fe:/d/1/abc h1:/d/100/7/disk.0 7 103";
    assert_eq!(need("tm/qcow2/clone", image), (Some(VmNeed::Document(vm)), vec![100, 103]));
    assert_eq!(need("tm/qcow2/ln", image), (Some(VmNeed::Document(vm)), vec![100, 103]));
    assert_eq!(need("tm/qcow2/clone", "fe:/d/2/k h1:/d/100/7/kernel 7 2"), (None, vec![2, 100]));
    assert_eq!(need("tm/qcow2/delete", "h1:/d/100/7/disk.0 7 103"), (None, vec![]));
    assert_eq!(
        need("tm/qcow2/mv.ssh", "h1:/d/100/7 h2:/d/100/7 7 100"),
        (Some(VmNeed::Document(vm)), vec![])
    );
    assert_eq!(need("tm/qcow2/mv.ssh", "h1:/d/100/7 h1:/d/102/7 7 102"), (None, vec![]));
    let back = "h1:/d/100/7/disk.0 /d/1/abc 7 1";
    assert_eq!(need("tm/qcow2/mvds.ssh", back), (Some(VmNeed::Document(vm)), vec![]));
    assert_eq!(need("tm/qcow2/mvds", back), (None, vec![]));
    assert_eq!(need("tm/qcow2/mv", "h1:/d/100/7 h2:/d/102/7 7 102"), (None, vec![]));
    assert_eq!(need("tm/qcow2/context", "/a h1:/d/100/7/disk.1 7 100"), (None, vec![]));
    let migrate = "h1 h2 /d/100/7 7 100";
    assert_eq!(need("tm/qcow2/premigrate", migrate), (Some(VmNeed::Document(vm)), vec![]));
    assert_eq!(need("tm/qcow2/premigrate", "h1 h1 /d/100/7 7 100"), (None, vec![]));
    assert_eq!(need("tm/qcow2/premigrate", "h1 h2 /d/100/7 7 100 ceph"), (None, vec![]));
    assert_eq!(need("tm/qcow2/postmigrate", migrate), (Some(VmNeed::History(vm)), vec![]));
    assert_eq!(need("tm/qcow2/failmigrate", migrate), (Some(VmNeed::Document(vm)), vec![]));
}

/// What the recorded document says is enough for the calls that come with it.
#[test]
fn the_recorded_document_serves_a_premigrate() {
    let bytes = include_bytes!("recorded/vm.base64.txt");
    let document = VmDocument::parse(&decode(bytes).unwrap()).unwrap();
    let vm = VmFacts::of(&document).unwrap();
    assert_eq!((vm.id, vm.datastores.as_slice()), (VmId(0), [102].as_slice()));
    assert_eq!(vm.format(0), Ok(&Format::Qcow2));
    let facts = Facts { vm: Some(vm), ..Facts::default() };
    let argv = words("node1 node2 /var/lib/one//datastores/102/0 0 102");
    let plain = TmSettings::default();
    let transfer = steps(&slot("tm/qcow2/premigrate"), &argv, bytes, &facts, &plain).unwrap();
    assert_eq!(transfer.steps.len(), 1);
    // Its history has the last record only: W4 would remove a directory now.
    let failure =
        Failure::from(steps(&slot("tm/qcow2/postmigrate"), &argv, bytes, &facts, &plain).unwrap_err());
    assert_eq!(failure.text, "the history record before the last is not in the document of VM 0");
}

/// W53: the stock script does not look at how the others ended, and a later one looks at the first disk only.
#[test]
fn every_transfer_manager_of_a_vm_prepares_its_move() {
    for driver in ["qcow2", "ceph"] {
        let mut facts = facts(7, &Format::Raw, 100);
        let disks = &mut facts.vm.as_mut().unwrap().disks;
        for (disk, mad) in disks.iter_mut().zip([driver, "vendor", "other"]) {
            disk.tm_mad = Some(mad.to_owned());
        }
        let argv = words("h1 h2 /d/100/7 7 100");
        for (verb, ignored) in [("premigrate", false), ("postmigrate", true), ("failmigrate", true)] {
            let slot = slot(&format!("tm/{driver}/{verb}"));
            let transfer = steps(&slot, &argv, b"", &facts, &TmSettings::default()).unwrap();
            let others = transfer.steps.iter().filter_map(|step| match &step.work {
                Work::Slot { slot, .. } => {
                    Some((slot.driver().to_owned(), step.on_failure == OnFailure::Warn))
                }
                _ => None,
            });
            let all = ["vendor", "other"].map(|name| (name.to_owned(), ignored));
            assert_eq!(others.collect::<Vec<_>>(), all, "{slot}");
        }
    }
}

fn refused(name: &str, argv: &str, facts: &Facts) -> Failure {
    steps(&slot(name), &words(argv), b"", facts, &TmSettings::default()).unwrap_err().into()
}

#[test]
fn wrong_arguments_are_named() {
    let facts = facts(7, &Format::Raw, 100);
    for (name, argv, said) in [
        ("tm/qcow2/monitor_ds", "", "tm/qcow2/monitor_ds is not built"),
        (
            "tm/qcow2/clone",
            "fe:/d/1/abc h1:/d/100/7/disk.0 7",
            "takes HOST:SOURCE HOST:FILE VM DATASTORE, not 3",
        ),
        ("tm/qcow2/clone", "/d/1/abc h1:/d/100/7/disk.0 7 1", "argument 1: place \"/d/1/abc\""),
        ("tm/qcow2/clone", "fe:/d/x/abc h1:/d/100/7/disk.0 7 1", "argument 1: image \"/d/x/abc\""),
        ("tm/qcow2/clone", "fe:/d/1/abc h1:/d/100/../disk.0 7 1", "argument 2: path \"/d/100/../disk.0\""),
        ("tm/qcow2/clone", "fe:/d/1/abc -oX:/d/100/7/disk.0 7 1", "argument 2: host name \"-oX\""),
        ("tm/qcow2/clone", "fe:/d/1/abc h1:/d/100/8/disk.0 7 1", "/d/100/8 is not a path of VM 7"),
        ("tm/qcow2/clone", "fe:/d/1/abc h1:/d/100/7/disk.0 7 -1", "argument 4: datastore \"-1\""),
        ("tm/qcow2/delete", "h1:/var/lib/one/datastores 7 100", "argument 1"),
        ("tm/qcow2/delete", "h1:/d/100 7 100", "argument 1"),
        ("tm/qcow2/delete", "h1:/d/7 7 100", "argument 1"),
        ("tm/qcow2/delete", "h1:/d/100/7/vm.xml 7 100", "argument 1: path to delete"),
        ("tm/qcow2/delete", "h1:/d/100/7/.. 7 100", "argument 1"),
        ("tm/qcow2/delete", "h1:/d/100/70 7 100", "/d/100/70 is not a path of VM 7"),
        ("tm/qcow2/delete", "h1:/d/100/7/7 7 100", "/d/100/7/7 is not in datastore 100"),
        ("tm/qcow2/context", "h1:/d/100/7/disk.1 7 100", "takes CONTEXT.SH [FILE...] HOST:FILE VM DATASTORE"),
        ("tm/qcow2/context", "/a ftp://x/y h1:/d/100/7/disk.1 7 100", "argument 2: address \"ftp://x/y\""),
        ("tm/qcow2/context", "/a http://x/%2e%2e h1:/d/100/7/disk.1 7 100", "argument 2: file name \"..\""),
        ("tm/qcow2/context", "a h1:/d/100/7/disk.1 7 100", "argument 1: path \"a\""),
        ("tm/qcow2/context", "/a /b:'c h1:/d/100/7/disk.1 7 100", "argument 2: context file"),
        ("tm/qcow2/context", "/a /b:'../c' h1:/d/100/7/disk.1 7 100", "argument 2: file name \"../c\""),
        ("tm/qcow2/premigrate", "h1 h2 /d/100/7 7", "takes FROM TO DIRECTORY VM DATASTORE [TM], not 4"),
        ("tm/qcow2/premigrate", "h1 h2 /d/100/7 7 100 a b", "not 7 arguments"),
        ("tm/qcow2/premigrate", "h1 h2 /d/100/7 7 101", "/d/100/7 is not in datastore 101"),
        ("tm/qcow2/premigrate", "h1 h$2 /d/100/7 7 100", "argument 2: host name"),
    ] {
        let failure = refused(name, argv, &facts);
        assert!(failure.text.contains(said), "{argv}: {}", failure.text);
        assert!(matches!(failure.kind, Kind::Input | Kind::NotBuilt), "{failure:?}");
    }
}

#[test]
fn a_disk_that_is_not_in_the_document_is_an_error() {
    let mut facts = facts(7, &Format::Raw, 100);
    let clone = "fe:/d/1/abc h1:/d/100/7/disk.5 7 1";
    assert_eq!(refused("tm/qcow2/clone", clone, &facts).text, "DISK 5 is not in the document of VM 7");
    let clone = "fe:/d/1/abc h1:/d/100/7/disk.0 7 1";
    facts.vm.as_mut().unwrap().disks[0].format = None;
    assert!(refused("tm/qcow2/clone", clone, &facts).text.starts_with("DISK 0 FORMAT is not in"));
    facts.vm.as_mut().unwrap().id = VmId(8);
    assert_eq!(refused("tm/qcow2/ln", clone, &facts).text, "VM is not in the document of VM 7");
    facts.datastores.remove(&100);
    assert!(refused("tm/qcow2/ln", clone, &facts).text.contains("datastore 100"));
}

#[test]
fn a_history_that_does_not_fit_removes_nothing() {
    let mut facts = facts(7, &Format::Raw, 100);
    for history in [vec![], vec![100], vec![100, 101]] {
        facts.vm.as_mut().unwrap().datastores = history;
        let failure = refused("tm/shared/postmigrate", "h1 h2 /d/100/7 7 100", &facts);
        assert_eq!(failure.kind, Kind::Input, "{}", failure.text);
    }
}

#[test]
fn steps_of_several_slots_can_share_a_plan() {
    let facts = facts(7, &Format::Raw, 100);
    let argv = words("/a h1:/d/100/7/disk.1 7 100");
    let transfer = steps(&slot("tm/shared/context"), &argv, b"", &facts, &TmSettings::default()).unwrap();
    let transfer = transfer.prefixed("3/");
    assert_eq!(transfer.steps[0].name, "3/context:disk.1");
    let Work::Transfer { inputs, .. } = &transfer.steps[0].work else { panic!() };
    assert_eq!(inputs.as_slice(), ["3/tm:context:0"]);
    assert!(transfer.inputs.contains_key("3/tm:context:0"));
}

/// The VM travels to the other transfer managers byte for byte.
#[test]
fn standard_input_is_passed_on_as_it_is() {
    let mut facts = facts(7, &Format::Raw, 100);
    facts.vm.as_mut().unwrap().disks[0].tm_mad = Some("ceph".to_owned());
    let argv = words("h1 h2 /d/100/7 7 100");
    let transfer =
        steps(&slot("tm/qcow2/premigrate"), &argv, b"PFZN\xff", &facts, &TmSettings::default()).unwrap();
    assert_eq!(transfer.inputs["tm:vm"], Source::Bytes(Input::new(*b"PFZN\xff")));
    assert_eq!(transfer.steps[1].place, Place::FrontEnd);
}

proptest! {
    #[test]
    fn no_arguments_make_it_panic(
        verb in "clone|ln|ln\\.ssh|mv|mv\\.ssh|mvds|mvds\\.ssh|delete|mkimage|mkswap|resize|snap_create|snap_revert|context|premigrate|postmigrate|failmigrate",
        argv in proptest::collection::vec("(fe|h1)?:?(/d/[0-9]{1,3}/[0-9]/disk\\.[0-9])?|[0-9]{1,3}|\\PC{0,20}", 0..8),
    ) {
        let facts = facts(7, &Format::Qcow2, 100);
        let slot = slot(&format!("tm/qcow2/{verb}"));
        let _ = needs(&slot, &argv);
        if let Ok(transfer) = steps(&slot, &argv, b"", &facts, &TmSettings::default()) {
            // What can be planned was asked for by its needs, and can be written down and read back.
            prop_assert!(needs(&slot, &argv).is_ok());
            for step in &transfer.steps {
                let text = serde_json::to_string(step).unwrap();
                prop_assert_eq!(step, &serde_json::from_str(&text).unwrap());
            }
        }
    }
}
