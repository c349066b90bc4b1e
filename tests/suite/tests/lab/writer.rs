//! A guest that writes its disk in a known order (`tests/lab/disk-writer.c`), and what can be told from the disk then.

use std::path::Path;

/// Its libvirt name.
pub const GUEST: &str = "one-7";
/// Where its files are.
pub const DATASTORE: &str = "/var/lib/one/datastores/0/7";
/// What it writes at a time.
pub const BLOCK: usize = 64 << 10;
/// The disk's blocks.
pub const BLOCKS: usize = 256;

/// The newest number on the disk; and that it is the disk of one moment: numbers count up from the first block to it, and
/// from the one behind it to the last block there are those of the round before. One block may be `torn` where nothing
/// kept the guest from being cut off in the middle of it.
pub fn newest(disk: &[u8], torn: bool) -> u64 {
    assert_eq!(disk.len(), BLOCK * BLOCKS);
    let numbers = |block: &[u8]| {
        let words = block.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let all: Vec<u64> = words.collect();
        (all[0], all.iter().all(|number| *number == all[0]))
    };
    let blocks: Vec<(u64, bool)> = disk.chunks(BLOCK).map(numbers).collect();
    let mixed = blocks.iter().filter(|(_, whole)| !whole).count();
    assert!(mixed <= usize::from(torn), "{mixed} blocks are torn");
    let newest = blocks.iter().map(|(number, _)| *number).max().unwrap();
    let round = u64::try_from(BLOCKS).unwrap();
    for (at, (number, whole)) in (0_u64..).zip(&blocks) {
        let last = newest.checked_sub(1).and_then(|last| last.checked_sub((last + round - at) % round));
        let expected = last.map_or(0, |last| last + 1);
        assert!(
            *number == expected || !whole,
            "block {at} is {number} and not {expected}, the newest is {newest}"
        );
    }
    newest
}

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
