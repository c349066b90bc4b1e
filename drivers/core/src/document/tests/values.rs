//! Typed values: what is accepted, what is refused and how, and what is left to other people's drivers.

use crate::document::{
    AutoConverge, BridgeType, Direction, DocumentError, Envelope, Nic, Protocol, QinqType, ResizeMode,
    VmDocument, VxlanMode,
};

fn vm_text(template: &str) -> String {
    format!("<VM><ID>7</ID><TEMPLATE>{template}</TEMPLATE></VM>")
}

fn vm(template: &str) -> VmDocument {
    VmDocument::parse(vm_text(template).as_bytes()).unwrap_or_else(|error| panic!("{template}: {error}"))
}

fn error(template: &str) -> String {
    VmDocument::parse(vm_text(template).as_bytes()).unwrap_err().to_string()
}

fn nic_text(driver: &str, attributes: &str) -> String {
    format!("<NIC><NIC_ID>1</NIC_ID><VN_MAD>{driver}</VN_MAD>{attributes}</NIC>")
}

fn nic(driver: &str, attributes: &str) -> Nic {
    vm(&nic_text(driver, attributes)).nics.remove(0)
}

#[test]
fn vlan_id_means_what_the_driver_takes_it_for() {
    let vxlan = nic("vxlan", "<VLAN_ID>16777215</VLAN_ID>");
    assert_eq!((vxlan.vni().map(|vni| vni.get()), vxlan.vlan_tag()), (Some(16_777_215), None));
    let ovs = nic("ovswitch_vxlan", "<VLAN_ID>20</VLAN_ID><OUTER_VLAN_ID>3000000</OUTER_VLAN_ID>");
    assert_eq!((ovs.vni().map(|vni| vni.get()), ovs.vlan_tag()), (Some(3_000_000), Some(20)));
    let tagged = nic("802.1Q", "<VLAN_ID>4094</VLAN_ID><OUTER_VLAN_ID/>");
    assert_eq!((tagged.vni(), tagged.vlan_tag()), (None, Some(4094)));
    assert_eq!(nic("ovswitch", "<VLAN_ID> </VLAN_ID>").vlan_tag(), None);
    assert_eq!(
        error(&nic_text("802.1Q", "<VLAN_ID>4095</VLAN_ID>")),
        "VM/TEMPLATE/NIC[NIC_ID=1]/VLAN_ID is \"4095\", not a number from 0 to 4094"
    );
    assert_eq!(
        error(&nic_text("vxlan", "<VLAN_ID>16777216</VLAN_ID>")),
        "VM/TEMPLATE/NIC[NIC_ID=1]/VLAN_ID is \"16777216\", not a number from 0 to 16777215"
    );
}

#[test]
fn a_nic_with_everything() {
    let full = nic(
        "ovswitch",
        "<NETWORK>net</NETWORK><NETWORK_ID>5</NETWORK_ID><BRIDGE>onebr5</BRIDGE><BRIDGE_TYPE>openvswitch</BRIDGE_TYPE>\
         <PHYDEV>bond0.7</PHYDEV><VLAN_TAGGED_ID>5, 7-9 ,20</VLAN_TAGGED_ID><CVLANS>1</CVLANS><QINQ_TYPE>802.1ad</QINQ_TYPE>\
         <MAC>02:00:0A:00:00:01</MAC><IP>10.0.0.1</IP><IP6_GLOBAL>2001:db8::1</IP6_GLOBAL><VROUTER_IP>10.0.0.9</VROUTER_IP>\
         <TARGET>one-7-1</TARGET><MTU>9000</MTU><FILTER_MAC_SPOOFING>yes</FILTER_MAC_SPOOFING>\
         <FILTER_IP_SPOOFING>NO</FILTER_IP_SPOOFING><SECURITY_GROUPS>0,100</SECURITY_GROUPS><ATTACH>YES</ATTACH>\
         <ALIAS_IDS>2,3</ALIAS_IDS><INBOUND_AVG_BW>512</INBOUND_AVG_BW><OUTBOUND_PEAK_KB>64</OUTBOUND_PEAK_KB>\
         <SPOOFCHK>on</SPOOFCHK><CONF>vlan_mtu=1400, KEEP_EMPTY_BRIDGE=true</CONF><IP_LINK_CONF>nolearning=,tos=__delete__</IP_LINK_CONF>\
         <VXLAN_MODE>evpn</VXLAN_MODE><UNKNOWN>\u{e9}</UNKNOWN>",
    );
    assert_eq!((full.bridge_type, full.qinq_type), (Some(BridgeType::OpenVSwitch), QinqType::Dot1ad));
    assert_eq!(full.vlan_tagged_id.tags().collect::<Vec<_>>(), [5, 7, 8, 9, 20]);
    assert_eq!(full.mac.unwrap().to_string(), "02:00:0a:00:00:01");
    let addresses: Vec<String> = full.addresses.all().map(|ip| ip.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "2001:db8::1", "10.0.0.9"]);
    assert!(full.filter_mac_spoofing && !full.filter_ip_spoofing && full.attach);
    assert_eq!((full.security_groups, full.alias_ids), (vec![0, 100], vec![2, 3]));
    assert_eq!((full.inbound.average, full.outbound.burst), (Some(512), Some(64)));
    assert!(full.inbound.is_limited() && full.spoofchk == Some(true) && full.trust.is_none());
    assert_eq!(full.overrides.conf["keep_empty_bridge"], "true");
    assert_eq!(full.overrides.ip_link_conf["nolearning"], "");
    assert_eq!(full.overrides.vxlan_mode, Some(VxlanMode::Evpn));
}

