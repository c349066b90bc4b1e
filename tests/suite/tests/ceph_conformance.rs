//! Every recorded transfer script of `ceph`, run for real by the transfer manager's process on a real cluster, VM by VM from
//! deploy to terminate: the volumes, their snapshots, protections and parents, and the files on the host after each script,
//! line for line as the contract says (TM 2.2 and 4).
//!
//! The list is `conformance/volumes.txt`. The recording was made with images in files; here `SOURCE` is a volume.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::path::{Path, PathBuf};

use causeway_testing::golden;

use causeway_suite::transfers::{Stage, TM, recorded};
use causeway_suite::volumes::{Cluster, files};

/// What the recording calls its images, and what they become with the image's number behind it.
const IMAGES: [&str; 2] =
    ["/var/lib/one/datastores/1/0123456789abcdef", "/var/lib/one/datastores/1/fedcba9876543210"];
const SIZE_MB: usize = 16;

/// What was made while the VM ran, before a script.
const BEFORE: &[(&str, &[&str])] = &[(
    "k-ceph-11-disk-snapshots-running",
    &[
        "SNAP_CREATE ceph node2:/var/lib/one//datastores/108/19/disk.0 0 19 109",
        "SNAP_CREATE ceph node2:/var/lib/one//datastores/108/19/disk.0 1 19 109",
    ],
)];

struct Run {
    stage: Stage,
    cluster: Cluster,
    /// What is added to the numbers of images: others may have theirs in the same pool.
    first: u32,
}

impl Run {
    fn volume(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for image in IMAGES {
            if let Some(at) = line.find(image) {
                let rest = line[at + image.len()..].to_owned();
                let digits = rest.split(' ').next().unwrap();
                let number = self.first + digits.parse::<u32>().unwrap();
                line = format!("{}one/one-{number}{}", &line[..at], &rest[digits.len()..]);
            }
        }
        // oned puts its own name before a source without a colon.
        line
    }

    /// `one-5000012-19-0` is `one-12-19-0` in the list.
    fn called(&self, name: &str) -> Option<String> {
        if name.starts_with("one-sys-") {
            return Some(name.to_owned());
        }
        let rest = name.strip_prefix("one-")?;
        let digits = rest.split(['-', '.']).next()?;
        let number = digits.parse::<u32>().ok()?.checked_sub(self.first).filter(|number| *number < 100)?;
        Some(format!("one-{number}{}", &rest[digits.len()..]))
    }

    /// What oned says of a VM of the recordings.
    fn tell(&self, vm: u32, local: bool) {
        let (image, clone) = if vm == 20 || vm == 23 { (13, "NO") } else { (12, "YES") };
        let (image, size) = (self.first + image, SIZE_MB);
        let kind = if local { "FILE" } else { "RBD" };
        let access = self.cluster.attributes();
        let disk = format!(
            "<DISK><DISK_ID>0</DISK_ID><TM_MAD>ceph</TM_MAD><TYPE>{kind}</TYPE><DISK_TYPE>{kind}</DISK_TYPE>\
             <FORMAT>raw</FORMAT><CLONE>{clone}</CLONE><SOURCE>one/one-{image}</SOURCE><SIZE>{size}</SIZE>\
             <ORIGINAL_SIZE>{size}</ORIGINAL_SIZE>{access}</DISK>"
        );
        let blank = |id: u32, kind: &str| {
            format!(
                "<DISK><DISK_ID>{id}</DISK_ID><TM_MAD>ceph</TM_MAD><TYPE>{kind}</TYPE><FORMAT>raw</FORMAT>\
                 <SIZE>32</SIZE>{access}</DISK>"
            )
        };
        let blanks = if vm == 21 { blank(1, "swap") + &blank(2, "fs") } else { String::new() };
        let system = if local { 104 } else { 108 };
        let document = format!(
            "<VM><ID>{vm}</ID><STATE>8</STATE><LCM_STATE>0</LCM_STATE><TEMPLATE>{disk}{blanks}</TEMPLATE>\
             <HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><HOSTNAME>node1</HOSTNAME><DS_ID>{system}</DS_ID></HISTORY>\
             </HISTORY_RECORDS></VM>"
        );
        self.stage.ear.tell("one.vm.info", vm, &document);
    }

