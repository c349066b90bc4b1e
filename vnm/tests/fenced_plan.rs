//! Guards as batches of nftables: the batches themselves, and what holds for any guard.

#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_core::names::{LinkName, Mac, VmId};
use causeway_vnm::desired::Guard;
use causeway_vnm::desired::guard::{Pass, Passage, Ports, Traffic};
use causeway_vnm::fabric::firewall::change::{Command, Element, Family};
use causeway_vnm::fabric::firewall::{Change, Fence, Observed, Scope, difference, removal};
use common::bridged::{FILTERS, GROUP, enter, fence, nft, rule};
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::Value;

const MAC: Mac = Mac([2, 0, 10, 0, 0, 7]);

fn first(fences: &[Fence]) -> Change {
    difference(fences, &BTreeSet::new(), &Observed::default()).unwrap().unwrap()
}

/// One command on a line, so that a change of one is one line.
fn lines(change: &Change) -> String {
    let json: serde_json::Value = serde_json::from_str(&change.text()).unwrap();
    let commands = json["nftables"].as_array().unwrap().iter().map(Value::to_string);
    [change.to_string()].into_iter().chain(commands).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_batch_of_a_guard_with_everything() {
    let net = "<IP>10.0.0.254</IP><SIZE>3</SIZE><NETWORK_ID>1</NETWORK_ID><IP6_ULA>fd00::1</IP6_ULA>";
    let rules = [
        rule("INBOUND", "TCP", "<RANGE>22,80:90</RANGE>"),
        rule("INBOUND", "UDP", net),
        rule("INBOUND", "ICMP", "<ICMP_TYPE>8</ICMP_TYPE>"),
        rule("INBOUND", "ICMPV6", ""),
        rule("INBOUND", "IPSEC", "<IP>10.0.9.1</IP>"),
        rule("OUTBOUND", "ALL", ""),
    ];
    let addresses = "<IP>10.0.0.7</IP><IP6_ULA>fd00::7</IP6_ULA><IP6_LINK>fe80::7</IP6_LINK>";
    let mut fence = fence(7, MAC, &format!("{GROUP}{FILTERS}"), &rules.concat(), addresses);
    fence.deploy = Some("6f1ccb5c-9f0b-4f0e-8a6e-1f9f5c1b7a11".parse().unwrap());
    fence.hosts = ["02:00:00:00:00:01".parse().unwrap()].into();
    insta::assert_snapshot!(lines(&first(&[fence])));
}

#[test]
fn the_batch_of_filters_alone() {
    let mac = "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>";
    let ip = "<FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING><IP6>fd00::8</IP6>";
    insta::assert_snapshot!(lines(&first(&[fence(7, MAC, mac, "", ""), fence(8, MAC, ip, "", "")])));
}

#[test]
fn the_batch_that_replaces_one_rule_and_the_one_that_removes() {
    let mut model = Observed::default();
    let seven = fence(7, MAC, GROUP, &rule("INBOUND", "TCP", ""), "");
    apply(&mut model, &first(&[seven, fence(8, MAC, GROUP, "", "")]));
    let new = [fence(7, MAC, GROUP, &rule("INBOUND", "UDP", ""), "")];
    let change = difference(&new, &BTreeSet::new(), &model).unwrap().unwrap();
    apply(&mut model, &change);
    let gone = removal(&[tap(7)].into(), &model).unwrap();
    apply(&mut model, &gone);
    let last = removal(&[tap(7), tap(8)].into(), &model).unwrap();
    insta::assert_snapshot!([change, gone, last].map(|change| lines(&change)).join("\n\n"));
}

#[test]
fn a_change_is_the_same_after_a_journey() {
    let change = first(&[fence(7, MAC, GROUP, "", "")]);
    let text = serde_json::to_string(&change).unwrap();
    assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change);
}

