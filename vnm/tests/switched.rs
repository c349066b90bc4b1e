//! The fabric of Open vSwitch on a real one: what it makes, takes over, and takes away.

#![cfg(test)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use std::time::{Duration, Instant};

use causeway_core::names::VmId;
use causeway_vnm::desired::Vlans;
use causeway_vnm::fabric::ovs::{Change, Conflict, Ovs, OvsError, Places, Surroundings, difference};
use common::guests::{GROUP, Guest, Guests, desired, guard, hear_each_other, rule};
use common::ip;
use common::switch::until;
use common::wire::{Ear, datagram};

/// Lets in UDP to port 50 and TCP to these, and UDP to 60 and 62 out.
fn rules(tcp: &str) -> String {
    [
        rule("INBOUND", "UDP", "<RANGE>50</RANGE>"),
        rule("INBOUND", "TCP", &format!("<RANGE>{tcp}</RANGE>")),
        rule("OUTBOUND", "UDP", "<RANGE>60,62</RANGE>"),
    ]
    .concat()
}

/// All rows and flows, but what counts and what the switch gives by itself.
fn snapshot(net: &Guests) -> Vec<String> {
    let mut out = Vec::new();
    for (table, columns) in [
        ("Bridge", "name,datapath_type,external_ids,ports"),
        ("Port", "name,tag,trunks,vlan_mode,cvlans,protected,external_ids,other_config"),
        ("Interface", "name,type,options,ofport_request,mtu_request,external_ids"),
    ] {
        let rows =
            net.switch.tool("ovs-vsctl", &["--format=csv", &format!("--columns={columns}"), "list", table]);
        out.extend(rows.lines().map(|line| format!("{table} {line}")));
    }
    for bridge in net.switch.tool("ovs-vsctl", &["list-br"]).lines() {
        let flows = net.switch.tool("ovs-ofctl", &["--no-stats", "-O", "OpenFlow14", "dump-flows", bridge]);
        out.extend(flows.lines().map(|line| format!("{bridge} {line}")));
    }
    out.sort();
    out
}

/// Bridge, port and flows are there before the guest's device is.
#[test]
fn a_guest_is_guarded_from_its_first_frame() {
    let net = Guests::new(&[Some(50)]);
    let b = &net.all[0];
    let before = snapshot(&net);
    let a = Guest::device(7, Some(50));
    ip(&format!("link set {} down", a.tap));
    ip(&format!("link set {} name away", a.tap));
    let state = desired(&a, guard(&a, GROUP, &rules("22")));
    net.bring(&state);
    let right = datagram(&a, b, 60, b"what may leave");
    let wrong = datagram(&a, b, 61, b"what may not");
    let (ear, own) = (b.listens(), a.listens());
    let coming = [datagram(b, &a, 50, b"what may come"), datagram(b, &a, 51, b"what must stay away")];
    a.sends_during(&[right, wrong], || {
        b.sends_during(&coming, || {
            ip(&format!("link set away name {}", a.tap));
            ip(&format!("link set {} up", a.tap));
            net.plug(&a);
            until("the guest is heard", || a.udp(b, 62));
        });
    });
    let heard = |ear: Ear, right: &[u8], wrong: &[u8]| {
        let frames = ear.frames();
        let count =
            |mark: &[u8]| frames.iter().filter(|frame| frame.windows(mark.len()).any(|w| w == mark)).count();
        assert_eq!(count(wrong), 0);
        assert!(count(right) > 0);
    };
    heard(ear, b"what may leave", b"what may not");
    // Its own device shows what it sends as well, so only what it is sent is looked at.
    heard(own, b"what may come", b"what must stay away");
    assert_eq!(net.switch.tool("ovs-vsctl", &["get", "interface", &a.tap, "ofport"]), a.port.to_string());
    assert!(b.udp(&a, 50) && !b.udp(&a, 51) && b.tcp(&a, 22) && !b.tcp(&a, 23));
    // Nothing is left to do, and all of it is taken away again; while the guest's device is there, it stays guarded.
    assert_eq!(net.bring(&state), []);
    let gone = net.take_away(&state);
    assert_eq!((gone.changes.len(), gone.lingering.len()), (0, 1));
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &a.tap]);
    net.take_away(&state);
    common::assert_same(&snapshot(&net), &before);
}

