//! The parts of a VM document that concern the guest itself: features, capacity, snapshots, commands.

use std::fmt;

use super::reading::{DocumentError, Form, Reading};
use super::tree::Element;
use super::words::DriverName;

/// `FEATURES/MIGRATE_AUTO_CONVERGE`: how much a guest that dirties memory too fast is slowed down, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoConverge {
    /// The first step, 1 to 99.
    pub initial: u8,
    /// Each further step, 1 to 99.
    pub increment: Option<u8>,
}

impl Form for AutoConverge {
    const ACCEPTED: &'static str = "initial[,increment], each from 1 to 99";
    fn read(text: &str) -> Option<Self> {
        let percent = |text: &str| u8::read(text.trim()).filter(|n| (1..=99).contains(n));
        match text.split_once(',') {
            None => Some(AutoConverge { initial: percent(text)?, increment: None }),
            Some((initial, increment)) => {
                Some(AutoConverge { initial: percent(initial)?, increment: Some(percent(increment)?) })
            }
        }
    }
}

/// What `FEATURES` says about migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// `MIGRATE_AUTO_CONVERGE`.
    pub migrate_auto_converge: Option<AutoConverge>,
    /// `MIGRATE_COMPRESSED`.
    pub migrate_compressed: bool,
}

impl Features {
    pub(super) fn read(element: &Element, parent: &str, faults: &mut Vec<DocumentError>) -> Self {
        let mut from = Reading::new(element, format!("{parent}/FEATURES"), faults);
        Features {
            migrate_auto_converge: from.get("MIGRATE_AUTO_CONVERGE"),
            migrate_compressed: from.flag("MIGRATE_COMPRESSED"),
        }
    }
}

/// How memory is changed while the guest runs (`MEMORY_RESIZE_MODE`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResizeMode {
    /// By the balloon.
    #[default]
    Ballooning,
    /// By plugging memory modules.
    Hotplug,
}

impl ResizeMode {
    pub(super) const WORDS: [(&str, ResizeMode); 2] =
        [("BALLOONING", ResizeMode::Ballooning), ("HOTPLUG", ResizeMode::Hotplug)];
}

/// `RESIZE`: the capacity *before* the change (contract VMM 2.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OldCapacity {
    /// `CPU`: a share, as text (`0.1`).
    pub cpu: Option<String>,
    /// `VCPU`.
    pub vcpu: Option<u32>,
    /// `MEMORY`, MiB.
    pub memory_mb: Option<u64>,
}

impl OldCapacity {
    pub(super) fn read(element: &Element, parent: &str, faults: &mut Vec<DocumentError>) -> Self {
        let mut from = Reading::new(element, format!("{parent}/RESIZE"), faults);
        OldCapacity { cpu: from.text("CPU"), vcpu: from.get("VCPU"), memory_mb: from.get("MEMORY") }
    }
}

/// A snapshot of the whole VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemSnapshot {
    /// `SNAPSHOT_ID`.
    pub snapshot_id: u32,
    /// `HYPERVISOR_ID`: its name in libvirt, `snap-<id>`; absent until it is made.
    pub hypervisor_id: Option<DriverName>,
    /// `NAME`, for messages.
    pub name: Option<String>,
    /// `ACTIVE`: the action is about this one.
    pub active: bool,
}

impl SystemSnapshot {
    /// Reads a snapshot; `None` (with a fault) if it has no usable id.
    pub(super) fn read(element: &Element, parent: &str, faults: &mut Vec<DocumentError>) -> Option<Self> {
        let mut from = Reading::of_many(element, parent, "SNAPSHOT_ID", faults);
        if from.text("SNAPSHOT_ID").is_none() {
            from.missing("SNAPSHOT_ID");
        }
        Some(SystemSnapshot {
            snapshot_id: from.get("SNAPSHOT_ID")?,
            hypervisor_id: from.name("HYPERVISOR_ID"),
            name: from.text("NAME"),
            active: from.flag("ACTIVE"),
        })
    }
}

/// `QEMU_GA_EXEC`: a command for the guest agent.
#[derive(Clone, PartialEq, Eq)]
pub struct GuestExec {
    /// `COMMAND`, as the user wrote it.
    pub command: String,
    /// `STDIN`, base64.
    pub stdin: String,
}

impl GuestExec {
    pub(super) fn read(element: &Element) -> Self {
        GuestExec {
            command: element.value("COMMAND").unwrap_or_default(),
            stdin: element.value("STDIN").unwrap_or_default(),
        }
    }
}

/// A command may hold a password.
impl fmt::Debug for GuestExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestExec").finish_non_exhaustive()
    }
}
