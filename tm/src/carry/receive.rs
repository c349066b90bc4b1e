//! The end where the directory is to be.

use std::time::{Duration, Instant};

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::error::CarryError;
use super::frame::{Entry, Frame, FrameError, RUN, Say, There};
use super::order::{Carry, Part};
use super::tree::{Tree, mark};
use super::wire::Link;
use super::{Ended, Note, Told};
use crate::host::{Datastore, During, Home, ORIGIN, StorageError, Worker, hold, remove, retire};
use crate::place::{FileName, TEMPORARY};

/// Longest wait for whatever else works on the VM at this end: the end of a session that was cut, which it sees late.
const BUSY: Duration = Duration::from_secs(60);

/// Takes the directory.
///
/// # Errors
/// [`CarryError`]; as [`send`](super::send::send).
pub fn receive(
    carry: &Carry,
    link: &mut Link,
    worker: &Worker<'_>,
    note: &mut Note<'_>,
) -> Result<Ended, CarryError> {
    let to = &carry.to.dir;
    let probe = match link.incoming.say()? {
        Say::Source { probe } => probe,
        _ => return Err(FrameError::Malformed("no word of the source").into()),
    };
    let new = Datastore::ensure(to.datastore())?;
    worker.at("destination marked");
    if carry.local {
        new.say_local()?;
        worker.at("destination said to be local");
    }
    let sees = |probe: &String| match new.home(to)? {
        Some(there) => there.has(probe),
        None => Ok(false),
    };
    // Before the lock: if this is the same machine under another name, the other end has it.
    if probe.as_ref().map(sees).transpose()?.unwrap_or(false) {
        link.outgoing.say(Say::Destination(There::Same))?;
        return match link.incoming.say()? {
            Say::Done => Ok(Ended::Same),
            _ => Err(FrameError::Malformed("no word of the end").into()),
        };
    }
    let patience = worker.deadline.min(Instant::now() + BUSY);
    let _lock = hold(&Worker { deadline: patience, ..*worker }, to.vm(), None)?;
    let there = there(carry, new.home(to)?.as_ref())?;
    let ours = matches!(there, There::Copy(_));
    link.outgoing.say(Say::Destination(there))?;
    match link.incoming.say()? {
        Say::Removed => finish(&new, carry, ours, link, worker),
        // None of ours, or not any more.
        Say::Done if carry.part == Part::Drop => {
            new.as_folder()?.sweep(FileName::from(to.vm().0))?;
            Ok(Ended::Dropped)
        }
        Say::Drop if ours => {
            retire(&new, to, worker)?;
            link.outgoing.say(Say::Done)?;
            Ok(Ended::Dropped)
        }
        Say::Tree { fingerprint, mode, bytes } => {
            let announced = Announced { fingerprint, mode, bytes };
            take(&new, carry, &announced, link, worker, note)?;
            link.outgoing.say(Say::Placed)?;
            match link.incoming.say()? {
                Say::Removed => finish(&new, carry, true, link, worker),
                Say::Kept => {
                    link.outgoing.say(Say::Done)?;
                    Ok(Ended::Copied)
                }
                _ => Err(FrameError::Malformed("no word of the source's end").into()),
            }
        }
        _ => Err(FrameError::Malformed("no word of what follows").into()),
    }
}

/// What stands at the destination.
fn there(carry: &Carry, home: Option<&Home>) -> Result<There, CarryError> {
    let Some(home) = home else { return Ok(There::Nothing) };
    let text = home.text(ORIGIN)?.unwrap_or_default();
    Ok(match text.split_once('\n') {
        Some((from, fingerprint)) if from == carry.from.to_string() => There::Copy(fingerprint.to_owned()),
        _ => There::Other,
    })
}

/// The source has gone: the word of it goes too.
fn finish(
    new: &Datastore,
    carry: &Carry,
    ours: bool,
    link: &mut Link,
    worker: &Worker<'_>,
) -> Result<Ended, CarryError> {
    let to = &carry.to.dir;
    if ours && let Some(home) = new.home(to)? {
        remove(home.handle(), ORIGIN, &home.path().join(ORIGIN))?;
        worker.at("origin removed");
        home.sync()?;
    }
    new.as_folder()?.sweep(FileName::from(to.vm().0))?;
    worker.at("destination swept");
    link.outgoing.say(Say::Done)?;
    Ok(Ended::Moved)
}

/// What the sender says of its tree.
struct Announced {
    fingerprint: String,
    mode: u16,
    bytes: u64,
}

