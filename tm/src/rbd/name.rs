//! Names of pools, volumes and snapshots (contract TM 2.2, *Naming*): what oned, the hypervisor's driver and the stock
//! transfer manager rely on, and those of our own half-made things.
//!
//! A name becomes a word of a command line, so it can't begin as an option does, and it is a part of `pool/volume@snapshot`,
//! so it can't hold what parts these.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use causeway_core::names::{NameError, VmId};
use serde::{Deserialize, Serialize};

use crate::place::as_text;

/// Longest name of a pool and of an image, bytes. Longer ones are nobody's, and room is left for what is put behind one.
const LIMIT: usize = 160;

/// What stands between a volume's name and that of something half-made which is to become it.
const HALF_MADE: &str = ".causeway-tmp.";
/// What stands between a volume's name and that of the one which had the name before, and is to be removed.
const ASIDE: &str = ".causeway-old.";
/// How the names of our own snapshots begin, which live as long as one call.
const OWN_SNAPSHOT: &str = "causeway-tmp.";
/// The snapshot of a backup, which is whole; one of a chain of increments has a number behind it. Chains that are there
/// depend on these names.
const BACKUP: &str = "one_backup";
/// What stands between a volume's name and the number of the backup that the new one comes from.
const RESTORED: &str = ".new.";
/// The same for the volume that a restored one takes the place of.
const REPLACED: &str = ".old.";
/// The snapshot of an image that its clones stand on.
const BASE: &str = "snap";

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    let ok = (1..=LIMIT).contains(&text.len())
        && !text.starts_with(['-', ' '])
        && !text.ends_with(' ')
        && !text.contains(['/', '@'])
        // A name may become one of a file.
        && text != "."
        && text != ".."
        && !text.chars().any(char::is_control);
    let form = "1 to 160 bytes without '/', '@' and control characters, not beginning with '-', not '.' and not '..'";
    if ok { Ok(()) } else { Err(NameError::new(what, text, form)) }
}

/// The name of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(String);
as_text!(PoolName);

/// `POOL_NAME` as it is shipped in `ceph.conf`.
impl Default for PoolName {
    fn default() -> Self {
        PoolName("one".to_owned())
    }
}

impl PoolName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PoolName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        check("pool", text).map(|()| PoolName(text.to_owned()))
    }
}

/// The name of the user that a cluster knows us by (`CEPH_USER`), without `client.`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);
as_text!(UserName);

impl UserName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        check("Ceph user", text).map(|()| UserName(text.to_owned()))
    }
}

/// A volume in its pool: `one/one-5`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Volume {
    pool: PoolName,
    name: String,
}
as_text!(Volume);

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

impl FromStr for Volume {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("volume", text, "POOL/NAME");
        let (pool, name) = text.split_once('/').ok_or_else(bad)?;
        check("volume", name)?;
        Ok(Volume { pool: pool.parse()?, name: name.to_owned() })
    }
}

impl Volume {
    /// A volume of that pool; none if it can't be a name.
    pub(crate) fn in_pool(pool: &PoolName, name: &str) -> Option<Self> {
        check("volume", name).ok().map(|()| Volume { pool: pool.clone(), name: name.to_owned() })
    }

    /// A VM's own copy of this image.
    pub fn disk(&self, vm: VmId, disk: u32) -> Self {
        self.followed_by(&format!("-{vm}-{disk}"))
    }

    /// An image.
    pub fn image(pool: &PoolName, id: u32) -> Self {
        Volume { pool: pool.clone(), name: format!("one-{id}") }
    }

    /// A VM's disk that has no image.
    pub fn volatile(pool: &PoolName, vm: VmId, disk: u32) -> Self {
        Volume { pool: pool.clone(), name: format!("one-sys-{vm}-{disk}") }
    }

    /// What a VM's memory is saved in.
    pub fn checkpoint(pool: &PoolName, vm: VmId) -> Self {
        Volume { pool: pool.clone(), name: format!("one-sys-{vm}-checkpoint") }
    }

    /// Its pool.
    pub fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// Its name in the pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What this volume is called once it has been replaced by a copy of one of its snapshots: by what it holds.
    pub(crate) fn renamed(&self, snapshots: &[u32]) -> Self {
        let ids: Vec<String> = snapshots.iter().map(u32::to_string).collect();
        self.followed_by(&format!("-{}", ids.join(":")))
    }

    /// A name for something half-made that is to become this volume. Never the same twice: what a killed call began may
    /// still be held by the cluster as somebody's for half a minute.
    pub(crate) fn half_made(&self) -> Self {
        self.followed_by(&format!("{HALF_MADE}{}", unique()))
    }

    /// A name for the volume that has this one's name and is in the way of another.
    pub(crate) fn aside(&self) -> Self {
        self.followed_by(&format!("{ASIDE}{}", unique()))
    }

