//! The life of a driver process, whichever its kind: lines in, one reply for each request out.
//!
//! ```text
//! INIT ──> the answer, alone in its write ──> two seconds later: what the process before left is taken up again
//! request ──> entered ── the VM's turn ── plan ── the host's turn ── engine ──> one reply ── the journal's end
//!                │ cancelled: no reply                                │ panic: a failure
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::answer::Failure;
use causeway_core::document::VmDocument;
use causeway_core::engine::{self, Engine, Outcome};
use causeway_core::journal::{Journal, Note};
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Lane, Plan, Recall};
use causeway_core::protocol::{Action, Lines, Message, Reply, Request, Severity};
use causeway_core::reach::standard;
use tokio::sync::watch;

use super::config::{Config, Options};
use super::front::Front;
use super::oned::Oned;
use super::out::Out;
use super::places::Places;
use super::turns::{Entry, Room, Turn, Turns};

/// What one kind of driver process does its own way.
pub trait Family: Sized + 'static {
    /// Its arguments.
    type Options: Options;

    /// Its journal's name.
    const NAME: &'static str;

    /// Whether a request takes the place of one that is still being taken up again for the same VM: oned asks again
    /// only if its admin said that it is not to wait any longer.
    const SUPERSEDES: bool;

    /// The action of which this one ends a request of the same VM that is under way: that one is then answered as a
    /// failure, if it does not end by itself.
    fn ends(_action: &Action) -> Option<Action> {
        None
    }

    /// Whether an action waits for the one before it on the same VM.
    fn waits_its_turn(_action: &Action) -> bool {
        true
    }

    /// The plan of a request. `first_word` is set as soon as it is known, for the reply to a request that can't be
    /// planned.
    fn plan(
        driver: &Driver<Self>,
        request: &Request,
        first_word: &mut Option<u32>,
    ) -> impl Future<Output = Result<Plan, Failure>>;

    /// Whose room a plan takes.
    fn room(plan: &Plan) -> Room;

    /// The same, where a glance at the request tells: then a thousand requests wait as they came, and only those whose
    /// turn it is are taken apart and planned.
    fn room_at_a_glance(_request: &Request) -> Option<(Room, Lane)> {
        None
    }

    /// Whether oned still waits for an answer to `action`: the VM is in a state that it brings it out of, on the same
    /// history record.
    fn waits(action: &str, vm: &VmDocument, recall: &Recall) -> bool;

    /// A request once more, from what the journal kept of it and the VM's document as oned has it.
    fn again(
        driver: &Driver<Self>,
        action: &str,
        recall: &Recall,
        vm: (VmId, &str),
    ) -> impl Future<Output = Result<Request, Failure>>;
}

/// Everything a request needs of its process.
pub struct Driver<F: Family> {
    /// How the process was started and configured.
    pub config: Config<F::Options>,
    /// oned's pipe.
    pub out: Out,
    /// Who works when.
    pub turns: Rc<Turns>,
    /// Where steps run.
    pub places: Places,
    /// What outlives this process.
    pub journal: Journal,
    /// The front-end's files.
    pub front: Rc<Front>,
    /// oned's other ear.
    pub oned: Oned,
    /// What is being taken up again, and how it is told that it need not be.
    adopted: Mutex<HashMap<VmId, Vec<Arc<watch::Sender<bool>>>>>,
    ids: Ids,
    under_way: RefCell<Vec<UnderWay>>,
}

/// How long a request that is to end has for that by itself: the stock `backup_cancel` ends the upload's script, which
/// then removes what it has uploaded.
const TIDYING: Duration = Duration::from_secs(10);

/// How long the last words may take: oned ends a driver that stays a second.
const FAREWELL: Duration = Duration::from_millis(500);

