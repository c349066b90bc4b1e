//! What a cluster's tools print, under attack: it is refused or understood, and what is understood leads to no other
//! volume than it says.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::model::{Info, Snapshot};
use super::name::{SnapshotName, Volume, half_made_at};
use super::tool::{Child, Status};
use super::usage::{Pools, Rooms, line, rooms};
use crate::host::VmSizes;

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

#[test]
fn fuzz_answers() {
    let disk: Volume = "one/one-5-7-0".parse().unwrap();
    crate::seeded::fuzz("rbd", |bytes| {
        names(&disk, &read::<Vec<String>>(bytes).unwrap_or_default());
        if let Some(Info { data_pool: Some(pool), .. }) = read(bytes) {
            assert_eq!(pool.as_str().parse(), Ok(pool));
        }
        for Snapshot { name, .. } in read::<Vec<Snapshot>>(bytes).unwrap_or_default() {
            assert_eq!(SnapshotName::read(&name.to_string()), name);
        }
        if let Some(Ok(text)) = read::<Pools>(bytes).map(|pools| line(&pools, disk.pool())) {
            let numbers =
                text.split([' ', '=']).filter_map(|word| word.parse::<u64>().ok()).collect::<Vec<_>>();
            let [used, total, free] = numbers[..] else { panic!("{text}") };
            assert_eq!(used + free, total, "{text}");
        }
        if let Some(all) = read::<Rooms>(bytes) {
            let told = serde_json::to_vec(&rooms(&all)).unwrap();
            // The front-end reads it.
            assert!(read::<Vec<VmSizes>>(&told).is_some());
        }
        let _ = (read::<Vec<Child>>(bytes), read::<Status>(bytes), read::<BTreeMap<String, String>>(bytes));
    });
}

/// Of all that a pool has, only what has a disk's whole name belongs to it.
fn names(disk: &Volume, names: &[String]) {
    for name in names {
        let _ = half_made_at(name);
        let Some(volume) = Volume::in_pool(disk.pool(), name) else { continue };
        assert_eq!(volume.to_string().parse(), Ok(volume.clone()));
        if disk.role(name).is_some() {
            let rest = name.strip_prefix(disk.name()).unwrap_or_else(|| panic!("{name:?}"));
            assert!(rest.is_empty() || rest.starts_with(['-', '.']), "{name:?}");
            assert!(!volume.to_string().contains('@'));
        }
    }
}
