//! The recorded requests, played to the built driver process with recording stand-ins in all slots: the same scripts in
//! the same order, with the same arguments and the same bytes on standard input, and the same reply. What is otherwise is
//! a decision, and stands in [`DECISIONS`] with the reason.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use causeway_suite::front_end::{Call, FrontEnd, Site};
use causeway_suite::recorded::{Exchange, Scenario, scenarios};
use causeway_suite::replay::{Difference, Stage, stage_of};
use causeway_suite::request::Request;
use causeway_suite::xml::Element;

/// oned's arguments of its `kvm` entry as it is shipped.
const KVM: &str = "-t 15 -r 0 kvm -p";

/// Where ours behaves otherwise than stock, knowingly. Each row must be met by the recordings.
struct Decision {
    name: &'static str,
    /// The contract's section.
    section: &'static str,
    reason: &'static str,
    covers: fn(scenario: &str, action: &str, difference: &Difference) -> bool,
}

const DECISIONS: [Decision; 7] = [
    Decision {
        name: "failure-text",
        section: "VMM 2.3 step 8, 7 A10, C12",
        reason: "a failure names the step and what its script said; stock glues lines together, or says `-`, which \
                 oned suppresses",
        covers: |_, _, difference| match difference {
            Difference::Reply { recorded, ours } => {
                (recorded.0.as_str(), ours.0.as_str()) == ("FAILURE", "FAILURE") && ours.1.contains(": ")
            }
            _ => false,
        },
    },
    Decision {
        name: "empty-payload",
        section: "VMM 1.3, 2.3 step 9",
        reason: "success without a payload is `-` after every action; stock has it after some and nothing after others",
        covers: |_, _, difference| payloads(difference) == Some(("", "-")),
    },
    Decision {
        name: "update-payload",
        section: "VMM 1.4",
        reason: "oned reads the first word of an UPDATESG or UPDATENIC reply; what stock adds is nobody's",
        covers: |_, action, difference| match (action, payloads(difference)) {
            ("UPDATESG" | "UPDATENIC", Some((recorded, ours))) => recorded.split(' ').next() == Some(ours),
            _ => false,
        },
    },
    Decision {
        name: "request-as-argument",
        section: "VMM 2.4 (ATTACHDISK, RESIZEDISK)",
        reason: "the request that two scripts get as an argument is the document that all others get on standard input; \
                 stock hands on oned's own bytes, which say the same",
        covers: |_, action, difference| {
            ["ATTACHDISK", "RESIZEDISK"].contains(&action)
                && matches!(difference, Difference::Document { same: true, .. })
        },
    },
    Decision {
        name: "deploy-undoes-pre",
        section: "VMM 2.4, 7 B3",
        reason: "a network that failed half-way is taken down again; stock leaves it",
        covers: |scenario, _, difference| {
            scenario.starts_with("k-fail-02") && adds(difference, &["vnm/ovswitch_vxlan/clean"])
        },
    },
    Decision {
        name: "migrate-undoes-pre",
        section: "VMM 2.4, 7 B4",
        reason: "the destination's network is taken down again when the guest does not come; stock leaves it",
        covers: |scenario, _, difference| {
            scenario.starts_with("k-fail-04") && adds(difference, &["vnm/ovswitch_vxlan/clean"])
        },
    },
    Decision {
        name: "attach-nic-is-undone",
        section: "VMM 2.4, 7 B6",
        reason: "a NIC whose attachment failed is detached, in case it came half-way, and its network is taken down; \
                 stock leaves both",
        covers: |scenario, _, difference| {
            scenario.starts_with("k-fail-09")
                && adds(difference, &["vmm/kvm/detach_nic", "vnm/ovswitch_vxlan/clean"])
        },
    },
];

/// The payloads of two replies that are both successes.
fn payloads(difference: &Difference) -> Option<(&str, &str)> {
    match difference {
        Difference::Reply { recorded, ours }
            if (recorded.0.as_str(), ours.0.as_str()) == ("SUCCESS", "SUCCESS") =>
        {
            Some((&recorded.1, &ours.1))
        }
        _ => None,
    }
}

