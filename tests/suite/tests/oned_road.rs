//! A guest's life under a real oned: our programs installed by `install.sh` on a front-end that OpenNebula itself was
//! installed on, two hosts that its own probes monitor, and its own command line as the only way in.
//!
//! `STOCK_BUILT` names a built source tree of OpenNebula 7.4.0; `tests/run oned` sees to it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_suite::lab::cloud::{Cloud, Stage, text};
use causeway_suite::lab::truth::{no_file_left, nothing_left, residents, whereabouts};
use causeway_suite::lab::{FRONT_END, HOSTS, Lab, Standing, guest};
use causeway_suite::request::Guest;
use causeway_suite::xml::Element;

/// A first monitoring copies OpenNebula's remotes and starts a dozen interpreters.
const MONITORING: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(120);

/// The lab's QEMU has no firmware for network cards, and needs none.
const NO_ROM: &str = "<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='virtio-net-pci.romfile='/>\
    </qemu:commandline>";

/// `ARGUMENTS` of the entries as they are shipped.
const KVM: &str = "-t 15 -r 0 kvm -p";
const QEMU: &str = "-t 15 -r 0 kvm";

/// oned's states of an image and of a host.
const READY: &str = "1";
const MONITORED: &str = "2";

/// A move takes long enough for something to happen in it (MiB a second); and libvirt can't see that the lab's hosts
/// share their datastores.
const SLOWLY: &str =
    "echo 'MIGRATE_OPTIONS=\"--bandwidth 12 --unsafe\"' >>/var/lib/one/remotes/etc/vmm/kvm/kvmrc";

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
    let built = std::env::var_os("STOCK_BUILT").expect("STOCK_BUILT is set by tests/run oned");
    let lab = Standing::bare().unwrap();
    lab.install_stock(Path::new(&built)).unwrap();
    lab.script(FRONT_END, SLOWLY, &[]).unwrap();
    let places = [&[FRONT_END], HOSTS.as_slice()].concat();
    let before: Vec<String> = places.iter().map(|place| lab.installed(place).unwrap()).collect();

    install(&lab);
    lab.run(&["observer", &guest::VNI.to_string(), guest::OBSERVER]).unwrap();
    let mut road = Road { cloud: Cloud::start(&lab).unwrap(), lab: &lab, image: 0, network: 0, system: 0 };
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

    for (place, before) in places.iter().zip(before) {
        let said = lab.install_sh(place, &["uninstall"]).unwrap();
        assert!(!said.contains("was changed after"), "{said}");
        same(place, &before, &lab.installed(place).unwrap());
    }
    lab.stop().unwrap();
}

/// As an admin would, hosts first.
fn install(lab: &Lab) {
    let from = programs();
    let from = from.to_str().unwrap();
    for host in HOSTS {
        lab.install_sh(host, &["host", "--uplink", "eth0", "--from", from]).unwrap();
    }
    let said = lab.install_sh(FRONT_END, &["frontend", "--from", from]).unwrap();
    assert!(
        !said.lines().any(|line| line.starts_with("keep")),
        "a stock file was not known as stock: {said}"
    );
}

fn programs() -> PathBuf {
    causeway_suite::programs::program("causeway-vmm").unwrap().parent().unwrap().to_owned()
}

/// Two listings of the same places.
fn same(place: &str, before: &str, after: &str) {
    let lost = before.lines().filter(|line| !after.lines().any(|other| other == *line));
    let found = after.lines().filter(|line| !before.lines().any(|other| other == *line));
    let difference: Vec<String> =
        lost.map(|line| format!("- {line}")).chain(found.map(|line| format!("+ {line}"))).collect();
    assert!(difference.is_empty(), "{place} is not as it was:\n{}", difference.join("\n"));
}

impl Road<'_> {
    /// Hosts, datastores, an image and a network.
    fn is_set_up(&mut self) {
        for host in HOSTS {
            self.cloud.ask(&["onehost", "create", host, "-i", "qemu", "-v", "qemu"]).unwrap();
        }
        let system = "NAME=shared-system\nTYPE=SYSTEM_DS\nTM_MAD=qcow2\n";
        self.system = self.cloud.create("onedatastore", system, &[]).unwrap();
        let images = "NAME=images\nTYPE=IMAGE_DS\nDS_MAD=fs\nTM_MAD=qcow2\nSAFE_DIRS=/var/tmp\n";
        let images = self.cloud.create("onedatastore", images, &[]).unwrap().to_string();
        for datastore in [&images, &self.system.to_string()] {
            let measured = |document: &Element| text(document, "FREE_MB") != "0";
            self.cloud.wait_for(("onedatastore", datastore, SOON), measured).unwrap();
        }
        let network = format!(
            "NAME=net\nVN_MAD=vxlan\nPHYDEV=eth0\nVLAN_ID={}\nMTU=1450\n
            AR=[ TYPE=IP4, IP={}, MAC=02:00:0a:09:00:0b, SIZE=1 ]\n",
            guest::VNI,
            guest::ADDRESS
        );
        self.network = self.cloud.create("onevnet", &network, &[]).unwrap();
        let file = "/var/tmp/disk.qcow2";
        self.cloud.ask(&["qemu-img", "create", "-q", "-f", "qcow2", file, "32M"]).unwrap();
        let image = format!("NAME=disk\nTYPE=DATABLOCK\nPATH={file}\nFORMAT=qcow2\n");
        self.image = self.cloud.create("oneimage", &image, &["-d", &images]).unwrap();
        self.is_in_state("oneimage", &self.image.to_string(), READY);
        for host in HOSTS {
            self.is_in_state("onehost", host, MONITORED);
        }
        // The last of what install.sh tells an admin to do.
        self.cloud.ask(&["onehost", "sync", "--force"]).unwrap();
    }

    fn is_in_state(&self, command: &str, thing: &str, state: &str) {
        self.cloud
            .wait_for((command, thing, MONITORING), |document| text(document, "STATE") == state)
            .unwrap();
    }

    /// `onevm create` of the lab's guest, with a disk; as its player describes it, but for its number.
    fn creates(&self) -> Guest {
        let mut vm = guest::virtual_machine(self.lab.directory(), 24, 1500);
        let template = format!(
            "NAME=traveller\nCPU=0.1\nVCPU=1\nMEMORY=128\nCONTEXT=[ NETWORK=\"YES\", TARGET=\"hda\" ]\n
            OS=[ ARCH=\"x86_64\", MACHINE=\"pc\", KERNEL=\"{}\", INITRD=\"{}\", KERNEL_CMD=\"{}\" ]\n
            DISK=[ IMAGE_ID={}, TARGET=\"vda\" ]\nNIC=[ NETWORK_ID={}, MODEL=\"virtio\" ]\n
            RAW=[ TYPE=\"kvm\", VALIDATE=\"NO\", DATA=\"{NO_ROM}\" ]\n",
            vm.kernel.display(),
            vm.initrd.display(),
            vm.cmdline,
            self.image,
            self.network
        );
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
