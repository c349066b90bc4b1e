//! Guests on real Linux bridges: each is a network namespace of its own with one device, whose other end is a port of its bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use causeway_core::document::VmDocument;
use causeway_core::names::{LinkName, Mac, VmId};
use causeway_vnm::desired::guard::Guard;
use causeway_vnm::fabric::firewall::{Change, Fence, Nft, Observed, Scope, difference};
use nix::ifaddrs::getifaddrs;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, socket};

use super::guests::{Guest, hear_each_other};
use super::ip;

/// How long a frame may take, and how long one that does not come is waited for.
const ARRIVES: Duration = Duration::from_millis(250);

/// Guests, and their bridges.
pub struct Bridged {
    pub all: Vec<Guest>,
    /// The bridge of each.
    pub bridges: Vec<String>,
}

/// A network of the calling thread's own.
pub fn enter() {
    assert!(rustix::process::geteuid().is_root(), "these tests need root: they make network namespaces");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    std::fs::create_dir_all("/run/netns").unwrap();
    mount(Some("guests"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    ip("link set lo up");
    // Only the bridges that ask for it hand their frames to IP.
    for family in ["iptables", "ip6tables", "arptables"] {
        std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), "0").unwrap();
    }
}

impl Bridged {
    /// One guest on each of these bridges. The guests of each have the same addresses, one after the other.
    pub fn new(bridges: &[&str]) -> Self {
        enter();
        let mut on: BTreeMap<&str, u8> = BTreeMap::new();
        let mut all = Vec::new();
        for (number, bridge) in (1..).zip(bridges) {
            let last = on.entry(bridge).or_default();
            if *last == 0 {
                ip(&format!("link add {bridge} type bridge nf_call_iptables 1 nf_call_ip6tables 1"));
                ip(&format!("link set {bridge} up"));
            }
            *last += 1;
            all.push(guest(bridge, number, *last));
        }
        // A port forwards when the kernel has found time to see that its other end is there.
        for (guest, bridge) in all.iter().zip(bridges) {
            if let Some(place) = bridges.iter().position(|other| other == bridge)
                && all[place].number != guest.number
            {
                hear_each_other(&all[place], guest);
            }
        }
        Bridged { all, bridges: bridges.iter().map(|bridge| (*bridge).to_owned()).collect() }
    }

    /// The guard of a guest, from the attributes of its NIC and the rules of its groups.
    pub fn fence(&self, guest: &Guest, nic: &str, rules: &str) -> Fence {
        let bridge = &self.bridges[guest.number as usize - 1];
        Fence {
            hosts: hosts(bridge),
            bridge: bridge.parse().unwrap(),
            ..fence(guest.number, guest.mac, nic, rules, &addresses(guest))
        }
    }
}

fn addresses(guest: &Guest) -> String {
    format!("<IP>{}</IP><IP6>{}</IP6>", guest.four, guest.six)
}

/// The guard of the first NIC of a VM, from the attributes of its NIC and the rules of its groups.
pub fn fence(vm: u32, mac: Mac, nic: &str, rules: &str, addresses: &str) -> Fence {
    let document = format!(
        "<VM><ID>{vm}</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>vxlan</VN_MAD>{addresses}{nic}</NIC></TEMPLATE>{rules}</VM>"
    );
    let document = VmDocument::parse(document.as_bytes()).unwrap();
    let tap: LinkName = format!("one-{vm}-0").parse().unwrap();
    Fence {
        vm: VmId(vm),
        deploy: None,
        number: u16::try_from(0x4000 + vm).unwrap().try_into().unwrap(),
        bridge: "br0".parse().unwrap(),
        hosts: BTreeSet::new(),
        guard: Guard::of(&document.nics[0], &document, &tap, mac).unwrap(),
    }
}

/// A rule of group 5.
pub fn rule(direction: &str, protocol: &str, more: &str) -> String {
    format!(
        "<TEMPLATE><SECURITY_GROUP_RULE><SECURITY_GROUP_ID>5</SECURITY_GROUP_ID><RULE_TYPE>{direction}</RULE_TYPE>\
         <PROTOCOL>{protocol}</PROTOCOL>{more}</SECURITY_GROUP_RULE></TEMPLATE>"
    )
}

/// Asks for the rules of that group.
pub const GROUP: &str = "<SECURITY_GROUPS>5</SECURITY_GROUPS>";
/// Asks for both filters.
pub const FILTERS: &str =
    "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>";

