//! Whole measurements over loopback: real sockets, real children, a responder that is silent for a known time.
//!
//! The ICMP probe needs root, as the tests of this project do.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use causeway_core::answer::Kind;
use causeway_observe::capture::{CaptureError, Tap};
use causeway_observe::measure::{self, Error, Measurement, Progress};
use causeway_observe::mover::{Move, Outcome};
use causeway_observe::plan::Plan;
use causeway_observe::report::{Report, Stopped};
use causeway_observe::respond::Responder;
use causeway_observe::silence::Watch;

use rig::{answer_in_own_words, answers_during, free, plan, probes};

const QUIET: Duration = Duration::from_millis(300);

/// What the tests stand on. A test module, because the workspace lets only tests unwrap.
#[cfg(test)]
mod rig {
    use super::*;

    /// An address whose UDP and TCP ports are both free.
    pub fn free() -> SocketAddr {
        loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = tcp.local_addr().unwrap();
            if UdpSocket::bind(address).is_ok() {
                return address;
            }
        }
    }

    pub fn plan(output: &Path, top: &str, sections: &str) -> Plan {
        let text = format!(
            "output = {output:?}\nsettle_before = \"100ms\"\nsettle_after = \"200ms\"\n{top}\n\
             [guest]\naddress = \"127.0.0.1\"\n{sections}"
        );
        Plan::parse(&text).unwrap()
    }

    pub fn probes(udp: SocketAddr, tcp: SocketAddr) -> String {
        format!(
            "[[probe]]\nkind = \"icmp\"\n[[probe]]\nkind = \"udp\"\nport = {}\n[[probe]]\nkind = \"tcp\"\nport = {}\n",
            udp.port(),
            tcp.port()
        )
    }

    /// Answers that the probe at `index` read during the silence `of` another.
    pub fn answers_during(report: &Report, index: usize, of: &Watch) -> usize {
        let arrivals = report.probes[index].ledger.arrivals().iter();
        arrivals.filter(|a| of.silence.from < a.at && a.at < of.silence.to).count()
    }

    /// A service like a small guest's: one thread that looks at its socket every 10 ms and answers everything in its own
    /// words, except while it is told to be quiet.
    pub fn answer_in_own_words(socket: &UdpSocket, quiet: &AtomicBool, stop: &AtomicBool) {
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                assert_eq!(&buffer[..length], b"get");
                if !quiet.load(Ordering::Relaxed) {
                    socket.send_to(b"64 2000 123456 0\n", from).unwrap();
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_responder_that_stops_is_heard_to_stop_and_the_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (free(), free());
    let mut serving = Some(Responder::bind(first).unwrap().spawn().unwrap());
    let _other = Responder::bind(second).unwrap().spawn().unwrap();
    let mut pause = |_: &Move<'_>| {
        serving = None;
        std::thread::sleep(QUIET);
        serving = Some(Responder::bind(first).unwrap().spawn().unwrap());
        Outcome::Done
    };
    let plan = plan(dir.path(), "repetitions = 2", &probes(first, second));
    let mut told = Vec::new();
    let report = Measurement::new(plan).mover(&mut pause).run(&mut |progress| told.push(progress)).unwrap();

    assert!(report.is_complete());
    assert_eq!(report.moves.len(), 2);
    for result in &report.moves {
        let [icmp, udp, tcp] = &result.watches[..] else { panic!("three probes watched") };
        assert!(udp.silence.length() >= QUIET, "{udp:?}");
        assert!(!udp.silence.is_open());
        assert!(udp.lost > 0);
        assert_eq!((icmp.lost, icmp.not_sent), (0, 0));
        assert_eq!((tcp.lost, tcp.not_sent, tcp.breaks), (0, 0, 0));
        assert!(answers_during(&report, 0, udp) > 0, "ICMP was answered meanwhile");
        assert!(answers_during(&report, 2, udp) > 0, "TCP was answered meanwhile");
    }
    assert!(report.silence(1).unwrap().median >= QUIET);
    assert!(matches!(&told[0], Progress::Watching { probes, moves: 2 } if probes.len() == 3));
    assert!(matches!(&told[2], Progress::Moved { number: 1, silences, .. } if silences[1].1 >= QUIET));
    assert_eq!(told.len(), 1 + 2 * 2 + 4);

    let rows = std::fs::read_to_string(dir.path().join("moves.csv")).unwrap();
    assert_eq!(rows.lines().count(), 1 + 2 * 3);
    let samples = std::fs::read_to_string(dir.path().join("samples.csv")).unwrap();
    let asked: usize = report.probes.iter().map(|p| p.ledger.samples().len()).sum();
    assert_eq!(samples.lines().count(), 1 + asked);
    assert!(std::fs::read_to_string(dir.path().join("report.html")).unwrap().contains("silent for"));
}

