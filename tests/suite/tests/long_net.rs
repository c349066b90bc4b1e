//! Moves of a guest, watched from outside: how long it is silent, and the network's share of that, by driver, beside the same moves
//! on bridges that are there already and that nobody guards. `MOVES=N` makes other than 20 of each; `NETWORKS=vxlan,bare-bridge` only these.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_observe::measure::Measurement;
use causeway_observe::mover::{Move, Outcome};
use causeway_observe::plan::Plan;
use causeway_observe::report::{Report, Spread, readable};
use causeway_suite::lab::driver::Driver;
use causeway_suite::lab::observer::{Observer, Speech, Spoken, accepts};
use causeway_suite::lab::truth::{nothing_left, nothing_reserved};
use causeway_suite::lab::{HOSTS, Lab, Standing, guest};
use causeway_suite::request::Guest;

#[path = "lab/guarded.rs"]
mod guarded;

use guarded::{VLAN, answers, on_a_bridge, on_a_switch};

const BOOT: Duration = Duration::from_secs(180);
/// The observer's first port that the guest connects to: two for each move.
const PORT: u16 = 9000;
/// The bridges that are there already.
const BARE: &str = "bare0";
/// OpenNebula's driver for networks that need nothing done.
const NO_DRIVER: &str = "dummy";

/// The guest's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Fw,
    Vxlan,
    OvSwitch,
    OvSwitchVxlan,
    BareBridge,
    BareSwitch,
}

const NETWORKS: [(&str, Network); 6] = [
    ("bare-bridge", Network::BareBridge),
    ("fw", Network::Fw),
    ("vxlan", Network::Vxlan),
    ("bare-switch", Network::BareSwitch),
    ("ovswitch", Network::OvSwitch),
    ("ovswitch_vxlan", Network::OvSwitchVxlan),
];

#[test]
fn the_network_adds_little_to_the_silence_of_a_move() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let moves: u16 = number("MOVES").unwrap_or(20);
    let only = std::env::var("NETWORKS").unwrap_or_default();
    let mut lost = Vec::new();
    for (name, network) in
        NETWORKS.into_iter().filter(|(name, _)| only.is_empty() || only.split(',').any(|o| o == *name))
    {
        let lab = Standing::with_switches().unwrap();
        let (report, connections) = watched(&lab, network, moves);
        lost.extend(account(name, &report, &connections));
        lab.stop().unwrap();
    }
    assert!(lost.is_empty(), "connections were lost: {lost:?}");
}

/// All moves on that network.
fn watched(lab: &Lab, network: Network, moves: u16) -> (Report, Vec<[Spoken; 2]>) {
    let ports: Vec<u16> = (PORT..PORT + 2 * moves).collect();
    let vm = network.guest(lab, &ports);
    network.prepare(lab);
    let observer = network.observer(lab);
    let listeners: Vec<TcpListener> = ports.iter().map(|port| observer.listens(*port).unwrap()).collect();
    let mut listeners = listeners.into_iter();
    guest::prepare(lab, &vm).unwrap();
    let mut driver = Driver::start(lab).unwrap();
    driver.succeed(&vm.deploy("h1").unwrap()).unwrap();
    let start = Instant::now();
    while !answers(&observer) {
        assert!(start.elapsed() < BOOT, "the guest does not answer");
    }
    let mut connections = Vec::new();
    let mut mover = |leg: &Move<'_>| {
        let leg = leg.leg.unwrap();
        let mut streams = (&mut listeners).map(|listener| accepts(&listener, BOOT).unwrap().unwrap());
        let (spoken, idle) = (Speech::begin(streams.next().unwrap()).unwrap(), streams.next().unwrap());
        let request = vm.migrate(leg.from.as_str(), leg.to.as_str()).unwrap();
        let done = driver.succeed(&request);
        sleep(Duration::from_secs(2));
        let idle = Speech::begin(idle).unwrap();
        sleep(Duration::from_secs(2));
        connections.push([spoken.ends().unwrap(), idle.ends().unwrap()]);
        done.map_or_else(|error| Outcome::Failed(error.to_string()), |_| Outcome::Done)
    };
    let output = tempfile::tempdir().unwrap();
    let plan = Plan::parse(&plan(lab, &vm, &observer, moves, output.path())).unwrap();
    let measured = observer.inside(|| Measurement::new(plan).mover(&mut mover).run(&mut |_| {})).unwrap();
    let report = measured.unwrap();
    assert!(report.is_complete(), "{:?}", report.stopped);
    let at = if moves.is_multiple_of(2) { "h1" } else { "h2" };
    driver.succeed(&vm.shutdown(at).unwrap()).unwrap();
    driver.succeed(&vm.cleanup(at, None).unwrap()).unwrap();
    driver.finalize().unwrap();
    for host in HOSTS.iter().filter(|_| network.is_ours()) {
        nothing_left(lab, host).unwrap();
        nothing_reserved(lab, host).unwrap();
    }
    (report, connections)
}

