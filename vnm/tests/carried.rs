//! What a guest has under way goes on where it comes to, though nothing like it may begin: one host and what it forgets stand for two.

#![cfg(test)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_vnm::connections::{Connections, Transport};
use causeway_vnm::root::{Outcome, Request, Response, Verb, server};
use common::bridged::{FILTERS, GROUP, enter, ethernet, guest, ipv4, rule, tcp, udp};
use common::guests::Guest;
use common::stage::Stage;
use common::switch::until;
use common::{Host, dies_before, document, ip, nic, request};

/// TCP to 9000 from the guest, to 22 to it, and nothing else.
fn rules() -> String {
    [rule("OUTBOUND", "TCP", "<RANGE>9000</RANGE>"), rule("INBOUND", "TCP", "<RANGE>22</RANGE>")].concat()
}

/// VM `number` on the bridge `br0` of that driver, at those addresses.
fn vm(driver: &str, number: u32, more: &str, rules: &str) -> String {
    let addresses =
        format!("<MAC>02:00:0a:00:00:{number:02x}</MAC><IP>10.0.0.{number}</IP><IP6>fd00::{number:x}</IP6>");
    let place = format!("<VN_MAD>{driver}</VN_MAD><PHYDEV/><BRIDGE>br0</BRIDGE>");
    let place = match driver {
        "ovswitch" => format!(
            "{place}<BRIDGE_TYPE>openvswitch</BRIDGE_TYPE><OVS_BRIDGE_CONF>datapath_type=netdev</OVS_BRIDGE_CONF>"
        ),
        _ => place,
    };
    document(number, &format!("{}{rules}", nic(number, 0, 50, &format!("{more}{addresses}{place}"))))
}

fn told(host: &Host, document: &str) -> Connections {
    let response = host.run(Verb::Connections, document);
    assert_eq!((response.outcome, response.changes), (Outcome::Done, vec![]));
    response.connections.unwrap()
}

fn admission(document: &str, connections: &str) -> Request {
    Request { args: vec![connections.to_owned()], ..request(Verb::Admit, document) }
}

fn admit(host: &Host, document: &str, connections: &str) -> Response {
    server::answer(&host.places, &admission(document, connections))
}

fn admitted(host: &Host, document: &str, connections: &Connections) -> Vec<String> {
    let response = admit(host, document, &connections.to_string());
    assert_eq!(response.outcome, Outcome::Done);
    response.changes
}

/// All connections that the kernel knows in this thread's network.
fn table() -> String {
    std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap()
}

/// A connection between two guests, with its two ends.
struct Talk {
    began: TcpStream,
    other: TcpStream,
}

impl Talk {
    fn new(from: &Guest, to: &Guest, at: SocketAddr) -> Self {
        let listener = to.within(|| TcpListener::bind(at).unwrap());
        let began = from.within(|| TcpStream::connect_timeout(&at, Duration::from_secs(5)).unwrap());
        let (other, _) = listener.accept().unwrap();
        let mut talk = Talk { began, other };
        talk.both_ways();
        talk
    }

    fn both_ways(&mut self) {
        assert!(says(&mut self.began, &mut self.other, LONG) && says(&mut self.other, &mut self.began, LONG));
    }
}

/// A retransmission may take its time.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(500);

/// Whether what one end says is heard at the other.
fn says(from: &mut TcpStream, to: &mut TcpStream, within: Duration) -> bool {
    from.write_all(b".").unwrap();
    hears(to, within)
}

fn hears(end: &mut TcpStream, within: Duration) -> bool {
    end.set_read_timeout(Some(within)).unwrap();
    end.read_exact(&mut [0]).is_ok()
}

/// Two connections move: one that the guest began and then only listens by, one that it was let begin with and then only speaks by.
/// A third is silent through all moves.
fn goes_on(own: &str, host: &Host, a: &Guest, b: &Guest, moves: impl Fn()) {
    let mut silent = Talk::new(a, b, (b.six, 9000).into());
    for _ in 0..3 {
        goes_on_once(own, host, a, b, &moves);
    }
    assert!(says(&mut silent.other, &mut silent.began, LONG), "what was silent goes on");
    silent.both_ways();
}

