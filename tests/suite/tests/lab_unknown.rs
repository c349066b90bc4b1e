//! Both hosts fall silent in the midst of a move: nothing is answered while nothing is known, and once they are back
//! there is one reply, and it is true.

use std::thread::sleep;
use std::time::Duration;

use causeway_suite::lab::breakpoints::{self, Breakpoint};
use causeway_suite::lab::driver::Driver;
use causeway_suite::lab::truth::{nothing_left, whereabouts};
use causeway_suite::lab::{HOSTS, Standing, guest};

/// Lines in the log every three seconds, where an admin has one every minute.
const SETTINGS: &str = "[migration]\ntransport = \"p2p\"\ntell = 3\n";

/// How far the move is when the cables are pulled.
const MIDST: Duration = Duration::from_secs(1);

#[test]
fn while_nothing_is_known_nothing_is_answered() {
    let lab = Standing::start().unwrap();
    breakpoints::install(&lab).unwrap();
    for host in HOSTS {
        lab.write(host, "/var/tmp/one/etc/vmm/kvm/kvmrc", "MIGRATE_OPTIONS=\"--bandwidth 8\"\n").unwrap();
    }
    let vm = guest::virtual_machine(lab.directory(), 8, 400);
    guest::prepare(&lab, &vm).unwrap();
    lab.run(&["observer", &guest::VNI.to_string(), guest::OBSERVER]).unwrap();
    let mut driver = Driver::start(&lab).unwrap();
    driver.configure(SETTINGS).unwrap();
    driver.succeed(&vm.deploy("h1").unwrap()).unwrap();
    guest::wait(&lab).unwrap();

    let migrate = vm.migrate("h1", "h2").unwrap();
    let begun = Breakpoint::set(&lab, "h1", "migrate", "during").unwrap();
    driver.send(&migrate).unwrap();
    begun.wait().unwrap();
    sleep(MIDST);
    for host in HOSTS {
        lab.plug(host, false).unwrap();
    }
    // The sessions are given up after some 40 s; from then on the log is told.
    driver.oned().unwrap().await_log(i64::from(vm.vm), "still not known where the guest is").unwrap();
    let owed = driver.oned().unwrap().is_square().unwrap_err().to_string();
    assert!(owed.contains("has not answered MIGRATE"), "{owed}");

    for host in HOSTS {
        lab.plug(host, true).unwrap();
    }
    let reply = driver.reply(&migrate).unwrap();
    let (at, other) = if reply.is_success() { ("h2", "h1") } else { ("h1", "h2") };
    let seen = whereabouts(&lab, &vm).unwrap();
    assert!(seen.is_only_on(at), "answered {reply:?}, but the guest is: {seen:?}");
    guest::verify(&lab).unwrap();
    nothing_left(&lab, other).unwrap();
    // The admin's retry.
    driver.succeed(&vm.migrate(at, other).unwrap()).unwrap();
    assert!(whereabouts(&lab, &vm).unwrap().is_only_on(other));
    guest::verify(&lab).unwrap();
    driver.succeed(&vm.cancel(other).unwrap()).unwrap();
    driver.finalize().unwrap();
    drop(driver);
    lab.stop().unwrap();
}
