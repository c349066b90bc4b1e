//! Guarded guests on real parts: what their groups and filters let pass passes and nothing else does, before, while and after they
//! move; and nothing of it is left when they are gone. Seen by somebody outside both hosts.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::io::Write;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_observe::ledger::{ArrivalKind, Ledger};
use causeway_observe::plan::ProbeKind;
use causeway_observe::probe::Probe;
use causeway_suite::lab::driver::Driver;
use causeway_suite::lab::observer::{Knock, Observer, Speech, accepts, echoed, writer};
use causeway_suite::lab::truth::{nothing_left, nothing_reserved, whereabouts};
use causeway_suite::lab::{HOSTS, Lab, Standing, guest};
use causeway_suite::request::Guest;

#[path = "lab/guarded.rs"]
mod guarded;

use guarded::{FORGED, GROUP, OWN, VLAN, answers, on_a_bridge, on_a_switch, rule};

/// The observer's ports by which it speaks to the guest while it moves, and only afterwards.
const SPOKEN: u16 = 9000;
const IDLE: u16 = 9001;
/// One that the guest may not connect to.
const FORBIDDEN: u16 = 9500;

const BOOT: Duration = Duration::from_secs(180);
/// How long the guest is watched after it has come: TCP repeats what was lost with growing pauses.
const AFTER: Duration = Duration::from_secs(3);
/// As long as it takes the guest to try twice.
const TRIES: Duration = Duration::from_secs(7);

struct Guarded<'a> {
    lab: &'a Lab,
    vm: Guest,
    driver: Driver<'a>,
    observer: Observer<'a>,
    permitted: [TcpListener; 2],
    forbidden: TcpListener,
}

#[test]
fn guards_go_where_the_guest_goes() {
    let lab = Standing::with_switches().unwrap();
    let observer = Observer::in_vxlan(&lab, guest::VNI).unwrap();
    Guarded::new(&lab, on_a_bridge(&lab, &[SPOKEN, IDLE, FORBIDDEN]), observer).lives();
    let observer = Observer::in_vlan(&lab, VLAN).unwrap();
    Guarded::new(&lab, on_a_switch(&lab, &[SPOKEN, IDLE, FORBIDDEN]), observer).lives();
    lab.stop().unwrap();
}