fn goes_on_once(own: &str, host: &Host, a: &Guest, b: &Guest, moves: &impl Fn()) {
    let mut listens = Talk::new(a, b, (b.four, 9000).into());
    let mut speaks = Talk::new(b, a, (a.six, 22).into());
    let all = told(host, own);
    assert!(
        all.0[&0].iter().any(|c| c.transport == Transport::Tcp && c.to == SocketAddr::from((b.four, 9000)))
    );
    assert!(all.0[&0].iter().any(|c| c.to == SocketAddr::from((a.six, 22)) && c.seconds > 300), "{all}");

    moves();
    let here = told(host, own);
    assert!(all.0[&0].iter().all(|known| !here.0[&0].iter().any(|c| c.from == known.from)), "{here}");
    // Neither may begin: a control, and the reason for all of this.
    assert!(!says(&mut listens.other, &mut listens.began, SHORT));
    assert!(!says(&mut speaks.other, &mut speaks.began, SHORT));
    assert_eq!(admitted(host, own, &all).len(), 1);
    assert!(hears(&mut listens.began, LONG) && hears(&mut speaks.began, LONG), "it goes on");
    listens.both_ways();
    speaks.both_ways();
    // Nothing else has come to be allowed.
    assert!(!b.tcp(a, 23) && !a.tcp(b, 9001) && a.tcp(b, 9000) && b.tcp6(a, 22));
    // The second time takes nothing away, and `post` and an update of groups leave what goes on alone.
    admitted(host, own, &all);
    host.done(Verb::Post, own);
    host.done(Verb::UpdateSg, own);
    listens.both_ways();
    speaks.both_ways();
}

/// A guest that has its addresses from somebody else (DHCP).
fn without_addresses(document: &str) -> String {
    let without = document.replace("<IP>10.0.0.1</IP><IP6>fd00::1</IP6>", "");
    assert_ne!(without, document);
    without
}

#[test]
fn connections_go_on_on_a_linux_bridge() {
    on_a_linux_bridge(&vm("fw", 1, GROUP, &rules()));
}

#[test]
fn connections_go_on_whoever_gave_the_address() {
    on_a_linux_bridge(&without_addresses(&vm("fw", 1, GROUP, &rules())));
    on_a_switch(&without_addresses(&vm("ovswitch", 1, GROUP, &rules())));
}

fn on_a_linux_bridge(own: &str) {
    enter();
    let host = Host::here();
    let comes = |number: u32, document: &str| {
        host.done(Verb::Pre, document);
        let guest = guest("br0", number, u8::try_from(number).unwrap());
        host.done(Verb::Post, document);
        guest
    };
    let (b, a) = (comes(2, &vm("fw", 2, "", "")), comes(1, own));
    until("the ports are up", || a.tcp(&b, 9000));
    goes_on(own, &host, &a, &b, || {
        // Its device has another name, so it is not here.
        ip("link set one-1-0 down");
        ip("link set one-1-0 name away");
        let cleaned = host.done(Verb::Clean, own);
        assert!(
            cleaned
                .iter()
                .any(|change| change.starts_with("forget ") && change.ends_with(" connections on br0")),
            "{cleaned:?}"
        );
        host.done(Verb::Pre, own);
        ip("link set away name one-1-0");
        ip("link set one-1-0 master br0 up");
        until("the port is up", || b.tcp(&a, 22));
    });
}

#[test]
fn connections_go_on_on_a_switch() {
    on_a_switch(&vm("ovswitch", 1, GROUP, &rules()));
}

fn on_a_switch(own: &str) {
    let stage = Stage::new();
    let b = stage.comes(2, None, &vm("ovswitch", 2, "", ""));
    let a = stage.comes(1, None, own);
    until("the ports are up", || a.tcp(&b, 9000));
    goes_on(own, &stage.host, &a, &b, || {
        stage.ask(&["del-port", "br0", &a.tap]);
        assert!(told(&stage.host, own).0[&0].len() >= 2, "it has gone, and what it had is still told");
        stage.host.done(Verb::Clean, own);
        stage.host.done(Verb::Pre, own);
        stage.plug(&a);
        until("the port is up", || b.tcp(&a, 22));
    });
    let lent = |stage: &Stage| stage.flows().iter().filter(|flow| flow.contains("cookie=0xca2")).count();
    assert!(lent(&stage) > 0);
    admitted(&stage.host, own, &Connections([(0, vec![])].into()));
    assert_eq!(lent(&stage), 0, "what the last list does not name has ended");
    admitted(&stage.host, own, &one_connection());
    assert!(lent(&stage) > 0);
    stage.ask(&["del-port", "br0", &a.tap]);
    stage.host.done(Verb::Clean, own);
    assert_eq!(lent(&stage), 0, "what was lent goes with its guest");
    // A guest that needs no connections to be known any more has none lent.
    stage.host.done(Verb::Pre, own);
    stage.plug(&a);
    stage.host.done(Verb::Post, own);
    admitted(&stage.host, own, &one_connection());
    assert!(lent(&stage) > 0);
    stage.host.done(Verb::UpdateSg, &own.replace(GROUP, ""));
    assert_eq!(lent(&stage), 0);
}

