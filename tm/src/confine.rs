//! A call that may take only a part of its host: the words that a process is started with to be kept there.
//!
//! ```text
//! systemctl --user set-property --runtime backup.110.slice CPUQuota=50% ...      what all backups of a datastore share
//! systemd-run --user --scope --slice=backup.110.slice -- nice -n 19 ionice -c 2 -n 7 -- PROGRAM
//! ```
//!
//! The slice has the name that the stock driver gives it (contract TM 2.3), so that its own `backup` shares in it. The
//! kernel counts there whatever the process and its children do, which no loop of ours could.

use std::path::Path;

use causeway_core::names::DiskPath;
use serde::{Deserialize, Serialize};

use crate::facts::Limits;
use crate::host::Call;

/// A call, and how much of its host it may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confined {
    /// How much.
    pub limits: Limits,
    /// A directory on the disk whose reads and writes are counted.
    pub disk: DiskPath,
    /// What is done.
    pub call: Box<Call>,
}

impl Limits {
    /// The slice's name.
    pub(crate) fn slice(&self) -> String {
        format!("backup.{}.slice", self.datastore)
    }

    /// The slice's properties: also those that are not set, for an admin may have taken a limit away.
    pub(crate) fn properties(&self, disk: &Path) -> Vec<String> {
        let some = |number: Option<u32>, unit: &str| number.map(|n| format!("{n}{unit}")).unwrap_or_default();
        let rate =
            |number: Option<u32>| number.map(|n| format!("{} {n}", disk.display())).unwrap_or_default();
        let mut words = vec![
            format!("CPUQuota={}", some(self.cpu_percent, "%")),
            format!("MemoryMax={}", self.memory_mb.map_or("infinity".to_owned(), |mb| format!("{mb}M"))),
        ];
        for (name, number) in [("IOReadIOPSMax", self.read_iops), ("IOWriteIOPSMax", self.write_iops)] {
            // Emptied first: a rate of another directory stays beside.
            words.push(format!("{name}="));
            words.extend(number.map(|_| format!("{name}={}", rate(number))));
        }
        words
    }

    /// What a process is started with to be in the slice.
    pub(crate) fn in_slice(&self) -> Vec<String> {
        let words = ["systemd-run", "--user", "--scope", "--quiet", "--collect"];
        let mut words = words.map(str::to_owned).to_vec();
        words.extend([format!("--slice={}", self.slice()), "--".to_owned()]);
        words
    }

    /// What a process is started with to come after others.
    pub(crate) fn nicely(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(nice) = self.nice {
            words.extend(["nice".to_owned(), "-n".to_owned(), nice.to_string()]);
        }
        if let Some(level) = self.ionice {
            words.extend(["ionice", "-c", "2", "-n"].map(str::to_owned));
            words.push(level.to_string());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_a_slice_and_words() {
        let limits = Limits {
            datastore: 110,
            driver: "RSYNC".to_owned(),
            read_iops: Some(100),
            cpu_percent: Some(50),
            nice: Some(19),
            ionice: Some(7),
            ..Limits::default()
        };
        let disk = Path::new("/var/lib/one/datastores/0/7");
        assert_eq!(
            limits.properties(disk),
            [
                "CPUQuota=50%",
                "MemoryMax=infinity",
                "IOReadIOPSMax=",
                "IOReadIOPSMax=/var/lib/one/datastores/0/7 100",
                "IOWriteIOPSMax=",
            ]
        );
        assert_eq!(
            limits.in_slice().join(" "),
            "systemd-run --user --scope --quiet --collect --slice=backup.110.slice --"
        );
        assert_eq!(limits.nicely().join(" "), "nice -n 19 ionice -c 2 -n 7");
        assert!(Limits::default().nicely().is_empty());
    }
}
