//! What a document may ask for, and how a refusal names what is wrong.

#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::document::VmDocument;
use causeway_core::names::LinkName;
use causeway_vnm::desired::Answer;
use causeway_vnm::desired::{self, Driver, Facts, Refusal, Settings, Uplink};
use common::{document, nic};

fn facts() -> Facts {
    let uplink = |mtu| Uplink { mtu, up: true, addresses: vec!["10.77.0.1".parse().unwrap()] };
    let name = |text: &str| text.parse::<LinkName>().unwrap();
    let uplinks = BTreeMap::from([(name("up0"), uplink(1500)), (name("tiny0"), uplink(100))]);
    let mut listed: BTreeSet<LinkName> = uplinks.keys().cloned().collect();
    listed.insert(name("longest-uplink"));
    let mut uplinks = uplinks;
    uplinks.insert(name("longest-uplink"), uplink(9000));
    Facts { listed, uplinks, ..Facts::default() }
}

fn work_out(document: &str, settings: &Settings) -> Result<Answer, Refusal> {
    desired::desired(Driver::Vxlan, &VmDocument::parse(document.as_bytes())?, settings, &facts())
}

fn with(more: &str) -> Result<Answer, Refusal> {
    work_out(&document(7, &nic(7, 0, 4, more)), &Settings::default())
}

fn refused(more: &str) -> String {
    match with(more) {
        Err(refusal) => causeway_core::answer::Failure::from_chain(refusal.kind(), &refusal).text,
        Ok(answer) => panic!("accepted: {more}: {answer:?}"),
    }
}

fn guards(answer: Result<Answer, Refusal>) -> usize {
    answer.unwrap().desired.guards.len()
}

#[test]
fn what_a_nic_keeps_away_is_part_of_its_state() {
    for more in [
        "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>",
        "<FILTER_IP_SPOOFING>yes</FILTER_IP_SPOOFING>",
        "<SECURITY_GROUPS>100</SECURITY_GROUPS>",
    ] {
        assert_eq!(guards(with(more)), 1, "{more}");
        let without = with(&format!("{more}<PHYDEV/>")).unwrap_err().to_string();
        assert!(without.starts_with("NIC 0: PHYDEV is missing"), "{without}");
    }
    assert!(refused("<FILTER_IP_SPOOFING>maybe</FILTER_IP_SPOOFING>").contains("YES or NO"));
    assert_eq!(guards(with("<FILTER_IP_SPOOFING>NO</FILTER_IP_SPOOFING>")), 0);
    assert_eq!(guards(with("<SECURITY_GROUPS/>")), 0, "no group is group 0");
    assert_eq!(guards(with("<SECURITY_GROUPS>0,100</SECURITY_GROUPS>")), 0, "rules only add to what passes");
}

/// The document of a NIC in group 5 with these rules for it.
fn grouped(rules: &[&str]) -> Result<Answer, Refusal> {
    let rule = |text: &&str| {
        format!(
            "<TEMPLATE><SECURITY_GROUP_RULE><SECURITY_GROUP_ID>5</SECURITY_GROUP_ID>{text}\
             </SECURITY_GROUP_RULE></TEMPLATE>"
        )
    };
    let rules: String = rules.iter().map(rule).collect();
    let one = nic(7, 0, 4, "<SECURITY_GROUPS>5</SECURITY_GROUPS>");
    work_out(&document(7, &format!("{rules}{one}")), &Settings::default())
}

#[test]
fn only_rules_without_any_limit_let_everything_pass() {
    let all = |direction| format!("<PROTOCOL>ALL</PROTOCOL><RULE_TYPE>{direction}</RULE_TYPE>");
    let (inward, outward) = (all("INBOUND"), all("outbound"));
    assert_eq!(guards(grouped(&[&inward, &outward])), 0);
    assert_eq!(guards(grouped(&[&inward])), 1);
    assert_eq!(guards(grouped(&[&outward])), 1);
    assert_eq!(guards(grouped(&[])), 1, "a group without rules lets nothing pass");
    for limit in [
        "<IP>10.0.0.0</IP><SIZE>256</SIZE>",
        "<IP6>2001:db8::</IP6><SIZE>1</SIZE>",
        "<NETWORK_ID>3</NETWORK_ID>",
        "<AR_ID>0</AR_ID>",
        "<MAC>02:00:00:00:00:01</MAC>",
    ] {
        let limited = format!("{inward}{limit}");
        assert_eq!(guards(grouped(&[&limited, &outward])), 1, "{limit}");
        assert_eq!(guards(grouped(&[&limited, &inward, &outward])), 0, "{limit}");
    }
    // A rule that says more than its protocol has would let more pass if that were left out.
    for limit in ["<RANGE>22</RANGE>", "<ICMP_TYPE>8</ICMP_TYPE>", "<ICMPV6_TYPE>128</ICMPV6_TYPE>"] {
        assert!(grouped(&[&format!("{inward}{limit}"), &outward]).is_err(), "{limit}");
    }
    let tcp = inward.replace("ALL", "TCP");
    assert_eq!(guards(grouped(&[&tcp, &outward])), 1);
}

