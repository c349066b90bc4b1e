//! Who works when, and what a cancel stops: the built driver process with several requests at once.
//!
//! No clocks: what must go on side by side waits for each other, and would wait for ever if it did not; what must not is
//! found overlapping in the order of beginnings and ends.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::time::Duration;

use causeway_suite::front_end::{Answer, Event, FrontEnd, NO_LIBVIRT, Site};
use causeway_suite::oned::Oned;
use causeway_suite::request::Request;

/// oned's `kvm` entry as it is shipped.
const KVM: &str = "-t 15 -r 0 kvm -p";

/// oned's `qemu` entry as it is shipped.
const QEMU: &str = "-t 15 -r 0 kvm";

const ID: &str = "6e1f0f2a-0000-4000-8000-000000000001";

fn driver(front_end: &FrontEnd, arguments: &str) -> Oned {
    let nest = front_end.driver("causeway-vmm", arguments).unwrap();
    let mut oned = Oned::start(&nest).unwrap().with_patience(Duration::from_secs(60));
    oned.init().unwrap();
    front_end.answer("vmm/kvm/deploy", &Answer::says(&format!("{ID}\n"))).unwrap();
    oned
}

/// A recorded request for this front-end, VM and host.
fn request(front_end: &FrontEnd, scenario: &str, action: &str, vm: u32, host: &str) -> Request {
    let recorded = Request::recorded(scenario, action).unwrap();
    let old = recorded.vm;
    let local = |text: &str| {
        let text = front_end.localized(text);
        text.replace(&format!("/vms/{old}/"), &format!("/vms/{vm}/")).replace("/102/0", &format!("/102/{vm}"))
    };
    let mut request = recorded.map(local).unwrap();
    request.vm = vm;
    request.set("VM/ID", &vm.to_string()).unwrap();
    request.set("HOST", host).unwrap();
    request
}

fn deploy(front_end: &FrontEnd, vm: u32, host: &str) -> Request {
    let request = request(front_end, "k-qcow2-01", "DEPLOY", vm, host);
    request.write_deployment().unwrap();
    request
}

fn send(oned: &mut Oned, request: &Request) {
    oned.send(&request.action, request.vm, &request.render()).unwrap();
}

/// The largest number of calls of `slot` that ran at once.
fn at_once(front_end: &FrontEnd, slot: &str) -> usize {
    let (mut running, mut most) = (0, 0);
    for event in front_end.events().unwrap() {
        match event {
            Event::Begin(of) if of == slot => running += 1,
            Event::End(of) if of == slot => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    most
}

#[test]
fn with_p_a_host_works_on_several_vms_at_once() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    // x09: three at once on one host; each `deploy` answers when all three have begun.
    let together = Answer::says(&format!("{ID}\n")).once_begun("vmm/kvm/deploy", 3);
    front_end.answer("vmm/kvm/deploy", &together).unwrap();
    for vm in [33, 34, 35] {
        send(&mut oned, &deploy(&front_end, vm, "node1"));
    }
    for vm in [33, 34, 35] {
        assert!(oned.reply("DEPLOY", vm).unwrap().is_success());
    }
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn without_p_a_host_works_on_one_vm_at_a_time_in_order_and_holds_no_other_host_up() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, QEMU);
    // x10: one after another on one host. The first ends only when another host's has begun.
    let first = Answer::says(&format!("{ID}\n")).once_begun("vmm/kvm/deploy", 2);
    front_end.answer_once("vmm/kvm/deploy", &first).unwrap();
    for vm in [36, 37, 38] {
        send(&mut oned, &deploy(&front_end, vm, "localhost"));
    }
    send(&mut oned, &deploy(&front_end, 39, "node2"));
    for vm in [36, 37, 38, 39] {
        assert!(oned.reply("DEPLOY", vm).unwrap().is_success());
    }
    let calls = front_end.calls().unwrap();
    let on_localhost: Vec<&str> = calls
        .iter()
        .filter(|call| call.site == Site::Host("localhost".to_owned()) && call.slot == "vmm/kvm/deploy")
        .map(|call| call.argv[2].as_str())
        .collect();
    assert_eq!(on_localhost, ["36", "37", "38"]);
    // Each began after the one before had ended, whichever script it was in.
    let order: Vec<&str> =
        oned.log().iter().filter(|l| l.text.starts_with("post:")).map(|_| "post").collect();
    assert_eq!(order.len(), 4);
    assert!(at_once(&front_end, "vmm/kvm/deploy") <= 2);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn t_bounds_what_one_host_does_at_once() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, "-t 2 -r 0 kvm -p");
    front_end.answer("vmm/kvm/deploy", &Answer::says(&format!("{ID}\n")).after(0.2)).unwrap();
    for vm in 40..48 {
        send(&mut oned, &deploy(&front_end, vm, "node1"));
    }
    for vm in 40..48 {
        assert!(oned.reply("DEPLOY", vm).unwrap().is_success());
    }
    assert_eq!(at_once(&front_end, "vmm/kvm/deploy"), 2);
    oned.finalize().unwrap();
}

