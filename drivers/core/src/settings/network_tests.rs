//! Tests of `network`.

use super::*;

fn read(text: &str) -> Result<NetworkConf, SettingsError> {
    NetworkConf::parse("OpenNebulaNetwork.conf", text)
}

#[test]
fn a_file_as_it_is_shipped_and_edited() {
    let conf = read(
        "# a comment with *stars* and &such\n\
         ---\n\
         :validate_vlan_id: yes\n\
         :arp_cache_poisoning: false\n\
         :datastore_location: /var/lib/one/datastores\n\
         :vlan_mtu: '9000'\n\
         :vxlan_mc: 239.1.0.0\n\
         :vxlan_ttl:\n\
         :vxlan_mode: :evpn\n\
         :vxlan_tep: local_ip\n\
         :keep_empty_bridge: true\n\
         :ip_link_conf:\n\
         \x20 :nolearning:\n\
         \x20 :dstport: 4789\n\
         :bridge_conf:\n\
         \x20 :stp: true\n\
         \x20 :setfd: 5\n\
         :ip_bridge_conf:\n\
         \x20 :forward_delay: 7\n\
         :tproxy:\n\
         - :service_port: 1234\n\
         \x20 :remote_addr: 10.0.0.1\n\
         \x20 :remote_port: 80\n\
         \x20 :networks: [net1, 3]\n\
         :someday: 1\n",
    )
    .unwrap();
    assert!(conf.validate_vlan_id && !conf.arp_cache_poisoning && conf.keep_empty_bridge);
    assert_eq!((conf.vlan_mtu, conf.vxlan_mtu, conf.vxlan_ttl), (9000, 1500, None));
    assert_eq!((conf.vxlan_mode, conf.vxlan_tep), (VxlanMode::Evpn, VxlanTep::LocalIp));
    assert_eq!(conf.vxlan_mc, Ipv4Addr::new(239, 1, 0, 0));
    assert_eq!(conf.ip_link_conf["nolearning"], "");
    assert_eq!(conf.ip_link_conf["dstport"], "4789");
    assert_eq!(conf.ip_bridge_conf["stp_state"], "1");
    assert_eq!(conf.ip_bridge_conf["forward_delay"], "7");
    assert_eq!((conf.tproxy[0].service_port, conf.tproxy[0].remote_port), (1234, 80));
    assert_eq!(conf.tproxy[0].networks.as_deref().unwrap(), ["net1", "3"]);
    assert_eq!(conf.unknown_keys, ["someday"]);
}

#[test]
fn an_empty_file_says_nothing() {
    for text in ["", "---\n", "# only a comment\n", "{}"] {
        assert_eq!(read(text).unwrap(), NetworkConf::default(), "{text:?}");
    }
}

#[test]
fn errors_name_file_setting_and_form() {
    for (text, message) in [
        (":vlan_mtu: big\n", "OpenNebulaNetwork.conf: vlan_mtu is \"big\", not a number from 68 to 65535"),
        (
            ":vxlan_mode: flood\n",
            "OpenNebulaNetwork.conf: vxlan_mode is \"flood\", not one of multicast evpn",
        ),
        (":vxlan_mc: all\n", "OpenNebulaNetwork.conf: vxlan_mc is \"all\", not an IPv4 address"),
        (":keep_empty_bridge: 2\n", "OpenNebulaNetwork.conf: keep_empty_bridge is \"2\", not true or false"),
        (":vlan_mtu: [1]\n", "OpenNebulaNetwork.conf: vlan_mtu is \"[1]\", not one value"),
        ("- a\n", "OpenNebulaNetwork.conf: not a map of settings"),
    ] {
        assert_eq!(read(text).unwrap_err().to_string(), message);
    }
    for text in [":ip_link_conf: 7\n", ":tproxy: [1]\n", ":a: 1\n:a: 2\n", ":a: [\n", "a\0: b"] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with("OpenNebulaNetwork.conf: "), "{error}");
    }
}

#[test]
fn bombs_are_refused() {
    let mut bomb = String::from(":a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 9].join(",");
        bomb.push_str(&format!(":a{level}: &a{level} [{refs}]\n"));
    }
    assert!(read(&bomb).is_err());
    let deep = format!(":a: {}{}\n", "[".repeat(1000), "]".repeat(1000));
    assert!(read(&deep).is_err());
    let block: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(read(&block).is_err());
    assert!(read(&format!(":a: {}\n", "x".repeat(1 << 20))).is_err());
}

#[test]
fn a_network_overrides_the_file() {
    let file =
        read(":vlan_mtu: 1400\n:vxlan_mode: evpn\n:ip_link_conf:\n  :dstport: 4789\n  :tos: 1\n").unwrap();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let network = NetworkOverrides {
        conf: [pair("vlan_mtu", "9000"), pair("keep_empty_bridge", "yes"), pair("vxlan_mode", "evpn")].into(),
        ip_link_conf: [pair("tos", DELETE), pair("nolearning", ""), pair("dstport", "8472")].into(),
        bridge_conf: [pair("stp_state", "1")].into(),
        vxlan_mode: Some(VxlanMode::Multicast),
        ..NetworkOverrides::default()
    };
    let conf = file.for_network(&network).unwrap();
    assert_eq!((conf.vlan_mtu, conf.keep_empty_bridge), (9000, true));
    assert_eq!(conf.vxlan_mode, VxlanMode::Multicast);
    assert_eq!(conf.ip_link_conf, [pair("dstport", "8472"), pair("nolearning", "")].into());
    assert_eq!(conf.ip_bridge_conf["stp_state"], "1");
    assert_eq!(file.for_network(&NetworkOverrides::default()).unwrap(), file);

    let bad = NetworkOverrides { conf: [pair("vlan_mtu", "x")].into(), ..NetworkOverrides::default() };
    let error = file.for_network(&bad).unwrap_err().to_string();
    assert_eq!(error, "CONF: vlan_mtu is \"x\", not a number from 68 to 65535");
}
