//! What an admin can set.

use std::time::Duration;

/// Settings of the plans; the caller reads them from `tmrc` and its own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmSettings {
    /// `QCOW2_OPTIONS` of `tmrc`, split into words: handed to `qemu-img create` as they are.
    pub qcow2_options: Vec<String>,
    /// Longest time of a step that copies no data.
    pub short_deadline: Duration,
    /// Longest time of a step that copies an image. The stock driver waits for ever (contract TM 1.1, `-w`).
    pub copy_deadline: Duration,
}

impl Default for TmSettings {
    fn default() -> Self {
        TmSettings {
            qcow2_options: Vec::new(),
            short_deadline: Duration::from_secs(120),
            copy_deadline: Duration::from_secs(24 * 3600),
        }
    }
}
