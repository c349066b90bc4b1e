//! What is asked of a kernel whose bridges filter by VLAN, byte for byte what `bridge` and `ip` of iproute2 6.1 were recorded to send
//! for the same thing; what such a kernel answers; and what happens on one that has no such bridges.

#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use causeway_core::names::VmId;
use causeway_vnm::fabric::linux::netlink::bytes;
use causeway_vnm::fabric::linux::vlan_table::{self, Tagging, VlanTable};
use causeway_vnm::fabric::linux::{Rtnetlink, Scope, observe};
use causeway_vnm::root::{Outcome, Request, Verb, server};
use common::{Host, assert_same, document, ip, nic, request};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use proptest::prelude::*;

/// Number and sequence of the recorded requests.
const PORT: u32 = 4;
const SEQUENCE: u32 = 0x6b02_c150;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn sent(message: RouteNetlinkMessage) -> Vec<u8> {
    bytes(message, NLM_F_ACK, SEQUENCE)
}

fn set(untagged: Option<u16>, tagged: &[u16]) -> Vec<u8> {
    let tagged = tagged.iter().copied().collect();
    sent(RouteNetlinkMessage::SetLink(vlan_table::set(PORT, untagged, &tagged)))
}

fn forget(vlans: &[u16]) -> Vec<u8> {
    sent(RouteNetlinkMessage::DelLink(vlan_table::forget(PORT, &vlans.iter().copied().collect())))
}

#[test]
fn requests_are_those_of_iproute2() {
    // bridge vlan add dev p0 vid 5
    let one =
        "2c000000 13000500 50c1026b 00000000 07000000 04000000 00000000 00000000 0c001a00 08000200 00000500";
    assert_eq!(set(None, &[5]), hex(one));
    // bridge vlan add dev p0 vid 50 pvid untagged
    let native =
        "2c000000 13000500 50c1026b 00000000 07000000 04000000 00000000 00000000 0c001a00 08000200 06003200";
    assert_eq!(set(Some(50), &[]), hex(native));
    // bridge vlan add dev p0 vid 10-12
    let several = "34000000 13000500 50c1026b 00000000 07000000 04000000 00000000 00000000 14001a00 08000200 08000a00 \
                   08000200 10000c00";
    assert_eq!(set(None, &[10, 11, 12]), hex(several));
    // bridge vlan del dev p0 vid 5
    let gone =
        "2c000000 11000500 50c1026b 00000000 07000000 04000000 00000000 00000000 0c001a00 08000200 00000500";
    assert_eq!(forget(&[5]), hex(gone));
    // bridge vlan del dev p0 vid 10-12
    let gone = "34000000 11000500 50c1026b 00000000 07000000 04000000 00000000 00000000 14001a00 08000200 08000a00 08000200 \
                10000c00";
    assert_eq!(forget(&[10, 11, 12]), hex(gone));
    // All that a guest has goes in one message.
    let whole = "3c000000 13000500 50c1026b 00000000 07000000 04000000 00000000 00000000 1c001a00 08000200 06003200 08000200 \
                 08000700 08000200 10000800";
    assert_eq!(set(Some(50), &[7, 8]), hex(whole));
    // bridge -compressvlans vlan show
    let dump = "28000000 12000103 50c1026b 00000000 07000000 00000000 00000000 00000000 08001d00 04000000";
    assert_eq!(bytes(vlan_table::request(), NLM_F_DUMP, SEQUENCE), hex(dump));
}

/// The answer of a kernel for port `p0` of `br0`, with the table that `bridge vlan add vid 2-4094 dev p0` leaves: the device's
/// own attributes as this kernel gives them, the table as it is recorded in the tests of netlink-packet-route.
const ANSWER: &str = "\
    5c000000 10000200 01000000 00000000 07000100 04000000 00000000 00000000 07000300 70300000 08000a00 02000000 08000400 dc050000 \
    05001000 03000000 1c001a00 08000200 06000100 08000200 08000200 08000200 1000fe0f";

fn read(bytes: &[u8]) -> VlanTable {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).unwrap();
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload else {
        panic!("no link")
    };
    assert_eq!(link.header.index, PORT);
    vlan_table::read(&link).unwrap()
}

#[test]
fn a_recorded_answer_is_read() {
    let table = read(&hex(ANSWER));
    assert_eq!(table.len(), 4094);
    assert_eq!((table[&1], table[&2], table[&4094]), (Tagging::NATIVE, Tagging::TAGGED, Tagging::TAGGED));
    // A beginning without an end, an end without a beginning, and an end before its beginning.
    let (begin, end) = ("08000200 08000200", "08000200 1000fe0f");
    for (one, other) in
        [(begin, "08000200 00000600"), ("08000200 00000200", end), ("08000200 08000700", "08000200 10000500")]
    {
        let broken = ANSWER.replace(&format!("{begin} {end}"), &format!("{one} {other}"));
        assert_ne!(broken, ANSWER);
        let bytes = hex(&broken);
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload else {
            panic!()
        };
        assert!(vlan_table::read(&link).unwrap_err().to_string().contains("are no range"));
    }
}

