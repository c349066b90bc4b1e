//! Guests on Open vSwitch by the actions that a front-end asks for: guarded from before they come, through a switch that dies.

#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use causeway_core::names::VmId;
use causeway_vnm::root::{Outcome, Verb};
use common::bridged::FILTERS;
use common::guests::{GROUP, Guest, rule};
use common::stage::Stage;
use common::switch::until;
use common::wire::{arrives, frame};
use common::{dies_before, document, ip, nic, request};

/// VM `number` on the bridge `br0`.
fn vm(number: u32, more: &str, rules: &str) -> String {
    let addresses =
        format!("<MAC>02:00:0a:00:00:{number:02x}</MAC><IP>10.0.0.{number}</IP><IP6>fd00::{number:x}</IP6>");
    let place = "<VN_MAD>ovswitch</VN_MAD><BRIDGE_TYPE>openvswitch</BRIDGE_TYPE><PHYDEV/><BRIDGE>br0</BRIDGE>\
                 <OVS_BRIDGE_CONF>datapath_type=netdev</OVS_BRIDGE_CONF><NETWORK_ID>3</NETWORK_ID>";
    document(number, &format!("{}{rules}", nic(number, 0, 50, &format!("{more}{addresses}{place}"))))
}

fn hears(what: impl Fn() -> bool) -> bool {
    until("the port is up", what);
    true
}

#[test]
fn a_guest_is_guarded_from_before_it_comes_until_it_is_gone() {
    let stage = Stage::new();
    let open = vm(2, "", "");
    let b = stage.comes(2, Some(50), &open);
    assert_eq!(stage.ask(&["get", "Port", "one-2-0", "tag", "vlan_mode"]), "50\naccess");
    let guarded = vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    stage.host.done(Verb::Pre, &guarded);
    let a = Guest::device(1, Some(50));
    stage.plug(&a);
    // Its device is there, and nobody has called `post`.
    assert!(hears(|| b.tcp(&a, 22)) && b.tcp6(&a, 22) && !b.tcp(&a, 23) && !b.ping(a.four) && !a.tcp(&b, 22));
    stage.host.done(Verb::Post, &guarded);
    assert_eq!(stage.host.done(Verb::Post, &guarded), [""; 0], "again");
    assert!(b.tcp(&a, 22) && !b.tcp(&a, 23));

    let other = vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>23</RANGE>"));
    stage.host.done(Verb::UpdateSg, &other);
    assert_eq!(stage.host.done(Verb::UpdateSg, &other), [""; 0]);
    assert!(!b.tcp(&a, 22) && b.tcp(&a, 23));

    // A guest that is still there stays guarded, whoever says that it has left.
    stage.host.done(Verb::Clean, &other);
    assert!(!b.tcp(&a, 22) && b.tcp(&a, 23));
    stage.unplug(&a);
    stage.host.done(Verb::Clean, &other);
    stage.unplug(&b);
    stage.host.done(Verb::Clean, &open);
    // Without an uplink stock leaves the bridge; ours goes with its last guest.
    assert_eq!(stage.ask(&["list-br"]), "");
    stage.host.assert_no_trace();
}

#[test]
fn a_switch_that_dies_opens_nobody() {
    let mut stage = Stage::new();
    let open = vm(2, "", "");
    let b = stage.comes(2, Some(50), &open);
    let guarded = vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    let a = stage.comes(1, Some(50), &guarded);
    assert!(hears(|| b.tcp(&a, 22)) && !b.tcp(&a, 23));
    stage.switch.kill_switch();
    stage.switch.start_switch();
    let bridge = stage.switch.dir().join("br0.mgmt");
    until("the switch is back", || std::os::unix::net::UnixStream::connect(&bridge).is_ok());
    assert_eq!(stage.flows(), [""; 0], "it has forgotten all of them");
    assert!(!b.tcp(&a, 22) && !b.tcp(&a, 23) && !a.ping(b.four), "closed until somebody guards it again");
    stage.host.done(Verb::Post, &guarded);
    stage.host.done(Verb::Post, &open);
    assert!(hears(|| b.tcp(&a, 22)) && !b.tcp(&a, 23));
}

