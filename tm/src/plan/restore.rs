//! `restore`: a VM that is off gets its disks out of a backup (contract TM 2.3).
//!
//! ```text
//! ls (read before)     which disks are in the backup, and where they are to be fetched
//! disk.N:look ...      none of them may be open
//! disk.N:fetch ...     all of them come in, beside what the VM has
//! disk.N:make ...      of a volume: one is made of it beside the disk
//! disk.N:put ...       each takes its disk's place
//! disk.N:done ...      and loses the name under which it came in
//! ```

use std::collections::BTreeMap;

use causeway_core::plan::{Arg, Input, Place, Slot, Step, Work};

use super::{Source, Transfer, files, rbd, step};
use crate::datastore::source::is_address;
use crate::error::TmError;
use crate::facts::{BackupSource, Facts, Format, VmFacts};
use crate::host::{Call, DatastoreCall, Fetch, Kept, Origin, RestoreCall, RestoreDisk, Staged};
use crate::place::VmFile;
use crate::request::{Restore, Service, Store};
use crate::settings::TmSettings;

/// The name of the input that a datastore's driver is asked with.
const QUESTION: &str = "tm:restore:ls";
/// What a backup calls the state of a TPM.
const TPM: &str = "tpm";

/// Asks the datastore's driver what is in the backup.
pub(super) fn reading(restore: &Restore, facts: &Facts, settings: &TmSettings) -> Result<Transfer, TmError> {
    let missing =
        || TmError::Missing { what: "IMAGE".to_owned(), object: format!("image {}", restore.image) };
    let source = facts.backup.as_ref().ok_or_else(missing)?;
    let wrong = |source| TmError::Argument { slot: "restore".to_owned(), position: 3, source };
    let slot = Slot::new("datastore", source.driver(), "ls").map_err(wrong)?;
    let increment = restore.increment.map_or_else(|| "-1".to_owned(), |id| id.to_string());
    let argv = vec![Arg::from("-i"), Arg::from(increment)];
    let work = Work::Slot { slot, argv, input: Some(QUESTION.to_owned()) };
    let step = Step::new("ls", Place::FrontEnd, work, settings.copy_deadline);
    let question = Input::new(source.question(restore.increment));
    Ok(Transfer { steps: vec![step], inputs: [(QUESTION.to_owned(), Source::Bytes(question))].into() })
}

/// The steps.
pub(super) fn plan(
    slot: &Slot,
    service: Service,
    restore: &Restore,
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    if let Some(backup) = &facts.backup {
        backup.expect_images(&format!("backup image {}", restore.image))?;
    }
    let volumes = rbd::restoring(slot, restore, facts, settings);
    let volumes = (service.store == Store::Rbd).then_some(&volumes);
    let (mut look, mut fetch, mut make) = (Vec::new(), Vec::new(), Vec::new());
    let (mut put, mut done) = (Vec::new(), Vec::new());
    let lies_in = facts.backup.as_ref().and_then(BackupSource::lies_in);
    let lies_in = lies_in.map_or_else(String::new, |id| format!(" in datastore {id}"));
    for (name, staged, address) in chosen(slot, restore, facts, volumes)? {
        let call = |call: RestoreCall, last: &str| {
            let long = matches!(call, RestoreCall::Put(_));
            let name = format!("restore:{name}:{last}");
            step(name, restore.host.clone(), &Call::Restore(Box::new(call)), settings, long)
        };
        let drop = call(RestoreCall::Drop(staged.clone()), "drop")?;
        let what = format!("{name} of backup image {}{lies_in}", restore.image);
        let fetched = format!("restore:{name}:fetch");
        let step = fetching(&fetched, restore, &staged, (what, address), settings)?;
        fetch.push(step.undone_by(vec![drop]));
        match (volumes, &staged) {
            (Some(volumes), Staged::Disk(disk)) => {
                let [made, placed] = volumes.steps(&disk.file)?;
                look.push(volumes.look(&disk.file)?);
                make.push(made);
                put.push(placed);
            }
            (_, Staged::Disk(_)) => {
                look.push(call(RestoreCall::Look(staged.clone()), "look")?);
                put.push(call(RestoreCall::Put(staged.clone()), "put")?);
            }
            (_, Staged::Tpm(_)) => put.push(call(RestoreCall::Put(staged.clone()), "put")?),
        }
        done.push(call(RestoreCall::Drop(staged), "done")?);
    }
    let steps = look.into_iter().chain(fetch).chain(make).chain(put).chain(done).collect();
    Ok(Transfer { steps, inputs: BTreeMap::new() })
}

