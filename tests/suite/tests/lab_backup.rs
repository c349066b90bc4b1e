//! Backups of a guest that runs, on real parts: a guest that writes its disk in a known order is backed up whole and in
//! increments, while it writes and while it stands still, and after its power was off.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway_suite::lab::slots::Slots;
use causeway_suite::lab::{Lab, LabError, Standing};

#[path = "lab/newest.rs"]
mod newest;
#[path = "lab/writer.rs"]
mod writer;
use newest::newest;
use writer::{DATASTORE, GUEST, domain};

const HOST: &str = "h1";
/// Longest wait for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Disk 0 is a chain on an image, disk 1 plain bytes.
const LAYOUT: &str = "
set -eu
mkdir -p \"$1/disk.0.snap\" \"$1/../../1\"
cd \"$1\"
qemu-img create -q -f qcow2 ../../1/abc 16M
ln -s . disk.0.snap/disk.0.snap
qemu-img create -q -f qcow2 -F qcow2 -b /var/lib/one/datastores/1/abc disk.0.snap/0
ln -s disk.0.snap/0 disk.0
head -c 3000000 /dev/urandom >disk.1
truncate -s 4M disk.1
";

struct Bench<'a> {
    lab: &'a Lab,
    slots: Slots<'a>,
}

#[test]
fn a_guest_is_backed_up_while_it_runs() {
    let lab = Standing::start().unwrap();
    lab.run(&["one", HOST, "sh", "-c", LAYOUT, "sh", DATASTORE]).unwrap();
    lab.write(HOST, "/tmp/guest.xml", &domain(lab.directory(), "disk.1", "")).unwrap();
    lab.write("fe", "/var/lib/one/remotes/etc/vmm/kvm/kvmrc", "export VIRSH_TIMEOUT=5\n").unwrap();
    let bench = Bench { lab: &lab, slots: Slots::start(&lab).unwrap() };
    bench.begins();
    bench.is_backed_up_whole();
    bench.is_backed_up_in_increments();
    bench.is_left_to_others();
    bench.is_restored();
    bench.is_backed_up_within_limits();
    drop(bench);
    lab.stop().unwrap();
}

