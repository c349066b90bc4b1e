//! Disks that are volumes, under a real oned: what `onevm` and `oneimage` can order of a Ceph store, by its own command
//! line, looked at in oned's records and in the cluster itself. The hosts share no directory with each other or the
//! front-end.
//!
//! `STOCK_BUILT` names a built source tree of OpenNebula 7.4.0; `tests/run oned` sees to it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_suite::lab::cloud::{Cloud, Stage, text};
use causeway_suite::lab::cluster::Cluster;
use causeway_suite::lab::{HOSTS, Lab};

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

/// Backups by the stock driver `rsync`, on the other host.
const BACKUPS: &str =
    "NAME=backups\nTYPE=BACKUP_DS\nDS_MAD=rsync\nTM_MAD=-\nRSYNC_USER=oneadmin\nRSYNC_HOST=h2\n";

struct Road<'a> {
    lab: &'a Lab,
    cluster: &'a Cluster<'a>,
    orders: Orders<'a>,
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

#[test]
fn volumes_live_under_a_real_oned() {
    let installed = Installed::new();
    let lab = &installed.lab;
    let apart = "umount /var/lib/one/datastores && chown oneadmin: /var/lib/one/datastores";
    for host in HOSTS {
        lab.script(host, apart, &[]).unwrap();
    }
    let cluster = Cluster::start(lab).unwrap();
    let cloud = Cloud::start(lab).unwrap();
    has_hosts(&cloud);
    let network = has_network(&cloud);
    hosts_are_ready(&cloud);
    let backups = cloud.create("onedatastore", BACKUPS, &[]).unwrap();
    let access = cluster.access();
    let store = format!(
        "DISK_TYPE=RBD\nPOOL_NAME=one\nBRIDGE_LIST=\"{}\"\nCEPH_HOST=\"{}\"\nCEPH_USER={}\nCEPH_KEY={}\nCEPH_SECRET={}\n",
        HOSTS.join(" "),
        access.monitor,
        access.user,
        access.key,
        access.secret
    );
    let (system, images) = has_datastores(&cloud, "ceph", [&store, &format!("DS_MAD=ceph\n{store}")]);
    let orders = Orders { cloud };
    let mut road = Road { lab, cluster: &cluster, orders, system, images, network, backups };
    let [base, kept] = road.has_images();
    let vm = road.comes(base, kept);
    road.is_worked_on_while_it_runs(vm, base, kept);
    road.is_worked_on_while_it_is_off(vm, "0", &road.copy(base, vm));
    road.is_worked_on_while_it_is_off(vm, "1", &road.source(kept));
    road.is_restored(vm, base);
    road.is_away_and_comes_back(vm);
    road.ends(vm, base, kept);
    road.orders.cloud.stop().unwrap();
    drop(road);
    drop(cluster);
    installed.end();
}

