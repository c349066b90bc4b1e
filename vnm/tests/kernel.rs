//! The actions on a real kernel, each test in a network namespace of its own; the kernel is read back with `ip`.

#![cfg(test)]

mod common;

use causeway_core::names::VmId;
use causeway_vnm::root::{Outcome, Verb, server};
use common::{Host, assert_same, document, ip, nic, request, still, vm};

#[test]
fn pre_makes_what_the_contract_says() {
    let host = Host::new();
    let changes = host.done(Verb::Pre, &vm(7, 4));
    assert_eq!(
        changes,
        [
            "create bridge onebr.4",
            "mark onebr.4",
            "create vxlan up0.4 vni 4 dev up0 group 239.0.0.4 dstport 8472 mtu 1500 in onebr.4",
            "mark up0.4",
        ]
    );
    let tunnel = host.link("up0.4");
    let data = &tunnel["linkinfo"]["info_data"];
    assert_eq!(data["id"], 4);
    assert_eq!(data["group"], "239.0.0.4");
    assert_eq!(data["link"], "up0");
    assert_eq!(data["port"], 8472);
    assert_eq!(data["ttl"], 16);
    assert_eq!(data["learning"], true);
    assert_eq!(data["udp_csum"], true);
    assert_eq!(tunnel["mtu"], 1500);
    assert_eq!(tunnel["master"], "onebr.4");
    assert_eq!(tunnel["ifalias"], "causeway");
    assert!(tunnel["flags"].to_string().contains("\"UP\""));
    let bridge = host.link("onebr.4");
    assert_eq!(bridge["linkinfo"]["info_kind"], "bridge");
    assert_eq!(bridge["ifalias"], "causeway");
    assert!(bridge["flags"].to_string().contains("\"UP\""));
    assert_eq!(ip("addr show up0.4 scope global"), "");
    assert!(host.reservation(VmId(7)).is_some());
}

#[test]
fn what_stock_makes_is_what_we_make() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    // The commands that the stock driver was recorded to run, with the names of this test.
    ip("link add name br-stock type bridge");
    ip("link set br-stock up");
    ip("link add up0.5 mtu 1500 type vxlan id 5 group 239.0.0.4 ttl 16 dev up0");
    ip("link set up0.5 up");
    ip("link set up0.5 master br-stock");
    let (mut ours, mut stock) = (host.link("up0.4"), host.link("up0.5"));
    still(&mut ours);
    still(&mut stock);
    for (key, value) in stock["linkinfo"]["info_data"].as_object().unwrap() {
        if key != "id" {
            assert_eq!(&ours["linkinfo"]["info_data"][key], value, "{key}");
        }
    }
    for key in ["mtu", "qdisc", "promiscuity", "flags", "num_tx_queues"] {
        assert_eq!(ours[key], stock[key], "{key}");
    }
    let same = |name: &str| {
        let mut data = host.link(name)["linkinfo"]["info_data"].clone();
        let data = data.as_object_mut().unwrap();
        // What the bridge counts, and what follows from its address.
        data.retain(|key, _| !key.contains("timer") && !["bridge_id", "root_id"].contains(&key.as_str()));
        data.clone()
    };
    assert_eq!(same("onebr.4"), same("br-stock"));
}

#[test]
fn pre_again_changes_nothing() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    let before = host.snapshot();
    assert_eq!(host.done(Verb::Pre, &vm(7, 4)), [""; 0]);
    assert_same(&host.snapshot(), &before);
}

#[test]
fn a_dry_run_says_it_all_and_does_nothing() {
    let host = Host::new();
    let before = host.snapshot();
    let mut dry = request(Verb::Pre, &vm(7, 4));
    dry.dry_run = true;
    let planned = server::answer(&host.places, &dry).changes;
    assert_same(&host.snapshot(), &before);
    assert!(host.reservation(VmId(7)).is_none());
    assert_eq!(planned, host.done(Verb::Pre, &vm(7, 4)));
}

#[test]
fn a_second_guest_shares_and_the_last_one_takes_everything() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.plug("one-7-0", "onebr.4");
    let second = host.run(Verb::Pre, &vm(8, 4));
    assert_eq!((second.changes.len(), second.reserved), (0, true), "the second guest finds all there");
    assert!(!host.run(Verb::Pre, &vm(8, 4)).reserved, "again");
    host.plug("one-8-0", "onebr.4");

    ip("link del one-7-0");
    assert_eq!(host.done(Verb::Clean, &vm(7, 4)), [""; 0], "the second guest still needs it");
    assert_eq!(host.links(), ["one-8-0", "onebr.4", "up0.4"]);

    ip("link del one-8-0");
    assert_eq!(host.done(Verb::Clean, &vm(8, 4)), ["delete up0.4", "delete onebr.4"]);
    assert_eq!(host.links(), [""; 0]);
    assert!(host.reservation(VmId(7)).is_none() && host.reservation(VmId(8)).is_none());
    host.assert_no_trace();
}