fn one_connection() -> Connections {
    let one = r#"{"0":[{"transport":"udp","from":"10.0.0.1:5","to":"10.0.0.2:6","seconds":60}]}"#;
    one.parse().unwrap()
}

/// The datapath is there for all bridges, and keeps what it knows when one of them goes.
#[test]
fn connections_on_a_switch_are_forgotten_with_their_bridge() {
    let stage = Stage::new();
    let documents = [1, 2].map(|number| vm("ovswitch", number, GROUP, &open()));
    let guests = [1, 2].map(|number| stage.comes(number, None, &documents[number as usize - 1]));
    let [a, b] = &guests;
    until("the ports are up", || a.tcp(b, 9000));
    let _talk = Talk::new(a, b, (b.four, 9000).into());
    stage.ask(&["--", "add-br", "other", "--", "set", "bridge", "other", "datapath_type=netdev"]);
    let known = || stage.switch.tool("ovs-appctl", &["dpctl/dump-conntrack"]).contains("ESTABLISHED");
    assert!(known());
    for (guest, document) in guests.iter().zip(&documents) {
        stage.ask(&["del-port", "br0", &guest.tap]);
        stage.host.done(Verb::Clean, document);
    }
    assert_eq!(stage.ask(&["list-br"]).trim(), "other");
    for document in &documents {
        stage.host.done(Verb::Pre, document);
        assert_eq!(told(&stage.host, document).0[&0], []);
    }
    assert!(!known());
}

/// What two guests of a bridge have under way is both's: the one that stays may go on with it elsewhere.
#[test]
fn a_guest_that_goes_leaves_the_others_their_connections() {
    enter();
    let host = Host::here();
    let both = rules() + &rule("INBOUND", "TCP", "<RANGE>9000</RANGE>");
    let document = |number| vm("fw", number, GROUP, &both);
    let comes = |number: u32, document: &str| {
        host.done(Verb::Pre, document);
        guest("br0", number, u8::try_from(number).unwrap())
    };
    let goes = |number: u32, document: &str| {
        ip(&format!("link del one-{number}-0"));
        host.done(Verb::Clean, document);
    };
    let (a, b) = (comes(1, &document(1)), comes(2, &document(2)));
    until("the ports are up", || a.tcp(&b, 9000));
    let _talk = Talk::new(&a, &b, (b.four, 9000).into());
    for (number, knows) in [(1, true), (2, false)] {
        assert_eq!(told(&host, &document(number)).0[&0].len(), 1);
        goes(number, &document(number));
        assert_eq!(table().contains("ESTABLISHED"), knows, "{}", table());
    }
}

/// A guest that runs is prepared once more, in a network with another MTU; then it is off, and its network is another one.
#[test]
fn a_changed_network_costs_a_connection_only_with_its_bridge() {
    enter();
    let host = Host::here();
    let comes = |number: u32, document: &str| {
        host.done(Verb::Pre, document);
        guest("br0", number, u8::try_from(number).unwrap())
    };
    let own = vm("fw", 1, GROUP, &rules());
    let (b, a) = (comes(2, &vm("fw", 2, "", "")), comes(1, &own));
    until("the ports are up", || a.tcp(&b, 9000));
    let mut talk = Talk::new(&a, &b, (b.four, 9000).into());
    host.done(Verb::Pre, &vm("fw", 1, &format!("{GROUP}<MTU>1400</MTU>"), &rules()));
    talk.both_ways();
    assert!(table().contains("10.0.0.1"));
    ip("link set one-1-0 down");
    ip("link set one-1-0 name away");
    host.done(Verb::Pre, &own.replace(">br0<", ">br9<"));
    assert!(!table().contains("10.0.0.1"), "{}", table());
}

