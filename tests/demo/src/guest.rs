//! The guest: a small Debian kernel with a program that writes memory at a known rate and can tell whether a write was
//! lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use causeway_suite::request::guest::{Datastore, Guest, Nic};

use crate::lab::Lab;

/// Its address; the observer has another one in the same network.
pub const ADDRESS: &str = "10.9.0.11";

/// The observer's address.
pub const OBSERVER: &str = "10.9.0.254/24";

/// VXLAN network identifier.
pub const VNI: u32 = 4;

/// MiB that the guest keeps writing to, and how many pages a second.
pub const WRITES: (u32, u32) = (24, 1500);

/// What a guest under an interpreter may take to boot on a busy machine.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

/// The virtual machine, as oned would describe it.
pub fn virtual_machine(lab: &Path) -> Guest {
    let (mib, pages) = WRITES;
    Guest {
        vm: 7,
        name: "traveller".to_owned(),
        uuid: "3f1f4c1e-6a0d-4b52-9a0e-5d6a2f0c7b11".to_owned(),
        memory_mb: 128,
        vcpu: 1,
        vm_mad: "qemu".to_owned(),
        domain_type: "qemu".to_owned(),
        emulator: "/usr/bin/qemu-kvm-one".to_owned(),
        machine: "pc".to_owned(),
        kernel: lab.join("cache/guest/vmlinux"),
        initrd: lab.join("cache/guest/initrd.gz"),
        cmdline: format!(
            "console=ttyS0 quiet panic=-1 mitigations=off ip4={ADDRESS}/24 mtu=1450 dirty={mib},{pages}"
        ),
        console: None,
        nic: Some(Nic {
            vn_mad: "vxlan".to_owned(),
            mac: "02:00:0a:09:00:0b".to_owned(),
            ip: ADDRESS.to_owned(),
            bridge: format!("onebr{VNI}"),
            phydev: "eth0".to_owned(),
            vni: VNI,
            mtu: None,
            more: Vec::new(),
        }),
        disks: Vec::new(),
        context: true,
        datastore: Datastore {
            id: 0,
            base_path: PathBuf::from("/var/lib/one/datastores/0"),
            tm_mad: "qcow2".to_owned(),
            shared: true,
        },
        front_end: PathBuf::from("/var/lib/one"),
    }
}

/// Waits until the guest's writer answers.
///
/// # Errors
/// It does not in time.
pub fn wait(lab: &Lab) -> anyhow::Result<Duration> {
    let start = Instant::now();
    while lab.run(&["ask", ADDRESS, "get"]).is_err() {
        if start.elapsed() > BOOT_DEADLINE {
            bail!("the guest does not answer {} s after its deploy", BOOT_DEADLINE.as_secs());
        }
    }
    Ok(start.elapsed())
}

/// Has the guest compare every page with what it wrote there last. Gives back how many it looked at.
///
/// # Errors
/// A write was lost, or the guest does not answer.
pub fn verify(lab: &Lab) -> anyhow::Result<u64> {
    let answer = lab.run(&["ask", ADDRESS, "check"])?;
    let number = |key: &str| {
        let word = answer.split_whitespace().find_map(|word| word.strip_prefix(key));
        word.and_then(|n| n.parse::<u64>().ok()).with_context(|| format!("the guest says {answer:?}"))
    };
    let (bad, of) = (number("bad=")?, number("of=")?);
    if bad > 0 || of == 0 {
        bail!("the guest found {bad} of {of} pages with another content than it wrote");
    }
    Ok(of)
}
