//! `monitor`: how full a datastore is, and how much room the disks of its VMs take.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use causeway_core::names::VmId;
use rustix::fs::{CWD, Mode, mkdirat, statvfs};
use rustix::io::Errno;

use super::{Datastore, DiskSizes, During, Home, MIB, StorageError, VmSizes};
use crate::place::DatastoreDir;

/// Prints `USED_MB=... TOTAL_MB=... FREE_MB=...`, and the VMs in a second line if they are wanted.
pub(super) fn usage(dir: &DatastoreDir, disks: bool) -> Result<String, StorageError> {
    let path = dir.path();
    // As the stock script does, where the root of all datastores is there. No mark is left: a mount point that is
    // looked at must not become a datastore by it.
    if dir.root().is_dir() {
        match mkdirat(CWD, &path, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).during("make", &path),
        }
    }
    let datastore = Datastore::open(dir)?;
    let found = statvfs(&path).during("look at", &path)?;
    let megabytes = |blocks: u64| blocks.saturating_mul(found.f_frsize).div_ceil(MIB);
    // What root alone may use is neither used nor free, as `df` counts.
    let used = megabytes(found.f_blocks.saturating_sub(found.f_bfree));
    let (total, free) = (megabytes(found.f_blocks), megabytes(found.f_bavail));
    let mut text = format!("USED_MB={used} TOTAL_MB={total} FREE_MB={free}");
    if disks {
        let vms = sizes(&datastore.into_folder())?;
        let vms = serde_json::to_string(&vms);
        let vms = vms.map_err(|e| StorageError::Image { path, why: e.to_string() })?;
        text.push('\n');
        text.push_str(&vms);
    }
    Ok(text)
}

/// The VMs of a datastore that is there.
pub(super) fn of_vms(dir: &DatastoreDir) -> Result<Vec<VmSizes>, StorageError> {
    sizes(&Datastore::open(dir)?.into_folder())
}

fn sizes(datastore: &Home) -> Result<Vec<VmSizes>, StorageError> {
    let mut vms: Vec<VmSizes> = Vec::new();
    for name in datastore.names()? {
        let Some(vm) = number(&name) else { continue };
        // A VM may go while it is looked at; then there is nothing to tell of it.
        let Ok(Some(home)) = datastore.folder(&name) else { continue };
        let disks = disks(&home);
        if !disks.is_empty() {
            vms.push(VmSizes { vm: VmId(vm), disks });
        }
    }
    vms.sort_by_key(|vm| vm.vm);
    Ok(vms)
}

fn disks(home: &Home) -> Vec<DiskSizes> {
    let names = home.names().unwrap_or_default();
    let mut disks: Vec<DiskSizes> = names.iter().filter_map(|name| disk(home, name)).collect();
    disks.sort_by_key(|disk| disk.id);
    disks
}

fn disk(home: &Home, name: &str) -> Option<DiskSizes> {
    let id = number(name.strip_prefix("disk.")?)?;
    let size_mb = room(home, name)?;
    let mut snapshots = BTreeMap::new();
    if let Ok(Some(folder)) = home.folder(&format!("{name}.snap")) {
        let names = folder.names().unwrap_or_default();
        let all = names.iter().filter_map(|name| Some((number(name)?, room(&folder, name)?)));
        snapshots.extend(all);
        // A snapshot whose layer was merged into another one takes the room of that one.
        let moved = names.iter().filter_map(|name| {
            let id = number(name.strip_suffix(".current")?)?;
            let mut text = String::new();
            folder.open(name).ok()?.take(4096).read_to_string(&mut text).ok()?;
            let layer = text.trim().rsplit('/').next()?;
            number(layer)?;
            Some((id, room(&folder, layer)?))
        });
        snapshots.extend(moved);
    }
    Some(DiskSizes { id, size_mb, snapshots })
}

/// The room that a file takes, MiB, as `du -mL` counts it: that of a persistent disk is its image's.
fn room(home: &Home, name: &str) -> Option<u64> {
    let found = std::fs::metadata(home.path().join(name)).ok()?;
    Some(found.blocks().saturating_mul(512).div_ceil(MIB))
}

fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
