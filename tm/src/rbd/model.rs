//! What a disk's volumes are, read as one value: the volume itself, the ones that had its name before a revert and hold
//! older snapshots, and what calls that were killed have left.
//!
//! ```text
//!  one-5@snap ──> one-5-7-0-0:1          has snapshots 0 and 1; it was the disk until the VM went back to 0
//!                   └─ @0 ──> one-5-7-0-2    has snapshot 2; it was the disk until the VM went back to 0 again
//!                   └─ @0 ──> one-5-7-0      the disk
//! ```

use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;

use super::error::{RbdError, code};
use super::name::{GIVEN_UP, PoolName, Proof, Role, SnapshotName, Volume, half_made_at};
use super::tool::Rbd;
use crate::host::StorageError;

/// How old something half-made is that nobody goes on with: no call takes so long.
const STRAY: Duration = Duration::from_secs(7 * 86_400);

/// What `rbd info` says of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Info {
    /// The cluster's own name for it, which no other volume of the pool ever gets.
    #[serde(default)]
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// 2, or 1 for volumes of before 2012.
    pub format: u32,
    /// The size of its objects, as a power of two.
    #[serde(default)]
    pub order: Option<u8>,
    /// Where its data lie, if not with its name.
    #[serde(default)]
    pub data_pool: Option<PoolName>,
    /// What it was cloned from.
    #[serde(default)]
    pub parent: Option<Parent>,
    /// Of a snapshot: whether clones may stand on it.
    #[serde(default)]
    pub protected: Option<Flag>,
}

/// How `rbd` says yes and no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Flag {
    True,
    False,
}

/// The snapshot that a clone stands on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Parent {
    pub pool: String,
    pub image: String,
    pub snapshot: String,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "SnapshotText")]
pub(crate) struct Snapshot {
    pub name: SnapshotName,
    /// Clones may stand on it.
    pub protected: bool,
}

#[derive(Deserialize)]
struct SnapshotText {
    name: String,
    protected: Flag,
}

impl From<SnapshotText> for Snapshot {
    fn from(text: SnapshotText) -> Self {
        Snapshot { name: SnapshotName::read(&text.name), protected: text.protected == Flag::True }
    }
}

/// One volume of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub role: Role,
    pub volume: Volume,
    pub info: Info,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Whether the pool lists its name twice: once more for a volume whose removal was killed, and that is in no list of
    /// its own.
    pub twin: bool,
}

impl Member {
    /// The numbers of the snapshots that oned counts, oldest first.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let number = |snapshot: &Snapshot| match snapshot.name {
            SnapshotName::Numbered(id) => Some(id),
            _ => None,
        };
        self.snapshots.iter().filter_map(number).collect()
    }

    pub(crate) fn snapshot(&self, name: &SnapshotName) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == *name)
    }

    fn stands_on(&self, other: &Member) -> bool {
        let parent = self.info.parent.as_ref();
        let (pool, name) = (other.volume.pool().as_str(), other.volume.name());
        parent.is_some_and(|parent| parent.pool == pool && parent.image == name)
    }
}

/// What is the matter when a volume is missing and others of its family are not.
pub(super) const UNFINISHED: &str =
    ": a revert to one of its snapshots, or a restore, was not finished; do it again";

/// What is the matter when a volume has a name and can't be opened.
pub(super) const HALF_REMOVED: &str =
    ": its name is there and nothing else, for its removal was cut off; remove it again";

/// All volumes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Family {
    volume: Volume,
    members: Vec<Member>,
    /// Names without a volume that could be opened: it was killed who made it, or who removed it. The snapshot that it
    /// stands on may be held by it as before.
    unfinished: Vec<(Role, Volume)>,
    /// Half-made volumes of others that nobody will go on with.
    strays: Vec<Volume>,
    /// Volumes whose names are like those of the disk's, and that are none of it.
    strangers: Vec<Volume>,
}

impl Family {
    /// Reads what there is. That nothing is there is an answer too: the pool was listed.
    ///
    /// # Errors
    /// The pool or a volume can't be read, or the volumes are none that this driver or the stock one makes.
    pub(crate) fn read(rbd: &Rbd<'_>, volume: &Volume) -> Result<Self, StorageError> {
        Family::among(rbd, volume, rbd.names(volume.pool())?)
    }

