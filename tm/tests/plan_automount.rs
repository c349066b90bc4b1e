//! Plans for datastores that are mounted by whoever uses them (`NFS_AUTO_ENABLE`), and what is refused before there is one.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{decode, encode};
use causeway_core::names::VmId;
use causeway_core::plan::{Plan, Slot, Step};
use causeway_testing::golden;
use causeway_tm::datastore::{Front, Hosts, Request};
use causeway_tm::facts::{BackupSource, DatastoreFacts, DiskFacts, Facts, Format, Lookup, VmFacts, gather};
use causeway_tm::{TmSettings, needs, steps};

/// oned, with a VM of one disk and some datastores that are mounted so.
struct Oned {
    format: Format,
    mounted: &'static [u32],
}

impl Lookup for Oned {
    fn vm(&self, id: VmId) -> Result<VmFacts, Failure> {
        let disk = DiskFacts {
            source: Some("/d/1/abc".to_owned()),
            clone: true,
            format: Some(self.format.clone()),
            size_mb: Some(8),
            original_size_mb: Some(8),
            ..DiskFacts::new(0)
        };
        Ok(VmFacts { disks: vec![disk], ..VmFacts::new(id) })
    }
    fn datastore(&self, id: u32) -> Result<DatastoreFacts, Failure> {
        let attributes =
            if self.mounted.contains(&id) { attributes(&format!("/export/{id}")) } else { String::new() };
        let text = format!("<DATASTORE><ID>{id}</ID><TEMPLATE>{attributes}</TEMPLATE></DATASTORE>");
        Ok(DatastoreFacts::parse(id, text.as_bytes())?)
    }
    fn hosts(&self) -> Result<Hosts, Failure> {
        Err(Failure::new(Kind::Bug, "not needed"))
    }
    fn automounted(&self) -> Result<BTreeSet<u32>, Failure> {
        assert!(!self.mounted.is_empty(), "the pool is asked for where nothing is mounted");
        Ok(self.mounted.iter().copied().collect())
    }
    fn backup(&self, _: u32) -> Result<BackupSource, Failure> {
        Err(Failure::new(Kind::Bug, "not needed"))
    }
}

fn attributes(path: &str) -> String {
    format!(
        "<NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE><NFS_AUTO_HOST>nas</NFS_AUTO_HOST><NFS_AUTO_PATH>{path}</NFS_AUTO_PATH>\
         <NFS_AUTO_OPTS>vers=4.2,hard</NFS_AUTO_OPTS>"
    )
}

fn planned(slot: &str, argv: &str, oned: &Oned) -> Result<Vec<Step>, Failure> {
    let slot: Slot = slot.parse().unwrap();
    let argv: Vec<String> = argv.split(' ').map(str::to_owned).collect();
    let facts: Facts = gather(&needs(&slot, &argv)?, oned)?;
    Ok(steps(&slot, &argv, b"", &facts, &TmSettings::default())?.steps)
}

fn render(title: &str, steps: &[Step]) -> String {
    let plan = serde_json::json!({"action": title, "vm": 0, "steps": steps, "answer": "empty"});
    let plan: Plan = serde_json::from_value(plan).unwrap();
    let rendered = plan.render();
    format!("{title}\n{}", rendered.split_once('\n').unwrap().1)
}

/// A recorded action of datastore 101, 102 or 103 that is mounted so, as its steps.
fn datastore(slot: &str, id: &str, document: &str, edits: &[(&str, &str)]) -> Result<Vec<Step>, Failure> {
    let path = format!("tests/recorded/{document}.base64.txt");
    let mut text = String::from_utf8(decode(&std::fs::read(path).unwrap()).unwrap()).unwrap();
    let at = if slot.starts_with("tm/") { "<RESTRICTED_DIRS>" } else { "<CLONE_TARGET>" };
    let mounted = format!("{}{at}", attributes("/images"));
    for (from, to) in [(at, mounted.as_str())].iter().chain(edits) {
        assert!(text.contains(from), "{from} is not in {text}");
        text = text.replacen(from, to, 1);
    }
    let slot: Slot = slot.parse().unwrap();
    let request = Request::read(&slot, &[id.to_owned()], encode(text.as_bytes()).as_bytes())?;
    let stat = slot.verb() == "stat";
    assert_eq!(request.mounts(), !stat);
    let request = if stat { request } else { request.among(BTreeSet::from([101])) };
    let front = Front {
        downloader: "/var/lib/one/remotes/datastore/downloader.sh".into(),
        restricted: vec!["/var/lib/one".into()],
        ssh: vec!["/usr/bin/ssh".to_owned()],
        receiver: "exec receiver".to_owned(),
        sender: "exec sender".to_owned(),
        now: 1_369_353_600,
    };
    Ok(request.steps(request.bridges().first(), None, &front, &TmSettings::default())?.steps)
}