#[test]
fn an_alias_is_guarded_with_its_nic() {
    let alias = |more: &str| {
        format!(
            "<TEMPLATE><NIC_ALIAS><NIC_ID>1</NIC_ID><PARENT_ID>0</PARENT_ID><VN_MAD>vxlan</VN_MAD><IP>10.9.9.9</IP>{more}\
             </NIC_ALIAS></TEMPLATE>"
        )
    };
    let both = |more: &str| document(7, &format!("{}{}", nic(7, 0, 4, ""), alias(more)));
    let settings = Settings::default();
    assert_eq!(guards(work_out(&both(""), &settings)), 0);
    let filter = "<FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>";
    for attach in ["", "<ATTACH>YES</ATTACH>"] {
        let desired = work_out(&both(&format!("{filter}{attach}")), &settings).unwrap().desired;
        let senders = desired.guards[0].senders.clone().unwrap();
        assert_eq!((desired.guards[0].nic, senders.len()), (0, 2), "{attach}");
    }
}

#[test]
fn a_pci_device_cannot_be_in_a_vxlan_network() {
    let pci = "<TEMPLATE><PCI><PCI_ID>0</PCI_ID><NIC_ID>1</NIC_ID><VN_MAD>vxlan</VN_MAD><BRIDGE>b</BRIDGE>\
               <PHYDEV>up0</PHYDEV><VLAN_ID>5</VLAN_ID></PCI></TEMPLATE>";
    let text = work_out(&document(7, pci), &Settings::default()).unwrap_err().to_string();
    assert!(text.starts_with("NIC 1: VN_MAD is \"vxlan\", not possible for a PCI device"), "{text}");
}

#[test]
fn hostile_and_mistaken_attributes_are_refused_by_name() {
    for (attribute, value) in [
        ("TARGET", "eth0"),
        ("TARGET", "one-8-0"),
        ("TARGET", "one-7-1"),
        ("TARGET", "$(reboot)"),
        ("BRIDGE", "-x"),
        ("BRIDGE", "a b"),
        ("BRIDGE", "../../x"),
        ("BRIDGE", "sixteen-letters-"),
        ("BRIDGE", "one-8-0"),
        ("BRIDGE", "up0"),
        ("BRIDGE", "up0.4"),
        ("BRIDGE_TYPE", "openvswitch"),
        ("BRIDGE_TYPE", "linux;id"),
        ("PHYDEV", "up0 group 239.0.0.1"),
        ("PHYDEV", "longest-uplink"),
        ("VLAN_ID", "16777216"),
        ("VLAN_ID", "-1"),
        ("VLAN_ID", "4 5"),
        ("MAC", "02:00:0a:0a:00"),
        ("MAC", "01:00:5e:00:00:01"),
        ("MAC", "ff:ff:ff:ff:ff:ff"),
        ("MAC", "00:00:00:00:00:00"),
        ("MTU", "67"),
        ("MTU", "70000"),
        ("MTU", "1500; reboot"),
        ("IP", "10.0.0"),
        ("VXLAN_MODE", "unicast"),
        ("VXLAN_TEP", "0.0.0.0"),
        ("VXLAN_MC", "ff05::1"),
        ("SECURITY_GROUPS", ","),
        ("SECURITY_GROUPS", " "),
        ("CONF", "nonsense"),
        ("IP_LINK_CONF", "dstport"),
    ] {
        let text = refused(&format!("<{attribute}><![CDATA[{value}]]></{attribute}>"));
        assert!(text.contains(attribute), "{attribute} {value}: {text}");
        assert!(text.contains("NIC 0") || text.contains("NIC_ID=0"), "{attribute} {value}: {text}");
    }
}

