//! Measurements that need a network of their own. Each test runs itself again in a fresh network namespace, so that
//! nothing it does to links and addresses is seen outside, and everything is gone when it ends. They need root.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use causeway_observe::measure::Measurement;
use causeway_observe::mover::{Move, Outcome};
use causeway_observe::plan::Plan;
use causeway_observe::report::Report;
use causeway_observe::respond::Responder;

use rig::{Namespace, in_own_network, ip, measure, two_taps, with_captures};

const INSIDE: &str = "CAUSEWAY_OBSERVE_TEST_INSIDE";
const QUIET: Duration = Duration::from_millis(300);

/// What the tests stand on. A test module, because the workspace lets only tests unwrap.
#[cfg(test)]
mod rig {
    use super::*;

    /// Runs `body` in a network namespace of its own, by running the test `name` of this executable again.
    pub fn in_own_network(name: &str, body: impl FnOnce()) {
        if std::env::var_os(INSIDE).is_some() {
            ip(&["link", "set", "lo", "up"]);
            return body();
        }
        let output = Command::new("unshare")
            .arg("--net")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    pub fn command(argv: &[&str]) {
        let status = Command::new(argv[0]).args(&argv[1..]).status().unwrap();
        assert!(status.success(), "{argv:?}");
    }

    pub fn ip(arguments: &[&str]) {
        command(&[&["ip"], arguments].concat());
    }

    pub fn measure(text: &str, output: &Path, mover: &mut dyn FnMut()) -> Report {
        let text =
            format!("output = {output:?}\nsettle_before = \"200ms\"\nsettle_after = \"300ms\"\n{text}");
        let mut make = |_: &Move<'_>| {
            mover();
            Outcome::Done
        };
        let plan = Plan::parse(&text).unwrap();
        Measurement::new(plan).mover(&mut make).run(&mut |_| ()).unwrap()
    }

    /// A process that holds a network namespace; it ends with the value.
    pub struct Namespace(Child);

