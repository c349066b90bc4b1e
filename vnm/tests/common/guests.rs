//! Guests on a real Open vSwitch: each is a network namespace of its own with one device, whose other end is a port of the switch.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use causeway_core::names::Mac;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::ip;
use super::switch::{Switch, until};

/// How long something that passes may take, on a machine that does much else.
const PASSES: Duration = Duration::from_secs(10);
/// How long something that does not pass is waited for.
const DROPPED: Duration = Duration::from_millis(400);

/// A guest.
pub struct Guest {
    pub number: u32,
    /// Its port's name and number.
    pub tap: String,
    pub port: u32,
    pub vlan: Option<u16>,
    pub mac: Mac,
    pub four: Ipv4Addr,
    pub six: Ipv6Addr,
}

/// Guests, and their switch.
pub struct Guests {
    pub switch: Switch,
    pub all: Vec<Guest>,
}

impl Guests {
    /// One guest for each network, on the bridge `br0`.
    pub fn new(networks: &[Option<u16>]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root: they make network namespaces");
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        std::fs::create_dir_all("/run/netns").unwrap();
        mount(Some("guests"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        ip("link set lo up");
        let switch = Switch::start();
        switch.tool("ovs-vsctl", &["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]);
        let all = (1..).zip(networks).map(|(number, vlan)| guest(&switch, number, *vlan)).collect();
        Guests { switch, all }
    }
}

fn guest(switch: &Switch, number: u32, vlan: Option<u16>) -> Guest {
    let last = u8::try_from(number).unwrap();
    let guest = Guest {
        number,
        tap: format!("one-{number}-0"),
        port: 100 + number,
        vlan,
        mac: Mac([2, 0, 10, 0, 0, last]),
        four: Ipv4Addr::new(10, 0, 0, last),
        six: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()),
    };
    let Guest { tap, port, mac, four, six, .. } = &guest;
    ip(&format!("netns add g{number}"));
    ip(&format!("link add {tap} type veth peer name eth0 netns g{number} address {mac}"));
    ip(&format!("-n g{number} addr add {four}/24 dev eth0"));
    ip(&format!("-n g{number} addr add {six}/64 dev eth0 nodad"));
    ip(&format!("-n g{number} link set lo up"));
    ip(&format!("-n g{number} link set eth0 up"));
    ip(&format!("link set {tap} up"));
    // The switch hands on what it gets: nobody would write the checksums that were left out.
    guest.run("ethtool", &["-K", "eth0", "tx", "off"]);
    let tag = vlan.map(|vlan| format!("tag={vlan}"));
    let request = format!("ofport_request={port}");
    let mut args = vec!["add-port", "br0", tap];
    args.extend(tag.as_deref());
    args.extend(["--", "set", "interface", tap, &request]);
    switch.tool("ovs-vsctl", &args);
    guest
}

impl Guest {
    /// Does something in the guest's network.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/run/netns/g{}", self.number)).unwrap();
        let inside = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// Whether a program ends well there.
    pub fn run(&self, program: &str, args: &[&str]) -> bool {
        self.within(|| Command::new(program).args(args).output().unwrap().status.success())
    }

    /// Whether that address answers.
    pub fn ping(&self, to: impl Into<IpAddr>) -> bool {
        let to = to.into().to_string();
        // The first may be spent on learning where it is.
        self.run("ping", &["-c", "1", "-W", "1", &to]) || self.run("ping", &["-c", "1", "-W", "1", &to])
    }

    /// Whether a connection to that port of another guest comes about, and carries something both ways.
    pub fn tcp(&self, to: &Guest, port: u16) -> bool {
        self.connects(to, (to.four, port).into())
    }

    /// The same by IPv6.
    pub fn tcp6(&self, to: &Guest, port: u16) -> bool {
        self.connects(to, (to.six, port).into())
    }

    fn connects(&self, to: &Guest, at: SocketAddr) -> bool {
        let listener = to.within(|| TcpListener::bind(at).unwrap());
        let Ok(mut stream) = self.within(|| TcpStream::connect_timeout(&at, DROPPED)) else {
            return false;
        };
        let (mut other, _) = listener.accept().unwrap();
        for stream in [&stream, &other] {
            stream.set_read_timeout(Some(PASSES)).unwrap();
        }
        let mut byte = [0];
        stream.write_all(b"?").unwrap();
        let asked = other.read_exact(&mut byte).is_ok() && other.write_all(b"!").is_ok();
        asked && stream.read_exact(&mut byte).is_ok() && byte == *b"!"
    }

    /// Whether a datagram to that port of another guest arrives, and its answer.
    pub fn udp(&self, to: &Guest, port: u16) -> bool {
        let at = SocketAddr::from((to.four, port));
        let there = to.within(|| UdpSocket::bind(at).unwrap());
        let here = self.within(|| UdpSocket::bind((self.four, 0)).unwrap());
        here.send_to(b"?", at).unwrap();
        there.set_read_timeout(Some(DROPPED)).unwrap();
        here.set_read_timeout(Some(PASSES)).unwrap();
        let mut byte = [0];
        let Ok((_, from)) = there.recv_from(&mut byte) else { return false };
        there.send_to(b"!", from).unwrap();
        here.recv(&mut byte).is_ok()
    }
}

/// Waits until the guests hear each other.
pub fn hear_each_other(one: &Guest, other: &Guest) {
    until("the guests hear each other", || one.ping(other.four));
}
