//! Networks of several drivers under a real oned: a guest with a group and filters, NICs and an alias that come and go, a group and a
//! network that change under it, a move, an end. What it prints is the table of what each action took.
//!
//! `STOCK_BUILT` names a built source tree of OpenNebula 7.4.0; `tests/run oned` sees to it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::io::Write;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_suite::lab::cloud::{Cloud, Stage, text};
use causeway_suite::lab::observer::{Knock, Observer};
use causeway_suite::lab::truth::{nothing_left, nothing_reserved};
use causeway_suite::lab::{FRONT_END, HOSTS, Lab, Standing, guest};

#[path = "oned/mod.rs"]
#[expect(dead_code, reason = "images and the one network of other roads")]
mod set_up;
use set_up::{Installed, NO_ROM, SOON, has_datastores, has_hosts, hosts_are_ready};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);
/// The alias's; the guest has it from the beginning.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 12);
/// The network's number after its change.
const NEW_VNI: u32 = 6;
const VLAN: u32 = 50;

/// The lab's kernel has no data path for Open vSwitch.
const USER_SPACE: &str = "printf ':ovs_bridge_conf:\\n  :datapath_type: netdev\\n' >>/var/lib/one/remotes/etc/vnm/OpenNebulaNetwork.conf";

/// A rule of the group that comes to be there later.
const LATER: &str = "RULE=[ PROTOCOL=UDP, RULE_TYPE=inbound, RANGE=\"7007\" ]\n";

struct Road<'a> {
    lab: &'a Lab,
    cloud: Cloud<'a>,
    vm: u32,
    table: String,
}

#[test]
fn networks_live_under_a_real_oned() {
    let installed = Installed::on(Standing::bare_with_switches().unwrap(), &["eth0", "eth1"], USER_SPACE);
    let lab = &installed.lab;
    let mut road = Road { cloud: Cloud::start(lab).unwrap(), lab, vm: 0, table: String::new() };
    road.travel();
    std::io::stderr().write_all(road.table.as_bytes()).unwrap();
    road.cloud.stop().unwrap();
    drop(road);
    installed.end();
}

