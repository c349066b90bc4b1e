//! The disks of a guest that runs, on real parts: a guest that writes one in a known order, while overlays are put over
//! it, layers are committed and pulled, and copies are made; and a guest that rests, whose resident is killed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, DiskName, DiskPath};
use causeway_core::plan::{CopyFormat, DiskOrder, Quiesce};
use causeway_core::reach::wire::{Done, Effect};
use causeway_suite::lab::points::Fault;
use causeway_suite::lab::resident::Resident;
use causeway_suite::lab::slots::Slots;
use causeway_suite::lab::strike::{Outage, mend, strike};
use causeway_suite::lab::{Lab, Standing, guest};

#[path = "lab/newest.rs"]
mod newest;
#[path = "lab/writer.rs"]
mod writer;
use newest::newest;
use writer::{DATASTORE, GUEST, domain};

const HOST: &str = "h1";
/// Longest wait for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// The chain as our drivers and the stock ones lay it out (contract TM 2.2): names below are relative, by way of a link
/// to the directory in itself. Files 1 to 4 wait for their snapshots.
const LAYOUT: &str = "
set -eu
mkdir -p \"$1/disk.0.snap\"
cd \"$1/disk.0.snap\"
ln -sfn . disk.0.snap
qemu-img create -q -f qcow2 0 16M
for number in 1 2 3 4; do
  qemu-img create -q -f qcow2 -F qcow2 -b disk.0.snap/$((number - 1)) $number
done
qemu-img create -q -f raw ../other 1M
truncate -s 16M ../copy
qemu-img create -q -f qcow2 ../copy.qcow2 16M
";

struct Bench<'a> {
    lab: &'a Lab,
    resident: Resident,
    id: DeployId,
}

fn path(name: &str) -> DiskPath {
    format!("{DATASTORE}/{name}").parse().unwrap()
}

fn snap(number: u32) -> DiskPath {
    path(&format!("disk.0.snap/{number}"))
}

fn vda() -> DiskName {
    "vda".parse().unwrap()
}

const REST: Quiesce = Quiesce { agent_seconds: 5, or_suspend: true };

fn overlay(number: u32) -> DiskOrder {
    DiskOrder::Snapshot { disk: vda(), overlay: snap(number), quiesce: Some(REST) }
}

fn copy(name: &str, format: CopyFormat, speed: Option<u64>) -> DiskOrder {
    DiskOrder::Copy { disk: vda(), to: path(name), format, quiesce: Some(REST), speed }
}

fn commit(top: u32, base: u32, active: bool) -> DiskOrder {
    let (top, base) = (snap(top), snap(base));
    DiskOrder::Commit { disk: vda(), top, base, active, relative: !active, speed: None }
}

fn freeze(seconds: u32) -> DiskOrder {
    DiskOrder::Freeze { quiesce: REST, seconds }
}

const THAW: DiskOrder = DiskOrder::Thaw { agent_seconds: 5 };

#[test]
fn a_disk_is_worked_on_while_its_guest_writes() {
    let lab = Standing::start().unwrap();
    lab.run(&["one", HOST, "sh", "-c", LAYOUT, "sh", DATASTORE]).unwrap();
    let serial =
        format!("<serial type='file'><source path='{DATASTORE}/console'/><target port='0'/></serial>");
    lab.write(HOST, "/tmp/guest.xml", &domain(lab.directory(), "other", &serial)).unwrap();
    lab.run(&["exec", HOST, "virsh", "-q", "create", "/tmp/guest.xml"]).unwrap();
    let resident = Resident::start(&lab, HOST).unwrap();
    let mut bench = Bench { lab: &lab, resident, id: GUEST.parse().unwrap() };
    bench.writes_with_an_agent();
    bench.is_snapshot();
    bench.is_copied();
    bench.is_taken_up();
    bench.is_committed();
    bench.is_let_go_whatever_dies();
    bench.has_no_agent_any_more();
    bench.is_pulled_and_left();
    bench.has_the_transfer_manager_at_work();
    drop(bench);
    lab.stop().unwrap();
}

