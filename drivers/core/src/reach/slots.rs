//! Whose executable stands in a slot.
//!
//! Our package puts a two-line wrapper into each slot it fills. A slot that holds exactly such a wrapper is ours, and
//! the work is done without starting it. Anything else there belongs to the stock release, a vendor or the admin, and
//! is run as the contract says. No list in a configuration file can go stale this way: what lies in the slot counts.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::plan::Slot;

/// Whose executable it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Our wrapper.
    Ours,
    /// Somebody else's executable.
    Foreign(PathBuf),
    /// Nothing, or nothing executable.
    Missing,
}

/// The text of our wrapper for `slot`, which starts `program`.
pub fn wrapper(program: &str, slot: &Slot) -> String {
    format!("#!/bin/sh\nexec {program} slot {slot} \"$@\"\n")
}

/// Looks what stands in `slot` below `remotes`.
pub fn standing(remotes: &Path, slot: &Slot) -> Standing {
    let path = remotes.join(slot.to_string());
    let executable = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if !executable {
        return Standing::Missing;
    }
    if is_wrapper(&path, slot) { Standing::Ours } else { Standing::Foreign(path) }
}

/// Like [`standing`], with the stock engine's fallback: a verb with a `.suffix` that has no executable is looked up
/// without it (contract VMM 2.3 step 5). Returns the slot that was found.
pub fn standing_with_fallback(remotes: &Path, slot: &Slot) -> (Slot, Standing) {
    match (standing(remotes, slot), slot.without_suffix()) {
        (Standing::Missing, Some(shorter)) => {
            let found = standing(remotes, &shorter);
            (shorter, found)
        }
        (found, _) => (slot.clone(), found),
    }
}

fn is_wrapper(path: &Path, slot: &Slot) -> bool {
    let mut text = String::new();
    let limit = 512;
    let read = File::open(path).and_then(|f| f.take(limit).read_to_string(&mut text));
    let Some(rest) = text.strip_prefix("#!/bin/sh\nexec ").filter(|_| read.is_ok()) else { return false };
    let Some((program, rest)) = rest.split_once(" slot ") else { return false };
    let ours = program.rsplit('/').next().is_some_and(|name| name.starts_with("causeway-"));
    let argument = rest.strip_suffix(" \"$@\"\n").unwrap_or_default();
    // A wrapper may stand for the slot without its suffix; one of another verb is an admin's own arrangement.
    let named =
        argument == slot.to_string() || slot.without_suffix().is_some_and(|s| argument == s.to_string());
    ours && !program.contains(char::is_whitespace) && named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, slot: &str, text: &str, mode: u32) {
        let path = dir.join(slot);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_an_exact_wrapper_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let slot: Slot = "vmm/kvm/deploy".parse().unwrap();
        let ours = wrapper("/usr/libexec/causeway/causeway-host", &slot);
        let cases = [
            (ours.clone(), 0o755, true, true),
            (ours.clone(), 0o644, false, false),
            (ours.replace("kvm/deploy", "kvm/cancel"), 0o755, true, false),
            (format!("{ours}logger done\n"), 0o755, true, false),
            ("#!/bin/bash\nvirsh create\n".to_owned(), 0o755, true, false),
        ];
        for (text, mode, present, expected) in cases {
            put(dir.path(), "vmm/kvm/deploy", &text, mode);
            let found = standing(dir.path(), &slot);
            assert_eq!(found == Standing::Ours, expected, "{text:?}");
            assert_eq!(found != Standing::Missing, present, "{text:?}");
        }
    }

    #[test]
    fn a_missing_suffix_falls_back() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "tm/ceph/mv", "#!/bin/sh\n", 0o755);
        let (slot, found) = standing_with_fallback(dir.path(), &"tm/ceph/mv.ssh".parse().unwrap());
        assert_eq!(slot.to_string(), "tm/ceph/mv");
        assert_eq!(found, Standing::Foreign(dir.path().join("tm/ceph/mv")));
        let (_, found) = standing_with_fallback(dir.path(), &"tm/ceph/rm.ssh".parse().unwrap());
        assert_eq!(found, Standing::Missing);
    }
}
