//! `monitor`: how full a pool is, and how much room the disks of its VMs take.
//!
//! One call tells the room of all volumes; the stock script asks for one after the other, and takes a snapshot's room for a
//! disk's (W51). librbd 16.2 opens many volumes at once and crashes in about every third call where some of them have
//! snapshots or parents: two of its threads end the opening of one volume. With one thread it never did. Where no call
//! succeeds, oned learns how full the pool is, and of no disks: sizes are told anew at every monitoring.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::MIB;
use super::error::RbdError;
use super::name::{PoolName, SnapshotName, number};
use super::tool::Rbd;
use crate::host::StorageError;

/// Has the tool's answers from the cluster seen to by one thread; versions before 15 don't know the word.
const ONE_THREAD: &str = "--librados-thread-count=1";

/// `ceph df detail`.
#[derive(Deserialize)]
pub(super) struct Pools {
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    name: String,
    stats: Stats,
}

/// Bytes, all of them.
#[derive(Deserialize)]
struct Stats {
    stored: u64,
    max_avail: u64,
    /// 0 is none.
    #[serde(default)]
    quota_bytes: u64,
}

/// `rbd du`.
#[derive(Deserialize)]
pub(super) struct Rooms {
    images: Vec<Room>,
}

#[derive(Deserialize)]
struct Room {
    name: String,
    #[serde(default)]
    snapshot: Option<String>,
    /// Bytes.
    used_size: u64,
}

/// How much room the disks of a VM take.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct VmRoom {
    vm: u32,
    disks: Vec<DiskRoom>,
}

/// MiB, rounded up.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct DiskRoom {
    id: u32,
    size_mb: u64,
    snapshots: BTreeMap<u32, u64>,
}

/// Prints `USED_MB=... TOTAL_MB=... FREE_MB=...`, and the VMs as JSON in a second line if they are wanted.
pub(super) fn usage(rbd: &Rbd<'_>, pool: &PoolName, disks: bool) -> Result<String, StorageError> {
    let mut text = line(&rbd.pools()?, pool)?;
    if disks {
        text.push('\n');
        text.push_str(&self::disks(rbd, pool)?);
    }
    Ok(text)
}

/// How much room the disks of VMs take, as JSON; none of them where the tool can't tell.
pub(super) fn disks(rbd: &Rbd<'_>, pool: &PoolName) -> Result<String, RbdError> {
    let all = measured(rbd, pool).unwrap_or(Rooms { images: Vec::new() });
    let wrong = |e: serde_json::Error| RbdError::Pool { pool: pool.clone(), said: e.to_string() };
    serde_json::to_string(&rooms(&all)).map_err(wrong)
}

/// How much room all volumes take; none if the tool can't tell.
fn measured(rbd: &Rbd<'_>, pool: &PoolName) -> Option<Rooms> {
    // The last one is for a cluster that was away for a moment.
    for words in [&[ONE_THREAD][..], &[], &[ONE_THREAD]] {
        match rbd.rooms(pool, words) {
            Ok(all) => return Some(all),
            Err(error) => tracing::warn!(%pool, %error, "how much room its volumes take is not known"),
        }
    }
    None
}

/// As the contract counts (TM 3.2): what is free is at most what the quota leaves.
pub(super) fn line(pools: &Pools, pool: &PoolName) -> Result<String, RbdError> {
    let found = pools.pools.iter().find(|found| found.name == pool.as_str());
    let absent =
        || RbdError::Pool { pool: pool.clone(), said: "the cluster has none of that name".to_owned() };
    let Stats { stored, max_avail, quota_bytes } = &found.ok_or_else(absent)?.stats;
    let free = match quota_bytes {
        0 => *max_avail,
        quota => (*max_avail).min(quota.saturating_sub(*stored)),
    };
    let (used, free) = (stored.div_ceil(MIB), free / MIB);
    Ok(format!("USED_MB={used} TOTAL_MB={} FREE_MB={free}", used + free))
}

