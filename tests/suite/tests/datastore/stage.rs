//! A front-end with our wrappers in the slots of the datastores, and the documents that oned would send.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use causeway_suite::front_end::{Ear, FrontEnd};
use causeway_suite::programs::program;

pub const SECRET: &str = "hush-hush-7d1f";

/// A front-end with our wrappers in the slots of the datastore, and oned's ear.
pub struct Stage {
    pub front_end: FrontEnd,
    pub ear: Ear,
}

impl Stage {
    pub fn new() -> Stage {
        let front_end = FrontEnd::new().unwrap();
        let var = front_end.var();
        fs::create_dir_all(var.join(".one")).unwrap();
        fs::write(var.join(".one/one_auth"), "oneadmin:secret\n").unwrap();
        for id in [1, 100] {
            fs::create_dir_all(var.join(format!("datastores/{id}"))).unwrap();
        }
        fs::create_dir_all(front_end.root().join("uploads")).unwrap();
        let slots = [
            "cp",
            "clone",
            "rm",
            "mkfs",
            "stat",
            "monitor",
            "snap_delete",
            "snap_revert",
            "snap_flatten",
            "export",
        ];
        let slots =
            ["fs", "ceph"].map(|store| slots.map(|verb| format!("datastore/{store}/{verb}"))).concat();
        for slot in slots.iter().map(String::as_str).chain(["tm/qcow2/monitor"]) {
            let text =
                format!("#!/bin/sh\nexec {} slot {slot} \"$@\"\n", program("causeway-tm").unwrap().display());
            put(&var.join("remotes").join(slot), &text);
        }
        Stage { front_end, ear: Ear::open().unwrap() }
    }

    pub fn command(&self, slot: &str, id: &str) -> Command {
        let mut command = Command::new(self.front_end.var().join("remotes").join(slot));
        command.arg(id).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("ONE_LOCATION", self.front_end.location()).env("ONE_XMLRPC", self.ear.endpoint());
        // As that process has it, with its home where oned's files are.
        command.env("HOME", self.front_end.var()).env("PRIORITY", "19").env("ONE_MAD_DEBUG", "");
        command.current_dir(self.front_end.var());
        command
    }

    pub fn start(&self, slot: &str, id: &str, document: &str) -> Child {
        use std::io::Write;
        let mut child = self.command(slot, id).spawn().unwrap();
        let packed = causeway_core::document::encode(document.as_bytes());
        let _ = child.stdin.take().unwrap().write_all(packed.as_bytes());
        child
    }

    pub fn run(&self, slot: &str, id: &str, document: &str) -> Output {
        self.start(slot, id, document).wait_with_output().unwrap()
    }

    /// Runs a slot that must succeed; what it printed.
    pub fn done(&self, slot: &str, id: &str, document: &str) -> String {
        let output = self.run(slot, id, document);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{slot}: {said}");
        let marked = |line: &str| {
            line.starts_with("INFO: ") || line.starts_with("WARN: ") || line.starts_with("DEBUG: ")
        };
        assert!(said.lines().all(marked), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a slot that must fail; its exit code and the one line that oned takes for the reason.
    pub fn failure(&self, slot: &str, id: &str, document: &str) -> (i32, String) {
        let output = self.run(slot, id, document);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.stdout, b"", "{slot}");
        let unmarked =
            said.lines().filter(|line| !["INFO: ", "WARN: ", "ERROR: "].iter().any(|m| line.starts_with(m)));
        let unmarked: Vec<&str> = unmarked.collect();
        assert_eq!(unmarked.len(), 1, "{said}");
        (output.status.code().unwrap(), unmarked.concat())
    }

    pub fn datastores(&self) -> String {
        // As oned writes it.
        format!("{}//datastores", self.front_end.var().display())
    }

    pub fn stored(&self, name: &str) -> PathBuf {
        self.front_end.var().join("datastores/1").join(name)
    }

    pub fn upload(&self, name: &str) -> String {
        self.front_end.root().join("uploads").join(name).display().to_string()
    }

    /// The document of an image of that number, and of datastore 1.
    pub fn document(&self, id: u32, image: &str, template: &str) -> String {
        let safe = self.front_end.root().join("uploads");
        format!(
            "<DS_DRIVER_ACTION_DATA><IMAGE><ID>{id}</ID><TYPE>0</TYPE><REGTIME>1795195882</REGTIME>{image}</IMAGE>\
             <DATASTORE><ID>1</ID><DS_MAD>fs</DS_MAD><TM_MAD>shared</TM_MAD><BASE_PATH>{}/1</BASE_PATH><TYPE>0</TYPE>\
             <TEMPLATE><SAFE_DIRS>{}</SAFE_DIRS><RESTRICTED_DIRS>/</RESTRICTED_DIRS><SECRET>{SECRET}</SECRET>{template}\
             </TEMPLATE></DATASTORE></DS_DRIVER_ACTION_DATA>",
            self.datastores(),
            safe.display()
        )
    }

    pub fn downloader(&self, script: &str) {
        put(&self.front_end.var().join("remotes/datastore/downloader.sh"), script);
    }
}

pub fn put(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn tool(program: &str, args: &[&str]) -> String {
    let run = Command::new(program).args(args).output().unwrap();
    assert!(run.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}
