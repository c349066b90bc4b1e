//! A front-end with oned's ear for tests of the transfer manager's process, and what they see of its processes and files.

#![expect(clippy::unwrap_used, reason = "only tests call this, and what goes wrong here ends them")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::front_end::{Ear, Event, FrontEnd};
use crate::oned::{Nest, Oned};
use crate::programs::program;
use crate::recorded::data;

/// oned's `TM_MAD` as it is shipped (contract TM 1.1).
pub const TM: &str =
    "-t 15 -d dummy,lvm,shared,fs_lvm,fs_lvm_ssh,qcow2,ssh,local,ceph,dev,iscsi_libvirt,netapp,purefa";

/// A front-end, and oned's ear for look-ups.
pub struct Stage {
    /// Directories, hosts and slots.
    pub front_end: FrontEnd,
    /// What the look-ups of our programs are answered by.
    pub ear: Ear,
}

impl Stage {
    /// Sets it up, with the password that oned's own users have.
    #[expect(clippy::new_without_default, reason = "it starts an sshd: nobody's default")]
    pub fn new() -> Stage {
        let front_end = FrontEnd::new().unwrap();
        let auth = front_end.var().join(".one/one_auth");
        fs::create_dir_all(auth.parent().unwrap()).unwrap();
        fs::write(auth, "oneadmin:secret\n").unwrap();
        Stage { front_end, ear: Ear::open().unwrap() }
    }

    /// How oned starts our process, with these words of `ARGUMENTS`.
    pub fn nest(&self, arguments: &str) -> Nest {
        let nest = self.front_end.driver("causeway-tm", arguments).unwrap();
        nest.env("ONE_XMLRPC", self.ear.endpoint())
    }

    /// Our process, started so and greeted.
    pub fn driver(&self, arguments: &str) -> Oned {
        let mut oned = Oned::start(&self.nest(arguments)).unwrap().with_patience(Duration::from_secs(60));
        oned.init().unwrap();
        oned
    }

    /// Writes a script as oned does; its path.
    pub fn script(&self, vm: u32, name: &str, text: &str) -> PathBuf {
        let path = self.front_end.var().join(format!("vms/{vm}/{name}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Has a script run, and does not wait.
    pub fn send(&self, oned: &mut Oned, vm: u32, text: &str) {
        let path = self.script(vm, "transfer.0.prolog", text);
        oned.send_payload("TRANSFER", vm, path.to_str().unwrap()).unwrap();
    }

    /// Has a script run; the reply's status and payload.
    pub fn transfer(&self, oned: &mut Oned, vm: u32, text: &str) -> (String, String) {
        self.send(oned, vm, text);
        let reply = oned.reply("TRANSFER", vm).unwrap();
        (reply.status, reply.payload)
    }

    /// The slots of somebody else that were called, in order.
    pub fn slots(&self) -> Vec<String> {
        self.front_end.calls().unwrap().into_iter().map(|call| call.slot).collect()
    }

    /// `DSLOC` and a path below it.
    pub fn datastores(&self, below: &str) -> String {
        self.front_end.var().join("datastores").join(below).display().to_string()
    }

    /// Puts our wrappers into the slots of `qcow2` that are built, as `install.sh` does.
    pub fn our_qcow2(&self) {
        for verb in ["clone", "ln", "delete", "context"] {
            let text = format!(
                "#!/bin/sh\nexec {} slot tm/qcow2/{verb} \"$@\"\n",
                program("causeway-tm").unwrap().display()
            );
            put(&self.front_end.var().join("remotes/tm/qcow2").join(verb), &text);
        }
    }

    /// Tells oned's ear of VM 7 with a disk 0 of that format, in this LCM state, and of the two datastores.
    pub fn vm7(&self, format: &str, state: u32) {
        let vm = format!(
            "<VM><ID>7</ID><STATE>3</STATE><LCM_STATE>{state}</LCM_STATE><TEMPLATE><DISK><DISK_ID>0</DISK_ID>\
             <FORMAT>{format}</FORMAT><SIZE>32</SIZE><ORIGINAL_SIZE>16</ORIGINAL_SIZE></DISK></TEMPLATE>\
             <HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><DS_ID>100</DS_ID></HISTORY></HISTORY_RECORDS></VM>"
        );
        self.ear.tell("one.vm.info", 7, &vm);
        for id in [1, 100] {
            let datastore = format!("<DATASTORE><ID>{id}</ID><TEMPLATE/></DATASTORE>");
            self.ear.tell("one.datastore.info", id, &datastore);
        }
    }

    /// An image of 16 MiB in datastore 1.
    pub fn image(&self, name: &str, format: &str) -> String {
        let path = self.datastores(&format!("1/{name}"));
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        tool("qemu-img", &["create", "-q", "-f", format, &path, "16M"]);
        tool("qemu-io", &["-f", format, "-c", "write -q -P 0xa5 1M 1M", &path]);
        path
    }

    /// Runs a slot by itself, as our wrapper does.
    pub fn slot(&self, words: &[&str]) -> Output {
        let mut command = Command::new(program("causeway-tm").unwrap());
        command.arg("slot").args(words).stdin(Stdio::null());
        command.env("ONE_LOCATION", self.front_end.location()).env("ONE_XMLRPC", self.ear.endpoint());
        command.output().unwrap()
    }
}

/// Writes an executable, and the directories above it.
pub fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a tool that must succeed; its standard output.
pub fn tool(program: &str, args: &[&str]) -> String {
    let run = Command::new(program).args(args).env("LC_ALL", "C").output().unwrap();
    assert!(run.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

/// What [`Stage::transfer`] gives of a script that went well.
pub fn ok() -> (String, String) {
    ("SUCCESS".to_owned(), "-".to_owned())
}

/// Waits until that slot has been called.
pub fn begun(front_end: &FrontEnd, slot: &str) {
    for _ in 0..1200 {
        if front_end.events().unwrap().contains(&Event::Begin(slot.to_owned())) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{slot} was not called within a minute");
}

/// Whether the process whose number is in that file still runs.
pub fn runs(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap();
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

/// Waits until it does not.
pub fn ends(pid_file: &Path) {
    for _ in 0..200 {
        if !runs(pid_file) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("process {} still runs", fs::read_to_string(pid_file).unwrap());
}

/// A recorded script.
pub struct Recorded {
    /// The scenario and the script.
    pub name: String,
    /// Whose it is.
    pub vm: u32,
    /// Where oned had it.
    pub path: String,
    /// Slots that failed.
    pub fails: Vec<String>,
    /// Its lines.
    pub lines: Vec<String>,
    /// The reply's status.
    pub status: String,
}

/// Every recorded script, in order.
pub fn recorded() -> Vec<Recorded> {
    let text = fs::read_to_string(data().join("transfers/scripts.txt")).unwrap();
    let mut scripts: Vec<Recorded> = Vec::new();
    for line in text.lines() {
        let Some(of_script) = line.strip_prefix("  ") else {
            let mut words = line.split_whitespace();
            let mut word = || words.next().unwrap();
            scripts.push(Recorded {
                name: word().to_owned(),
                vm: word().parse().unwrap(),
                path: word().to_owned(),
                fails: Vec::new(),
                lines: Vec::new(),
                status: String::new(),
            });
            continue;
        };
        let script = scripts.last_mut().unwrap();
        match of_script.split_once(' ').unwrap() {
            ("|", text) => script.lines.push(text.to_owned()),
            ("fails", slot) => script.fails.push(slot.to_owned()),
            (status, _) => script.status = status.to_owned(),
        }
    }
    scripts
}