    /// What is made of a backup, whole, and is to become this volume; by the backup's number.
    pub(crate) fn restored(&self, backup: u32) -> Self {
        self.followed_by(&format!("{RESTORED}{backup:08x}"))
    }

    /// What was this volume before it was restored from a backup.
    pub(crate) fn replaced(&self, backup: u32) -> Self {
        self.followed_by(&format!("{REPLACED}{backup:08x}"))
    }

    /// What a volume of that name in the pool would be to this one, and what else must show that it is. Compared whole: a part
    /// of a name may be that of another VM's disk (W37).
    pub(crate) fn kin(&self, name: &str) -> Option<(Role, Proof)> {
        let rest = name.strip_prefix(self.name.as_str())?;
        if rest.is_empty() {
            return Some((Role::Current, Proof::Name));
        }
        if rest.starts_with(HALF_MADE) {
            return Some((Role::HalfMade, Proof::Name));
        }
        if rest.starts_with(ASIDE) {
            return Some((Role::Aside, Proof::Name));
        }
        // Eight digits may be a date.
        if is_eight_digits(rest.strip_prefix(RESTORED)) {
            return Some((Role::HalfMade, Proof::Mark(FROM_BACKUP)));
        }
        if is_eight_digits(rest.strip_prefix(REPLACED)) {
            return Some((Role::Aside, Proof::Mark(GIVEN_UP)));
        }
        let snapshots = rest.strip_prefix('-')?.split(':').map(number).collect::<Option<Vec<u32>>>()?;
        Some((Role::Renamed, Proof::Snapshots(snapshots)))
    }

    /// The first part of [`kin`](Volume::kin).
    pub(crate) fn role(&self, name: &str) -> Option<Role> {
        self.kin(name).map(|(role, _)| role)
    }

    fn followed_by(&self, text: &str) -> Self {
        Volume { pool: self.pool.clone(), name: format!("{}{text}", self.name) }
    }
}

/// What a name in a pool is to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The volume itself.
    Current,
    /// It had the name, and holds snapshots that later ones came from.
    Renamed,
    /// It had the name, and is to be removed.
    Aside,
    /// What a killed call was making.
    HalfMade,
}

/// What shows that a volume is what its name says: others' names may be like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The name: nobody else gives such.
    Name,
    /// That it holds one of the snapshots that it is named after; that of the last one has gone, the mark [`GIVEN_UP`] says.
    Snapshots(Vec<u32>),
    /// That it bears this mark.
    Mark(&'static str),
}

/// Under this name a volume says which backup it was made of.
pub(super) const FROM_BACKUP: &str = "causeway.restored";
/// Under this name a volume says that it was a disk and is to be removed.
pub(super) const GIVEN_UP: &str = "causeway.given-up";

