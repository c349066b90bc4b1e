//! `shutdown` and `cancel`.

use causeway_domain::fake::Lie;
use causeway_domain::{Cause, Code, PauseReason, State};

use super::*;
use crate::host::stop::{DESTROY_TIMEOUT, destroy};

const ARGV: [&str; 4] = [UUID, "node1", "0", "node1"];

fn stop(bench: &Bench, verb: &str) -> Result<Done, Failure> {
    bench.run(verb, &ARGV, b"")
}

/// All calls of that operation are answered so.
fn always(bench: &Bench, operation: Operation, cause: &Cause) {
    (1..=1000).for_each(|nth| bench.host.lie(operation, nth, Lie::Instead(cause.clone())));
}

#[test]
fn a_guest_that_is_gone_was_ended_already() {
    for verb in ["shutdown", "cancel"] {
        let bench = Bench::new();
        done(stop(&bench, verb), Effect::Already);
        assert_eq!(bench.host.operations(), [Operation::Lookup]);
    }
}

#[test]
fn a_guest_that_listens_is_only_asked() {
    let bench = Bench::with_guest();
    done(stop(&bench, "shutdown"), Effect::Made);
    assert_eq!(bench.host.truth(&id()), None);
    assert_eq!(bench.count(Operation::Shutdown), 1);
    assert_eq!(bench.count(Operation::Destroy), 0);
}

#[test]
fn a_guest_that_was_still_booting_is_asked_again_at_half_time() {
    let mut bench = Bench::with_guest();
    bench.settings.kvmrc.shutdown_timeout = Duration::from_secs(3);
    bench.host.ignore_shutdown(&id());
    let asked_again = |bench: &Bench| bench.count(Operation::Shutdown) == 2;
    let result = bench.meanwhile(asked_again, |b| b.host.kill(&id()), || stop(&bench, "shutdown"));
    done(result, Effect::Made);
    assert_eq!((bench.count(Operation::Shutdown), bench.count(Operation::Destroy)), (2, 0));
}

#[test]
fn a_second_request_that_is_refused_does_not_end_the_wait() {
    let mut bench = Bench::with_guest();
    bench.settings.kvmrc.shutdown_timeout = Duration::from_secs(3);
    bench.host.ignore_shutdown(&id());
    let cause = Cause::libvirt(Code::WrongState, "domain is not running");
    bench.host.lie(Operation::Shutdown, 2, Lie::Instead(cause));
    let asked_again = |bench: &Bench| bench.count(Operation::Shutdown) == 2;
    let result = bench.meanwhile(asked_again, |b| b.host.kill(&id()), || stop(&bench, "shutdown"));
    done(result, Effect::Made);
}

/// Contract VMM 7, C3.
#[test]
fn a_forced_power_off_is_named_and_is_looked_at() {
    let bench = Bench::with_guest();
    bench.host.ignore_shutdown(&id());
    done(stop(&bench, "shutdown"), Effect::Made);
    assert_eq!(bench.host.truth(&id()), None);
    assert_eq!(bench.host.operations().last(), Some(&Operation::Lookup), "success is libvirt's word");
    assert!(bench.lines()[0].ends_with("powering it off"), "{:?}", bench.lines());
    assert_eq!(bench.count(Operation::Shutdown), 2);
}

#[test]
fn without_force_destroy_a_deaf_guest_runs_on() {
    let mut bench = Bench::with_guest();
    bench.settings.kvmrc.force_destroy = false;
    bench.host.ignore_shutdown(&id());
    refused(stop(&bench, "shutdown"), Kind::Timeout, "FORCE_DESTROY is not set");
    assert_eq!(bench.host.truth(&id()).unwrap().state, State::Running);
    assert_eq!(bench.count(Operation::Destroy), 0);
}

#[test]
fn a_guest_without_acpi_is_powered_off_at_once_if_the_host_says_so() {
    let mut bench = Bench::with_guest();
    bench.settings.kvmrc.cancel_no_acpi = true;
    done(stop(&bench, "shutdown"), Effect::Made);
    assert_eq!((bench.count(Operation::Shutdown), bench.count(Operation::Destroy)), (0, 1));
    let mut bench = Bench::new();
    bench.settings.kvmrc.cancel_no_acpi = true;
    bench.host.create(&domain("<features><acpi/></features>")).unwrap();
    done(stop(&bench, "shutdown"), Effect::Made);
    assert_eq!((bench.count(Operation::Shutdown), bench.count(Operation::Destroy)), (1, 0));
}

