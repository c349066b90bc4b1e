//! Runs a plan: step after step, each in its place; undoes in reverse what was done when one fails; and never takes a
//! lost answer for an answer.
//!
//! ```text
//!            next run of steps in one place
//!   ┌──────> ──────────────────────────────> all done ──> reply SUCCESS
//!   │            │ failed        │ answer lost
//!   │            v               v
//!   │      step has a goal?   step has a goal?
//!   │        no │   │ yes       yes │   │ no: every step may be run twice, so run it again, a few times
//!   │           │   └──────┬────────┘   └──> still lost: have later steps of the exchange a goal? ──┐
//!   │           │          v                                                                        │
//!   │           │   ask the hosts <── not proved (a LOG line every minute, no reply)                │
//!   │           │   │         │   <─────────────────────────────────────────────────────────────────┘
//!   └───────────┼── reached   │ not reached
//!               v             v
//!            undo in reverse, on every place ──> reply FAILURE, first cause first
//! ```
//!
//! Three rules make this safe:
//! * **A lost answer says nothing of the steps after it either.** A host runs the steps of one exchange without asking
//!   back, so when the session ends, each of them may have been done. They are *doubtful* until they are asked about or
//!   run again, and an undo takes them for made.
//! * **"Not there" counts only when nobody is at work.** A resident that lost its driver finishes what must not be cut
//!   short. So a proof that a goal was *not* reached is taken only after an exchange without steps for the same VM has
//!   ended on that host: a host runs one exchange of a VM at a time, whichever process carries it.
//! * **There is a point of no return.** Once a guest has moved, or has ended, the way back is closed: what is left of the
//!   plan can only warn, and an undo stops there.

mod adopt;
mod exchange;
mod locate;
mod progress;
mod rollback;

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::answer::{Failure, Kind};
use crate::journal::{Journal, Note};
use crate::names::{DeployId, HostName, RequestId, VmId};
use crate::outcome::Sighting;
use crate::plan::{Answer, OnFailure, Place, Plan, Step};
use crate::reach::wire::{Exchange, FromResident, Severity};

use progress::{Pace, Progress, assumed};

/// Events of one exchange. The session of a delegated action lives as long as this value.
pub struct Events {
    /// Ends with [`FromResident::End`], or without it when the answer is lost.
    pub receiver: mpsc::UnboundedReceiver<FromResident>,
    /// Held, not used: dropping it ends what carries the events.
    pub carrier: Option<Box<dyn std::any::Any>>,
}

/// The edge to the other hosts and to the front-end's scripts: the real one speaks ssh, the recording one is for tests.
pub trait Reach {
    /// Starts an exchange in `place`. One without steps ends when nothing runs there for its VM any more.
    ///
    /// # Errors
    /// The place can't be reached: none of the steps has begun.
    fn start(&self, place: &Place, exchange: Exchange) -> impl Future<Output = Result<Events, Failure>>;

    /// Has the steps of `request` in `place` stopped; the exchange then ends.
    fn cancel(&self, place: &Place, request: &RequestId) -> impl Future<Output = ()>;

    /// Asks `host` where the guest is; answers within a deadline of its own.
    fn locate(&self, host: &HostName, id: &DeployId) -> impl Future<Output = Sighting>;
}

/// Where the lines for the VM's log go.
pub trait Log {
    /// One line of that severity.
    fn log(&self, vm: VmId, severity: Severity, text: &str);

    /// The log was told once more that it is not known where the guest is. Nothing is done on the hosts meanwhile, so
    /// whoever waits there for this request need wait no longer.
    fn stuck(&self) {}
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done; the text is the reply's payload.
    Success(String),
    /// It failed, and what it had changed was undone as far as the failure's text says.
    Failure(Failure),
    /// It was cancelled: no reply.
    Cancelled,
}

/// How often the hosts are asked again while the guest's place is not proved.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// First pause between two rounds of questions; doubled up to `longest`.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// How often the VM's log is told that the place is not known.
    pub tell: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
            tell: Duration::from_secs(60),
        }
    }
}