impl Network {
    fn is_ours(self) -> bool {
        !matches!(self, Network::BareBridge | Network::BareSwitch)
    }

    fn guest(self, lab: &Lab, ports: &[u16]) -> Guest {
        let mut vm = match self {
            Network::Fw => on_a_plain_bridge(lab, ports),
            Network::Vxlan | Network::BareBridge => on_a_bridge(lab, ports),
            Network::OvSwitch | Network::BareSwitch => on_a_switch(lab, ports),
            Network::OvSwitchVxlan => on_a_switch_with_tunnels(lab, ports),
        };
        if !self.is_ours() {
            let nic = vm.nic.as_mut().unwrap();
            NO_DRIVER.clone_into(&mut nic.vn_mad);
            BARE.clone_into(&mut nic.bridge);
            nic.more.push((
                "BRIDGE_TYPE".to_owned(),
                if self == Network::BareSwitch { "openvswitch" } else { "linux" }.to_owned(),
            ));
        }
        vm
    }

    /// What the hosts have before the guest comes.
    fn prepare(self, lab: &Lab) {
        let bridge = match self {
            Network::Fw | Network::Vxlan | Network::OvSwitch | Network::OvSwitchVxlan => return,
            Network::BareBridge => {
                "ip link add \"$1\" mtu 1600 type bridge forward_delay 0 mcast_snooping 0
                ip link set eth1 master \"$1\"
                ip link set \"$1\" up"
            }
            Network::BareSwitch => {
                "ovs-vsctl add-br \"$1\" -- set bridge \"$1\" datapath_type=netdev -- add-port \"$1\" eth1"
            }
        };
        for host in HOSTS {
            lab.script(host, &format!("set -e; {bridge}"), &[BARE]).unwrap();
            for slot in ["pre", "post", "clean"] {
                let path = format!("/var/tmp/one/vnm/{NO_DRIVER}/{slot}");
                lab.write(host, &path, "#!/bin/sh\n").unwrap();
                lab.run(&["one", host, "chmod", "755", &path]).unwrap();
            }
        }
    }

    fn observer(self, lab: &Lab) -> Observer<'_> {
        let observer = match self {
            Network::Vxlan | Network::OvSwitchVxlan => Observer::in_vxlan(lab, guest::VNI),
            Network::OvSwitch => Observer::in_vlan(lab, VLAN),
            // Seen from the same place as the driver beside which it stands.
            Network::BareSwitch | Network::Fw => Observer::in_vlan(lab, 0),
            Network::BareBridge => Observer::at_the_fabric(lab),
        };
        observer.unwrap()
    }
}

/// A guest of driver `fw`.
fn on_a_plain_bridge(lab: &Lab, dials: &[u16]) -> Guest {
    let mut vm = on_a_bridge(lab, dials);
    let nic = vm.nic.as_mut().unwrap();
    "fw".clone_into(&mut nic.vn_mad);
    "plain0".clone_into(&mut nic.bridge);
    "eth1".clone_into(&mut nic.phydev);
    vm
}

