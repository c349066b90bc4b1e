//! A guest's life under a real oned: our programs installed by `install.sh` on a front-end that OpenNebula itself was
//! installed on, two hosts that its own probes monitor, and its own command line as the only way in.
//!
//! `STOCK_BUILT` names a built source tree of OpenNebula 7.4.0; `tests/run oned` sees to it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_suite::lab::cloud::{Cloud, Stage};
use causeway_suite::lab::truth::{no_file_left, nothing_left, residents, whereabouts};
use causeway_suite::lab::{FRONT_END, HOSTS, Lab, guest};
use causeway_suite::request::Guest;

#[path = "oned/mod.rs"]
mod set_up;
use set_up::{
    Installed, SOON, has_datastores, has_hosts, has_image, has_network, hosts_are_ready, template_of,
};

/// `ARGUMENTS` of the entries as they are shipped.
const KVM: &str = "-t 15 -r 0 kvm -p";
const QEMU: &str = "-t 15 -r 0 kvm";

struct Road<'a> {
    lab: &'a Lab,
    cloud: Cloud<'a>,
    /// Numbers that oned has given.
    image: u32,
    network: u32,
    system: u32,
}

#[test]
fn a_guest_lives_under_a_real_oned_and_nothing_of_ours_stays() {
    let installed = Installed::new();
    let lab = &installed.lab;
    lab.run(&["observer", &guest::VNI.to_string(), guest::OBSERVER]).unwrap();
    let mut road = Road { cloud: Cloud::start(lab).unwrap(), lab, image: 0, network: 0, system: 0 };
    road.is_set_up();
    let vm = road.comes();
    road.moves(&vm, "h1", "h2");
    road.rests(&vm, "h2");
    road.is_served_by_stock_scripts_too(&vm, "h2", "h1");
    road.outlives_the_driver(&vm, "h1", "h2");
    road.outlives_oned(&vm, "h2", "h1");
    road.is_taken_away_while_it_moves(&vm);
    road.is_not_let_in_and_recovers();
    road.is_cancelled();
    road.ends();
    drop(road);

    installed.end();
}

