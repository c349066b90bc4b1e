//! The lab's guest: a small Debian kernel with a program that writes memory at a known rate and can tell whether a write
//! was lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Lab, LabError};
use crate::request::guest::{Datastore, Guest, Nic};

/// Its address; the observer has another one in the same network.
pub const ADDRESS: &str = "10.9.0.11";

/// The observer's address.
pub const OBSERVER: &str = "10.9.0.254/24";

/// VXLAN network identifier.
pub const VNI: u32 = 4;

/// What a guest under an interpreter may take to boot on a busy machine.
const BOOT_DEADLINE: Duration = Duration::from_secs(180);

/// How often a guest is asked to look at its memory: a datagram may be lost while it has just moved.
const CHECKS: u32 = 6;

/// The virtual machine, as oned would describe it, that keeps writing to `mib` MiB of its memory, `pages` a second.
pub fn virtual_machine(lab: &Path, mib: u32, pages: u32) -> Guest {
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
        rules: Vec::new(),
        disks: Vec::new(),
        context: true,
        files: Vec::new(),
        agent: false,
        datastore: Datastore {
            id: 0,
            base_path: PathBuf::from("/var/lib/one/datastores/0"),
            tm_mad: "qcow2".to_owned(),
            shared: true,
        },
        front_end: PathBuf::from("/var/lib/one"),
    }
}

/// Puts the front-end's files of the guest and its system datastore in place, as oned does before a DEPLOY.
///
/// # Errors
/// They can't be written.
pub fn prepare(lab: &Lab, guest: &Guest) -> Result<(), LabError> {
    let directory = format!("/var/lib/one/vms/{}", guest.vm);
    lab.write("fe", &format!("{directory}/deployment.0"), &guest.deployment())?;
    lab.write("fe", &format!("{directory}/context.sh"), &format!("ETH0_IP='{ADDRESS}'\n"))?;
    let datastore = guest.datastore.base_path.display().to_string();
    lab.run(&["one", "fe", "mkdir", "-p", &datastore]).map(drop)
}

/// Waits until the guest's network and its writer answer. Needs the observer.
///
/// # Errors
/// It does not in time.
pub fn wait(lab: &Lab) -> Result<Duration, LabError> {
    let start = Instant::now();
    // First the short question: a datagram that is lost costs its asker ten seconds.
    let up = || {
        lab.run(&["exec", "fab", "ping", "-q", "-c", "1", "-W", "1", ADDRESS])?;
        lab.run(&["ask", ADDRESS, "get"])
    };
    while up().is_err() {
        if start.elapsed() > BOOT_DEADLINE {
            let seconds = BOOT_DEADLINE.as_secs();
            return LabError::promise(format!("the guest does not answer {seconds} s after its deploy"));
        }
    }
    Ok(start.elapsed())
}

/// Has the guest compare every page with what it wrote there last. Gives back how many it looked at.
///
/// # Errors
/// A write was lost, or the guest does not answer.
pub fn verify(lab: &Lab) -> Result<u64, LabError> {
    let mut tries = 0;
    let answer = loop {
        tries += 1;
        match lab.run(&["ask", ADDRESS, "check"]) {
            Ok(answer) if !answer.is_empty() => break answer,
            Err(error) if tries == CHECKS => return Err(error),
            Ok(_) if tries == CHECKS => return LabError::promise("the guest says nothing"),
            _ => {}
        }
    };
    let number = |key: &str| {
        let word = answer.split_whitespace().find_map(|word| word.strip_prefix(key));
        let number = word.and_then(|n| n.parse::<u64>().ok());
        number.ok_or_else(|| LabError::Promise(format!("the guest says {answer:?}")))
    };
    let (bad, of) = (number("bad=")?, number("of=")?);
    if bad > 0 || of == 0 {
        return LabError::promise(format!(
            "the guest found {bad} of {of} pages with another content than it wrote"
        ));
    }
    Ok(of)
}