#[test]
fn malformed_values_of_our_networks_are_named() {
    for (attribute, value) in [
        ("BRIDGE", "br0 reboot"),
        ("BRIDGE", "a-very-long-bridge-name"),
        ("BRIDGE_TYPE", "hub"),
        ("PHYDEV", "../eth0"),
        ("MAC", "02:00"),
        ("IP", "10.0.0.256"),
        ("IP6", "10.0.0.1"),
        ("TARGET", "one 7"),
        ("MTU", "67"),
        ("MTU", "65536"),
        ("FILTER_IP_SPOOFING", "maybe"),
        ("SECURITY_GROUPS", "0;1"),
        ("SECURITY_GROUPS", ","),
        ("SECURITY_GROUPS", "  "),
        ("SECURITY_GROUPS", " ,, "),
        ("VLAN_TAGGED_ID", "9-7"),
        ("VLAN_TAGGED_ID", "4095"),
        ("INBOUND_AVG_BW", "-1"),
        ("CONF", "vlan_mtu"),
        ("IP_LINK_CONF", "$(x)=1"),
        ("VXLAN_MC", "all"),
        ("NETWORK_ID", "x"),
    ] {
        let shown = error(&nic_text("ovswitch", &format!("<{attribute}>{value}</{attribute}>")));
        let expected = format!("VM/TEMPLATE/NIC[NIC_ID=1]/{attribute} is \"{value}\", not ");
        assert!(shown.starts_with(&expected), "{shown}");
    }
    let groups =
        |text: &str| nic("fw", &format!("<SECURITY_GROUPS>{text}</SECURITY_GROUPS>")).security_groups;
    assert_eq!((groups(""), groups("0, 100,"), groups(" 5 ")), (vec![], vec![0, 100], vec![5]));
}

#[test]
fn what_another_driver_means_is_not_ours_to_judge() {
    let odd = "<BRIDGE>a bridge of another kind</BRIDGE><VLAN_ID>blue</VLAN_ID><MTU>jumbo</MTU>";
    let foreign = nic("somebodys", odd);
    assert_eq!((foreign.bridge, foreign.vlan_id, foreign.mtu), (None, None, None));
    assert_eq!(foreign.element.value("VLAN_ID").as_deref(), Some("blue"));
    // Identity is everybody's.
    assert!(error(&nic_text("somebodys", "<MAC>blue</MAC>")).contains("/MAC is \"blue\""));
    assert!(error(&nic_text("../evil", "")).contains("/VN_MAD is \"../evil\""));
}