/// Whether ours are the recorded calls with these and no others among them.
fn adds(difference: &Difference, added: &[&str]) -> bool {
    let Difference::Calls { recorded, ours } = difference else { return false };
    let mut added: Vec<&str> = added.to_vec();
    let mut left = recorded.iter();
    let mut expected = left.next();
    for slot in ours {
        if Some(slot) == expected {
            expected = left.next();
        } else if added.first() == Some(&slot.as_str()) {
            added.remove(0);
        } else {
            return false;
        }
    }
    expected.is_none() && added.is_empty()
}

/// Where the contract has a script run (VMM 2.4): the transfer manager's and the backup datastore's on the front-end,
/// the others on the request's host, and those of a migration that prepare and finish it on the destination.
fn place_of(exchange: &Exchange, request: &Request, call: &Call, earlier_cleans: usize) -> Site {
    let host = |element: &str| Site::Host(request.text(element).to_owned());
    let (family, verb) = (call.slot.split('/').next().unwrap(), call.slot.rsplit('/').next().unwrap());
    let second =
        ["CLEANUP", "MIGRATE"].contains(&exchange.action.as_str()) && !request.text("MIGR_HOST").is_empty();
    match (family, exchange.action.as_str(), verb) {
        ("tm" | "datastore", _, _) => Site::FrontEnd,
        ("vnm", "MIGRATE", "pre" | "post") => host("MIGR_HOST"),
        // The source's clean is the first: an undo of the destination's `pre` comes after a move that failed.
        ("vnm", "MIGRATE", "clean") if exchange.reply.as_ref().unwrap().0 == "FAILURE" => host("MIGR_HOST"),
        ("vmm" | "vnm", "CLEANUP", _) if second && earlier_cleans > 0 => host("MIGR_HOST"),
        _ => host("HOST"),
    }
}

/// What all replays together came to.
#[derive(Default)]
struct Tally {
    met: BTreeMap<&'static str, usize>,
    exchanges: usize,
    calls: usize,
    same_argv: usize,
    same_stdin: usize,
    /// Actions of which at least one call had the very arguments that were recorded of it.
    proved: BTreeSet<String>,
}

/// Plays every recorded exchange and checks every difference against the decisions.
fn play_all() -> Tally {
    let front_end = FrontEnd::new().unwrap();
    let (calls, mut oned) = stage_of(&front_end, KVM).unwrap();
    let mut tally = Tally::default();
    let mut undecided = Vec::new();
    for scenario in scenarios().unwrap() {
        for (index, exchange) in scenario.exchanges.iter().enumerate() {
            // Cancelled ones have none; other tests play those.
            if exchange.reply.is_none() {
                continue;
            }
            let (name, action) = (&scenario.name, &exchange.action);
            let mut stage = Stage { front_end: &front_end, oned: &mut oned, calls: &calls };
            let replayed = stage.play(&scenario, index).unwrap_or_else(|e| panic!("{name}: {e}"));
            tally.exchanges += 1;
            tally.calls += replayed.calls.len();
            tally.same_argv += replayed.exact_argv;
            tally.same_stdin += replayed.exact_stdin;
            if replayed.exact_argv > 0 {
                tally.proved.insert(action.clone());
            }
            for difference in replayed.differences {
                match DECISIONS.iter().find(|decision| (decision.covers)(name, action, &difference)) {
                    Some(decision) => *tally.met.entry(decision.name).or_insert(0) += 1,
                    None => undecided.push(format!("{name} {action}: {difference:?}")),
                }
            }
            let request = Request::of(exchange).unwrap();
            let mut cleans = 0;
            for call in &replayed.calls {
                assert_eq!(
                    call.site,
                    place_of(exchange, &request, call, cleans),
                    "{name} {action}: {}",
                    call.slot
                );
                assert!(call.code.is_some(), "{name} {action}: {} did not end", call.slot);
                if call.site == Site::FrontEnd {
                    assert_eq!(
                        PathBuf::from(&call.directory),
                        front_end.var(),
                        "{name} {action}: {}",
                        call.slot
                    );
                }
                cleans += usize::from(call.slot.ends_with("/clean"));
            }
        }
    }
    assert_eq!(undecided, [] as [String; 0]);
    oned.finalize().unwrap();
    tally
}