#[test]
fn filters_and_aliases() {
    let stage = Stage::new();
    let alias = "<TEMPLATE><NIC_ALIAS><NIC_ID>1</NIC_ID><PARENT_ID>0</PARENT_ID><VN_MAD>ovswitch</VN_MAD><IP>10.0.0.77</IP>\
                 <ATTACH>YES</ATTACH></NIC_ALIAS></TEMPLATE>";
    let b = stage.comes(2, Some(50), &vm(2, "", ""));
    let a = stage.comes(1, Some(50), &vm(1, FILTERS, ""));
    ip("-n g1 addr add 10.0.0.77/24 dev eth0");
    let as_alias = || a.run("ping", &["-c", "1", "-W", "1", "-I", "10.0.0.77", &b.four.to_string()]);
    assert!(hears(|| a.ping(b.four)) && !as_alias());
    for verb in [Verb::Pre, Verb::Post] {
        stage.host.done(verb, &vm(1, FILTERS, alias));
    }
    assert!(as_alias() && a.ping(b.four));
    stage.host.done(Verb::Clean, &vm(1, FILTERS, alias));
    assert!(!as_alias() && a.ping(b.four));
}

#[test]
fn a_network_gets_another_tag_under_its_guests() {
    let stage = Stage::new();
    let b = stage.comes(2, Some(50), &vm(2, "", ""));
    let a = stage.comes(1, Some(50), &vm(1, FILTERS, ""));
    assert!(hears(|| a.ping(b.four)));
    let moved = |number, more| vm(number, &format!("{more}<VLAN_ID>60</VLAN_ID>"), "");
    assert_eq!(stage.update(&moved(1, FILTERS)), Outcome::Done);
    assert!(!a.ping(b.four));
    assert_eq!(stage.update(&moved(2, "")), Outcome::Done);
    assert_eq!(stage.ask(&["get", "Port", "one-2-0", "tag"]), "60");
    assert!(hears(|| a.ping(b.four)));
}

#[test]
fn a_death_leaves_nobody_open() {
    let before = vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    let after = vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>23</RANGE>"));
    for verb in [Verb::Pre, Verb::Post, Verb::UpdateSg] {
        for step in 0..3 {
            let tried = || {
                let stage = Stage::new();
                let b = stage.comes(2, Some(50), &vm(2, "", ""));
                let a = stage.comes(1, Some(50), &before);
                hears(|| b.tcp(&a, 22));
                dies_before(&stage.host, &request(verb, &after), step);
                let both = b.tcp(&a, 22) && b.tcp(&a, 23);
                assert!(!both && !b.tcp(&a, 24), "{verb:?} died before {step}");
                stage.host.done(verb, &after);
                assert!(!b.tcp(&a, 22) && hears(|| b.tcp(&a, 23)), "{verb:?} died before {step}");
            };
            std::thread::scope(|scope| scope.spawn(tried).join().unwrap());
        }
    }
}

#[test]
fn a_bridge_of_the_operators_is_used_where_it_is_listed() {
    let stage = Stage::new();
    stage.ask(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]);
    let text = stage.host.refused(Verb::Pre, &vm(1, "", ""));
    assert!(text.contains("br0 was not made by causeway"), "{text}");
    stage.host.list("up0\nbr0\n");
    let a = stage.comes(1, Some(50), &vm(1, "", ""));
    stage.unplug(&a);
    stage.host.done(Verb::Clean, &vm(1, "", ""));
    assert_eq!((stage.ask(&["list-br"]), stage.ask(&["list-ports", "br0"])), ("br0".into(), "".into()));
    stage.host.assert_no_trace();
}

