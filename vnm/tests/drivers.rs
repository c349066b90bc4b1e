//! What each driver makes of the same NIC, and what it refuses.

#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::document::VmDocument;
use causeway_core::names::LinkName;
use causeway_vnm::desired::{self, Answer, BridgeOption, Driver, Facts, Settings, Uplink, Vlans};
use common::{document, nic};

fn work_out(driver: Driver, templates: &str, settings: &Settings) -> Result<Answer, String> {
    let up0: LinkName = "up0".parse().unwrap();
    let uplink = Uplink { mtu: 1500, up: true, addresses: vec!["10.77.0.1".parse().unwrap()] };
    let facts = Facts {
        listed: BTreeSet::from([up0.clone()]),
        uplinks: BTreeMap::from([(up0, uplink)]),
        ..Facts::default()
    };
    let vm = VmDocument::parse(document(7, templates).as_bytes()).map_err(|e| e.to_string())?;
    desired::desired(driver, &vm, settings, &facts).map_err(|refusal| refusal.to_string())
}

/// NIC 0 of VM 7 in a network of this driver.
fn one(driver: Driver, more: &str) -> Result<Answer, String> {
    let kind = if driver.is_switch() { "openvswitch" } else { "linux" };
    let more = format!("{more}<VN_MAD>{}</VN_MAD><BRIDGE_TYPE>{kind}</BRIDGE_TYPE>", driver.name());
    work_out(driver, &nic(7, 0, 50, &more), &Settings::default())
}

fn vlans(more: &str) -> Result<Vlans, String> {
    one(Driver::OvSwitch, more).map(|answer| answer.desired.seats[0].vlans.clone())
}

#[test]
fn a_bridge_leads_out_by_its_uplink() {
    for driver in [Driver::Bridge, Driver::Fw] {
        let desired = one(driver, "").unwrap().desired;
        assert_eq!(desired.bridges[0].uplink.as_ref().map(LinkName::as_str), Some("up0"));
        assert_eq!((desired.tunnels.len(), desired.switches.len(), desired.ports.len()), (0, 0, 1));
        assert_eq!(desired.fdb.len(), 1);
        let inner = one(driver, "<PHYDEV/>").unwrap().desired;
        assert_eq!(inner.bridges[0].uplink, None);
        assert!(one(driver, "<PHYDEV>up9</PHYDEV>").unwrap_err().contains("up9 is not listed"));
    }
}

#[test]
fn a_vlan_has_a_device_on_the_uplink() {
    let desired = one(Driver::Dot1q, "<MTU>9000</MTU>").unwrap();
    assert_eq!(desired.notes, ["NIC 0: MTU is 9000, but up0 carries only 1500: 1500 is used"]);
    let vlan = &desired.desired.vlans[0];
    assert_eq!((vlan.name.as_str(), vlan.bridge.as_str(), vlan.mtu), ("up0.50", "onebr.50", 1500));
    assert_eq!(vlan.identity.to_string(), "protocol 802.1Q id 50");
    let provider = one(Driver::Dot1q, "<IP_LINK_CONF>protocol=802.1ad</IP_LINK_CONF>").unwrap().desired;
    assert!(provider.vlans[0].identity.provider);
    for (more, words) in [
        ("<VLAN_ID/>", "VLAN_ID is missing"),
        ("<VLAN_ID>0</VLAN_ID>", "VLAN_ID is \"0\""),
        ("<CVLANS>7,50</CVLANS>", "CVLANS is \"7,50\", not tags from 1 to 4094 without 50"),
        ("<VLAN_TAGGED_ID>7</VLAN_TAGGED_ID>", "VLAN_TAGGED_ID"),
        ("<BRIDGE>up0.50</BRIDGE>", "BRIDGE is \"up0.50\""),
        ("<IP_LINK_CONF>dstport=4789</IP_LINK_CONF>", "dstport"),
    ] {
        let text = one(Driver::Dot1q, more).unwrap_err();
        assert!(text.contains(words), "{more}: {text}");
    }
    let note = one(Driver::Dot1q, "<PHYDEV/>").unwrap().notes;
    assert_eq!(note, ["NIC 0: no PHYDEV, so nothing to prepare"]);
}

#[test]
fn only_networks_of_bridge_are_open_whatever_they_ask_for() {
    let asks = "<SECURITY_GROUPS>100</SECURITY_GROUPS><FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>";
    for (_, driver) in Driver::NAMES {
        let more = if driver == Driver::OvSwitchVxlan { "<OUTER_VLAN_ID>9</OUTER_VLAN_ID>" } else { "" };
        let desired = one(driver, &format!("{asks}{more}")).unwrap().desired;
        assert_eq!(desired.guards.len(), usize::from(driver != Driver::Bridge), "{}", driver.name());
        // Where rules know connections, the bridge hands its frames to them.
        let handed = desired.bridges.iter().all(|b| b.options.get(&BridgeOption::NfCallIptables) == Some(&1));
        assert!(driver == Driver::Bridge || handed, "{}", driver.name());
    }
    let filter = one(Driver::Fw, "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>").unwrap().desired;
    assert_eq!((filter.guards.len(), filter.bridges[0].options.len()), (1, 0), "no connection is asked for");
}