#[test]
fn a_name_that_means_another_is_refused() {
    for name in ["br*", "@from", "br{0}", "*", "br$a", "br;0"] {
        let fence = Fence { bridge: name.parse().unwrap(), ..fence(7, MAC, GROUP, "", "") };
        let error = difference(&[fence], &BTreeSet::new(), &Observed::default()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("device {name} can have no guard")), "{error}");
    }
}

#[test]
fn there_are_only_so_many_bridges_with_groups() {
    let on = |bridge: u32| {
        let vm = 0x10_000 + bridge;
        let number = (0x4000 + u16::try_from(bridge).unwrap()).try_into().unwrap();
        let guard = Guard { tap: tap(vm), ..fence(7, MAC, GROUP, "", "").guard };
        Fence { bridge: format!("b{bridge}").parse().unwrap(), number, guard, ..fence(7, MAC, GROUP, "", "") }
    };
    let mut fences: Vec<Fence> = (0..4096).map(on).collect();
    first(&fences);
    fences.push(on(4096));
    let error = difference(&fences, &BTreeSet::new(), &Observed::default()).unwrap_err();
    assert!(error.to_string().starts_with("bridge b4096 can have no security groups"), "{error}");
}

fn tap(vm: u32) -> LinkName {
    format!("one-{vm}-0").parse().unwrap()
}

/// What the kernel makes of a batch, and what it refuses.
fn apply(at: &mut Observed, change: &Change) {
    for command in &change.commands {
        match command {
            Command::AddTable(family) => drop(at.tables.insert(*family)),
            Command::DeleteTable(family) => {
                assert!(at.tables.remove(family));
                at.chains.retain(|chain, _| chain.family != *family);
                at.elements.retain(|element| element.map.family() != *family);
            }
            Command::AddMap(map) => assert!(at.tables.contains(&map.family())),
            Command::AddChain(chain, _) => {
                assert!(at.tables.contains(&chain.family));
                at.chains.entry(chain.clone()).or_default();
            }
            Command::Flush(chain) => at.chains.get_mut(chain).unwrap().clear(),
            Command::DeleteChain(chain) => {
                assert_eq!(at.chains.remove(chain), Some(Vec::new()));
                let leads = |e: &Element| e.map.family() == chain.family && e.chain == chain.name;
                assert!(!at.elements.iter().any(leads), "{chain:?} is in use");
            }
            Command::AddRule { chain, comment, .. } => {
                assert!(comment.len() < 128, "{comment}");
                at.chains.get_mut(chain).unwrap().push(comment.clone());
            }
            Command::AddElement(element) => {
                let named =
                    |name: &str| at.chains.keys().any(|c| c.family == element.map.family() && c.name == name);
                assert!(named(&element.chain), "{element:?}");
                let same = |other: &Element| (other.map, &other.key) == (element.map, &element.key);
                assert!(!at.elements.iter().any(same), "{element:?}");
                at.elements.insert(element.clone());
            }
            Command::DeleteElement(element) => assert!(at.elements.remove(element), "{element:?}"),
            other => panic!("{other:?} is not about what is ours"),
        }
    }
}

fn ports() -> impl Strategy<Value = Ports> {
    let apart = proptest::collection::vec((0_u16..50, 0_u16..20), 1..5).prop_map(|ranges| {
        let base = |i: usize| u16::try_from(i * 100).unwrap();
        ranges.iter().enumerate().map(|(i, (low, more))| (base(i) + low, base(i) + low + more)).collect()
    });
    let whole = Just(BTreeSet::from([(0, u16::MAX)]));
    proptest::option::of(prop_oneof![4 => apart, 1 => whole])
}

fn traffic() -> impl Strategy<Value = Traffic> {
    prop_oneof![
        Just(Traffic::All),
        ports().prop_map(Traffic::Tcp),
        ports().prop_map(Traffic::Udp),
        proptest::option::of(0_u8..20).prop_map(Traffic::Icmp),
        proptest::option::of(125_u8..140).prop_map(Traffic::Icmpv6),
        Just(Traffic::Esp),
    ]
}