#[test]
fn a_device_that_is_no_bridge_is_not_taken_for_one() {
    let stage = Stage::new();
    ip("link add vx7 type vxlan id 7 group 239.0.0.7 dev up0 dstport 8472");
    ip("link add lbr0 type bridge");
    for (bridge, found) in [
        ("lo", "a device (hardware)"),
        ("up0", "a virtual device"),
        ("vx7", "a vxlan device"),
        ("lbr0", "a bridge of Linux"),
    ] {
        let text = stage.host.refused(Verb::Pre, &vm(1, "", "").replace(">br0<", &format!(">{bridge}<")));
        assert_eq!(text, format!("NIC 0: {bridge} is {found} on this host, not a bridge of Open vSwitch"));
        assert_eq!(stage.ask(&["list-br"]), "");
    }
    assert!(stage.host.reservation(VmId(1)).is_none());
}

#[test]
fn what_a_bridge_has_otherwise_is_told_and_stays() {
    let stage = Stage::new();
    stage.ask(&[
        "add-br",
        "br0",
        "--",
        "set",
        "bridge",
        "br0",
        "datapath_type=netdev",
        "other_config:hwaddr=\"02:00:00:00:00:07\"",
    ]);
    stage.host.list("up0\nbr0\n");
    let options = "<OVS_BRIDGE_CONF>datapath_type=netdev,stp_enable=true,fail_mode=secure,mcast_snooping_enable=no,\
                   other_config:hwaddr=02:00:00:00:00:08,other_config:mac-table-size=5000</OVS_BRIDGE_CONF>";
    let document = vm(1, "", "").replace("<OVS_BRIDGE_CONF>datapath_type=netdev</OVS_BRIDGE_CONF>", options);
    let notes = stage.host.run(Verb::Pre, &document).notes;
    let keeps = |option: &str, has: &str, wanted: &str| {
        format!(
            "bridge br0 keeps {option} as it is, {has} (ovs_bridge_conf: {wanted}): it is set on a new bridge only"
        )
    };
    assert_eq!(
        notes,
        [
            keeps("fail_mode", "absent", "secure"),
            keeps("stp_enable", "false", "true"),
            keeps("other_config:hwaddr", "02:00:00:00:00:07", "02:00:00:00:00:08"),
            keeps("other_config:mac-table-size", "absent", "5000"),
        ]
    );
    assert_eq!(stage.ask(&["get", "bridge", "br0", "stp_enable"]), "false");
    assert_eq!(stage.ask(&["get", "bridge", "br0", "fail_mode"]), "[]");
    stage.host.done(Verb::Clean, &document);
    // On one of its own, they are set and there is nothing to tell.
    let fresh = document.replace(">br0<", ">br1<");
    assert_eq!(stage.host.run(Verb::Pre, &fresh).notes, [""; 0]);
    assert_eq!(stage.host.run(Verb::Pre, &fresh).notes, [""; 0]);
    assert_eq!(stage.ask(&["get", "bridge", "br1", "stp_enable"]), "true");
    stage.host.done(Verb::Clean, &fresh);
}

#[test]
fn a_tunnel_of_the_kernels_is_the_way_out() {
    let stage = Stage::new();
    let more = "<VN_MAD>ovswitch_vxlan</VN_MAD><OUTER_VLAN_ID>9</OUTER_VLAN_ID><PHYDEV>up0</PHYDEV>";
    let document = vm(1, more, "");
    let a = stage.comes(1, Some(50), &document);
    assert_eq!(stage.ask(&["list-ports", "br0"]), "one-1-0\nup0.9");
    assert_eq!(stage.host.link("up0.9")["linkinfo"]["info_data"]["id"], 9);
    assert_eq!(stage.host.done(Verb::Pre, &document), [""; 0]);
    // The network gets another number.
    let document = vm(1, &more.replace(">9<", ">10<"), "");
    assert_eq!(stage.update(&document), Outcome::Done);
    assert_eq!(stage.ask(&["list-ports", "br0"]), "one-1-0\nup0.10");
    assert!(!stage.host.links().contains(&"up0.9".to_owned()));
    stage.unplug(&a);
    stage.host.done(Verb::Clean, &document);
    assert!(
        stage.host.links().iter().all(|name| name != "up0.10" && name != "br0"),
        "{:?}",
        stage.host.links()
    );
    assert_eq!(stage.ask(&["list-br"]), "");
    assert!(stage.host.reservation(VmId(1)).is_none());
    stage.host.assert_no_trace();
}