impl Bench<'_> {
    fn virsh(&self, words: &[&str]) -> String {
        self.lab.run(&[&["exec", HOST, "virsh", "-q"], words].concat()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.directory().join("datastores/0/7").join(name)
    }

    /// Starts the guest, and waits until it writes and its agent answers.
    fn begins(&self) {
        self.virsh(&["create", "/tmp/guest.xml"]);
        let start = Instant::now();
        let ping = ["exec", HOST, "virsh", "-q", "qemu-agent-command", GUEST, r#"{"execute":"guest-ping"}"#];
        while self.lab.run(&ping).is_err() {
            assert!(start.elapsed() < PATIENCE, "no agent");
        }
        self.writes();
    }

    /// Waits until the guest has written something. After its power was off it begins anew with its first block.
    fn writes(&self) {
        let (start, before) = (Instant::now(), self.seen());
        while self.seen() == before {
            assert!(start.elapsed() < PATIENCE, "the guest does not write");
        }
    }

    fn run(&self, verb: &str, config: &str, disks: &str) -> Result<(), LabError> {
        let dir = format!("{HOST}:{DATASTORE}");
        let slot = format!("tm/qcow2/{verb}");
        let words = [&slot as &str, &dir, disks, GUEST, "-", "7", "0"];
        self.slots.run_with(&words, &document(config)).map(drop)
    }

    /// A backup of the running guest that goes well, and is taken away by the test; the guest is on its own files.
    fn backs_up(&self, config: &str, disks: &str, to: &str) {
        self.run("prebackup_live", config, disks).unwrap();
        let script = format!("rm -rf ../{to} && cp -r backup ../{to}");
        self.lab.run(&["one", HOST, "sh", "-c", &format!("cd {DATASTORE} && {script}")]).unwrap();
        self.run("postbackup_live", config, disks).unwrap();
        assert!(!self.file("backup").exists());
        let xml = self.virsh(&["dumpxml", GUEST]);
        assert!(
            xml.contains("disk.0.snap/0'") && !xml.contains("overlay") && !xml.contains("<mirror"),
            "{xml}"
        );
    }

    /// What the guest sees on its disk now.
    fn seen(&self) -> Vec<u8> {
        let script = format!("cd {DATASTORE} && qemu-img convert -U -f qcow2 -O raw disk.0 ../seen");
        self.lab.script(HOST, &script, &[]).unwrap();
        fs::read(self.file("../seen")).unwrap()
    }

    /// The bytes of disk 0 in a chain of backups that were taken away.
    fn kept(&self, backups: &[&str]) -> Vec<u8> {
        let files: Vec<String> = (0..).zip(backups).map(|(n, to)| format!("{to}/disk.0.{n}")).collect();
        let mut script = format!("cd {DATASTORE}/.. && set -e\n");
        for pair in files.windows(2) {
            script.push_str(&format!(
                "qemu-img rebase -u -f qcow2 -F qcow2 -b \"$PWD/{}\" {}\n",
                pair[0], pair[1]
            ));
        }
        let last = files.last().unwrap();
        script.push_str(&format!("qemu-img check -q {last} && qemu-img convert -f qcow2 -O raw {last} kept"));
        self.lab.script(HOST, &script, &[]).unwrap();
        fs::read(self.file("../kept")).unwrap()
    }

    /// It has gone on to write.
    fn goes_on(&self, since: u64) -> u64 {
        let start = Instant::now();
        loop {
            self.virsh(&["suspend", GUEST]);
            let now = newest(&self.seen(), true);
            self.virsh(&["resume", GUEST]);
            assert!(now >= since, "the guest saw block {since}, and now {now}");
            if now > since {
                return now;
            }
            assert!(start.elapsed() < PATIENCE, "the guest does not write any more");
        }
    }

    fn is_backed_up_whole(&self) {
        for (freeze, torn) in [("NONE", true), ("AGENT", false), ("SUSPEND", true)] {
            let before = self.goes_on(1);
            let config = format!("<MODE>FULL</MODE><FS_FREEZE>{freeze}</FS_FREEZE>");
            self.backs_up(&config, "0:1", "whole");
            assert!(newest(&self.kept(&["whole"]), torn) >= before, "{freeze}");
            self.goes_on(before);
        }
        let raw = format!(
            "cd {DATASTORE}/.. && qemu-img convert -O raw whole/disk.1.0 1 && cmp 1 7/disk.1 && rm 1"
        );
        self.lab.script(HOST, &raw, &[]).unwrap();
        assert!(fs::read(self.file("../whole/vm.xml")).unwrap().ends_with(b"\n"));
    }

    fn is_backed_up_in_increments(&self) {
        let config = |last: i32, freeze: &str| {
            format!(
                "<MODE>INCREMENT</MODE><INCREMENT_MODE>CBT</INCREMENT_MODE><FS_FREEZE>{freeze}</FS_FREEZE>\
                 <LAST_INCREMENT_ID>{last}</LAST_INCREMENT_ID>"
            )
        };
        let names = ["i0", "i1", "i2", "i3", "i4"];
        let before = self.goes_on(1);
        self.backs_up(&config(-1, "AGENT"), "0", "i0");
        assert!(newest(&self.kept(&names[..1]), false) >= before);
        let before = self.goes_on(before);
        self.backs_up(&config(0, "AGENT"), "0", "i1");
        assert!(newest(&self.kept(&names[..2]), false) >= before);

        // One that did not arrive is made again.
        self.backs_up(&config(1, "NONE"), "0", "i2");
        let before = self.goes_on(before);
        self.virsh(&["suspend", GUEST]);
        self.backs_up(&config(1, "NONE"), "0", "i2");
        assert_eq!(self.kept(&names[..3]), self.seen(), "each byte of a guest that stands still");
        self.virsh(&["resume", GUEST]);

        // libvirt forgets the checkpoints of a guest that is off; the disk does not.
        self.goes_on(before);
        self.virsh(&["destroy", GUEST]);
        self.begins();
        self.virsh(&["suspend", GUEST]);
        self.backs_up(&config(2, "SUSPEND"), "0", "i3");
        assert_eq!(self.kept(&names[..4]), self.seen());
        self.virsh(&["resume", GUEST]);
        self.writes();
        self.virsh(&["destroy", GUEST]);
        self.run("prebackup", &config(3, "NONE"), "0").unwrap();
        let script = format!("cd {DATASTORE} && cp -r backup ../i4");
        self.lab.run(&["one", HOST, "sh", "-c", &script]).unwrap();
        self.run("postbackup", &config(3, "NONE"), "0").unwrap();
        assert_eq!(self.kept(&names), self.seen());
        self.begins();

        let missing = self.run("prebackup_live", &config(7, "NONE"), "0").unwrap_err().to_string();
        assert!(missing.contains("no bitmap one-7-7") && missing.contains("--reset"), "{missing}");
        // A new chain, while the old one's bitmaps are still in the disk.
        self.backs_up(&config(-1, "NONE"), "0", "i0");
        self.virsh(&["suspend", GUEST]);
        self.backs_up(&config(0, "NONE"), "0", "i1");
        assert_eq!(self.kept(&names[..2]), self.seen());
        self.virsh(&["resume", GUEST]);
    }

    /// A backup of somebody else's is neither joined nor ended.
    fn is_left_to_others(&self) {
        let xml = format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{DATASTORE}/other.sock'/><disks>\
             <disk name='vdb' type='file'><scratch file='{DATASTORE}/scratch'/></disk></disks></domainbackup>"
        );
        self.lab.write(HOST, "/tmp/other.xml", &xml).unwrap();
        let scratch = format!("qemu-img create -q -f qcow2 {DATASTORE}/scratch 4M");
        self.lab.run(&["one", HOST, "sh", "-c", &scratch]).unwrap();
        self.virsh(&["backup-begin", GUEST, "/tmp/other.xml", "--reuse-external"]);
        let config = "<MODE>FULL</MODE>";
        let refused = self.run("prebackup_live", config, "0").unwrap_err().to_string();
        assert!(refused.contains("runs already"), "{refused}");
        self.run("postbackup_live", config, "0").unwrap();
        assert!(self.virsh(&["domjobinfo", GUEST]).contains("Backup"));
        self.virsh(&["domjobabort", GUEST]);
        self.backs_up(config, "0:1", "whole");
    }

    /// From what a driver lists and fetches; the plain disk is plain again.
    fn is_restored(&self) {
        self.virsh(&["suspend", GUEST]);
        self.backs_up("<MODE>FULL</MODE>", "0:1", "kept-apart");
        let (before, plain) = (self.seen(), fs::read(self.file("disk.1")).unwrap());
        self.virsh(&["resume", GUEST]);
        self.writes();
        self.slots.know_vm(7, &document("<MODE>FULL</MODE>"));
        self.slots
            .know_image(9, "<IMAGE><ID>9</ID><NAME>it's</NAME><DATASTORE_ID>110</DATASTORE_ID></IMAGE>");
        self.slots.know_datastore(110, "<DATASTORE><ID>110</ID><DS_MAD>lab</DS_MAD></DATASTORE>");
        // An address with `..` is refused (of attackers), so the datastore is named without.
        let at = Path::new(DATASTORE).parent().unwrap().join("kept-apart");
        let at = at.display();
        let ls = format!(
            "#!/bin/sh\ngrep -q \"<IMAGE><ID>9</ID><NAME>it's<\" || exit 3\n\
             echo '{{\"0\": \"lab://{at}/disk.0.0\", \"1\": \"lab://{at}/disk.1.0\"}}'\n"
        );
        self.put_on_front_end("lab/ls", &ls);
        // One that fails half-way is no disk (W7).
        let fetch = "#!/bin/sh\nfor word; do case $word in lab://*) path=${word#lab://};; esac; done\n";
        self.put_on_front_end("downloader.sh", &format!("{fetch}head -c 100000 \"$path\"; exit 1\n"));
        let dir = format!("{HOST}:{DATASTORE}");
        let words = ["tm/qcow2/restore", &dir, "7", "9", "-1", "-1"];
        assert!(self.slots.run(&words).is_err());
        self.goes_on_as_it_was();
        self.put_on_front_end("downloader.sh", &format!("{fetch}cat \"$path\"\n"));
        let used = self.slots.run(&words).unwrap_err().to_string();
        assert!(used.contains("is open"), "{used}");
        self.goes_on_as_it_was();
        self.virsh(&["destroy", GUEST]);
        let spoilt = format!("cd {DATASTORE} && head -c 4000000 /dev/zero >disk.1");
        self.lab.run(&["one", HOST, "sh", "-c", &spoilt]).unwrap();
        self.slots.run(&words).unwrap();
        assert!(self.seen() == before && fs::read(self.file("disk.1")).unwrap() == plain);
        let left = self.lab.script(HOST, &format!("cd {DATASTORE} && ls -A . disk.0.snap"), &[]).unwrap();
        assert!(!left.contains("causeway-tmp"), "{left}");
        self.begins();
    }

    /// On a host without a systemd, which can keep some of the limits only.
    fn is_backed_up_within_limits(&self) {
        let limits = "<LAB_NICE>5</LAB_NICE><LAB_IONICE>7</LAB_IONICE><LAB_CPU_QUOTA>50</LAB_CPU_QUOTA>";
        let datastore =
            format!("<DATASTORE><ID>110</ID><DS_MAD>lab</DS_MAD><TEMPLATE>{limits}</TEMPLATE></DATASTORE>");
        self.slots.know_datastore(110, &datastore);
        let config = "<MODE>FULL</MODE><LAST_DATASTORE_ID>110</LAST_DATASTORE_ID>";
        self.backs_up(config, "0:1", "whole");
        self.virsh(&["destroy", GUEST]);
        self.run("prebackup", config, "0:1").unwrap();
        let script = format!("cd {DATASTORE} && rm -rf ../whole && cp -r backup ../whole");
        self.lab.run(&["one", HOST, "sh", "-c", &script]).unwrap();
        self.run("postbackup", config, "0:1").unwrap();
        assert_eq!(self.kept(&["whole"]), self.seen());
        self.slots.know_datastore(110, &datastore.replace(">50<", ">half<"));
        let wrong = self.run("prebackup", config, "0").unwrap_err().to_string();
        assert!(wrong.contains("LAB_CPU_QUOTA of datastore 110 is \"half\""), "{wrong}");
        let left = self.lab.script(HOST, &format!("ls -A {DATASTORE}"), &[]).unwrap();
        assert!(!left.contains("backup") && !left.contains("causeway-tmp"), "{left}");
    }

    fn goes_on_as_it_was(&self) {
        self.writes();
        let left = self.lab.script(HOST, &format!("ls -A {DATASTORE}"), &[]).unwrap();
        assert!(!left.contains("causeway-tmp"), "{left}");
    }

    fn put_on_front_end(&self, name: &str, script: &str) {
        let path = format!("/var/lib/one/remotes/datastore/{name}");
        let make = format!("mkdir -p $(dirname {path}) && cat >{path} && chmod 755 {path}");
        self.lab.run_with(&["one", "fe", "sh", "-c", &make], script).unwrap();
    }
}

/// The VM as oned sends it.
fn document(config: &str) -> String {
    format!(
        "<VM><ID>7</ID><NAME>writer</NAME><DEPLOY_ID>{GUEST}</DEPLOY_ID><STATE>3</STATE><LCM_STATE>69</LCM_STATE>\
         <TEMPLATE><DISK><DISK_ID>0</DISK_ID><CLONE>YES</CLONE><FORMAT>qcow2</FORMAT><TARGET>vda</TARGET>\
         <SOURCE>/var/lib/one//datastores/1/abc</SOURCE><TM_MAD>qcow2</TM_MAD><TYPE>FILE</TYPE></DISK><DISK>\
         <DISK_ID>1</DISK_ID><FORMAT>raw</FORMAT><TARGET>vdb</TARGET><TYPE>fs</TYPE></DISK></TEMPLATE>\
         <HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><HOSTNAME>{HOST}</HOSTNAME><DS_ID>0</DS_ID><VM_MAD>qemu</VM_MAD>\
         </HISTORY></HISTORY_RECORDS><BACKUPS><BACKUP_CONFIG>{config}</BACKUP_CONFIG></BACKUPS></VM>"
    )
}
