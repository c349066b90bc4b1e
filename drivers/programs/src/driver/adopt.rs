//! Takes up what a process that died had in flight (DESIGN section 3, *the journal*).
//!
//! ```text
//! journal: no end ──> oned: does it still wait? ── no ──> forget
//!                        │ can't be asked: ask again     │ yes
//!                        └──────── a minute ─────────    v
//!                              the request again: what the journal kept, VM and datastore from oned
//!                                                        │
//!                              the plan again ──> engine, as after a lost answer ──> one reply
//! ```
//!
//! oned asks nothing again by itself, and a reply it does not wait for could set a VM's state. So nothing is answered
//! that oned was not asked about.

use std::rc::Rc;
use std::time::Duration;

use causeway_core::answer::Kind;
use causeway_core::document::VmDocument;
use causeway_core::engine::{Log, Outcome};
use causeway_core::journal::{Note, Unfinished};
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Plan, Recall};
use causeway_core::protocol::{Action, Reply, Request, Severity};

use super::serve::{Driver, Family, reply};
use super::turns::Entry;

/// Nothing is said before oned has read the answer to `INIT`: it drops what comes with it (contract VMM 1.3).
const SETTLE: Duration = Duration::from_secs(2);

/// When what no process has is looked for: a process that was killed just before this one began is gone by then, and
/// oned has started all of its own.
const ORPHANS: Duration = Duration::from_secs(5);

/// How soon oned is asked again when it could not be.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How often the log says that oned can't be asked, in questions.
const TELL_EVERY: u32 = 12;

/// Adopts every unfinished request, each in a task of its own, and a while later those that nobody else has.
pub fn start<F: Family>(driver: &Rc<Driver<F>>, unfinished: Vec<Unfinished>) {
    adopt(driver, unfinished);
    let driver = Rc::clone(driver);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(ORPHANS).await;
        match driver.journal.orphans() {
            Ok(orphans) => adopt(&driver, orphans),
            Err(error) => tracing::error!(%error, "the journals of processes that are no more can't be read"),
        }
    });
}

fn adopt<F: Family>(driver: &Rc<Driver<F>>, unfinished: Vec<Unfinished>) {
    for old in unfinished {
        let Note::Begin { action, vm, recall, .. } = old.begin else { continue };
        let adopted = Adopted { request: old.request, action, vm, recall, notes: old.notes };
        // Entered at once: a new request for the same VM waits until this one is settled.
        let entry = driver.turns.enter(vm);
        driver.note_adopted(vm, &entry.canceller(), true);
        let driver = Rc::clone(driver);
        tokio::task::spawn_local(async move {
            let _turn = entry.vm_turn().await;
            let end = adopted.settle(&driver, &entry).await;
            // Given up by oned, or by its admin, who had it ask again: it waits for no reply to this one.
            let end = end.filter(|_| !*entry.cancelled().borrow());
            let told = match &end {
                Some(reply) => driver.out.reply(reply).await,
                None => true,
            };
            driver.note_adopted(vm, &entry.canceller(), false);
            if told {
                let ok = end.is_some_and(|reply| reply.result.is_ok());
                driver.journal.note(&adopted.request, &Note::End { ok });
            }
            driver.places.forget(&adopted.request);
        });
    }
}

struct Adopted {
    request: RequestId,
    action: String,
    vm: VmId,
    recall: Option<Recall>,
    notes: Vec<Note>,
}

/// What is to be answered, or done.
enum Next {
    Reply(Reply),
    Work(Request, Plan),
}

impl Adopted {
    /// The reply that oned waits for, or none.
    async fn settle<F: Family>(&self, driver: &Driver<F>, entry: &Entry) -> Option<Reply> {
        let mut cancelled = entry.cancelled();
        // Nothing has been done yet in this process: there is nothing to stop.
        let next = tokio::select! {
            next = self.prepare(driver) => next?,
            Ok(_) = cancelled.wait_for(|c| *c) => return None,
        };
        let (request, plan) = match next {
            Next::Reply(reply) => return Some(reply),
            Next::Work(request, plan) => (request, plan),
        };
        match driver.engine(&driver.out, entry.cancelled()).adopt(&plan, &self.request, &self.notes).await {
            Outcome::Success(payload) => Some(reply(&request, Ok(payload), plan.first_word)),
            Outcome::Failure(failure) => Some(reply(&request, Err(failure), plan.first_word)),
            Outcome::Cancelled => None,
        }
    }

    /// Asks oned, and makes the plan again if it still waits.
    async fn prepare<F: Family>(&self, driver: &Driver<F>) -> Option<Next> {
        tokio::time::sleep(SETTLE).await;
        let recall = self.recall.as_ref()?;
        let action: Action = self.action.parse().ok()?;
        let (vm, document) = self.ask(driver).await?;
        if !F::waits(&self.action, &vm, recall) {
            tracing::info!(request = %self.request, vm = self.vm.0, "oned does not wait for it any more");
            return None;
        }
        let text = format!("{}: taken up again after the death of its driver process", self.action);
        driver.out.log(self.vm, Severity::Warning, &text);
        let request = match F::again(driver, &self.action, recall, (self.vm, &document)).await {
            Ok(request) => request,
            Err(failure) => {
                let bare = Request::new(action, self.vm, "");
                return Some(Next::Reply(reply(&bare, Err(failure), None)));
            }
        };
        let mut word = None;
        Some(match F::plan(driver, &request, &mut word).await {
            Ok(plan) => Next::Work(request, plan),
            Err(failure) => Next::Reply(reply(&request, Err(failure), word)),
        })
    }

    /// The VM as oned has it now; asks until oned answers. A VM that oned does not know is nobody's.
    async fn ask<F: Family>(&self, driver: &Driver<F>) -> Option<(VmDocument, String)> {
        let mut asked = 0;
        loop {
            match driver.oned.vm(self.vm).await {
                Ok(document) => match VmDocument::parse_tolerant(document.as_bytes()) {
                    Ok((vm, _)) => return Some((vm, document)),
                    Err(error) => {
                        tracing::error!(vm = self.vm.0, %error, "oned's document can't be read");
                        return None;
                    }
                },
                Err(failure) if failure.kind == Kind::Refused => {
                    tracing::warn!(vm = self.vm.0, %failure, "oned refuses");
                    return None;
                }
                Err(failure) => {
                    if asked % TELL_EVERY == 0 {
                        let text = format!(
                            "{} was in flight when its driver process died, and oned can't be asked whether it still \
                             waits: {failure}",
                            self.action
                        );
                        driver.out.log(self.vm, Severity::Warning, &text);
                    }
                    asked += 1;
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}