/// Contract VMM 7, C2: at whatever call libvirt falls silent, the guest is never said to be gone.
#[test]
fn a_libvirt_that_cannot_be_asked_is_never_a_guest_that_is_gone() {
    for verb in ["shutdown", "cancel"] {
        for nth in 1..=3 {
            let bench = Bench::with_guest();
            (nth..=1000)
                .for_each(|n| bench.host.lie(Operation::Lookup, n, Lie::Instead(Cause::unreachable())));
            let result = stop(&bench, verb);
            // The first look sees it run, the second one sees it gone: a third is not needed.
            match nth {
                3 => done(result, Effect::Made),
                _ => refused(result, Kind::Unreachable, "cannot reach libvirt"),
            }
        }
        let bench = Bench::with_guest();
        bench.host.set_unreachable(true);
        refused(stop(&bench, verb), Kind::Unreachable, "cannot reach libvirt");
        assert!(bench.host.truth(&id()).is_some());
    }
}

#[test]
fn a_wait_ends_with_its_action_and_the_guest_runs_on() {
    let mut bench = Bench::with_guest();
    bench.settings.kvmrc.shutdown_timeout = Duration::from_secs(3600);
    bench.host.ignore_shutdown(&id());
    let asked = |bench: &Bench| bench.count(Operation::Shutdown) == 1;
    let result = bench.meanwhile(asked, Bench::cancel, || stop(&bench, "shutdown"));
    refused(result, Kind::Cancelled, "cancelled");
    assert_eq!(bench.host.truth(&id()).unwrap().state, State::Running);
}

/// Contract VMM 7, C4.
#[test]
fn a_domain_that_somebody_made_persistent_leaves_no_definition() {
    for verb in ["shutdown", "cancel"] {
        let bench = Bench::with_guest();
        bench.host.set_persistent(&id());
        done(stop(&bench, verb), Effect::Made);
        assert_eq!(bench.host.truth(&id()), None, "{verb}");
        assert_eq!(bench.count(Operation::Destroy), usize::from(verb == "cancel"), "{verb}");
        assert_eq!(bench.count(Operation::Undefine), 1);
    }
}

#[test]
fn a_definition_that_stays_does_not_turn_an_ended_guest_into_a_running_one() {
    let bench = Bench::with_guest();
    bench.host.set_persistent(&id());
    always(&bench, Operation::Undefine, &Cause::libvirt(Code::Other, "cannot undefine"));
    done(stop(&bench, "cancel"), Effect::Made);
    assert_eq!(bench.host.truth(&id()).unwrap().state, State::ShutOff);
    assert_eq!(bench.lines().len(), 1, "{:?}", bench.lines());
    assert!(bench.lines()[0].contains("cannot undefine"), "{:?}", bench.lines());
}

#[test]
fn cancel_ends_a_guest_in_every_state() {
    for state in
        [State::Running, State::Paused(PauseReason::IoError), State::PmSuspended, State::ShuttingDown]
    {
        let bench = Bench::with_guest();
        bench.host.set_state(&id(), state);
        done(stop(&bench, "cancel"), Effect::Made);
        assert_eq!(bench.host.truth(&id()), None, "{state:?}");
    }
}

#[test]
fn a_lost_answer_to_a_destroy_is_made_good_by_looking() {
    let bench = Bench::with_guest();
    bench.host.lie(Operation::Destroy, 1, Lie::After(Cause::Silent(Duration::from_secs(1))));
    done(stop(&bench, "cancel"), Effect::Made);
    assert_eq!(bench.host.truth(&id()), None);
}

#[test]
fn a_guest_that_will_not_die_is_said_to_be_there() {
    let limit = Duration::from_millis(300);
    let bench = Bench::with_guest();
    always(&bench, Operation::Destroy, &Cause::libvirt(Code::Other, "Device or resource busy"));
    let result = bench.call(&ARGV, b"", |call| destroy(call, &id(), limit));
    refused(result, Kind::Refused, "Device or resource busy");
    assert!(bench.count(Operation::Destroy) > 1, "it was tried again");

    let bench = Bench::with_guest();
    always(&bench, Operation::Destroy, &Cause::libvirt(Code::WrongState, "domain is not running"));
    let result = bench.call(&ARGV, b"", |call| destroy(call, &id(), limit));
    refused(result, Kind::Timeout, "is still there");
    assert!(bench.host.truth(&id()).is_some());

    let bench = Bench::with_guest();
    always(&bench, Operation::Destroy, &Cause::libvirt(Code::Other, "Device or resource busy"));
    let tried = |bench: &Bench| bench.count(Operation::Destroy) > 0;
    let result = bench.meanwhile(tried, Bench::cancel, || {
        bench.call(&ARGV, b"", |call| destroy(call, &id(), DESTROY_TIMEOUT))
    });
    refused(result, Kind::Cancelled, "cancelled");
}