/// Makes the copy beside, whole and on the disk, and gives it its name.
fn take(
    new: &Datastore,
    carry: &Carry,
    announced: &Announced,
    link: &mut Link,
    worker: &Worker<'_>,
    note: &mut Note<'_>,
) -> Result<(), CarryError> {
    let Announced { fingerprint, mode, bytes } = announced;
    // It becomes part of a name.
    if *mode > 0o777 || fingerprint.len() != 32 || !fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(FrameError::Malformed("a fingerprint").into());
    }
    let vm = carry.to.dir.vm();
    let folder = new.as_folder()?;
    // A try that was cut short is gone on with if it was of this very tree; anything else that is half-made goes.
    let beside = format!("{TEMPORARY}{vm}.carry-{fingerprint}");
    folder.sweep_but(&FileName::from(vm.0), &beside)?;
    worker.at("destination swept");
    let resumed = match mkdirat(folder.handle(), beside.as_str(), Mode::from_raw_mode(0o700)) {
        Ok(()) => false,
        Err(Errno::EXIST) => true,
        Err(e) => return Err(e).during("make", folder.path().join(&beside))?,
    };
    let missing = || StorageError::NotADirectory { path: folder.path().join(&beside) };
    let copy = folder.folder(&beside)?.ok_or_else(missing)?;
    worker.at("copy begun");
    mark(&copy, &format!("{}\n{fingerprint}", carry.from))?;
    worker.at("origin written");
    link.outgoing.say(Say::Begin { resumed })?;
    note(Told::Begins { bytes: *bytes, resumed });
    entries(&copy, resumed, link, worker, note)?;
    copy.set_mode(*mode)?;
    copy.sync()?;
    worker.at("copied");
    let name = vm.to_string();
    let old = folder.temporary(&name);
    if carry.part == Part::Copy && matches!(there(carry, new.home(&carry.to.dir)?.as_ref())?, There::Copy(_))
    {
        // Of the same directory, by an earlier try.
        folder.rename(&name, old.name())?;
        worker.at("old copy aside");
    }
    folder.rename_fresh(&beside, &name)?;
    worker.at("copy named");
    folder.sync()?;
    worker.at("copy in place");
    Ok(())
}

fn entries(
    copy: &Home,
    resumed: bool,
    link: &mut Link,
    worker: &Worker<'_>,
    note: &mut Note<'_>,
) -> Result<(), CarryError> {
    let mut tree = Tree::new(copy, resumed);
    let mut plain = Vec::new();
    let (mut done, mut proofs) = (0_u64, Vec::new());
    loop {
        if Instant::now() > worker.deadline {
            return Err(CarryError::Late);
        }
        match link.incoming.next()? {
            Frame::Entry(Entry::Enter { mode, name }) => tree.enter(mode, name)?,
            Frame::Entry(Entry::Leave) => tree.leave()?,
            Frame::Entry(Entry::Link { name, target }) => tree.link(name, target)?,
            Frame::File { about, name } => {
                let outgoing = &link.outgoing;
                proofs = tree.file(about, name, &mut |hash| outgoing.send(&Frame::Proof(hash)).map(drop))?;
                worker.at("file begun");
                if resumed {
                    outgoing.say(Say::Proven)?;
                }
            }
            Frame::Run { at, bytes } => {
                tree.run(at, bytes)?;
                done += u64::try_from(bytes.len()).unwrap_or(0);
            }
            Frame::Packed { at, length, block } => {
                let length = usize::try_from(length).unwrap_or(RUN).min(RUN);
                plain.resize(length, 0);
                let found = lz4_flex::block::decompress_into(block, &mut plain);
                if found.ok() != Some(length) {
                    return Err(FrameError::Malformed("a packed run").into());
                }
                tree.run(at, &plain)?;
                done += u64::try_from(length).unwrap_or(0);
            }
            Frame::Segment { index, hash } => {
                tree.segment(index, hash)?;
                worker.at("segment written");
                note(Told::Done(done));
            }
            Frame::EndFile(hash) => {
                tree.end_file(hash)?;
                worker.at("file written");
            }
            Frame::Say(say) => match *say {
                Say::GoOn { segment } if resumed => {
                    done += tree.go_on(segment, &proofs)?;
                    worker.at("file gone on with");
                }
                Say::EndTree => break,
                _ => return Err(FrameError::Malformed("a word out of place").into()),
            },
            Frame::Proof(_) | Frame::Beat => return Err(FrameError::Malformed("a frame out of place").into()),
        }
    }
    note(Told::Done(done));
    tree.end()
}