proptest! {
    #[test]
    fn what_is_set_is_what_is_read(tagged in prop::collection::btree_set(1u16..4095, 0..200), native in 1u16..4095) {
        let tagged: BTreeSet<u16> = tagged.into_iter().filter(|vlan| *vlan != native).collect();
        let mut expected: BTreeMap<u16, Tagging> = tagged.iter().map(|vlan| (*vlan, Tagging::TAGGED)).collect();
        expected.insert(native, Tagging::NATIVE);
        let message = vlan_table::set(PORT, Some(native), &tagged);
        prop_assert_eq!(read(&sent(RouteNetlinkMessage::NewLink(message))), expected);
    }

    #[test]
    fn no_answer_is_too_strange(at in 32usize..92, byte: u8, other in 32usize..92, more: u8) {
        let mut bytes = hex(ANSWER);
        bytes[at] = byte;
        bytes[other] = more;
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes) else { return Ok(()) };
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload
            && let Ok(table) = vlan_table::read(&link)
        {
            prop_assert!(table.len() <= usize::from(u16::MAX) + 1);
        }
    }
}

/// NIC 0 of VM 7 in bridge `net3`.
fn vm(more: &str) -> String {
    let more = format!("{more}<VN_MAD>bridge</VN_MAD><BRIDGE>net3</BRIDGE>");
    document(7, &nic(7, 0, 4, &more))
}

fn tables() -> serde_json::Value {
    let output = Command::new("bridge").args(["-j", "vlan", "show"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// On a kernel without such bridges: nothing is left, and the reason is said. On one that has them: what the contract says.
#[test]
fn a_kernel_keeps_the_list_or_says_that_it_can_not() {
    let host = Host::new();
    let listed = vm("<VLAN_TAGGED_ID>5,10-12</VLAN_TAGGED_ID>");
    let probe =
        Command::new("ip").args("link add probe type bridge vlan_filtering 1".split(' ')).output().unwrap();
    if !probe.status.success() {
        let (text, changes) = host.taken_back(Verb::Pre, &listed);
        assert!(text.contains("create bridge net3 vlan_filtering 1"), "{text}");
        assert!(text.contains("CONFIG_BRIDGE_VLAN_FILTERING"), "{text}");
        assert_eq!(changes, [""; 0]);
        host.assert_no_trace();
        return;
    }
    ip("link del probe");
    host.done(Verb::Pre, &listed);
    host.plug("one-7-0", "net3");
    let before = tables().to_string();
    assert!(before.contains("up0") && !host.done(Verb::Post, &listed).is_empty(), "{before}");
    assert_eq!(host.done(Verb::Post, &listed), [""; 0], "again");
    let after = tables();
    let port = after.as_array().unwrap().iter().find(|port| port["ifname"] == "one-7-0").unwrap();
    let vlans: Vec<u64> =
        port["vlans"].as_array().unwrap().iter().filter_map(|v| v["vlan"].as_u64()).collect();
    assert_eq!(vlans, [1, 5, 10, 11, 12]);
    ip("link del one-7-0");
    host.done(Verb::Clean, &listed);
    assert_eq!(host.links(), [""; 0]);
}

/// A list that a network gets while its guest runs: kept, or refused with all as it was.
#[test]
fn a_running_guest_gets_its_list_or_keeps_what_it_has() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(""));
    host.plug("one-7-0", "net3");
    let before = (host.snapshot(), host.reservation(VmId(7)).unwrap()["nics"].clone());
    let args = vec!["7f6a3a3e-0000-0000-0000-000000000000".to_owned(), "3".to_owned()];
    let listed = vm("<NETWORK_ID>3</NETWORK_ID><VLAN_TAGGED_ID>5,10-12</VLAN_TAGGED_ID>");
    let response = server::answer(&host.places, &Request { args, ..request(Verb::UpdateNic, &listed) });
    let reserved = host.reservation(VmId(7)).unwrap()["nics"].clone();
    match response.outcome {
        Outcome::Done => {
            let changes = response.changes.join("; ");
            assert!(changes.ends_with("set bridge net3 vlan_filtering 1"), "{changes}");
            assert_eq!(reserved["0"]["tags"]["tagged"], serde_json::json!([5, 10, 11, 12]));
        }
        Outcome::Failed(failure) => {
            assert!(failure.text.contains("CONFIG_BRIDGE_VLAN_FILTERING"), "{failure}");
            assert_same(&host.snapshot(), &before.0);
            assert_eq!(reserved, before.1);
        }
    }
    ip("link del one-7-0");
    host.done(Verb::Clean, &listed);
    assert_eq!(host.links(), [""; 0]);
    host.assert_no_trace();
}

/// The list of the real kernel, whatever its bridges can do.
#[test]
fn the_kernels_own_list_is_read() {
    let host = Host::new();
    ip("link add net3 type bridge");
    host.plug("one-7-0", "net3");
    let scope = Scope { bridges: ["net3".parse().unwrap()].into(), vlans: true, ..Scope::default() };
    let seen = observe(&mut Rtnetlink::open().unwrap(), &scope).unwrap();
    let tap = seen.named(&"one-7-0".parse().unwrap()).unwrap().index;
    let expected = tables();
    let listed = expected.as_array().unwrap().iter().find(|port| port["ifname"] == "one-7-0");
    let listed = listed.map_or(0, |port| port["vlans"].as_array().unwrap().len());
    assert_eq!(seen.vlans.get(&tap).map(BTreeMap::len), Some(listed), "{expected}");
}
