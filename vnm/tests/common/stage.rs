//! A host with a switch, and what the front-end's actions and libvirt do there.

use causeway_vnm::fabric::ovs;
use causeway_vnm::root::{Outcome, Request, Verb, server};

use super::bridged::enter;
use super::guests::Guest;
use super::switch::Switch;
use super::{Host, ip, request};

/// A host with a switch.
pub struct Stage {
    pub host: Host,
    pub switch: Switch,
}

impl Stage {
    pub fn new() -> Self {
        enter();
        let switch = Switch::start();
        let mut host = Host::here();
        host.places.switch = ovs::Places { database: switch.database(), run: switch.dir().to_owned() };
        Stage { host, switch }
    }

    /// Does what libvirt does with a guest's device.
    pub fn plug(&self, guest: &Guest) {
        let add = ["--timeout=5", "--", "--may-exist", "add-port", "br0", &guest.tap];
        let set = ["--", "set", "Interface", &guest.tap, "external-ids:iface-status=active"];
        self.switch.tool("ovs-vsctl", &[&add[..], &set].concat());
    }

    pub fn unplug(&self, guest: &Guest) {
        self.switch.tool("ovs-vsctl", &["--timeout=5", "--", "--if-exists", "del-port", &guest.tap]);
        ip(&format!("link del {}", guest.tap));
    }

    pub fn comes(&self, number: u32, vlan: Option<u16>, document: &str) -> Guest {
        self.host.done(Verb::Pre, document);
        let guest = Guest::device(number, vlan);
        self.plug(&guest);
        self.host.done(Verb::Post, document);
        guest
    }

    pub fn ask(&self, words: &[&str]) -> String {
        self.switch.tool("ovs-vsctl", words)
    }

    pub fn flows(&self) -> Vec<String> {
        let dump = self.switch.tool("ovs-ofctl", &["-O", "OpenFlow14", "dump-flows", "br0", "--no-stats"]);
        dump.lines().map(|line| line.trim().to_owned()).filter(|line| line.contains("cookie=0xca")).collect()
    }

    pub fn update(&self, document: &str) -> Outcome {
        let args = vec!["-".to_owned(), "3".to_owned()];
        server::answer(&self.host.places, &Request { args, ..request(Verb::UpdateNic, document) }).outcome
    }
}
