//! What a driver process knows of its requests, kept across its own death.
//!
//! One line of JSON per event, appended and not synced: it survives the process, not the machine (after the loss of a
//! machine the truth is read from the hosts). A file for each living process, mode 0600, and no input, no argv and no
//! secret in it: only which steps of which plan have begun and ended, and what is needed to ask the hosts where the
//! guest is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::engine::Outcome;
use crate::names::{DeployId, HostName, RequestId, VmId};
use crate::plan::{Goal, Plan, Recall};
use crate::reach::wire::StepEnd;

/// One event in the life of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// Its plan is about to run.
    Begin {
        /// The action's word.
        action: String,
        /// The VM.
        vm: VmId,
        /// The guest, where it exists already.
        deploy_id: Option<DeployId>,
        /// The steps' names, in order.
        steps: Vec<String>,
        /// What the step of that name must reach.
        goals: BTreeMap<String, Goal>,
        /// The hosts that the plan touches.
        hosts: Vec<HostName>,
        /// The first word that the reply must carry.
        first_word: Option<u32>,
        /// What its plan can be made from again.
        #[serde(default)]
        recall: Option<Recall>,
    },
    /// An exchange is about to be sent. A host runs its steps without asking back, so each of them that has no end may
    /// have begun, whatever else came through.
    Sent {
        /// The names of its steps.
        steps: Vec<String>,
    },
    /// A step began.
    Started {
        /// Its name.
        step: String,
    },
    /// A step ended.
    Ended {
        /// Its name.
        step: String,
        /// Whether it succeeded.
        ok: bool,
    },
    /// It has failed, or was cancelled, and what it made is about to be undone: there is no way forward any more.
    Undo,
    /// The request was answered, or needs no answer.
    End {
        /// Whether it succeeded.
        ok: bool,
    },
}

impl Note {
    /// The first note of a plan.
    pub fn begin(plan: &Plan) -> Self {
        let mut hosts: Vec<HostName> = plan.steps.iter().filter_map(|s| s.place.host().cloned()).collect();
        hosts.sort();
        hosts.dedup();
        Note::Begin {
            action: plan.action.clone(),
            vm: plan.vm,
            deploy_id: plan.deploy_id.clone(),
            steps: plan.steps.iter().map(|s| s.name.clone()).collect(),
            goals: plan.steps.iter().filter_map(|s| Some((s.name.clone(), s.goal.clone()?))).collect(),
            hosts,
            first_word: plan.first_word,
            recall: plan.recall.clone(),
        }
    }

    /// The note of a step's end.
    pub fn ended(end: &StepEnd) -> Self {
        Note::Ended { step: end.step.clone(), ok: end.result.is_ok() }
    }

    /// The last note.
    pub fn end(outcome: &Outcome) -> Self {
        Note::End { ok: matches!(outcome, Outcome::Success(_)) }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    request: RequestId,
    note: Note,
}

/// A request that was in flight when its process died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The request.
    pub request: RequestId,
    /// Its first note.
    pub begin: Note,
    /// What followed.
    pub notes: Vec<Note>,
}

/// A journal is emptied when it is longer than that and nothing is in flight, in bytes.
const LONG: usize = 1 << 20;

/// How many driver processes of one kind may run at once.
const MOST: u32 = 100;

/// The file.
pub struct Journal {
    path: Option<PathBuf>,
    /// Where it and its siblings are: as the caller named it, whatever its number.
    base: PathBuf,
    file: Mutex<Appended>,
    /// Whose it is: the kernel frees the lock with the process, however it ends.
    claim: Option<File>,
}

impl Drop for Journal {
    /// Told, and not left to the file's end: a child that is just being started has it too, until it begins its program.
    fn drop(&mut self) {
        if let Some(claim) = &self.claim {
            let _ = claim.unlock();
        }
    }
}

#[derive(Default)]
struct Appended {
    file: Option<File>,
    /// Whether the last write may have left a line without its end.
    torn: bool,
    /// How much has been written, in bytes.
    length: usize,
    /// The requests without an end.
    open: BTreeSet<RequestId>,
}

impl Appended {
    fn to(file: File, unfinished: &[Unfinished]) -> Self {
        let open = unfinished.iter().map(|old| old.request.clone()).collect();
        Appended { file: Some(file), open, ..Appended::default() }
    }

    /// Empties a file that has grown long, once nothing in it is of any use.
    fn shorten(&mut self) -> io::Result<()> {
        if self.length > LONG && self.open.is_empty() {
            self.file.as_mut().map_or(Ok(()), |file| file.set_len(0))?;
            self.length = 0;
        }
        Ok(())
    }
}