fn peers() -> impl Strategy<Value = Option<BTreeSet<IpNet>>> {
    let four = (0_u8..=32, 0_u32..4096).prop_map(|(length, low)| {
        let address = Ipv4Addr::from(0x0a00_0000 | low);
        IpNet::new(address.into(), length).unwrap()
    });
    let six = (0_u8..=128, 0_u128..4096).prop_map(|(length, low)| {
        let address = Ipv6Addr::from(0xfd00_u128 << 112 | low);
        IpNet::new(address.into(), length).unwrap()
    });
    proptest::option::of(proptest::collection::btree_set(prop_oneof![four, six], 1..6))
}

fn passage() -> impl Strategy<Value = Passage> {
    let pass = (traffic(), peers()).prop_map(|(traffic, peers)| Pass { traffic, peers });
    let only = proptest::collection::btree_set(pass, 0..6).prop_map(Passage::Only);
    prop_oneof![1 => Just(Passage::Open), 4 => only]
}

fn fenced(vm: u32) -> impl Strategy<Value = Fence> {
    let senders = proptest::collection::btree_set(
        prop_oneof![
            any::<u32>().prop_map(|a| IpAddr::V4(a.into())),
            any::<u128>().prop_map(|a| IpAddr::V6(a.into())),
        ],
        0..4,
    );
    let macs = proptest::collection::btree_set(any::<[u8; 6]>().prop_map(Mac), 1..3);
    (passage(), passage(), proptest::option::of(senders), proptest::option::of(macs), 0_u8..2).prop_map(
        move |(inbound, outbound, senders, macs, bridge)| {
            let guard = Guard { nic: 0, tap: tap(vm), mac: MAC, macs, senders, inbound, outbound };
            let number = u16::try_from(0x4000 + vm).unwrap().try_into().unwrap();
            let bridge: LinkName = format!("br{bridge}").parse().unwrap();
            Fence { vm: VmId(vm), deploy: None, number, bridge, hosts: BTreeSet::new(), guard }
        },
    )
}

/// A packet as the rules of `inet` see it, on its way to a guest.
#[derive(Debug, Clone, Copy)]
struct Packet {
    from: IpAddr,
    protocol: u8,
    /// The destination port, or the type.
    what: u16,
}

fn packet() -> impl Strategy<Value = Packet> {
    let from = prop_oneof![
        (0_u32..5000).prop_map(|low| IpAddr::V4((0x0a00_0000 | low).into())),
        any::<u32>().prop_map(|a| IpAddr::V4(a.into())),
        (0_u128..5000).prop_map(|low| IpAddr::V6((0xfd00_u128 << 112 | low).into())),
    ];
    let protocol = prop_oneof![Just(1_u8), Just(2), Just(6), Just(17), Just(50), Just(58), any::<u8>()];
    (from, protocol, prop_oneof![0_u16..500, any::<u16>()]).prop_map(|(from, protocol, what)| Packet {
        from,
        protocol,
        what,
    })
}

/// What the guard says.
fn may_pass(passage: &Passage, packet: Packet) -> bool {
    let Packet { from, protocol, what } = packet;
    let own = match (from, protocol) {
        (IpAddr::V6(_), 58) => [130, 134, 135, 136, 137].contains(&(what & 0xff)),
        (IpAddr::V4(_), 2) => what & 0xff == 0x11,
        _ => false,
    };
    let Passage::Only(passes) = passage else { return true };
    let on = |ports: &Ports| {
        ports.as_ref().is_none_or(|ports| ports.iter().any(|(low, high)| (*low..=*high).contains(&what)))
    };
    let is = |kind: &Option<u8>| kind.is_none_or(|kind| u16::from(kind) == what & 0xff);
    own || passes.iter().any(|pass| {
        let kind = match &pass.traffic {
            Traffic::All => true,
            Traffic::Tcp(ports) => protocol == 6 && on(ports),
            Traffic::Udp(ports) => protocol == 17 && on(ports),
            Traffic::Esp => protocol == 50,
            Traffic::Icmp(message) => protocol == 1 && from.is_ipv4() && is(message),
            Traffic::Icmpv6(message) => protocol == 58 && from.is_ipv6() && is(message),
        };
        kind && pass.peers.as_ref().is_none_or(|peers| peers.iter().any(|net| net.contains(&from)))
    })
}