#[test]
fn a_switch_that_does_not_run_is_told_and_one_that_is_slow_is_waited_for() {
    let mut stage = Stage::new();
    let guarded = vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    stage.switch.kill_switch();
    let begun = Instant::now();
    let text = stage.host.refused(Verb::Pre, &guarded);
    assert!(
        text.contains("ovs-vswitchd does not run") && text.contains("start openvswitch-switch"),
        "{text}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(stage.host.reservation(VmId(1)).is_none());
    // A restart is waited for.
    let Stage { host, switch } = &mut stage;
    std::thread::scope(|scope| {
        let pre = scope.spawn(|| host.run(Verb::Pre, &guarded).outcome);
        std::thread::sleep(Duration::from_secs(1));
        switch.start_switch();
        assert_eq!(pre.join().unwrap(), Outcome::Done);
    });
    host.done(Verb::Clean, &guarded);
    // So is one that is there, and takes its time.
    switch.signal_switch("STOP");
    std::thread::scope(|scope| {
        let pre = scope.spawn(|| host.run(Verb::Pre, &guarded).outcome);
        std::thread::sleep(Duration::from_secs(7));
        assert!(!pre.is_finished());
        switch.signal_switch("CONT");
        assert_eq!(pre.join().unwrap(), Outcome::Done);
    });
    host.done(Verb::Clean, &guarded);
    stage.host.assert_no_trace();
}

#[test]
fn a_host_without_a_switch_says_so() {
    let mut stage = Stage::new();
    stage.host.places.switch.database = "/nowhere/db.sock".into();
    let (text, _) = stage.host.taken_back(Verb::Pre, &vm(1, "", ""));
    assert!(text.contains("/nowhere/db.sock"), "{text}");
    assert_eq!(stage.host.run(Verb::Clean, &vm(1, "", "")).outcome, Outcome::Done, "there is nothing there");
}

/// The datapath of a quiet switch is looked over twice a second, and right after flows have changed.
#[test]
fn nobody_waits_for_a_quiet_datapath() {
    let stage = Stage::new();
    let rules = |port| vm(1, GROUP, &rule("INBOUND", "TCP", &format!("<RANGE>{port}</RANGE>")));
    stage.comes(1, Some(50), &rules(21));
    let mut times: Vec<Duration> = (22..29)
        .map(|port| {
            std::thread::sleep(Duration::from_millis(50));
            let begun = Instant::now();
            assert_eq!(stage.host.done(Verb::UpdateSg, &rules(port)).len(), 1);
            begun.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[3] < Duration::from_millis(400), "{times:?}");
    let port = "in_port=65279";
    assert!(stage.flows().iter().all(|flow| !flow.contains(port)), "{:?}", stage.flows());
}

#[test]
fn what_wraps_ip_otherwise_comes_to_no_guarded_guest() {
    let stage = Stage::new();
    let b = stage.comes(2, Some(50), &vm(2, "", ""));
    let a = stage.comes(1, Some(50), &vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>")));
    assert!(hears(|| b.tcp(&a, 22)));
    // Discovery and sessions of PPPoE, MPLS, and a number that nobody has.
    for kind in [0x8863, 0x8864, 0x8847, 0x1234] {
        let mark = b"strange and marked";
        let inward = frame(a.mac.0, b.mac, &[], kind, mark);
        let outward = frame(b.mac.0, a.mac, &[], kind, mark);
        assert_eq!(arrives(&b, &a, &[inward], mark), 0, "{kind:x}");
        assert_eq!(arrives(&a, &b, &[outward], mark), 0, "{kind:x}");
    }
}