#[test]
fn a_bridge_of_ours_comes_and_goes() {
    let net = Guests::new(&[]);
    net.switch.tool("ovs-vsctl", &["del-br", "br0"]);
    let before = snapshot(&net);
    ip("link add up0 type veth peer name far0");
    let (a, b) = (Guest::device(7, Some(50)), Guest::device(8, None));
    let mut first = desired(&a, guard(&a, GROUP, &rules("22")));
    first.switches[0].uplinks.insert("up0".parse().unwrap());
    first.switches[0].options.insert("other_config:mac-aging-time".to_owned(), "77".to_owned());
    first.switches[0].options.insert("mcast_snooping_enable".to_owned(), "true".to_owned());
    first.seats[0].mtu = Some(1400);
    let mut second = desired(&b, guard(&b, "", ""));
    second.switches = first.switches.clone();
    net.bring(&first);
    net.bring(&second);
    for guest in [&a, &b] {
        net.plug(guest);
    }
    let get =
        |table: &str, name: &str, column: &str| net.switch.tool("ovs-vsctl", &["get", table, name, column]);
    assert_eq!(get("bridge", "br0", "other_config:mac-aging-time"), "\"77\"");
    assert_eq!(get("bridge", "br0", "mcast_snooping_enable"), "true");
    assert_eq!(
        (get("port", &a.tap, "trunks"), get("port", &a.tap, "vlan_mode")),
        ("[4095]".into(), "trunk".into())
    );
    assert_eq!((get("port", &b.tap, "tag"), get("port", &b.tap, "vlan_mode")), ("0".into(), "access".into()));
    until("the MTU is set", || get("interface", &a.tap, "mtu") == "1400");
    assert_eq!(net.switch.tool("ovs-vsctl", &["port-to-br", "up0"]), "br0");
    // The one that is not guarded needs nothing of the patch; the bridge stays for whoever is left.
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &a.tap]);
    net.take_away(&first);
    assert_eq!(net.switch.tool("ovs-vsctl", &["list-ports", "br0"]), format!("{}\nup0", b.tap));
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &b.tap]);
    net.take_away(&second);
    common::assert_same(&snapshot(&net), &before);
}

#[test]
fn another_guest_is_untouched() {
    let net = Guests::new(&[Some(50), Some(50), Some(60)]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    let [one, other] = [a, b].map(|guest| desired(guest, guard(guest, GROUP, &rules("22"))));
    net.bring(&one);
    let before = snapshot(&net);
    net.bring(&other);
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &b.tap]);
    net.take_away(&other);
    let mut expected = before;
    expected.retain(|line| !line.contains(&b.tap));
    let mut now = snapshot(&net);
    // The bridge's list of ports is shorter by one.
    for lines in [&mut expected, &mut now] {
        lines.retain(|line| !line.starts_with("Bridge "));
    }
    common::assert_same(&now, &expected);
    assert_eq!(net.bring(&one), []);
    assert!(!c.udp(a, 50));
}

/// The number of the NIC is somebody else's.
#[test]
fn a_port_with_another_number_is_guarded_all_the_same() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [b, c] = [&net.all[0], &net.all[1]];
    let mut a = Guest::device(7, Some(50));
    a.port = c.port;
    let state = desired(&a, guard(&a, GROUP, &rules("22")));
    let observed = net.observe(&state);
    let found = difference(&state, &observed, &Surroundings::default()).unwrap();
    assert!(found.notes[0].contains(&format!("is taken by {}", c.tap)), "{:?}", found.notes);
    ip(&format!("link set {} name away", a.tap));
    net.bring(&state);
    hear_each_other(c, b);
    assert!(c.tcp(b, 80) && b.udp(c, 51), "its flows are not about the other");
    ip(&format!("link set away name {}", a.tap));
    ip(&format!("link set {} up", a.tap));
    net.plug(&a);
    assert!(!b.udp(&a, 50) && !a.udp(b, 60) && c.ping(b.four));
    let changes = net.bring(&state);
    let bundles = changes.iter().filter(|change| matches!(change, Change::Flows { .. })).count();
    assert_eq!(bundles, 1, "{changes:?}");
    until("they find each other", || b.udp(&a, 50));
    assert!(!b.udp(&a, 51) && a.udp(b, 60) && !a.udp(b, 61) && c.ping(b.four));
}

