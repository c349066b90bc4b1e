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

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::VmDocument;
use causeway_core::engine::{Engine, Log, Outcome, Patience};
use causeway_core::journal::{Note, Unfinished};
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::Recall;
use causeway_core::protocol::{Action, Reply, Request, Severity};

use super::vmm::Driver;

/// Nothing is said before oned has read the answer to `INIT`: it drops what comes with it (contract VMM 1.3).
const SETTLE: Duration = Duration::from_secs(2);

/// How soon oned is asked again when it could not be.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How often the log says that oned can't be asked, in questions.
const TELL_EVERY: u32 = 12;

/// Adopts every unfinished request, each in a task of its own.
pub fn start(driver: &Rc<Driver>, unfinished: Vec<Unfinished>) {
    for old in unfinished {
        let Note::Begin { action, vm, recall, .. } = old.begin else { continue };
        let done = old.notes.iter().filter_map(|note| match note {
            Note::Ended { step, ok: true } => Some(step.clone()),
            _ => None,
        });
        let adopted = Adopted { request: old.request, action, vm, recall, done: done.collect() };
        // Entered at once: a new request for the same VM waits until this one is settled.
        let entry = driver.turns.enter(vm);
        let driver = Rc::clone(driver);
        tokio::task::spawn_local(async move {
            let _turn = entry.vm_turn().await;
            tokio::time::sleep(SETTLE).await;
            let mut cancelled = entry.cancelled();
            let end = tokio::select! {
                end = adopted.settle(&driver, &entry) => end,
                // oned has given the VM up; what comes next for it ends what is left of it.
                Ok(_) = cancelled.wait_for(|c| *c) => None,
            };
            if let Some(reply) = &end {
                driver.out.reply(reply).await;
            }
            let ok = end.is_some_and(|reply| reply.result.is_ok());
            driver.journal.note(&adopted.request, &Note::End { ok });
        });
    }
}

struct Adopted {
    request: RequestId,
    action: String,
    vm: VmId,
    recall: Option<Recall>,
    done: Vec<String>,
}

impl Adopted {
    /// The reply that oned waits for, or none.
    async fn settle(&self, driver: &Driver, entry: &super::turns::Entry) -> Option<Reply> {
        let recall = self.recall.as_ref()?;
        let (vm, document) = self.ask(driver).await?;
        if !waits(&self.action, &vm, recall) {
            tracing::info!(request = %self.request, vm = self.vm.0, "oned does not wait for it any more");
            return None;
        }
        let text = format!("{}: taken up again after the death of its driver process", self.action);
        driver.out.log(self.vm, Severity::Warning, &text);
        let action: Action = self.action.parse().ok()?;
        let reply = |result: Result<String, Failure>, word: Option<u32>| {
            let reply = match result {
                Ok(payload) => Reply::success(action.clone(), self.vm, payload),
                Err(failure) => Reply::failure(action.clone(), self.vm, failure.text),
            };
            Some(match word {
                Some(id) => reply.about(id),
                None => reply,
            })
        };
        let mut word = None;
        let request = match self.again(driver, recall, &document).await {
            Ok(request) => request,
            Err(failure) => return reply(Err(failure), word),
        };
        let plan = match driver.plan(&request, &mut word).await {
            Ok(plan) => plan,
            Err(failure) => return reply(Err(failure), word),
        };
        let engine = Engine {
            reach: &driver.places,
            log: &driver.out,
            journal: &driver.journal,
            patience: Patience::default(),
            cancelled: entry.cancelled(),
        };
        match engine.resume(&plan, &self.request, &self.done).await {
            Outcome::Success(payload) => reply(Ok(payload), plan.first_word),
            Outcome::Failure(failure) => reply(Err(failure), plan.first_word),
            Outcome::Cancelled => None,
        }
    }

    /// The VM as oned has it now; asks until oned answers. A VM that oned does not know is nobody's.
    async fn ask(&self, driver: &Driver) -> Option<(VmDocument, String)> {
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

    /// The request once more: what the journal kept, with the VM and the datastore as oned has them.
    async fn again(&self, driver: &Driver, recall: &Recall, vm: &str) -> Result<Request, Failure> {
        let datastore = match recall.datastore {
            Some(id) => driver.oned.datastore(id).await?,
            None => String::new(),
        };
        let action = self.action.parse().map_err(|e| Failure::new(Kind::Bug, e))?;
        let document = format!("{}{vm}{datastore}</VMM_DRIVER_ACTION_DATA>", recall.request);
        Ok(Request::new(action, self.vm, causeway_core::document::encode(document.as_bytes())))
    }
}

/// Whether oned still waits for an answer to `action`: the VM is in a state that this action brings it out of, on the
/// same history record.
fn waits(action: &str, vm: &VmDocument, recall: &Recall) -> bool {
    let same = recall.sequence.is_none() || vm.history.seq == recall.sequence;
    let Some(state) = vm.lcm_state else { return false };
    let known: &[u32] = match action {
        // BOOT, BOOT_UNKNOWN, BOOT_POWEROFF, BOOT_SUSPENDED, BOOT_STOPPED, BOOT_UNDEPLOY, BOOT_MIGRATE
        "DEPLOY" | "RESTORE" => &[2, 19, 20, 21, 22, 32, 35],
        // MIGRATE
        "MIGRATE" => &[4],
        // SAVE_STOP, SAVE_SUSPEND, SAVE_MIGRATE
        "SAVE" => &[5, 6, 7],
        // SAVE_MIGRATE (a cold migration with poweroff), SHUTDOWN, SHUTDOWN_POWEROFF, SHUTDOWN_UNDEPLOY
        "SHUTDOWN" | "CANCEL" => &[7, 12, 18, 29],
        // CLEANUP_RESUBMIT, CLEANUP_DELETE
        "CLEANUP" => &[15, 23],
        // HOTPLUG, its snapshot, NIC, resize and save-as kin, DISK_SNAPSHOT*, DISK_RESIZE, BACKUP
        _ => &[17, 24, 25, 26, 57, 58, 59, 62, 66, 69],
    };
    same && known.contains(&state)
}