pub(super) fn rooms(rooms: &Rooms) -> Vec<VmRoom> {
    let mut disks: BTreeMap<(u32, u32), (u64, BTreeMap<u32, u64>)> = BTreeMap::new();
    for room in &rooms.images {
        let Some(disk) = whose(&room.name) else { continue };
        let (size, snapshots) = disks.entry(disk).or_default();
        match room.snapshot.as_deref().map(SnapshotName::read) {
            // What older volumes hold beside their snapshots is the disk's, too.
            None => *size = size.saturating_add(room.used_size),
            Some(SnapshotName::Numbered(id)) => {
                snapshots.insert(id, room.used_size.div_ceil(MIB));
            }
            Some(_) => {}
        }
    }
    let mut vms: Vec<VmRoom> = Vec::new();
    for ((vm, id), (size, snapshots)) in disks {
        let disk = DiskRoom { id, size_mb: size.div_ceil(MIB), snapshots };
        match vms.last_mut().filter(|last| last.vm == vm) {
            Some(last) => last.disks.push(disk),
            None => vms.push(VmRoom { vm, disks: vec![disk] }),
        }
    }
    vms
}

/// The VM and the disk that a volume belongs to, by its name; a persistent image says of no VM.
fn whose(name: &str) -> Option<(u32, u32)> {
    let parts: Vec<&str> = name.strip_prefix("one-")?.split('-').collect();
    let (image, vm, disk) = match parts.as_slice() {
        [image, vm, disk] => (image, vm, disk),
        [image, vm, disk, older] if older.split(':').all(|id| number(id).is_some()) => (image, vm, disk),
        _ => return None,
    };
    let known = *image == "sys" || number(image).is_some();
    Some((number(vm)?, number(disk)?)).filter(|_| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_as_full_as_its_cluster_says() {
        let text = r#"{"stats":{"total_bytes":1},"pools":[
            {"name":"other","id":1,"stats":{"stored":1,"max_avail":1,"quota_bytes":0}},
            {"name":"one","id":2,"stats":{"stored":1048577,"max_avail":10485760,"quota_bytes":0,"percent_used":0.1}}]}"#;
        let of = |text: &str, pool: &str| line(&serde_json::from_str(text).unwrap(), &pool.parse().unwrap());
        assert_eq!(of(text, "one").unwrap(), "USED_MB=2 TOTAL_MB=12 FREE_MB=10");
        let quota = text.replace("\"quota_bytes\":0,", "\"quota_bytes\":5242881,");
        assert_eq!(of(&quota, "one").unwrap(), "USED_MB=2 TOTAL_MB=6 FREE_MB=4");
        assert!(of(text, "more").unwrap_err().to_string().starts_with("pool more can't be read"));
    }

    #[test]
    fn a_cluster_that_says_too_much_is_full_and_nothing_worse() {
        let text = r#"{"images":[{"name":"one-5-7-0","used_size":18446744073709551615},
            {"name":"one-5-7-0-1","used_size":18446744073709551615}]}"#;
        assert_eq!(rooms(&serde_json::from_str(text).unwrap())[0].disks[0].size_mb, 1 << 44);
    }

    #[test]
    fn rooms_are_those_of_vms_with_numbers_of_any_length() {
        let text = r#"{"images":[
            {"name":"one-5","id":"a","snapshot":"snap","used_size":9},
            {"name":"one-5","id":"a","used_size":9},
            {"name":"one-5-7-0","id":"b","snapshot":"12","used_size":1048577},
            {"name":"one-5-7-0","id":"b","used_size":3145728},
            {"name":"one-5-7-0-1:2","id":"c","snapshot":"1","used_size":1},
            {"name":"one-5-7-0-1:2","id":"c","snapshot":"one_backup_0","used_size":5},
            {"name":"one-5-7-0-1:2","id":"c","used_size":1048576},
            {"name":"one-sys-7-11","id":"d","used_size":0},
            {"name":"one-sys-7-checkpoint","id":"e","used_size":77},
            {"name":"one-5-0:1","id":"f","used_size":77},
            {"name":"one-5-7-0.causeway-tmp.1","id":"g","used_size":77},
            {"name":"one-6-123-0","id":"h","used_size":1}],"total_used_size":9}"#;
        let vms = rooms(&serde_json::from_str(text).unwrap());
        assert_eq!(
            serde_json::to_string(&vms).unwrap(),
            r#"[{"vm":7,"disks":[{"id":0,"size_mb":4,"snapshots":{"1":1,"12":2}},{"id":11,"size_mb":0,"snapshots":{}}]},{"vm":123,"disks":[{"id":0,"size_mb":1,"snapshots":{}}]}]"#
        );
    }
}
