//! `:tproxy:` by the built executables: the stand-alone slot resolves names, causeway-root makes the services of a bridge, and the
//! stock program is told. Each test has a network and a root file system of its own.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use causeway_core::document::encode;

const HOST: &str = env!("CARGO_BIN_EXE_causeway-host");
const ROOT: &str = env!("CARGO_BIN_EXE_causeway-root");

/// A bridge of the operator's, which is listed.
const PREPARE: &str = "\
set -eu
for d in /run /var/lib /etc/causeway; do mkdir -p $d; mount -t tmpfs -o mode=755 host $d; done
echo br0 >/etc/causeway/uplinks
ip link add br0 type bridge
ip link set br0 up
";

const CONF: &str = "\
:tproxy:
- :service_port: 5030
  :remote_addr: localhost
  :remote_port: 5031
- :service_port: 80
  :remote_addr: no-such-host.invalid
  :remote_port: 80
";

#[test]
fn a_network_has_its_services_from_its_first_guest_to_its_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let document = "<VM><ID>7</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><NETWORK_ID>3</NETWORK_ID><VN_MAD>bridge</VN_MAD>\
                    <BRIDGE>br0</BRIDGE><MAC>02:00:00:00:00:07</MAC></NIC></TEMPLATE></VM>";
    fs::write(path("in"), encode(document.as_bytes())).unwrap();
    for below in ["remotes/etc/vnm", "remotes/vnm"] {
        fs::create_dir_all(path(below)).unwrap();
    }
    fs::write(path("remotes/etc/vnm/OpenNebulaNetwork.conf"), CONF).unwrap();
    let program = path("remotes/vnm/tproxy");
    fs::write(&program, format!("#!/bin/sh\necho $* >>{}\n", path("told").display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "{PREPARE}cd {}\n\
         slot() {{ {HOST} slot --root {ROOT} --state state --remotes {} --settings none vnm/bridge/$1 -- node1 <in; }}\n\
         slot pre\nls /run/netns >made\nnft list map ip one_tproxy ep_br0 >>made\nip -br link show dev br0b >>made\n\
         slot pre\nslot clean\nls /run/netns >left\nnft list ruleset >>left\nip -br link >>left\n",
        dir.path().display(),
        path("remotes").display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    let made = read("made");
    for part in ["one_tproxy_br0", "5030 : 127.0.0.1 . 5031", "br0b@"] {
        assert!(made.contains(part), "{part} is not in {made}");
    }
    let missing =
        "WARN: OpenNebulaNetwork.conf: tproxy remote_addr \"no-such-host.invalid\" has no IPv4 address";
    assert!(said.contains(missing), "{said}");
    let left = read("left");
    assert!(!left.contains("one_tproxy") && !left.contains("br0b") && left.contains("br0"), "{left}");
    assert_eq!(read("told"), "start\nreload\n".repeat(3));
}
