//! The virtual machine manager's driver process: an EXECUTABLE swap in oned's `kvm` and `qemu` entries.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::Envelope;
use causeway_core::document::tree::{Element, Node};
use causeway_core::engine::{Engine, Outcome, Patience};
use causeway_core::journal::{Journal, Note};
use causeway_core::names::RequestId;
use causeway_core::plan::{Plan, Recall};
use causeway_core::protocol::{Lines, Message, Reply, Request, Severity};
use causeway_vmm::plan::Drive;

use super::config::Config;
use super::front::Front;
use super::oned::Oned;
use super::out::Out;
use super::places::Places;
use super::transfer;
use super::turns::{Entry, Turns};

/// Everything a request needs of its process.
pub struct Driver {
    /// How the process was started and configured.
    pub config: Config,
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
    ids: Ids,
}

/// Makes request ids: process start, process id, running number.
pub struct Ids {
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

/// Serves oned until it says FINALIZE or closes the pipe.
///
/// # Errors
/// The journal can't be opened, or standard input fails.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let (journal, unfinished) = config.open_journal("vmm")?;
    let driver = Rc::new(Driver::new(config, journal)?);
    let mut lines = Lines::new(tokio::io::stdin());
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
                    (Some(action), Some(vm)) => driver.out.reply(&Reply::failure(action, vm, text)).await,
                    _ => driver.out.tell_oned(Severity::Warning, text),
                }
            }
        }
    }
    Ok(())
}

/// The plan of one request, for nobody to run. Hosts are asked only for what they are able to.
///
/// # Errors
/// As the driver's answer would be.
pub async fn dry_run(config: Config, request: &Request) -> anyhow::Result<Plan> {
    let driver = Driver::new(config, Journal::none())?;
    Ok(driver.plan(request, &mut None).await?)
}

impl Driver {
    fn new(config: Config, journal: Journal) -> anyhow::Result<Self> {
        let front = config.front()?;
        Ok(Driver {
            turns: Rc::new(Turns::new(config.options.threads, config.options.parallel)),
            places: config.places(Rc::clone(&front)),
            front,
            oned: config.oned(),
            out: Out::start(),
            ids: Ids::new(),
            journal,
            config,
        })
    }