/// Everything one run of a plan needs.
pub struct Engine<'a, R, L> {
    /// The hosts.
    pub reach: &'a R,
    /// The VM's log.
    pub log: &'a L,
    /// What survives the death of this process.
    pub journal: &'a Journal,
    /// How lost answers are asked for again.
    pub patience: Patience,
    /// Turns true when oned cancels the request.
    pub cancelled: watch::Receiver<bool>,
}

/// Why the forward run stopped.
struct Stop {
    /// The step.
    index: usize,
    failure: Failure,
    /// Whether the step may have begun: if not, there is nothing of it to undo or to ask for.
    begun: bool,
    /// Whether a script of somebody else's said so (contract VMM 2.3 step 8).
    foreign: bool,
}

/// What follows from a stop.
enum Next {
    /// The steps from this index on.
    From(usize),
    /// The end.
    Fail,
}

/// How often a step without a goal is run again when its answer is lost.
const REPEATS: u32 = 3;

/// How often the forward run went back to which step.
#[derive(Default)]
struct Repeats {
    index: usize,
    count: u32,
    /// Whether a host that answered again was given a second round already.
    renewed: bool,
}

impl Repeats {
    /// Counts one more repeat of that step; false when there have been enough.
    fn again(&mut self, index: usize) -> bool {
        if self.index != index {
            *self = Repeats { index, ..Repeats::default() };
        }
        self.count += 1;
        self.count <= REPEATS
    }

