//! The end where the directory is.

use std::fs::File;
use std::time::{Duration, Instant};

use super::error::CarryError;
use super::frame::{Frame, FrameError, Say, There};
use super::grains::{Broken, SEGMENT, Segment, Whole, runs, segments};
use super::order::{Carry, Part};
use super::pack::Packer;
use super::walk::{self, Found, Summary, summary, walk};
use super::wire::Link;
use super::{Ended, Note, Told};
use crate::host::{Datastore, During, Home, StorageError, Worker, hold, make_relative, remove, retire};
use crate::pace::Limit;
use crate::place::TEMPORARY;

/// Gives the directory away.
///
/// # Errors
/// [`CarryError`]; the directory is where it was, or whole at the destination, and the same call goes on from there.
pub fn send(
    carry: &Carry,
    link: &mut Link,
    worker: &Worker<'_>,
    note: &mut Note<'_>,
) -> Result<Ended, CarryError> {
    let from = &carry.from;
    let _lock = hold(worker, from.dir.vm(), None)?;
    let old = Datastore::open(from.dir.datastore())?;
    let Some(source) = old.home(&from.dir)? else {
        if matches!(carry.part, Part::Copy | Part::Drop) {
            return Err(StorageError::NoDisk { path: from.dir.path() }.into());
        }
        // It may only be gone where there is a datastore for it to be gone from.
        old.prove()?;
        link.outgoing.say(Say::Source { probe: None })?;
        return match destination(link)? {
            There::Nothing => Err(CarryError::Neither(Box::new(carry.clone()))),
            There::Same | There::Copy(_) | There::Other => removed(carry, &old, link, worker),
        };
    };
    old.mark()?;
    worker.at("source marked");
    match carry.part {
        Part::Move => source.sweep_all()?,
        // What else is half-made there may be of use to a guest that runs.
        _ => source.sweep_probes()?,
    }
    worker.at("source swept");
    match look(&source, link, worker)? {
        There::Same => {
            link.outgoing.say(Say::Done)?;
            Ok(Ended::Same)
        }
        There::Nothing | There::Other if carry.part == Part::Drop => {
            link.outgoing.say(Say::Done)?;
            Ok(Ended::Dropped)
        }
        There::Copy(_) if carry.part == Part::Drop => {
            link.outgoing.say(Say::Drop)?;
            match link.incoming.say()? {
                Say::Done => Ok(Ended::Dropped),
                _ => Err(FrameError::Malformed("no word of the end").into()),
            }
        }
        There::Nothing if carry.part == Part::Leave => Err(CarryError::NotThere(Box::new(carry.clone()))),
        // The guest runs on the copy: whatever was written here since is of no use.
        There::Copy(_) if carry.part == Part::Leave => removed(carry, &old, link, worker),
        There::Other => {
            let why = "the new one was not copied from the old one";
            Err(CarryError::BothThere { carry: Box::new(carry.clone()), why })
        }
        There::Copy(fingerprint) if carry.part == Part::Move => {
            if summary(&source, from)?.fingerprint != fingerprint {
                let why = "the old one was changed after the new one had been copied from it";
                return Err(CarryError::BothThere { carry: Box::new(carry.clone()), why });
            }
            removed(carry, &old, link, worker)
        }
        // One that an earlier try has left is made anew.
        There::Nothing | There::Copy(_) => {
            if carry.part == Part::Move {
                make_relative(&source, worker)?;
                worker.at("layers relative");
            }
            let before = summary(&source, from)?;
            tree(carry, &source, &before, link, worker, note)?;
            // Whoever wrote meanwhile wrote into the directory that would go.
            if carry.part == Part::Move && summary(&source, from)?.fingerprint != before.fingerprint {
                return Err(CarryError::Changed(Box::new(from.clone())));
            }
            link.outgoing.say(Say::EndTree)?;
            worker.at("tree sent");
            match link.incoming.say()? {
                Say::Placed if carry.part == Part::Copy => {
                    link.outgoing.say(Say::Kept)?;
                    match link.incoming.say()? {
                        Say::Done => Ok(Ended::Copied),
                        _ => Err(FrameError::Malformed("no word of the end").into()),
                    }
                }
                Say::Placed => removed(carry, &old, link, worker),
                _ => Err(FrameError::Malformed("no word of the copy").into()),
            }
        }
    }
}

/// Has the other end look for a file that is made here now: whether it sees this very directory.
fn look(source: &Home, link: &mut Link, worker: &Worker<'_>) -> Result<There, CarryError> {
    let mut random = [0; 16];
    let urandom = "/dev/urandom";
    File::open(urandom)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random))
        .during("read", urandom)?;
    let probe = format!("{TEMPORARY}probe.{:032x}", u128::from_be_bytes(random));
    source.create(&probe, 0o600)?;
    worker.at("probe made");
    let there =
        link.outgoing.say(Say::Source { probe: Some(probe.clone()) }).and_then(|()| destination(link));
    remove(source.handle(), &probe, &source.path().join(&probe))?;
    worker.at("probe removed");
    there
}

fn destination(link: &mut Link) -> Result<There, CarryError> {
    match link.incoming.say()? {
        Say::Destination(there) => Ok(there),
        _ => Err(FrameError::Malformed("no word of the destination").into()),
    }
}

/// The destination has all of it: the old directory goes.
fn removed(
    carry: &Carry,
    old: &Datastore,
    link: &mut Link,
    worker: &Worker<'_>,
) -> Result<Ended, CarryError> {
    retire(old, &carry.from.dir, worker)?;
    link.outgoing.say(Say::Removed)?;
    match link.incoming.say()? {
        Say::Done => Ok(Ended::Moved),
        _ => Err(FrameError::Malformed("no word of the end").into()),
    }
}

