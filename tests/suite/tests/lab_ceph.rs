//! A guest whose disk is a volume, on real parts: it writes the volume in a known order while snapshots of it come and go,
//! an image and backups are made of it, and the guest moves to a host that has no directory in common with the first.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use causeway_suite::lab::cluster::Cluster;
use causeway_suite::lab::driver::Driver;
use causeway_suite::lab::slots::Slots;
use causeway_suite::lab::truth::{no_file_left, nothing_left, whereabouts};
use causeway_suite::lab::{HOSTS, Lab, Standing, guest};
use causeway_suite::request::Guest;
use causeway_suite::request::guest::{Datastore, Disk};

#[path = "lab/newest.rs"]
mod newest;
use newest::newest;

/// Longest wait for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

const IMAGE: &str = "one/one-5";
const DISK: &str = "one/one-5-7-0";
const SAVED: &str = "one/one-9";

/// `LCM_STATE` of a VM at work on (contract TM 4).
const PROLOG: u32 = 1;
const ACTIVE: u32 = 3;
const EPILOG: u32 = 11;
const HOTPLUG_SAVEAS: u32 = 26;
const DISK_SNAPSHOT_DELETE: u32 = 59;
const BACKUP: u32 = 69;

struct Bench<'a> {
    lab: &'a Lab,
    cluster: &'a Cluster<'a>,
    driver: Driver<'a>,
    slots: Slots<'a>,
    vm: Guest,
    /// Where it runs.
    host: &'static str,
}

#[test]
fn a_guest_on_a_volume_is_worked_on_and_moves_while_it_writes() {
    let lab = Standing::start().unwrap();
    // Hosts of a cluster need not share a directory.
    let apart = "umount /var/lib/one/datastores && chown oneadmin: /var/lib/one/datastores";
    for host in HOSTS {
        lab.script(host, apart, &[]).unwrap();
    }
    lab.write("fe", "/var/lib/one/remotes/etc/vmm/kvm/kvmrc", "export VIRSH_TIMEOUT=5\n").unwrap();
    let cluster = Cluster::start(&lab).unwrap();
    let (driver, slots) = (Driver::start(&lab).unwrap(), Slots::start(&lab).unwrap());
    let vm = virtual_machine(&lab, &cluster);
    let mut bench = Bench { lab: &lab, cluster: &cluster, driver, slots, vm, host: "h1" };
    bench.comes();
    bench.is_snapshot();
    bench.is_saved();
    bench.is_backed_up();
    bench.moves();
    bench.loses_a_snapshot();
    bench.goes();
    drop(bench);
    drop(cluster);
    lab.stop().unwrap();
}

fn virtual_machine(lab: &Lab, cluster: &Cluster<'_>) -> Guest {
    Guest {
        cmdline: "console=ttyS0 quiet panic=-1 mitigations=off write=/dev/vda,100".to_owned(),
        nic: None,
        disks: vec![Disk {
            tm_mad: "ceph".to_owned(),
            format: "raw".to_owned(),
            source: IMAGE.into(),
            target: "vda".to_owned(),
            size_mb: 16,
            datastore_id: 101,
            cluster: Some(cluster.access()),
        }],
        agent: true,
        datastore: Datastore {
            id: 100,
            base_path: "/var/lib/one/datastores/100".into(),
            tm_mad: "ceph".to_owned(),
            shared: true,
        },
        ..guest::virtual_machine(lab.directory(), 0, 0)
    }
}

