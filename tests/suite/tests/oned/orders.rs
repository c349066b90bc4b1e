//! What an admin orders of a real oned's VMs, and what oned says of it afterwards.

use causeway_suite::lab::cloud::{Cloud, Stage, text};

use crate::set_up::{READY, SOON, is_in_state};

/// oned, asked by its own command line.
pub struct Orders<'a> {
    pub cloud: Cloud<'a>,
}

impl Orders<'_> {
    pub fn ask(&self, words: &[&str]) -> String {
        self.cloud
            .ask(words)
            .unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.cloud.log("oned.log")))
    }

    pub fn at(&self, vm: u32, stage: Stage) {
        self.cloud.wait_vm(vm, stage, None, SOON).unwrap();
    }

    pub fn snapshots(&self, vm: u32, disk: &str) -> Vec<String> {
        let document = self.cloud.show("onevm", &vm.to_string()).unwrap();
        let template = document.find("TEMPLATE").unwrap();
        let of_disk = document
            .children()
            .chain(template.children())
            .filter(|element| element.name == "SNAPSHOTS" && text(element, "DISK_ID") == disk);
        of_disk
            .flat_map(|all| all.children())
            .filter(|s| s.name == "SNAPSHOT")
            .map(|s| text(s, "ID"))
            .collect()
    }

    /// `SIZE` of a disk, MB.
    pub fn size(&self, vm: u32, disk: &str) -> u64 {
        let document = self.cloud.show("onevm", &vm.to_string()).unwrap();
        let template = document.find("TEMPLATE").unwrap();
        let mut disks = template.children().filter(|element| element.name == "DISK");
        text(disks.find(|found| text(found, "DISK_ID") == disk).unwrap(), "SIZE").parse().unwrap()
    }

    /// RESIZE of a VM that is off.
    pub fn grows(&self, vm: u32, disk: &str, to: u64) {
        self.ask(&["onevm", "disk-resize", &vm.to_string(), disk, &to.to_string()]);
        self.at(vm, Stage::POWEROFF);
        assert_eq!(self.size(vm, disk), to, "{}", self.cloud.log(&format!("{vm}.log")));
    }

    /// Takes a snapshot in whichever state the VM is, and sees that oned has it.
    pub fn snapshot(&self, vm: u32, stage: Stage, disk: &str) -> String {
        let before = self.snapshots(vm, disk);
        let name = format!("s{}", before.len());
        self.ask(&["onevm", "disk-snapshot-create", &vm.to_string(), disk, &name]);
        self.at(vm, stage);
        let mut after = self.snapshots(vm, disk);
        assert_eq!(after.len(), before.len() + 1, "{}", self.cloud.log(&format!("{vm}.log")));
        after.pop().unwrap()
    }

    pub fn is_forgotten(&self, vm: u32, stage: Stage, disk: &str, snapshot: &str) {
        self.ask(&["onevm", "disk-snapshot-delete", &vm.to_string(), disk, snapshot]);
        self.at(vm, stage);
        let left = self.snapshots(vm, disk);
        assert!(!left.contains(&snapshot.to_owned()), "{left:?}: {}", self.cloud.log(&format!("{vm}.log")));
    }

    /// The image of its last backup.
    pub fn is_backed_up(&self, vm: u32, stage: Stage, datastore: u32) -> String {
        let log = format!("{vm}.log");
        let before = self.cloud.log(&log).matches("New LCM state is BACKUP").count();
        self.ask(&["onevm", "backup", &vm.to_string(), "-d", &datastore.to_string()]);
        self.at(vm, stage);
        let document = self.cloud.show("onevm", &vm.to_string()).unwrap();
        let ids = document.find("BACKUPS/BACKUP_IDS").unwrap_or_else(|| panic!("{}", self.cloud.log(&log)));
        assert!(self.cloud.log(&log).matches("New LCM state is BACKUP").count() > before);
        let last = ids.children().last().unwrap_or_else(|| panic!("{}", self.cloud.log(&log)));
        is_in_state(&self.cloud, "oneimage", &last.text(), READY);
        last.text()
    }
}