impl Road<'_> {
    fn source(&self, image: u32) -> String {
        text(&self.cloud.show("oneimage", &image.to_string()).unwrap(), "SOURCE")
    }

    /// The volume of a VM's disk 0.
    fn copy(&self, image: u32, vm: u32) -> String {
        format!("{}-{vm}-0", self.source(image))
    }

    /// The first MiB of a volume is of that byte.
    fn holds(&self, volume: &str, byte: u8) {
        let bytes = self.cluster.bytes("h1", volume).unwrap();
        let other = bytes.iter().take(1 << 20).find(|found| **found != byte);
        assert!(other.is_none() && bytes.len() >= 1 << 20, "{volume} has {other:?} where {byte} was written");
    }

    fn mib(&self, volume: &str) -> u64 {
        self.cluster.bytes("h1", volume).unwrap().len() as u64 >> 20
    }

    fn write(&self, volume: &str, byte: u8) {
        self.cluster.write("h1", volume, byte).unwrap();
    }

    fn volumes(&self) -> Vec<String> {
        self.cluster.rbd("h1", "ls one").unwrap().lines().map(str::to_owned).collect()
    }

    /// `cp`, `mkfs`, `clone`, `rm`: an image by upload, an empty one with a file system, and a copy that is kept.
    fn has_images(&self) -> [u32; 2] {
        let file = "/var/tmp/base.qcow2";
        self.cloud.ask(&["qemu-img", "create", "-q", "-f", "qcow2", file, "16M"]).unwrap();
        self.cloud.ask(&["qemu-io", "-f", "qcow2", "-c", "write -q -P 17 0 1M", file]).unwrap();
        let base =
            has_image(&self.cloud, &format!("NAME=base\nTYPE=OS\nPATH={file}\nFORMAT=raw\n"), self.images);
        self.holds(&self.source(base), 17);
        let empty = "NAME=empty\nTYPE=DATABLOCK\nSIZE=16\nFORMAT=raw\nFS=ext4\n";
        let empty = has_image(&self.cloud, empty, self.images);
        let said = self.ask(&["oneimage", "clone", &base.to_string(), "kept"]);
        let kept: u32 = said.trim().strip_prefix("ID: ").unwrap().parse().unwrap();
        is_in_state(&self.cloud, "oneimage", &kept.to_string(), READY);
        self.holds(&self.source(kept), 17);
        self.ask(&["oneimage", "persistent", &kept.to_string()]);
        self.is_removed(empty);
        [base, kept]
    }

    fn is_removed(&self, image: u32) {
        self.ask(&["oneimage", "delete", &image.to_string()]);
        let start = Instant::now();
        while self.cloud.show("oneimage", &image.to_string()).is_ok() {
            assert!(start.elapsed() < SOON, "image {image} stays: {}", self.cloud.log("oned.log"));
            sleep(Duration::from_millis(200));
        }
        assert!(!self.volumes().contains(&format!("one-{image}")), "{:?}", self.volumes());
    }

    /// CLONE, LN, MKIMAGE, MKSWAP, CONTEXT, and a guest that has the volumes open.
    fn comes(&self, base: u32, kept: u32) -> u32 {
        let template = format!(
            "NAME=volumes\n{}DISK=[ IMAGE_ID={base}, TARGET=\"vda\" ]\nDISK=[ IMAGE_ID={kept}, TARGET=\"vdb\" ]\n
            DISK=[ TYPE=\"fs\", FS=\"ext4\", SIZE=16, FORMAT=\"raw\", TARGET=\"vdc\" ]\n
            DISK=[ TYPE=\"swap\", SIZE=16, TARGET=\"vdd\" ]\n
            BACKUP_CONFIG=[ MODE=\"FULL\", FS_FREEZE=\"NONE\", KEEP_LAST=\"8\" ]\n",
            template_of(self.lab, self.network),
        );
        let vm = self.cloud.create("onevm", &template, &["--hold"]).unwrap();
        self.deploys(vm, "h1");
        self.holds(&self.copy(base, vm), 17);
        let all = [format!("one-sys-{vm}-2"), format!("one-sys-{vm}-3"), format!("one-{base}-{vm}-0")];
        assert!(all.iter().all(|volume| self.volumes().contains(volume)), "{:?}", self.volumes());
        let swap = self.cluster.bytes("h1", &format!("one/one-sys-{vm}-3")).unwrap();
        assert!(swap.windows(10).take(4096).any(|window| window == b"SWAPSPACE2"));
        vm
    }

    fn deploys(&self, vm: u32, host: &str) {
        self.ask(&["onevm", "deploy", &vm.to_string(), host, &self.system.to_string()]);
        self.at(vm, Stage::RUNNING);
    }

    /// CPDS to an image of its own, which holds that byte.
    fn is_saved(&self, vm: u32, stage: Stage, disk: &str, more: &[&str], byte: u8) {
        let (name, vm_id) = (format!("saved-{disk}-{byte}-{}", more.len()), vm.to_string());
        let said = self.ask(&[&["onevm", "disk-saveas", &vm_id, disk, &name], more].concat());
        let image: u32 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
        is_in_state(&self.cloud, "oneimage", &image.to_string(), READY);
        self.at(vm, stage);
        self.holds(&self.source(image), byte);
        self.is_removed(image);
    }

    /// CPDS, SNAP_CREATE_LIVE, SNAP_DELETE, disks that come and go, PREBACKUP_LIVE, PREMIGRATE, POSTMIGRATE.
    fn is_worked_on_while_it_runs(&self, vm: u32, base: u32, kept: u32) {
        let id = vm.to_string();
        self.is_saved(vm, Stage::RUNNING, "0", &[], 17);
        let first = self.snapshot(vm, Stage::RUNNING, "0");
        let second = self.snapshot(vm, Stage::RUNNING, "0");
        self.is_forgotten(vm, Stage::RUNNING, "0", &first);
        self.is_forgotten(vm, Stage::RUNNING, "0", &second);
        let volatile = "DISK=[ TYPE=\"fs\", SIZE=8, FORMAT=\"raw\", TARGET=\"vde\" ]\n";
        self.lab.write("fe", "/var/tmp/attach.template", volatile).unwrap();
        self.ask(&["onevm", "disk-attach", &id, "--file", "/var/tmp/attach.template"]);
        self.at(vm, Stage::RUNNING);
        let added = format!("one-sys-{vm}-5");
        assert!(
            self.volumes().contains(&added),
            "{:?}: {}",
            self.volumes(),
            self.cloud.log(&format!("{vm}.log"))
        );
        self.ask(&["onevm", "disk-detach", &id, "5"]);
        self.at(vm, Stage::RUNNING);
        assert!(!self.volumes().contains(&added), "{:?}", self.volumes());
        self.is_backed_up(vm, Stage::RUNNING, self.backups);
        self.ask(&["onevm", "migrate", "--live", &id, "h2"]);
        self.cloud.wait_vm(vm, Stage::RUNNING, Some("h2"), SOON).unwrap();
        self.is_backed_up(vm, Stage::RUNNING, self.backups);
        self.ask(&["onevm", "poweroff", "--hard", &id]);
        self.at(vm, Stage::POWEROFF);
        for volume in [self.copy(base, vm), self.source(kept)] {
            self.holds(&volume, 17);
        }
    }

    /// SNAP_CREATE, SNAP_REVERT, SNAP_DELETE, CPDS of a VM that is off.
    fn is_worked_on_while_it_is_off(&self, vm: u32, number: &str, volume: &str) {
        let off = Stage::POWEROFF;
        self.write(volume, 33);
        let first = self.snapshot(vm, off, number);
        self.write(volume, 44);
        let size = self.size(vm, number);
        self.grows(vm, number, size + 8);
        assert_eq!(self.mib(volume), size + 8);
        let second = self.snapshot(vm, off, number);
        self.write(volume, 55);
        self.is_saved(vm, off, number, &["--snapshot", &first], 33);
        self.is_saved(vm, off, number, &[], 55);
        self.ask(&["onevm", "disk-snapshot-revert", &vm.to_string(), number, &first]);
        self.at(vm, off);
        self.holds(volume, 33);
        // oned goes back to the size that the disk had then: a larger one could not be given the next size.
        assert_eq!((self.size(vm, number), self.mib(volume)), (size, size));
        self.grows(vm, number, size + 4);
        assert_eq!(self.mib(volume), size + 4);
        self.is_forgotten(vm, off, number, &second);
        self.holds(volume, 33);
        // oned keeps the one that the disk went back to.
        assert_eq!(self.snapshots(vm, number), [first]);
        self.write(volume, 66);
    }

    /// RESTORE of the last increment: what was on the disks when the guest moved.
    fn is_restored(&self, vm: u32, base: u32) {
        let (id, off) = (vm.to_string(), Stage::POWEROFF);
        let document = self.cloud.show("onevm", &id).unwrap();
        let backup = document.find("BACKUPS/BACKUP_IDS").unwrap().children().last().unwrap().text();
        self.ask(&["onevm", "restore", &id, &backup, "--disk-id", "0"]);
        self.at(vm, off);
        self.holds(&self.copy(base, vm), 17);
        self.write(&self.copy(base, vm), 66);
    }

    /// MV of the VM's directory to the front-end, and to the other host.
    fn is_away_and_comes_back(&self, vm: u32) {
        let id = vm.to_string();
        self.ask(&["onevm", "resume", &id]);
        self.at(vm, Stage::RUNNING);
        self.ask(&["onevm", "undeploy", "--hard", &id]);
        self.at(vm, UNDEPLOYED);
        self.is_saved(vm, UNDEPLOYED, "0", &[], 66);
        self.deploys(vm, "h1");
    }

    /// DELETE and MVDS: what was the VM's own is gone, the image it keeps has what was written to it.
    fn ends(&self, vm: u32, base: u32, kept: u32) {
        self.ask(&["onevm", "terminate", "--hard", &vm.to_string()]);
        self.at(vm, Stage::DONE);
        is_in_state(&self.cloud, "oneimage", &kept.to_string(), READY);
        self.holds(&self.source(kept), 66);
        let (left, own) = (self.volumes(), format!("one-{base}-{vm}-"));
        assert!(!left.iter().any(|name| name.contains("-sys-") || name.starts_with(&own)), "{left:?}");
        for place in HOSTS.into_iter().chain(["fe"]) {
            let directory = format!("/var/lib/one/datastores/{}/{vm}", self.system);
            let left = self.lab.script(place, "ls -A \"$1\" 2>/dev/null || :", &[&directory]).unwrap();
            assert_eq!(left, "", "of VM {vm} on {place}");
        }
        self.ask(&["oneimage", "snapshot-flatten", &kept.to_string(), "0"]);
        is_in_state(&self.cloud, "oneimage", &kept.to_string(), READY);
        self.holds(&self.source(kept), 33);
        let all = self.ask(&["oneimage", "list", "--csv", "--no-header", "--list", "ID"]);
        for image in all.split_whitespace().filter_map(|id| id.parse().ok()) {
            self.is_removed(image);
        }
        assert_eq!(self.volumes(), [""; 0]);
    }
}
