//! A guest with groups and filters, and the networks that it is tried in.

use std::net::Ipv4Addr;

use causeway_suite::lab::observer::{Knock, Observer};
use causeway_suite::lab::{Lab, guest};
use causeway_suite::request::Guest;
use causeway_suite::request::guest::Rule;

/// Of the guest's rules.
pub const GROUP: u32 = 100;
/// The guest's, by which it may send.
pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);
/// One that the guest has given itself.
pub const FORGED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 12);
/// The observer's ports that the guest may connect to.
pub const PERMITTED: &str = "9000:9099";
pub const VLAN: u32 = 50;

/// A guest of driver `vxlan` that connects to these ports of the observer's.
pub fn on_a_bridge(lab: &Lab, dials: &[u16]) -> Guest {
    guarded(lab, dials)
}

/// The same of driver `ovswitch`.
pub fn on_a_switch(lab: &Lab, dials: &[u16]) -> Guest {
    let mut vm = guarded(lab, dials);
    let nic = vm.nic.as_mut().unwrap();
    nic.vn_mad = "ovswitch".to_owned();
    nic.bridge = "vsw0".to_owned();
    nic.phydev = "eth1".to_owned();
    nic.vni = VLAN;
    // The lab's kernel has no data path for it.
    nic.more.push(("OVS_BRIDGE_CONF".to_owned(), "datapath_type=netdev".to_owned()));
    vm
}

fn guarded(lab: &Lab, dials: &[u16]) -> Guest {
    let mut vm = guest::virtual_machine(lab.directory(), 0, 0);
    let dials: Vec<String> = dials.iter().map(|port| format!("10.9.0.254:{port}")).collect();
    vm.cmdline.push_str(&format!(" also={FORGED}/24 dial={}", dials.join(",")));
    let nic = vm.nic.as_mut().unwrap();
    let attributes = [
        ("SECURITY_GROUPS", GROUP.to_string()),
        ("FILTER_MAC_SPOOFING", "YES".to_owned()),
        ("FILTER_IP_SPOOFING", "YES".to_owned()),
    ];
    nic.more.extend(attributes.map(|(name, value)| (name.to_owned(), value)));
    vm.rules = vec![
        Rule { range: None, ..rule("INBOUND", "ICMP", "") },
        rule("INBOUND", "TCP", "7"),
        rule("INBOUND", "UDP", "7"),
        rule("OUTBOUND", "TCP", PERMITTED),
    ];
    vm
}

pub fn rule(direction: &'static str, protocol: &'static str, range: &'static str) -> Rule {
    Rule { group: GROUP, direction, protocol, range: Some(range) }
}

/// Whether the guest's network and its services are up.
pub fn answers(observer: &Observer<'_>) -> bool {
    observer.pings(OWN) && observer.knocks((OWN, 7)).unwrap() == Knock::Open
}
