//! What several tests need: documents as oned sends them, and a private network to act on.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod bridged;
pub mod forged;
pub mod guests;
pub mod limits;
pub mod model;
pub mod side;
pub mod stage;
pub mod switch;
pub mod wire;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_core::names::VmId;
use causeway_vnm::desired::Settings;
use causeway_vnm::root::step::{Log, Step};
use causeway_vnm::root::{Outcome, Places, Request, Response, Verb, action, server};
use nix::sched::{CloneFlags, unshare};

/// The rules of group 0 as oned writes them, and any others.
pub const ALLOW_ALL: &str = "\
<TEMPLATE><SECURITY_GROUP_RULE><PROTOCOL><![CDATA[ALL]]></PROTOCOL><RULE_TYPE><![CDATA[OUTBOUND]]></RULE_TYPE>\
<SECURITY_GROUP_ID><![CDATA[0]]></SECURITY_GROUP_ID></SECURITY_GROUP_RULE></TEMPLATE>\
<TEMPLATE><SECURITY_GROUP_RULE><PROTOCOL><![CDATA[ALL]]></PROTOCOL><RULE_TYPE><![CDATA[INBOUND]]></RULE_TYPE>\
<SECURITY_GROUP_ID><![CDATA[0]]></SECURITY_GROUP_ID></SECURITY_GROUP_RULE></TEMPLATE>";

/// The last octets of a guest's MAC, so that each NIC has its own.
pub fn mac(vm: u32, nic: u32) -> String {
    format!("02:00:0a:{:02x}:{:02x}:{:02x}", vm >> 8, vm & 0xff, nic)
}

/// A NIC of the vxlan driver; `more` is put in front of the attributes, where the first of two counts.
pub fn nic(vm: u32, nic: u32, vni: u32, more: &str) -> String {
    let mac = mac(vm, nic);
    let given = |name: &str| more.contains(&format!("<{name}>")) || more.contains(&format!("<{name}/>"));
    let mut attributes = String::from(more);
    for (name, value) in [
        ("NIC_ID", nic.to_string()),
        ("BRIDGE", format!("onebr.{vni}")),
        ("BRIDGE_TYPE", "linux".to_owned()),
        ("PHYDEV", "up0".to_owned()),
        ("VLAN_ID", vni.to_string()),
        ("MAC", mac),
        ("IP", format!("10.{}.{}.{}", nic % 256, vm % 256, 10)),
        ("SECURITY_GROUPS", "0".to_owned()),
        ("TARGET", format!("one-{vm}-{nic}")),
        ("VN_MAD", "vxlan".to_owned()),
    ] {
        if !given(name) {
            attributes.push_str(&format!("<{name}><![CDATA[{value}]]></{name}>"));
        }
    }
    format!("<TEMPLATE><NIC>{attributes}</NIC></TEMPLATE>")
}

/// The reduced document that a slot gets.
pub fn document(vm: u32, templates: &str) -> String {
    format!(
        "<VM><ID>{vm}</ID><DEPLOY_ID/>{ALLOW_ALL}<HISTORY_RECORDS><HISTORY><HOSTNAME>node1</HOSTNAME></HISTORY>\
         </HISTORY_RECORDS>{templates}</VM>"
    )
}

/// A VM with one NIC in that network.
pub fn vm(id: u32, vni: u32) -> String {
    document(id, &nic(id, 0, vni, ""))
}

/// A request as the resident sends it, for the driver of the first NIC.
pub fn request(verb: Verb, document: &str) -> Request {
    let driver = document.split_once("<VN_MAD>").map_or("vxlan", |(_, rest)| rest.split('<').next().unwrap());
    let driver = if driver.is_empty() { "vxlan" } else { driver };
    Request {
        id: "test-1".parse().unwrap(),
        verb,
        driver: driver.parse().unwrap(),
        args: Vec::new(),
        document: String::new(),
        settings: Settings::default(),
        dry_run: false,
        asked: None,
        deadline_ms: 20_000,
    }
    .with_document(document.as_bytes())
}