/// Chains of `inet` by name.
type Chains = BTreeMap<String, Vec<Vec<Value>>>;

fn chains_of(change: &Change) -> Chains {
    let mut out = Chains::new();
    for command in &change.commands {
        if let Command::AddRule { chain, expr, .. } = command
            && chain.family == Family::Inet
        {
            out.entry(chain.name.clone()).or_default().push(expr.clone());
        }
    }
    out
}

/// What the rules say, read as nft reads them; none where a chain ends without saying it.
fn is_let_in(chains: &Chains, chain: &str, packet: Packet) -> Option<bool> {
    for rule in &chains[chain] {
        let matches = rule.iter().filter_map(|statement| statement.get("match"));
        if !matches.clone().all(|found| holds(found, packet)) {
            continue;
        }
        let has = |kind: &str| rule.iter().find_map(|statement| statement.get(kind));
        if let Some(other) = has("jump") {
            let said = is_let_in(chains, other["target"].as_str().unwrap(), packet);
            if said.is_some() {
                return said;
            }
            continue;
        }
        if let Some(other) = has("goto") {
            assert_eq!(other["target"], "passed");
            return Some(true);
        }
        if has("drop").is_some() {
            return Some(false);
        }
        panic!("it says nothing: {rule:?}");
    }
    None
}

fn holds(found: &Value, packet: Packet) -> bool {
    let left = &found["left"];
    if left.pointer("/ct/key").is_some_and(|key| key == "state") {
        // It belongs to no connection, and may begin one.
        assert_eq!(found["op"], "in");
        assert!(found["right"].as_array().unwrap().iter().all(|state| state != "new"));
        return false;
    }
    if left.pointer("/ct/key").is_some() {
        return false;
    }
    assert_eq!(found["op"], "==");
    let field = left.pointer("/payload/field").or(left.pointer("/meta/key")).unwrap().as_str().unwrap();
    let (four, right) = (packet.from.is_ipv4(), &found["right"]);
    let number = match (left.pointer("/payload/protocol").and_then(Value::as_str), field) {
        (None, "nfproto") => return right == if four { "ipv4" } else { "ipv6" },
        (None, "l4proto") => packet.protocol.into(),
        (Some("tcp"), "dport") if packet.protocol == 6 => packet.what,
        (Some("udp"), "dport") if packet.protocol == 17 => packet.what,
        (Some("icmp"), "type") if packet.protocol == 1 => packet.what & 0xff,
        (Some("icmpv6"), "type") if packet.protocol == 58 => packet.what & 0xff,
        (Some("igmp"), "type") if packet.protocol == 2 => packet.what & 0xff,
        (Some("ip"), "saddr") => return four && among(right, |one| holds_address(one, packet.from)),
        (Some("ip6"), "saddr") => return !four && among(right, |one| holds_address(one, packet.from)),
        (Some(_), "dport" | "type") => return false,
        other => panic!("{other:?}"),
    };
    among(right, |one| match one.get("range") {
        Some(range) => (range[0].as_u64().unwrap()..=range[1].as_u64().unwrap()).contains(&number.into()),
        None => one.as_u64().unwrap() == u64::from(number),
    })
}

fn among(right: &Value, is: impl Fn(&Value) -> bool) -> bool {
    match right.get("set") {
        Some(set) => set.as_array().unwrap().iter().any(is),
        None => is(right),
    }
}