#[test]
fn what_must_be_mounted_is_in_the_plan() {
    let mut text = String::new();
    let disk = "fe:/d/1/abc h1:/d/100/7/disk.0 7 1";
    for (slot, argv, format, mounted) in [
        ("tm/qcow2/clone", disk, Format::Qcow2, &[1, 100, 105][..]),
        ("tm/shared/clone", disk, Format::Raw, &[100]),
        ("tm/shared/ln", disk, Format::Raw, &[1]),
        ("tm/qcow2/clone", "fe:/d/2/abc h1:/d/100/7/kernel 7 2", Format::Raw, &[2]),
        ("tm/qcow2/clone", disk, Format::Qcow2, &[]),
    ] {
        let steps = planned(slot, argv, &Oned { format, mounted }).unwrap();
        text.push_str(&render(&format!("{slot} {argv}, mounted: {mounted:?}"), &steps));
    }
    let stored = ("datastores/1/", "datastores/103/");
    let bridged = ("<CLONE_TARGET>", "<BRIDGE_LIST>h1</BRIDGE_LIST><CLONE_TARGET>");
    for (slot, id, document, edits) in [
        ("datastore/fs/mkfs", "2", "datastore_fs_mkfs", &[][..]),
        ("datastore/fs/rm", "34", "datastore_fs_rm", &[stored]),
        ("datastore/fs/cp", "0", "datastore_fs_cp", &[]),
        // The bytes come from the front-end; the mount is where they go.
        ("datastore/fs/cp", "0", "datastore_fs_cp", &[bridged]),
        ("datastore/fs/clone", "34", "datastore_fs_clone", &[bridged]),
        ("datastore/fs/stat", "0", "datastore_fs_stat", &[]),
        ("tm/qcow2/monitor", "102", "tm_qcow2_monitor", &[]),
    ] {
        let steps =
            datastore(slot, id, document, edits).unwrap_or_else(|failure| panic!("{slot}: {failure}"));
        let bridged = if edits.contains(&bridged) { ", BRIDGE_LIST h1" } else { "" };
        text.push_str(&render(&format!("{slot} {id}{bridged}"), &steps));
    }
    golden::compare(Path::new("tests/golden/automount.txt"), &text);
}

#[test]
fn a_mount_has_its_time_besides_the_calls_own() {
    let disk = "fe:/d/1/abc h1:/d/100/7/disk.0 7 1";
    let deadline = |mounted| {
        let oned = Oned { format: Format::Qcow2, mounted };
        planned("tm/qcow2/clone", disk, &oned).unwrap()[0].deadline
    };
    // Two mounts, and what is to be unmounted.
    assert_eq!(deadline(&[1, 100]) - deadline(&[]), 3 * causeway_tm::MOUNT_LIMIT);
}

/// As stock, whose forms for a host's own disk mount nothing.
#[test]
fn where_stock_mounts_nothing_it_is_refused_by_name() {
    for slot in ["tm/shared/clone.ssh", "tm/qcow2/ln.ssh"] {
        for mounted in [&[1][..], &[100]] {
            let mounted: &'static [u32] = if mounted == [1] { &[1] } else { &[100] };
            let oned = Oned { format: Format::Qcow2, mounted };
            let failure = planned(slot, "fe:/d/1/abc h1:/d/100/7/disk.0 7 1", &oned).unwrap_err();
            assert_eq!(failure.kind, Kind::NotBuilt);
            let says =
                format!("datastore {} has NFS_AUTO_ENABLE, and this action mounts nothing", mounted[0]);
            assert!(
                failure.text.contains(&says) && failure.text.ends_with("set NFS_AUTO_ENABLE to NO"),
                "{failure}"
            );
        }
    }
}

#[test]
fn attributes_of_a_wrong_form_are_refused_before_anything_is_done() {
    let evil = |attribute: &'static str, value: &str| {
        let path = "tests/recorded/datastore_fs_mkfs.base64.txt";
        let text = String::from_utf8(decode(&std::fs::read(path).unwrap()).unwrap()).unwrap();
        let good = attributes("/images");
        let from = format!("<{attribute}>");
        let (before, rest) = good.split_once(&from).unwrap();
        let after = rest.split_once("</").unwrap().1;
        let attributes = format!("{before}{from}<![CDATA[{value}]]></{after}");
        let text = text.replacen("<CLONE_TARGET>", &format!("{attributes}<CLONE_TARGET>"), 1);
        let slot: Slot = "datastore/fs/mkfs".parse().unwrap();
        let refused = Request::read(&slot, &["2".to_owned()], encode(text.as_bytes()).as_bytes());
        Failure::from(refused.expect_err(value))
    };
    for (attribute, value) in [
        ("NFS_AUTO_HOST", "nas; id"),
        ("NFS_AUTO_HOST", "--bind"),
        ("NFS_AUTO_HOST", "nas\nx:/etc /etc nfs rw 0 0"),
        ("NFS_AUTO_PATH", "images"),
        ("NFS_AUTO_PATH", "/a\n/dev/sda / ext4"),
        ("NFS_AUTO_PATH", "/../etc"),
        ("NFS_AUTO_OPTS", "hard,helper=/tmp/x"),
        ("NFS_AUTO_OPTS", "hard 0 0"),
        ("NFS_AUTO_OPTS", "bind"),
        ("NFS_AUTO_OPTS", "$(id)"),
    ] {
        let failure = evil(attribute, value);
        assert_eq!(failure.kind, Kind::Input);
        assert!(failure.text.starts_with(&format!("{attribute} of datastore ")), "{failure}");
        assert!(!failure.text.contains('\n'), "{failure}");
    }
}