    /// The same, from the list of the pool.
    ///
    /// # Errors
    /// Those of [`Family::read`].
    pub(crate) fn among(
        rbd: &Rbd<'_>,
        volume: &Volume,
        mut names: Vec<String>,
    ) -> Result<Self, StorageError> {
        let mut family = Family {
            volume: volume.clone(),
            members: Vec::new(),
            unfinished: Vec::new(),
            strays: Vec::new(),
            strangers: Vec::new(),
        };
        let now = UNIX_EPOCH.elapsed().unwrap_or_default();
        names.sort_unstable();
        for same in names.chunk_by(|a, b| a == b) {
            let [name, more @ ..] = same else { continue };
            let Some(found) = Volume::in_pool(volume.pool(), name) else { continue };
            let Some((role, proof)) = volume.kin(name) else {
                if half_made_at(name).is_some_and(|made| made + STRAY < now) {
                    family.strays.push(found);
                }
                continue;
            };
            match member(rbd, role, &found)? {
                Some(member) if is_shown(rbd, &proof, &member)? => {
                    family.members.push(Member { twin: !more.is_empty(), ..member });
                }
                Some(_) => family.strangers.push(found),
                None => family.unfinished.push((role, found)),
            }
        }
        family.members.sort_by(|a, b| (a.role, &a.volume).cmp(&(b.role, &b.volume)));
        family.check()?;
        Ok(family)
    }

    fn check(&self) -> Result<(), RbdError> {
        let wrong = |volume: &Volume, why: String| RbdError::Volumes { volume: volume.clone(), why };
        let mut seen = Vec::new();
        for member in &self.members {
            if member.info.format != 2 {
                let why = format!(
                    "it is of format {}, which has no protected snapshots; copy it to a volume of format 2",
                    member.info.format
                );
                return Err(wrong(&member.volume, why));
            }
            for id in member.numbers() {
                if seen.contains(&id) {
                    return Err(wrong(&self.volume, format!("two of its volumes hold a snapshot {id}")));
                }
                seen.push(id);
            }
        }
        Ok(())
    }

    /// Half-made volumes of the pool, none of this disk, that nobody will go on with.
    pub(crate) fn strays(&self) -> &[Volume] {
        &self.strays
    }

    /// Refuses to give a name that somebody else's volume has.
    ///
    /// # Errors
    /// [`RbdError::Volumes`] names both.
    pub(crate) fn free(&self, name: &Volume) -> Result<(), RbdError> {
        if !self.strangers.contains(name) {
            return Ok(());
        }
        let why =
            format!("it needs the name {name}, which a volume has that is none of its own; rename that one");
        Err(RbdError::Volumes { volume: self.volume.clone(), why })
    }

    /// Names of the disk under which nothing can be opened, with what they are to it: to be removed before anything else
    /// is, for a snapshot may be held by them.
    pub(crate) fn unfinished(&self) -> &[(Role, Volume)] {
        &self.unfinished
    }

    /// Whether nothing at all is left of the disk.
    pub(crate) fn is_gone(&self) -> bool {
        self.members.is_empty() && self.unfinished.is_empty()
    }

    /// The volume that a guest uses, if it is there.
    pub(crate) fn current(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.role == Role::Current)
    }

    /// The volume that a guest uses.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn expect(&self) -> Result<&Member, RbdError> {
        let removed = self.unfinished.iter().any(|(role, _)| *role == Role::Current);
        let hint = match (removed, self.members.is_empty() && self.strangers.is_empty()) {
            (true, _) => HALF_REMOVED,
            (false, true) => "",
            (false, false) => UNFINISHED,
        };
        self.current().ok_or_else(|| RbdError::NoVolume { volume: self.volume.clone(), hint })
    }

    /// The members of a role.
    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.role == role)
    }

    /// Who holds a snapshot that oned counts.
    pub(crate) fn holder(&self, id: u32) -> Option<&Member> {
        self.members.iter().find(|member| member.snapshot(&SnapshotName::Numbered(id)).is_some())
    }

    /// All of them, or those but the current one, each before the one that it stands on.
    pub(crate) fn leaves_first(&self, with_current: bool) -> Vec<&Member> {
        let mut left: Vec<&Member> =
            self.members.iter().filter(|member| with_current || member.role != Role::Current).collect();
        let mut ordered = Vec::with_capacity(left.len());
        // The last first: what was half-made or set aside stands on the others.
        while let Some(index) =
            left.iter().rposition(|member| !left.iter().any(|other| other.stands_on(member)))
        {
            ordered.push(left.remove(index));
        }
        // A ring can't be made of clones; were there one, its first removal fails.
        ordered.extend(left);
        ordered
    }
}