impl Road<'_> {
    fn travel(&mut self) {
        has_hosts(&self.cloud);
        let (system, _) = has_datastores(&self.cloud, "qcow2", ["", "DS_MAD=fs\n"]);
        let (group, [vxlan, fw, switch]) = (self.group(), self.networks());
        hosts_are_ready(&self.cloud);
        let group_text = group.to_string();
        self.has_only(vxlan, &group_text);
        let mut observer = Observer::in_vxlan(self.lab, guest::VNI).unwrap();

        self.timed("DEPLOY", "its group and filters, from outside", |road| {
            road.vm = road.creates(vxlan);
            road.ask(&["onevm", "deploy", &road.id(), "h1", &system.to_string()]);
            road.runs_on("h1");
            road.until(|| observer.pings(OWN) && observer.knocks((OWN, 7)).unwrap() == Knock::Open);
            assert!(!observer.asks((OWN, 7007), "get").unwrap() && !observer.pings(OTHER));
            assert_eq!(observer.knocks((OWN, 9)).unwrap(), Knock::Silent);
        });
        self.timed("UPDATESG (onesecgroup update)", "the new rule lets pass", |road| {
            road.lab.write(FRONT_END, "/var/tmp/group", &format!("{}{LATER}", group_of())).unwrap();
            road.ask(&["onesecgroup", "update", &group_text, "/var/tmp/group"]);
            road.until(|| observer.asks((OWN, 7007), "get").unwrap());
            assert_eq!(observer.knocks((OWN, 9)).unwrap(), Knock::Silent);
        });
        for (name, network, bridge) in [("ovswitch", switch, "vsw0"), ("fw", fw, "fwbr0")] {
            self.timed(&format!("ATTACHNIC ({name})"), "its device is in its bridge", |road| {
                road.ask(&["onevm", "nic-attach", &road.id(), "--network", &network.to_string()]);
                road.runs_on("h1");
                let device = road.last_device();
                assert_eq!(road.bridge_of("h1", &device), bridge, "{}", road.log());
            });
        }
        self.timed("ATTACHNIC (alias)", "its address is let through", |road| {
            let (network, address) = (vxlan.to_string(), OTHER.to_string());
            road.ask(&[
                "onevm",
                "nic-attach",
                &road.id(),
                "--network",
                &network,
                "--alias",
                "NIC0",
                "--ip",
                &address,
            ]);
            road.runs_on("h1");
            road.until(|| observer.pings(OTHER));
        });
        self.timed("MIGRATE", "group, filters and alias hold; nothing is left behind", |road| {
            road.ask(&["onevm", "migrate", "--live", &road.id(), "h2"]);
            road.runs_on("h2");
            nothing_left(road.lab, "h1").unwrap();
            nothing_reserved(road.lab, "h1").unwrap();
            assert!(
                observer.pings(OWN) && observer.pings(OTHER) && observer.asks((OWN, 7007), "get").unwrap()
            );
            assert_eq!(observer.knocks((OWN, 9)).unwrap(), Knock::Silent);
            assert_eq!(
                [1, 2].map(|nic| road.bridge_of("h2", &format!("one-{}-{nic}", road.vm))),
                ["vsw0", "fwbr0"]
            );
        });
        // Before any alias goes: with one, oned strikes its VM off the list of those that a change of the network is to reach.
        self.timed(
            "UPDATENIC (onevnet update)",
            "another VNI and MTU: reached there, and no more where it was",
            |road| {
                road.lab.write(FRONT_END, "/var/tmp/net", &format!("VLAN_ID={NEW_VNI}\nMTU=1400\n")).unwrap();
                road.ask(&["onevnet", "update", &vxlan.to_string(), "/var/tmp/net", "--append"]);
                road.until(|| !observer.pings(OWN));
                observer.leave().unwrap();
                observer = Observer::in_vxlan(road.lab, NEW_VNI).unwrap();
                road.until(|| observer.pings(OWN) && observer.pings(OTHER));
                let mtu = format!("cat /sys/class/net/eth0.{NEW_VNI}/mtu");
                assert_eq!(road.lab.script("h2", &mtu, &[]).unwrap().trim(), "1400");
                assert_eq!(observer.knocks((OWN, 9)).unwrap(), Knock::Silent);
            },
        );
        self.timed(
            "UPDATENIC (onevm nic-update)",
            "the switch holds the NIC to its limits, and then lets it go",
            |road| {
                let policed = |kib: u32| {
                    let device = format!("one-{}-1", road.vm);
                    let script = "ovs-vsctl --timeout=10 get Interface \"$1\" ingress_policing_rate";
                    let told = road.lab.script("h2", script, &[&device]).unwrap();
                    told.trim() == (kib * 8).to_string()
                };
                for (kib, limits) in
                    [(500, "INBOUND_AVG_BW=1000\nOUTBOUND_AVG_BW=500\n"), (0, "OUTBOUND_AVG_BW=0\n")]
                {
                    road.lab.write(FRONT_END, "/var/tmp/nic", limits).unwrap();
                    road.ask(&["onevm", "nic-update", &road.id(), "1", "/var/tmp/nic"]);
                    road.until(|| policed(kib));
                    road.runs_on("h2");
                }
            },
        );
        self.timed("DETACHNIC (alias)", "its address is kept away again", |road| {
            road.ask(&["onevm", "nic-detach", &road.id(), "3"]);
            road.runs_on("h2");
            road.until(|| !observer.pings(OTHER));
            assert!(observer.pings(OWN));
        });
        for (name, nic, bridge) in [("ovswitch", "1", "vsw0"), ("fw", "2", "fwbr0")] {
            self.timed(&format!("DETACHNIC ({name})"), "its bridge is gone", |road| {
                road.ask(&["onevm", "nic-detach", &road.id(), nic]);
                road.runs_on("h2");
                let there = "ip -br link show dev \"$1\" 2>/dev/null || :";
                assert_eq!(road.lab.script("h2", there, &[bridge]).unwrap().trim(), "", "{}", road.log());
            });
        }
        self.timed("SHUTDOWN (onevm terminate)", "nothing is left on either host", |road| {
            road.ask(&["onevm", "terminate", &road.id()]);
            road.cloud.wait_vm(road.vm, Stage::DONE, None, SOON).unwrap();
            for host in HOSTS {
                nothing_left(road.lab, host).unwrap();
                nothing_reserved(road.lab, host).unwrap();
            }
        });
        observer.leave().unwrap();
    }

    /// A line of the table.
    fn timed(&mut self, action: &str, checked: &str, what: impl FnOnce(&mut Self)) {
        let start = Instant::now();
        what(self);
        let line = format!("oned_network: | {action} | {:.1} | {checked} |\n", start.elapsed().as_secs_f64());
        self.table.push_str(&line);
    }

    fn group(&self) -> u32 {
        self.cloud.create("onesecgroup", &group_of(), &[]).unwrap()
    }

    fn networks(&self) -> [u32; 3] {
        let filters = "FILTER_MAC_SPOOFING=YES\nFILTER_IP_SPOOFING=YES\n";
        let range = |third: u8, size: u8| {
            format!("AR=[ TYPE=IP4, IP=10.9.{third}.11, MAC=02:00:0a:09:0{third}:0b, SIZE={size} ]\n")
        };
        [
            format!(
                "NAME=tunnels\nVN_MAD=vxlan\nPHYDEV=eth0\nVLAN_ID={}\nMTU=1450\n{filters}{}",
                guest::VNI,
                range(0, 2)
            ),
            format!("NAME=walls\nVN_MAD=fw\nBRIDGE=fwbr0\n{filters}{}", range(1, 1)),
            format!(
                "NAME=switches\nVN_MAD=ovswitch\nBRIDGE=vsw0\nPHYDEV=eth1\nVLAN_ID={VLAN}\n{filters}{}",
                range(2, 1)
            ),
        ]
        .map(|network| self.cloud.create("onevnet", &network, &[]).unwrap())
    }

    /// oned puts every new network into group 0, which lets everything pass.
    fn has_only(&self, network: u32, group: &str) {
        let network = network.to_string();
        self.lab.write(FRONT_END, "/var/tmp/net", &format!("SECURITY_GROUPS=\"{group}\"\n")).unwrap();
        self.ask(&["onevnet", "update", &network, "/var/tmp/net", "--append"]);
        let document = self.cloud.show("onevnet", &network).unwrap();
        assert_eq!(text(&document, "TEMPLATE/SECURITY_GROUPS"), group);
    }

    fn creates(&self, network: u32) -> u32 {
        let vm = guest::virtual_machine(self.lab.directory(), 0, 0);
        let template = format!(
            "NAME=traveller\nCPU=0.1\nVCPU=1\nMEMORY=128\nCONTEXT=[ NETWORK=\"YES\", TARGET=\"hda\" ]\n
            OS=[ ARCH=\"x86_64\", MACHINE=\"pc\", KERNEL=\"{}\", INITRD=\"{}\", KERNEL_CMD=\"{} also={OTHER}/24\" ]\n
            NIC=[ NETWORK_ID={network}, MODEL=\"virtio\" ]\nRAW=[ TYPE=\"kvm\", VALIDATE=\"NO\", DATA=\"{NO_ROM}\" ]\n",
            vm.kernel.display(),
            vm.initrd.display(),
            vm.cmdline,
        );
        self.cloud.create("onevm", &template, &["--hold"]).unwrap()
    }

    fn id(&self) -> String {
        self.vm.to_string()
    }

    fn ask(&self, words: &[&str]) {
        self.cloud.ask(words).unwrap();
    }

    fn runs_on(&self, host: &str) {
        // oned takes an order before it acts on it.
        sleep(Duration::from_secs(1));
        self.cloud.wait_vm(self.vm, Stage::RUNNING, Some(host), SOON).unwrap();
    }

    fn until(&self, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < SOON, "{}", self.log());
        }
    }

    fn log(&self) -> String {
        self.cloud.log(&format!("{}.log", self.vm))
    }

    /// The device of the NIC that came last.
    fn last_device(&self) -> String {
        let document = self.cloud.show("onevm", &self.id()).unwrap();
        let nics = document.find("TEMPLATE").unwrap().children().filter(|element| element.name == "NIC");
        text(nics.last().unwrap(), "TARGET")
    }

    fn bridge_of(&self, host: &str, device: &str) -> String {
        let script = "ovs-vsctl --timeout=10 port-to-br \"$1\" 2>/dev/null ||
            basename \"$(readlink -f \"/sys/class/net/$1/master\")\"";
        self.lab.script(host, script, &[device]).unwrap().trim().to_owned()
    }
}

fn group_of() -> String {
    let rules = [
        ("ICMP", "inbound", ""),
        ("TCP", "inbound", ", RANGE=\"7\""),
        ("UDP", "inbound", ", RANGE=\"7\""),
        ("ALL", "outbound", ""),
    ];
    let rule = |(protocol, direction, more): (&str, &str, &str)| {
        format!("RULE=[ PROTOCOL={protocol}, RULE_TYPE={direction}{more} ]\n")
    };
    format!("NAME=few\n{}", rules.map(rule).concat())
}