    fn tree(&self) -> Vec<String> {
        let mut lines = self.cluster.tree(&|name| self.called(name));
        let root = self.stage.datastores("");
        lines.extend(files(Path::new(&root)));
        lines
    }
}

#[test]
fn every_recorded_script_leaves_the_volumes_that_the_contract_says() {
    let Some(cluster) = Cluster::given() else { return };
    let first = 5_000_000 + std::process::id() % 40_000 * 100;
    let run = Run { stage: Stage::new(), cluster, first };
    // Directories move between hosts by their own ssh.
    let settings = fs::read_to_string(run.stage.front_end.etc().join("causeway.toml")).unwrap();
    run.stage.front_end.configure_hosts(&settings).unwrap();
    // What is not built would be taken for somebody else's.
    fs::remove_dir_all(run.stage.front_end.var().join("remotes/tm/ceph")).unwrap();
    fs::create_dir_all(run.stage.front_end.var().join("remotes/tm/ceph")).unwrap();
    for id in [104, 108] {
        fs::create_dir_all(run.stage.datastores(&id.to_string())).unwrap();
    }
    for id in [104, 108, 109] {
        let access = if id == 104 { String::new() } else { run.cluster.attributes() };
        let datastore = format!("<DATASTORE><ID>{id}</ID><TEMPLATE>{access}</TEMPLATE></DATASTORE>");
        run.stage.ear.tell("one.datastore.info", id, &datastore);
    }
    run.stage.ear.tell("one.hostpool.info", u32::MAX, "<HOST_POOL></HOST_POOL>");
    for number in [12, 13] {
        run.cluster.volume(&format!("one/one-{}", first + number), SIZE_MB, b'a');
    }
    // Of a time when the image was not persistent.
    let base = format!("one/one-{}@snap", first + 13);
    run.cluster.rbd(&format!("snap create --no-progress {base}"));
    run.cluster.rbd(&format!("snap protect {base}"));
    let mut scripts = recorded();
    // Backups have datastores of their own, and tests: `tm/tests/ceph_backup.rs`.
    let ours = |line: &String| line.split(' ').nth(1) == Some("ceph") && !line.starts_with("RESTORE");
    scripts.iter_mut().for_each(|script| script.lines.retain(ours));
    scripts.retain(|script| !script.lines.is_empty());
    assert!(scripts.len() > 20, "{}", scripts.len());
    let mut oned = run.stage.driver(TM);
    let mut text = String::new();
    for script in &scripts {
        let local = script.name.contains("-on-ssh-");
        run.tell(script.vm, local);
        let system = if local { 104 } else { 108 };
        if !script.path.ends_with("prolog") {
            // As when it is deployed.
            let dir = PathBuf::from(run.stage.datastores(&format!("{system}/{}", script.vm)));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("vm.xml"), "<VM/>").unwrap();
        }
        text += &format!("{} {}\n", script.name, script.path);
        let before = BEFORE.iter().filter(|(name, _)| *name == script.name).flat_map(|(_, lines)| *lines);
        let before = before.map(|line| ("before", (*line).to_owned()));
        for (kind, line) in before.chain(script.lines.iter().map(|line| ("line", line.clone()))) {
            let sent = run.stage.front_end.localized(&run.volume(&line)) + "\n";
            let (status, reason) = run.stage.transfer(&mut oned, script.vm, &sent);
            text += &format!("  {kind} {}\n", line.trim_end());
            if status != "SUCCESS" {
                let reason =
                    run.stage.front_end.recorded_form(&reason).replace(&run.first.to_string(), "one-");
                text += &format!("    {status}: {reason}\n");
            }
        }
        text.extend(run.tree().into_iter().map(|line| line + "\n"));
    }
    oned.is_square().unwrap();
    oned.finalize().unwrap();
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/volumes.txt"), &text);
}
