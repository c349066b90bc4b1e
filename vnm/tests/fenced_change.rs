//! Changes of guards on Linux bridges: nothing wrong passes meanwhile, and nothing of others is touched.

#![cfg(test)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command as Program;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_core::names::{LinkName, VmId};
use causeway_vnm::fabric::firewall::change::{Chain, Command, Family};
use causeway_vnm::fabric::firewall::{
    Fence, FirewallError, Nft, Observed, Scope, difference, probe, removal,
};
use common::bridged::{Bridged, GROUP, apply, apply_once, enter, fence, nft, observe, rule};
use common::ip;

fn run(words: &str) -> String {
    let mut parts = words.split(' ');
    let out = Program::new(parts.next().unwrap()).args(parts).output().unwrap();
    assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn ruleset() -> String {
    run("nft -a list ruleset")
}

/// A guard without a guest.
fn of_vm(vm: u32, rules: &str) -> Fence {
    let addresses = format!("<IP>10.0.0.{vm}</IP><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>");
    fence(vm, "02:00:0a:00:00:01".parse().unwrap(), GROUP, rules, &addresses)
}

fn tap(vm: u32) -> LinkName {
    format!("one-{vm}-0").parse().unwrap()
}

fn look(vms: &[u32]) -> Observed {
    observe(&Scope { taps: vms.iter().copied().map(tap).collect(), bridges: ["br0".parse().unwrap()].into() })
}

fn remove(vms: &[u32]) {
    let taps: BTreeSet<LinkName> = vms.iter().copied().map(tap).collect();
    let scope = Scope::of(&[], &taps);
    nft().apply(&removal(&taps, &observe(&scope)).unwrap()).unwrap();
    assert_eq!(removal(&taps, &observe(&scope)), None);
}

#[test]
fn while_rules_change_nothing_wrong_passes_and_connections_live_on() {
    const CHANGES: u32 = 60;
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let with = |more: &str| {
        let rules =
            [rule("INBOUND", "UDP", "<RANGE>50</RANGE>"), rule("OUTBOUND", "TCP", ""), more.to_owned()];
        net.fence(a, GROUP, &rules.concat())
    };
    apply(&[&with(&rule("INBOUND", "TCP", "<RANGE>22</RANGE>"))]);
    let listener = a.within(|| TcpListener::bind((a.four, 22)).unwrap());
    let mut near = b.within(|| TcpStream::connect((a.four, 22)).unwrap());
    let (mut far, _) = listener.accept().unwrap();
    let [good, bad] = [50, 51].map(|port| a.within(|| UdpSocket::bind((a.four, port)).unwrap()));
    for socket in [&good, &bad] {
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    let sender = b.within(|| UdpSocket::bind((b.four, 0)).unwrap());
    let end = AtomicBool::new(false);
    let (sent, heard, wrong) = std::thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let mut sent = 0_u32;
            while !end.load(Ordering::Relaxed) {
                for port in [50, 51] {
                    let _ = sender.send_to(b"frame", (a.four, port));
                }
                sent += 1;
                // A socket's queue is not to be what loses one.
                std::thread::sleep(Duration::from_micros(200));
            }
            sent
        });
        let count = |socket: UdpSocket| {
            let mut heard = 0_u32;
            let mut buffer = [0; 16];
            while socket.recv(&mut buffer).is_ok() {
                heard += 1;
            }
            heard
        };
        let hears = scope.spawn(move || count(good));
        let mishears = scope.spawn(move || count(bad));
        for round in 0..CHANGES {
            let port = 1000 + round;
            let other = rule("INBOUND", "TCP", &format!("<RANGE>{port}</RANGE>"));
            assert!(apply_once(&[&with(&other)]).is_some());
            near.write_all(b"?").unwrap();
            let mut byte = [0];
            far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            far.read_exact(&mut byte).unwrap();
        }
        end.store(true, Ordering::Relaxed);
        (sends.join().unwrap(), hears.join().unwrap(), mishears.join().unwrap())
    });
    assert_eq!(wrong, 0, "of {sent}");
    assert_eq!(heard, sent, "none of what may pass is lost");
    assert!(sent > CHANGES);
    // The connection was let begin by a rule that is gone.
    drop((listener, near, far));
    assert!(!b.tcp(a, 22));
}