impl Bench<'_> {
    fn ask(&mut self, order: &DiskOrder) -> Result<Done, Failure> {
        self.resident.ask(&self.id, order).unwrap()
    }

    fn made(&mut self, order: &DiskOrder) -> Done {
        let done = self.ask(order).unwrap();
        assert_eq!(done.effect, Effect::Made, "{order}");
        done
    }

    fn virsh(&self, words: &[&str]) -> String {
        self.lab.run(&[&["exec", HOST, "virsh", "-q"], words].concat()).unwrap()
    }

    /// The chain's files, the one that is written first, by the last parts of their names.
    fn chain(&self) -> Vec<String> {
        let xml = self.virsh(&["dumpxml", GUEST]);
        let disk = xml.split("<target dev='vda'").next().unwrap_or_default();
        let files = disk.split("<source file='").skip(1).filter_map(|rest| rest.split('\'').next());
        files.filter_map(|file| file.rsplit('/').next()).map(str::to_owned).collect()
    }

    fn is_running(&self) -> bool {
        self.virsh(&["domstate", GUEST]).trim() == "running"
    }

    fn is_frozen(&self) -> bool {
        self.virsh(&["qemu-agent-command", GUEST, r#"{"execute":"guest-fsfreeze-status"}"#])
            .contains("frozen")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.directory().join("datastores/0/7").join(name)
    }

    /// What the guest sees on its disk now, or would after a loss of power.
    fn seen(&self, active: u32) -> u64 {
        self.virsh(&["suspend", GUEST]);
        let file = format!("{DATASTORE}/disk.0.snap/{active}");
        let raw = format!("{DATASTORE}/seen");
        let words = ["exec", HOST, "qemu-img", "convert", "-U", "-O", "raw", &file, &raw];
        self.lab.run(&words).unwrap();
        self.virsh(&["resume", GUEST]);
        newest(&fs::read(self.file("seen")).unwrap(), true)
    }

    /// It has gone on to write, and nothing that it wrote is lost.
    fn goes_on(&self, active: u32, since: u64) -> u64 {
        let start = Instant::now();
        loop {
            let now = self.seen(active);
            assert!(now >= since, "the guest saw block {since}, and now {now}");
            if now > since {
                return now;
            }
            assert!(start.elapsed() < PATIENCE, "the guest does not write any more");
        }
    }

    fn writes_with_an_agent(&mut self) {
        let start = Instant::now();
        while self.made(&freeze(60)).output != "frozen" {
            assert!(start.elapsed() < PATIENCE, "no agent");
            self.made(&THAW);
            sleep(Duration::from_millis(300));
        }
        assert!(self.is_frozen());
        self.made(&THAW);
        assert!(!self.is_frozen());
        let late = self.ask(&THAW).unwrap_err();
        assert!(late.text.contains("over before its work"), "{late}");
    }

    fn is_snapshot(&mut self) {
        for number in [1, 2] {
            let before = self.goes_on(number - 1, 1);
            self.made(&overlay(number));
            assert_eq!(self.ask(&overlay(number)).unwrap().effect, Effect::Already);
            assert!(self.is_running() && !self.is_frozen());
            self.goes_on(number, before);
        }
        assert_eq!(self.chain(), ["2", "1", "0"]);
    }

    /// Each copy is the disk at one moment, and of whole blocks: the guest was at rest.
    fn is_copied(&mut self) {
        let before = self.goes_on(2, 1);
        self.made(&copy("copy", CopyFormat::Raw, None));
        assert!(newest(&fs::read(self.file("copy")).unwrap(), false) >= before);
        self.made(&copy("copy.qcow2", CopyFormat::Qcow2, None));
        let script = "qemu-img check -q copy.qcow2 && qemu-img convert -O raw copy.qcow2 whole";
        self.lab.script(HOST, &format!("cd {DATASTORE} && {script}"), &[]).unwrap();
        assert!(newest(&fs::read(self.file("whole")).unwrap(), false) > before);
        assert!(self.is_running() && !self.is_frozen());

        let lines = self.resident.lines.len();
        let slow = copy("copy", CopyFormat::Raw, Some(2 << 20));
        let request = self.resident.send(&self.id, &slow).unwrap();
        self.resident.await_line("copy of vda: ").unwrap();
        self.resident.cancel(&request).unwrap();
        assert_eq!(self.resident.end(&request).unwrap().unwrap_err().kind, Kind::Cancelled);
        assert_eq!(self.virsh(&["blockjob", GUEST, "vda"]).trim(), "", "no job is left");
        assert_eq!(self.chain(), ["2", "1", "0"]);
        assert!(self.resident.lines[lines].contains(" %, "), "{:?}", self.resident.lines);
        self.goes_on(2, before);
    }

    /// The resident is killed in the middle of a job, and so is libvirtd: the job is neither begun anew nor given up.
    fn is_taken_up(&mut self) {
        let before = self.goes_on(2, 1);
        let slow = copy("copy", CopyFormat::Raw, Some(12 << 20));
        self.resident.send(&self.id, &slow).unwrap();
        self.resident.await_line("copy of vda: ").unwrap();
        self.lose_resident(true);
        self.made(&slow);
        assert!(newest(&fs::read(self.file("copy")).unwrap(), false) > before);

        let before = self.goes_on(2, before);
        let request = self.resident.send(&self.id, &slow).unwrap();
        self.resident.await_line("copy of vda: ").unwrap();
        let fault = Fault::Libvirtd(HOST.to_owned());
        strike(self.lab, &guest::virtual_machine(self.lab.directory(), 0, 0), &fault).unwrap();
        let outage = Outage { libvirtd: Duration::from_secs(1), link: Duration::ZERO };
        mend(self.lab, &fault, outage).unwrap();
        self.resident.end(&request).unwrap().unwrap();
        assert!(newest(&fs::read(self.file("copy")).unwrap(), false) > before);
        assert!(self.is_running() && !self.is_frozen());
        assert_eq!(self.chain(), ["2", "1", "0"]);
    }

    fn is_committed(&mut self) {
        let before = self.goes_on(2, 1);
        let wrong = self.ask(&commit(2, 1, false)).unwrap_err();
        assert!(wrong.text.contains("is not between above"), "{wrong}");
        self.made(&commit(1, 0, false));
        assert_eq!(self.chain(), ["2", "0"]);
        let info = format!("qemu-img info -U {DATASTORE}/disk.0.snap/2");
        let info = self.lab.script(HOST, &info, &[]).unwrap();
        assert!(info.contains("backing file: disk.0.snap/"), "{info}");
        assert_eq!(self.ask(&commit(1, 0, false)).unwrap().effect, Effect::Already);
        self.goes_on(2, before);
    }

    /// The session ends, the resident is killed, the time is over: the guest goes on each time.
    fn is_let_go_whatever_dies(&mut self) {
        for kill in [false, true] {
            assert_eq!(self.made(&freeze(600)).output, "frozen");
            assert!(self.is_frozen());
            self.lose_resident(kill);
            let start = Instant::now();
            while self.is_frozen() {
                assert!(start.elapsed() < PATIENCE, "nobody thaws the guest");
            }
        }
        assert_eq!(self.made(&freeze(1)).output, "frozen");
        let start = Instant::now();
        while self.is_frozen() {
            assert!(start.elapsed() < PATIENCE, "nobody thaws the guest");
        }
        assert!(self.ask(&THAW).unwrap_err().text.contains("over before its work"));
    }

    /// The old one goes, a new one comes.
    fn lose_resident(&mut self, kill: bool) {
        if kill {
            self.resident.kill(self.lab).unwrap();
        }
        let fresh = Resident::start(self.lab, HOST).unwrap();
        std::mem::replace(&mut self.resident, fresh).hang_up();
    }

    fn has_no_agent_any_more(&mut self) {
        let before = self.goes_on(2, 1);
        // It is mute at first, and may have heard what it does not answer.
        self.virsh(&["qemu-agent-command", GUEST, r#"{"execute":"guest-test-close"}"#]);
        let quiesce = Quiesce { agent_seconds: 1, ..REST };
        for lost in [false, true] {
            assert_eq!(self.made(&DiskOrder::Freeze { quiesce, seconds: 600 }).output, "suspended");
            assert!(!self.is_running());
            if !lost {
                self.made(&DiskOrder::Thaw { agent_seconds: 1 });
                assert!(self.is_running());
            }
        }
        self.lose_resident(true);
        let start = Instant::now();
        while !self.is_running() {
            assert!(start.elapsed() < PATIENCE, "nobody resumes the guest");
        }
        self.made(&overlay(3));
        assert!(self.is_running());
        assert_eq!(self.chain(), ["3", "2", "0"]);
        self.made(&copy("copy", CopyFormat::Raw, None));
        assert!(newest(&fs::read(self.file("copy")).unwrap(), true) >= before);
        assert!(self.is_running());
        self.goes_on(3, before);
    }

    fn is_pulled_and_left(&mut self) {
        let before = self.goes_on(3, 1);
        let pull = |base| DiskOrder::Pull { disk: vda(), base, relative: true, speed: None };
        self.made(&pull(Some(snap(0))));
        assert_eq!(self.chain(), ["3", "0"]);
        let before = self.goes_on(3, before);
        self.made(&commit(3, 0, true));
        assert_eq!(self.chain(), ["0"]);
        assert_eq!(self.ask(&commit(3, 0, true)).unwrap().effect, Effect::Already);
        let before = self.goes_on(0, before);
        assert_eq!(self.ask(&pull(None)).unwrap().effect, Effect::Already);
        self.goes_on(0, before);
    }

    /// The slots of the transfer manager, on a disk that leads to its first layer and has had no snapshot yet.
    fn has_the_transfer_manager_at_work(&mut self) {
        let script = "rm disk.0.snap/[1-4] && ln -sfn disk.0.snap/0 disk.0 && mkdir -p ../../1";
        let script = format!("cd {DATASTORE} && {script}");
        self.lab.run(&["one", HOST, "sh", "-c", &script]).unwrap();
        // The guest's agent is mute by now.
        self.lab.write("fe", "/var/lib/one/remotes/etc/vmm/kvm/kvmrc", "export VIRSH_TIMEOUT=1\n").unwrap();
        let slots = Slots::start(self.lab).unwrap();
        let disk = format!("{HOST}:{DATASTORE}/disk.0");
        let run = |state: u32, slot: &str, words: &[&str]| {
            slots.know_vm(7, &document(state));
            slots.run(&[&[&format!("tm/qcow2/{slot}") as &str, &disk], words, &["7", "1"]].concat()).unwrap()
        };
        for id in [0, 1] {
            let before = self.goes_on(id, 1);
            let number = id.to_string();
            run(ACTIVE, "snap_create_live", &[&number]);
            // A caller that did not hear of it asks again.
            run(ACTIVE, "snap_create_live", &[&number]);
            self.goes_on(id + 1, before);
        }
        assert_eq!(self.chain(), ["2", "1", "0"]);
        let before = self.goes_on(2, 1);
        run(HOTPLUG_SAVEAS, "cpds", &["/var/lib/one/datastores/1/saved", "-1"]);
        let script = "qemu-img check -q saved && qemu-img convert -O raw saved ../0/7/whole";
        self.lab.script(HOST, &format!("cd {DATASTORE}/../../1 && {script}"), &[]).unwrap();
        assert!(newest(&fs::read(self.file("whole")).unwrap(), true) >= before);

        // Snapshot 1 goes where snapshot 0 was, and from there into what the guest writes.
        for (id, left) in [("0", ["2", "0"].as_slice()), ("1", &["2"])] {
            let before = self.goes_on(2, before);
            run(DISK_SNAPSHOT_DELETE, "snap_delete", &[id]);
            assert_eq!(self.chain(), left);
            run(DISK_SNAPSHOT_DELETE, "snap_delete", &[id]);
            assert_eq!(self.chain(), left);
            self.goes_on(2, before);
        }
        let left = self.lab.script(HOST, &format!("cd {DATASTORE}/disk.0.snap && echo *"), &[]).unwrap();
        assert_eq!(left.trim(), "2 disk.0.snap");
    }
}

/// `LCM_STATE` of a running VM, and of one whose disk is worked on (contract TM 4).
const ACTIVE: u32 = 3;
const HOTPLUG_SAVEAS: u32 = 26;
const DISK_SNAPSHOT_DELETE: u32 = 59;

/// The VM as oned has it.
fn document(state: u32) -> String {
    format!(
        "<VM><ID>7</ID><NAME>writer</NAME><DEPLOY_ID>{GUEST}</DEPLOY_ID><STATE>3</STATE><LCM_STATE>{state}</LCM_STATE>
        <TEMPLATE><DISK><DISK_ID>0</DISK_ID><CLONE>YES</CLONE><FORMAT>qcow2</FORMAT><TARGET>vda</TARGET>
        <SOURCE>/var/lib/one//datastores/1/abc</SOURCE><TM_MAD>qcow2</TM_MAD></DISK></TEMPLATE>
        <HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><HOSTNAME>{HOST}</HOSTNAME><DS_ID>0</DS_ID><VM_MAD>qemu</VM_MAD></HISTORY>
        </HISTORY_RECORDS></VM>"
    )
}
