//! One guest's road on real parts, with the things that go wrong on the way: moves in both ways of driving them, a move
//! that is cancelled, one to a host that is not ready for it, and repeats of what is done already. The guest reads its
//! context image when it comes.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_core::plan::{Place, Plan};
use causeway_suite::lab::driver::Driver;
use causeway_suite::lab::truth::{no_file_left, nothing_left, residents, whereabouts};
use causeway_suite::lab::{HOSTS, Lab, Standing, guest};
use causeway_suite::request::Guest;

#[path = "lab/context.rs"]
mod context;

const P2P: &str = "[migration]\ntransport = \"p2p\"\n";
const SSH: &str = "[migration]\ntransport = \"ssh\"\n";

/// Where the hosts have it.
const KVMRC: &str = "/var/tmp/one/etc/vmm/kvm/kvmrc";

/// Gives the domain `$1` the metadata of two snapshots, the older one current, as if it had gone back to it.
const SNAPSHOTS: &str = "
set -eu
domain=$(virsh dumpxml --security-info \"$1\")
define() {
  printf '<domainsnapshot><name>%s</name>%s<state>running</state><creationTime>1795195897</creationTime>%s</domainsnapshot>' \
    \"$1\" \"$2\" \"$domain\" >/run/snapshot.xml
  virsh -q snapshot-create \"$domain_id\" /run/snapshot.xml --redefine $3
  rm /run/snapshot.xml
}
domain_id=$1
define snap-0 '' --current
define snap-1 '<parent><name>snap-0</name></parent>' ''
";

struct Road<'a> {
    lab: &'a Lab,
    vm: Guest,
    driver: Driver<'a>,
}

#[test]
fn a_guest_comes_moves_and_goes_and_leaves_nothing() {
    let lab = Standing::start().unwrap();
    // 24 MiB, 1500 pages a second: a move at 8 MiB a second takes long enough to be cancelled.
    let mut vm = guest::virtual_machine(lab.directory(), 24, 1500);
    context::give(&lab, &mut vm);
    guest::prepare(&lab, &vm).unwrap();
    lab.run(&["observer", &guest::VNI.to_string(), guest::OBSERVER]).unwrap();
    let mut road = Road { lab: &lab, driver: Driver::start(&lab).unwrap(), vm };

    road.comes();
    // libvirt lets no guest go that has any.
    lab.script("h1", SNAPSHOTS, &[&road.vm.uuid]).unwrap();
    road.moves(P2P, "h1", "h2");
    road.moves(SSH, "h2", "h1");
    for host in HOSTS {
        lab.write(host, KVMRC, "MIGRATE_OPTIONS=\"--bandwidth 8\"\n").unwrap();
    }
    road.is_held_back(P2P);
    road.is_held_back(SSH);
    road.is_not_let_in();
    road.goes();
    drop(road);
    lab.stop().unwrap();
}

impl Road<'_> {
    /// DEPLOY, and the same once more.
    fn comes(&mut self) {
        let deploy = self.vm.deploy("h1").unwrap();
        for _ in 0..2 {
            assert_eq!(self.driver.succeed(&deploy).unwrap().payload, self.vm.uuid);
            self.is_on("h1");
        }
        guest::wait(self.lab).unwrap();
        guest::verify(self.lab).unwrap();
        context::was_read(self.lab, &self.vm);
    }

    fn is_on(&self, host: &str) {
        let seen = whereabouts(self.lab, &self.vm).unwrap();
        assert!(seen.is_only_on(host), "{seen:?}, not only on {host}");
    }

    /// Its snapshots and which one is current have come along, or have stayed.
    fn has_snapshots(&self, host: &str) {
        let script =
            "virsh -q snapshot-list --name --topological \"$1\"; virsh -q snapshot-current --name \"$1\"";
        let names = self.lab.script(host, script, &[&self.vm.uuid]).unwrap();
        assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["snap-0", "snap-1", "snap-0"]);
    }

    /// MIGRATE, driven as these settings say.
    fn moves(&mut self, settings: &str, from: &str, to: &str) {
        self.driver.configure(settings).unwrap();
        let migrate = self.vm.migrate(from, to).unwrap();
        assert_eq!(is_delegated(&self.driver.plan(&migrate).unwrap()), settings == SSH);
        self.driver.succeed(&migrate).unwrap();
        self.is_on(to);
        self.has_snapshots(to);
        nothing_left(self.lab, from).unwrap();
        guest::verify(self.lab).unwrap();
    }

    /// DRIVER_CANCEL in the middle of a move: no reply, and all as it was.
    fn is_held_back(&mut self, settings: &str) {
        self.driver.configure(settings).unwrap();
        let migrate = self.vm.migrate("h1", "h2").unwrap();
        self.driver.send(&migrate).unwrap();
        self.is_under_way();
        self.driver.oned().unwrap().cancel(self.vm.vm).unwrap();
        // A VM's requests wait for each other: this one is answered once the cancelled one has ended.
        let deploy = self.vm.deploy("h1").unwrap();
        assert_eq!(self.driver.succeed(&deploy).unwrap().payload, self.vm.uuid);
        self.is_on("h1");
        self.has_snapshots("h1");
        nothing_left(self.lab, "h2").unwrap();
        guest::verify(self.lab).unwrap();
        self.driver.oned().unwrap().is_square().unwrap();
    }

    fn is_under_way(&self) {
        let start = Instant::now();
        let job = || self.lab.run(&["exec", "h1", "virsh", "domjobinfo", &self.vm.uuid]).unwrap();
        while !job().contains("Memory processed") {
            assert!(start.elapsed() < Duration::from_secs(60), "the move does not begin");
        }
    }

    /// MIGRATE to a host that does not let the network on its uplink.
    fn is_not_let_in(&mut self) {
        self.lab.list_uplinks("h2", "eth9\n").unwrap();
        let migrate = self.vm.migrate("h1", "h2").unwrap();
        let reply = self.driver.ask(&migrate).unwrap();
        assert!(!reply.is_success() && reply.payload.contains("eth0"), "{reply:?}");
        self.is_on("h1");
        nothing_left(self.lab, "h2").unwrap();
        guest::verify(self.lab).unwrap();
        self.lab.list_uplinks("h2", "eth0\n").unwrap();
    }

    /// SHUTDOWN, then CANCEL of what is gone, twice; CLEANUP; and not a trace.
    fn goes(&mut self) {
        self.driver.succeed(&self.vm.shutdown("h1").unwrap()).unwrap();
        assert!(whereabouts(self.lab, &self.vm).unwrap().is_nowhere());
        for _ in 0..2 {
            self.driver.succeed(&self.vm.cancel("h1").unwrap()).unwrap();
        }
        self.driver.succeed(&self.vm.cleanup("h1", Some("h2")).unwrap()).unwrap();
        self.driver.finalize().unwrap();
        no_file_left(self.lab, &self.vm).unwrap();
        for host in HOSTS {
            nothing_left(self.lab, host).unwrap();
            let start = Instant::now();
            while !residents(self.lab, host).unwrap().is_empty() {
                assert!(start.elapsed() < Duration::from_secs(60), "a resident stays on {host}");
                sleep(Duration::from_millis(100));
            }
        }
    }
}

fn is_delegated(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| step.name == "migrate" && matches!(step.place, Place::Delegated(_)))
}