    /// One more round for a host that answers again.
    fn renew(&mut self) -> bool {
        self.count = 0;
        !std::mem::replace(&mut self.renewed, true)
    }
}

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Runs `plan` to its end. The caller notes [`Note::end`] in the journal once the reply is on its way: a death
    /// before that must be adopted.
    pub async fn run(&self, plan: &Plan, request: &RequestId) -> Outcome {
        self.journal.note(request, &Note::begin(plan));
        let mut progress = Progress::default();
        let end = self.forward(plan, request, &mut progress, 0).await;
        self.conclude(plan, request, &progress, end).await
    }

    /// Turns the end of the forward run into the action's, after the undo where one is due.
    async fn conclude(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &Progress,
        end: Result<String, Failure>,
    ) -> Outcome {
        match end {
            // The cancel of a DEPLOY whose answer was never given comes without the guest's id: nobody else would end
            // that guest. So a cancelled request is undone even when all its steps are done.
            Ok(_) if self.is_cancelled() => {
                let _ = self.roll_back(plan, request, progress).await;
                Outcome::Cancelled
            }
            Ok(payload) => Outcome::Success(payload),
            Err(failure) => {
                let trouble = self.roll_back(plan, request, progress).await;
                if self.is_cancelled() {
                    return Outcome::Cancelled;
                }
                let text = match trouble.as_slice() {
                    [] => failure.text,
                    _ => format!("{} (undo: {})", failure.text, trouble.join("; ")),
                };
                Outcome::Failure(Failure { text, ..failure })
            }
        }
    }

    /// Runs the steps from `next` on.
    async fn forward(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &mut Progress,
        mut next: usize,
    ) -> Result<String, Failure> {
        let mut repeats = Repeats::default();
        while let Some(rest) = plan.steps.get(next..).filter(|rest| !rest.is_empty()) {
            let Err(stop) = self.stretch(plan, rest, next, request, progress).await else {
                next += exchange::stretch_of(rest).len();
                continue;
            };
            next = self.past(plan, request, progress, &stop, &mut repeats).await?;
        }
        self.catch_up(plan, request, progress).await;
        match &plan.answer {
            Answer::Empty => Ok("-".to_owned()),
            // oned takes the first word for the id of what was made, an empty one for none, and `-` for an id: then the
            // guest would run on with nobody to end it (contract VMM 1.4; 7, B3).
            Answer::Output(name) => match progress.outputs.get(name) {
                Some(done) if is_an_id(done.first_word()) => Ok(done.output.clone()),
                _ => {
                    let text = format!("{name} printed no id, and the reply is to carry what it prints");
                    Err(Failure::new(Kind::HostState, text))
                }
            },
        }
    }

    /// The step to go on with after a stop.
    async fn past(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &mut Progress,
        stop: &Stop,
        repeats: &mut Repeats,
    ) -> Result<usize, Failure> {
        let Some(step) = plan.steps.get(stop.index) else {
            return Err(Failure::new(Kind::Bug, "a step beyond the plan failed"));
        };
        match self.after(plan, step, request, progress, stop, repeats).await {
            Next::From(index) => Ok(index),
            Next::Fail => Err(stop.failure.clone().context(&step.name)),
        }
    }

    /// Finds out what a stop means.
    async fn after(
        &self,
        plan: &Plan,
        step: &Step,
        request: &RequestId,
        progress: &mut Progress,
        stop: &Stop,
        repeats: &mut Repeats,
    ) -> Next {
        let lost = progress.is_doubtful(stop.index);
        // Asked before anything is tried again: a script of somebody else's would start a guest that runs once more.
        let open = self.open_goals(plan, progress, stop).await;
        let asked = !open.is_empty();
        // Backwards: the steps of an exchange run in order, so a later goal that was reached speaks for all before it.
        for (index, open) in open.into_iter().rev() {
            // libvirt may still be at a call that outlived its deadline.
            let at_work = progress.is_doubtful(index) || stop.failure.kind == Kind::Timeout;
            if !self.reached(plan, open, request, stop, at_work).await {
                progress.disprove(index);
                continue;
            }
            self.warn(plan, &format!("{}: done, although: {}", open.name, stop.failure));
            self.journal.note(request, &Note::Ended { step: open.name.clone(), ok: true });
            progress.take(index, open, assumed(open));
            if lost || index == stop.index || progress.is_past_return() {
                return Next::From(index + 1);
            }
            break;
        }
        // A host that had to be asked answers again: one more round of repeats.
        let mut rest = plan.steps.iter().enumerate().skip(stop.index);
        let harm = rest.any(|(index, step)| step.once && progress.is_doubtful(index));
        let repeat = lost && step.goal.is_none() && !harm && !self.is_cancelled();
        if repeat && (repeats.again(stop.index) || asked && repeats.renew()) {
            self.warn(plan, &format!("{}: {}; trying again", step.name, stop.failure));
            tokio::time::sleep(self.patience.first * repeats.count).await;
            return Next::From(progress.again(plan, stop.index));
        }
        let harmless = step.on_failure == OnFailure::Warn || progress.is_past_return();
        // What follows on this host relies on what went before, and a host that was away may have lost that.
        let relied_on = lost && !progress.is_past_return() && progress::is_relied_on(plan, stop.index);
        if self.is_cancelled() || !harmless || relied_on {
            return Next::Fail;
        }
        // A guest that has moved leaves a network behind where it was, and needs one where it is: nobody else would see to
        // them once the host can be reached.
        if progress.is_past_return() && stop.failure.kind == Kind::Unreachable {
            self.warn(plan, &format!("{}: {}; put off", step.name, stop.failure));
            progress.put_off(stop.index);
        } else {
            self.warn(plan, &format!("{}: {} (ignored)", step.name, stop.failure));
        }
        Next::From(stop.index + 1)
    }

    /// The steps whose goals must be asked for before a stop can be called a failure.
    async fn open_goals<'p>(
        &self,
        plan: &'p Plan,
        progress: &Progress,
        stop: &Stop,
    ) -> Vec<(usize, &'p Step)> {
        let mut open = Vec::new();
        for (index, step) in plan.steps.iter().enumerate().skip(stop.index).filter(|(_, s)| s.goal.is_some())
        {
            let itself =
                index == stop.index && stop.begun && (!stop.foreign || self.can_be_asked(step).await);
            if itself || progress.is_doubtful(index) {
                open.push((index, step));
            }
        }
        open
    }

    fn tell(&self, plan: &Plan, severity: Severity, text: &str) {
        self.log.log(plan.vm, severity, text);
    }

    fn warn(&self, plan: &Plan, text: &str) {
        self.tell(plan, Severity::Warning, text);
    }

    fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }
}

/// The longest id that a script may print, in bytes: a long word is cut out of a reply, and nothing of it would be left.
const LONGEST_ID: usize = 255;

/// Whether oned can be told this as the id of something: it takes `-` for one, too.
fn is_an_id(word: &str) -> bool {
    !word.is_empty() && word != "-" && word.len() <= LONGEST_ID
}