/// Whether it is what ends the names of a restore, the stock driver's too.
fn is_eight_digits(text: Option<&str>) -> bool {
    text.is_some_and(|text| {
        text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A decimal number in the one spelling that is printed back.
pub(super) fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// When the making of a half-made volume began, by its name; counted from 1970.
pub(crate) fn half_made_at(name: &str) -> Option<Duration> {
    let (_, unique) = name.split_once(HALF_MADE)?;
    let mut parts = unique.split('-');
    let (Some(_), Some(moment), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let nanoseconds = u128::from_str_radix(moment, 16).ok()?;
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

fn unique() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let moment = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
    format!("{:x}-{moment:x}-{serial}", std::process::id())
}

/// A snapshot of a volume, by whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotName {
    /// One that oned counts.
    Numbered(u32),
    /// The one that clones of an image stand on.
    Base,
    /// One that a call of ours made for itself.
    Own(String),
    /// A backup's: of that increment, or of one that is whole.
    Backup(Option<u32>),
    /// Somebody else's.
    Other(String),
}

impl SnapshotName {
    pub(crate) fn read(text: &str) -> Self {
        match number(text) {
            Some(id) => SnapshotName::Numbered(id),
            None if text == BASE => SnapshotName::Base,
            None if text == BACKUP => SnapshotName::Backup(None),
            None if increment(text).is_some() => SnapshotName::Backup(increment(text)),
            None if text.starts_with(OWN_SNAPSHOT) => SnapshotName::Own(text.to_owned()),
            None => SnapshotName::Other(text.to_owned()),
        }
    }

    /// The one that a copy of its volume is made from; one for each copy, so that none removes another's.
    pub(crate) fn for_copy(copy: &Volume) -> Self {
        SnapshotName::Own(format!("{OWN_SNAPSHOT}for.{}", copy.name()))
    }

    /// A new one of our own.
    pub(crate) fn own() -> Self {
        SnapshotName::Own(format!("{OWN_SNAPSHOT}{}", unique()))
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotName::Numbered(id) => write!(f, "{id}"),
            SnapshotName::Base => f.write_str(BASE),
            SnapshotName::Backup(None) => f.write_str(BACKUP),
            SnapshotName::Backup(Some(increment)) => write!(f, "{BACKUP}_{increment}"),
            SnapshotName::Own(text) | SnapshotName::Other(text) => f.write_str(text),
        }
    }
}

fn increment(text: &str) -> Option<u32> {
    number(text.strip_prefix(BACKUP)?.strip_prefix('_')?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn volume(text: &str) -> Volume {
        text.parse().unwrap()
    }

    #[test]
    fn the_names_of_the_contract() {
        let image = volume("one/one-5");
        let pool = image.pool().clone();
        assert_eq!(image.disk(VmId(7), 0).to_string(), "one/one-5-7-0");
        assert_eq!(image.renamed(&[0, 3]).to_string(), "one/one-5-0:3");
        assert_eq!(Volume::volatile(&pool, VmId(7), 2).to_string(), "one/one-sys-7-2");
        assert_eq!(Volume::checkpoint(&pool, VmId(7)).to_string(), "one/one-sys-7-checkpoint");
        assert_eq!(image.restored(19).to_string(), "one/one-5.new.00000013");
        assert_eq!(image.replaced(19).to_string(), "one/one-5.old.00000013");
        let read = ["snap", "12", "012", "one_backup_03", "causeway-tmp.1"].map(SnapshotName::read);
        let other = |text: &str| SnapshotName::Other(text.to_owned());
        let own = SnapshotName::Own("causeway-tmp.1".to_owned());
        let expected =
            [SnapshotName::Base, SnapshotName::Numbered(12), other("012"), other("one_backup_03"), own];
        assert_eq!(read, expected);
        for (text, increment) in
            [("one_backup", None), ("one_backup_0", Some(0)), ("one_backup_12", Some(12))]
        {
            let name = SnapshotName::read(text);
            assert_eq!((name.to_string().as_str(), name), (text, SnapshotName::Backup(increment)));
        }
    }

    /// W37: the stock pattern also finds other VMs' disks.
    #[test]
    fn a_family_is_found_by_whole_names() {
        let disk = volume("one/one-5-7-0");
        for (name, role) in [
            ("one-5-7-0", Some(Role::Current)),
            ("one-5-7-0-1", Some(Role::Renamed)),
            ("one-5-7-0-0:12:3", Some(Role::Renamed)),
            ("one-5-7-0.causeway-tmp.1", Some(Role::HalfMade)),
            ("one-5-7-0.causeway-old.1", Some(Role::Aside)),
            ("one-5-7-0.new.0011aaff", Some(Role::HalfMade)),
            ("one-5-7-0.old.0011aaff", Some(Role::Aside)),
            ("one-5-7-0.old.0011aaf", None),
            ("one-5-7-0.old.0011aafg", None),
            ("one-5-7-0.old", None),
            ("one-5-7-01", None),
            ("one-5-7-0-01", None),
            ("one-5-7-0-", None),
            ("one-5-7-0-1:", None),
            ("one-5-7-0-a", None),
            ("one-5-7-0.flatten", None),
            ("one-55-7-0", None),
            ("xone-5-7-0", None),
            ("one-5-7", None),
        ] {
            assert_eq!(disk.role(name), role, "{name}");
        }
        // A copy of an image is not what a revert of the image left.
        assert_eq!(volume("one/one-5").role("one-5-7-0"), None);
        for made in [disk.half_made(), disk.aside(), disk.renamed(&[0, 1])] {
            assert!(disk.role(made.name()).is_some_and(|role| role != Role::Current), "{made}");
            assert_eq!(volume("one/one-5").role(made.name()), None, "{made}");
        }
        assert_ne!(disk.half_made(), disk.half_made());
        let made = half_made_at(disk.half_made().name()).unwrap();
        let age = std::time::UNIX_EPOCH.elapsed().unwrap() - made;
        assert!(age < Duration::from_secs(60), "{age:?}");
        for name in
            ["one-5-7-0", "one-5.causeway-tmp.1", "one-5.causeway-tmp.1-x-2", "one-5.causeway-old.1-1-1"]
        {
            assert_eq!(half_made_at(name), None, "{name}");
        }
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_no_name() {
        for text in [
            "", "one", "one/", "/x", "-p/x", "one/-x", "one/x@1", "one/a/b", "o@e/x", "one/x\n", " one/x",
            "one/..", "./x",
        ] {
            assert!(text.parse::<Volume>().is_err(), "{text:?}");
        }
        for text in ["pool of mine/one-5", "p/one:5", "p/ü"] {
            assert_eq!(volume(text).to_string(), text);
        }
        assert!("--conf=x".parse::<UserName>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_is_one_word_of_two_parts(text in "[-a-z@/:. \\n]{0,12}") {
            if let Ok(volume) = text.parse::<Volume>() {
                prop_assert_eq!(volume.to_string(), text.clone());
                prop_assert_eq!(text.matches('/').count(), 1);
                prop_assert!(!text.starts_with('-') && !text.contains('@'));
            }
        }
    }
}