#[test]
fn what_a_coming_guest_has_reserved_stays() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.done(Verb::Pre, &vm(8, 4));
    assert_eq!(host.done(Verb::Clean, &vm(7, 4)), [""; 0], "guest 8 is on its way (W6)");
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
    host.done(Verb::Clean, &vm(8, 4));
    assert_eq!(host.links(), [""; 0]);
}

#[test]
fn clean_of_nothing_succeeds() {
    let host = Host::new();
    assert_eq!(host.done(Verb::Clean, &vm(7, 4)), [""; 0]);
    host.done(Verb::Pre, &vm(7, 4));
    host.done(Verb::Clean, &vm(7, 4));
    assert_eq!(host.done(Verb::Clean, &vm(7, 4)), [""; 0]);
}

#[test]
fn clean_takes_away_what_the_document_no_longer_says() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    let bad = document(
        7,
        &nic(7, 0, 4, "<MTU>x</MTU><BRIDGE>$(x)</BRIDGE><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>"),
    );
    host.done(Verb::Clean, &bad);
    assert_eq!(host.links(), [""; 0]);
}

#[test]
fn clean_works_without_a_reservation() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    std::fs::remove_dir_all(&host.places.reservations).unwrap();
    host.done(Verb::Clean, &vm(7, 4));
    assert_eq!(host.links(), [""; 0]);
}

#[test]
fn one_nic_comes_and_goes_alone() {
    let host = Host::new();
    let two = |attach: &str| document(7, &format!("{}{}", nic(7, 0, 4, ""), nic(7, 1, 5, attach)));
    host.done(Verb::Pre, &vm(7, 4));
    host.plug("one-7-0", "onebr.4");
    let changes = host.done(Verb::Pre, &two("<ATTACH>YES</ATTACH>"));
    assert_eq!(changes.first().unwrap(), "create bridge onebr.5");
    assert_eq!(host.links(), ["one-7-0", "onebr.4", "onebr.5", "up0.4", "up0.5"]);
    let reserved = host.reservation(VmId(7)).unwrap();
    assert_eq!(reserved["nics"].as_object().unwrap().len(), 2);

    host.done(Verb::Clean, &two("<ATTACH>YES</ATTACH>"));
    assert_eq!(host.links(), ["one-7-0", "onebr.4", "up0.4"]);
    let reserved = host.reservation(VmId(7)).unwrap();
    assert_eq!(reserved["nics"].as_object().unwrap().len(), 1);
}

#[test]
fn an_alias_that_goes_takes_no_bridge_along() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    let alias = "<TEMPLATE><NIC_ALIAS><NIC_ID>1</NIC_ID><PARENT_ID>0</PARENT_ID><VN_MAD>vxlan</VN_MAD>\
                 <ATTACH>YES</ATTACH></NIC_ALIAS></TEMPLATE>";
    let with_alias = document(7, &format!("{}{alias}", nic(7, 0, 4, "")));
    assert_eq!(host.done(Verb::Clean, &with_alias), [""; 0]);
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
    assert!(host.reservation(VmId(7)).is_some());
}

#[test]
fn a_guest_that_still_runs_keeps_its_network_until_it_is_gone() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.plug("one-7-0", "onebr.4");
    let response = host.run(Verb::Clean, &vm(7, 4));
    assert_eq!((&response.outcome, response.changes.len()), (&Outcome::Done, 0));
    assert!(response.notes[0].contains("one-7-0 is still plugged in"), "{:?}", response.notes);
    assert_eq!(host.links(), ["one-7-0", "onebr.4", "up0.4"]);

    // The next clean of anybody finishes the work.
    ip("link del one-7-0");
    host.done(Verb::Clean, &vm(9, 9));
    assert_eq!(host.links(), [""; 0]);
    assert!(host.reservation(VmId(7)).is_none());
}

#[test]
fn a_guest_that_never_came_is_collected_after_its_time() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.done(Verb::Clean, &vm(9, 9));
    assert_eq!(host.links(), ["onebr.4", "up0.4"], "it may still come");
    host.age(7, 3601);
    host.done(Verb::Clean, &vm(9, 9));
    assert_eq!(host.links(), [""; 0]);
    assert!(host.reservation(VmId(7)).is_none());
}