#[test]
fn a_batch_that_is_refused_leaves_the_old_rules() {
    enter();
    apply(&[&of_vm(7, &rule("INBOUND", "TCP", ""))]);
    let before = ruleset();
    let wanted = [of_vm(7, &rule("INBOUND", "UDP", ""))];
    let mut change = difference(&wanted, &BTreeSet::new(), &look(&[7])).unwrap().unwrap();
    let nowhere = Chain { family: Family::Inet, name: "nowhere".to_owned() };
    change.commands.push(Command::AddRule { chain: nowhere, comment: String::new(), expr: Vec::new() });
    let error = nft().apply(&change).unwrap_err();
    assert!(matches!(error, FirewallError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("guard one-7-0"), "{error}");
    assert_eq!(ruleset(), before);
}

#[test]
fn what_is_removed_leaves_nothing_and_touches_nothing_of_others() {
    enter();
    run("nft add table inet operators");
    let operators = ruleset();
    let rules = rule("INBOUND", "TCP", "<RANGE>22</RANGE>");
    apply(&[&of_vm(7, &rules)]);
    let of_seven = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains("VM 7 NIC 0 #")).map(str::to_owned).collect()
    };
    let before = of_seven(&ruleset());
    assert!(before.len() > 10, "{before:#?}");
    let other = Fence { bridge: "br1".parse().unwrap(), ..of_vm(8, &rules) };
    apply(&[&other, &of_vm(9, "")]);
    // With the numbers that the kernel gave: nobody has made them anew.
    assert_eq!(of_seven(&ruleset()), before);
    let owners: Vec<String> = look(&[]).owners().into_keys().collect();
    assert_eq!(owners, ["one-7-0", "one-8-0", "one-9-0"]);
    remove(&[8]);
    assert_eq!(of_seven(&ruleset()), before);
    let left = ruleset();
    assert!(!left.contains("VM 8 ") && !left.contains("br1") && !left.contains("one-8-0"), "{left}");
    remove(&[7, 9]);
    assert_eq!(ruleset(), operators);
}

#[test]
fn what_somebody_has_put_into_our_table_stays() {
    enter();
    let rules = rule("INBOUND", "TCP", "<RANGE>22</RANGE>");
    for theirs in [
        "chain inet causeway mine { type filter hook forward priority 7; }",
        "set inet causeway blocked { type ipv4_addr; }",
        "counter inet causeway seen",
        "chain bridge causeway one-way",
    ] {
        apply(&[&of_vm(7, &rules)]);
        run(&format!("nft add {theirs}"));
        if theirs.contains(" mine ") {
            // It leads to one of ours.
            run("nft add rule inet causeway mine meta mark 5 goto passed");
        }
        remove(&[7]);
        let left = ruleset();
        let name = theirs.split(' ').nth(3).unwrap();
        let (kept, gone) = if theirs.contains(" bridge ") { ("bridge", "inet") } else { ("inet", "bridge") };
        assert!(left.contains(name) && left.contains(&format!("table {kept} causeway")), "{left}");
        assert!(!left.contains(&format!("table {gone} causeway")) && !left.contains("one-7-0"), "{left}");
        // Guards come and go beside it, and once it is gone, nothing stays.
        apply(&[&of_vm(8, &rules)]);
        assert!(ruleset().contains(name));
        let kind = theirs.split(' ').next().unwrap();
        if theirs.contains(" mine ") {
            run("nft flush chain inet causeway mine");
        }
        run(&format!("nft delete {kind} {kept} causeway {name}"));
        remove(&[8]);
        assert_eq!(ruleset(), "");
    }
}