/// A guest of driver `ovswitch_vxlan`, in the network that those of `vxlan` are in.
fn on_a_switch_with_tunnels(lab: &Lab, dials: &[u16]) -> Guest {
    let mut vm = on_a_switch(lab, dials);
    let nic = vm.nic.as_mut().unwrap();
    "ovswitch_vxlan".clone_into(&mut nic.vn_mad);
    "tunnels0".clone_into(&mut nic.bridge);
    nic.phydev = on_a_bridge(lab, dials).nic.unwrap().phydev;
    nic.vni = 0;
    nic.more.push(("OUTER_VLAN_ID".to_owned(), guest::VNI.to_string()));
    vm
}

/// Three probes every 5 ms, and captures on both taps and at the observer.
fn plan(lab: &Lab, vm: &Guest, observer: &Observer<'_>, moves: u16, output: &Path) -> String {
    let argv = |words: &[String]| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let tcpdump = ["-Q", "in", "-s", "64", "-U", "--immediate-mode", "-w", "-"];
    let tap = format!("one-{}-0", vm.vm);
    let host = |host: &str| {
        let words = lab.words(&[&["exec", host, "tcpdump", "-i", &tap][..], &tcpdump[..]].concat());
        format!("[[capture.host]]\nname = \"{host}\"\ncommand = [{}]\n", argv(&words))
    };
    let seen: Vec<String> =
        ["tcpdump", "-i", observer.device()].iter().chain(&tcpdump).map(|word| (*word).to_owned()).collect();
    let legs: String = (0..moves)
        .map(|leg| if leg.is_multiple_of(2) { ("h1", "h2") } else { ("h2", "h1") })
        .map(|(from, to)| format!("[[moves]]\nfrom = \"{from}\"\nto = \"{to}\"\n"))
        .collect();
    format!(
        "output = {:?}\nsettle_before = \"1s\"\nsettle_after = \"1s\"\n[guest]\naddress = \"{}\"\n{legs}\
         [[probe]]\nkind = \"icmp\"\n[[probe]]\nkind = \"udp\"\nport = 7\n[[probe]]\nkind = \"tcp\"\nport = 7\n\
         [capture]\nmac = \"{}\"\nobserver = [{}]\n{}{}",
        output.display().to_string(),
        guest::ADDRESS,
        vm.nic.as_ref().map_or("", |nic| nic.mac.as_str()),
        argv(&seen),
        host("h1"),
        host("h2"),
    )
}

/// Prints what was seen, past the test's capture; gives back what was lost.
fn account(name: &str, report: &Report, connections: &[[Spoken; 2]]) -> Vec<String> {
    let spread = |spread: Option<Spread>| match spread {
        Some(spread) => {
            format!("{}, {} of {}", readable(spread.median), readable(spread.worst), spread.moves)
        }
        None => "not told".to_owned(),
    };
    let mut text = String::new();
    let mut lost = Vec::new();
    for (index, probe) in report.probes.iter().enumerate() {
        text.push_str(&format!(
            "long_net: {name} | {} | {}\n",
            probe.plan.name,
            spread(report.silence(index))
        ));
        if !probe.ledger.breaks().is_empty() {
            lost.push(format!("{name}: {} of {}", probe.ledger.breaks().len(), probe.plan.name));
        }
    }
    text.push_str(&format!("long_net: {name} | the network's share | {}\n", spread(report.network_share())));
    for (which, what) in ["spoken to", "idle"].into_iter().enumerate() {
        let ends: Vec<&Spoken> = connections.iter().filter_map(|ends| ends.get(which)).collect();
        let went_on = ends.iter().filter(|end| end.went_on()).count();
        text.push_str(&format!(
            "long_net: {name} | {what}, the guest listens | {went_on} of {} went on\n",
            ends.len()
        ));
        if went_on < ends.len() {
            lost.push(format!("{name}: {} of {what}", ends.len() - went_on));
        }
    }
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    lost
}