/// What the stock driver leaves of a guest that it has started.
#[test]
fn a_port_of_the_stock_driver_is_taken_over() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [a, b] = [&net.all[0], &net.all[1]];
    net.switch.tool("ovs-vsctl", &["set", "port", &a.tap, "vlan_mode=native-untagged", "trunks=[]"]);
    let stock = || {
        for flow in [
            format!("table=0,in_port={},priority=100,actions=note:00.00.00.01.00.00,resubmit(,10)", a.port),
            format!("table=10,in_port={},priority=100,actions=resubmit(,20)", a.port),
            format!("table=20,in_port={},priority=100,actions=normal", a.port),
            format!("table=20,in_port={},priority=45500,ip,nw_src=10.0.0.99,actions=normal", a.port),
        ] {
            net.switch.tool("ovs-ofctl", &["add-flow", "br0", &flow]);
        }
    };
    stock();
    hear_each_other(a, b);
    assert!(a.tcp(b, 80) && b.tcp(a, 80));
    let state = desired(a, guard(a, GROUP, &rules("22")));
    net.bring(&state);
    assert!(b.tcp(a, 22) && !b.tcp(a, 80) && !a.tcp(b, 80) && a.udp(b, 60));
    let flows = net.switch.tool("ovs-ofctl", &["--no-stats", "dump-flows", "br0"]);
    assert!(!flows.contains("10.0.0.99") && flows.contains("note:00.00.00.01.00.00"), "{flows}");
    // It leaves flows behind where the port has gone already.
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &a.tap]);
    net.take_away(&state);
    stock();
    net.take_away(&state);
    let flows = net.switch.tool("ovs-ofctl", &["--no-stats", "dump-flows", "br0"]);
    assert_eq!(flows.trim(), "priority=0 actions=NORMAL");
}

/// Frames are sent without pause while rules change, and a connection lasts.
#[test]
fn no_wrong_frame_passes_while_rules_change() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let state = |tcp: &str| desired(a, guard(a, GROUP, &rules(tcp)));
    net.bring(&state("22"));
    until("they find each other", || b.udp(a, 50));
    let at = std::net::SocketAddr::from((a.four, 22));
    let listener = a.within(|| TcpListener::bind(at).unwrap());
    let mut here = b.within(|| TcpStream::connect(at).unwrap());
    let (mut there, _) = listener.accept().unwrap();
    there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (at_a, at_b) = (a.listens(), b.listens());
    let to_a = [datagram(b, a, 50, b"right at a"), datagram(b, a, 51, b"wrong at a")];
    let to_b = [datagram(a, b, 60, b"right at b"), datagram(a, b, 61, b"wrong at b")];
    a.sends_during(&to_b, || {
        b.sends_during(&to_a, || {
            for round in 0..50 {
                // Also the rule by which the connection began goes and comes.
                let tcp =
                    if round % 2 == 0 { format!("{}:{}", 100 + round, 200 + round) } else { "22".to_owned() };
                assert_eq!(net.bring(&state(&tcp)).len(), 1);
                here.write_all(b"?").unwrap();
                let mut byte = [0];
                there.read_exact(&mut byte).unwrap();
            }
        });
    });
    for (ear, right, wrong) in
        [(at_a, &b"right at a"[..], &b"wrong at a"[..]), (at_b, b"right at b", b"wrong at b")]
    {
        let frames = ear.frames();
        let count =
            |mark: &[u8]| frames.iter().filter(|frame| frame.windows(mark.len()).any(|w| w == mark)).count();
        assert_eq!(count(wrong), 0);
        assert!(count(right) > 50, "{}", count(right));
    }
}

