//! Disks and images under a real oned: everything that `onevm` and `oneimage` can order of a file store, by its own
//! command line, looked at in oned's records and in the files themselves.
//!
//! `STOCK_BUILT` names a built source tree of OpenNebula 7.4.0; `tests/run oned` sees to it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use causeway_suite::lab::cloud::{Cloud, Stage, text};
use causeway_suite::lab::{HOSTS, Lab, guest};
use causeway_suite::xml::Element;

#[path = "oned/orders.rs"]
mod orders;
#[path = "oned/mod.rs"]
mod set_up;
use orders::Orders;
use set_up::{
    Installed, READY, SOON, has_datastores, has_hosts, has_image, has_network, hosts_are_ready, is_in_state,
    template_of,
};

/// oned's numbers of a VM's states that only this test comes to.
const UNDEPLOYED: Stage = Stage(9, 0);
const STOPPED: Stage = Stage(4, 0);

/// Backups by the stock driver `rsync`, on the other host.
const BACKUPS: &str =
    "NAME=backups\nTYPE=BACKUP_DS\nDS_MAD=rsync\nTM_MAD=-\nRSYNC_USER=oneadmin\nRSYNC_HOST=h2\n";

/// MiB of every image.
const SIZE: &str = "16M";

struct Road<'a> {
    lab: &'a Lab,
    orders: Orders<'a>,
    /// The driver of its datastores, and the format of its images.
    driver: &'static str,
    format: &'static str,
    system: u32,
    images: u32,
    network: u32,
    backups: u32,
}

impl<'a> std::ops::Deref for Road<'a> {
    type Target = Orders<'a>;
    fn deref(&self) -> &Orders<'a> {
        &self.orders
    }
}

/// One image as a VM's disk.
#[derive(Clone, Copy)]
struct Disk<'a> {
    number: &'a str,
    /// Where its bytes are, on a host.
    path: &'a str,
}

#[test]
fn disks_live_under_a_real_oned() {
    let installed = Installed::new();
    let lab = &installed.lab;
    lab.run(&["observer", &guest::VNI.to_string(), guest::OBSERVER]).unwrap();
    let cloud = Cloud::start(lab).unwrap();
    has_hosts(&cloud);
    let network = has_network(&cloud);
    hosts_are_ready(&cloud);
    let backups = cloud.create("onedatastore", BACKUPS, &[]).unwrap();
    let orders = Orders { cloud };
    let mut road = Road { lab, orders, driver: "", format: "", system: 0, images: 0, network, backups };
    for (driver, format) in [("qcow2", "qcow2"), ("shared", "raw")] {
        (road.driver, road.format) = (driver, format);
        (road.system, road.images) = has_datastores(&road.cloud, driver, ["", "DS_MAD=fs\n"]);
        road.is_lived();
    }
    road.orders.cloud.stop().unwrap();
    drop(road);
    installed.end();
}