#[test]
fn a_deploy_does_not_wait_for_slow_shutdowns() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, "-t 2 -r 0 kvm -p");
    // Both places of the host are taken by shutdowns that end only after the deploy (contract VMM 7, A12).
    let waits = Answer::default().once_begun("vmm/kvm/deploy", 1);
    front_end.answer("vmm/kvm/shutdown", &waits).unwrap();
    for vm in [50, 51] {
        send(&mut oned, &request(&front_end, "k-qcow2-04", "SHUTDOWN", vm, "node1"));
    }
    send(&mut oned, &deploy(&front_end, 52, "node1"));
    assert!(oned.reply("DEPLOY", 52).unwrap().is_success());
    for vm in [50, 51] {
        assert!(oned.reply("SHUTDOWN", vm).unwrap().is_success());
    }
    oned.finalize().unwrap();
}

#[test]
fn requests_of_one_vm_are_served_one_after_another() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let reboot = request(&front_end, "k-vmm-01", "REBOOT", 7, "node1");
    let reset = request(&front_end, "k-vmm-01", "RESET", 7, "node1");
    front_end.answer("vmm/kvm/reboot", &Answer::default().after(0.3)).unwrap();
    send(&mut oned, &reboot);
    send(&mut oned, &reset);
    send(&mut oned, &reboot);
    oned.reply("RESET", 7).unwrap();
    oned.reply("REBOOT", 7).unwrap();
    oned.reply("REBOOT", 7).unwrap();
    let (begin, end) = (|s: &str| Event::Begin(s.to_owned()), |s: &str| Event::End(s.to_owned()));
    let (a, b) = ("vmm/kvm/reboot", "vmm/kvm/reset");
    assert_eq!(front_end.events().unwrap(), [begin(a), end(a), begin(b), end(b), begin(a), end(a)]);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_backup_is_cancelled_while_it_runs() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    // k-vmm-12: BACKUPCANCEL comes during the BACKUP of the same VM, which it is to end.
    let until = Answer::fails(1, "ERROR: cancelled\n").once_begun("datastore/rsync/backup_cancel", 1);
    front_end.answer("datastore/rsync/backup", &until).unwrap();
    send(&mut oned, &request(&front_end, "k-vmm-12", "BACKUP", 4, "node1"));
    oned.await_log(4, "tm_prebackup_live: done").unwrap();
    send(&mut oned, &request(&front_end, "k-vmm-12", "BACKUPCANCEL", 4, "node1"));
    assert!(oned.reply("BACKUPCANCEL", 4).unwrap().is_success());
    assert!(!oned.reply("BACKUP", 4).unwrap().is_success());
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

/// Before there is an upload that stock's `backup_cancel` could end, the driver ends the backup by itself.
#[test]
fn a_backup_is_cancelled_while_it_is_prepared() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let never = Answer::default().once_begun("datastore/rsync/backup", 1);
    front_end.answer("tm/qcow2/prebackup_live", &never).unwrap();
    send(&mut oned, &request(&front_end, "k-vmm-12", "BACKUP", 4, "node1"));
    let begun = Event::Begin("tm/qcow2/prebackup_live".to_owned());
    while !front_end.events().unwrap().contains(&begun) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    send(&mut oned, &request(&front_end, "k-vmm-12", "BACKUPCANCEL", 4, "node1"));
    assert!(oned.reply("BACKUPCANCEL", 4).unwrap().is_success());
    let reply = oned.reply("BACKUP", 4).unwrap();
    assert!(!reply.is_success() && reply.payload.contains("cancelled"), "{}", reply.payload);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_cancelled_migration_is_stopped_before_its_clean_up_and_never_answered() {
    for uri in ["test:///default", NO_LIBVIRT] {
        cancelled_migration(&FrontEnd::with_libvirt(uri).unwrap());
    }
}

