//! A copy on its way: kept below the admin's limit, and told of in the VM's log.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use causeway_core::protocol::Severity;

use super::Worker;
use super::error::TIME_IS_UP;
use crate::pace::{Limit, Progress};

/// How copies are made on this host, as its admin wants it.
#[derive(Clone, Copy)]
pub struct Copying<'a> {
    /// Most that one copy moves; none means no limit.
    pub bytes_per_second: Option<u64>,
    /// Where the progress of a long copy is told.
    pub log: &'a dyn Fn(Severity, &str),
}

impl Default for Copying<'_> {
    fn default() -> Self {
        Copying { bytes_per_second: None, log: &|_, _| {} }
    }
}

/// Bytes that the kernel is asked to move at once, where there is no limit.
const RANGE: u64 = 64 << 20;
/// Bytes below which a limited copy is not cut any smaller.
const GRAIN: u64 = 64 << 10;

/// What one copy moved so far.
pub(crate) struct Meter<'a> {
    path: PathBuf,
    copying: Copying<'a>,
    limit: Limit,
    progress: Progress,
    begun: Instant,
    deadline: Instant,
    done: u64,
}

impl<'a> Meter<'a> {
    /// Of a copy of `path` that moves about so many bytes.
    pub(crate) fn new(worker: &Worker<'a>, path: &Path, bytes: u64) -> Self {
        let begun = Instant::now();
        let limit = Limit::new(worker.copying.bytes_per_second);
        let progress = Progress::new(bytes, 0, begun.elapsed());
        let (path, copying, deadline) = (path.to_owned(), worker.copying, worker.deadline);
        Meter { path, copying, limit, progress, begun, deadline, done: 0 }
    }

    /// How many bytes may be moved at once: under a limit, what takes an eighth of a second.
    pub(crate) fn most(&self) -> usize {
        let most = self.copying.bytes_per_second.map_or(RANGE, |rate| (rate / 8).clamp(GRAIN, RANGE));
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// So many bytes were moved; waits until more may be.
    ///
    /// # Errors
    /// The deadline has passed: whoever copies ends by itself and leaves nothing, rather than be killed.
    pub(crate) fn moved(&mut self, bytes: usize) -> io::Result<()> {
        let pause = self.limit.sent(bytes, self.begun.elapsed());
        if !pause.is_zero() {
            std::thread::sleep(pause.min(self.deadline.saturating_duration_since(Instant::now())));
        }
        self.reached(self.done.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
        if Instant::now() < self.deadline {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, TIME_IS_UP))
        }
    }

    /// So many bytes are done, all in all.
    pub(crate) fn reached(&mut self, done: u64) {
        self.done = done;
        if let Some(line) = self.progress.line(done, self.begun.elapsed()) {
            (self.copying.log)(Severity::Info, &format!("copy of {}: {line}", self.path.display()));
        }
    }
}

/// Bytes of a file that lie on the disk: what there is to copy, more or less.
pub(crate) fn allocated(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.blocks().saturating_mul(512))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::time::Duration;

    fn worker<'a>(bytes_per_second: Option<u64>, log: &'a dyn Fn(Severity, &str)) -> Worker<'a> {
        Worker {
            copying: Copying { bytes_per_second, log },
            ..Worker::new(Path::new("/"), Instant::now() + Duration::from_secs(60))
        }
    }

    #[test]
    fn a_long_copy_is_told_of() {
        let said = RefCell::new(Vec::new());
        let log = |_, line: &str| said.borrow_mut().push(line.to_owned());
        let worker = worker(None, &log);
        let mut meter = Meter::new(&worker, Path::new("/ds/1/abc"), 100 << 20);
        meter.moved(10 << 20).unwrap();
        assert_eq!(said.borrow().len(), 0);
        // As if it had begun twenty seconds ago.
        meter.begun -= Duration::from_secs(20);
        meter.moved(10 << 20).unwrap();
        let line = said.borrow().concat();
        assert!(line.starts_with("copy of /ds/1/abc: 20 % of 100.0 MiB, "), "{line}");
        assert!(line.contains("/s, about ") && line.ends_with(" left"), "{line}");
    }

    #[test]
    fn a_limited_copy_moves_little_at_once_and_waits() {
        let worker = worker(Some(8 << 20), &|_, _| {});
        let mut meter = Meter::new(&worker, Path::new("/ds/1/abc"), 0);
        assert_eq!(meter.most(), 1 << 20);
        let begun = Instant::now();
        for _ in 0..4 {
            meter.moved(1 << 20).unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(240), "{:?}", begun.elapsed());
        assert_eq!(Meter::new(&super::tests::worker(None, &|_, _| {}), Path::new("/"), 0).most(), 64 << 20);
    }
}