impl Road<'_> {
    /// Hosts, datastores, an image and a network.
    fn is_set_up(&mut self) {
        has_hosts(&self.cloud);
        let (system, images) = has_datastores(&self.cloud, "qcow2", ["", "DS_MAD=fs\n"]);
        self.system = system;
        self.network = has_network(&self.cloud);
        let file = "/var/tmp/disk.qcow2";
        self.cloud.ask(&["qemu-img", "create", "-q", "-f", "qcow2", file, "32M"]).unwrap();
        let image = format!("NAME=disk\nTYPE=DATABLOCK\nPATH={file}\nFORMAT=qcow2\n");
        self.image = has_image(&self.cloud, &image, images);
        hosts_are_ready(&self.cloud);
    }

    /// `onevm create` of the lab's guest, with a disk; as its player describes it, but for its number.
    fn creates(&self) -> Guest {
        let mut vm = guest::virtual_machine(self.lab.directory(), 24, 1500);
        let guest = template_of(self.lab, self.network);
        let template = format!("NAME=traveller\n{guest}DISK=[ IMAGE_ID={}, TARGET=\"vda\" ]\n", self.image);
        vm.vm = self.cloud.create("onevm", &template, &["--hold"]).unwrap();
        vm.datastore.id = self.system;
        vm.datastore.base_path = format!("/var/lib/one/datastores/{}", self.system).into();
        vm
    }

    fn deploy(&self, vm: &Guest, host: &str) {
        let id = vm.vm.to_string();
        self.cloud.ask(&["onevm", "deploy", &id, host, &self.system.to_string()]).unwrap();
    }

    fn is_at(&self, vm: &Guest, stage: Stage, patience: Duration) -> String {
        self.cloud.wait_vm(vm.vm, stage, None, patience).unwrap()
    }

    /// It runs there, says oned, and says libvirt.
    fn is_on(&self, vm: &Guest, host: &str) {
        self.cloud.wait_vm(vm.vm, Stage::RUNNING, Some(host), SOON).unwrap();
        let seen = whereabouts(self.lab, vm).unwrap();
        assert!(seen.is_only_on(host), "{seen:?}, not only on {host}");
    }

    /// Its guest's writes are all there.
    fn is_whole(&self) {
        guest::wait(self.lab).unwrap();
        guest::verify(self.lab).unwrap();
    }

    /// It is no more, and there is no trace of it.
    fn is_gone(&self, vm: &Guest) {
        self.is_at(vm, Stage::DONE, SOON);
        let start = Instant::now();
        // oned has forgotten a VM that it deletes while its CLEANUP is under way.
        while let Err(error) = no_file_left(self.lab, vm) {
            let log = self.log(vm);
            assert!(start.elapsed() < SOON, "{error}\n{log}");
            sleep(Duration::from_millis(200));
        }
        assert!(whereabouts(self.lab, vm).unwrap().is_nowhere());
        for host in HOSTS {
            nothing_left(self.lab, host).unwrap();
        }
    }

    /// A transfer, and DEPLOY.
    fn comes(&self) -> Guest {
        let vm = self.creates();
        self.deploy(&vm, "h1");
        self.is_on(&vm, "h1");
        self.is_whole();
        let id = vm.vm.to_string();
        let deploy_id = self.cloud.show("onevm", &id).unwrap().find("DEPLOY_ID").unwrap().text();
        assert_eq!(
            deploy_id,
            self.lab.run(&["exec", "h1", "virsh", "domuuid", &format!("one-{id}")]).unwrap().trim()
        );
        vm
    }

    /// MIGRATE.
    fn moves(&self, vm: &Guest, from: &str, to: &str) {
        self.cloud.ask(&["onevm", "migrate", "--live", &vm.vm.to_string(), to]).unwrap();
        self.has_moved(vm, from, to);
    }

    fn has_moved(&self, vm: &Guest, from: &str, to: &str) {
        self.is_on(vm, to);
        nothing_left(self.lab, from).unwrap();
        self.is_whole();
    }

    /// SHUTDOWN and DEPLOY by poweroff and resume; SAVE and RESTORE by stock's own scripts.
    fn rests(&self, vm: &Guest, host: &str) {
        for (word, stage) in [("poweroff", Stage::POWEROFF), ("suspend", Stage::SUSPENDED)] {
            self.cloud.ask(&["onevm", word, &vm.vm.to_string()]).unwrap();
            self.is_at(vm, stage, SOON);
            nothing_left(self.lab, host).unwrap();
            self.cloud.ask(&["onevm", "resume", &vm.vm.to_string()]).unwrap();
            self.is_on(vm, host);
            self.is_whole();
        }
    }

    /// What is not ours yet: SAVE and RESTORE of a cold migration, ATTACHDISK and DETACHDISK.
    fn is_served_by_stock_scripts_too(&self, vm: &Guest, from: &str, to: &str) {
        let id = vm.vm.to_string();
        self.cloud.ask(&["onevm", "migrate", &id, to]).unwrap();
        self.has_moved(vm, from, to);
        let disks = || self.lab.run(&["exec", to, "virsh", "domblklist", &format!("one-{id}")]).unwrap();
        self.cloud
            .ask(&["onevm", "disk-attach", &id, "--image", &self.image.to_string(), "--target", "vdb"])
            .unwrap();
        self.is_on(vm, to);
        assert!(disks().contains("vdb"), "{}", self.log(vm));
        self.cloud.ask(&["onevm", "disk-detach", &id, "2"]).unwrap();
        self.is_on(vm, to);
        assert!(!disks().contains("vdb"), "{}", self.log(vm));
    }

    fn log(&self, vm: &Guest) -> String {
        self.cloud.log(&format!("{}.log", vm.vm))
    }

    /// Sets out, and is on its way.
    fn sets_out(&self, vm: &Guest, from: &str, to: &str) {
        self.cloud.ask(&["onevm", "migrate", "--live", &vm.vm.to_string(), to]).unwrap();
        let start = Instant::now();
        let name = format!("one-{}", vm.vm);
        let job = || self.lab.run(&["exec", from, "virsh", "domjobinfo", &name]).unwrap();
        while !job().contains("Memory processed") {
            assert!(start.elapsed() < Duration::from_secs(60), "the move does not begin");
        }
        assert_eq!(self.cloud.vm(vm.vm).unwrap().0, Stage::MIGRATE);
    }

    /// The process of an entry of `oned.conf`: they differ in their arguments.
    fn driver(&self, arguments: &str) -> String {
        let pattern = format!("^/usr/libexec/causeway/causeway-vmm {arguments}$");
        self.lab.script(FRONT_END, "pgrep -f -- \"$1\" || :", &[&pattern]).unwrap().trim().to_owned()
    }

    /// The driver process dies in the middle of a move. oned starts another, which takes the move up and answers, while
    /// that of the other entry goes on.
    fn outlives_the_driver(&self, vm: &Guest, from: &str, to: &str) {
        self.sets_out(vm, from, to);
        let (kvm, qemu) = (self.driver(KVM), self.driver(QEMU));
        assert!(!kvm.is_empty() && !qemu.is_empty());
        self.lab.script(FRONT_END, "kill -KILL \"$1\"", &[&qemu]).unwrap();
        self.settles(vm, from, to);
        self.was_taken_up(vm, 1);
        let new = self.driver(QEMU);
        assert!(self.driver(KVM) == kvm && !new.is_empty() && new != qemu, "{kvm}, {qemu}, {new}");
    }

    /// oned itself is stopped and started in the middle of a move.
    fn outlives_oned(&mut self, vm: &Guest, from: &str, to: &str) {
        self.sets_out(vm, from, to);
        self.cloud.restart().unwrap();
        self.settles(vm, from, to);
        self.was_taken_up(vm, 2);
    }

    /// So many times in its life a process took up what another had left: never two at once.
    fn was_taken_up(&self, vm: &Guest, times: usize) {
        let log = self.log(vm);
        assert_eq!(log.matches("taken up again").count(), times, "{log}");
    }

    /// It is on one of the hosts in the end, oned knows on which, and it may go on.
    fn settles(&self, vm: &Guest, from: &str, to: &str) {
        let host = self.is_at(vm, Stage::RUNNING, Duration::from_secs(300));
        self.is_on(vm, &host);
        self.is_whole();
        let other = if host == to { from } else { to };
        nothing_left(self.lab, other).unwrap();
        if host == from {
            self.moves(vm, from, to);
        }
    }

    /// `recover --delete` in the middle of a move: DRIVER_CANCEL and CLEANUP.
    fn is_taken_away_while_it_moves(&self, vm: &Guest) {
        self.sets_out(vm, "h1", "h2");
        self.cloud.ask(&["onevm", "recover", "--delete", &vm.vm.to_string()]).unwrap();
        self.is_gone(vm);
    }

    /// A DEPLOY that fails, says why and leaves nothing; `recover --retry`, then an orderly end.
    fn is_not_let_in_and_recovers(&self) {
        let vm = self.creates();
        let uplinks = self.lab.run(&["exec", "h1", "cat", "/etc/causeway/uplinks"]).unwrap();
        self.lab.list_uplinks("h1", "eth9\n").unwrap();
        self.deploy(&vm, "h1");
        self.is_at(&vm, Stage::BOOT_FAILURE, SOON);
        let log = self.log(&vm);
        assert!(log.contains("uplinks") && log.contains("eth0"), "{log}");
        nothing_left(self.lab, "h1").unwrap();
        self.lab.list_uplinks("h1", &uplinks).unwrap();
        self.cloud.ask(&["onevm", "recover", "--retry", &vm.vm.to_string()]).unwrap();
        self.is_on(&vm, "h1");
        self.is_whole();
        self.cloud.ask(&["onevm", "terminate", &vm.vm.to_string()]).unwrap();
        self.is_gone(&vm);
    }

    /// CANCEL.
    fn is_cancelled(&self) {
        let vm = self.creates();
        self.deploy(&vm, "h2");
        self.is_on(&vm, "h2");
        self.cloud.ask(&["onevm", "terminate", "--hard", &vm.vm.to_string()]).unwrap();
        self.is_gone(&vm);
    }

    /// oned stops, and nobody of ours is left on any machine.
    fn ends(&mut self) {
        self.cloud.stop().unwrap();
        for host in HOSTS {
            let start = Instant::now();
            while !residents(self.lab, host).unwrap().is_empty() {
                assert!(start.elapsed() < Duration::from_secs(60), "a resident stays on {host}");
                sleep(Duration::from_millis(100));
            }
            let state = self.lab.script(host, "find /var/lib/causeway -type f -size +0", &[]).unwrap();
            assert_eq!(state, "", "what is kept of guests that are gone");
        }
    }
}
