//! Does one step's work on this host: somebody else's executable, or ours in this process and its children.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, RequestId};
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Arg, Input, Order, Slot, Work};
use causeway_core::reach::child;
use causeway_core::reach::slots::{Standing, standing};
use causeway_core::reach::wire::{Done, Effect, Exchange, FromResident, Owner, Severity, WireStep};
use causeway_core::reach::worker::Workers;
use causeway_domain::{DomainError, Hypervisor};
use tokio::sync::watch;

use super::disks::DiskCall;
use super::files::{self, Pooled, Reply, Request};
use super::machine::Machine;
use super::resident::Out;
use super::turn::Turn;
use super::{Connect, Options};
use crate::storage::Transfer;

/// How many file workers a resident keeps.
const WORKERS: usize = 4;

/// This host, as a step sees it.
pub struct Place {
    /// Who works on which VM.
    pub(super) turns: super::turn::Turns,
    pub(super) breakpoints: super::breakpoint::Breakpoints,
    remotes: PathBuf,
    uri: String,
    pub(super) workers: Arc<Workers>,
    network: Arc<super::network::Network>,
    settings: causeway_vmm::host::Settings,
    connect: Connect,
    libvirt: Arc<Mutex<Option<Arc<dyn Hypervisor>>>>,
    root: Vec<String>,
    pub(super) rests: Arc<super::guard::Rests>,
}