/// Where nobody knows which end is the guest's, its connections take nothing from the other end, which may be here as well.
#[test]
fn who_gave_itself_an_address_takes_no_connection_from_another_guest() {
    enter();
    let host = Host::here();
    let comes = |number: u32, document: &str| {
        host.done(Verb::Pre, document);
        guest("br0", number, u8::try_from(number).unwrap())
    };
    // What it answers by may not begin.
    let answers = vm("fw", 2, GROUP, &rule("INBOUND", "TCP", "<RANGE>9000</RANGE>"));
    let own = without_addresses(&vm("fw", 1, GROUP, &rules()));
    let (a, b) = (comes(1, &own), comes(2, &answers));
    until("the ports are up", || a.tcp(&b, 9000));
    let mut talk = Talk::new(&a, &b, (b.four, 9000).into());
    let all = told(&host, &own);
    ip("link set one-1-0 down");
    ip("link set one-1-0 name away");
    host.done(Verb::Clean, &own);
    host.done(Verb::Pre, &own);
    admitted(&host, &own, &all);
    ip("link set away name one-1-0");
    ip("link set one-1-0 master br0 up");
    assert!(says(&mut talk.other, &mut talk.began, LONG), "to who only listens, from who may not begin");
    talk.both_ways();
}

/// What a guest had under way is forgotten by its number, which is known without its reservation.
#[test]
fn connections_are_forgotten_without_a_reservation() {
    enter();
    let host = Host::here();
    let document = |number| vm("fw", number, GROUP, &open());
    let comes = |number: u32| {
        host.done(Verb::Pre, &document(number));
        guest("br0", number, u8::try_from(number).unwrap())
    };
    let file = host.places.reservations.join("1.json");
    for lose in
        [|file: &Path| std::fs::write(file, "{").unwrap(), |file: &Path| std::fs::remove_file(file).unwrap()]
    {
        let (a, b) = (comes(1), comes(2));
        until("the ports are up", || a.tcp(&b, 9000));
        let talk = Talk::new(&a, &b, (b.four, 9000).into());
        ip("link del one-2-0");
        host.done(Verb::Clean, &document(2));
        assert!(table().contains("ESTABLISHED"));
        lose(&file);
        ip("link del one-1-0");
        let cleaned = host.done(Verb::Clean, &document(1));
        assert!(cleaned.iter().any(|change| change.starts_with("forget ")), "{cleaned:?}");
        assert!(!table().contains("10.0.0.1"), "{}", table());
        host.assert_no_trace();
        drop(talk);
        ip("netns del g1");
        ip("netns del g2");
    }
}

/// Two guests of one bridge, of which one says both what it says and what the other would answer: frames that go to nobody, but by
/// the table of connections, which is the bridge's.
#[test]
fn nobody_makes_a_connection_for_another_guest() {
    enter();
    let host = Host::here();
    let comes = |number: u32, document: &str| {
        host.done(Verb::Pre, document);
        guest("br0", number, u8::try_from(number).unwrap())
    };
    let (a, b) = (comes(1, &vm("fw", 1, GROUP, &open())), comes(2, &vm("fw", 2, GROUP, &rules())));
    until("the ports are up", || a.tcp(&b, 22));
    // Somebody whom nobody has heard, so that the bridge hands it to all but who sent it.
    let nobody = [2, 0, 0xff, 0xff, 0xff, 0xff];
    let sends = |to: [u8; 6], from: Ipv4Addr, at: Ipv4Addr, ports: (u16, u16)| {
        let segment = ipv4(from, at, 6, 1, 0, &tcp(from, at, ports.0, ports.1, 0x10));
        let datagram = ipv4(from, at, 17, 1, 0, &udp(ports.0, ports.1, b"comes by it"));
        a.sends(&[segment, datagram].map(|packet| ethernet(to, a.mac, 0x0800, &packet)));
    };
    ip("link add far type veth peer name away");
    ip("link set away up");
    ip("link set far master br0 up");
    sends(nobody, a.four, b.four, (4100, 23));
    sends(nobody, b.four, a.four, (23, 4100));
    until("the table believes it", || table().contains("dport=23"));
    let known = told(&host, &vm("fw", 2, GROUP, &rules()));
    assert!(known.0[&0].iter().all(|c| c.from.port() != 4100 && c.to.port() != 4100), "{known}");
    let heard = b.listens();
    sends(b.mac.0, a.four, b.four, (4100, 23));
    let ports = [4100_u16.to_be_bytes(), 23_u16.to_be_bytes()].concat();
    assert!(!heard.frames().iter().any(|frame| frame.get(34..38) == Some(&ports[..])));
    assert!(a.tcp(&b, 22), "what its own rules let be goes on");
}

