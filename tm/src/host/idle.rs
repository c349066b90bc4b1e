//! The disk's time when nobody else wants it.

use std::process::{Command, Stdio};

/// For as long as the value lives, this process and what it starts read and write disks when nobody else wants them.
pub struct Idle(());

impl Idle {
    /// Begins it.
    pub fn begin() -> Self {
        set("3");
        Idle(())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        set("0");
    }
}

/// The kernel has a call for it that no safe interface reaches; `ionice` comes with the system's base.
fn set(class: &str) {
    // The thread that copies is the process's first.
    let process = std::process::id().to_string();
    let mut command = Command::new("ionice");
    command.args(["-c", class, "-p", &process]).stdin(Stdio::null()).stdout(Stdio::null());
    if !command.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        tracing::warn!(class, "ionice: the disk's priority is as it was");
    }
}