#[test]
fn drivers_are_run_in_the_order_of_their_kinds() {
    let alias = "<NIC_ALIAS><NIC_ID>2</NIC_ID><PARENT_ID>1</PARENT_ID><VN_MAD>elastic</VN_MAD></NIC_ALIAS>";
    let pci = "<PCI><PCI_ID>0</PCI_ID><NIC_ID>3</NIC_ID><VN_MAD>bridge</VN_MAD><SHORT_ADDRESS>02:00.0</SHORT_ADDRESS></PCI>";
    let gpu = "<PCI><PCI_ID>1</PCI_ID><ADDRESS>0000:03:00:0</ADDRESS><UUID>11fc2fc4-62ad-463e-b14d-758c4df6111b</UUID></PCI>";
    let all = vm(&format!("{pci}{gpu}{alias}{}{}", nic_text("vxlan", ""), nic_text("fw", "")));
    let order: Vec<String> = all.vn_mads().into_iter().map(String::from).collect();
    assert_eq!(order, ["vxlan", "fw", "elastic", "bridge"]);
    assert_eq!((all.aliases[0].parent_id, all.pcis.len()), (Some(1), 2));
    assert!(all.pcis[0].nic.is_some() && all.pcis[1].nic.is_none());
    assert!(
        error("<PCI><PCI_ID>0</PCI_ID><SHORT_ADDRESS>../x</SHORT_ADDRESS></PCI>").contains("SHORT_ADDRESS")
    );
}

#[test]
fn a_rule_is_whole_or_none() {
    let rule = |rest: &str| {
        format!("<SECURITY_GROUP_RULE><SECURITY_GROUP_ID>3</SECURITY_GROUP_ID>{rest}</SECURITY_GROUP_RULE>")
    };
    let good = rule(
        "<PROTOCOL>tcp</PROTOCOL><RULE_TYPE>inbound</RULE_TYPE><RANGE>22,80:90</RANGE><IP>10.0.0.0</IP><SIZE>256</SIZE>",
    );
    let read = vm(&good).security_group_rules.remove(0);
    assert_eq!((read.protocol, read.direction), (Protocol::Tcp, Direction::Inbound));
    assert_eq!(read.range.as_ref().unwrap().0, [(22, 22), (80, 90)]);
    assert_eq!(read.ipv4().map(|(ip, size)| (ip.to_string(), size)), Some(("10.0.0.0".into(), 256)));
    let six = rule(
        "<PROTOCOL>ALL</PROTOCOL><RULE_TYPE>OUTBOUND</RULE_TYPE><IP>2001:db8::</IP><SIZE>18446744073709551616</SIZE>",
    );
    assert_eq!(vm(&six).security_group_rules[0].size, Some(1 << 64));
    for bad in [
        "<RULE_TYPE>INBOUND</RULE_TYPE>",
        "<PROTOCOL>TCP</PROTOCOL>",
        "<PROTOCOL>SCTP</PROTOCOL><RULE_TYPE>INBOUND</RULE_TYPE>",
        "<PROTOCOL>TCP</PROTOCOL><RULE_TYPE>INBOUND</RULE_TYPE><RANGE>90:80</RANGE>",
        "<PROTOCOL>TCP</PROTOCOL><RULE_TYPE>INBOUND</RULE_TYPE><RANGE>22,65536</RANGE>",
        "<PROTOCOL>TCP</PROTOCOL><RULE_TYPE>INBOUND</RULE_TYPE><RANGE>22,,</RANGE>",
        "<PROTOCOL>TCP</PROTOCOL><RULE_TYPE>INBOUND</RULE_TYPE><IP>any</IP>",
        "<PROTOCOL>ICMP</PROTOCOL><RULE_TYPE>INBOUND</RULE_TYPE><ICMP_TYPE>ping</ICMP_TYPE>",
    ] {
        let shown = error(&rule(bad));
        assert!(shown.starts_with("VM/TEMPLATE/SECURITY_GROUP_RULE[SECURITY_GROUP_ID=3]/"), "{shown}");
        let (vm, faults) = VmDocument::parse_tolerant(vm_text(&rule(bad)).as_bytes()).unwrap();
        assert!(vm.security_group_rules.is_empty() && !faults.is_empty(), "{bad}");
    }
}

#[test]
fn the_guest_s_own_settings() {
    let guest = vm("<MEMORY>2048</MEMORY><VCPU>4</VCPU><MEMORY_RESIZE_MODE>HOTPLUG</MEMORY_RESIZE_MODE>\
        <FEATURES><ACPI>yes</ACPI><MIGRATE_AUTO_CONVERGE>30,5</MIGRATE_AUTO_CONVERGE>\
        <MIGRATE_COMPRESSED>YES</MIGRATE_COMPRESSED></FEATURES>\
        <SNAPSHOT><SNAPSHOT_ID>0</SNAPSHOT_ID></SNAPSHOT>\
        <SNAPSHOT><SNAPSHOT_ID>1</SNAPSHOT_ID><ACTIVE>YES</ACTIVE><HYPERVISOR_ID>snap-1</HYPERVISOR_ID></SNAPSHOT>");
    assert_eq!(
        (guest.memory_mb, guest.vcpu, guest.memory_resize_mode),
        (Some(2048), Some(4), ResizeMode::Hotplug)
    );
    let converge = AutoConverge { initial: 30, increment: Some(5) };
    assert_eq!(guest.features.migrate_auto_converge, Some(converge));
    assert!(guest.features.migrate_compressed);
    assert_eq!(guest.active_snapshot().unwrap().snapshot_id, 1);
    for bad in ["0", "100", "30,", "30;reboot", "30,5,5", "$(x)"] {
        let text = format!("<FEATURES><MIGRATE_AUTO_CONVERGE>{bad}</MIGRATE_AUTO_CONVERGE></FEATURES>");
        assert!(error(&text).contains("not initial[,increment], each from 1 to 99"), "{bad}");
    }
}