/// Makes request ids: process start, process id, running number.
struct Ids {
    start: u64,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Ids { start, next: AtomicU64::new(1) }
    }

    fn next(&self) -> RequestId {
        RequestId::new(self.start, std::process::id(), self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl<F: Family> Driver<F> {
    /// An id for what is asked of a host beside the requests of oned.
    pub fn new_id(&self) -> RequestId {
        self.ids.next()
    }
}

/// Serves oned until it says FINALIZE or closes the pipe.
///
/// # Errors
/// The journal can't be opened, or standard input fails.
pub async fn serve<F: Family>(config: Config<F::Options>) -> anyhow::Result<()> {
    let (journal, unfinished) = config.open_journal(F::NAME)?;
    let driver = Rc::new(Driver::<F>::new(config, journal)?);
    let mut lines = Lines::new(standard::input()?);
    let mut unfinished = Some(unfinished);
    while let Some(line) = lines.next().await? {
        match Message::parse(&line) {
            None => {}
            Some(Message::Init) => {
                driver.out.init();
                if let Some(unfinished) = unfinished.take() {
                    super::adopt::start(&driver, unfinished);
                }
            }
            Some(Message::Finalize) => break,
            Some(Message::DriverCancel(vm)) => {
                driver.turns.cancel(vm);
            }
            Some(Message::Request(request)) => driver.accept(request),
            Some(Message::Malformed(malformed)) => {
                let text = malformed.to_string();
                match (malformed.action, malformed.vm) {
                    // Not waited for: while oned does not read, its lines must be read all the same.
                    (Some(action), Some(vm)) => drop(driver.out.reply(&Reply::failure(action, vm, text))),
                    _ => driver.out.tell_oned(Severity::Warning, text),
                }
            }
        }
    }
    // What is answered already is still to be said; oned may have stopped to listen.
    let _ = tokio::time::timeout(FAREWELL, driver.out.flush()).await;
    Ok(())
}

/// A reply, unless the request was cancelled; and its id in the journal with how it ended, if it got that far.
type Answered = (Option<Reply>, Option<(RequestId, bool)>);

impl<F: Family> Driver<F> {
    /// A driver that has nothing to do yet.
    ///
    /// # Errors
    /// The program's own path is not known.
    pub fn new(config: Config<F::Options>, journal: Journal) -> anyhow::Result<Self> {
        let front = config.front()?;
        let (at_once, parallel) = config.options.room();
        Ok(Driver {
            turns: Rc::new(Turns::new(at_once, parallel)),
            places: config.places(Rc::clone(&front)),
            front,
            oned: config.oned(),
            out: Out::start()?,
            adopted: Mutex::default(),
            ids: Ids::new(),
            under_way: RefCell::default(),
            journal,
            config,
        })
    }

    /// Takes a request in; what happens to it, happens later. Never blocks: oned must not wait for a write.
    fn accept(self: &Rc<Self>, request: Request) {
        if F::SUPERSEDES {
            for old in self.adopted().remove(&request.vm).unwrap_or_default() {
                old.send_replace(true);
            }
        }
        // Entered at once: a DRIVER_CANCEL on the next line must find it.
        let entry = self.turns.enter(request.vm);
        let driver = Rc::clone(self);
        let ended = driver.may_be_ended(&request, &entry);
        tokio::task::spawn_local(async move {
            let answered = driver.answer(&request, &entry);
            let (action, vm) = (request.action.clone(), request.vm);
            // A panic in one request is that request's failure, not the end of all the others.
            let (reply, id) = match catch_panic(answered).await {
                // oned has not given it up: it waits for the answer.
                Ok((None, id)) if ended.get() => {
                    (Some(Reply::failure(action, vm, "it was cancelled".to_owned())), id)
                }
                Ok(answer) => answer,
                Err(panic) => (Some(Reply::failure(action, vm, format!("internal error: {panic}"))), None),
            };
            let told = match reply {
                Some(reply) => driver.out.reply(&reply).await,
                None => true,
            };
            if let Some((id, ok)) = id {
                // A reply that did not get out is the next process's to give.
                if told {
                    driver.journal.note(&id, &Note::End { ok });
                }
                driver.places.forget(&id);
            }
            drop(entry);
            if let Some(other) = F::ends(&request.action) {
                driver.end(vm, &other).await;
            }
        });
    }

    /// Works a request off: its reply, unless it was cancelled, and its id in the journal, if it got that far.
    async fn answer(&self, request: &Request, entry: &Entry) -> Answered {
        let vm_turn = if F::waits_its_turn(&request.action) { Some(entry.vm_turn().await) } else { None };
        if *entry.cancelled().borrow() {
            return (None, None);
        }
        let glance = F::room_at_a_glance(request);
        let (vm_turn, early) = match &glance {
            Some((room, lane)) => (None, Some(entry.room_turn(vm_turn, room, *lane).await)),
            None => (vm_turn, None),
        };
        // Most requests of a burst only wait: what their work needs is made when their turn has come.
        Box::pin(self.work(request, entry, vm_turn, early)).await
    }

    /// What [`answer`](Driver::answer) does when the turn has come.
    async fn work(
        &self,
        request: &Request,
        entry: &Entry,
        vm_turn: Option<tokio::sync::OwnedMutexGuard<()>>,
        early: Option<Turn>,
    ) -> Answered {
        let mut first_word = None;
        let plan = match F::plan(self, request, &mut first_word).await {
            Ok(plan) => plan,
            // oned has given it up meanwhile: it waits for no reply.
            Err(_) if *entry.cancelled().borrow() => return (None, None),
            Err(failure) => return (Some(reply(request, Err(failure), first_word)), None),
        };
        let turn = match early {
            Some(turn) => turn,
            None => entry.room_turn(vm_turn, &F::room(&plan), plan.lane()).await,
        };
        let id = self.ids.next();
        let action = request.action.as_str();
        tracing::info!(request = %id, vm = request.vm.0, action, steps = plan.steps.len());
        let voice = Voice { out: &self.out, turn: &turn };
        match self.engine(&voice, entry.cancelled()).run(&plan, &id).await {
            Outcome::Success(payload) => {
                (Some(reply(request, Ok(payload), plan.first_word)), Some((id, true)))
            }
            Outcome::Failure(failure) => {
                (Some(reply(request, Err(failure), plan.first_word)), Some((id, false)))
            }
            Outcome::Cancelled => (None, Some((id, false))),
        }
    }

    /// Enters a request where one that is to end it finds it; tells whether it was ended.
    fn may_be_ended(&self, request: &Request, entry: &Entry) -> Rc<Cell<bool>> {
        let ended = Rc::new(Cell::new(false));
        let under_way = UnderWay {
            vm: request.vm,
            action: request.action.clone(),
            cancel: Arc::downgrade(&entry.canceller()),
            ended: Rc::clone(&ended),
        };
        let mut table = self.under_way.borrow_mut();
        table.retain(|other| other.cancel.strong_count() > 0);
        table.push(under_way);
        ended
    }

    /// Ends the requests of that action, if they do not end by themselves: a script that was told to end by another one
    /// may have something to tidy up.
    async fn end(&self, vm: VmId, action: &Action) {
        let is_meant = |other: &UnderWay| other.vm == vm && other.action == *action;
        let meant: Vec<UnderWay> =
            self.under_way.borrow().iter().filter(|other| is_meant(other)).cloned().collect();
        tokio::time::sleep(TIDYING).await;
        for other in meant {
            if let Some(cancel) = other.cancel.upgrade() {
                other.ended.set(true);
                cancel.send_replace(true);
            }
        }
    }

    /// An engine on this process's places.
    pub(super) fn engine<'a, L: engine::Log>(
        &'a self,
        log: &'a L,
        cancelled: watch::Receiver<bool>,
    ) -> Engine<'a, Places, L> {
        let patience = self.config.patience();
        Engine { reach: &self.places, log, journal: &self.journal, patience, cancelled }
    }

    /// Notes that a request of `vm` is being taken up again, or, with no way to stop it, that it no longer is.
    pub(super) fn note_adopted(&self, vm: VmId, cancel: &Arc<watch::Sender<bool>>, begins: bool) {
        let mut table = self.adopted();
        let of_vm = table.entry(vm).or_default();
        of_vm.retain(|other| !Arc::ptr_eq(other, cancel));
        if begins {
            of_vm.push(Arc::clone(cancel));
        }
        if of_vm.is_empty() {
            table.remove(&vm);
        }
    }

    fn adopted(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Vec<Arc<watch::Sender<bool>>>>> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that has been taken in.
#[derive(Clone)]
struct UnderWay {
    vm: VmId,
    action: Action,
    /// Gone when the request is over.
    cancel: Weak<watch::Sender<bool>>,
    ended: Rc<Cell<bool>>,
}

/// What a request says, and the turn that it has meanwhile.
struct Voice<'a> {
    out: &'a Out,
    turn: &'a Turn,
}

impl engine::Log for Voice<'_> {
    fn log(&self, vm: VmId, severity: Severity, text: &str) {
        self.out.log(vm, severity, text);
    }

    fn stuck(&self) {
        self.turn.give_way();
    }
}

/// The one reply to `request`.
pub(super) fn reply(request: &Request, result: Result<String, Failure>, first_word: Option<u32>) -> Reply {
    let reply = match result {
        Ok(payload) => Reply::success(request.action.clone(), request.vm, payload),
        Err(failure) => Reply::failure(request.action.clone(), request.vm, failure.text),
    };
    match first_word {
        Some(id) => reply.about(id),
        None => reply,
    }
}

/// Gives back the panic of `future` as a text.
async fn catch_panic<T>(future: impl Future<Output = T>) -> Result<T, String> {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let mut future = std::pin::pin!(future);
    // What a panicking request leaves behind is its own: turns and sessions are released by their guards.
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
        Ok(std::task::Poll::Ready(value)) => std::task::Poll::Ready(Ok(value)),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            std::task::Poll::Ready(Err(text.unwrap_or_else(|| "panic".to_owned())))
        }
    })
    .await
}
