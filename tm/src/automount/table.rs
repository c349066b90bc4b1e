//! What the kernel says is mounted (`/proc/self/mountinfo`, proc(5)), and what follows for a datastore.

use std::path::Path;

use super::{Mount, Share};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    id: u64,
    parent: u64,
    at: String,
    source: String,
}

/// All mounts that a process sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table(Vec<Entry>);

impl Table {
    /// Reads the table; a line of another form is nobody's.
    pub(crate) fn parse(text: &str) -> Self {
        Table(text.lines().filter_map(entry).collect())
    }

    /// The uppermost mount at a path, which must have no links in it.
    fn at(&self, path: &Path) -> Option<&Entry> {
        let here = || self.0.iter().filter(|entry| Path::new(&entry.at) == path);
        here().rfind(|entry| !here().any(|upon| upon.parent == entry.id && upon.id != entry.id))
    }

    /// Whether anything is mounted at a path.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.at(path).is_some()
    }

    /// Whether what is mounted at a path, as the table says, is this share.
    pub(crate) fn has(&self, path: &Path, share: &Share) -> bool {
        self.at(path).is_some_and(|entry| is_of(entry, share))
    }

    /// The datastores below a root at which a server's share is mounted, and which share.
    pub(crate) fn shares_below(&self, root: &Path) -> Vec<(u32, Share)> {
        let id = |entry: &Entry| {
            let name = Path::new(&entry.at).strip_prefix(root).ok()?.to_str()?;
            let id: u32 = name.parse().ok()?;
            (id.to_string() == name).then_some(id)
        };
        let mut ids: Vec<u32> = self.0.iter().filter_map(id).collect();
        ids.sort_unstable();
        ids.dedup();
        let share = |id: u32| {
            let entry = self.at(&root.join(id.to_string()))?;
            Some((id, entry.source.parse().ok()?))
        };
        ids.into_iter().filter_map(share).collect()
    }
}

/// A source that a network file system shows is compared as a share: the kernel may print more slashes, or fewer.
fn is_of(entry: &Entry, share: &Share) -> bool {
    entry.source.parse::<Share>().is_ok_and(|found| found.is(share))
}

/// `36 35 98:0 /root /at options [more] - type source options`.
fn entry(line: &str) -> Option<Entry> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let (id, parent) = (mount.next()?.parse().ok()?, mount.next()?.parse().ok()?);
    let at = unescaped(mount.nth(2)?);
    let source = unescaped(system.split(' ').nth(1)?);
    Some(Entry { id, parent, at, source })
}

/// A field of a table of mounts: what would end it stands there as `\` and three octal digits.
pub(super) fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What lies at a datastore's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lies {
    /// Nothing.
    Nothing,
    /// A directory on the mount of that number, if the kernel tells it.
    Directory {
        /// As in the first field of the table.
        on: Option<u64>,
        /// Something that is in it and is nobody's mark; not looked for where something is mounted.
        holds: Option<String>,
    },
    /// A link, or no directory.
    Other,
}

/// What is to be done for a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Todo {
    /// It is there.
    Nothing,
    /// It is not, and nothing is in its way.
    Mount,
}