impl<'a> Guarded<'a> {
    fn new(lab: &'a Lab, vm: Guest, observer: Observer<'a>) -> Guarded<'a> {
        guest::prepare(lab, &vm).unwrap();
        let permitted = [SPOKEN, IDLE].map(|port| observer.listens(port).unwrap());
        let forbidden = observer.listens(FORBIDDEN).unwrap();
        Guarded { lab, vm, driver: Driver::start(lab).unwrap(), observer, permitted, forbidden }
    }

    fn lives(mut self) {
        self.comes();
        self.is_guarded();
        self.moves("h1", "h2");
        self.is_guarded();
        self.has_other_rules("h2");
        self.goes("h2");
    }

    fn comes(&mut self) {
        self.driver.succeed(&self.vm.deploy("h1").unwrap()).unwrap();
        let start = Instant::now();
        // Its services begin after its network.
        while !answers(&self.observer) {
            assert!(start.elapsed() < BOOT, "the guest does not answer");
        }
    }

    /// What its group lets begin, and nothing else, in both directions.
    fn is_guarded(&self) {
        let seen = &self.observer;
        assert!(seen.pings(OWN) && seen.asks((OWN, 7), "echo").unwrap());
        assert_eq!(seen.knocks((OWN, 7)).unwrap(), Knock::Open);
        // Somebody listens at the one port and nobody at the other: neither is to be found out.
        assert!(!seen.asks((OWN, 7007), "get").unwrap());
        assert_eq!(seen.knocks((OWN, 9)).unwrap(), Knock::Silent);
        assert!(!seen.pings(FORGED));
        assert!(accepts(&self.forbidden, Duration::ZERO).unwrap().is_none());
    }

    /// MIGRATE under connections of every kind that may be, and knocks at every door that is closed.
    fn moves(&mut self, from: &str, to: &str) {
        let seen = &self.observer;
        let [spoken, idle] =
            self.permitted.each_ref().map(|listener| accepts(listener, TRIES).unwrap().unwrap());
        let spoken = Speech::begin(spoken).unwrap();
        let watch = |name, to, kind| seen.watches(name, to, kind).unwrap();
        let kept = [
            watch("icmp", OWN, ProbeKind::Icmp),
            watch("udp", OWN, echoed()),
            watch("tcp", OWN, ProbeKind::Tcp { port: 7 }),
        ];
        let closed = [watch("udp-7007", OWN, writer()), watch("forged", FORGED, ProbeKind::Icmp)];
        sleep(Duration::from_millis(500));

        self.driver.succeed(&self.vm.migrate(from, to).unwrap()).unwrap();
        let share = "the network's share of the silence is at most";
        let told = self.driver.oned().unwrap().await_log(self.vm.vm.into(), share).unwrap();
        self.tell(&told.text);
        let seen = whereabouts(self.lab, &self.vm).unwrap();
        assert!(seen.is_only_on(to), "{seen:?}, not only on {to}");
        nothing_left(self.lab, from).unwrap();
        nothing_reserved(self.lab, from).unwrap();
        sleep(AFTER);

        let idle = Speech::begin(idle).unwrap();
        sleep(AFTER);
        for (what, speech) in [("spoken to while it moved", spoken), ("idle while it moved", idle)] {
            let end = speech.ends().unwrap();
            self.tell(&format!("a connection by which the guest only listens, {what}: {end:?}"));
            assert!(end.went_on(), "{what}: {end:?}");
        }
        for probe in kept {
            self.went_on(probe);
        }
        for probe in closed {
            let name = probe.name().to_owned();
            let ledger = probe.finish().unwrap();
            assert!(ledger.samples().len() > 50, "{name} hardly asked");
            assert!(ledger.arrivals().is_empty() && ledger.strays() == 0, "{name} was answered: {ledger:?}");
        }
        assert!(accepts(&self.forbidden, Duration::ZERO).unwrap().is_none());
    }

    /// It is answered to the end, by one connection.
    fn went_on(&self, probe: Probe) {
        let name = probe.name().to_owned();
        probe.stop_asking();
        sleep(Duration::from_millis(300));
        let ledger = probe.finish().unwrap();
        let (asked, silence) = (ledger.samples().len(), longest(&ledger));
        let lost = ledger.samples().iter().filter(|sample| sample.round_trip().is_none()).count();
        self.tell(&format!("{name}: {asked} asked, {lost} unanswered, {silence:?} the longest silence"));
        let (last, asked_last) = (ledger.arrivals().last().unwrap(), ledger.samples().last().unwrap());
        assert!(last.at >= asked_last.sent, "{name}: the last question was not answered");
        assert_eq!(ledger.breaks(), [], "{name}");
        assert!(silence < Duration::from_secs(5), "{name}");
    }

    /// UPDATESG: one door is opened and another closed; and what the filters kept away is known to have been there.
    fn has_other_rules(&mut self, host: &str) {
        self.vm.rules.retain(|rule| rule.range != Some("7") || rule.protocol != "TCP");
        self.vm.rules.push(rule("INBOUND", "UDP", "7007"));
        self.vm.rules.push(rule("OUTBOUND", "TCP", "9500"));
        self.driver.succeed(&self.vm.update_sg(host, GROUP).unwrap()).unwrap();
        assert!(self.observer.asks((OWN, 7007), "get").unwrap());
        assert!(self.observer.asks((OWN, 7), "echo").unwrap());
        assert_eq!(self.observer.knocks((OWN, 7)).unwrap(), Knock::Silent);
        assert!(accepts(&self.forbidden, TRIES).unwrap().is_some());
        assert!(!self.observer.pings(FORGED));

        let nic = self.vm.nic.as_mut().unwrap();
        nic.more.retain(|(name, _)| !name.starts_with("FILTER_"));
        self.driver.succeed(&self.vm.update_sg(host, GROUP).unwrap()).unwrap();
        assert!(self.observer.pings(FORGED));
    }

    fn goes(mut self, host: &str) {
        self.driver.succeed(&self.vm.shutdown(host).unwrap()).unwrap();
        self.driver.succeed(&self.vm.cleanup(host, None).unwrap()).unwrap();
        self.driver.finalize().unwrap();
        assert!(whereabouts(self.lab, &self.vm).unwrap().is_nowhere());
        for host in HOSTS {
            nothing_left(self.lab, host).unwrap();
            nothing_reserved(self.lab, host).unwrap();
        }
        self.observer.leave().unwrap();
    }

    /// Past the test's capture: figures belong to the run's account.
    fn tell(&self, what: &str) {
        let driver = &self.vm.nic.as_ref().unwrap().vn_mad;
        std::io::stderr().write_all(format!("lab_net: {driver}: {what}\n").as_bytes()).unwrap();
    }
}

fn longest(ledger: &Ledger) -> Duration {
    let first = || ledger.arrivals().iter().filter(|arrival| arrival.kind != ArrivalKind::Duplicate);
    first().zip(first().skip(1)).map(|(one, next)| next.at.since(one.at)).max().unwrap_or_default()
}
