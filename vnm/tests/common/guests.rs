//! Guests on a real Open vSwitch: each is a network namespace of its own with one device, whose other end is a port of the switch.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use causeway_core::document::VmDocument;
use causeway_core::names::{Mac, VmId};
use causeway_vnm::desired::{Datapath, Desired, Guard, Number, Switch as Bridge, SwitchPort, Vlans};
use causeway_vnm::fabric::ovs::{
    Change, Leaving, Observed, Ovs, OvsError, Places, Removal, Scope, Surroundings, difference, removal,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::ip;
use super::switch::{Switch, until};

/// How long something that passes may take, on a machine that does much else.
const PASSES: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWERED: Duration = Duration::from_secs(2);
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

impl Guests {
    /// A connection of the fabric's.
    pub fn ovs(&self) -> Ovs {
        let places = Places { database: self.switch.database(), run: self.switch.dir().to_owned() };
        Ovs::open(&places, Instant::now() + PASSES).unwrap()
    }

    /// Reads what there is of that state.
    pub fn observe(&self, desired: &Desired) -> Observed {
        self.ovs().observe(&Scope::from(desired)).unwrap()
    }

    /// Brings the switch to that state, and looks whether it is there; what was changed.
    pub fn bring(&self, desired: &Desired) -> Vec<Change> {
        let around = Surroundings { arp: true, ..Surroundings::default() };
        let mut ovs = self.ovs();
        let mut done = Vec::new();
        for _ in 0..5 {
            let observed = ovs.observe(&Scope::from(desired)).unwrap();
            let found = difference(desired, &observed, &around).unwrap();
            if found.changes.is_empty() {
                return done;
            }
            match found.changes.iter().try_for_each(|change| ovs.apply(change)) {
                Err(error) if !error.is_stale() => panic!("{error:?}"),
                _ => done.extend(found.changes),
            }
        }
        panic!("it is not there after {done:#?}");
    }

    /// What is done when that state is taken away; nothing is left to do afterwards.
    pub fn take_away(&self, desired: &Desired) -> Removal {
        let leaving = Leaving::from(desired);
        let gone = self.removal(&leaving);
        let mut ovs = self.ovs();
        gone.changes.iter().try_for_each(|change| ovs.apply(change)).unwrap();
        assert_eq!(self.removal(&leaving).changes, [], "nothing is left to remove");
        gone
    }

    fn removal(&self, leaving: &Leaving) -> Removal {
        let observed = self.ovs().observe(&Scope::from(leaving)).unwrap();
        removal(leaving, &observed, &Default::default())
    }

    /// Whether a change is refused, and why.
    pub fn apply(&self, change: &Change) -> Result<(), OvsError> {
        self.ovs().apply(change)
    }

    /// Does what libvirt does with a guest's device, once it is there.
    pub fn plug(&self, guest: &Guest) {
        let id = format!("external-ids:attached-mac=\"{}\"", guest.mac);
        let add = ["--timeout=5", "--", "--may-exist", "add-port", "br0", &guest.tap];
        let set = ["--", "set", "Interface", &guest.tap, &id, "external-ids:iface-status=active"];
        self.switch.tool("ovs-vsctl", &[&add[..], &set].concat());
    }
}

/// A rule of group 5.
pub fn rule(direction: &str, protocol: &str, more: &str) -> String {
    format!(
        "<TEMPLATE><SECURITY_GROUP_RULE><SECURITY_GROUP_ID>5</SECURITY_GROUP_ID><RULE_TYPE>{direction}</RULE_TYPE>\
         <PROTOCOL>{protocol}</PROTOCOL>{more}</SECURITY_GROUP_RULE></TEMPLATE>"
    )
}

/// Puts a NIC into group 5.
pub const GROUP: &str = "<SECURITY_GROUPS>5</SECURITY_GROUPS>";

/// What may pass by the guest's NIC, with these attributes and rules.
pub fn guard(guest: &Guest, nic: &str, rules: &str) -> Guard {
    let document = format!(
        "<VM><ID>{}</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>ovswitch</VN_MAD><IP>{}</IP><IP6>{}</IP6>{nic}</NIC>\
         </TEMPLATE>{rules}</VM>",
        guest.number, guest.four, guest.six
    );
    let vm = VmDocument::parse(document.as_bytes()).unwrap();
    Guard::of(&vm.nics[0], &vm, &guest.tap.parse().unwrap(), guest.mac).unwrap()
}

/// The network of a VM that has that guest's NIC and no other.
pub fn desired(guest: &Guest, guard: Guard) -> Desired {
    let mut desired = Desired::nothing(VmId(guest.number));
    desired.switches.push(Bridge {
        name: "br0".parse().unwrap(),
        datapath: Datapath::Userspace,
        options: Default::default(),
        uplinks: Default::default(),
        keep: false,
    });
    desired.seats.push(SwitchPort {
        nic: 0,
        tap: guest.tap.parse().unwrap(),
        switch: "br0".parse().unwrap(),
        vlans: Vlans::Access(guest.vlan.unwrap_or(0)),
        mtu: None,
        socket: None,
    });
    desired.guards.push(guard);
    desired.numbers.insert(0, Number::try_from(u16::try_from(guest.port).unwrap()).unwrap());
    desired
}

fn guest(switch: &Switch, number: u32, vlan: Option<u16>) -> Guest {
    let guest = Guest::device(number, vlan);
    let tag = vlan.map(|vlan| format!("tag={vlan}"));
    let request = format!("ofport_request={}", guest.port);
    let mut args = vec!["add-port", "br0", &guest.tap];
    args.extend(tag.as_deref());
    args.extend(["--", "set", "interface", &guest.tap, &request]);
    switch.tool("ovs-vsctl", &args);
    guest
}

impl Guest {
    /// A guest whose device is plugged in nowhere.
    pub fn device(number: u32, vlan: Option<u16>) -> Guest {
        Guest::addressed(number, u8::try_from(number).unwrap(), vlan)
    }

    /// The same, with the `last` address of its network.
    pub fn addressed(number: u32, last: u8, vlan: Option<u16>) -> Guest {
        let guest = Guest {
            number,
            tap: format!("one-{number}-0"),
            port: 0x4000 + number,
            vlan,
            mac: Mac([2, 0, 10, 0, 0, last]),
            four: Ipv4Addr::new(10, 0, 0, last),
            six: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()),
        };
        let Guest { tap, mac, four, six, .. } = &guest;
        ip(&format!("netns add g{number}"));
        ip(&format!("link add {tap} type veth peer name eth0 netns g{number} address {mac}"));
        ip(&format!("-n g{number} addr add {four}/24 dev eth0"));
        ip(&format!("-n g{number} addr add {six}/64 dev eth0 nodad"));
        ip(&format!("-n g{number} link set lo up"));
        ip(&format!("-n g{number} link set eth0 up"));
        ip(&format!("link set {tap} up"));
        // The switch hands on what it gets: nobody would write the checksums that were left out.
        guest.run("ethtool", &["-K", "eth0", "tx", "off"]);
        guest
    }

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
        let listener = to.within(|| bound(|| TcpListener::bind(at)));
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
        let there = to.within(|| bound(|| UdpSocket::bind(at)));
        let here = self.within(|| UdpSocket::bind((self.four, 0)).unwrap());
        here.send_to(b"?", at).unwrap();
        there.set_read_timeout(Some(DROPPED)).unwrap();
        here.set_read_timeout(Some(ANSWERED)).unwrap();
        let mut byte = [0];
        let Ok((_, from)) = there.recv_from(&mut byte) else { return false };
        there.send_to(b"!", from).unwrap();
        here.recv(&mut byte).is_ok()
    }
}

/// A socket: a process that another thread is starting may hold the last one for a moment.
fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let end = Instant::now() + PASSES;
    loop {
        match bind() {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.unwrap(),
        }
    }
}

/// Waits until the guests hear each other.
pub fn hear_each_other(one: &Guest, other: &Guest) {
    until("the guests hear each other", || one.ping(other.four));
}