#[test]
fn whatever_bears_the_devices_name_is_replaced() {
    enter();
    let old = of_vm(7, &rule("INBOUND", "TCP", ""));
    apply(&[&old]);
    let mut new = Fence { vm: VmId(9), number: 0x5000_u16.try_into().unwrap(), ..old.clone() };
    new.bridge = "br9".parse().unwrap();
    apply(&[&new]);
    let text = ruleset();
    assert!(!text.contains("VM 7") && !text.contains("br0") && text.contains("VM 9 NIC 0"), "{text}");
    // Another guest's number that a dead one had.
    apply(&[&Fence { number: new.number, ..of_vm(8, "") }]);
    assert!(ruleset().contains("VM 8 NIC 0 bridge br0"));
    // A NIC whose groups are open again, and one that has no guard at all.
    let filters = Fence {
        guard: of_vm(8, &format!("{}{}", rule("INBOUND", "ALL", ""), rule("OUTBOUND", "ALL", ""))).guard,
        ..of_vm(8, "")
    };
    apply(&[&filters]);
    assert!(!ruleset().contains("bridge br0\" : goto"));
    let taps: BTreeSet<LinkName> = [tap(8), tap(7)].into();
    let all = [rule("INBOUND", "ALL", ""), rule("OUTBOUND", "ALL", "")].concat();
    let mut nothing = of_vm(8, &all);
    nothing.guard.senders = None;
    let open = difference(&[nothing], &taps, &look(&[7, 8])).unwrap().unwrap();
    assert_eq!(open.to_string(), "remove the rules of one-7-0 one-8-0");
    nft().apply(&open).unwrap();
    assert_eq!(ruleset(), "");
}

#[test]
fn what_somebody_has_changed_is_brought_back() {
    enter();
    let fence = of_vm(7, &rule("INBOUND", "TCP", ""));
    let made = apply(&[&fence]).unwrap();
    let whole = run("nft list ruleset");
    let last = |chain: &str| {
        let listed = run(&format!("nft -a list chain {chain}"));
        let handle = listed.lines().filter_map(|line| line.split_once("# handle ")).next_back().unwrap().1;
        run(&format!("nft delete rule {chain} handle {handle}"));
    };
    for chain in [
        "inet causeway one-7-0-i",
        "bridge causeway one-7-0-o",
        "bridge causeway checked",
        "inet causeway zone-16149",
    ] {
        last(chain);
        apply(&[&fence]).unwrap();
        assert_eq!(run("nft list ruleset"), whole, "{chain}");
    }
    run("nft add rule inet causeway one-7-0-i accept");
    apply(&[&fence]).unwrap();
    run("nft delete element bridge causeway from { one-7-0 }");
    apply(&[&fence]).unwrap();
    assert_eq!(run("nft list ruleset"), whole);
    run("nft flush ruleset");
    assert_eq!(apply(&[&fence]).unwrap(), made);
}

#[test]
fn rules_say_whose_they_are() {
    enter();
    let fence = of_vm(7, &rule("INBOUND", "TCP", ""));
    apply(&[&fence]);
    let known =
        Fence { deploy: Some("6f1ccb5c-9f0b-4f0e-8a6e-1f9f5c1b7a11".parse().unwrap()), ..fence.clone() };
    apply(&[&known]);
    // Who does not know the guest leaves it as it is.
    assert_eq!(apply(&[&fence]), None);
    let text = ruleset();
    for chain in ["chain one-7-0-i {", "chain one-7-0-o {"] {
        let parts = text.split(chain).skip(1).map(|part| part.split("\n\t}").next().unwrap());
        let rules: Vec<&str> = parts.flat_map(|part| part.lines().skip(1)).collect();
        assert!(rules.len() > 5);
        for rule in rules {
            assert!(
                rule.contains("comment \"VM 7 NIC 0 deploy 6f1ccb5c-9f0b-4f0e-8a6e-1f9f5c1b7a11 #"),
                "{rule}"
            );
        }
    }
    let hosts = Fence { hosts: ["02:00:00:00:00:01".parse().unwrap()].into(), ..fence };
    assert!(apply(&[&hosts]).unwrap().to_string().starts_with("set what all guards share"));
}

