//! Blocking calls that may never return, given a deadline.
//!
//! libvirt's client has no time limit of its own: a call waits for as long as the daemon is silent, and nothing can
//! interrupt it from outside. So each call runs on a thread of a small pool and the caller waits for the answer only
//! until the deadline. A thread that did not come back in time is left to itself: it is no longer in the pool, it ends
//! when its call does, and until then it counts as *hanging*. The user of the pool looks at that count before it adds
//! another.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Threads that wait for work; more than that end when their call does.
const IDLE_LIMIT: usize = 8;

type Job = Box<dyn FnOnce() + Send>;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The deadline passed; the call goes on.
    Late,
    /// The call panicked, or no thread could be started.
    Broken,
}

/// A pool of threads for calls that may hang.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    idle: Mutex<Vec<Sender<Job>>>,
    hanging: Arc<AtomicUsize>,
}

/// Runs `work` on a thread of its own and forgets it: for goodbyes, which nobody waits for and which may hang. They are
/// not counted: a daemon that is silent to goodbyes is silent to calls too.
pub(crate) fn leave(work: impl FnOnce() + Send + 'static) {
    let name = "libvirt-goodbye".to_owned();
    // Without a thread `work` is dropped unrun, and what it holds with it: then the goodbye is said here.
    let _ = thread::Builder::new().name(name).spawn(work);
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Pending<'p, T> {
    calls: &'p Calls,
    worker: Sender<Job>,
    answer: Receiver<T>,
    fate: Arc<Fate>,
}

impl Calls {
    /// How many calls are still out although nobody waits for them.
    pub fn hanging(&self) -> usize {
        self.hanging.load(Ordering::SeqCst)
    }

    /// Runs `work` and waits for its answer until the deadline.
    pub fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let pending = self.start(work)?;
        match pending.wait(deadline) {
            Ok(answer) => answer,
            Err(pending) => pending.abandon(),
        }
    }

    /// Starts `work`; the answer is fetched with [`Pending::wait`].
    pub fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Pending<'_, T>, NoAnswer> {
        let fate = Arc::new(Fate { state: AtomicU8::new(RUNNING), hanging: self.hanging.clone() });
        let (tell, answer) = mpsc::channel();
        let done = Done(fate.clone());
        let mut job: Job = Box::new(move || {
            // Dropped after the answer is sent, and also if `work` panics.
            let _done = done;
            // The caller may have gone.
            let _ = tell.send(work());
        });
        // An idle worker whose thread died gives the job back.
        while let Some(worker) = self.pop() {
            match worker.send(job) {
                Ok(()) => {
                    return Ok(Pending { calls: self, worker, answer, fate });
                }
                Err(mpsc::SendError(returned)) => job = returned,
            }
        }
        let worker = spawn(job).ok_or(NoAnswer::Broken)?;
        Ok(Pending { calls: self, worker, answer, fate })
    }

    fn pop(&self) -> Option<Sender<Job>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    fn push(&self, worker: Sender<Job>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_LIMIT {
            idle.push(worker);
        }
    }
}

impl<T> Pending<'_, T> {
    /// Waits for the answer; `Err` gives the pending call back if the deadline passed.
    pub fn wait(self, deadline: Duration) -> Result<Result<T, NoAnswer>, Self> {
        match self.answer.recv_timeout(deadline) {
            Ok(answer) => {
                self.calls.push(self.worker);
                Ok(Ok(answer))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(Err(NoAnswer::Broken)),
            Err(RecvTimeoutError::Timeout) => Err(self),
        }
    }

    /// Leaves the call to itself, unless its answer came in this very moment.
    pub fn abandon(self) -> Result<T, NoAnswer> {
        let hanging = &self.calls.hanging;
        hanging.fetch_add(1, Ordering::SeqCst);
        if self.fate.state.swap(ABANDONED, Ordering::SeqCst) == DONE {
            hanging.fetch_sub(1, Ordering::SeqCst);
            return self.answer.try_recv().map_err(|_| NoAnswer::Broken);
        }
        Err(NoAnswer::Late)
    }
}

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const ABANDONED: u8 = 2;

/// Settles between the waiting and the working thread which of them was last, so that the count of hanging calls is
/// exact.
#[derive(Debug)]
struct Fate {
    state: AtomicU8,
    hanging: Arc<AtomicUsize>,
}

struct Done(Arc<Fate>);

impl Drop for Done {
    fn drop(&mut self) {
        if self.0.state.swap(DONE, Ordering::SeqCst) == ABANDONED {
            self.0.hanging.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn spawn(first: Job) -> Option<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    sender.send(first).ok()?;
    thread::Builder::new()
        .name("libvirt-call".to_owned())
        .spawn(move || {
            for job in jobs {
                job();
            }
        })
        .ok()?;
    Some(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn answers_come_back_and_threads_are_used_again() {
        let calls = Calls::default();
        let first = calls.run(LONG, || thread::current().id()).unwrap();
        let second = calls.run(LONG, || thread::current().id()).unwrap();
        assert_eq!(first, second);
        assert_eq!(calls.hanging(), 0);
    }

    #[test]
    fn a_call_that_hangs_is_counted_until_it_ends() {
        let calls = Calls::default();
        let gate = Arc::new(Barrier::new(2));
        let held = gate.clone();
        let late = calls.run(SHORT, move || held.wait().is_leader());
        assert_eq!(late, Err(NoAnswer::Late));
        assert_eq!(calls.hanging(), 1);
        assert_eq!(calls.run(LONG, || 7), Ok(7), "others go on meanwhile");
        gate.wait();
        while calls.hanging() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn a_panic_is_an_answer_too() {
        let calls = Calls::default();
        let broken = calls.run(LONG, || -> u8 { panic!("on purpose") });
        assert_eq!(broken, Err(NoAnswer::Broken));
        assert_eq!(calls.run(LONG, || 7), Ok(7));
        assert_eq!(calls.hanging(), 0);
    }

    #[test]
    fn many_at_once_all_get_their_own_answer() {
        let calls = Calls::default();
        thread::scope(|scope| {
            for number in 0..64 {
                let calls = &calls;
                scope.spawn(move || assert_eq!(calls.run(LONG, move || number), Ok(number)));
            }
        });
        assert!(calls.idle.lock().unwrap().len() <= IDLE_LIMIT);
        assert_eq!(calls.hanging(), 0);
    }
}
