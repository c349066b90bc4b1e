//! Services of `:tproxy:` (contract VNM 4.11) on the real kernel: a guest reaches them, the question for their address does not leave
//! the host, and nothing of them is left behind. What the stock program does in the namespace, a thread of the test does.

#![cfg(test)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use causeway_core::document::VmDocument;
use causeway_core::names::Mac;
use causeway_core::settings::NetworkConf;
use causeway_vnm::desired::services::{ADDRESS, Parts};
use causeway_vnm::desired::{self, Driver, Facts, Service, Settings};
use causeway_vnm::fabric::firewall::Nft;
use causeway_vnm::fabric::services::namespace;
use causeway_vnm::root::{Outcome, Reconcile, Request, Response, Verb, server};
use common::guests::Guest;
use common::{Host, assert_same, dies_before, document, ip, nic, request};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

const PORT: u16 = 5030;

/// A host whose namespaces have a directory of their own.
fn host() -> Host {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    std::fs::create_dir_all("/run/netns").unwrap();
    mount(Some("services"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    ip("link set lo up");
    Host::here()
}

fn service(port: u16, to: &str, networks: &[&str]) -> Service {
    Service {
        service_port: port,
        remote_addr: to.parse().unwrap(),
        remote_port: port + 1,
        networks: networks.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn settings() -> Settings {
    Settings { tproxy: vec![service(PORT, "10.77.0.1", &[])], ..Settings::default() }
}

/// A VM in network 3, on the bridge `net3`.
fn vm(id: u32, driver: &str) -> String {
    let more = format!("<VN_MAD>{driver}</VN_MAD><NETWORK_ID>3</NETWORK_ID><BRIDGE>net3</BRIDGE>");
    document(id, &nic(id, 0, 4, &more))
}

fn asked(verb: Verb, document: &str) -> Request {
    Request { settings: settings(), ..request(verb, document) }
}

fn run(host: &Host, verb: Verb, document: &str) -> Response {
    server::answer(&host.places, &asked(verb, document))
}

fn done(host: &Host, verb: Verb, document: &str) -> Vec<String> {
    let response = run(host, verb, document);
    assert_eq!(response.outcome, Outcome::Done, "{verb:?} {response:?}");
    response.changes
}

/// Everything that a bridge has for its services, as others see it.
fn seen() -> Vec<String> {
    let names =
        std::fs::read_dir("/run/netns").unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut out: Vec<String> = names.filter(|name| name.starts_with("one_tproxy")).collect();
    let links = ip("-br link");
    let outer = links.lines().filter_map(|line| line.split('@').next()).filter(|name| *name == "net3b");
    out.extend(outer.map(str::to_owned));
    let rules = nft(&["list", "tables"]);
    out.extend(rules.lines().filter(|line| line.contains("one_tproxy")).map(str::to_owned));
    out
}

const ALL: [&str; 4] = ["one_tproxy_net3", "net3b", "table bridge one_tproxy", "table ip one_tproxy"];

fn nft(words: &[&str]) -> String {
    let output = Command::new("nft").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Where the stock program is told to pass on to: it reads the map as `nft -j` prints it.
fn told(port: u16) -> SocketAddr {
    let said: Value =
        serde_json::from_str(&nft(&["-j", "list", "map", "ip", "one_tproxy", "ep_net3"])).unwrap();
    let map = said["nftables"].as_array().unwrap().iter().find_map(|it| it.get("map")).unwrap();
    let found = map["elem"].as_array().unwrap().iter().find(|it| it[0] == port).unwrap();
    let to = &found[1]["concat"];
    let address: Ipv4Addr = to[0].as_str().unwrap().parse().unwrap();
    (address, u16::try_from(to[1].as_u64().unwrap()).unwrap()).into()
}

/// Passes one connection on, as the stock program does: it is accepted in the namespace and goes out from the host.
fn passes_on_one() -> std::thread::JoinHandle<()> {
    let path = PathBuf::from("/run/netns/one_tproxy_net3");
    let inside = namespace::within(&path, || TcpListener::bind((ADDRESS, PORT)).unwrap()).unwrap();
    let to = told(PORT);
    std::thread::spawn(move || {
        let (mut guest, from) = inside.accept().unwrap();
        assert_eq!(from.ip(), Ipv4Addr::new(10, 0, 0, 7), "seen as itself");
        let mut service = TcpStream::connect(to).unwrap();
        let mut word = [0; 4];
        guest.read_exact(&mut word).unwrap();
        service.write_all(&word).unwrap();
        service.read_exact(&mut word).unwrap();
        guest.write_all(&word).unwrap();
    })
}

/// The other end of the uplink, as a machine that hears.
fn far() -> Guest {
    ip("netns add g9");
    ip("link set far0 netns g9 name eth0");
    ip("-n g9 link set eth0 up");
    let (four, six) = (Ipv4Addr::new(10, 0, 0, 9), "fd00::9".parse().unwrap());
    Guest { number: 9, tap: "eth0".to_owned(), port: 0, vlan: None, mac: Mac([0; 6]), four, six }
}

#[test]
fn a_guest_reaches_a_service_and_its_question_stays_on_the_host() {
    for driver in ["bridge", "fw"] {
        std::thread::spawn(move || {
            let host = host();
            let listener = TcpListener::bind("10.77.0.1:5031").unwrap();
            let changes = done(&host, Verb::Pre, &vm(7, driver));
            assert_eq!(
                changes[3..],
                [
                    "create network namespace one_tproxy_net3",
                    "create net3b in net3",
                    "set address and route of net3a",
                    "set services at 169.254.16.9 in net3: 5030 is 10.77.0.1:5031",
                ],
                "{changes:?}"
            );
            assert_eq!(seen(), ALL);
            let mut nft = Nft::new("/usr/sbin/nft".into(), Instant::now() + Duration::from_secs(10));
            assert_eq!(nft.foreign().unwrap(), [], "it is not foreign");
            let guest = Guest::device(7, None);
            ip("link set one-7-0 master net3 up");
            let post = done(&host, Verb::Post, &vm(7, driver));
            assert!(post.iter().all(|change| change.starts_with("set fdb")), "{post:?}");
            ip("-n g7 route add 169.254.16.9 dev eth0");
            let far = far();
            let ear = far.listens();
            let passes = passes_on_one();
            let asks = guest.within(|| {
                let timeout = Duration::from_secs(10);
                let mut stream = TcpStream::connect_timeout(&(ADDRESS, PORT).into(), timeout).unwrap();
                stream.set_read_timeout(Some(timeout)).unwrap();
                stream.write_all(b"ping").unwrap();
                stream
            });
            let (mut service, _) = listener.accept().unwrap();
            let mut word = [0; 4];
            service.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"ping");
            service.write_all(b"pong").unwrap();
            let mut stream = asks;
            stream.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"pong");
            passes.join().unwrap();
            // What it asks of others does leave.
            guest.within(|| {
                drop(TcpStream::connect_timeout(&"10.0.0.99:9".parse().unwrap(), Duration::from_millis(200)))
            });
            let frames = ear.frames();
            let questions =
                |of: [u8; 4]| frames.iter().filter(|it| it[12..14] == [8, 6] && it[38..42] == of).count();
            assert_eq!(questions(ADDRESS.octets()), 0);
            assert!(questions([10, 0, 0, 99]) > 0, "{frames:?}");
            ip("link del one-7-0");
            let gone = done(&host, Verb::Clean, &vm(7, driver));
            assert!(gone.contains(&"delete net3".to_owned()), "{gone:?}");
            assert_eq!(seen(), [""; 0]);
            host.assert_no_trace();
        })
        .join()
        .unwrap();
    }
}

#[test]
fn what_somebody_took_away_is_there_again_and_nothing_else_changes() {
    let host = host();
    done(&host, Verb::Pre, &vm(7, "vxlan"));
    assert_eq!(done(&host, Verb::Pre, &vm(7, "vxlan")), [""; 0]);
    type Harm = (&'static str, fn(), &'static [&'static str]);
    let whole = [
        "delete net3b",
        "create network namespace one_tproxy_net3",
        "create net3b in net3",
        "set address and route of net3a",
    ];
    let rules = "set services at 169.254.16.9 in net3: 5030 is 10.77.0.1:5031";
    let harms: [Harm; 8] = [
        (
            "its route",
            || drop(ip("-n one_tproxy_net3 route del default")),
            &["set address and route of net3a"],
        ),
        (
            "its address",
            || drop(ip("-n one_tproxy_net3 addr flush dev net3a")),
            &["set address and route of net3a"],
        ),
        (
            "the inner end is down",
            || drop(ip("-n one_tproxy_net3 link set net3a down")),
            &["set address and route of net3a"],
        ),
        ("the outer end is out", || drop(ip("link set net3b nomaster")), &["set net3b bridge net3 up"]),
        (
            "the pair",
            || drop(ip("link del net3b")),
            &["create net3b in net3", "set address and route of net3a"],
        ),
        ("the map", || drop(nft(&["flush", "map", "ip", "one_tproxy", "ep_net3"])), &["SET"]),
        ("the chain", || drop(nft(&["flush", "chain", "bridge", "one_tproxy", "ch_net3"])), &["SET"]),
        (
            "an element",
            || drop(nft(&["add", "element", "ip", "one_tproxy", "ep_net3", "{ 9 : 1.2.3.4 . 9 }"])),
            &["SET"],
        ),
    ];
    for (what, harm, mended) in harms {
        harm();
        let mended: Vec<&str> = mended.iter().map(|it| if *it == "SET" { rules } else { it }).collect();
        assert_eq!(done(&host, Verb::Pre, &vm(7, "vxlan")), mended, "{what}");
        assert_eq!(done(&host, Verb::Pre, &vm(7, "vxlan")), [""; 0], "{what}");
    }
    // After a restart of the firewall, or where somebody took the namespace's name.
    nft(&["flush", "ruleset"]);
    ip("netns del one_tproxy_net3");
    let ask = Reconcile { reconcile: "r-1".parse().unwrap(), settings: Settings::default(), dry_run: false };
    let response = server::reconcile(&host.places, &ask);
    assert_eq!(response.outcome, Outcome::Done, "{response:?}");
    let mended: Vec<String> =
        response.changes.into_iter().filter(|it| it.contains("net3") && !it.contains("guard")).collect();
    // The pair goes with its namespace, as soon as the kernel finds the time.
    let expected: Vec<&str> = whole.into_iter().chain([rules]).collect();
    assert!(mended == expected || mended == expected[1..], "{mended:?}");
    assert_eq!(seen(), ALL);
}

#[test]
fn the_last_guest_that_leaves_takes_the_services_with_it() {
    let host = host();
    ip("link add up1 type veth peer name far1");
    host.list("up0\nup1\n");
    let elsewhere = vm(9, "bridge").replace("net3", "net4").replace("up0", "up1");
    done(&host, Verb::Pre, &elsewhere);
    done(&host, Verb::Pre, &vm(7, "bridge"));
    done(&host, Verb::Pre, &vm(8, "bridge"));
    host.plug("one-7-0", "net3");
    done(&host, Verb::Clean, &vm(8, "bridge"));
    // Its own guest still runs.
    done(&host, Verb::Clean, &vm(7, "bridge"));
    assert!(ALL.iter().all(|part| seen().contains(&(*part).to_owned())), "{:?}", seen());
    ip("link del one-7-0");
    done(&host, Verb::Clean, &vm(7, "bridge"));
    // The tables are the other bridge's too.
    assert_eq!(seen(), ["one_tproxy_net4", "table bridge one_tproxy", "table ip one_tproxy"]);
    assert!(!nft(&["list", "ruleset"]).contains("net3"));
    // What the file lists no more stays for the guest that has it, and goes with it.
    let plain = server::answer(&host.places, &request(Verb::Pre, &elsewhere));
    assert_eq!((plain.outcome, plain.changes), (Outcome::Done, Vec::new()));
    host.done(Verb::Clean, &elsewhere);
    assert_eq!(seen(), [""; 0]);
    assert_eq!(host.links(), ["far1", "up1"]);

    let kept = Settings { keep_empty_bridge: true, ..settings() };
    let keeps = |verb| {
        let asked = Request { settings: kept.clone(), ..request(verb, &vm(7, "bridge")) };
        assert_eq!(server::answer(&host.places, &asked).outcome, Outcome::Done);
    };
    keeps(Verb::Pre);
    assert_eq!(seen(), ALL);
    keeps(Verb::Clean);
    assert_eq!((seen(), host.links().contains(&"net3".to_owned())), (Vec::new(), true));
}

#[test]
fn an_action_that_dies_is_finished_by_the_next() {
    for verb in [Verb::Pre, Verb::Clean] {
        let mut points = 0;
        loop {
            let ended = std::thread::spawn(move || {
                let host = host();
                if verb == Verb::Clean {
                    done(&host, Verb::Pre, &vm(7, "bridge"));
                }
                let ended = !dies_before(&host, &asked(verb, &vm(7, "bridge")), points);
                if verb == Verb::Pre && points % 2 == 0 {
                    done(&host, Verb::Pre, &vm(7, "bridge"));
                    assert_eq!(seen(), ALL, "died before step {points}");
                }
                done(&host, Verb::Clean, &vm(7, "bridge"));
                assert_eq!(
                    (seen(), host.links()),
                    (Vec::new(), Vec::new()),
                    "{verb:?} died before step {points}"
                );
                host.assert_no_trace();
                ended
            });
            if ended.join().unwrap() {
                break;
            }
            points += 1;
        }
        assert!(points >= 5, "{verb:?}: {points} steps");
    }
}

#[test]
fn a_name_that_is_taken_is_found_before_anything_changes() {
    let host = host();
    ip("link add other type bridge");
    ip("link add net3b type veth peer name x");
    ip("link set net3b master other");
    let before = host.snapshot();
    let response = run(&host, Verb::Pre, &vm(7, "bridge"));
    let Outcome::Failed(failure) = response.outcome else { panic!("{response:?}") };
    assert_eq!(
        failure.text,
        "net3b is no end of a pair in bridge net3: its name is that of the bridge's services (:tproxy:)"
    );
    assert_eq!(response.changes, [""; 0]);
    assert_same(&host.snapshot(), &before);
}

#[test]
fn a_failure_takes_services_back_too() {
    let mut host = host();
    host.places.nft = "/bin/false".into();
    let before = host.snapshot();
    let response = run(&host, Verb::Pre, &vm(7, "bridge"));
    assert!(matches!(response.outcome, Outcome::Failed(_)), "{response:?}");
    assert_same(&host.snapshot(), &before);
    assert_eq!(seen(), [""; 0]);
    host.assert_no_trace();
}

/// What a document and the file come to.
fn wanted(driver: &str, bridge: &str, services: Vec<Service>) -> Result<Vec<String>, String> {
    let kind = if driver.starts_with("ov") { "openvswitch" } else { "linux" };
    let more = format!(
        "<VN_MAD>{driver}</VN_MAD><NETWORK>front</NETWORK><NETWORK_ID>3</NETWORK_ID><BRIDGE>{bridge}</BRIDGE><PHYDEV/>\
         <BRIDGE_TYPE>{kind}</BRIDGE_TYPE>"
    );
    let vm = VmDocument::parse(document(7, &nic(7, 0, 4, &more)).as_bytes()).unwrap();
    let settings = Settings { tproxy: services, ..Settings::default() };
    let driver = Driver::try_from(&driver.parse().unwrap()).unwrap();
    let answer = desired::desired(driver, &vm, &settings, &Facts::default()).map_err(|e| e.to_string())?;
    Ok(answer.desired.services.iter().map(ToString::to_string).collect())
}

#[test]
fn a_bridge_has_the_services_of_its_networks() {
    let of = |networks: &[&str]| wanted("fw", "net3", vec![service(80, "10.0.0.1", networks)]).unwrap();
    for networks in [&[][..], &["front"], &["3"], &["back", "3"]] {
        assert_eq!(of(networks), ["169.254.16.9 in net3: 80 is 10.0.0.1:81"], "{networks:?}");
    }
    assert_eq!(of(&["back"]), [""; 0]);
    let twice = vec![service(80, "10.0.0.1", &[]), service(80, "10.0.0.2", &[]), service(7, "10.0.0.3", &[])];
    assert_eq!(
        wanted("bridge", "net3", twice).unwrap(),
        ["169.254.16.9 in net3: 7 is 10.0.0.3:8 80 is 10.0.0.1:81"],
        "the first in the file counts"
    );
    // Open vSwitch has none with the stock driver either.
    assert_eq!(wanted("ovswitch", "net3", vec![service(80, "10.0.0.1", &[])]).unwrap(), [""; 0]);
    for bridge in ["a23456789012345", "net3*", "@net3"] {
        let refused = wanted("fw", bridge, vec![service(80, "10.0.0.1", &[])]).unwrap_err();
        assert!(refused.contains("BRIDGE") && refused.contains(":tproxy:"), "{refused}");
        assert!(Parts::of(&bridge.parse().unwrap()).is_none());
        assert!(wanted("fw", bridge, Vec::new()).is_ok());
    }
    let refused = wanted("fw", "net3", vec![service(0, "10.0.0.1", &[])]).unwrap_err();
    assert_eq!(refused, "NIC 0: setting tproxy service_port is \"0\", not a port");
}

#[test]
fn the_file_lists_services_by_address() {
    let file = ":tproxy:\n- :service_port: 5030\n  :remote_addr: 10.0.0.1\n  :remote_port: 5031\n  :networks: [front, 3]\n\
                - :service_port: 80\n  :remote_addr: one.example\n  :remote_port: 80\n";
    let conf = NetworkConf::parse("x", file).unwrap();
    let settings = Settings::from(&conf);
    assert_eq!(settings.tproxy, [service(5030, "10.0.0.1", &["front", "3"])], "names are resolved elsewhere");
}