#[test]
fn a_broken_connection_is_told_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let address = free();
    let mut serving = Some(Responder::bind(address).unwrap().spawn().unwrap());
    let mut pause = |_: &Move<'_>| {
        serving = None;
        std::thread::sleep(QUIET);
        serving = Some(Responder::bind(address).unwrap().spawn().unwrap());
        Outcome::Done
    };
    let tcp = format!("[[probe]]\nkind = \"tcp\"\nport = {}\n", address.port());
    let plan = plan(dir.path(), "", &tcp);
    let report = Measurement::new(plan).mover(&mut pause).run(&mut |_| ()).unwrap();
    let watch = &report.moves[0].watches[0];
    assert!(watch.breaks > 0);
    assert!(watch.not_sent > 0, "nothing can be sent without a connection");
    assert!(watch.silence.length() >= QUIET && !watch.silence.is_open());
}

#[test]
fn answers_that_carry_nothing_back_are_told_apart_by_port() {
    let dir = tempfile::tempdir().unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let any = format!(
        "[[probe]]\nkind = \"udp\"\nanswers = \"any\"\npayload = \"get\"\nport = {}\n",
        socket.local_addr().unwrap().port()
    );
    let (quiet, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let report = std::thread::scope(|scope| {
        scope.spawn(|| answer_in_own_words(&socket, &quiet, &stop));
        let mut pause = |_: &Move<'_>| {
            quiet.store(true, Ordering::Relaxed);
            std::thread::sleep(QUIET);
            quiet.store(false, Ordering::Relaxed);
            Outcome::Done
        };
        let plan = plan(dir.path(), "", &any);
        let report = Measurement::new(plan).mover(&mut pause).run(&mut |_| ());
        stop.store(true, Ordering::Relaxed);
        report.unwrap()
    });
    let watch = &report.moves[0].watches[0];
    // The service looks every 10 ms, so its quiet time may be shorter than ours by one look.
    assert!(watch.silence.length() >= QUIET - Duration::from_millis(10), "{watch:?}");
    assert!(watch.lost > 0 && watch.answered > 0);
    assert_eq!(watch.duplicates, 0);
    assert_eq!(report.probes[0].ledger.strays(), 0);
}

#[test]
fn a_command_that_fails_ends_the_run_with_its_results() {
    let dir = tempfile::tempdir().unwrap();
    let top = "command = [\"sh\", \"-c\", \"echo no such domain >&2; exit 1\"]\nrepetitions = 3";
    let report = measure::run(plan(dir.path(), top, ""), &mut |_| ()).unwrap();
    assert_eq!(report.stopped, Some(Stopped::MoveFailed { number: 1 }));
    let why = Outcome::Failed("exit status: 1: no such domain".to_owned());
    assert_eq!(report.moves[0].outcome, why);
    assert_eq!(report.silence(0), None, "a move that was not made has no figures");
    assert!(std::fs::read_to_string(dir.path().join("moves.csv")).unwrap().contains("no such domain"));

    let top = "command = [\"false\"]\nrepetitions = 2\non_failure = \"continue\"";
    let report = measure::run(plan(dir.path(), top, ""), &mut |_| ()).unwrap();
    assert_eq!((report.moves.len(), report.stopped.is_none()), (2, true));
    assert!(!report.is_complete());
}

#[test]
fn a_command_that_hangs_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let top = "command = [\"sleep\", \"1000\"]\nmove_deadline = \"100ms\"";
    let report = measure::run(plan(dir.path(), top, ""), &mut |_| ()).unwrap();
    assert_eq!(report.moves[0].outcome, Outcome::TimedOut);
    let top = "command = [\"sleep\", \"1000\"]\ndeadline = \"1s\"";
    let report = measure::run(plan(dir.path(), top, ""), &mut |_| ()).unwrap();
    assert_eq!(report.moves[0].outcome, Outcome::TimedOut);
    assert_eq!(report.stopped, Some(Stopped::Deadline));
}