impl Road<'_> {
    /// A VM with every kind of disk, from its images to its end.
    fn is_lived(&self) {
        let [base, kept] = self.has_images();
        self.is_backed_up_and_restored(base, kept);
        let vm = self.creates(base, kept, "");
        self.deploys(vm, "h1");
        self.has_its_disks(vm);
        self.is_worked_on_while_it_runs(vm);
        self.moves(vm);
        self.is_worked_on_while_it_is_off(vm, "0", "a copy of the image");
        self.is_worked_on_while_it_is_off(vm, "1", "the image itself");
        self.is_away_and_comes_back(vm);
        self.is_made_anew(vm);
        self.ends(vm, kept);
        self.images_are_worked_on(kept);
        self.nothing_stays();
    }

    /// On a host, as oneadmin.
    fn tool(&self, words: &[&str]) -> String {
        self.lab.run(&[&["one", "h1"], words].concat()).unwrap()
    }

    fn directory(&self, vm: u32) -> String {
        format!("/var/lib/one/datastores/{}/{vm}", self.system)
    }

    /// Writes 1 MiB of that byte to the beginning of a disk.
    fn write(&self, disk: Disk<'_>, byte: u8) {
        self.tool(&["qemu-io", "-f", self.format, "-c", &format!("write -q -P {byte} 0 1M"), disk.path]);
    }

    /// The first MiB of a file in that format is of that byte.
    fn holds(&self, path: &str, byte: u8) {
        let said = self.tool(&[
            "qemu-io",
            "-r",
            "-U",
            "-f",
            self.format,
            "-c",
            &format!("read -P {byte} 0 1M"),
            path,
        ]);
        assert!(!said.contains("Pattern verification failed"), "{path} has other bytes than {byte}: {said}");
    }

    /// MiB that a guest would see of a file in that format.
    fn mib(&self, path: &str) -> u64 {
        let said = self.tool(&["qemu-img", "info", "-U", "-f", self.format, "--output=json", path]);
        let info: serde_json::Value = serde_json::from_str(&said).unwrap();
        info.get("virtual-size").unwrap().as_u64().unwrap() >> 20
    }

    fn source(&self, image: u32) -> String {
        text(&self.cloud.show("oneimage", &image.to_string()).unwrap(), "SOURCE")
    }

    /// `cp`, `mkfs`, `clone`: an image by upload, an empty one with a file system, and a copy that is kept.
    fn has_images(&self) -> [u32; 2] {
        let file = format!("/var/tmp/base.{}", self.format);
        self.cloud.ask(&["qemu-img", "create", "-q", "-f", self.format, &file, SIZE]).unwrap();
        self.cloud.ask(&["qemu-io", "-f", self.format, "-c", "write -q -P 17 0 1M", &file]).unwrap();
        let upload = format!("NAME=base-{0}\nTYPE=OS\nPATH={file}\nFORMAT={0}\n", self.format);
        let base = has_image(&self.cloud, &upload, self.images);
        self.holds(&self.source(base), 17);
        let empty = format!("NAME=empty-{0}\nTYPE=DATABLOCK\nSIZE=16\nFORMAT={0}\nFS=ext4\n", self.format);
        let empty = has_image(&self.cloud, &empty, self.images);
        let name = format!("kept-{}", self.format);
        let said = self.ask(&["oneimage", "clone", &base.to_string(), &name]);
        let kept: u32 = said.trim().strip_prefix("ID: ").unwrap().parse().unwrap();
        is_in_state(&self.cloud, "oneimage", &kept.to_string(), READY);
        self.holds(&self.source(kept), 17);
        self.ask(&["oneimage", "persistent", &kept.to_string()]);
        self.is_removed(empty);
        [base, kept]
    }

    /// `rm`.
    fn is_removed(&self, image: u32) {
        let source = self.source(image);
        self.ask(&["oneimage", "delete", &image.to_string()]);
        let start = std::time::Instant::now();
        while self.cloud.show("oneimage", &image.to_string()).is_ok() {
            assert!(start.elapsed() < SOON, "image {image} stays: {}", self.cloud.log("oned.log"));
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let left = self.lab.script("h1", "ls -d \"$1\"* 2>/dev/null || :", &[&source]).unwrap();
        assert_eq!(left, "", "of image {image}");
    }

    /// Every kind of disk: a copy or layer, the image itself, one with a file system, one to swap on, the context.
    fn creates(&self, base: u32, kept: u32, more: &str) -> u32 {
        let template = format!(
            "NAME=disks-{format}\n{}DISK=[ IMAGE_ID={base}, TARGET=\"vda\" ]\nDISK=[ IMAGE_ID={kept}, TARGET=\"vdb\" ]\n
            DISK=[ TYPE=\"fs\", FS=\"ext4\", SIZE=16, FORMAT=\"{format}\", TARGET=\"vdc\" ]\n
            DISK=[ TYPE=\"swap\", SIZE=16, TARGET=\"vdd\" ]\n
            {more}",
            template_of(self.lab, self.network),
            format = self.format,
        );
        self.cloud.create("onevm", &template, &["--hold"]).unwrap()
    }

    fn deploys(&self, vm: u32, host: &str) {
        self.ask(&["onevm", "deploy", &vm.to_string(), host, &self.system.to_string()]);
        self.at(vm, Stage::RUNNING);
    }

    /// CLONE, LN, MKIMAGE, MKSWAP, CONTEXT.
    fn has_its_disks(&self, vm: u32) {
        let disk = |number: u32| format!("{}/disk.{number}", self.directory(vm));
        self.holds(&disk(0), 17);
        self.holds(&disk(1), 17);
        let kinds = self.tool(&["sh", "-c", "file -Ls \"$@\" || :", "sh", &disk(3), &disk(4)]);
        assert!(kinds.contains("swap file") || !kinds.contains("disk.3: data"), "{kinds}");
        let label =
            self.tool(&["sh", "-c", "dd if=\"$1\" bs=1 skip=32808 count=7 status=none", "sh", &disk(4)]);
        assert_eq!(label, "CONTEXT");
    }

    /// CPDS to an image of its own, which holds that byte.
    fn is_saved(&self, vm: u32, stage: Stage, disk: &str, more: &[&str], byte: u8) {
        let name = format!("saved-{}-{vm}-{disk}-{byte}-{}", self.format, more.len());
        let vm_id = vm.to_string();
        let words = [&["onevm", "disk-saveas", &vm_id, disk, &name], more].concat();
        let said = self.ask(&words);
        let image: u32 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
        is_in_state(&self.cloud, "oneimage", &image.to_string(), READY);
        self.at(vm, stage);
        self.holds(&self.source(image), byte);
        self.is_removed(image);
    }

    /// PREBACKUP_LIVE, PREBACKUP, POSTBACKUP and RESTORE around the stock driver of a backup datastore: a backup of a guest
    /// that runs, one of a VM that is off, and both ways back.
    fn is_backed_up_and_restored(&self, base: u32, kept: u32) {
        let mode = if self.format == "qcow2" { "INCREMENT" } else { "FULL" };
        let config = format!("BACKUP_CONFIG=[ MODE=\"{mode}\", FS_FREEZE=\"NONE\", KEEP_LAST=\"8\" ]\n");
        let vm = self.creates(base, kept, &config);
        self.deploys(vm, "h1");
        let (id, off) = (vm.to_string(), Stage::POWEROFF);
        let paths = ["0", "1"].map(|number| format!("{}/disk.{number}", self.directory(vm)));
        let hold = |byte| paths.iter().for_each(|path| self.holds(path, byte));
        let write = |byte| paths.iter().for_each(|path| self.write(Disk { number: "", path }, byte));
        let first = self.is_backed_up(vm, Stage::RUNNING, self.backups);
        self.ask(&["onevm", "poweroff", "--hard", &id]);
        self.at(vm, off);
        write(33);
        let second = self.is_backed_up(vm, off, self.backups);
        assert_eq!(first == second, self.format == "qcow2", "increments of one image, or an image each");
        write(44);
        self.ask(&["onevm", "restore", &id, &second]);
        self.at(vm, off);
        hold(33);
        write(55);
        let beginning: &[&str] = if first == second { &["--increment", "0"] } else { &[] };
        self.ask(&[&["onevm", "restore", &id, &first], beginning].concat());
        self.at(vm, off);
        hold(17);
        self.ask(&["onevm", "resume", &id]);
        self.at(vm, Stage::RUNNING);
        self.ends(vm, kept);
    }

    /// SNAP_CREATE_LIVE, SNAP_DELETE, CPDS, RESIZE of a guest that runs; disks come and go.
    fn is_worked_on_while_it_runs(&self, vm: u32) {
        let id = vm.to_string();
        self.is_saved(vm, Stage::RUNNING, "0", &[], 17);
        let first = self.snapshot(vm, Stage::RUNNING, "0");
        let second = self.snapshot(vm, Stage::RUNNING, "0");
        self.is_forgotten(vm, Stage::RUNNING, "0", &first);
        self.is_forgotten(vm, Stage::RUNNING, "0", &second);
        self.ask(&["onevm", "disk-resize", &id, "2", "24"]);
        self.at(vm, Stage::RUNNING);
        let volatile = "DISK=[ TYPE=\"fs\", SIZE=8, FORMAT=\"raw\", TARGET=\"vde\" ]\n";
        self.lab.write("fe", "/var/tmp/attach.template", volatile).unwrap();
        self.ask(&["onevm", "disk-attach", &id, "--file", "/var/tmp/attach.template"]);
        self.at(vm, Stage::RUNNING);
        let added = format!("{}/disk.5", self.directory(vm));
        self.tool(&["test", "-f", &added]);
        self.ask(&["onevm", "disk-detach", &id, "5"]);
        self.at(vm, Stage::RUNNING);
        self.tool(&["test", "!", "-e", &added]);
    }

    /// PREMIGRATE and POSTMIGRATE; then MV between hosts that see one directory.
    fn moves(&self, vm: u32) {
        let id = vm.to_string();
        self.ask(&["onevm", "migrate", "--live", &id, "h2"]);
        self.cloud.wait_vm(vm, Stage::RUNNING, Some("h2"), SOON).unwrap();
        self.ask(&["onevm", "poweroff", "--hard", &id]);
        self.at(vm, Stage::POWEROFF);
        self.ask(&["onevm", "migrate", &id, "h1"]);
        self.cloud.wait_vm(vm, Stage::POWEROFF, Some("h1"), SOON).unwrap();
    }

    /// SNAP_CREATE, SNAP_REVERT, SNAP_DELETE, CPDS, RESIZE of a VM that is off.
    fn is_worked_on_while_it_is_off(&self, vm: u32, number: &str, what: &str) {
        let path = format!("{}/disk.{number}", self.directory(vm));
        let (off, disk) = (Stage::POWEROFF, Disk { number, path: &path });
        self.write(disk, 33);
        let first = self.snapshot(vm, off, number);
        self.write(disk, 44);
        let size = self.size(vm, number);
        self.grows(vm, number, size + 8);
        assert_eq!(self.mib(disk.path), size + 8, "{what}");
        let second = self.snapshot(vm, off, number);
        self.write(disk, 55);
        self.is_saved(vm, off, number, &["--snapshot", &first], 33);
        self.is_saved(vm, off, number, &[], 55);
        self.ask(&["onevm", "disk-snapshot-revert", &vm.to_string(), number, &first]);
        self.at(vm, off);
        self.holds(disk.path, 33);
        // oned goes back to the size that the disk had then: a larger one could not be given the next size.
        assert_eq!((self.size(vm, number), self.mib(disk.path)), (size, size), "{what}");
        self.grows(vm, number, size + 4);
        assert_eq!(self.mib(disk.path), size + 4, "{what}");
        self.is_forgotten(vm, off, number, &second);
        self.holds(disk.path, 33);
        assert_eq!(self.snapshots(vm, disk.number), [first], "{what}");
        self.write(disk, 66);
    }

    /// MV to the front-end and back, of a VM that is undeployed, and of one that is stopped.
    fn is_away_and_comes_back(&self, vm: u32) {
        let id = vm.to_string();
        self.ask(&["onevm", "undeploy", "--hard", &id]);
        self.at(vm, UNDEPLOYED);
        self.is_saved(vm, UNDEPLOYED, "0", &[], 66);
        self.deploys(vm, "h2");
        self.ask(&["onevm", "stop", &id]);
        self.at(vm, STOPPED);
        self.deploys(vm, "h1");
        self.holds(&format!("{}/disk.0", self.directory(vm)), 66);
    }

    /// DELETE of everything, and a new beginning: what was the VM's own is gone, the image it keeps is as it was.
    fn is_made_anew(&self, vm: u32) {
        let id = vm.to_string();
        let disk = format!("{}/disk.0", self.directory(vm));
        let old = self.tool(&["stat", "-c", "%i %Y", &disk]);
        self.ask(&["onevm", "recover", "--recreate", &id]);
        // oned's scheduler finds it a host again.
        let states = |document: &Element| (text(document, "STATE"), text(document, "LCM_STATE"));
        let runs = |document: &Element| states(document) == ("3".to_owned(), "3".to_owned());
        self.cloud.wait_for(("onevm", &id, SOON), |document| !runs(document)).unwrap();
        self.at(vm, Stage::RUNNING);
        assert_ne!(self.tool(&["stat", "-c", "%i %Y", &disk]), old, "it has its old disk");
        self.holds(&disk, 17);
        self.holds(&format!("{}/disk.1", self.directory(vm)), 66);
    }

    /// MVDS and DELETE: the image has what was written to it, and its snapshot.
    fn ends(&self, vm: u32, kept: u32) {
        self.ask(&["onevm", "terminate", "--hard", &vm.to_string()]);
        self.at(vm, Stage::DONE);
        for host in HOSTS {
            let left =
                self.lab.script(host, "ls -A \"$1\" 2>/dev/null || :", &[&self.directory(vm)]).unwrap();
            assert_eq!(left, "", "of VM {vm}");
        }
        is_in_state(&self.cloud, "oneimage", &kept.to_string(), READY);
    }

    /// `snap_revert`, `snap_delete` or `snap_flatten` of an image that no VM has.
    fn images_are_worked_on(&self, kept: u32) {
        let id = kept.to_string();
        let snapshots = || {
            let document = self.cloud.show("oneimage", &id).unwrap();
            let all = document.find("SNAPSHOTS").unwrap();
            all.children().filter(|s| s.name == "SNAPSHOT").map(|s| text(s, "ID")).collect::<Vec<_>>()
        };
        let had = snapshots();
        let [first] = had.as_slice() else { panic!("{had:?}") };
        self.ask(&["oneimage", "snapshot-revert", &id, first]);
        is_in_state(&self.cloud, "oneimage", &id, READY);
        let copy = self.ask(&["oneimage", "snapshot-flatten", &id, first]);
        is_in_state(&self.cloud, "oneimage", &id, READY);
        assert_eq!(snapshots(), [""; 0], "{copy}");
        self.holds(&self.source(kept), 33);
    }

    /// Everything is removed, and no datastore has anything left.
    fn nothing_stays(&self) {
        let all = self.ask(&["oneimage", "list", "--csv", "--no-header", "--list", "ID"]);
        for image in all.split_whitespace().filter_map(|id| id.parse().ok()) {
            self.is_removed(image);
        }
        for datastore in [self.system, self.images] {
            let path = format!("/var/lib/one/datastores/{datastore}");
            let left = self.lab.script("h1", "find \"$1\" -mindepth 1 ! -name '.*'", &[&path]).unwrap();
            assert_eq!(left, "", "in datastore {datastore}");
        }
    }
}