impl Bench<'_> {
    fn virsh(&self, words: &[&str]) -> String {
        self.lab.run(&[&["exec", self.host, "virsh", "-q"], words].concat()).unwrap()
    }

    /// A slot of the VM, which oned has in this state.
    fn slot(&self, state: u32, config: &str, words: &[&str]) {
        let mut request = self.vm.cancel(self.host).unwrap();
        request.set("VM/LCM_STATE", &state.to_string()).unwrap();
        let vm = request.document.find("VM").unwrap().render();
        let config = format!("<BACKUP_CONFIG>{config}</BACKUP_CONFIG>");
        let vm = vm.replacen("<BACKUP_CONFIG/>", &config, 1);
        assert!(vm.contains(&config), "{vm}");
        self.slots.know_vm(self.vm.vm, &vm);
        self.slots.run_with(words, &vm).unwrap();
    }

    /// One that is about the disk.
    fn on_disk(&self, state: u32, verb: &str, words: &[&str]) {
        let disk = format!("{}:{}", self.host, self.vm.directory().join("disk.0").display());
        self.slot(state, "", &[&[&format!("tm/ceph/{verb}") as &str, &disk], words, &["7", "101"]].concat());
    }

    /// A file of the VM on a host.
    fn file(&self, host: &str, name: &str) -> PathBuf {
        self.lab.inside(host, &self.vm.directory().join(name).display().to_string()).unwrap()
    }

    fn bytes(&self, volume: &str) -> Vec<u8> {
        self.cluster.bytes(self.host, volume).unwrap()
    }

    /// What the guest sees on its disk now, or would after a loss of power.
    fn seen(&self) -> Vec<u8> {
        self.virsh(&["suspend", &self.vm.uuid]);
        let seen = self.bytes(DISK);
        self.virsh(&["resume", &self.vm.uuid]);
        seen
    }

    /// It has gone on to write, and nothing that it wrote is lost.
    fn goes_on(&self, since: u64) -> u64 {
        let start = Instant::now();
        loop {
            let now = newest(&self.seen(), true);
            assert!(now >= since, "the guest saw block {since}, and now {now}");
            if now > since {
                return now;
            }
            assert!(start.elapsed() < PATIENCE, "the guest does not write any more");
        }
    }

    fn is_only_on(&self, host: &str) {
        let seen = whereabouts(self.lab, &self.vm).unwrap();
        assert!(seen.is_only_on(host), "{seen:?}, not only on {host}");
    }

    fn snapshots(&self) -> Vec<String> {
        let list = self.cluster.rbd(self.host, &format!("snap ls {DISK}")).unwrap();
        list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
    }

    fn comes(&mut self) {
        guest::prepare(self.lab, &self.vm).unwrap();
        self.cluster.rbd(self.host, &format!("create --size 16 {IMAGE}")).unwrap();
        self.slots.know_hosts(&HOSTS);
        self.slots
            .know_image(19, "<IMAGE><ID>19</ID><DATASTORE_ID>110</DATASTORE_ID><FORMAT>raw</FORMAT></IMAGE>");
        self.slots.know_datastore(110, "<DATASTORE><ID>110</ID><DS_MAD>rsync</DS_MAD></DATASTORE>");
        let access = self.cluster.access();
        let access = format!("<CEPH_USER>{}</CEPH_USER><CEPH_KEY>{}</CEPH_KEY>", access.user, access.key);
        for id in [100, 101] {
            let document = format!(
                "<DATASTORE><ID>{id}</ID><TM_MAD>ceph</TM_MAD><TEMPLATE><POOL_NAME>one</POOL_NAME>{access}</TEMPLATE></DATASTORE>"
            );
            self.slots.know_datastore(id, &document);
        }
        let image = format!("fe:{IMAGE}");
        let disk = format!("{}:{}", self.host, self.vm.directory().join("disk.0").display());
        self.slot(PROLOG, "", &["tm/ceph/clone", &image, &disk, "7", "101"]);
        let deploy = self.vm.deploy(self.host).unwrap();
        assert_eq!(self.driver.succeed(&deploy).unwrap().payload, self.vm.uuid);
        self.is_only_on(self.host);
        let (start, ask) = (Instant::now(), r#"{"execute":"guest-ping"}"#);
        let ping = ["virsh", "-q", "qemu-agent-command", &self.vm.uuid, ask];
        while self.lab.run(&[&["exec", self.host], ping.as_slice()].concat()).is_err() {
            assert!(start.elapsed() < PATIENCE, "no agent");
        }
        self.goes_on(1);
    }

    /// `snap_create_live`: of one moment, at which the guest was at rest. Made again, it is there already.
    fn is_snapshot(&self) {
        for number in ["0", "1"] {
            let before = self.goes_on(1);
            self.on_disk(ACTIVE, "snap_create_live", &[number]);
            let snapshot = self.bytes(&format!("{DISK}@{number}"));
            assert!(newest(&snapshot, false) >= before);
            self.on_disk(ACTIVE, "snap_create_live", &[number]);
            assert!(snapshot == self.bytes(&format!("{DISK}@{number}")));
            self.goes_on(newest(&snapshot, false));
        }
        assert_eq!(self.snapshots(), ["0", "1"]);
    }

    /// `cpds` while the guest writes.
    fn is_saved(&self) {
        let before = self.goes_on(1);
        self.on_disk(HOTPLUG_SAVEAS, "cpds", &[SAVED, "-1"]);
        let saved = self.bytes(SAVED);
        assert!(newest(&saved, true) >= before);
        self.goes_on(before);
        assert!(saved == self.bytes(SAVED), "the guest does not write into the image");
        assert_eq!(self.snapshots(), ["0", "1"]);
    }

    fn is_backed_up(&self) {
        let before = self.goes_on(1);
        self.back_up("<MODE>FULL</MODE><FS_FREEZE>NONE</FS_FREEZE>", "whole");
        assert!(newest(&self.kept(&["whole"]), true) >= before);
        assert_eq!(self.snapshots(), ["0", "1"]);
        let before = self.goes_on(1);
        self.back_up(&increment(-1), "i0");
        assert!(newest(&self.kept(&["i0"]), false) >= before);
    }

    /// A backup of the running guest that goes well, and is taken away by the test.
    fn back_up(&self, config: &str, to: &str) {
        let at = format!("{}:{}", self.host, self.vm.directory().display());
        let slot = |verb: &str| {
            let verb = format!("tm/ceph/{verb}");
            self.slot(BACKUP, config, &[&verb, &at, "0", &self.vm.uuid, "-", "7", "100"]);
        };
        slot("prebackup_live");
        let backup = self.file(self.host, "backup");
        let kept = self.lab.directory().join("datastores").join(to);
        fs::create_dir_all(&kept).unwrap();
        for file in fs::read_dir(&backup).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), kept.join(file.file_name())).unwrap();
        }
        slot("postbackup_live");
        assert!(!backup.exists());
    }

    /// The bytes of the disk in a chain of backups that were taken away.
    fn kept(&self, backups: &[&str]) -> Vec<u8> {
        let files = || (0..).zip(backups).map(|(n, to)| format!("{to}/disk.0.{n}"));
        let mut script = "set -e; cd \"$1\"\n".to_owned();
        for (below, file) in files().zip(files().skip(1)) {
            script.push_str(&format!("qemu-img rebase -u -f qcow2 -F qcow2 -b \"$PWD/{below}\" {file}\n"));
        }
        let last = files().last().unwrap();
        script.push_str(&format!("qemu-img check -q {last} && qemu-img convert -f qcow2 -O raw {last} raw"));
        let at = self.lab.directory().join("datastores");
        self.lab.script("fe", &script, &["/var/lib/one/datastores"]).unwrap();
        fs::read(at.join("raw")).unwrap()
    }

    /// MIGRATE there and back. The VM's small files go with it; the chain of backups goes on.
    fn moves(&mut self) {
        let before = fs::read(self.file("h1", "disk.1")).unwrap();
        assert!(before.windows(7).any(|window| window == b"CONTEXT"));
        for (from, to, number) in [("h1", "h2", 1), ("h2", "h1", 2)] {
            let written = self.goes_on(1);
            self.driver.succeed(&self.vm.migrate(from, to).unwrap()).unwrap();
            self.is_only_on(to);
            nothing_left(self.lab, from).unwrap();
            self.host = to;
            let written = self.goes_on(written);
            assert!(newest(&self.bytes(&format!("{DISK}@1")), false) < written);
            self.back_up(&increment(number - 1), &format!("i{number}"));
            let chain: Vec<String> = (0..=number).map(|n| format!("i{n}")).collect();
            let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
            assert!(newest(&self.kept(&chain), false) >= written);
        }
        assert!(fs::read(self.file("h1", "disk.1")).unwrap() == before);
        assert!(!self.file("h2", "").exists());
    }

    /// `snap_delete` of a running guest.
    fn loses_a_snapshot(&self) {
        let (before, other) = (self.goes_on(1), self.bytes(&format!("{DISK}@1")));
        for _ in 0..2 {
            self.on_disk(DISK_SNAPSHOT_DELETE, "snap_delete", &["0"]);
            assert!(self.bytes(&format!("{DISK}@1")) == other);
            assert!(!self.snapshots().contains(&"0".to_owned()));
        }
        self.goes_on(before);
    }

    /// SHUTDOWN, then what an epilog does.
    fn goes(&mut self) {
        let before = self.goes_on(1);
        self.driver.succeed(&self.vm.shutdown(self.host).unwrap()).unwrap();
        assert!(whereabouts(self.lab, &self.vm).unwrap().is_nowhere());
        assert!(newest(&self.bytes(DISK), true) >= before);
        self.driver.finalize().unwrap();
        for _ in 0..2 {
            self.on_disk(EPILOG, "delete", &[]);
        }
        let dir = format!("{}:{}", self.host, self.vm.directory().display());
        for _ in 0..2 {
            self.slot(EPILOG, "", &["tm/ceph/delete", &dir, "7", "100"]);
        }
        assert_eq!(self.cluster.rbd(self.host, "ls one").unwrap(), "one-5\none-9\n");
        no_file_left(self.lab, &self.vm).unwrap();
        for host in HOSTS {
            nothing_left(self.lab, host).unwrap();
        }
    }
}

/// The next increment of a chain.
fn increment(last: i32) -> String {
    format!(
        "<MODE>INCREMENT</MODE><INCREMENT_MODE>CBT</INCREMENT_MODE><FS_FREEZE>AGENT</FS_FREEZE>\
         <LAST_INCREMENT_ID>{last}</LAST_INCREMENT_ID><INCREMENTAL_BACKUP_ID>19</INCREMENTAL_BACKUP_ID>"
    )
}
