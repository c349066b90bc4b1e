//! Network slots: ours go to causeway-root, one at a time on its pipe; then the admin's own hook scripts run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::DriverName;
use causeway_core::plan::Slot;
use causeway_core::protocol::Severity;
use causeway_core::reach::slots::{Standing, standing};
use causeway_core::reach::wire::{Done, Effect};
use causeway_core::settings::{NetworkConf, read_file};
use causeway_domain::{DomainError, Hypervisor};
use causeway_vnm::asked::Moment;
use causeway_vnm::connections::Connections;
use causeway_vnm::desired::Settings;
use causeway_vnm::slot::{Context, Root};

use super::Options;
use super::guests::Guests;
use super::resident::Out;
use super::services;
use super::work::{SlotCall, foreign, log};

/// The network drivers that are built; any other slot answers that it is not.
const BUILT: [&str; 6] = DriverName::OURS;

/// Their verbs that are built.
const VERBS: [&str; 9] =
    ["pre", "post", "clean", "update_sg", "update_nic", "vnet_create", "vnet_delete", TELL, ADMIT];

/// Our own verbs, of what a guest has under way. No script stands in for them.
const TELL: &str = "connections";
const ADMIT: &str = "admit";

/// The verbs after which the stock program is told of services (contract VNM 4.11).
const SERVING: [&str; 3] = ["pre", "clean", "update_nic"];

/// The verbs that have a hook directory (contract VNM 1.7).
const HOOKED: [&str; 3] = ["pre", "post", "clean"];

/// The way to causeway-root from this process.
pub struct Network {
    root: Arc<Mutex<Root>>,
    starter: Vec<String>,
    configuration: PathBuf,
}

impl Network {
    /// causeway-root is started when it is first needed.
    pub fn new(options: &Options) -> Self {
        Network {
            root: Arc::new(Mutex::new(Root::new(options.root.clone()))),
            starter: options.root.clone(),
            configuration: options.remotes.join("etc/vnm/OpenNebulaNetwork.conf"),
        }
    }

    /// Lets causeway-root end by itself.
    pub(super) fn let_root_go(&self) {
        self.root.lock().unwrap_or_else(PoisonError::into_inner).let_go();
    }

    /// Runs a slot, and the scripts in its hook directory; `connect` gives libvirt's client.
    pub(super) async fn run(
        &self,
        call: &SlotCall<'_>,
        remotes: &Path,
        connect: impl Fn() -> Result<Arc<dyn Hypervisor>, DomainError> + Send + 'static,
        out: &Out,
    ) -> Result<Done, Failure> {
        let slot = call.slot;
        if !BUILT.contains(&slot.driver()) || !VERBS.contains(&slot.verb()) {
            let text =
                format!("{slot} is not built in this version of causeway, and no other driver stands there");
            return Err(Failure::new(Kind::NotBuilt, text));
        }
        if [TELL, ADMIT].contains(&slot.verb()) && !is_ours(remotes, slot) {
            return Ok(Done { output: Connections::default().to_string(), effect: Effect::Already });
        }
        let conf = self.conf()?;
        let context = Context {
            request: call.request.clone(),
            settings: Settings::default(),
            deadline: call.deadline,
            dry_run: false,
            asked: Moment::now(),
        };
        let (root, slot, argv, stdin) =
            (Arc::clone(&self.root), slot.clone(), call.argv.clone(), call.stdin.clone());
        let turn = call.turn.clone();
        let ours = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let guests = Guests { connect };
            let (settings, notes) = settings(slot.verb(), conf);
            let context = Context { settings, ..context };
            let answer = causeway_vnm::slot::run(
                slot.verb(),
                slot.driver(),
                &argv,
                &stdin.0,
                &context,
                &root,
                &guests,
            );
            Ok((answer?, notes))
        });
        let (answer, mut notes) = ours.await.unwrap_or_else(|e| Err(Failure::new(Kind::Bug, e)))?;
        if answer.services && SERVING.contains(&call.slot.verb()) {
            notes.extend(services::tell(&self.starter, remotes).await);
        }
        for note in answer.notes.iter().chain(&notes) {
            log(out, call.request, Severity::Warning, note);
        }
        for change in &answer.changes {
            log(out, call.request, Severity::Debug, change);
        }
        for arrival in &answer.arrivals {
            let (request, share_us) = (call.request, arrival.share_us());
            tracing::info!(%request, nic = arrival.nic, network_share_us = share_us, "a guest has moved here");
            log(out, call.request, Severity::Info, &arrival.to_string());
        }
        for script in hooks(remotes, call.slot) {
            let hook = foreign(&script, call, out).await;
            let done = hook.map_err(|f| f.context(format!("hook {}", script.display())))?;
            if !done.output.is_empty() {
                log(out, call.request, Severity::Info, &done.output);
            }
        }
        // A reservation is a change too: an undo must give it back.
        let untouched = answer.changes.is_empty() && !answer.reserved;
        let effect = if untouched { Effect::Already } else { Effect::Made };
        Ok(Done { output: answer.stdout, effect })
    }

    /// What the admin's `OpenNebulaNetwork.conf` says, read for each action: it may have been synced meanwhile.
    fn conf(&self) -> Result<NetworkConf, Failure> {
        let wrong = |e: causeway_core::settings::SettingsError| Failure::from_chain(e.kind(), &e);
        match read_file(&self.configuration).map_err(wrong)? {
            Some(text) => NetworkConf::parse(&self.configuration.display().to_string(), &text).map_err(wrong),
            None => Ok(NetworkConf::default()),
        }
    }
}

/// The settings of one action, and what is to be told of them. Services are made by `pre`, and follow their network in
/// `update_nic`; they stay as they are whatever a name server says afterwards.
fn settings(verb: &str, mut conf: NetworkConf) -> (Settings, Vec<String>) {
    let notes = match verb {
        "pre" | "update_nic" => services::resolve(&mut conf.tproxy),
        _ => {
            conf.tproxy.clear();
            Vec::new()
        }
    };
    ((&conf).into(), notes)
}

/// Whether the networks of that driver are ours on this host: where somebody else's script prepares them, nothing is known here of
/// what its guests have under way.
fn is_ours(remotes: &Path, slot: &Slot) -> bool {
    let pre = Slot::new(slot.family(), slot.driver(), "pre");
    pre.is_ok_and(|pre| !matches!(standing(remotes, &pre), Standing::Foreign(_)))
}

/// The executables in the slot's hook directory, by name.
fn hooks(remotes: &Path, slot: &Slot) -> Vec<PathBuf> {
    if !HOOKED.contains(&slot.verb()) {
        return Vec::new();
    }
    let Ok(listing) = std::fs::read_dir(remotes.join(format!("{slot}.d"))) else { return Vec::new() };
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let mut scripts: Vec<PathBuf> = listing.filter_map(|e| Some(e.ok()?.path())).filter(executable).collect();
    scripts.sort();
    scripts
}
