//! Sessions to hosts that are real processes, well-behaved or not.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, HostName, RequestId, VmId};
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Input, Place};
use causeway_core::reach::resident::{Hosts, Session, Ssh};
use causeway_core::reach::wire::{Exchange, FromResident, WireStep};
use causeway_testing::plans::{Maker, named};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::LocalSet;

/// Longer than anything here takes, shorter than a person waits.
const LONG: Duration = Duration::from_secs(60);

/// Where the processes of a test note themselves.
struct Field {
    dir: tempfile::TempDir,
}

impl Field {
    fn new() -> Self {
        Field { dir: tempfile::tempdir().unwrap() }
    }

    fn register(&self) -> PathBuf {
        self.dir.path().join("pids")
    }

    fn ssh(&self, deadline: Duration) -> Ssh {
        let command = self.register().to_str().unwrap().to_owned();
        Ssh { client: vec![env!("CARGO_BIN_EXE_causeway-fake-host").to_owned()], command, deadline }
    }

    async fn open(&self, host: &str) -> Result<std::sync::Arc<Session>, Failure> {
        Session::open(&self.ssh(LONG), &named(host)).await
    }

    fn pids(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.register()).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Whether all sessions' processes go, without anybody's help.
    async fn all_gone(&self) -> bool {
        let runs = |pid: &i32| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        for _ in 0..500 {
            if !self.pids().iter().any(runs) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn exchange(number: u64, steps: usize) -> Exchange {
    let make = Maker::of_two_hosts();
    let step = |index: usize| {
        let step = make.slot(&format!("step-{index}"), Place::FrontEnd, ["vnm", "vxlan", "pre"], &[]);
        WireStep::from(&step)
    };
    Exchange {
        request: RequestId::new(1, 2, number),
        action: "DEPLOY".to_owned(),
        vm: VmId(7),
        steps: (0..steps).map(step).collect(),
        inputs: BTreeMap::from([("envelope".to_owned(), Input::new(vec![b'x'; 10_000]))]),
        outputs: BTreeMap::new(),
    }
}

/// All events of an exchange, until its channel closes.
async fn drain(mut events: UnboundedReceiver<FromResident>) -> Vec<FromResident> {
    let mut all = Vec::new();
    while let Some(event) =
        tokio::time::timeout(LONG, events.recv()).await.expect("the channel is never closed")
    {
        all.push(event);
    }
    all
}

/// Whether the events are all of that exchange's, in order.
fn is_whole(events: &[FromResident], request: &RequestId, steps: usize) -> bool {
    let mut expected = Vec::new();
    for index in 0..steps {
        expected.push(format!("begin step-{index}"));
        expected.push(format!("end step-{index} {request}"));
    }
    expected.push(format!("over {request}"));
    let told: Vec<String> = events
        .iter()
        .map(|event| match event {
            FromResident::Started { step, .. } => format!("begin {step}"),
            FromResident::Ended { end, .. } => {
                format!("end {} {}", end.step, end.result.as_ref().unwrap().output)
            }
            FromResident::End { request } => format!("over {request}"),
            other => format!("{other:?}"),
        })
        .collect();
    told == expected
}

#[test]
fn a_hundred_exchanges_share_one_session() {
    run(async {
        let place = Field::new();
        let session = place.open("pair-100").await.unwrap();
        let events: Vec<_> = (0..100).map(|number| session.run(exchange(number, 5))).collect();
        for (number, events) in (0..).zip(events) {
            let events = drain(events).await;
            assert!(is_whole(&events, &RequestId::new(1, 2, number), 5), "{number}: {events:?}");
        }
        assert_eq!(place.pids().len(), 1);
    });
}

/// An undo goes over the same session, and under the same request, as the exchange that was given up.
#[test]
fn the_end_of_an_exchange_that_was_given_up_is_not_taken_for_the_next_ones() {
    run(async {
        let session = Field::new().open("queue-3").await.unwrap();
        drop(session.run(exchange(1, 4)));
        let given_up = session.run(exchange(1, 3));
        let next = drain(session.run(exchange(1, 2))).await;
        assert!(is_whole(&next, &RequestId::new(1, 2, 1), 2), "{next:?}");
        assert_eq!(drain(given_up).await, []);
    });
}

#[test]
fn a_session_that_dies_tells_everybody() {
    run(async {
        let place = Field::new();
        let session = place.open("dies").await.unwrap();
        let (first, second) = (session.run(exchange(1, 2)), session.run(exchange(2, 2)));
        let guest = guest();
        let asked = session.locate(&guest, LONG);
        let (first, second, asked) = tokio::join!(drain(first), drain(second), asked);
        assert!(
            matches!(first.as_slice(), [FromResident::Started { .. }]),
            "half an answer is none: {first:?}"
        );
        assert_eq!(second, []);
        assert!(matches!(asked, Sighting::Unreachable(_)), "{asked:?}");
        assert!(session.is_closed());
        assert_eq!(drain(session.run(exchange(3, 1))).await, [], "nothing is sent any more");
        assert!(place.all_gone().await);
    });
}

#[test]
fn a_host_that_stops_listening_is_a_lost_session() {
    run(async {
        let place = Field::new();
        let session = place.open("deaf").await.unwrap();
        // Its pipe may still take the first frames: whether they arrived, nobody can say.
        for number in 0.. {
            let events = session.run(exchange(number, 1));
            if session.is_closed() {
                assert_eq!(drain(events).await, []);
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(number < 1000, "a session that can't be written to stays open");
        }
        assert!(place.all_gone().await);
    });
}

#[test]
fn a_hello_of_another_schema_names_what_mends_it() {
    run(async {
        let place = Field::new();
        let failure = place.open("schema-77").await.err().unwrap();
        assert_eq!(failure.kind, Kind::HostState);
        for part in ["schema-77: ", "causeway 9.9", "schema 77", "`install.sh host`"] {
            assert!(failure.text.contains(part), "{part:?} is not in {:?}", failure.text);
        }
        assert!(place.all_gone().await);
    });
}

#[test]
fn a_login_shells_greeting_is_not_taken_for_a_resident() {
    run(async {
        let place = Field::new();
        let failure = place.open("greeting").await.err().unwrap();
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(failure.text.contains("\"Welc\""), "{failure}");
        assert!(place.all_gone().await);
    });
}

#[test]
fn what_ssh_complains_of_is_told() {
    run(async {
        let failure = Field::new().open("refuses").await.err().unwrap();
        assert_eq!(failure.kind, Kind::Unreachable);
        assert_eq!(failure.text, "cannot reach refuses: h1: Permission denied (publickey).");
        let missing = Ssh { client: vec!["/nonexistent/ssh".to_owned()], ..Field::new().ssh(LONG) };
        let failure = Session::open(&missing, &named("good")).await.err().unwrap();
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(failure.text.contains("/nonexistent/ssh"), "{failure}");
    });
}

#[test]
fn a_host_without_our_program_is_reached_and_it_is_said_what_it_lacks() {
    run(async {
        let failure = Field::new().open("missing").await.err().unwrap();
        assert_eq!(failure.kind, Kind::HostState);
        let said = failure.text.strip_prefix("missing has no /").unwrap_or_else(|| panic!("{failure}"));
        assert!(said.ends_with(": run `install.sh host` there"), "{failure}");
    });
}

#[test]
fn a_host_that_babbles_on_standard_error_is_drained() {
    run(async {
        let place = Field::new();
        let session = place.open("babbles").await.unwrap();
        for number in 0..3 {
            let events = drain(session.run(exchange(number, 1))).await;
            assert!(is_whole(&events, &RequestId::new(1, 2, number), 1), "{events:?}");
        }
    });
}

#[test]
fn a_silent_host_costs_one_deadline_for_all_who_want_it_and_nobody_else_any() {
    run(async {
        let place = Field::new();
        let hosts = Rc::new(Hosts::new(place.ssh(Duration::from_millis(700))));
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let hosts = Rc::clone(&hosts);
                tokio::task::spawn_local(async move { hosts.session(&silent()).await.err() })
            })
            .collect();
        while place.pids().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The other host answers while the silent one is still being waited for.
        let good = hosts.session(&named("good")).await.unwrap();
        let sighting = good.locate(&guest(), LONG).await;
        assert_eq!(sighting, Sighting::Running);
        for task in waiting {
            let failure = task.await.unwrap().expect("a silent host opened a session");
            assert_eq!(failure.kind, Kind::Unreachable);
            assert!(failure.text.contains("no answer within 0.7 s"), "{failure}");
        }
        assert_eq!(place.pids().len(), 2, "one try at the silent host, one at the other");
        assert!(hosts.session(&silent()).await.is_err());
        assert_eq!(place.pids().len(), 3, "who comes later tries anew");
    });
}

fn guest() -> DeployId {
    Maker::of_two_hosts().id
}

fn silent() -> HostName {
    named("silent")
}

#[test]
fn a_kept_session_is_shared_and_opened_anew_when_it_has_ended() {
    run(async {
        let place = Field::new();
        let hosts = Hosts::new(place.ssh(LONG));
        let host = named("dies");
        let session = hosts.session(&host).await.unwrap();
        let again = hosts.session(&host).await.unwrap();
        assert!(std::sync::Arc::ptr_eq(&session, &again));
        drain(session.run(exchange(1, 1))).await;
        let fresh = hosts.session(&host).await.unwrap();
        assert!(!std::sync::Arc::ptr_eq(&session, &fresh));
        assert_eq!(place.pids().len(), 2);
    });
}

#[test]
fn a_session_that_nobody_uses_any_more_ends() {
    run(async {
        let place = Field::new();
        drop(place.open("good").await.unwrap());
        assert!(place.all_gone().await, "the resident did not see the end of its input");
    });
}

#[test]
fn a_question_has_a_deadline_of_its_own() {
    run(async {
        let place = Field::new();
        let session = place.open("pair-1").await.unwrap();
        let sighting = session.locate(&guest(), Duration::from_millis(50)).await;
        assert_eq!(sighting, Sighting::Unreachable("no answer within 0.05 s".to_owned()));
        assert!(!session.is_closed(), "a slow answer is no lost session");
        let events = drain(session.run(exchange(1, 1))).await;
        assert!(is_whole(&events, &RequestId::new(1, 2, 1), 1));
    });
}

#[test]
fn the_kept_session_has_no_agent_and_the_delegated_one_has() {
    let words = |ssh: Ssh| ssh.client.join(" ");
    let kept = words(Ssh::kept("ssh", "causeway-host", Duration::from_secs(10)));
    assert!(kept.contains("ForwardAgent=no") && kept.contains("ControlPath=none"), "{kept}");
    let delegated = words(Ssh::delegated("ssh", "causeway-host", Duration::from_secs(10)));
    assert!(delegated.contains("ForwardAgent=yes") && delegated.contains("BatchMode=yes"), "{delegated}");
    assert!(Path::new(env!("CARGO_BIN_EXE_causeway-fake-host")).exists());
}