#[test]
fn a_running_guest_is_never_collected() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.plug("one-7-0", "onebr.4");
    host.age(7, 1_000_000);
    host.done(Verb::Clean, &vm(9, 9));
    host.done(Verb::Pre, &vm(8, 4));
    host.done(Verb::Clean, &vm(8, 4));
    assert_eq!(host.links(), ["one-7-0", "onebr.4", "up0.4"]);
    assert!(host.reservation(VmId(7)).is_some());
}

#[test]
fn a_guest_that_is_stopped_and_started_again_keeps_what_is_reserved() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.plug("one-7-0", "onebr.4");
    host.done(Verb::Post, &vm(7, 4));
    // Nobody has looked for days, and just now its device is not there.
    host.age(7, 1_000_000);
    ip("link del one-7-0");
    host.done(Verb::Pre, &vm(8, 4));
    host.done(Verb::Clean, &vm(8, 4));
    assert_eq!(host.links(), ["onebr.4", "up0.4"], "it may come back");
    assert_eq!(host.reservation(VmId(7)).unwrap()["presence"]["0"].as_object().unwrap().len(), 1, "missed");
    // It has, and is seen; the next time it is missed is the first again.
    host.plug("one-7-0", "onebr.4");
    host.age(7, 4000);
    host.done(Verb::Clean, &vm(9, 9));
    ip("link del one-7-0");
    host.age(7, 4000);
    host.done(Verb::Clean, &vm(9, 9));
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
    // It stays away.
    host.age(7, 4000);
    host.done(Verb::Clean, &vm(9, 9));
    assert_eq!(host.links(), [""; 0]);
    assert!(host.reservation(VmId(7)).is_none());
}

#[test]
fn a_reservation_that_cannot_be_read_keeps_everything() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.done(Verb::Pre, &vm(3, 4));
    std::fs::write(host.places.reservations.join("3.json"), "{").unwrap();
    let response = host.run(Verb::Clean, &vm(7, 4));
    assert_eq!((&response.outcome, response.changes.len()), (&Outcome::Done, 0));
    assert!(
        response.notes.iter().any(|note| note.contains("3.json is no reservation")),
        "{:?}",
        response.notes
    );
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
}

#[test]
fn keep_empty_bridge_keeps_it() {
    let host = Host::new();
    let mut keep = request(Verb::Pre, &vm(7, 4));
    keep.settings.keep_empty_bridge = true;
    assert_eq!(server::answer(&host.places, &keep).outcome, Outcome::Done);
    assert_eq!(host.done(Verb::Clean, &vm(7, 4)), [""; 0]);
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
}

#[test]
fn evpn_with_a_device_and_with_an_address() {
    let host = Host::new();
    host.done(
        Verb::Pre,
        &document(
            7,
            &nic(
                7,
                0,
                4,
                "<VXLAN_MODE>evpn</VXLAN_MODE><IP_LINK_CONF>nolearning=,dstport=4789</IP_LINK_CONF>",
            ),
        ),
    );
    let data = &host.link("up0.4")["linkinfo"]["info_data"];
    assert_eq!((&data["link"], &data["port"]), (&"up0".into(), &4789.into()));
    assert!(data.get("group").is_none() && data.get("local").is_none());
    assert_eq!(data["learning"], false);

    host.done(
        Verb::Pre,
        &document(8, &nic(8, 0, 5, "<VXLAN_MODE>evpn</VXLAN_MODE><VXLAN_TEP>local_ip</VXLAN_TEP>")),
    );
    let data = &host.link("up0.5")["linkinfo"]["info_data"];
    assert_eq!(data["local"], "10.77.0.1");
    assert!(data.get("group").is_none() && data.get("link").is_none());
    for id in [7, 8] {
        assert_eq!(host.done(Verb::Pre, &document(id, &nic(id, 0, if id == 7 { 4 } else { 5 }, if id == 7 {
            "<VXLAN_MODE>evpn</VXLAN_MODE><IP_LINK_CONF>nolearning=,dstport=4789</IP_LINK_CONF>"
        } else {
            "<VXLAN_MODE>evpn</VXLAN_MODE><VXLAN_TEP>local_ip</VXLAN_TEP>"
        }))), [""; 0], "again");
    }
}

#[test]
fn bridge_options_are_set_and_set_again() {
    let host = Host::new();
    let with = |conf: &str| document(7, &nic(7, 0, 4, &format!("<BRIDGE_CONF>{conf}</BRIDGE_CONF>")));
    let all = with("ageing_time=20000,stp=true,setfd=400,mcast_snooping=0,priority=4096");
    host.done(Verb::Pre, &all);
    let data = host.link("onebr.4")["linkinfo"]["info_data"].clone();
    assert_eq!(data["ageing_time"], 20000);
    assert_eq!(data["stp_state"], 1);
    assert_eq!(data["forward_delay"], 400);
    assert_eq!(data["mcast_snooping"], 0);
    assert_eq!(host.done(Verb::Pre, &all), [""; 0]);
    let changes = host.done(Verb::Pre, &with("mcast_snooping=1"));
    assert_eq!(changes, ["set bridge onebr.4 mcast_snooping 1"]);
}