impl Place {
    /// Sets this process up; libvirt and causeway-root are reached when they are first needed.
    ///
    /// # Errors
    /// This program's own path is not known, or `kvmrc` can't be read.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let (uri, settings) = super::settings::read(options)?;
        Ok(Place {
            turns: super::turn::Turns::new(&options.state),
            breakpoints: super::breakpoint::Breakpoints::new(options.breakpoints.clone()),
            remotes: options.remotes.clone(),
            workers: Arc::new(files::pool(WORKERS, &options.state)?),
            network: Arc::new(super::network::Network::new(options)),
            rests: Arc::new(super::guard::Rests::new(&uri)?),
            uri,
            settings,
            connect: options.connect,
            libvirt: Arc::default(),
            root: options.root.clone(),
        })
    }

    /// Where that guest is.
    pub async fn locate(&self, id: DeployId) -> Sighting {
        let connect = self.connector();
        let asked = tokio::task::spawn_blocking(move || match connect() {
            Ok(libvirt) => causeway_vmm::host::sighting(libvirt.as_ref(), &id),
            Err(e) => Sighting::Unreachable(Failure::from_chain(e.kind(), &e).text),
        });
        asked.await.unwrap_or_else(|e| Sighting::Unreachable(e.to_string()))
    }

    /// Lets causeway-root end by itself, for a process that ends too.
    pub(super) fn let_root_go(&self) {
        self.network.let_root_go();
    }

    /// Who will do this work.
    pub fn owner(&self, work: &Work) -> Owner {
        match work {
            Work::Slot { slot, .. } if matches!(standing(&self.remotes, slot), Standing::Foreign(_)) => {
                Owner::Foreign
            }
            _ => Owner::Ours,
        }
    }

    /// Whether this work hears of a cancel by itself.
    pub fn stops_itself(&self, work: &Work) -> bool {
        match work {
            Work::Slot { slot, .. } => slot.family() == "vmm" && self.owner(work) == Owner::Ours,
            Work::Settle { .. } | Work::GuestDisk { .. } => true,
            _ => false,
        }
    }

    /// Does the work of `step`.
    ///
    /// # Errors
    /// What it failed of.
    pub(super) async fn run(
        self: &Rc<Self>,
        exchange: &Exchange,
        step: &WireStep,
        surroundings: &Surroundings<'_>,
        cancelled: &watch::Receiver<bool>,
    ) -> Result<Done, Failure> {
        let Surroundings { outputs, turn, out } = surroundings;
        let input = |name: &str| {
            let missing = || Failure::new(Kind::Bug, format!("the exchange has no input {name}"));
            exchange.inputs.get(name).cloned().ok_or_else(missing)
        };
        let file = |request: Request| async move {
            let log = |severity, text: &str| log(out, &exchange.request, severity, text);
            match self.workers.call_and_listen(&request, step.deadline(), log).await? {
                Reply::Done(output) => Ok(Done { output, effect: Effect::Made }),
                Reply::Guest(_) => Err(Failure::new(Kind::Bug, "a file worker gave another answer")),
            }
        };
        match &step.work {
            Work::Slot { slot, argv, input: name } => {
                let argv = resolve(argv, outputs)?;
                let stdin = name.as_deref().map(input).transpose()?.unwrap_or_else(|| Input::new(Vec::new()));
                let (request, deadline, turn) = (&exchange.request, step.deadline(), turn.clone());
                let call = SlotCall { request, slot, argv, stdin, deadline, retries: step.retries, turn };
                self.slot(call, cancelled, out).await
            }
            Work::MakeDir { path } => file(Request::MakeDir { path: path.as_str().to_owned() }).await,
            Work::WriteFile { path, input: name } => {
                file(Request::WriteFile { path: path.as_str().to_owned(), content: input(name)? }).await
            }
            Work::Transfer { call, inputs } => {
                let inputs =
                    inputs.iter().map(|name| input(name)).collect::<Result<Vec<Input>, Failure>>()?;
                let causeway = &self.settings.causeway;
                file(Request::Transfer(Transfer::new(call.clone(), inputs, step.deadline(), causeway))).await
            }
            Work::Settle { id, order } => self.settle(id.clone(), *order, turn.clone()).await,
            Work::GuestDisk { id, order } => {
                let call = DiskCall {
                    request: &exchange.request,
                    id,
                    order,
                    deadline: step.deadline(),
                    turn: turn.clone(),
                };
                self.guest_disk(call, cancelled, out).await
            }
        }
    }

    async fn slot(
        &self,
        call: SlotCall<'_>,
        cancelled: &watch::Receiver<bool>,
        out: &Out,
    ) -> Result<Done, Failure> {
        match (standing(&self.remotes, call.slot), call.slot.family()) {
            (Standing::Foreign(path), _) => foreign(&path, &call, out).await,
            (_, "vmm") => self.hypervisor(&call, cancelled, out).await,
            (_, "vnm") => self.network.run(&call, &self.remotes, self.connector(), out).await,
            (_, "tm") => self.probe(&call).await,
            (_, family) => {
                let text =
                    format!("no executable in the slot {}, and {family} has no work on a host", call.slot);
                Err(Failure::new(Kind::NotBuilt, text))
            }
        }
    }

    /// What the host's own probes ask a transfer manager for.
    async fn probe(&self, call: &SlotCall<'_>) -> Result<Done, Failure> {
        let Some(work) = causeway_tm::datastore::of_a_probe(call.slot, &call.argv)? else {
            let text = format!("no executable in the slot {}, which has no work on a host", call.slot);
            return Err(Failure::new(Kind::NotBuilt, text));
        };
        let work = serde_json::to_value(&work).map_err(|e| Failure::new(Kind::Bug, e))?;
        let transfer = Transfer::new(work, Vec::new(), call.deadline, &self.settings.causeway);
        match self.workers.call(&Request::Transfer(transfer), call.deadline).await? {
            Reply::Done(output) => Ok(Done { output, effect: Effect::Made }),
            Reply::Guest(_) => Err(Failure::new(Kind::Bug, "a file worker gave another answer")),
        }
    }

    /// One of our own VMM verbs, on a thread of its own.
    async fn hypervisor(
        &self,
        call: &SlotCall<'_>,
        cancelled: &watch::Receiver<bool>,
        out: &Out,
    ) -> Result<Done, Failure> {
        let verb = call.slot.verb().to_owned();
        if !causeway_vmm::host::BUILT.contains(&verb.as_str()) {
            return Err(causeway_vmm::host::not_built(&verb));
        }
        let (argv, stdin, request) = (call.argv.clone(), call.stdin.clone(), call.request.clone());
        let (workers, settings, connect) =
            (Arc::clone(&self.workers), self.settings.clone(), self.connector());
        let (out, deadline, runtime) = (out.clone(), call.deadline, tokio::runtime::Handle::current());
        let stop = Arc::new(AtomicBool::new(*cancelled.borrow()));
        let flag = Arc::clone(&stop);
        let mut cancelled = cancelled.clone();
        let turn = call.turn.clone();
        let machine = Machine {
            remotes: self.remotes.clone(),
            root: self.root.clone(),
            uri: self.uri.clone(),
            connect: self.connect,
            request: call.request.clone(),
            deadline: call.deadline,
            runtime: runtime.clone(),
            by_itself: turn.is_none(),
        };
        // At the deadline this future goes; the thread is told, and holds the VM's turn until it has ended.
        let _told = Told(Arc::clone(&stop));
        let thread = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let libvirt = connect().map_err(|e| Failure::from_chain(e.kind(), &e))?;
            let files = Pooled { workers: &workers, runtime: &runtime, deadline };
            let log = |severity, text: &str| log(&out, &request, severity, text);
            causeway_vmm::host::run(
                &verb,
                &causeway_vmm::host::Call {
                    argv: &argv,
                    stdin: &stdin.0,
                    hypervisor: libvirt.as_ref(),
                    files: &files,
                    machine: &machine,
                    settings: &settings,
                    cancelled: &flag,
                    log: &log,
                },
            )
        });
        let tell = async {
            if cancelled.wait_for(|c| *c).await.is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = thread => result.unwrap_or_else(|e| Err(Failure::new(Kind::Bug, e))),
            () = tell => Err(Failure::new(Kind::Bug, "an endless wait ended")),
        }
    }

    async fn settle(&self, id: DeployId, order: Order, turn: Option<Arc<Turn>>) -> Result<Done, Failure> {
        let connect = self.connector();
        let settled = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let libvirt = connect().map_err(|e| Failure::from_chain(e.kind(), &e))?;
            causeway_vmm::host::settle(libvirt.as_ref(), &id, order)
        });
        settled.await.unwrap_or_else(|e| Err(Failure::new(Kind::Bug, e)))
    }

    /// Gives the one libvirt client, made when it is first asked for. It mends its own connections after that.
    pub(super) fn connector(&self) -> impl Fn() -> Result<Arc<dyn Hypervisor>, DomainError> + Send + use<> {
        let (connect, uri, client) = (self.connect, self.uri.clone(), Arc::clone(&self.libvirt));
        move || {
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(libvirt) = client.as_ref() {
                return Ok(Arc::clone(libvirt));
            }
            let libvirt = connect(&uri)?;
            *client = Some(Arc::clone(&libvirt));
            Ok(libvirt)
        }
    }
}