#[test]
fn what_stands_in_the_way_is_named() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let a = &net.all[0];
    net.switch.tool("ovs-vsctl", &["add-br", "br1", "--", "set", "bridge", "br1", "datapath_type=netdev"]);
    let plain = desired(a, guard(a, "", ""));
    let conflict = |state: &_, around: &Surroundings| -> Conflict {
        difference(state, &net.observe(state), around).unwrap_err()
    };
    let none = Surroundings::default();
    let mut state = plain.clone();
    state.switches[0].name = "br1".parse().unwrap();
    state.seats[0].switch = "br1".parse().unwrap();
    let text = conflict(&state, &none).to_string();
    assert_eq!(text, format!("{} is a port of br0, not of br1: take it out there", a.tap));
    let mut state = plain.clone();
    state.switches[0].name = net.all[1].tap.parse().unwrap();
    assert!(conflict(&state, &none).to_string().contains("is a port of br0 on this host, not a bridge"));
    let mut state = plain.clone();
    state.switches[0].name = "br9".parse().unwrap();
    let devices = [("br9".parse().unwrap(), "a bridge of Linux".to_owned())].into();
    let around = Surroundings { devices, ..Surroundings::default() };
    assert!(conflict(&state, &around).to_string().contains("br9 is a bridge of Linux on this host"));
    let mut state = plain.clone();
    state.switches[0].name = "br1".parse().unwrap();
    state.seats.clear();
    state.switches[0].uplinks.insert(net.all[1].tap.parse().unwrap());
    assert!(matches!(conflict(&state, &none), Conflict::Elsewhere { .. }));
    // What the switch can't use is told.
    let mut state = plain.clone();
    state.switches[0].uplinks.insert("none0".parse().unwrap());
    net.bring(&state);
    until("the switch says so", || {
        let found = difference(&state, &net.observe(&state), &none).unwrap();
        found.notes.first().is_some_and(|note| note.starts_with("bridge br0 can't lead out by none0: "))
    });
    net.bring(&plain);
    // A second way out, as long as somebody else needs the first.
    let mut state = plain.clone();
    state.switches[0].uplinks.insert("up0".parse().unwrap());
    net.bring(&state);
    state.switches[0].uplinks = ["up1".parse().unwrap()].into();
    let around = Surroundings { shared: ["br0".parse().unwrap()].into(), ..Surroundings::default() };
    assert!(matches!(conflict(&state, &around), Conflict::SecondUplink { .. }));
    net.bring(&state);
    assert!(!net.switch.tool("ovs-vsctl", &["list-ports", "br0"]).contains("up0"));
    // An option that is none.
    let mut state = plain;
    state.switches[0].name = "br9".parse().unwrap();
    state.switches[0].options.insert("controller".to_owned(), "tcp:10.0.0.1".to_owned());
    assert!(conflict(&state, &none).to_string().contains("ovs_bridge_conf controller"));
}

/// Where the database says that connections are not tracked, rules for them are refused; it says so only if it is asked to.
#[test]
fn a_datapath_that_tracks_nothing_is_told() {
    let net = Guests::new(&[Some(50)]);
    let a = &net.all[0];
    let state = desired(a, guard(a, GROUP, &rules("22")));
    assert!(net.observe(&state).tracking.is_empty());
    let create = ["--", "--id=@new", "create", "Datapath", "datapath_version=0"];
    let set = ["--", "set", "Open_vSwitch", ".", "datapaths:netdev=@new"];
    net.switch.tool("ovs-vsctl", &[&create[..], &set].concat());
    until("the switch says what it can do", || net.observe(&state).tracking.get("netdev") == Some(&true));
    let mut observed = net.observe(&state);
    observed.tracking.insert("netdev".to_owned(), false);
    let conflict = difference(&state, &observed, &Surroundings::default()).unwrap_err().to_string();
    assert!(
        conflict.contains("NIC 0") && conflict.contains("netdev") && conflict.contains("br0"),
        "{conflict}"
    );
    // What needs no connections is not refused.
    let filters = guard(a, "<FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>", "");
    assert!(difference(&desired(a, filters), &observed, &Surroundings::default()).is_ok());
}

