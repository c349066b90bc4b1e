//! Guests that ask for protection, by the actions that a front-end asks for: guarded from before they come until they are gone.

#![cfg(test)]

mod common;

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use causeway_core::names::VmId;
use causeway_vnm::asked::Moment;
use causeway_vnm::root::{Outcome, Request, Verb, server};
use common::bridged::{FILTERS, GROUP, enter, guest, rule};
use common::guests::Guest;
use common::switch::until;
use common::{Host, dies_before, document, ip, nic, request};

/// A host, in a network where guests can be.
fn host() -> Host {
    enter();
    Host::here()
}

/// VM `number` in a network of `fw`, with the address of the `last` guest there.
fn vm(number: u32, last: u8, more: &str, rules: &str) -> String {
    let addresses =
        format!("<MAC>02:00:0a:00:00:{last:02x}</MAC><IP>10.0.0.{last}</IP><IP6>fd00::{last:x}</IP6>");
    let place = "<VN_MAD>fw</VN_MAD><PHYDEV/><BRIDGE>br0</BRIDGE>";
    let alias = rules.split_once("<TEMPLATE><NIC_ALIAS>").is_some();
    assert!(!alias || rules.contains("PARENT_ID"));
    document(number, &format!("{}{rules}", nic(number, 0, 0, &format!("{more}{addresses}{place}"))))
}

fn comes(host: &Host, number: u32, last: u8, document: &str) -> Guest {
    host.done(Verb::Pre, document);
    let guest = guest("br0", number, last);
    host.done(Verb::Post, document);
    guest
}

/// A port is not heard at once after it came.
fn hears(what: impl Fn() -> bool) -> bool {
    until("the port is up", what);
    true
}

