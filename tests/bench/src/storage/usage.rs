//! What the machine did meanwhile: processes begun, and time on its processors by us and all that we started.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A control group of this process's own, which all that it starts is born into.
pub struct Group {
    /// Where the kernel tells its processor time; none where there is no right to make a group.
    times: Option<PathBuf>,
}

/// What was used up to now.
#[derive(Clone, Copy)]
pub struct Used {
    /// Processes and threads begun on this machine.
    pub forks: u64,
    /// On all processors together.
    pub processor: Option<Duration>,
}

impl Group {
    /// Moves this process into a new group, if it may.
    pub fn enter() -> Group {
        let name = format!("causeway-bench-{}", std::process::id());
        // Control groups of version 2, and the accountant of version 1.
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/cpuacct"];
        let entered = roots.iter().map(|root| Path::new(root).join(&name)).find(|group| {
            let parent = group.parent().unwrap_or(Path::new("/"));
            parent.join("cgroup.procs").exists()
                && fs::create_dir(group).is_ok()
                && fs::write(group.join("cgroup.procs"), "0").is_ok()
        });
        Group { times: entered }
    }

    /// What was used up to now.
    pub fn used(&self) -> Used {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let forks = stat.lines().find_map(|line| line.strip_prefix("processes ")?.parse().ok());
        Used { forks: forks.unwrap_or(0), processor: self.times.as_deref().and_then(processor) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = &self.times else { return };
        let parent = group.parent().unwrap_or(Path::new("/"));
        // Whatever lives on is not waited for: a group that can't be removed harms nobody.
        let _ = fs::write(parent.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(group);
    }
}

fn processor(group: &Path) -> Option<Duration> {
    if let Ok(nanos) = fs::read_to_string(group.join("cpuacct.usage")) {
        return nanos.trim().parse().ok().map(Duration::from_nanos);
    }
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.parse().ok().map(Duration::from_micros)
}