/// What is to be done for a mount at `path`, by what the kernel says and what lies there.
///
/// # Errors
/// Why it must not be mounted, and what an admin can do.
pub(crate) fn decide(table: &Table, path: &Path, lies: &Lies, mount: &Mount) -> Result<Todo, String> {
    let share = &mount.share;
    let id = mount.datastore.id();
    let Some(found) = table.at(path) else {
        return match lies {
            Lies::Nothing | Lies::Directory { holds: None, .. } => Ok(Todo::Mount),
            Lies::Directory { holds: Some(name), .. } => Err(format!(
                "{share} (NFS_AUTO_HOST, NFS_AUTO_PATH) is not mounted there, and a mount would hide what lies in the \
                 directory, such as {name}: move that into the mounted datastore, or away, and try again"
            )),
            Lies::Other => Err(format!(
                "{share} can't be mounted there, for it is no directory: remove it, or set NFS_AUTO_ENABLE of datastore {id} to NO"
            )),
        };
    };
    if !is_of(found, share) {
        return Err(format!(
            "{} is mounted there, and NFS_AUTO_HOST and NFS_AUTO_PATH of datastore {id} say {share}: unmount the one, or \
             mend the others",
            found.source
        ));
    }
    match lies {
        Lies::Directory { on, .. } if on.is_none_or(|on| on == found.id) => Ok(Todo::Nothing),
        _ => Err(format!(
            "{share} is mounted there, but hidden by what is mounted above it: unmount that, or this, and try again"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: &str = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
                        30 22 0:5 / /var/lib/one rw - btrfs /dev/vdb rw,subvol=/\n";

    fn mount() -> Mount {
        Mount {
            datastore: "/var/lib/one/datastores/101".parse().unwrap(),
            share: "nas:/export/one".parse().unwrap(),
            options: Default::default(),
            kept: true,
        }
    }

    fn line(id: u64, parent: u64, at: &str, source: &str) -> String {
        format!("{id} {parent} 0:50 / {at} rw,relatime shared:9 master:2 - nfs4 {source} rw,vers=4.2\n")
    }

    fn decided(lines: &[String], lies: &Lies) -> Result<Todo, String> {
        let table = Table::parse(&format!("{BASE}{}", lines.concat()));
        decide(&table, Path::new("/var/lib/one/datastores/101"), lies, &mount())
    }

    /// Where, what is there, and what is done.
    #[test]
    fn a_mount_is_found_made_or_refused() {
        const AT: &str = "/var/lib/one/datastores/101";
        let on = |id| Lies::Directory { on: Some(id), holds: None };
        let full = Lies::Directory { on: Some(30), holds: Some("7".to_owned()) };
        let ours = || line(40, 30, AT, "nas:/export/one");
        let near = [
            line(40, 30, "/var/lib/one/datastores/1010", "nas:/export/one"),
            line(41, 30, "/var/lib/one/datastores", "nas:/export/one"),
            line(42, 30, "/var/lib/one/datastores/101/7", "nas:/export/one"),
        ];
        for (lines, lies, wanted) in [
            (vec![], Lies::Nothing, Ok(Todo::Mount)),
            (vec![], on(30), Ok(Todo::Mount)),
            (near.to_vec(), on(41), Ok(Todo::Mount)),
            (vec![], full.clone(), Err("would hide what lies in the directory, such as 7")),
            (vec![], Lies::Other, Err("it is no directory")),
            (vec![ours()], on(40), Ok(Todo::Nothing)),
            (vec![ours()], Lies::Directory { on: None, holds: None }, Ok(Todo::Nothing)),
            (vec![line(40, 30, AT, "NAS:/export//one/")], on(40), Ok(Todo::Nothing)),
            (vec![line(40, 30, AT, "nas:/export/two")], on(40), Err("nas:/export/two is mounted there, and")),
            (vec![line(40, 30, AT, "nas:/export")], on(40), Err("nas:/export is mounted there")),
            (vec![line(40, 30, AT, "/dev/sdb1")], on(40), Err("/dev/sdb1 is mounted there")),
            (vec![line(40, 30, AT, "systemd-1")], on(40), Err("systemd-1 is mounted there")),
            // Upon each other: the one that is seen counts.
            (vec![ours(), line(41, 40, AT, "/dev/sdb1")], on(41), Err("/dev/sdb1 is mounted there")),
            (
                vec![line(40, 30, AT, "/dev/sdb1"), line(41, 40, AT, "nas:/export/one")],
                on(41),
                Ok(Todo::Nothing),
            ),
            (
                vec![line(41, 40, AT, "nas:/export/one"), line(40, 30, AT, "/dev/sdb1")],
                on(41),
                Ok(Todo::Nothing),
            ),
            // Something was mounted over a directory above.
            (vec![ours()], on(30), Err("hidden by what is mounted above it")),
            (vec![ours()], Lies::Nothing, Err("hidden by what is mounted above it")),
            (vec![ours()], Lies::Other, Err("hidden by what is mounted above it")),
        ] {
            match (decided(&lines, &lies), wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{lines:?} {lies:?}"),
                (Err(why), Err(says)) => assert!(why.contains(says), "{why}"),
                (found, wanted) => panic!("{lines:?} {lies:?}: {found:?}, not {wanted:?}"),
            }
        }
    }

    #[test]
    fn shares_below_a_root_are_those_of_datastores() {
        let lines = [
            line(40, 30, "/ds/100", "nas:/a\\040b"),
            line(41, 30, "/ds/0101", "nas:/x"),
            line(42, 30, "/ds/102", "/dev/sdb"),
            line(43, 30, "/ds/103/7", "nas:/x"),
            line(44, 30, "/ds/104", "nas:/old"),
            line(45, 44, "/ds/104", "nas:/new"),
        ];
        let found = Table::parse(&lines.concat()).shares_below(Path::new("/ds"));
        let found: Vec<(u32, String)> =
            found.into_iter().map(|(id, share)| (id, share.to_string())).collect();
        assert_eq!(found, [(100, "nas:/a b".to_owned()), (104, "nas:/new".to_owned())]);
    }

    #[test]
    fn fields_are_unescaped() {
        for (field, text) in [
            ("a\\040b\\134c\\011", "a b\\c\t"),
            ("\\", "\\"),
            ("\\04", "\\04"),
            ("\\xyz", "\\xyz"),
            ("\\777", "\\777"),
        ] {
            assert_eq!(unescaped(field), text);
        }
    }

    proptest! {
        /// Whatever the kernel may print: nothing is mounted twice or over data, and no other mount passes for ours.
        #[test]
        fn nothing_else_passes_for_the_share(
            lines in proptest::collection::vec((40u64..46, 28u64..46, 0usize..4, 0usize..5), 0..6),
            on in proptest::option::of(28u64..46),
            holds in proptest::option::of("[a-z0-9]{1,4}"),
            noise in "\\PC{0,40}",
        ) {
            const AT: [&str; 4] = ["/var/lib/one/datastores/101", "/var/lib/one/datastores", "/", "/var/lib/one/datastores/101/x"];
            const SOURCE: [&str; 5] = ["nas:/export/one", "nas:/export/one2", "nas:/export", "/dev/sdb", "autofs"];
            let mut text: Vec<String> =
                lines.iter().map(|(id, parent, at, source)| line(*id, *parent, AT[*at], SOURCE[*source])).collect();
            text.push(noise);
            let at_all = lines.iter().any(|(_, _, at, _)| *at == 0);
            let ours = lines.iter().any(|(id, _, at, source)| (*at, *source) == (0, 0) && on.is_none_or(|on| on == *id));
            match decided(&text, &Lies::Directory { on, holds: holds.clone() }) {
                Ok(Todo::Nothing) => prop_assert!(ours),
                Ok(Todo::Mount) => prop_assert!(holds.is_none()),
                Err(why) => prop_assert!(at_all || holds.is_some(), "{}", why),
            }
        }
    }
}