fn tree(
    carry: &Carry,
    source: &Home,
    before: &Summary,
    link: &mut Link,
    worker: &Worker<'_>,
    note: &mut Note<'_>,
) -> Result<(), CarryError> {
    let (fingerprint, mode) = (before.fingerprint.clone(), source.mode()?);
    link.outgoing.say(Say::Tree { fingerprint, mode, bytes: before.bytes })?;
    let resumed = match link.incoming.say()? {
        Say::Begin { resumed } => resumed,
        _ => return Err(FrameError::Malformed("no word to begin").into()),
    };
    note(Told::Begins { bytes: before.bytes, resumed });
    let manner = &carry.manner;
    let mut sender = Sender {
        link,
        worker,
        note,
        begun: Instant::now(),
        limit: Limit::new(manner.bytes_per_second),
        packer: manner.packed.then(Packer::default),
        done: 0,
        wire: 0,
        buffer: Vec::new(),
    };
    walk(source, &carry.from, &mut |found| {
        match found {
            Found::Entry(entry) => sender.send(&Frame::Entry(entry))?,
            Found::File { about, inode, name, parent, path, .. } => {
                let file = walk::open((parent, name, path), (about, inode), &carry.from)?;
                sender.send(&Frame::File { about, name })?;
                let from = if resumed {
                    sender.proved(&file, about.size, path)?
                } else {
                    (0, Whole::new(about.size))
                };
                sender.file(&file, about.size, from, path)?;
            }
        }
        worker.at("entry sent");
        Ok(())
    })?;
    let (done, wire) = (sender.done, sender.wire);
    (sender.note)(Told::Sent { bytes: done, wire });
    Ok(())
}

struct Sender<'a, 'n> {
    link: &'a mut Link,
    worker: &'a Worker<'a>,
    note: &'a mut Note<'n>,
    begun: Instant,
    limit: Limit,
    packer: Option<Packer>,
    /// Bytes of data that the destination has.
    done: u64,
    /// Bytes that went over the connection.
    wire: u64,
    buffer: Vec<u8>,
}

impl Sender<'_, '_> {
    fn send(&mut self, frame: &Frame<'_>) -> Result<(), CarryError> {
        if Instant::now() > self.worker.deadline {
            return Err(CarryError::Late);
        }
        let sent = self.link.outgoing.send(frame)?;
        self.wire += u64::try_from(sent).unwrap_or(0);
        let wait = self.limit.sent(sent, self.begun.elapsed());
        if wait > Duration::ZERO {
            std::thread::sleep(wait);
        }
        Ok(())
    }

    /// How much of a file the destination has: the first segment that it has not, and the hash up to there.
    fn proved(&mut self, file: &File, size: u64, path: &std::path::Path) -> Result<(u64, Whole), CarryError> {
        let (mut segment, mut whole, mut equal) = (0, Whole::new(size), true);
        loop {
            let proof = match self.link.incoming.next()? {
                Frame::Proof(hash) => hash,
                Frame::Say(say) if *say == Say::Proven => break,
                _ => return Err(FrameError::Malformed("no proof").into()),
            };
            if equal && segment < segments(size) {
                let ours = Segment::of(file, segment, size, &mut self.buffer).during("read", path)?;
                equal = ours.0 == proof;
                if equal {
                    whole.segment(segment, ours);
                    segment += 1;
                    self.done += if ours.1 { SEGMENT.min(size) } else { 0 };
                    (self.note)(Told::Done(self.done));
                }
            }
        }
        self.link.outgoing.say(Say::GoOn { segment })?;
        Ok((segment, whole))
    }

    fn file(
        &mut self,
        file: &File,
        size: u64,
        (first, mut whole): (u64, Whole),
        path: &std::path::Path,
    ) -> Result<(), CarryError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut segment = Segment::default();
        let mut at = first;
        while at < segments(size) {
            let range = (at * SEGMENT, size.min((at + 1) * SEGMENT));
            let read = runs(file, range, &mut buffer, |place, bytes| {
                segment.run(place, bytes);
                self.run(place, bytes)
            });
            match read {
                Ok(()) => {}
                Err(Broken::Read(error)) => return Err(error).during("read", path)?,
                Err(Broken::Told(error)) => return Err(error),
            }
            let (hash, any) = segment.end();
            if any {
                self.send(&Frame::Segment { index: at, hash })?;
                whole.segment(at, (hash, any));
                (self.note)(Told::Done(self.done));
                self.worker.at("segment sent");
                at += 1;
            } else {
                at = next_segment(file, range.1, size).during("read", path)?;
            }
        }
        self.buffer = buffer;
        self.send(&Frame::EndFile(whole.end()))
    }

    fn run(&mut self, at: u64, bytes: &[u8]) -> Result<(), CarryError> {
        self.done += u64::try_from(bytes.len()).unwrap_or(0);
        let mut packer = self.packer.take();
        let sent = match packer.as_mut().and_then(|packer| packer.pack(bytes)) {
            Some(block) => {
                let length = u32::try_from(bytes.len()).map_err(|_| FrameError::Malformed("a long run"))?;
                self.send(&Frame::Packed { at, length, block })
            }
            None => self.send(&Frame::Run { at, bytes }),
        };
        self.packer = packer;
        sent
    }
}

/// The first segment at or after `at` that may hold anything.
fn next_segment(file: &File, at: u64, size: u64) -> std::io::Result<u64> {
    let data = crate::host::next_data(file, at, size)?;
    Ok(data.map_or_else(|| segments(size), |(start, _)| start / SEGMENT))
}
