//! Disks as a VM document describes them: the attributes that decide what is done, typed; the rest in the element.

use std::sync::Arc;

use super::reading::{DocumentError, Reading};
use super::tree::Element;
use super::words::DriverName;

/// One `DISK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// `DISK_ID`: the number in `disk.<n>`.
    pub disk_id: u32,
    /// `TYPE`: `FILE`, `BLOCK`, `RBD`, `CDROM`, `SWAP`, `FS`, ...
    pub disk_type: Option<String>,
    /// `TM_MAD` of the image's datastore; absent for a volatile disk.
    pub tm_mad: Option<DriverName>,
    /// `SOURCE`: the image in its datastore, a path or `pool/name`.
    pub source: Option<String>,
    /// `TARGET`: the device in the guest, `vda`.
    pub target: Option<String>,
    /// `CLONE`: the VM has its own copy.
    pub clone: bool,
    /// `PERSISTENT`.
    pub persistent: bool,
    /// `FORMAT`: `raw`, `qcow2`.
    pub format: Option<String>,
    /// `DRIVER`: the format as QEMU is told it.
    pub driver: Option<String>,
    /// `SIZE`, MiB.
    pub size_mb: Option<u64>,
    /// `ORIGINAL_SIZE`, MiB: that of the image.
    pub original_size_mb: Option<u64>,
    /// `READONLY`.
    pub readonly: bool,
    /// `SHAREABLE`.
    pub shareable: bool,
    /// `SAVE`: its contents go back to the image at the end.
    pub save: bool,
    /// `IMAGE_ID`.
    pub image_id: Option<u32>,
    /// `DATASTORE_ID`: the image's datastore.
    pub datastore_id: Option<u32>,
    /// `ATTACH`: this is the one being plugged or unplugged.
    pub attach: bool,
    /// `RESIZE`: this is the one being grown.
    pub resize: bool,
    /// `DISK_SNAPSHOT_ACTIVE`: this is the one a snapshot is made of.
    pub snapshot_active: bool,
    /// `DISK_SNAPSHOT_ID`: that snapshot.
    pub snapshot_id: Option<u32>,
    /// The element itself: throttling, caching, Ceph and the rest. May hold secrets.
    pub element: Arc<Element>,
}

impl Disk {
    /// Reads a disk; `None` (with a fault) if it has no usable `DISK_ID`.
    pub(super) fn read(
        element: &Arc<Element>,
        parent: &str,
        faults: &mut Vec<DocumentError>,
    ) -> Option<Disk> {
        let mut from = Reading::of_many(element, parent, "DISK_ID", faults);
        if from.text("DISK_ID").is_none() {
            from.missing("DISK_ID");
        }
        let disk_id = from.get("DISK_ID")?;
        Some(Disk {
            disk_id,
            disk_type: from.text("TYPE"),
            tm_mad: from.name("TM_MAD"),
            source: from.text("SOURCE"),
            target: device(&mut from, "TARGET"),
            clone: from.flag("CLONE"),
            persistent: from.flag("PERSISTENT"),
            format: from.text("FORMAT"),
            driver: from.text("DRIVER"),
            size_mb: from.get("SIZE"),
            original_size_mb: from.get("ORIGINAL_SIZE"),
            readonly: from.flag("READONLY"),
            shareable: from.flag("SHAREABLE"),
            save: from.flag("SAVE"),
            image_id: from.get("IMAGE_ID"),
            datastore_id: from.get("DATASTORE_ID"),
            attach: from.flag("ATTACH"),
            resize: from.flag("RESIZE"),
            snapshot_active: from.flag("DISK_SNAPSHOT_ACTIVE"),
            snapshot_id: from.get("DISK_SNAPSHOT_ID"),
            element: Arc::clone(element),
        })
    }

    /// The place of the target's last letter: `vda` is 0, `vdb` is 1 (the `index` of contract VMM 2.4, ATTACHDISK).
    pub fn target_index(&self) -> Option<u8> {
        let last = self.target.as_ref()?.bytes().last()?;
        last.is_ascii_lowercase().then(|| last - b'a')
    }
}

/// A device name in the guest; it becomes an argument and a part of libvirt's XML.
pub(super) fn device(from: &mut Reading<'_>, name: &str) -> Option<String> {
    let text = from.text(name)?;
    let ok = text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if !ok {
        from.fault(name, &text, "a device name such as vda");
    }
    Some(text).filter(|_| ok)
}