impl Journal {
    /// Opens the journal at `path` and returns what it says was in flight. Only those requests are kept in it.
    ///
    /// Every process has one of its own: while another one has `vmm.journal`, it is `vmm-2.journal`. oned starts a driver
    /// process for each of its entries, always in the same order, and the dead one of several again by itself; so each
    /// finds what its predecessor left, and none takes up what another is still at. What it does not find so, it finds
    /// with [`orphans`](Journal::orphans).
    ///
    /// # Errors
    /// The file can't be read, written or replaced.
    pub fn open(path: &Path) -> io::Result<(Journal, Vec<Unfinished>)> {
        let base = path.to_owned();
        let (claim, path) = claim(path)?;
        let path = path.as_path();
        let unfinished = read_file(path)?;
        // Written beside and renamed: a death in here leaves the old journal.
        let fresh = path.with_extension("new");
        // Made anew: one that such a death left may have another mode, or be somebody's link.
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        for old in &unfinished {
            for note in std::iter::once(&old.begin).chain(&old.notes) {
                file.write_all(&line(&old.request, note))?;
            }
        }
        drop(file);
        fs::rename(&fresh, path)?;
        let file = OpenOptions::new().append(true).open(path)?;
        let file = Mutex::new(Appended::to(file, &unfinished));
        Ok((Journal { path: Some(path.to_owned()), base, file, claim: Some(claim) }, unfinished))
    }

    /// What is in the journals that no process has, which is then in this one, and theirs are gone: that of a process
    /// which was still dying when its successor began, for oned kills and starts in one breath, and that of an entry which
    /// oned has no more.
    ///
    /// # Errors
    /// One of them can't be read or removed.
    pub fn orphans(&self) -> io::Result<Vec<Unfinished>> {
        let mut all = Vec::new();
        for number in 1..=MOST {
            let path = numbered(&self.base, number);
            if self.path.as_ref() == Some(&path) || !path.exists() {
                continue;
            }
            let Some(_claim) = try_claim(&path)? else { continue };
            let unfinished = read_file(&path)?;
            for old in &unfinished {
                std::iter::once(&old.begin).chain(&old.notes).for_each(|note| self.note(&old.request, note));
            }
            fs::remove_file(&path)?;
            all.extend(unfinished);
        }
        Ok(all)
    }

    /// A journal that keeps nothing: for dry runs and stand-alone slots, which nobody adopts.
    pub fn none() -> Self {
        Journal { path: None, base: PathBuf::new(), file: Mutex::default(), claim: None }
    }

    /// Appends one event. A full disk costs the adoption after a crash, not the action: it is logged.
    pub fn note(&self, request: &RequestId, note: &Note) {
        let mut appended = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let torn = appended.torn;
        let Some(file) = appended.file.as_mut() else { return };
        let mut bytes = line(request, note);
        if torn {
            // The half of a line that a full disk left must not take this one with it.
            bytes.insert(0, b'\n');
        }
        // One write call per line, in append mode: lines of two threads never mix.
        let written = file.write_all(&bytes);
        appended.torn = written.is_err();
        appended.length += bytes.len();
        match note {
            Note::Begin { .. } => drop(appended.open.insert(request.clone())),
            Note::End { .. } => drop(appended.open.remove(request)),
            _ => {}
        }
        if let Err(e) = written.and_then(|()| appended.shorten()) {
            tracing::error!(error = %e, path = ?self.path, %request, "cannot write the journal");
        }
    }
}

/// The first journal at `path`, or beside it, that no other process has; and the lock that says so.
fn claim(path: &Path) -> io::Result<(File, PathBuf)> {
    for number in 1..=MOST {
        let path = numbered(path, number);
        if let Some(claim) = try_claim(&path)? {
            return Ok((claim, path));
        }
    }
    Err(io::Error::other(format!("{MOST} processes have a journal already")))
}