/// Somebody was first: nothing is done, and the next look finds what to do.
#[test]
fn a_race_is_seen() {
    let net = Guests::new(&[Some(50)]);
    let a = Guest::device(7, Some(50));
    let state = desired(&a, guard(&a, GROUP, &rules("22")));
    let found = difference(&state, &net.observe(&state), &Surroundings::default()).unwrap();
    net.plug(&a);
    let error = net.apply(&found.changes[0]).unwrap_err();
    assert!(error.is_stale(), "{error}");
    assert_eq!(net.switch.tool("ovs-vsctl", &["get", "port", &a.tap, "trunks"]), "[]");
    net.bring(&state);
    let b = &net.all[0];
    until("they find each other", || b.udp(&a, 50));
    assert!(!b.udp(&a, 51));
}

/// Whoever gets a number next knows nothing of the connections that its last owner had.
#[test]
fn connections_go_with_their_guest() {
    let net = Guests::new(&[Some(50), Some(50), Some(50)]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    for guest in [a, c] {
        net.bring(&desired(guest, guard(guest, GROUP, &rules("22"))));
    }
    until("they find each other", || b.tcp(a, 22) && b.tcp(c, 22));
    let known = |guest: &Guest| {
        let zone = format!("zone={}", guest.port);
        net.switch.tool("ovs-appctl", &["dpctl/dump-conntrack", &zone]).lines().count()
    };
    assert!(known(a) > 0 && known(c) > 0);
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &a.tap]);
    net.take_away(&desired(a, guard(a, "", "")));
    assert_eq!(known(a), 0);
    assert!(known(c) > 0);
}

/// Somebody who had the number left flows that would let more pass.
#[test]
fn a_number_that_was_another_guests_brings_nothing_of_it() {
    let net = Guests::new(&[Some(50)]);
    let b = &net.all[0];
    let old = Guest::device(8, Some(50));
    net.bring(&desired(&old, guard(&old, GROUP, &rules("80"))));
    net.plug(&old);
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &old.tap]);
    let mut a = Guest::device(7, Some(50));
    a.port = old.port;
    net.bring(&desired(&a, guard(&a, GROUP, &rules("22"))));
    net.plug(&a);
    until("they find each other", || b.tcp(&a, 22));
    assert!(!b.tcp(&a, 80));
    let flows = net.switch.tool("ovs-ofctl", &["--no-stats", "dump-flows", "br0"]);
    let stale = flows.lines().filter(|line| line.contains("cookie=0xca0000000080000")).count();
    assert_eq!(stale, 1, "the one about its own address: {flows}");
}

#[test]
fn a_guest_is_announced_as_if_by_itself() {
    let net = Guests::new(&[Some(50), Some(50), Some(60), Some(50)]);
    let [a, b, c, d] = [&net.all[0], &net.all[1], &net.all[2], &net.all[3]];
    for guest in [a, d] {
        net.bring(&desired(guest, guard(guest, GROUP, &rules("22"))));
    }
    net.switch.tool("ovs-appctl", &["fdb/flush", "br0"]);
    let mark = b"it has arrived, says somebody for it";
    let frame = common::wire::frame([0xff; 6], a.mac, &[], 0x8035, mark);
    let ears = [b, c, d].map(Guest::listens);
    net.ovs().announce("br0", a.port, &[frame]).unwrap();
    assert_eq!(ears.map(|ear| ear.heard(mark)), [1, 0, 1]);
    let known = net.switch.tool("ovs-appctl", &["fdb/show", "br0"]);
    assert!(known.contains(&a.mac.to_string()), "{known}");
    // Not in another's name.
    let frame = common::wire::frame([0xff; 6], c.mac, &[], 0x8035, mark);
    let ear = b.listens();
    net.ovs().announce("br0", a.port, &[frame]).unwrap();
    assert_eq!(ear.heard(mark), 0);
    // A port that is not there says nothing.
    net.ovs().announce("br0", 0x5000, &[vec![0; 60]]).unwrap();
}