/// A host of its own: a network namespace for the calling thread, with an uplink `up0` whose other end is `far0`.
pub struct Host {
    pub places: Places,
    _dir: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root: they make network namespaces");
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Host::here()
    }

    /// In the network that the calling thread is in already.
    pub fn here() -> Self {
        ip("link add up0 mtu 1600 type veth peer name far0 mtu 1600");
        ip("addr add 10.77.0.1/24 dev up0");
        ip("link set up0 up");
        ip("link set far0 up");
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        let places = Places {
            uplinks: path("uplinks"),
            reservations: path("network"),
            locks: path("locks"),
            memory: path("memory"),
            ..Places::default()
        };
        let host = Host { places, _dir: dir };
        host.list("up0\n");
        host
    }

    /// Writes the list of permitted devices.
    pub fn list(&self, text: &str) {
        std::fs::write(&self.places.uplinks, text).unwrap();
    }

    /// One action with the default settings.
    pub fn run(&self, verb: Verb, document: &str) -> Response {
        server::answer(&self.places, &request(verb, document))
    }

    /// One action that must end well.
    pub fn done(&self, verb: Verb, document: &str) -> Vec<String> {
        let response = self.run(verb, document);
        assert_eq!(response.outcome, Outcome::Done, "{verb:?} {response:?}");
        response.changes
    }

    /// One action that must be refused, and change nothing; its text.
    pub fn refused(&self, verb: Verb, document: &str) -> String {
        let (text, changes) = self.taken_back(verb, document);
        assert_eq!(changes, [""; 0]);
        text
    }

    /// One action that must be refused and leave all as it was; its text, and what it did and undid.
    pub fn taken_back(&self, verb: Verb, document: &str) -> (String, Vec<String>) {
        let before = self.snapshot();
        let response = self.run(verb, document);
        assert_same(&self.snapshot(), &before);
        assert!(!self.places.locks.exists() || names(&self.places.locks).is_empty());
        match response.outcome {
            Outcome::Failed(failure) => (failure.text, response.changes),
            Outcome::Done => panic!("{verb:?} was done: {document}"),
        }
    }

    /// Does what libvirt does with a guest's device.
    pub fn plug(&self, tap: &str, bridge: &str) {
        ip(&format!("tuntap add {tap} mode tap"));
        ip(&format!("link set {tap} master {bridge} up"));
    }

    /// Plugs in a device whose other end is held, as QEMU holds a tap: only such a port forwards and learns.
    pub fn plug_held(&self, tap: &str, bridge: &str) {
        ip(&format!("link add {tap} type veth peer name guest"));
        ip("link set guest up");
        ip(&format!("link set {tap} master {bridge} up"));
    }

    /// The reservation of a VM, as JSON.
    pub fn reservation(&self, vm: VmId) -> Option<serde_json::Value> {
        let text = std::fs::read(self.places.reservations.join(format!("{vm}.json"))).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// No file of any VM or bridge is left.
    pub fn assert_no_trace(&self) {
        let mut reservations = names(&self.places.reservations);
        reservations.retain(|name| name != ".collected" && name != "by-bridge" && name != "numbers");
        assert_eq!(reservations, [""; 0]);
        let numbers = self.places.reservations.join("numbers");
        assert!(!numbers.exists() || names(&numbers).is_empty(), "no number outlives its NIC");
        assert_eq!(names(&self.places.reservations.join("by-bridge")), [""; 0]);
        assert_eq!(names(&self.places.locks), [""; 0], "no lock file outlives its object");
    }

    /// Ages the reservation of a VM, as if all that is written there had been that many seconds ago.
    pub fn age(&self, vm: u32, seconds: u64) {
        let mut reserved = self.reservation(VmId(vm)).unwrap();
        let age = |time: &mut serde_json::Value| *time = (time.as_u64().unwrap() - seconds).into();
        age(&mut reserved["written"]);
        let presence = reserved["presence"].as_object_mut().unwrap();
        presence.values_mut().filter_map(|found| found.get_mut("missed_since")).for_each(age);
        std::fs::write(self.places.reservations.join(format!("{vm}.json")), reserved.to_string()).unwrap();
        let _ = std::fs::remove_file(self.places.reservations.join(".collected"));
    }

    /// The names of all devices but the uplink's and the loop.
    pub fn links(&self) -> Vec<String> {
        let links = json("link");
        let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        let mut names: Vec<String> = names.filter(|n| !["lo", "up0", "far0"].contains(&n.as_str())).collect();
        names.sort();
        names
    }

    /// What the kernel says about one device.
    pub fn link(&self, name: &str) -> serde_json::Value {
        json(&format!("link show {name}"))[0].clone()
    }

    /// Every device, one per line, without what moves by itself: equal texts are equal networks.
    pub fn snapshot(&self) -> Vec<String> {
        let mut links = json("link");
        still(&mut links);
        links.as_array().unwrap().iter().map(ToString::to_string).collect()
    }
}

/// Runs an action that dies before its `step`-th step; false once it has no such step.
///
/// The stack is unwound without a word to the kernel, so the state is that after a kill: whatever was done is done,
/// whatever was not is not, and the locks are free.
pub fn dies_before(host: &Host, request: &Request, step: usize) -> bool {
    let mut count = 0;
    let mut before = |_: &Step<'_>| {
        assert!(count != step, "killed by the test");
        count += 1;
    };
    let mut log = Log::new(&mut before);
    catch_unwind(AssertUnwindSafe(|| action::run(&host.places, request, &mut log))).is_err()
}

/// Takes timers and carrier states out.
pub fn still(value: &mut serde_json::Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|key, _| !key.contains("timer") && key != "operstate");
        // The kernel notices carriers when it finds the time.
        if let Some(flags) = fields.get_mut("flags").and_then(|flags| flags.as_array_mut()) {
            flags.retain(|flag| !["NO-CARRIER", "LOWER_UP", "M-DOWN"].iter().any(|carrier| flag == carrier));
        }
        fields.values_mut().for_each(still);
    } else if let Some(list) = value.as_array_mut() {
        list.iter_mut().for_each(still);
    }
}

fn names(dir: &Path) -> Vec<OsString> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// Fails with the lines that differ, and only those.
pub fn assert_same(now: &[String], before: &[String]) {
    let gone: Vec<&String> = before.iter().filter(|line| !now.contains(line)).collect();
    let new: Vec<&String> = now.iter().filter(|line| !before.contains(line)).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}, new: {new:#?}");
}

/// Runs `ip` in this thread's namespace.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(words: &str) -> serde_json::Value {
    let text = ip(&format!("-d -j {words}"));
    // `ip` leaves empty objects for devices that a filter takes out.
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    if let Some(list) = value.as_array_mut() {
        list.retain(|item| item.get("ifname").is_some());
    }
    value
}