fn holds_address(one: &Value, address: IpAddr) -> bool {
    let parsed = |one: &Value| one.as_str().unwrap().parse::<IpAddr>().unwrap();
    match one.get("range") {
        Some(range) => (parsed(&range[0])..=parsed(&range[1])).contains(&address),
        None => parsed(one) == address,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_rules_let_in_what_the_guard_does(mut fence in fenced(7), packets in proptest::collection::vec(packet(), 64)) {
        // Else it may need no rules.
        fence.guard.outbound = Passage::Only(BTreeSet::new());
        let change = first(&[fence.clone()]);
        let chains = chains_of(&change);
        for packet in packets {
            let said = is_let_in(&chains, "one-7-0-i", packet);
            prop_assert_eq!(said, Some(may_pass(&fence.guard.inbound, packet)), "{:?}", packet);
        }
    }

    #[test]
    fn whatever_comes_before_what_is_asked_for_stands_and_nothing_else_is_touched(
        steps in proptest::collection::vec((fenced(1), fenced(2), fenced(3), 0_u8..8, 0_u8..8), 1..5),
    ) {
        let mut model = Observed::default();
        let mut standing: BTreeMap<u32, Fence> = BTreeMap::new();
        for (one, two, three, asked, kept) in steps {
            let all = [one, two, three];
            let bit = |set: u8, i: u32| set >> (i - 1) & 1 == 1;
            let named = |set: u8| (1..=3_u32).filter(move |vm| bit(set, *vm));
            let taps: BTreeSet<LinkName> = named(asked).map(tap).collect();
            let fences: Vec<Fence> = named(asked & kept).map(|vm| all[vm as usize - 1].clone()).collect();
            let before = model.clone();
            if let Some(change) = difference(&fences, &taps, &model).unwrap() {
                apply(&mut model, &change);
                prop_assert!(!change.to_string().contains('\n'));
            }
            prop_assert_eq!(difference(&fences, &taps, &model).unwrap(), None);
            for vm in named(asked) {
                match bit(kept, vm) {
                    true => standing.insert(vm, all[vm as usize - 1].clone()),
                    false => standing.remove(&vm),
                };
            }
            for vm in named(!asked) {
                let of = |at: &Observed| {
                    let name = tap(vm).to_string();
                    let mut chains = at.chains.clone();
                    chains.retain(|chain, _| chain.name.starts_with(&name));
                    let mut elements = at.elements.clone();
                    elements.retain(|e| e.chain.starts_with(&name));
                    (chains, elements)
                };
                prop_assert_eq!(of(&model), of(&before));
            }
            // By whatever way it came about, it is what it would be at once.
            let whole: Vec<Fence> = standing.values().cloned().collect();
            prop_assert_eq!(difference(&whole, &BTreeSet::new(), &model).unwrap(), None);
            let bridges: BTreeSet<&str> =
                whole.iter().filter(|f| f.guard.is_stateful()).map(|f| f.bridge.as_str()).collect();
            let zones = model.chains.keys().filter(|chain| chain.name.starts_with("zone-")).count();
            prop_assert_eq!(zones, bridges.len());
        }
        if let Some(change) = removal(&(1..=3).map(tap).collect(), &model) {
            apply(&mut model, &change);
        }
        prop_assert_eq!(model, Observed::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_kernel_takes_any_guard_and_shows_it_again(one in fenced(1), two in fenced(2)) {
        enter();
        let fences = [one, two];
        let scope = Scope::of(&fences, &BTreeSet::new());
        nft().apply(&first(&fences)).unwrap();
        prop_assert_eq!(difference(&fences, &BTreeSet::new(), &nft().observe(&scope).unwrap()).unwrap(), None);
        let taps = scope.taps.clone();
        nft().apply(&removal(&taps, &nft().observe(&scope).unwrap()).unwrap()).unwrap();
        prop_assert_eq!(nft().observe(&Scope::of(&[], &taps)).unwrap(), Observed::default());
    }
}