    impl Namespace {
        pub fn new() -> Namespace {
            let child = Command::new("unshare")
                .args(["--net", "sleep", "1000"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let held = Namespace(child);
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            let theirs = format!("/proc/{}/ns/net", held.pid());
            while std::fs::read_link(&theirs).unwrap() == own {
                std::thread::sleep(Duration::from_millis(1));
            }
            held
        }

        pub fn pid(&self) -> String {
            self.0.id().to_string()
        }

        pub fn ip(&self, arguments: &[&str]) {
            command(&[&["nsenter", "-t", &self.pid(), "-n", "ip"], arguments].concat());
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// A guest with two taps on one bridge, of which it uses one at a time: the network of a live migration without a
    /// hypervisor.
    pub fn two_taps(guest: &Namespace) {
        ip(&["link", "add", "br0", "type", "bridge", "forward_delay", "0"]);
        ip(&["addr", "add", "10.9.9.1/24", "dev", "br0"]);
        ip(&["link", "set", "br0", "up"]);
        for (tap, port) in [("tapa", "ga"), ("tapb", "gb")] {
            ip(&["link", "add", tap, "type", "veth", "peer", "name", port, "netns", &guest.pid()]);
            ip(&["link", "set", tap, "master", "br0", "up"]);
            guest.ip(&["link", "set", port, "address", "02:00:00:00:00:0b"]);
        }
        guest.ip(&["link", "set", "ga", "up"]);
        guest.ip(&["addr", "add", "10.9.9.11/24", "dev", "ga"]);
    }

    pub fn with_captures(mac: &str) -> String {
        let dump = |device: &str| {
            format!(
                "[\"tcpdump\", \"-i\", \"{device}\", \"-Q\", \"in\", \"-s\", \"64\", \"-U\", \"--immediate-mode\", \"-w\", \"-\"]"
            )
        };
        format!(
            "[guest]\naddress = \"10.9.9.11\"\n[[moves]]\nfrom = \"h1\"\nto = \"h2\"\n\
             [capture]\nmac = \"{mac}\"\nobserver = {}\n\
             [[capture.host]]\nname = \"h1\"\ncommand = {}\n[[capture.host]]\nname = \"h2\"\ncommand = {}\n",
            dump("br0"),
            dump("tapa"),
            dump("tapb"),
        )
    }
}

#[test]
fn a_link_that_goes_down_silences_icmp() {
    in_own_network("a_link_that_goes_down_silences_icmp", || {
        let dir = tempfile::tempdir().unwrap();
        let text = "[guest]\naddress = \"127.0.0.1\"\n[[probe]]\nkind = \"icmp\"\ninterval = \"1ms\"\n";
        let report = measure(text, dir.path(), &mut || {
            ip(&["link", "set", "lo", "down"]);
            std::thread::sleep(QUIET);
            ip(&["link", "set", "lo", "up"]);
        });
        let watch = &report.moves[0].watches[0];
        assert!(watch.silence.length() >= QUIET && !watch.silence.is_open(), "{watch:?}");
        assert!(watch.lost + watch.not_sent > 0);
    });
}

#[test]
fn every_probe_speaks_ipv6() {
    in_own_network("every_probe_speaks_ipv6", || {
        let dir = tempfile::tempdir().unwrap();
        let address: SocketAddr = "[::1]:7007".parse().unwrap();
        let _serving = Responder::bind(address).unwrap().spawn().unwrap();
        let text = "[guest]\naddress = \"::1\"\n[[probe]]\nkind = \"icmp\"\n\
                    [[probe]]\nkind = \"udp\"\nport = 7007\n[[probe]]\nkind = \"tcp\"\nport = 7007\n";
        let report = measure(text, dir.path(), &mut || std::thread::sleep(QUIET));
        for watch in &report.moves[0].watches {
            assert_eq!((watch.lost, watch.not_sent), (0, 0));
            assert!(watch.answered > 0);
        }
    });
}

#[test]
fn the_share_of_the_network_is_captured() {
    in_own_network("the_share_of_the_network_is_captured", || {
        let dir = tempfile::tempdir().unwrap();
        let guest = Namespace::new();
        two_taps(&guest);
        let text = with_captures("02:00:00:00:00:0b");
        let report = measure(&text, dir.path(), &mut || {
            guest.ip(&["addr", "del", "10.9.9.11/24", "dev", "ga"]);
            guest.ip(&["link", "set", "ga", "down"]);
            std::thread::sleep(QUIET);
            guest.ip(&["link", "set", "gb", "up"]);
            guest.ip(&["addr", "add", "10.9.9.11/24", "dev", "gb"]);
        });
        let result = &report.moves[0];
        let share = match &result.network {
            Some(Ok(share)) => share,
            other => panic!("{other:?}"),
        };
        assert!(share.switch() >= QUIET, "{share:?}");
        assert_eq!(share.whole(), share.switch() + share.share());
        // The captures' clock and the probe's are laid over each other: the first frame on the destination tap lies
        // within the silence that its answer ended.
        let silence = result.watches[0].silence;
        assert!(share.first_at_destination > report.clock.unix_nanos(silence.from));
        assert!(share.first_at_destination <= report.clock.unix_nanos(silence.to));
        assert!(silence.length() >= QUIET);
        let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
        assert!(page.contains("first at destination"));
    });
}

#[test]
fn a_capture_that_does_not_see_the_guest_is_told_before_anything_moves() {
    in_own_network("a_capture_that_does_not_see_the_guest_is_told_before_anything_moves", || {
        let dir = tempfile::tempdir().unwrap();
        let guest = Namespace::new();
        two_taps(&guest);
        let text = with_captures("02:00:00:00:00:0c");
        let text = format!("output = {:?}\nanswer_deadline = \"500ms\"\n{text}", dir.path());
        let mut moved = false;
        let mut make = |_: &Move<'_>| {
            moved = true;
            Outcome::Done
        };
        let plan = Plan::parse(&text).unwrap();
        let error = Measurement::new(plan).mover(&mut make).run(&mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "the capture of the source tap saw no frame from 02:00:00:00:00:0c");
        assert!(!moved);
    });
}