    /// Takes a request in; what happens to it, happens later. Never blocks: oned must not wait for a write.
    fn accept(self: &Rc<Self>, request: Request) {
        // Entered at once: a DRIVER_CANCEL on the next line must find it.
        let entry = self.turns.enter(request.vm);
        let driver = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let answered = driver.answer(&request, &entry);
            let (action, vm) = (request.action.clone(), request.vm);
            // A panic in one request is that request's failure, not the end of all the others.
            let (reply, id) = match catch_panic(answered).await {
                Ok(answer) => answer,
                Err(panic) => (Some(Reply::failure(action, vm, format!("internal error: {panic}"))), None),
            };
            if let Some(reply) = reply {
                driver.out.reply(&reply).await;
            }
            if let Some((id, ok)) = id {
                driver.journal.note(&id, &Note::End { ok });
                driver.places.forget(&id);
            }
        });
    }

    /// Works a request off: its reply, unless it was cancelled, and its id in the journal, if it got that far.
    async fn answer(&self, request: &Request, entry: &Entry) -> (Option<Reply>, Option<(RequestId, bool)>) {
        let action = request.action.as_str();
        // BACKUPCANCEL is about the BACKUP that has the VM's turn: to wait for that would be to wait for its end (contract
        // VMM 1.6).
        let vm_turn = if action == "BACKUPCANCEL" { None } else { Some(entry.vm_turn().await) };
        let mut first_word = None;
        let reply = |result: Result<String, Failure>, first_word: Option<u32>| {
            let reply = match result {
                Ok(payload) => Reply::success(request.action.clone(), request.vm, payload),
                Err(failure) => Reply::failure(request.action.clone(), request.vm, failure.text),
            };
            Some(match first_word {
                Some(id) => reply.about(id),
                None => reply,
            })
        };
        if *entry.cancelled().borrow() {
            return (None, None);
        }
        let plan = match self.plan(request, &mut first_word).await {
            Ok(plan) => plan,
            Err(failure) => return (reply(Err(failure), first_word), None),
        };
        let host = plan.steps.iter().find_map(|s| s.place.host());
        let _turn = entry.host_turn(vm_turn, host, plan.lane()).await;
        let id = self.ids.next();
        tracing::info!(request = %id, vm = request.vm.0, action, steps = plan.steps.len());
        let engine = Engine {
            reach: &self.places,
            log: &self.out,
            journal: &self.journal,
            patience: Patience::default(),
            cancelled: entry.cancelled(),
        };
        match engine.run(&plan, &id).await {
            Outcome::Success(payload) => (reply(Ok(payload), plan.first_word), Some((id, true))),
            Outcome::Failure(failure) => (reply(Err(failure), plan.first_word), Some((id, false))),
            Outcome::Cancelled => (None, Some((id, false))),
        }
    }

    /// Reads the request, and what the front-end's files add to it.
    pub(super) async fn plan(
        &self,
        request: &Request,
        first_word: &mut Option<u32>,
    ) -> Result<Plan, Failure> {
        let action = request.action.as_str();
        let input = |e: &dyn std::error::Error| Failure::new(Kind::Input, e);
        let document = request.document().map_err(|e| input(&e).context("payload"))?;
        let envelope = if causeway_vmm::plan::removes(action) {
            let (envelope, faults) = Envelope::parse_tolerant(&document).map_err(|e| input(&e))?;
            for fault in faults {
                use causeway_core::engine::Log;
                self.out.log(
                    request.vm,
                    Severity::Warning,
                    &format!("{fault} (ignored: {action} takes the VM away)"),
                );
            }
            envelope
        } else {
            Envelope::parse(&document).map_err(|e| input(&e))?
        };
        *first_word = causeway_vmm::plan::first_word(action, &envelope);
        if envelope.vm.id != request.vm {
            let text =
                format!("the request is for VM {}, its document for VM {}", request.vm, envelope.vm.id);
            return Err(Failure::new(Kind::Input, text));
        }
        let deployment = match (action, &envelope.local_deployment_file) {
            ("DEPLOY", Some(path)) => Some(
                self.front
                    .read(path)
                    .await
                    .map_err(|f| f.context(format!("LOCAL_DEPLOYMENT_FILE {path}")))?,
            ),
            _ => None,
        };
        let mut settings = self.config.plan_settings();
        if action == "MIGRATE" {
            settings.drive = self.drive(&envelope).await;
        }
        let transfer = transfer::Transfers::prepare(&self.config, &self.front, &envelope).await?;
        let expand = |command: &_, input: Option<&str>| transfer.steps(command, input);
        let mut plan =
            causeway_vmm::plan::plan(action, &envelope, deployment.as_deref(), &settings, &expand)?;
        plan.inputs.extend(transfer.inputs());
        plan.recall = Some(recall(&envelope));
        Ok(plan)
    }

    /// Who drives this migration: libvirtd where both hosts have certificates and the slot is ours; else a process with
    /// the agent, which also the stock script needs.
    async fn drive(&self, envelope: &Envelope) -> Drive {
        use causeway_core::settings::Transport;
        match self.config.transport {
            Transport::P2p => return Drive::Libvirtd,
            Transport::Ssh => return Drive::Agent,
            Transport::Auto => {}
        }
        if self.config.foreign_on_hosts("migrate") {
            return Drive::Agent;
        }
        let hosts = std::iter::once(&envelope.host).chain(&envelope.migr_host);
        for host in hosts {
            match self.places.hosts.session(host).await {
                Ok(session) if session.hello.tls => {}
                _ => return Drive::Agent,
            }
        }
        Drive::Libvirtd
    }
}

/// What is kept of a request for the process after this one: all but the VM and the datastore, which hold secrets.
fn recall(envelope: &Envelope) -> Recall {
    let mut bare = Element::new(envelope.element().name());
    let kept = envelope.element().elements().filter(|e| !matches!(e.name(), "VM" | "DATASTORE"));
    kept.for_each(|element| bare.push(Node::Element(Arc::clone(element))));
    // Open at its end: VM and datastore are put in there.
    let text = bare.render();
    Recall {
        request: text.strip_suffix("</VMM_DRIVER_ACTION_DATA>").unwrap_or(&text).to_owned(),
        datastore: envelope.datastore.as_ref().map(|d| d.id),
        sequence: envelope.vm.history.seq,
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