#[test]
fn a_guarded_nic_and_an_open_one_share_a_bridge() {
    let driver = "<VN_MAD>fw</VN_MAD>";
    let guarded = nic(7, 0, 50, &format!("{driver}<SECURITY_GROUPS>5</SECURITY_GROUPS>"));
    let open = nic(7, 1, 50, driver);
    for templates in [format!("{guarded}{open}"), format!("{open}{guarded}")] {
        let desired = work_out(Driver::Fw, &templates, &Settings::default()).unwrap().desired;
        assert_eq!((desired.bridges.len(), desired.guards.len(), desired.ports.len()), (1, 1, 2));
        assert_eq!(desired.bridges[0].options.len(), 2);
    }
}

#[test]
fn a_port_is_in_the_networks_that_are_named_and_no_others() {
    assert_eq!(vlans(""), Ok(Vlans::Access(50)));
    assert_eq!(vlans("<VLAN_ID/>"), Ok(Vlans::Access(0)));
    let tagged = Some([3, 10, 11, 12].into());
    let list = "<VLAN_TAGGED_ID>10-12, 3</VLAN_TAGGED_ID>";
    assert_eq!(vlans(list), Ok(Vlans::Trunk { untagged: Some(50), tagged: tagged.clone() }));
    assert_eq!(vlans(&format!("<VLAN_ID/>{list}")), Ok(Vlans::Trunk { untagged: None, tagged }));
    let double = "<CVLANS>7,8</CVLANS><QINQ_TYPE>802.1ad</QINQ_TYPE>";
    let inner = [7, 8].into();
    assert_eq!(vlans(double), Ok(Vlans::Tunnel { outer: 50, inner, ethertype: "802.1ad".to_owned() }));
    // As stock has it, where the operator wants that (W1).
    let stock = Settings { ovs_open_trunks: true, ..Settings::default() };
    let seat = |more: &str| {
        let more = format!("{more}<VN_MAD>ovswitch</VN_MAD><BRIDGE_TYPE>openvswitch</BRIDGE_TYPE>");
        let answer = work_out(Driver::OvSwitch, &nic(7, 0, 50, &more), &stock).unwrap();
        answer.desired.seats[0].vlans.clone()
    };
    assert_eq!(seat(""), Vlans::Trunk { untagged: Some(50), tagged: None });
    assert_eq!(seat("<VLAN_ID/>"), Vlans::Trunk { untagged: None, tagged: None });
}

#[test]
fn what_a_switch_can_not_do_is_refused_by_name() {
    let rules = "<SECURITY_GROUPS>5</SECURITY_GROUPS>";
    for (more, words) in [
        ("<VLAN_ID>4095</VLAN_ID>", "VLAN_ID is \"4095\""),
        ("<VLAN_ID/><CVLANS>7</CVLANS>", "VLAN_ID is missing"),
        (&format!("{rules}<VLAN_TAGGED_ID>7</VLAN_TAGGED_ID>"), "VLAN_TAGGED_ID"),
        (&format!("{rules}<CVLANS>7</CVLANS>"), "CVLANS"),
        ("<OVS_BRIDGE_CONF>mirrors=x</OVS_BRIDGE_CONF>", "ovs_bridge_conf"),
        ("<OVS_BRIDGE_CONF>other_config:hwaddr=a b</OVS_BRIDGE_CONF>", "other_config:hwaddr"),
        ("<OVS_BRIDGE_CONF>stp_enable=maybe</OVS_BRIDGE_CONF>", "stp_enable"),
        ("<BRIDGE>up0</BRIDGE>", "BRIDGE is \"up0\""),
    ] {
        let text = one(Driver::OvSwitch, more).unwrap_err();
        assert!(text.contains(words), "{more}: {text}");
    }
    for (driver, kind) in [
        (Driver::Fw, "openvswitch"),
        (Driver::OvSwitch, "linux"),
        (Driver::OvSwitchVxlan, "openvswitch_dpdk"),
    ] {
        let more = format!("<VN_MAD>{}</VN_MAD><BRIDGE_TYPE>{kind}</BRIDGE_TYPE>", driver.name());
        let text = work_out(driver, &nic(7, 0, 50, &more), &Settings::default()).unwrap_err();
        assert!(text.contains(&format!("BRIDGE_TYPE is \"{kind}\"")), "{text}");
    }
}

#[test]
fn a_switch_leads_out_by_its_tunnel() {
    let desired = one(Driver::OvSwitchVxlan, "<OUTER_VLAN_ID>9</OUTER_VLAN_ID>").unwrap().desired;
    let (switch, tunnel) = (&desired.switches[0], &desired.tunnels[0]);
    assert_eq!((tunnel.name.as_str(), &tunnel.bridge), ("up0.9", &None));
    assert_eq!(switch.uplinks, [tunnel.name.clone()].into());
    assert_eq!((desired.seats[0].vlans.clone(), desired.fdb.len()), (Vlans::Access(50), 0));
    assert!(one(Driver::OvSwitchVxlan, "").unwrap_err().starts_with("NIC 0: OUTER_VLAN_ID is missing"));
}

#[test]
fn a_switch_has_the_options_that_are_given() {
    let options =
        "<OVS_BRIDGE_CONF>stp_enable=yes,other-config:mac-aging-time=60,fail_mode=secure</OVS_BRIDGE_CONF>";
    let switch = one(Driver::OvSwitch, options).unwrap().desired.switches.remove(0);
    let found: Vec<(&str, &str)> = switch.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let wanted = [("fail_mode", "secure"), ("other_config:mac-aging-time", "60"), ("stp_enable", "true")];
    assert_eq!(found, wanted);
}
