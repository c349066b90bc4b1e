//! `update_nic` of limits by the built executables: the stand-alone slot asks libvirt (its own test hypervisor, in memory) and
//! has causeway-root look after the network. Each test has a network and a root file system of its own.

#![cfg(test)]

use std::fs;
use std::process::Command;

use causeway_core::document::encode;

const HOST: &str = env!("CARGO_BIN_EXE_causeway-host");
const ROOT: &str = env!("CARGO_BIN_EXE_causeway-root");
const GUEST: &str = "6e1f0f2a-0000-4000-8000-000000000007";

/// A bridge of the operator's, with the guest's device in it, as `bridge` takes it where it is listed.
const PREPARE: &str = "\
set -eu
for d in /run /var/lib /etc; do mount -t tmpfs -o mode=755 host $d; done
mkdir /etc/causeway
echo br0 >/etc/causeway/uplinks
ip link add br0 type bridge
ip link set br0 up
ip tuntap add one-7-0 mode tap
ip link set one-7-0 master br0 up
";

struct Slot {
    dir: tempfile::TempDir,
}

impl Slot {
    /// libvirt knows a guest with one interface, which has these limits.
    fn new(bandwidth: &str) -> Self {
        let slot = Slot { dir: tempfile::tempdir().unwrap() };
        slot.write(
            "node.xml",
            &format!(
                "<node><domain type='test'><name>one-7</name><uuid>{GUEST}</uuid><memory>8192</memory><vcpu>1</vcpu>\
                 <os><type>hvm</type></os><devices><interface type='bridge'><source bridge='br0'/>\
                 <mac address='02:00:00:00:00:07'/><target dev='one-7-0'/>{bandwidth}</interface></devices></domain></node>"
            ),
        );
        slot
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// Runs `update_nic` with these attributes; whether it ended well, and what it said.
    fn update(&self, uri: &str, attributes: &str) -> (bool, String) {
        let document = format!(
            "<VM><ID>7</ID><DEPLOY_ID>{GUEST}</DEPLOY_ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><NETWORK_ID>3</NETWORK_ID>\
             <VN_MAD>bridge</VN_MAD><BRIDGE>br0</BRIDGE><MAC>02:00:00:00:00:07</MAC><TARGET>one-7-0</TARGET>{attributes}\
             </NIC><VNET_UPDATE><INBOUND_AVG_BW/></VNET_UPDATE></TEMPLATE></VM>"
        );
        self.write("in", &encode(document.as_bytes()));
        let state = self.path("state");
        let script = format!(
            "{PREPARE}exec {HOST} slot --uri {uri} --root {ROOT} --state {state} --remotes {state} --settings {state}/none \
             vnm/bridge/update_nic {GUEST} 3 <{}",
            self.path("in")
        );
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script]);
        let output = command.output().unwrap();
        assert_eq!(output.stdout, b"");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    fn node(&self) -> String {
        format!("test://{}", self.path("node.xml"))
    }
}

#[test]
fn a_guest_gets_other_limits_while_it_runs() {
    let slot = Slot::new("<bandwidth><inbound average='9'/><outbound average='8'/></bandwidth>");
    let new = "<INBOUND_AVG_BW>1000</INBOUND_AVG_BW><INBOUND_PEAK_BW>2000</INBOUND_PEAK_BW>";
    let (done, said) = slot.update(&slot.node(), new);
    assert!(done, "{said}");
    let line = "DEBUG: limit one-7-0: inbound 1000 KiB/s, at most 2000, outbound no limit";
    assert!(said.lines().any(|it| it == line), "{said}");
    // What it has already is not set.
    let (done, said) =
        slot.update(&slot.node(), "<INBOUND_AVG_BW>9</INBOUND_AVG_BW><OUTBOUND_AVG_BW>8</OUTBOUND_AVG_BW>");
    assert!(done && !said.contains("limit one-7-0"), "{said}");
}

#[test]
fn what_can_not_be_limited_is_told_and_leaves_the_network_alone() {
    let slot = Slot::new("");
    let (done, said) =
        slot.update(&slot.node(), "<INBOUND_AVG_BW>9</INBOUND_AVG_BW><INBOUND_PEAK_BW>8</INBOUND_PEAK_BW>");
    assert!(!done && said == "NIC 0: INBOUND_PEAK_BW is \"8\", not 9 (INBOUND_AVG_BW) or more\n", "{said}");
    let (done, said) = slot.update(&slot.node(), "<INBOUND_AVG_BW>a lot</INBOUND_AVG_BW>");
    assert!(!done && said.contains("INBOUND_AVG_BW is \"a lot\""), "{said}");

    let nobody = format!("qemu+unix:///system?socket={}", slot.path("nobody"));
    let (done, said) = slot.update(&nobody, "<INBOUND_AVG_BW>9</INBOUND_AVG_BW>");
    assert!(!done && said.starts_with("connect to qemu+unix:///system"), "{said}");

    let elsewhere = Slot::new("");
    let other =
        fs::read_to_string(elsewhere.path("node.xml")).unwrap().replace(GUEST, &GUEST.replace('7', "8"));
    elsewhere.write("node.xml", &other);
    let (done, said) = elsewhere.update(&elsewhere.node(), "<INBOUND_AVG_BW>9</INBOUND_AVG_BW>");
    assert!(
        done && said.contains(&format!("WARN: {GUEST} is not here, so its limits were not changed")),
        "{said}"
    );
}
