//! A process that dies between any two steps: what it leaves is finished by the next run, and never harms another guest.

#![cfg(test)]

mod common;

use causeway_core::names::VmId;
use causeway_vnm::root::step::{Log, Step};
use causeway_vnm::root::{Outcome, Verb, action, server};
use common::{Host, document, ip, nic, request, vm};

fn dies_before(host: &Host, verb: Verb, document: &str, step: usize) -> bool {
    common::dies_before(host, &request(verb, document), step)
}

fn two(id: u32) -> String {
    document(id, &format!("{}{}", nic(id, 0, 4, ""), nic(id, 1, 5, "<MTU>1400</MTU>")))
}

#[test]
fn pre_is_finished_by_the_next_pre() {
    let finished = {
        let host = Host::new();
        host.done(Verb::Pre, &two(7));
        host.links()
    };
    let mut points = 0;
    loop {
        let host = Host::new();
        if !dies_before(&host, Verb::Pre, &two(7), points) {
            break;
        }
        host.done(Verb::Pre, &two(7));
        assert_eq!(host.links(), finished, "died before step {points}");
        for name in &finished {
            assert_eq!(host.link(name)["ifalias"], "causeway", "{name}, died before step {points}");
        }
        assert_eq!(host.done(Verb::Pre, &two(7)), [""; 0]);
        points += 1;
    }
    assert_eq!(points, 9, "one reservation and eight changes");
}

#[test]
fn what_a_dead_pre_left_is_cleaned() {
    for step in 0..9 {
        let host = Host::new();
        assert!(dies_before(&host, Verb::Pre, &two(7), step));
        host.done(Verb::Clean, &two(7));
        assert_eq!(host.links(), [""; 0], "died before step {step}");
        assert!(host.reservation(VmId(7)).is_none());
    }
}

#[test]
fn what_a_dead_pre_left_is_cleaned_even_if_its_reservation_is_lost() {
    for step in 0..9 {
        let host = Host::new();
        assert!(dies_before(&host, Verb::Pre, &two(7), step));
        let _ = std::fs::remove_dir_all(&host.places.reservations);
        host.done(Verb::Clean, &two(7));
        assert_eq!(host.links(), [""; 0], "died before step {step}");
    }
}

#[test]
fn clean_is_finished_by_the_next_clean_or_undone_by_the_next_pre() {
    let mut points = 0;
    loop {
        let dead = || {
            let host = Host::new();
            host.done(Verb::Pre, &two(7));
            let died = dies_before(&host, Verb::Clean, &two(7), points);
            (host, died)
        };
        let (host, died) = dead();
        if !died {
            break;
        }
        host.done(Verb::Clean, &two(7));
        assert_eq!(host.links(), [""; 0], "died before step {points}");
        let (host, _) = dead();
        host.done(Verb::Pre, &two(7));
        assert_eq!(host.links(), ["onebr.4", "onebr.5", "up0.4", "up0.5"], "died before step {points}");
        points += 1;
    }
    assert_eq!(points, 5, "four removals and the reservation");
}

#[test]
fn a_death_takes_nothing_from_a_running_guest() {
    for verb in [Verb::Pre, Verb::Clean] {
        for step in 0..9 {
            let host = Host::new();
            host.done(Verb::Pre, &vm(1, 4));
            host.plug("one-1-0", "onebr.4");
            if verb == Verb::Clean {
                host.done(Verb::Pre, &two(7));
            }
            dies_before(&host, verb, &two(7), step);
            for name in ["one-1-0", "up0.4"] {
                assert_eq!(host.link(name)["master"], "onebr.4", "{verb:?} died before step {step}");
            }
            host.done(Verb::Clean, &two(7));
            assert_eq!(host.links(), ["one-1-0", "onebr.4", "up0.4"]);
        }
    }
}

#[test]
fn many_guests_come_and_go_at_once() {
    let host = Host::new();
    // Threads share the namespace of the thread that starts them.
    std::thread::scope(|scope| {
        for id in 1..=16 {
            let places = &host.places;
            scope.spawn(move || {
                let run = |verb| {
                    let response = server::answer(places, &request(verb, &two(id)));
                    assert_eq!(response.outcome, Outcome::Done, "VM {id} {verb:?}");
                };
                for _ in 0..3 {
                    run(Verb::Pre);
                    let master = |name: &str| {
                        let text =
                            std::process::Command::new("ip").args(["link", "show", name]).output().unwrap();
                        String::from_utf8(text.stdout).unwrap()
                    };
                    assert!(master("up0.4").contains("master onebr.4"), "VM {id} has reserved it");
                    assert!(master("up0.5").contains("master onebr.5"), "VM {id} has reserved it");
                    run(Verb::Clean);
                }
            });
        }
    });
    assert_eq!(host.links(), [""; 0]);
    host.assert_no_trace();
    ip("link show up0");
}

/// Runs `pre` while somebody else runs `commands` just before the first change.
fn raced(host: &Host, commands: &[&str]) -> (Outcome, Vec<String>) {
    let request = request(Verb::Pre, &vm(7, 4));
    let mut pending = Some(commands);
    let mut before = |step: &Step<'_>| {
        if let Step::Change(_) = step {
            pending.take().unwrap_or_default().iter().for_each(|words| drop(ip(words)));
        }
    };
    let mut log = Log::new(&mut before);
    let outcome = match action::run(&host.places, &request, &mut log) {
        Ok(_) => Outcome::Done,
        Err(failure) => Outcome::Failed(failure),
    };
    (outcome, log.changes.iter().map(ToString::to_string).collect())
}

#[test]
fn a_device_that_somebody_makes_meanwhile_is_compared() {
    let host = Host::new();
    let bridge = "link add onebr.4 type bridge";
    let (outcome, changes) = raced(&host, &[bridge]);
    assert!(
        matches!(&outcome, Outcome::Failed(f) if f.text.contains("was not made by causeway")),
        "{outcome:?}"
    );
    assert_eq!((changes.len(), host.links()), (0, vec!["onebr.4".to_owned()]));
    assert!(host.reservation(VmId(7)).is_none());

    let host = Host::new();
    let tunnel =
        "link add up0.4 master onebr.4 up type vxlan id 4 group 239.0.0.4 ttl 16 dev up0 dstport 8472";
    let (outcome, changes) =
        raced(&host, &[bridge, "link set onebr.4 up", tunnel, "link set up0.4 mtu 1500"]);
    assert_eq!((outcome, changes), (Outcome::Done, vec![]), "it is what we would have made");
}
