//! What all guards share: tables, maps, the chains that the kernel enters, and one chain for each bridge. Pure.

use std::collections::BTreeSet;

use causeway_core::names::Mac;

use super::change::{Chain, Family, Hook, Map};
use super::expr::{accept, any_mac, back, by_map, drop, is, masked, meta, payload, set_mark, set_zone};
use super::groups::{self, Way};
use super::spoofing::{self, FROM_GUEST, Rule, TO_GUEST, still_marked};
use crate::desired::port::is_tap_name;

/// The chain for what may pass: its mark is taken off.
pub const PASSED: &str = "passed";

/// The chain for packets that came by a guest's device and by no bridge.
pub const DIRECT: &str = "direct";

/// The chain that drops what may carry IP unseen.
pub const READABLE: &str = "readable";

/// The chain for IPv6 from who has no address.
pub const NOWHERE: &str = "nowhere";

/// The numbers for connections of bridges: below those of NICs ([`crate::desired::Number`]), above those that people choose.
pub const ZONES: std::ops::RangeInclusive<u16> = 0x3000..=0x3fff;

/// Just before the bridge hands frames to IP (`NF_BR_PRI_BRNF`, 0): nobody is to change a mark before it is read.
const BEFORE_IP: i32 = -1;
const AFTER_IP: i32 = 1;
/// Before fragments are put together (-400): those of two bridges must not be taken for parts of one datagram.
const BEFORE_FRAGMENTS: i32 = -450;
/// Just after connections are known (-200).
const AFTER_TRACKING: i32 = -199;
/// Before anybody else's.
const EARLY: i32 = -500;

/// A chain with all that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The chain.
    pub chain: Chain,
    /// Where the kernel enters it; none where another chain leads to it.
    pub hook: Option<Hook>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// What guards of that family share.
pub fn chains(family: Family) -> Vec<Built> {
    let base = |name: &str, hook: &str, priority, rules| Built {
        chain: Chain { family, name: name.to_owned() },
        hook: Some(Hook { hook: hook.to_owned(), priority }),
        rules,
    };
    let led_to =
        |name: &str, rules| Built { chain: Chain { family, name: name.to_owned() }, hook: None, rules };
    let lookup = |key, map: Map| vec![by_map(meta(key), map.as_str())];
    let unchecked = |mark| vec![still_marked(mark), drop()];
    match family {
        Family::Bridge => vec![
            base("prerouting", "prerouting", BEFORE_IP, vec![lookup("iifname", Map::From)]),
            base("input", "input", BEFORE_IP, vec![to_the_port_itself(), unchecked(FROM_GUEST)]),
            base("forward", "forward", BEFORE_IP, vec![unchecked(FROM_GUEST), lookup("oifname", Map::To)]),
            base("checked", "forward", AFTER_IP, vec![unchecked(TO_GUEST)]),
            led_to(READABLE, vec![spoofing::readable()]),
            led_to(NOWHERE, vec![spoofing::from_nowhere()]),
        ],
        Family::Inet => vec![
            led_to(PASSED, vec![vec![set_mark(0), accept()]]),
            led_to(DIRECT, vec![vec![drop()]]),
            led_to(Way::Out.shared(), groups::shared(Way::Out)),
            led_to(Way::In.shared(), groups::shared(Way::In)),
            base(
                "zones",
                "prerouting",
                BEFORE_FRAGMENTS,
                vec![lookup("iifname", Map::Direct), lookup("iifname", Map::Bridges)],
            ),
            base(
                "outbound",
                "prerouting",
                AFTER_TRACKING,
                vec![lookup("mark", Map::Outbound), unchecked(FROM_GUEST)],
            ),
            base("inbound", "forward", EARLY, vec![lookup("mark", Map::Inbound), unchecked(TO_GUEST)]),
        ],
        Family::Ip | Family::Ip6 => Vec::new(),
    }
}

/// Frames to the addresses that no bridge forwards (802.1D) come to the host by the port, without the rules for what is forwarded.
/// The kernel shows those of LLDP to no table of bridges: of IP in them, only [`DIRECT`] hears.
fn to_the_port_itself() -> Rule {
    let reserved = is(masked(payload("ether", "daddr"), "ff:ff:ff:ff:ff:f0"), "01:80:c2:00:00:00");
    vec![reserved, by_map(meta("iifname"), Map::From.as_str())]
}

/// The chain of the bridge whose connections are those of `zone`.
pub fn zone_chain(zone: u16) -> Chain {
    Chain { family: Family::Inet, name: format!("zone-{zone}") }
}

/// Whether a chain of our table is called as one of ours is.
pub fn is_ours(family: Family, chain: &str) -> bool {
    let tap = chain.strip_suffix("-i").or_else(|| chain.strip_suffix("-o"));
    let of_tap = tap.and_then(|tap| tap.parse().ok()).is_some_and(|tap| is_tap_name(&tap));
    of_tap || zone_of(chain).is_some() || chains(family).iter().any(|built| built.chain.name == chain)
}

/// The zone that a chain is for.
pub fn zone_of(chain: &str) -> Option<u16> {
    chain.strip_prefix("zone-")?.parse().ok()
}

/// What that chain says. What goes to the host itself is the host's own traffic, with its other end in no zone.
pub fn zone_rules(zone: u16, hosts: &BTreeSet<Mac>) -> Vec<Rule> {
    let mut out = Vec::new();
    if !hosts.is_empty() {
        out.push(vec![is(payload("ether", "daddr"), any_mac(hosts)), back()]);
    }
    out.push(vec![set_zone(zone)]);
    out
}