#[test]
fn a_vm_that_is_taken_away_may_have_bad_parts_but_no_bad_identity() {
    let text = vm_text(&format!("{}<DISK><DISK_ID>x</DISK_ID></DISK>", nic_text("fw", "<MTU>x</MTU>")));
    let (read, faults) = VmDocument::parse_tolerant(text.as_bytes()).unwrap();
    assert_eq!((read.nics.len(), read.disks.len(), faults.len()), (1, 0, 2));
    assert!(faults.iter().all(|fault| matches!(fault, DocumentError::Malformed { .. })));
    for identity in [
        "<VM><ID>x</ID></VM>",
        "<VM><NAME>x</NAME></VM>",
        "<VM><ID>7</ID><DEPLOY_ID>-</DEPLOY_ID></VM>",
        "<VM><ID>7</ID><HISTORY_RECORDS><HISTORY><HOSTNAME>a b</HOSTNAME></HISTORY></HISTORY_RECORDS></VM>",
        "<VNET><ID>7</ID></VNET>",
    ] {
        assert!(VmDocument::parse_tolerant(identity.as_bytes()).is_err(), "{identity}");
    }
}

#[test]
fn an_envelope_needs_its_host_and_its_vm() {
    let envelope = |inside: &str| {
        let text = format!("<VMM_DRIVER_ACTION_DATA>{inside}<VM><ID>7</ID></VM></VMM_DRIVER_ACTION_DATA>");
        Envelope::parse_tolerant(text.as_bytes()).map(|(envelope, _)| envelope)
    };
    let plain = envelope("<HOST>h1</HOST><MIGR_HOST/><DEPLOY_ID/><TM_COMMAND/>").unwrap();
    assert_eq!((plain.host.as_str(), plain.migr_host, plain.datastore), ("h1", None, None));
    for (inside, message) in [
        ("", "HOST is missing"),
        (
            "<HOST>-oProxyCommand=x</HOST>",
            "VMM_DRIVER_ACTION_DATA/HOST is \"-oProxyCommand=x\", not a host name",
        ),
        ("<HOST>h</HOST><DEPLOY_ID>7</DEPLOY_ID>", "VMM_DRIVER_ACTION_DATA/DEPLOY_ID is \"7\", not a UUID"),
        (
            "<HOST>h</HOST><CHECKPOINT_FILE>/a/../b</CHECKPOINT_FILE>",
            "VMM_DRIVER_ACTION_DATA/CHECKPOINT_FILE is",
        ),
        ("<HOST>h</HOST><TM_COMMAND>DELETE ../x</TM_COMMAND>", "TM_COMMAND is \"DELETE ../x\", not "),
        ("<HOST>h</HOST><DATASTORE><NAME>x</NAME></DATASTORE>", "DATASTORE/ID is missing"),
        (
            "<HOST>h</HOST><DATASTORE><ID>1</ID><TM_MAD>../x</TM_MAD></DATASTORE>",
            "DATASTORE/TM_MAD is \"../x\"",
        ),
    ] {
        let shown = envelope(inside).unwrap_err().to_string();
        assert!(shown.starts_with(message), "{shown}");
    }
    let bare = Envelope::parse(b"<VMM_DRIVER_ACTION_DATA><HOST>h</HOST></VMM_DRIVER_ACTION_DATA>");
    assert_eq!(bare.unwrap_err().to_string(), "VM is missing");
    let other = Envelope::parse(b"<VM/>").unwrap_err().to_string();
    assert_eq!(other, "the root element is <VM>, not <VMM_DRIVER_ACTION_DATA>");
}