#[test]
fn the_mtu_is_what_the_uplink_carries() {
    let host = Host::new();
    let mtu = |vm, vni, more: &str| {
        let response = host.run(Verb::Pre, &document(vm, &nic(vm, 0, vni, more)));
        assert_eq!(response.outcome, Outcome::Done);
        (host.link(&format!("up0.{vni}"))["mtu"].as_u64().unwrap(), response.notes)
    };
    assert_eq!(mtu(1, 11, ""), (1500, vec![]));
    assert_eq!(mtu(2, 12, "<MTU>1400</MTU>"), (1400, vec![]));
    let (bytes, notes) = mtu(3, 13, "<MTU>9000</MTU>");
    assert_eq!(bytes, 1550);
    assert!(notes[0].contains("MTU is 9000, but up0 carries only 1550"), "{notes:?}");
    // An underlay that shrinks: what stock makes would lose every full frame (W23).
    ip("link set up0 mtu 1500");
    assert_eq!(mtu(4, 14, "").0, 1450);
}

#[test]
fn parameters_of_our_own_tunnel_are_mended() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    ip("link set up0.4 down");
    ip("link set up0.4 nomaster");
    ip("link set up0.4 mtu 1200");
    ip("link set up0.4 type vxlan ttl 3");
    let changes = host.done(Verb::Pre, &vm(7, 4));
    assert_eq!(
        changes,
        [
            "set up0.4 bridge onebr.4",
            "set vxlan up0.4 ttl 16 tos 0 learning true ageing 300 df false",
            "set up0.4 mtu 1500",
            "set up0.4 up",
        ]
    );
    let tunnel = host.link("up0.4");
    assert_eq!((&tunnel["mtu"], &tunnel["master"]), (&1500.into(), &"onebr.4".into()));
    assert_eq!(tunnel["linkinfo"]["info_data"]["ttl"], 16);
    assert_eq!(host.done(Verb::Pre, &vm(7, 4)), [""; 0]);
}

#[test]
fn one_guests_mtu_does_not_move_anothers() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    let response = host.run(Verb::Pre, &document(8, &nic(8, 0, 4, "<MTU>1300</MTU>")));
    assert_eq!((&response.outcome, response.changes.len()), (&Outcome::Done, 0));
    assert!(response.notes[0].contains("up0.4 keeps its MTU of 1500 (wanted: 1300)"), "{:?}", response.notes);
}

#[test]
fn a_changed_network_leaves_no_old_bridge() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    host.done(Verb::Pre, &vm(7, 5));
    assert_eq!(host.links(), ["onebr.5", "up0.5"]);
}

#[test]
fn observe_looks_and_touches_nothing() {
    let host = Host::new();
    let before = host.snapshot();
    let response = host.run(Verb::Observe, &vm(7, 4));
    assert_eq!(response.changes.len(), 4);
    assert_same(&host.snapshot(), &before);
    let seen = response.seen.unwrap();
    assert_eq!(seen.desired.tunnels[0].name.as_str(), "up0.4");
    assert!(seen.observed.links.values().any(|link| link.name == "up0"));
    assert!(!host.places.reservations.exists());
}

/// Contract VNM 4.11: `BRIDGEb` is no guest's. Any other end of a pair may be one's.
#[test]
fn the_end_of_services_in_a_bridge_keeps_it_from_nothing() {
    for (end, stays) in [("onebr.4b", false), ("onebr.4c", true)] {
        std::thread::spawn(move || {
            let host = Host::new();
            host.done(Verb::Pre, &vm(7, 4));
            ip(&format!("link add {end} type veth peer name inside"));
            ip(&format!("link set {end} master onebr.4 up"));
            assert_eq!(host.done(Verb::Pre, &vm(7, 4)), [""; 0], "it is no second way out");
            host.plug("one-7-0", "onebr.4");
            host.done(Verb::Post, &vm(7, 4));
            ip("link del one-7-0");
            host.done(Verb::Clean, &vm(7, 4));
            assert_eq!(host.links().contains(&"onebr.4".to_owned()), stays, "{end}");
            assert_eq!(host.links().contains(&"up0.4".to_owned()), stays, "{end}");
            assert!(host.links().contains(&end.to_owned()), "what is not ours stays");
        })
        .join()
        .unwrap();
    }
}