/// The lock of the journal at `path`, unless another process has it.
fn try_claim(path: &Path) -> io::Result<Option<File>> {
    // A file of its own, which is never replaced as the journal is.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(path.with_extension("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// `vmm.journal`, `vmm-2.journal` and so on.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name: OsString = path.file_stem().unwrap_or_default().to_owned();
    if number > 1 {
        name.push(format!("-{number}"));
    }
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn line(request: &RequestId, note: &Note) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec(&Line { request: request.clone(), note: note.clone() }).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What is unfinished in the journal at `path`; nothing if there is none.
fn read_file(path: &Path) -> io::Result<Vec<Unfinished>> {
    match File::open(path) {
        Ok(file) => read(BufReader::new(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Reads the requests without an end. A line that was cut off by a death is passed over.
fn read(file: impl BufRead) -> io::Result<Vec<Unfinished>> {
    let mut open: Vec<Unfinished> = Vec::new();
    for bytes in file.split(b'\n') {
        let Ok(Line { request, note }) = serde_json::from_slice(&bytes?) else { continue };
        let known = open.iter().position(|u| u.request == request);
        match (note, known) {
            (begin @ Note::Begin { .. }, None) => open.push(Unfinished { request, begin, notes: Vec::new() }),
            (Note::End { .. }, Some(index)) => {
                open.remove(index);
            }
            (note, Some(index)) => {
                if let Some(unfinished) = open.get_mut(index) {
                    unfinished.notes.push(note);
                }
            }
            (_, None) => {}
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn begin(vm: u32) -> Note {
        Note::Begin {
            action: "DEPLOY".to_owned(),
            vm: VmId(vm),
            deploy_id: None,
            steps: vec!["deploy".to_owned()],
            goals: BTreeMap::new(),
            hosts: vec!["h1".parse().unwrap()],
            first_word: None,
            recall: None,
        }
    }

    #[test]
    fn only_what_has_no_end_is_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.journal");
        let (journal, unfinished) = Journal::open(&path).unwrap();
        assert_eq!(unfinished, []);
        let (one, two) = (RequestId::new(1, 2, 1), RequestId::new(1, 2, 2));
        journal.note(&one, &begin(1));
        journal.note(&two, &begin(2));
        journal.note(&two, &Note::Started { step: "deploy".to_owned() });
        journal.note(&one, &Note::End { ok: true });
        // A death in the middle of a line.
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"request\":\"1-2-2\",\"no")
            .unwrap();
        drop(journal);

        let (journal, unfinished) = Journal::open(&path).unwrap();
        let started = vec![Note::Started { step: "deploy".to_owned() }];
        assert_eq!(unfinished, [Unfinished { request: two.clone(), begin: begin(2), notes: started }]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        journal.note(&two, &Note::End { ok: false });
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1, []);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.journal");
        let (journal, _) = Journal::open(&path).unwrap();
        let long = LONG / line(&RequestId::new(1, 2, 1), &begin(1)).len() + 1;
        for number in 0..=u64::try_from(long).unwrap() {
            let request = RequestId::new(1, 2, number);
            journal.note(&request, &begin(1));
            if number > 0 {
                journal.note(&request, &Note::End { ok: true });
            }
        }
        assert!(fs::metadata(&path).unwrap().len() > 1 << 20, "the first is in flight");
        journal.note(&RequestId::new(1, 2, 0), &Note::End { ok: true });
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        let last = RequestId::new(1, 2, 7);
        journal.note(&last, &begin(3));
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1[0].request, last);
    }

    /// oned's entries `kvm` and `qemu` are two processes of one program.
    #[test]
    fn two_processes_have_two_journals_and_each_finds_its_own_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.journal");
        let requests = [RequestId::new(1, 2, 1), RequestId::new(3, 4, 1)];
        let open = || Journal::open(&path).unwrap();
        let ((first, _), (second, told)) = (open(), open());
        assert_eq!(told, []);
        for (journal, request) in [&first, &second].into_iter().zip(&requests) {
            journal.note(request, &begin(1));
        }
        let of = |told: Vec<Unfinished>| told.into_iter().map(|old| old.request).collect::<Vec<_>>();
        assert_eq!(first.orphans().unwrap(), [], "the other one lives");
        // One dies alone: what the living one is at is not its successor's.
        drop(second);
        let (second, told) = open();
        assert_eq!(of(told), requests[1..]);
        drop(first);
        let (first, told) = open();
        assert_eq!(of(told), requests[..1]);
        // Both die, and are started in the same order.
        drop((first, second));
        let ((left, one), (gone, two)) = (open(), open());
        assert_eq!([of(one), of(two)].concat(), requests);
        // One entry is no more.
        drop(gone);
        assert_eq!(of(left.orphans().unwrap()), requests[1..]);
        assert_eq!(left.orphans().unwrap(), []);
        drop(left);
        assert_eq!(of(open().1), requests, "they are in its own journal now");
    }
}