#[test]
fn a_run_that_is_told_to_stop_stops() {
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let plan = plan(dir.path(), "command = [\"sleep\", \"1000\"]", "");
    let report = Measurement::new(plan.clone()).stop(&stop).run(&mut |progress| {
        if matches!(progress, Progress::Moving { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let report = report.unwrap();
    assert_eq!(report.stopped, Some(Stopped::Interrupted));
    assert_eq!(report.moves[0].outcome, Outcome::Interrupted);
    // Before anything moved there is nothing to report.
    let early = Measurement::new(plan).stop(&stop).run(&mut |_| ());
    assert!(matches!(early, Err(Error::Interrupted)));
}

#[test]
fn a_watch_lets_somebody_else_move() {
    let dir = tempfile::tempdir().unwrap();
    let report = measure::run(plan(dir.path(), "watch = \"200ms\"", ""), &mut |_| ()).unwrap();
    assert!(report.is_complete());
    assert!(report.moves[0].took() >= Duration::from_millis(200));
}

#[test]
fn nothing_is_moved_while_the_guest_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    let top = format!("command = [\"touch\", {made:?}]\nanswer_deadline = \"200ms\"");
    let address = free();
    let udp = format!("[[probe]]\nkind = \"icmp\"\n[[probe]]\nkind = \"udp\"\nport = {}\n", address.port());
    let error = measure::run(plan(dir.path(), &top, &udp), &mut |_| ()).unwrap_err();
    assert!(matches!(&error, Error::NoAnswer { probe, .. } if probe.starts_with("udp-")), "{error}");
    assert_eq!(error.kind(), Kind::Unreachable);

    let tcp = format!("[[probe]]\nkind = \"tcp\"\nport = {}\n", address.port());
    let error = measure::run(plan(dir.path(), &top, &tcp), &mut |_| ()).unwrap_err();
    assert!(error.to_string().ends_with(": connection refused"), "{error}");
    assert_eq!(error.kind(), Kind::Unreachable);

    let nobody = measure::run(plan(dir.path(), "", ""), &mut |_| ()).unwrap_err();
    assert!(matches!(nobody, Error::NoMover));
    let unknown = Plan::parse("command = [\"true\"]\n[guest]\ndeploy_id = \"one-3\"").unwrap();
    let unknown = measure::run(unknown, &mut |_| ()).unwrap_err();
    assert_eq!(unknown.to_string(), "the address of the guest one-3 is not known");
    assert!(!made.exists());
}

#[test]
fn nothing_is_moved_while_a_capture_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    let run = |host: &str, observer: &str, deadline: &str| {
        let top = format!("command = [\"touch\", {made:?}]\nanswer_deadline = \"{deadline}\"");
        let taps = format!(
            "[[moves]]\nfrom = \"h1\"\nto = \"h2\"\n[capture]\nmac = \"02:00:00:00:00:0b\"\nobserver = {observer}\n\
             [[capture.host]]\nname = \"h1\"\ncommand = {host}\n[[capture.host]]\nname = \"h2\"\ncommand = {host}\n"
        );
        measure::run(plan(dir.path(), &top, &taps), &mut |_| ()).unwrap_err()
    };
    let absent = r#"["sh", "-c", "echo tap0: no such device >&2; exit 1"]"#;
    let garbled = r#"["echo", "this is no capture"]"#;
    let missing = r#"["/nonexistent/tcpdump"]"#;
    let silent = r#"["sleep", "60"]"#;

    // A device may yet come, so this is asked for until the deadline; what can't ever begin ends the waiting.
    let error = run(absent, absent, "2s");
    assert_eq!(error.to_string(), "the capture of the source tap did not begin: tap0: no such device");
    let error = run(garbled, garbled, "1min");
    assert!(matches!(error, Error::Capture(CaptureError::Format { .. })), "{error}");
    let error = run(missing, missing, "1min");
    assert!(matches!(error, Error::Capture(CaptureError::Run { .. })), "{error}");
    // The one that failed is named, not the one that was ended for it; nor is a line of an earlier measurement quoted.
    let error = run(silent, garbled, "1min");
    assert!(matches!(error, Error::Capture(CaptureError::Format { place: Tap::Observer, .. })), "{error}");
    let error = run(silent, silent, "200ms");
    assert_eq!(error.to_string(), "the capture of the source tap did not begin: it said nothing");
    assert!(!made.exists());
}
