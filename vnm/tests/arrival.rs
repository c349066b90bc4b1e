//! `post`: the guest's devices are checked, the tables programmed, and the fabric told.

#![cfg(test)]

mod common;

use std::os::fd::AsRawFd;
use std::process::Command;

use causeway_core::names::VmId;
use causeway_vnm::root::{Outcome, Verb};
use common::{Host, document, ip, mac, nic, vm};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

fn bridge(words: &str) -> String {
    let output = Command::new("bridge").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "bridge {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_guest_whose_device_is_missing_or_elsewhere_has_not_arrived() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    assert_eq!(host.refused(Verb::Post, &vm(7, 4)), "device one-7-0 of NIC 0 does not exist");
    ip("tuntap add one-7-0 mode tap");
    assert_eq!(host.refused(Verb::Post, &vm(7, 4)), "device one-7-0 of NIC 0 is not plugged into onebr.4");
    ip("link add other type bridge");
    ip("link set one-7-0 master other");
    let text = host.refused(Verb::Post, &vm(7, 4));
    assert!(text.starts_with("device one-7-0 of NIC 0 is"), "{text}");
}

#[test]
fn the_tables_point_at_the_guest() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    let address = mac(7, 0);
    // While the guest was elsewhere, the host learned it behind the tunnel.
    bridge(&format!("fdb add {address} dev up0.4 master dynamic"));
    bridge(&format!("fdb add {address} dev up0.4 self dynamic dst 10.77.0.2"));
    host.plug_held("one-7-0", "onebr.4");
    let changes: Vec<String> = host.done(Verb::Post, &vm(7, 4)).iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        [format!("set fdb {address} at one-7-0 of onebr.4"), format!("forget {address} behind up0.4")]
    );
    let table = bridge("fdb show");
    let lines: Vec<&str> = table.lines().filter(|line| line.contains(&address)).collect();
    assert_eq!(lines, [format!("{address} dev one-7-0 master onebr.4 ")], "{table}");
    assert_eq!(host.done(Verb::Post, &vm(7, 4)), [""; 0], "again");

    // The guest leaves: the entry goes although its device still lingers.
    host.done(Verb::Clean, &vm(7, 4));
    assert!(!bridge("fdb show").contains(&address));
}

#[test]
fn pre_says_nothing_of_where_the_guest_is() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.plug_held("one-7-0", "onebr.4");
    // A migration is under way: the device is here, the guest is not.
    let address = mac(7, 0);
    bridge(&format!("fdb add {address} dev up0.4 master dynamic"));
    assert_eq!(host.done(Verb::Pre, &vm(7, 4)), [""; 0]);
    assert!(bridge("fdb show dev up0.4").contains(&address));
}

#[test]
fn a_routing_daemons_entries_are_left_alone() {
    let host = Host::new();
    let doc =
        document(7, &nic(7, 0, 4, "<VXLAN_MODE>evpn</VXLAN_MODE><IP_LINK_CONF>nolearning=</IP_LINK_CONF>"));
    host.done(Verb::Pre, &doc);
    bridge(&format!("fdb add {} dev up0.4 self extern_learn dst 10.77.0.2", mac(7, 0)));
    host.plug_held("one-7-0", "onebr.4");
    host.done(Verb::Post, &doc);
    assert!(bridge("fdb show dev up0.4").contains("10.77.0.2"));
}

#[test]
fn other_hosts_hear_of_the_guest_by_the_tunnel() {
    let host = Host::new();
    let more = "<IP>10.0.7.10</IP><IP6_GLOBAL>2001:db8::7</IP6_GLOBAL>";
    let doc = document(7, &nic(7, 0, 4, more));
    host.done(Verb::Pre, &doc);
    host.plug_held("one-7-0", "onebr.4");
    let wire =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
    let response = host.run(Verb::Post, &doc);
    assert_eq!((&response.outcome, &response.notes), (&Outcome::Done, &vec![]));

    // What arrives at the uplink's far end: outer Ethernet, IPv4, UDP and VXLAN headers, 50 bytes, then our frame.
    let source: Vec<u8> = [0x02, 0, 0x0a, 0, 7, 0].to_vec();
    let mut inner = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(length) = recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        let frame = &buffer[..length];
        let to_vxlan = length > 64 && frame[23] == 17 && frame[36..38] == 8472u16.to_be_bytes();
        if to_vxlan && frame[56..62] == source[..] && !inner.contains(&frame[50..].to_vec()) {
            assert_eq!(&frame[30..34], [239, 0, 0, 4], "to the network's group");
            assert_eq!(&frame[46..49], [0, 0, 4], "with the network's number");
            inner.push(frame[50..].to_vec());
        }
    }
    let kinds: Vec<&[u8]> = inner.iter().map(|frame| &frame[12..14]).collect();
    assert_eq!(kinds, [[0x80, 0x35], [0x08, 0x06], [0x86, 0xdd]], "RARP, ARP, ND");
    assert_eq!(inner[1][28..32], [10, 0, 7, 10]);
}

#[test]
fn an_announcement_that_fails_fails_nothing() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.plug_held("one-7-0", "onebr.4");
    // Nothing is sent into a network that cannot be left, and the guest is here all the same.
    ip("link set up0 down");
    let response = host.run(Verb::Post, &vm(7, 4));
    assert_eq!(response.outcome, Outcome::Done);
    assert!(host.reservation(VmId(7)).is_some());
}