#[test]
fn settings_are_checked_by_the_side_that_acts_on_them() {
    for (more, words) in [
        ("<IP_LINK_CONF>external=</IP_LINK_CONF>", "ip_link_conf"),
        ("<IP_LINK_CONF>dstport=65536</IP_LINK_CONF>", "dstport"),
        ("<IP_LINK_CONF>dstport=4789 group 1.2.3.4</IP_LINK_CONF>", "dstport"),
        ("<IP_LINK_CONF>nolearning=1</IP_LINK_CONF>", "a flag without a value"),
        ("<IP_LINK_CONF>df=inherit</IP_LINK_CONF>", "set or unset"),
        ("<IP_LINK_CONF>local=127.0.0.1</IP_LINK_CONF>", "an address of this host"),
        ("<IP_LINK_CONF>local=2001:db8::1</IP_LINK_CONF>", "same IP version"),
        ("<IP_LINK_CONF>ttl=256</IP_LINK_CONF>", "0 to 255"),
        ("<BRIDGE_CONF>hello_time=1</BRIDGE_CONF>", "100 to 1000"),
        ("<BRIDGE_CONF>stp=perhaps</BRIDGE_CONF>", "0 or 1"),
        ("<BRIDGE_CONF>group_fwd_mask=65528</BRIDGE_CONF>", "an option we can set"),
        ("<CONF>vxlan_mtu=60</CONF>", "vxlan_mtu"),
        ("<VXLAN_MC>10.0.0.1</VXLAN_MC>", "vxlan_mc"),
        ("<VXLAN_MC>239.255.255.255</VXLAN_MC>", "with 4 added to it"),
    ] {
        let text = refused(more);
        assert!(text.contains(words), "{more}: {text}");
        assert!(text.starts_with("NIC 0"), "{more}: {text}");
    }
    let evil = Settings { vxlan_mode: "evpn\0".to_owned(), ..Settings::default() };
    assert!(work_out(&document(7, &nic(7, 0, 4, "")), &evil).is_err());
    let small = Settings { vxlan_mtu: 1, ..Settings::default() };
    assert!(work_out(&document(7, &nic(7, 0, 4, "")), &small).is_err());
}

#[test]
fn what_is_missing_is_named() {
    for name in ["BRIDGE", "VLAN_ID", "MAC"] {
        assert!(refused(&format!("<{name}/>")).starts_with(&format!("NIC 0: {name} is missing")), "{name}");
    }
    let answer = with("<PHYDEV/>").unwrap();
    assert_eq!(
        (answer.desired.ports.len(), answer.notes),
        (0, vec!["NIC 0: no PHYDEV, so nothing to prepare".into()])
    );
    assert!(refused("<PHYDEV>tiny0</PHYDEV>").contains("MTU too small"));
}

#[test]
fn overrides_win_over_the_file_and_it_over_the_fallback() {
    let mut file = Settings { vxlan_ttl: Some(3), vxlan_mtu: 1200, ..Settings::default() };
    file.ip_link_conf.insert("dstport".to_owned(), "4789".to_owned());
    file.ip_link_conf.insert("nolearning".to_owned(), String::new());
    let tunnel = |more: &str| {
        let answer = work_out(&document(7, &nic(7, 0, 4, more)), &file).unwrap();
        answer.desired.tunnels.into_iter().next().unwrap()
    };
    let plain = tunnel("");
    assert_eq!(
        (plain.mtu, plain.tuning.ttl, plain.identity.port, plain.tuning.learning),
        (1200, 3, 4789, false)
    );
    let own = tunnel(
        "<CONF>vxlan_ttl=9,vxlan_mtu=1000</CONF><IP_LINK_CONF>dstport=__delete__,nolearning=__delete__</IP_LINK_CONF>",
    );
    assert_eq!((own.mtu, own.tuning.ttl, own.identity.port, own.tuning.learning), (1000, 9, 8472, true));
    assert_eq!(tunnel("<IP_LINK_CONF>ttl=7</IP_LINK_CONF>").tuning.ttl, 7);
    assert_eq!(tunnel("<MTU>900</MTU>").mtu, 900);
    assert_eq!(
        tunnel("<VLAN_ID>16777215</VLAN_ID><PHYDEV>up0</PHYDEV>").identity.group.unwrap().to_string(),
        "239.255.255.255"
    );
}

#[test]
fn two_nics_of_one_vm() {
    let settings = Settings::default();
    let two = |second: &str| document(7, &format!("{}{second}", nic(7, 0, 4, "")));
    let same = work_out(&two(&nic(7, 1, 4, "")), &settings).unwrap().desired;
    assert_eq!((same.ports.len(), same.bridges.len(), same.tunnels.len(), same.fdb.len()), (2, 1, 1, 2));
    let shared_mac = nic(7, 1, 4, &format!("<MAC>{}</MAC>", common::mac(7, 0)));
    assert_eq!(work_out(&two(&shared_mac), &settings).unwrap().desired.fdb, []);
    for clash in [
        nic(7, 1, 5, "<BRIDGE>onebr.4</BRIDGE>"),
        nic(7, 1, 4, "<BRIDGE>other</BRIDGE>"),
        nic(7, 1, 4, "<BRIDGE_CONF>ageing_time=1</BRIDGE_CONF>"),
        nic(7, 1, 4, "<VXLAN_MODE>evpn</VXLAN_MODE>"),
    ] {
        let text = work_out(&two(&clash), &settings).unwrap_err().to_string();
        assert!(text.starts_with("NIC 1 and NIC 0 want"), "{text}");
    }
    let foreign = nic(7, 1, 5, "<VN_MAD>bridge</VN_MAD><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>");
    assert_eq!(
        work_out(&two(&foreign), &settings).unwrap().desired.ports.len(),
        1,
        "another driver's NIC is not ours"
    );
}