/// A volume; none if there is only its name.
fn member(rbd: &Rbd<'_>, role: Role, volume: &Volume) -> Result<Option<Member>, StorageError> {
    let read = rbd.info(volume).and_then(|info| Ok((info, rbd.snapshots(volume)?)));
    match read {
        Ok((info, snapshots)) => {
            Ok(Some(Member { role, volume: volume.clone(), info, snapshots, twin: false }))
        }
        Err(StorageError::Rbd(error)) if error.is(code::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_shown(rbd: &Rbd<'_>, proof: &Proof, member: &Member) -> Result<bool, StorageError> {
    let mark = match proof {
        Proof::Name => return Ok(true),
        Proof::Snapshots(named) => {
            let held = member.numbers();
            if !held.is_empty() {
                return Ok(held.iter().any(|id| named.contains(id)));
            }
            GIVEN_UP
        }
        Proof::Mark(mark) => mark,
    };
    Ok(rbd.mark(&member.volume, mark)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(base: &Volume, name: &str, parent: Option<(&str, &str)>, snapshots: &[&str]) -> Member {
        let volume: Volume = format!("one/{name}").parse().unwrap();
        let parent = parent.map(|(image, snapshot)| Parent {
            pool: "one".to_owned(),
            image: image.to_owned(),
            snapshot: snapshot.to_owned(),
        });
        let snapshot = |name: &&str| Snapshot { name: SnapshotName::read(name), protected: true };
        Member {
            role: base.role(name).unwrap(),
            volume,
            info: Info {
                id: String::new(),
                size: 1 << 20,
                format: 2,
                order: None,
                data_pool: None,
                parent,
                protected: None,
            },
            snapshots: snapshots.iter().map(snapshot).collect(),
            twin: false,
        }
    }

    /// Name, image and snapshot that it stands on, snapshots.
    type Line<'a> = (&'a str, Option<(&'a str, &'a str)>, &'a [&'a str]);

    fn family(members: &[Line<'_>]) -> Family {
        let volume: Volume = "one/one-5-7-0".parse().unwrap();
        let members =
            members.iter().map(|(name, parent, snaps)| member(&volume, name, *parent, snaps)).collect();
        Family { volume, members, unfinished: Vec::new(), strays: Vec::new(), strangers: Vec::new() }
    }

    #[test]
    fn the_leaves_come_first_whatever_the_order_of_the_list() {
        let mut family = family(&[
            ("one-5-7-0", Some(("one-5-7-0-0:1", "0")), &["3"]),
            ("one-5-7-0-0:1", Some(("one-5", "snap")), &["0", "1"]),
            ("one-5-7-0-2", Some(("one-5-7-0-0:1", "0")), &["2"]),
            ("one-5-7-0.causeway-tmp.1", Some(("one-5-7-0-2", "2")), &[]),
        ]);
        for _ in 0..4 {
            family.members.rotate_left(1);
            let order: Vec<&str> = family.leaves_first(true).iter().map(|m| m.volume.name()).collect();
            let place = |name: &str| order.iter().position(|n| *n == name).unwrap();
            assert_eq!(order.len(), 4);
            assert_eq!(place("one-5-7-0-0:1"), 3, "{order:?}");
            assert!(place("one-5-7-0.causeway-tmp.1") < place("one-5-7-0-2"), "{order:?}");
            assert_eq!(family.leaves_first(false).len(), 3);
        }
        assert_eq!(family.holder(2).unwrap().volume.name(), "one-5-7-0-2");
        assert_eq!(family.holder(9), None);
        assert_eq!(family.expect().unwrap().numbers(), [3]);
    }

    #[test]
    fn volumes_that_nobody_made_so_are_refused() {
        let twice = family(&[("one-5-7-0", None, &["0"]), ("one-5-7-0-0", None, &["0"])]);
        assert_eq!(
            twice.check().unwrap_err().to_string(),
            "one/one-5-7-0: two of its volumes hold a snapshot 0"
        );
        let mut old = family(&[("one-5-7-0", None, &[])]);
        old.members[0].info.format = 1;
        assert!(old.check().unwrap_err().to_string().contains("it is of format 1"));
        assert_eq!(family(&[]).expect().unwrap_err().to_string(), "there is no volume one/one-5-7-0");
        let mut between = family(&[("one-5-7-0-0", None, &["0"])]);
        assert!(between.expect().unwrap_err().to_string().ends_with("do it again"));
        between.unfinished.push((Role::Current, between.volume.clone()));
        assert!(between.expect().unwrap_err().to_string().ends_with("remove it again"));
    }

    #[test]
    fn the_answers_of_a_real_cluster() {
        let info: Info = serde_json::from_str(
            r#"{"name":"one-5-7-0","id":"103e","size":67108864,"objects":16,"order":22,"data_pool":"data","format":2,
                "features":["layering"],"parent":{"pool":"one","pool_namespace":"","image":"one-5","id":"102a",
                "snapshot":"snap","trash":false,"overlap":67108864}}"#,
        )
        .unwrap();
        assert_eq!((info.size, info.data_pool.unwrap().as_str()), (64 << 20, "data"));
        assert_eq!(info.parent.unwrap().snapshot, "snap");
        let list = r#"[{"id":4,"name":"snap","size":67108864,"protected":"true","timestamp":"Sat Nov 21"}]"#;
        let snapshots: Vec<Snapshot> = serde_json::from_str(list).unwrap();
        assert_eq!(snapshots, [Snapshot { name: SnapshotName::Base, protected: true }]);
        assert!(serde_json::from_str::<Vec<Snapshot>>(&list.replace("true", "maybe")).is_err());
    }
}