fn cancelled_migration(front_end: &FrontEnd) {
    let mut oned = driver(front_end, KVM);
    // x04: DRIVER_CANCEL in a live migration, CLEANUP at once after it.
    let endless = Answer::default().once_run("echo $$ >\"$home/mover\"; sleep 600");
    front_end.answer("vmm/kvm/migrate", &endless).unwrap();
    let witness = "if kill -0 \"$(cat \"$home/mover\")\" 2>/dev/null; then : >\"$home/overlap\"; fi";
    front_end.answer("vmm/kvm/cancel", &Answer::default().once_run(witness)).unwrap();
    send(&mut oned, &request(front_end, "k-qcow2-06", "MIGRATE", 29, "node1"));
    oned.await_log(29, "pre:ovswitch_vxlan: done").unwrap();
    await_begin(front_end, "vmm/kvm/migrate");
    oned.cancel(29).unwrap();
    let mut cleanup = request(front_end, "x04", "CLEANUP", 29, "node2");
    cleanup.set("MIGR_HOST", "node1").unwrap();
    send(&mut oned, &cleanup);
    assert!(oned.reply("CLEANUP", 29).unwrap().is_success());
    let calls = front_end.calls().unwrap();
    let from = calls.iter().position(|call| call.slot == "vmm/kvm/migrate").unwrap();
    let mut since = calls.iter().skip(from);
    assert_eq!(since.next().unwrap().code, None, "the migration ended by itself");
    assert!(!front_end.root().join("slots/overlap").exists(), "it still ran during the clean-up");
    // What had been done for it is undone first, on the destination; then comes the clean-up, on both hosts.
    let slots: Vec<&str> = since.map(|call| call.slot.as_str()).collect();
    let (undo, cleanup) = slots.split_at(2);
    assert_eq!(undo, ["vnm/ovswitch_vxlan/clean", "tm/qcow2/failmigrate"]);
    let cancel_clean = ["vmm/kvm/cancel", "vnm/ovswitch_vxlan/clean"];
    let delete = ["tm/qcow2/delete", "tm/qcow2/delete"];
    assert_eq!(cleanup, [&cancel_clean[..], &cancel_clean[..], &delete[..]].concat());
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_cancelled_deploy_is_undone_and_never_answered() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    // k-fail-17: DRIVER_CANCEL in a slow DEPLOY; the CLEANUP that follows has no guest's id.
    let slow = Answer::says(&format!("{ID}\n")).after(1.0);
    front_end.answer("vmm/kvm/deploy", &slow).unwrap();
    send(&mut oned, &deploy(&front_end, 8, "node1"));
    await_begin(&front_end, "vmm/kvm/deploy");
    oned.cancel(8).unwrap();
    let mut cleanup = request(&front_end, "k-fail-17", "CLEANUP", 8, "node1");
    cleanup.set("DEPLOY_ID", "").unwrap();
    send(&mut oned, &cleanup);
    assert!(oned.reply("CLEANUP", 8).unwrap().is_success());
    let calls = front_end.calls().unwrap();
    let slots: Vec<&str> = calls.iter().map(|call| call.slot.as_str()).collect();
    let deploy = slots.iter().position(|slot| *slot == "vmm/kvm/deploy").unwrap();
    // Nobody else would end the guest: its `cancel` comes from the undo, and before the clean-up deletes its disks.
    let cancel = slots.iter().position(|slot| *slot == "vmm/kvm/cancel");
    let delete = slots.iter().position(|slot| *slot == "tm/qcow2/delete").unwrap();
    if calls[deploy].code.is_some() {
        assert!(cancel.is_some_and(|cancel| deploy < cancel && cancel < delete), "{slots:?}");
    }
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_cancel_reaches_what_still_waits() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, QEMU);
    front_end.answer_once("vmm/kvm/reboot", &Answer::default().once_begun("vmm/kvm/reset", 1)).unwrap();
    send(&mut oned, &request(&front_end, "k-vmm-01", "REBOOT", 60, "node1"));
    await_begin(&front_end, "vmm/kvm/reboot");
    // Two of one VM wait for the host; a cancel takes both (contract VMM 7, A4), and nobody else's.
    send(&mut oned, &deploy(&front_end, 61, "node1"));
    send(&mut oned, &request(&front_end, "k-vmm-01", "REBOOT", 61, "node1"));
    oned.cancel(61).unwrap();
    send(&mut oned, &request(&front_end, "k-vmm-01", "REBOOT", 62, "node2"));
    // Opens the gate.
    send(&mut oned, &request(&front_end, "k-vmm-01", "RESET", 63, "node2"));
    for (action, vm) in [("REBOOT", 60), ("REBOOT", 62), ("RESET", 63)] {
        assert!(oned.reply(action, vm).unwrap().is_success());
    }
    assert!(front_end.calls().unwrap().iter().all(|call| !call.argv.contains(&"61".to_owned())));
    oned.is_square().unwrap();
    // A cancel for a VM that nobody works on is no offence.
    oned.cancel(99).unwrap();
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_host_that_never_speaks_costs_its_own_deadline_and_nobody_elses() {
    let front_end = FrontEnd::new().unwrap();
    front_end.configure("[deadlines]\nconnect = 8\n").unwrap();
    let mut oned = driver(&front_end, KVM);
    for vm in 70..75 {
        send(&mut oned, &deploy(&front_end, vm, "silent"));
    }
    send(&mut oned, &deploy(&front_end, 75, "nodown"));
    send(&mut oned, &deploy(&front_end, 76, "node1"));
    let good = oned.reply("DEPLOY", 76).unwrap();
    assert!(good.is_success());
    for vm in 70..75 {
        let bad = oned.reply("DEPLOY", vm).unwrap();
        assert!(!bad.is_success() && bad.payload.contains("silent"), "{bad:?}");
        assert!(good.at < bad.at, "a live host waited for a dead one");
    }
    // k-fail-21.
    let refused = oned.reply("DEPLOY", 75).unwrap();
    assert!(!refused.is_success() && refused.payload.contains("nodown"), "{refused:?}");
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_lost_session_is_opened_again_and_its_step_run_again() {
    let mut front_end = FrontEnd::with_libvirt("test:///default").unwrap();
    let mut oned = driver(&front_end, KVM);
    let slot = "vnm/ovswitch_vxlan/pre";
    front_end.answer_once(slot, &Answer::default().after(600.0)).unwrap();
    send(&mut oned, &deploy(&front_end, 80, "node1"));
    await_begin(&front_end, slot);
    front_end.cut_ssh();
    front_end.mend_ssh().unwrap();
    let reply = oned.reply("DEPLOY", 80).unwrap();
    assert!(reply.is_success(), "{reply:?}");
    let codes: Vec<Option<i32>> =
        front_end.calls().unwrap().iter().filter(|call| call.slot == slot).map(|call| call.code).collect();
    // The first was killed when its driver was out of reach: nobody would have heard its answer.
    assert_eq!(codes, [None, Some(0)]);
    assert_eq!(at_once(&front_end, "vmm/kvm/deploy"), 1);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn an_empty_slot_is_a_clear_failure_and_undone() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    // Not built in this version, and nobody else's script there: never silently nothing.
    front_end.empty_slot("vmm/kvm/save").unwrap();
    front_end.our_slot("vmm/kvm/reset").unwrap();
    for (scenario, action, named) in
        [("k-qcow2-02", "SAVE", "vmm/kvm/save"), ("k-vmm-01", "RESET", "vmm/kvm/reset")]
    {
        let request = request(&front_end, scenario, action, 81, "node1");
        send(&mut oned, &request);
        let reply = oned.reply(action, 81).unwrap();
        assert!(!reply.is_success() && reply.payload.contains(named), "{reply:?}");
    }
    front_end.empty_slot("vnm/ovswitch_vxlan/update_sg").unwrap();
    send(&mut oned, &request(&front_end, "k-vmm-06", "UPDATESG", 81, "node1"));
    let reply = oned.reply("UPDATESG", 81).unwrap();
    assert!(!reply.is_success() && reply.payload.starts_with("100 "), "{reply:?}");
    assert_eq!(front_end.calls().unwrap().len(), 0);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

/// Waits until a stand-in has begun.
fn await_begin(front_end: &FrontEnd, slot: &str) {
    for _ in 0..1200 {
        if front_end.events().unwrap().contains(&Event::Begin(slot.to_owned())) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{slot} was not called within a minute");
}