#[test]
fn the_stock_drivers_chains_go_with_the_vm() {
    enter();
    assert_eq!(nft().stock(VmId(7), [0, 1]).unwrap().removal(), None, "no table is none");
    for iptables in ["iptables-nft", "ip6tables-nft"] {
        let ipt = |words: &str| run(&format!("{iptables} {words}"));
        ipt("-N opennebula");
        ipt("-A opennebula -j ACCEPT");
        ipt("-A FORWARD -m physdev --physdev-is-bridged -j opennebula");
        for (vm, nic) in [(7, 0), (7, 1), (70, 0)] {
            for way in ["i", "o"] {
                ipt(&format!("-N one-{vm}-{nic}-{way}"));
                ipt(&format!("-A one-{vm}-{nic}-{way} -p tcp -m multiport --dports 22,80:90 -j RETURN"));
                ipt(&format!("-A one-{vm}-{nic}-{way} -j DROP"));
            }
            let tap = format!("one-{vm}-{nic}");
            ipt(&format!("-I opennebula -m physdev --physdev-is-bridged --physdev-out {tap} -j {tap}-i"));
            ipt(&format!("-I opennebula -m physdev --physdev-is-bridged --physdev-in {tap} -j {tap}-o"));
            ipt(&format!("-I INPUT -m physdev --physdev-in {tap} -j {tap}-o"));
        }
    }
    let kept = |iptables: &str| -> String {
        let saved = run(&format!("{iptables}-save"));
        let rules = saved.lines().filter(|line| line.starts_with(['-', ':']) && !line.contains("one-7-"));
        // With counters of frames, which there are none of.
        rules.map(|line| format!("{line}\n")).collect()
    };
    let before = ["iptables-nft", "ip6tables-nft"].map(kept);
    let foreign = nft().foreign().unwrap();
    assert_eq!(foreign.len(), 2, "{foreign:?}");
    assert_eq!(foreign[0].to_string(), "chain FORWARD of table ip filter (forward) has 6 rules that drop");

    let change = nft().stock(VmId(7), [0, 1]).unwrap().removal().unwrap();
    assert_eq!(change.to_string(), "remove 8 chains of the stock driver");
    nft().apply(&change).unwrap();
    assert_eq!(nft().stock(VmId(7), [0, 1]).unwrap().removal(), None);
    for (iptables, before) in ["iptables-nft", "ip6tables-nft"].into_iter().zip(before) {
        assert!(!run(&format!("{iptables}-save")).contains("one-7-"));
        assert_eq!(kept(iptables), before);
        assert!(before.contains("one-70-0-i"));
    }
}

#[test]
fn a_program_that_does_not_end_is_killed() {
    enter();
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("nft");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let change = difference(&[of_vm(7, "")], &BTreeSet::new(), &Observed::default()).unwrap().unwrap();
    let begin = Instant::now();
    let mut slow = Nft::new(program, begin + Duration::from_millis(100));
    assert!(matches!(slow.apply(&change), Err(FirewallError::Deadline { .. })));
    assert!(begin.elapsed() < Duration::from_secs(10));
    let mut absent = Nft::new("/nowhere/nft".into(), begin + Duration::from_secs(60));
    assert_eq!(absent.apply(&change).unwrap_err().to_string(), "start /nowhere/nft");
}

#[test]
fn whenever_it_is_killed_all_rules_stand_or_none_of_the_new_ones() {
    enter();
    let guards =
        [of_vm(7, &rule("INBOUND", "TCP", "")), of_vm(7, &rule("INBOUND", "UDP", "<RANGE>1:9,20</RANGE>"))];
    apply(&[&guards[0]]);
    let stands = |guard: &Fence| {
        difference(std::slice::from_ref(guard), &BTreeSet::new(), &look(&[7])).unwrap().is_none()
    };
    let mut standing = 0;
    let mut killed = 0;
    for round in 0..60 {
        let wanted = &guards[1 - standing];
        let change =
            difference(std::slice::from_ref(wanted), &BTreeSet::new(), &look(&[7])).unwrap().unwrap();
        let soon = Instant::now() + Duration::from_micros(200 * round);
        match Nft::new("/usr/sbin/nft".into(), soon).apply(&change) {
            Ok(()) => assert!(stands(wanted)),
            Err(FirewallError::Deadline { .. }) => killed += 1,
            Err(error) => panic!("{error}"),
        }
        match stands(wanted) {
            true => standing = 1 - standing,
            false => assert!(stands(&guards[standing])),
        }
    }
    assert!(killed > 0);
    apply(&[&guards[1 - standing]]);
}

#[test]
fn connections_of_bridged_frames_can_be_known_here() {
    enter();
    ip("link add br0 type bridge");
    probe::require(&mut nft()).unwrap();
    assert_eq!(ruleset(), "", "looking changes nothing");
}