/// The address by which frames reach the host.
pub fn hosts(bridge: &str) -> BTreeSet<Mac> {
    let link: serde_json::Value = serde_json::from_str(&ip(&format!("-j link show {bridge}"))).unwrap();
    [link[0]["address"].as_str().unwrap().parse().unwrap()].into()
}

/// A guest, plugged in as libvirt does it.
pub fn guest(bridge: &str, number: u32, last: u8) -> Guest {
    let guest = Guest::addressed(number, last, None);
    ip(&format!("link set {} master {bridge}", guest.tap));
    guest
}

/// The firewall of this thread's network.
pub fn nft() -> Nft {
    Nft::new(PathBuf::from("/usr/sbin/nft"), Instant::now() + Duration::from_secs(60))
}

/// Brings those fences about and says what it took; doing it again takes nothing.
pub fn apply(fences: &[&Fence]) -> Option<Change> {
    let change = apply_once(fences);
    let again = plan(fences);
    assert_eq!(again, None, "twice is not once");
    change
}

/// The same without a second look.
pub fn apply_once(fences: &[&Fence]) -> Option<Change> {
    let change = plan(fences);
    if let Some(change) = &change {
        nft().apply(change).unwrap();
    }
    change
}

fn plan(fences: &[&Fence]) -> Option<Change> {
    let fences: Vec<Fence> = fences.iter().map(|fence| (*fence).clone()).collect();
    difference(&fences, &BTreeSet::new(), &observe(&Scope::of(&fences, &BTreeSet::new()))).unwrap()
}

pub fn observe(scope: &Scope) -> Observed {
    nft().observe(scope).unwrap()
}

/// Whether a frame that one guest sends arrives at another.
pub fn arrives(from: &Guest, frame: &[u8], to: &Guest) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ear =
        to.within(|| socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap());
    from.within(|| send("eth0", frame));
    // The kernel takes a tag out of what it shows.
    let untagged = [&frame[..12], &frame[16..]].concat();
    let end = Instant::now() + ARRIVES;
    let mut buffer = [0; 4096];
    while Instant::now() < end {
        match recv(ear.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length)
                if [frame, &untagged]
                    .iter()
                    .any(|sent| buffer[..length].starts_with(&sent[..sent.len().min(50)])) =>
            {
                return true;
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    false
}

/// Sends a frame by a device of this thread's network.
pub fn send(device: &str, frame: &[u8]) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let wire = socket(AddressFamily::Packet, SockType::Raw, flags, None).unwrap();
    let mut addresses = getifaddrs().unwrap().filter(|found| found.interface_name == device);
    let address = addresses.find_map(|found| Some(*found.address?.as_link_addr()?)).unwrap();
    sendto(wire.as_raw_fd(), frame, &address, MsgFlags::empty()).unwrap();
}

/// An Ethernet frame.
pub fn ethernet(to: [u8; 6], from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to, from.0.as_slice(), &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet, whole or in parts: `fragment` is the field with its flags and offset.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, id: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [&from.to_be_bytes(), &to.to_be_bytes(), length.to_be_bytes().as_slice(), &[0, 0], payload].concat()
}

/// ARP of Ethernet and IPv4: a request (1) or an answer (2).
pub fn arp(operation: u8, mac: Mac, sender: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head, mac.0.as_slice(), &sender.octets(), &[0; 6], &wanted.octets(), &[0; 18]].concat()
}

/// IPv6, with whatever follows its header.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    [&head, from.octets().as_slice(), &to.octets(), payload].concat()
}

/// A neighbour solicitation (135) or advertisement (136) about that address.
pub fn neighbour(kind: u8, from: Ipv6Addr, to: Ipv6Addr, about: Ipv6Addr) -> Vec<u8> {
    icmpv6(kind, from, to, &[&[0x20, 0, 0, 0], about.octets().as_slice()].concat())
}

/// A message of ICMPv6 with a right checksum.
pub fn icmpv6(kind: u8, from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let length = u8::try_from(message.len()).unwrap();
    let pseudo = [&from.octets(), to.octets().as_slice(), &[0, 0, 0, length, 0, 0, 0, 58], &message].concat();
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    ipv6(from, to, 58, &message)
}

/// A segment of TCP without data, with a right checksum.
pub fn tcp(from: Ipv4Addr, to: Ipv4Addr, source: u16, port: u16, flags: u8) -> Vec<u8> {
    let mut segment = [source.to_be_bytes(), port.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    let pseudo = [&from.octets(), to.octets().as_slice(), &[0, 6, 0, 20], &segment].concat();
    segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    segment
}

/// The Internet's checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