/// Everything, but by rules: the table is asked all the same.
fn open() -> String {
    let all = |direction| rule(direction, "TCP", "") + &rule(direction, "UDP", "");
    all("INBOUND") + &all("OUTBOUND")
}

#[test]
fn what_is_no_list_of_connections_admits_nothing() {
    enter();
    let host = Host::here();
    let own = vm("fw", 1, &[GROUP, FILTERS].concat(), &rules());
    host.done(Verb::Pre, &own);
    let refused = |text: &str| {
        let response = admit(&host, &own, text);
        assert_eq!(response.changes, [""; 0]);
        match response.outcome {
            Outcome::Failed(failure) => failure.text,
            Outcome::Done => panic!("{text} was admitted"),
        }
    };
    assert!(refused("").contains("the list of connections can't be read"));
    let one = |from: &str, to: &str| {
        format!(r#"{{"0":[{{"transport":"tcp","from":"{from}","to":"{to}","seconds":60}}]}}"#)
    };
    assert!(refused(&one("10.0.0.1:5", "[fd00::2]:6")).contains("no connection leads from"));
    // Of others it may say what it likes, as long as it is held to its own address.
    let others = admit(&host, &own, &one("10.0.0.7:5", "10.0.0.8:6"));
    assert_eq!((others.outcome, others.changes), (Outcome::Done, vec![]));
    let nobody = r#"{"7":[{"transport":"udp","from":"10.0.0.1:5","to":"10.0.0.2:6","seconds":60}]}"#;
    assert_eq!(admitted(&host, &own, &nobody.parse().unwrap()), [""; 0]);
    let free = vm("fw", 3, GROUP, &rules());
    host.done(Verb::Pre, &free);
    let gave_itself = one("10.0.0.7:5", "10.0.0.8:6").parse().unwrap();
    assert_eq!(admitted(&host, &free, &gave_itself), ["track 1 connections on br0"]);
    let without = server::answer(&host.places, &request(Verb::Admit, &own));
    assert!(
        matches!(without.outcome, Outcome::Failed(failure) if failure.text.contains("the connections of a VM"))
    );
}

#[test]
fn a_death_while_connections_are_admitted_costs_nothing() {
    enter();
    let host = Host::here();
    let own = vm("fw", 1, GROUP, &rules());
    host.done(Verb::Pre, &own);
    let all = r#"{"0":[{"transport":"udp","from":"10.0.0.1:5","to":"10.0.0.2:6","seconds":60}]}"#;
    assert!(dies_before(&host, &admission(&own, all), 0));
    assert_eq!(told(&host, &own).0[&0], []);
    assert_eq!(admitted(&host, &own, &all.parse().unwrap()), ["track 1 connections on br0"]);
    assert_eq!(told(&host, &own).0[&0].len(), 1);
    assert!(table().contains("10.0.0.1"));
    host.done(Verb::Clean, &own);
    assert!(!table().contains("10.0.0.1"));
}

#[test]
fn how_long_the_fabric_knew_nothing_of_a_guest_is_told() {
    enter();
    let host = Host::here();
    let (own, other) = (vm("fw", 1, GROUP, &rules()), vm("fw", 2, "", ""));
    host.done(Verb::Pre, &other);
    let b = guest("br0", 2, 2);
    let arrivals = |document: &str| host.run(Verb::Post, document).arrivals;
    assert_eq!(arrivals(&other), [], "it has not moved");
    host.done(Verb::Pre, &own);
    admitted(&host, &own, &Connections::default());
    let a = guest("br0", 1, 1);
    until("the port is up", || b.tcp(&a, 22));
    // With libvirt the device is there for seconds before its guest speaks; here it spoke at once.
    std::thread::sleep(Duration::from_secs(1));
    assert!(b.tcp(&a, 22));
    let begun = Instant::now();
    let [arrival] = arrivals(&own)[..] else { panic!("one NIC has come") };
    let heard = arrival.heard_us.unwrap();
    assert!(arrival.nic == 0 && heard <= arrival.told_us && arrival.share_us() == heard, "{arrival}");
    assert!(arrival.told_us < 60_000_000 && begun.elapsed().as_secs() < 10, "{arrival}");
    assert_eq!(arrivals(&own), [], "it is told once");
}