/// What is to be restored of what is there: its name, what it is to be, and where it is.
fn chosen(
    slot: &Slot,
    restore: &Restore,
    facts: &Facts,
    volumes: Option<&rbd::VolumeRestore<'_>>,
) -> Result<Vec<(String, Staged, String)>, TmError> {
    let vm = facts.vm(restore.dir.vm())?;
    let object = format!("backup image {}", restore.image);
    let listing = facts.listing.as_ref();
    let listing =
        listing.ok_or_else(|| TmError::Missing { what: "ls".to_owned(), object: object.clone() })?;
    let mut disks = BTreeMap::new();
    for (id, address) in listing.iter().filter(|(id, _)| *id != TPM) {
        let number: u32 = id.parse().map_err(|_| TmError::Attribute {
            attribute: "disk".to_owned(),
            object: object.clone(),
            value: id.clone(),
            accepted: "a disk's number".into(),
        })?;
        if restore.disk.is_none_or(|wanted| wanted == number) {
            disks.insert(number, address);
        }
    }
    if disks.is_empty() {
        let which = restore.disk.map_or_else(|| "disk".to_owned(), |id| format!("disk {id}"));
        return Err(TmError::Refused { what: object, why: format!("it has no {which}") });
    }
    let mut all = Vec::new();
    for (number, address) in &disks {
        let path = restore.dir.path().join(format!("disk.{number}")).display().to_string();
        let wrong = |source| TmError::Argument { slot: slot.to_string(), position: 1, source };
        let file: VmFile = path.parse().map_err(wrong)?;
        let disk = match volumes {
            None => disk_of_files(vm, *number, file)?,
            Some(volumes) => {
                volumes.expect(&file)?;
                let size_mb = vm.disk(*number)?.size_mb;
                RestoreDisk { file, kept: Kept::Beside, qcow2: false, size_mb }
            }
        };
        let staged = Staged::Disk(disk);
        all.push((format!("disk.{number}"), staged, (*address).clone()));
    }
    // A TPM's keys belong to what the first disk holds (contract TM 2.3).
    if let Some(address) = listing.get(TPM).filter(|_| disks.contains_key(&0)) {
        all.push((TPM.to_owned(), Staged::Tpm(restore.dir.clone()), address.clone()));
    }
    Ok(all)
}

fn disk_of_files(vm: &VmFacts, number: u32, file: VmFile) -> Result<RestoreDisk, TmError> {
    let disk = vm.disk(number)?;
    let qcow2 = match vm.format(number)? {
        Format::Qcow2 => true,
        Format::Raw => false,
        Format::Other(name) => {
            return Err(TmError::Attribute {
                attribute: format!("DISK {number} FORMAT"),
                object: format!("VM {}", vm.id),
                value: name.clone(),
                accepted: "raw or qcow2".into(),
            });
        }
    };
    let kept = files::kept(disk, &file, false)?;
    Ok(RestoreDisk { file, kept, qcow2, size_mb: disk.size_mb })
}

/// The stock script fetches it on the front-end, and it goes to the host in one stream.
fn fetching(
    name: &str,
    restore: &Restore,
    staged: &Staged,
    (what, address): (String, String),
    settings: &TmSettings,
) -> Result<Step, TmError> {
    let front = settings.front.as_ref();
    // That script makes a command line of it, and a driver that means no harm names no file by a way back.
    if !is_address(&address) || address.split('/').any(|part| part == "..") {
        return Err(TmError::Attribute {
            attribute: format!("address of {name}"),
            object: format!("backup image {}", restore.image),
            value: address,
            accepted: "an address of letters, digits and the signs that one may have, without `..`".into(),
        });
    }
    let why = || TmError::Unwritable { step: name.to_owned(), why: "no front-end is known".to_owned() };
    let front = front.ok_or_else(why)?;
    let fetch = Fetch {
        program: front.downloader.clone(),
        address: Some(address),
        // The state of a TPM is an archive, and stays one.
        decompress: false,
        limit: None,
        what: Some(what),
    };
    let origin = Origin::Address { fetch, checksum: None };
    let import = Box::new(DatastoreCall::Stage { staged: staged.clone(), origin });
    let mut ssh = front.ssh.clone();
    ssh.extend([restore.host.to_string(), front.receiver.clone()]);
    let call = Call::Datastore(DatastoreCall::Deliver { import, ssh });
    let step = step(name.to_owned(), restore.host.clone(), &call, settings, true)?;
    Ok(Step { place: Place::FrontEnd, ..step })
}
