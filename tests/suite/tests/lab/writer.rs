//! A guest that writes its disk in a known order (`tests/lab/disk-writer.c`), as libvirt gets it.

use std::path::Path;

/// Its libvirt name.
pub const GUEST: &str = "one-7";
/// Where its files are.
pub const DATASTORE: &str = "/var/lib/one/datastores/0/7";

/// The guest: it writes `vda`, which begins as layer 0 of disk 0; `second` is its plain `vdb`, `more` other devices.
pub fn domain(lab: &Path, second: &str, more: &str) -> String {
    let lab = lab.display();
    format!(
        "<domain type='qemu'><name>{GUEST}</name><uuid>3f1f4c1e-6a0d-4b52-9a0e-5d6a2f0c7b12</uuid>
        <memory unit='MiB'>128</memory><vcpu>1</vcpu>
        <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{lab}/cache/guest/vmlinux</kernel>
        <initrd>{lab}/cache/guest/initrd.gz</initrd>
        <cmdline>console=ttyS0 quiet panic=-1 mitigations=off write=/dev/vda,100</cmdline></os>
        <features><acpi/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
        <cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>
        <devices><emulator>/usr/bin/qemu-kvm-one</emulator>
        <controller type='usb' model='none'/><memballoon model='none'/>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
        <source file='{DATASTORE}/disk.0.snap/0'/><target dev='vda' bus='virtio'/></disk>
        <disk type='file' device='disk'><driver name='qemu' type='raw'/>
        <source file='{DATASTORE}/{second}'/><target dev='vdb' bus='virtio'/></disk>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        {more}</devices></domain>"
    )
}