/// What a step has around it.
pub(super) struct Surroundings<'a> {
    /// First words that earlier steps printed.
    pub outputs: &'a BTreeMap<String, String>,
    /// The VM's turn; a stand-alone slot has none.
    pub turn: Option<Arc<Turn>>,
    /// Where log lines go.
    pub out: &'a Out,
}

/// Tells a thread to stop when nobody waits for it any more.
pub(super) struct Told(pub(super) Arc<AtomicBool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A slot's call, with its arguments complete.
pub(super) struct SlotCall<'a> {
    pub request: &'a RequestId,
    pub slot: &'a Slot,
    pub argv: Vec<String>,
    pub stdin: Input,
    pub deadline: Duration,
    /// How often somebody else's script is tried again.
    pub retries: u16,
    /// Kept by the threads that a call leaves behind at its deadline: until they end, the VM is not at rest.
    pub turn: Option<Arc<Turn>>,
}

/// Runs somebody else's executable and passes its log lines on.
pub(super) async fn foreign(path: &Path, call: &SlotCall<'_>, out: &Out) -> Result<Done, Failure> {
    let script = child::run_again(path, &call.argv, &call.stdin.0, call.deadline, call.retries).await?;
    for (severity, text) in &script.log {
        log(out, call.request, *severity, text);
    }
    if script.success {
        return Ok(Done { output: script.stdout, effect: Effect::Made });
    }
    let said = if script.complaint.is_empty() { script.status } else { script.complaint };
    Err(Failure::new(Kind::Refused, said))
}

pub(super) fn log(out: &Out, request: &RequestId, severity: Severity, text: &str) {
    let _ = out.send(FromResident::Log { request: request.clone(), severity, text: text.to_owned() });
}

/// Fills in what earlier steps printed.
fn resolve(argv: &[Arg], outputs: &BTreeMap<String, String>) -> Result<Vec<String>, Failure> {
    let word = |arg: &Arg| match arg {
        Arg::Text(text) => Ok(text.clone()),
        Arg::Output(step) => match outputs.get(step).filter(|word| !word.is_empty()) {
            Some(word) => Ok(word.clone()),
            None => {
                Err(Failure::new(Kind::HostState, format!("{step} printed nothing, and this step needs it")))
            }
        },
    };
    argv.iter().map(word).collect()
}

/// Whether both of libvirt's certificates lie here, for its client and its server side: then libvirtd can reach another
/// libvirtd, and be reached.
pub fn has_certificates() -> bool {
    ["/etc/pki/CA/cacert.pem", "/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/servercert.pem"]
        .iter()
        .all(|path| Path::new(path).exists())
}

/// The kernel's name for this host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
