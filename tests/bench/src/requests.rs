//! Requests for measuring: recorded ones with other VMs in them.

use std::fs;
use std::path::PathBuf;

use causeway_suite::front_end::FrontEnd;
use causeway_suite::request::guest::{Datastore, Nic};
use causeway_suite::request::{Guest, Request};

/// A VM of the bench. Without a network its `pre` and `post` have nothing to do.
pub fn guest(site: &FrontEnd, vm: u32, networked: bool) -> Guest {
    let nic = Nic {
        vn_mad: "vxlan".to_owned(),
        mac: format!("02:00:0a:0a:{:02x}:{:02x}", vm / 256, vm % 256),
        ip: format!("10.10.{}.{}", vm / 256, vm % 256),
        bridge: "onebr9".to_owned(),
        phydev: "eth0".to_owned(),
        vni: 9,
        mtu: None,
        more: Vec::new(),
    };
    Guest {
        vm,
        name: "bench".to_owned(),
        uuid: format!("00000000-0000-4000-8000-0000{vm:08x}"),
        memory_mb: 64,
        vcpu: 1,
        vm_mad: "kvm".to_owned(),
        domain_type: "test".to_owned(),
        emulator: "/usr/bin/qemu-kvm-one".to_owned(),
        machine: "pc".to_owned(),
        kernel: PathBuf::from("/boot/vmlinuz"),
        initrd: PathBuf::from("/boot/initrd"),
        cmdline: String::new(),
        console: None,
        nic: networked.then_some(nic),
        rules: Vec::new(),
        disks: Vec::new(),
        context: true,
        files: Vec::new(),
        agent: false,
        datastore: Datastore {
            id: 0,
            base_path: site.var().join("datastores/0"),
            tm_mad: "qcow2".to_owned(),
            shared: true,
        },
        front_end: site.var(),
    }
}

/// A DEPLOY with its files on the front-end. libvirt's test driver knows one architecture and few devices, so its
/// deployment file is a plain one.
///
/// # Errors
/// The files can't be written.
pub fn deploy(site: &FrontEnd, guest: &Guest) -> anyhow::Result<Request> {
    let mut request = guest.deploy("node1")?;
    let domain = format!(
        "<domain type='test'><name>one-{vm}</name><uuid>{uuid}</uuid><memory>65536</memory><vcpu>1</vcpu>\
         <os><type arch='i686'>hvm</type></os><metadata>\
         <one:vm xmlns:one=\"http://opennebula.org/xmlns/libvirt/1.0\"><one:system_datastore>{directory}\
         </one:system_datastore></one:vm></metadata></domain>\n",
        vm = guest.vm,
        uuid = guest.uuid,
        directory = guest.directory().display(),
    );
    let directory = site.var().join("vms").join(guest.vm.to_string());
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("deployment.0"), &domain)?;
    fs::write(directory.join("context.sh"), "ETH0_IP='10.10.0.1'\n")?;
    request.deployment = Some(domain);
    Ok(request)
}