fn ruleset() -> String {
    let out = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_guest_is_guarded_from_before_it_comes_until_it_is_gone() {
    let host = host();
    let all = [rule("INBOUND", "ALL", ""), rule("OUTBOUND", "ALL", "")].concat();
    let b = comes(&host, 2, 2, &vm(2, 2, GROUP, &all));
    assert_eq!(ruleset(), "", "who lets everything pass needs no rules");
    let inbound = rule("INBOUND", "TCP", "<RANGE>22</RANGE>");
    let guarded = vm(1, 1, GROUP, &inbound);
    host.done(Verb::Pre, &guarded);
    // Its device is there, and nobody has called `post`.
    let a = guest("br0", 1, 1);
    assert!(hears(|| b.tcp(&a, 22)) && b.tcp6(&a, 22) && !b.tcp(&a, 23) && !b.ping(a.four) && !a.tcp(&b, 22));
    assert_eq!(
        host.done(Verb::Post, &guarded),
        [""; 0],
        "the bridge has heard the guest, and the rules are those of before"
    );
    assert!(b.tcp(&a, 22) && !b.tcp(&a, 23));

    // Its groups have changed; what they let begin until now is over, what has begun goes on.
    let other = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>23</RANGE>"));
    assert_eq!(host.done(Verb::UpdateSg, &other).len(), 1);
    assert_eq!(host.done(Verb::UpdateSg, &other), [""; 0]);
    assert!(!b.tcp(&a, 22) && b.tcp(&a, 23));
    host.done(Verb::UpdateSg, &vm(1, 1, GROUP, &all));
    assert!(b.tcp(&a, 22) && b.ping(a.four) && a.tcp(&b, 80));
    assert_eq!(ruleset(), "");
    host.done(Verb::UpdateSg, &other);

    // A guest that is still there stays guarded, whoever says that it has left.
    host.done(Verb::Clean, &other);
    assert!(!b.tcp(&a, 22) && b.tcp(&a, 23));
    for number in [1, 2] {
        ip(&format!("link del one-{number}-0"));
    }
    host.done(Verb::Clean, &other);
    host.done(Verb::Clean, &vm(2, 2, GROUP, &all));
    assert_eq!((ruleset(), host.links()), (String::new(), vec![]));
    host.assert_no_trace();
}

/// A clean is under way for long, and the VM's next guest is prepared meanwhile.
#[test]
fn a_late_clean_leaves_what_a_newer_pre_has_made() {
    let host = host();
    let document = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    let asked = |verb, at| {
        let response = server::answer(&host.places, &Request { asked: Some(at), ..request(verb, &document) });
        assert_eq!(response.outcome, Outcome::Done, "{verb:?}");
        response.notes
    };
    asked(Verb::Pre, Moment::now());
    let late = Moment::now();
    asked(Verb::Clean, Moment::now());
    asked(Verb::Pre, Moment::now());
    let guarded = ruleset();
    assert!(guarded.contains("one-1-0"));
    assert_eq!(
        asked(Verb::Clean, late),
        ["NIC 0 stays: it was prepared for another guest after this clean was asked for"]
    );
    assert_eq!(ruleset(), guarded);
    assert!(host.reservation(VmId(1)).is_some());
    // A deploy that failed is taken back, and nobody has to say when.
    asked(Verb::Clean, Moment::now());
    assert_eq!(ruleset(), "");
    asked(Verb::Pre, Moment::now());
    host.done(Verb::Clean, &document);
    assert_eq!(ruleset(), "");
    // The clock of the host began anew.
    asked(Verb::Pre, Moment::now());
    let mut reserved = host.reservation(VmId(1)).unwrap();
    reserved["prepared"]["0"]["boot"] = "before".into();
    std::fs::write(host.places.reservations.join("1.json"), reserved.to_string()).unwrap();
    asked(Verb::Clean, late);
    assert_eq!(ruleset(), "");
    host.assert_no_trace();
}

#[test]
fn an_alias_may_send_as_long_as_it_is_there() {
    let host = host();
    let alias = |attach: &str| {
        format!(
            "<TEMPLATE><NIC_ALIAS><NIC_ID>1</NIC_ID><PARENT_ID>0</PARENT_ID><VN_MAD>fw</VN_MAD><IP>10.0.0.77</IP>{attach}\
             </NIC_ALIAS></TEMPLATE>"
        )
    };
    let attach = "<ATTACH>YES</ATTACH>";
    let b = comes(&host, 2, 2, &vm(2, 2, "", ""));
    let a = comes(&host, 1, 1, &vm(1, 1, FILTERS, ""));
    ip("-n g1 addr add 10.0.0.77/24 dev eth0");
    let as_alias = || a.run("ping", &["-c", "1", "-W", "1", "-I", "10.0.0.77", &b.four.to_string()]);
    assert!(hears(|| a.ping(b.four)) && !as_alias());
    for verb in [Verb::Pre, Verb::Post] {
        host.done(verb, &vm(1, 1, FILTERS, &alias(attach)));
    }
    assert!(as_alias() && a.ping(b.four));
    host.done(Verb::Clean, &vm(1, 1, FILTERS, &alias(attach)));
    assert!(!as_alias() && a.ping(b.four));
}

#[test]
fn a_death_leaves_nobody_open() {
    let before = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    let after = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>23</RANGE>"));
    for verb in [Verb::Pre, Verb::Post, Verb::UpdateSg] {
        for step in 0..4 {
            std::thread::scope(|scope| {
                let tried = || {
                    let host = host();
                    let b = comes(&host, 2, 2, &vm(2, 2, "", ""));
                    let a = comes(&host, 1, 1, &before);
                    hears(|| b.tcp(&a, 22));
                    let died = dies_before(&host, &request(verb, &after), step);
                    let (old, new) = (b.tcp(&a, 22), b.tcp(&a, 23));
                    assert!(old != new && !b.tcp(&a, 24), "{verb:?} died before step {step}: {old} {new}");
                    host.done(verb, &after);
                    assert!(!b.tcp(&a, 22) && b.tcp(&a, 23), "{verb:?} died before step {step}");
                    died
                };
                scope.spawn(tried).join().unwrap()
            });
        }
    }
}

#[test]
fn what_can_not_be_guarded_is_not_prepared() {
    let mut host = host();
    host.places.nft = "/usr/sbin/no-such-program".into();
    let guarded = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    let (text, _) = host.taken_back(Verb::Pre, &guarded);
    assert!(text.contains("no-such-program"), "{text}");
    assert_eq!(host.links(), [""; 0]);
    // Who needs no guard comes all the same.
    assert_eq!(host.run(Verb::Pre, &vm(2, 2, "", "")).outcome, Outcome::Done);
}

#[test]
fn a_bridge_of_the_operators_hands_its_frames_over_or_is_refused() {
    let host = host();
    ip("link add br0 type bridge");
    ip("link set br0 up");
    host.list("up0\nbr0\n");
    let guarded = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    let text = host.refused(Verb::Pre, &guarded);
    assert!(text.contains("br0 does not hand its frames to the firewall"), "{text}");
    ip("link set br0 type bridge nf_call_iptables 1 nf_call_ip6tables 1");
    let a = comes(&host, 1, 1, &guarded);
    let b = comes(&host, 2, 2, &vm(2, 2, "", ""));
    assert!(hears(|| b.tcp(&a, 22)) && !b.tcp(&a, 23));
}

/// Whether a connection from here to there comes about.
fn connects(from: impl FnOnce() -> std::io::Result<TcpStream>) -> bool {
    from().is_ok()
}

#[test]
fn the_hosts_own_connections_go_on_beside_a_guarded_guest() {
    let host = host();
    let b = comes(&host, 2, 2, &vm(2, 2, "", ""));
    ip("addr add 10.0.0.254/24 dev br0");
    let a = comes(&host, 1, 1, &vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>")));
    hears(|| b.tcp(&a, 22));
    let soon = Duration::from_millis(500);
    let here = TcpListener::bind("10.0.0.254:8080").unwrap();
    let at = here.local_addr().unwrap();
    assert!(connects(|| b.within(|| TcpStream::connect_timeout(&at, soon))), "an open guest to its host");
    assert!(!connects(|| a.within(|| TcpStream::connect_timeout(&at, soon))), "its group lets nothing out");
    let at = std::net::SocketAddr::from((a.four, 22));
    let _there = a.within(|| TcpListener::bind(at).unwrap());
    assert!(connects(|| TcpStream::connect_timeout(&at, soon)), "the host to a port that is let in");
}

#[test]
fn a_bridge_whose_name_means_many_is_refused_before_it_is_made() {
    let host = host();
    let guarded = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>")).replace(">br0<", ">br*<");
    let text = host.refused(Verb::Pre, &guarded);
    assert!(text.starts_with("NIC 0: device br* can have no guard"), "{text}");
    host.done(Verb::Pre, &vm(2, 2, "", "").replace(">br0<", ">br*<"));
    assert_eq!(host.links(), ["br*"], "who needs no guard may call it so");
}

/// Its guest runs, and is guarded where it is.
#[test]
fn a_device_that_is_plugged_in_elsewhere_keeps_its_guard() {
    let host = host();
    let guarded = vm(1, 1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    let a = comes(&host, 1, 1, &guarded);
    let text = host.refused(Verb::Pre, &guarded.replace(">br0<", ">br9<"));
    assert_eq!(text, "device one-1-0 of NIC 0 is plugged in, and not into br9");
    ip("link add other type bridge");
    ip(&format!("link set {} master other", a.tap));
    let response = host.run(Verb::Clean, &guarded);
    assert!(response.notes.iter().any(|note| note.contains("one-1-0 is still plugged in")), "{response:?}");
    assert!(ruleset().contains("one-1-0-o"));
}

#[test]
fn nobody_else_says_whether_a_bridge_is_filtered() {
    let host = host();
    let more = "<BRIDGE_CONF>nf_call_iptables=0</BRIDGE_CONF>";
    let text = host.refused(Verb::Pre, &vm(2, 2, more, ""));
    assert!(text.contains("nf_call_iptables"), "{text}");
}