#[test]
fn every_recorded_request_gives_the_recorded_calls_and_reply() {
    let tally = play_all();
    let (exchanges, calls) = (tally.exchanges, tally.calls);
    println!(
        "{exchanges} requests, {calls} calls: {} with the very arguments, {} with the very bytes",
        tally.same_argv, tally.same_stdin
    );
    for decision in &DECISIONS {
        let times = tally.met.get(decision.name).copied().unwrap_or_default();
        println!("{:>3} x {} (contract {}): {}", times, decision.name, decision.section, decision.reason);
        assert!(times > 0, "no recording shows {}: it is no difference", decision.name);
    }
    // That the comparison compares anything.
    assert!(exchanges >= 80 && calls >= 230 && tally.same_argv >= 70 && tally.same_stdin >= 80);
    // The scripts of the other three are proved by other actions: their own calls of them came later.
    assert_eq!(tally.proved.len(), 23, "{:?}", tally.proved);
}

#[test]
fn a_deploy_leaves_the_side_files_that_others_read() {
    let front_end = FrontEnd::new().unwrap();
    let (calls, mut oned) = stage_of(&front_end, KVM).unwrap();
    let scenario = Scenario::named("k-qcow2-01").unwrap();
    let index = scenario.exchanges.iter().position(|e| e.action == "DEPLOY").unwrap();
    let mut stage = Stage { front_end: &front_end, oned: &mut oned, calls: &calls };
    let replayed = stage.play(&scenario, index).unwrap();
    // The stock driver's own names, in its order.
    assert_eq!(replayed.steps, ["tm_context", "pre", "mkdir", "vm.xml", "ds.xml", "deploy", "post"]);

    let request = Request::of(&scenario.exchanges[index]).unwrap();
    let directory = front_end.var().join("datastores/102/0");
    for (file, element) in [("vm.xml", "VM"), ("ds.xml", "DATASTORE")] {
        let path = directory.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let written = Element::parse(&front_end.recorded_form(&text)).unwrap();
        let sent = request.document.find(element).unwrap();
        let texts = |element: &Element| -> Vec<(String, String)> {
            element.leaves().into_iter().map(|leaf| (leaf.path, leaf.text)).collect()
        };
        assert_eq!(written.name, element);
        assert_eq!(texts(&written), texts(sent), "{file}");
        // They hold what the datastore keeps secret (contract VMM 7, G9).
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    oned.finalize().unwrap();
}

#[test]
fn a_deploy_that_fails_late_ends_the_guest_by_the_id_of_its_domain() {
    let front_end = FrontEnd::new().unwrap();
    let (calls, mut oned) = stage_of(&front_end, KVM).unwrap();
    let scenario = Scenario::named("k-fail-03").unwrap();
    let failed = |e: &Exchange| e.reply.as_ref().is_some_and(|(status, _)| status == "FAILURE");
    let index = scenario.exchanges.iter().position(failed).unwrap();
    let mut stage = Stage { front_end: &front_end, oned: &mut oned, calls: &calls };
    let replayed = stage.play(&scenario, index).unwrap();
    let of = |verb: &str| replayed.calls.iter().find(|call| call.slot.ends_with(verb)).unwrap();
    // What `deploy` printed goes to `post`. The undo has the domain's own UUID, for it must also serve where the answer
    // of `deploy` was lost (contract VMM 2.4: stock has the printed one).
    assert_eq!(of("/post").argv, ["6e1f0f2a-0000-4000-8000-000000996760", "node1"]);
    assert_eq!(of("/cancel").argv[0], "0a9740f1-4d50-4438-a1af-70d224786bbe");
    oned.finalize().unwrap();
}