/// What there is of guests, whoever they are.
#[test]
fn a_census_counts_who_is_there_and_what_is_left() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let gone = Guest::device(7, Some(50));
    for guest in [a, &gone] {
        net.bring(&desired(guest, guard(guest, GROUP, &rules("22"))));
    }
    net.bring(&desired(b, guard(b, "", "")));
    net.switch.tool("ovs-vsctl", &["del-port", "br0", &gone.tap]);
    let census = net.ovs().census().unwrap();
    let found = |guest: &Guest| {
        let found = &census[&("br0".to_owned(), VmId(guest.number), 0)];
        (found.port.clone(), found.plugged, found.flows)
    };
    assert_eq!(census.len(), 3);
    assert_eq!(found(a), (Some(a.tap.clone()), true, true));
    assert_eq!(found(b), (Some(b.tap.clone()), true, false));
    assert_eq!(found(&gone), (None, false, true));
    net.take_away(&desired(&gone, guard(&gone, "", "")));
    assert_eq!(net.ovs().census().unwrap().len(), 2);
}

#[test]
fn a_switch_that_does_not_act_is_told() {
    let mut net = Guests::new(&[Some(50)]);
    let a = Guest::device(7, Some(50));
    let state = desired(&a, guard(&a, GROUP, &rules("22")));
    net.switch.kill_switch();
    let found = difference(&state, &net.observe(&state), &Surroundings::default()).unwrap();
    let places = Places { database: net.switch.database(), run: net.switch.dir().to_owned() };
    let begun = Instant::now();
    let mut ovs = Ovs::open(&places, begun + Duration::from_millis(200)).unwrap();
    let error = ovs.apply(&found.changes[0]).unwrap_err();
    assert!(matches!(error, OvsError::NotRunning) && begun.elapsed() < Duration::from_secs(5), "{error}");
    let error = net.apply(&found.changes[1]).unwrap_err().to_string();
    assert!(error.starts_with("bridge br0 can't be reached at "), "{error}");
    // It can be taken away all the same.
    net.take_away(&state);
    assert!(!net.switch.tool("ovs-vsctl", &["--no-wait", "list-ports", "br0"]).contains(&a.tap));
    net.switch.start_switch();
    net.bring(&state);
}

#[test]
fn rows_are_as_vlans_are() {
    let net = Guests::new(&[]);
    let a = Guest::device(7, None);
    let mut state = desired(&a, guard(&a, "", ""));
    let columns = ["vlan_mode", "tag", "trunks", "cvlans", "protected", "other_config"];
    let row = |state: &_| {
        net.bring(state);
        columns.map(|column| net.switch.tool("ovs-vsctl", &["get", "port", &a.tap, column])).join(" ")
    };
    for (vlans, text) in [
        (Vlans::Access(50), "access 50 [] [] false {}"),
        (Vlans::Trunk { untagged: Some(50), tagged: None }, "native-untagged 50 [] [] false {}"),
        (Vlans::Trunk { untagged: None, tagged: Some([5, 6].into()) }, "trunk [] [5, 6] [] false {}"),
        (Vlans::Trunk { untagged: None, tagged: Some([].into()) }, "trunk [] [4095] [] false {}"),
        (
            Vlans::Tunnel { outer: 50, inner: [5, 6].into(), ethertype: "802.1ad".to_owned() },
            "dot1q-tunnel 50 [] [5, 6] false {qinq-ethtype=\"802.1ad\"}",
        ),
        (Vlans::Access(0), "access 0 [] [] false {}"),
    ] {
        state.seats[0].vlans = vlans;
        assert_eq!(row(&state), text);
    }
    assert_eq!(
        net.switch.tool("ovs-vsctl", &["get", "Open_vSwitch", ".", "other_config:vlan-limit"]),
        "\"2\""
    );
    state.guards = vec![guard(&a, GROUP, "")];
    assert_eq!(row(&state), "trunk [] [4095] [] true {}");
    let socket = "/var/run/one/vhost-socks/one-7-0";
    state.seats[0].socket = Some(socket.into());
    net.bring(&state);
    let get = |column: &str| net.switch.tool("ovs-vsctl", &["get", "interface", &a.tap, column]);
    assert_eq!(get("type"), "dpdkvhostuserclient");
    assert_eq!(get("options:vhost-server-path"), format!("\"{socket}\""));
}
