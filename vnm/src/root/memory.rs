//! The host's memory: caches dropped, free pages brought together.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use causeway_core::answer::{Failure, Kind};

/// The switches below `/proc/sys/vm` and what they are turned to, in the order of the stock `sysctl` call.
const SWITCHES: [(&str, &str); 2] = [("drop_caches", "3"), ("compact_memory", "1")];

/// Turns both. The kernel returns when it is done, which may take seconds on a large host.
///
/// # Errors
/// The kernel has no such switch, or refuses.
pub(super) fn compact(directory: &Path) -> Result<(), Failure> {
    for (name, value) in SWITCHES {
        let path = directory.join(name);
        let turned =
            OpenOptions::new().write(true).open(&path).and_then(|mut f| f.write_all(value.as_bytes()));
        turned.map_err(|e| {
            Failure::new(Kind::HostState, format!("write {value} to {}: {e}", path.display()))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn both_switches_are_turned_and_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let failure = compact(dir.path()).unwrap_err();
        assert!(failure.text.contains("write 3 to ") && failure.text.contains("/drop_caches"), "{failure}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        for (name, _) in SWITCHES {
            fs::write(dir.path().join(name), "").unwrap();
        }
        compact(dir.path()).unwrap();
        for (name, value) in SWITCHES {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), value);
        }
    }
}
