//! The forms that a disk may have, and a VM with one of them.

use super::Datastores;

/// Whether it is qcow2, and whether it is the image itself.
pub const FORMS: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

/// What QEMU calls it.
pub fn format_of(qcow2: bool) -> &'static str {
    if qcow2 { "qcow2" } else { "raw" }
}

impl Datastores {
    /// Gives the VM a disk of some form, of an image that is there.
    pub fn give(&self, qcow2: bool, persistent: bool) {
        self.done(&match (qcow2, persistent) {
            (true, false) => self.overlay(),
            (true, true) => self.link("chain"),
            (false, false) => self.flat(),
            (false, true) => self.link("image"),
        });
    }

    /// Makes the VM's directory, an image, and of it the VM's disk.
    pub fn vm_with_disk(&self, qcow2: bool, persistent: bool) {
        self.vm_dir();
        if qcow2 {
            self.qcow2_image()
        } else {
            drop(self.raw_image())
        }
        self.give(qcow2, persistent);
    }
}
