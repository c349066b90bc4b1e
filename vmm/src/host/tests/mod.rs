//! The verbs against a hypervisor in memory.

mod deploy;
mod devices;
mod migrate;
mod sighting;
mod snapshots;
mod stop;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::DeployId;
use causeway_core::reach::wire::{Done, Effect};
use causeway_core::settings::{Causeway, Kvmrc};
use causeway_domain::fake::Fake;
use causeway_domain::{Drive, Hypervisor, Operation};

use super::{BUILT, Call, FileAnswer, FileCall, Files, Helper, Later, Machine, Settings, run};

/// The guest of most tests, by its UUID.
const UUID: &str = "6e1f0f2a-0000-4000-8000-000000926517";

fn id() -> DeployId {
    UUID.parse().unwrap()
}

/// A deployment file of VM 0.
fn domain(inner: &str) -> String {
    format!("<domain type='kvm'><name>one-0</name><uuid>{UUID}</uuid><memory>131072</memory>{inner}</domain>")
}

/// A VM directory in memory.
struct Directory {
    calls: Mutex<Vec<FileCall>>,
    snapshots: Mutex<FileAnswer>,
    tpm: bool,
    links: BTreeMap<String, String>,
    broken: bool,
    /// Turned true as soon as a file is stored.
    cancels: Option<&'static AtomicBool>,
}

impl Default for Directory {
    fn default() -> Self {
        Directory {
            calls: Mutex::default(),
            snapshots: Mutex::new(FileAnswer::Snapshots { saved: Vec::new(), current: None }),
            tpm: false,
            links: BTreeMap::new(),
            broken: false,
            cancels: None,
        }
    }
}

impl Files for Directory {
    fn call(&self, call: FileCall) -> Result<FileAnswer, Failure> {
        self.calls.lock().unwrap().push(call.clone());
        if self.broken {
            return Err(Failure::new(Kind::HostState, "the file system is read-only"));
        }
        if let (Some(cancelled), FileCall::Store { .. }) = (self.cancels, &call) {
            cancelled.store(true, Ordering::Relaxed);
        }
        Ok(match call {
            FileCall::Links { paths } => {
                FileAnswer::Links(paths.iter().map(|path| self.links.get(path).cloned()).collect())
            }
            FileCall::Snapshots { .. } => self.snapshots.lock().unwrap().clone(),
            FileCall::KeepSnapshots { snapshots, current, .. } => {
                let saved = snapshots.into_iter().map(|(_, xml)| xml).collect();
                *self.snapshots.lock().unwrap() = FileAnswer::Snapshots { saved, current };
                FileAnswer::Done
            }
            FileCall::TpmState { .. } => FileAnswer::There(self.tpm),
            _ => FileAnswer::Done,
        })
    }
}

/// A machine that notes what it is asked for.
#[derive(Default)]
struct Notes {
    asked: Mutex<Vec<String>>,
    broken: bool,
    /// The destination, for a verb that no plan is around.
    peer: Option<Result<Arc<Fake>, Failure>>,
}

impl Notes {
    fn note(&self, text: String) -> Result<(), Failure> {
        self.asked.lock().unwrap().push(text);
        if self.broken { Err(Failure::new(Kind::Refused, "sudo: a password is required")) } else { Ok(()) }
    }
}

impl Machine for Notes {
    fn compact_memory(&self) -> Result<(), Failure> {
        self.note("compact memory".to_owned())
    }

    fn help(&self, helper: &Helper) -> Result<(), Failure> {
        self.note(format!("{} {}", helper.name(), helper.argv().join(" ")))
    }

    fn later(&self, work: Later) {
        let _ = self.note(format!("{work:?}"));
    }

    fn peer(&self, _uri: &str) -> Option<Result<Arc<dyn Hypervisor>, Failure>> {
        let peer = self.peer.clone()?;
        Some(peer.map(|fake| fake as Arc<dyn Hypervisor>))
    }
}

/// A host, its settings, and one call's surroundings.
struct Bench {
    host: Fake,
    directory: Directory,
    machine: Notes,
    settings: Settings,
    cancelled: &'static AtomicBool,
    log: Mutex<Vec<String>>,
}

impl Bench {
    fn new() -> Self {
        let kvmrc = Kvmrc { shutdown_timeout: Duration::from_millis(600), ..Kvmrc::shipped().unwrap() };
        Bench {
            host: Fake::new("node1"),
            directory: Directory::default(),
            machine: Notes::default(),
            settings: Settings { kvmrc, causeway: Causeway::default(), drive: Drive::Client },
            // One flag a test: it lives as long as the process.
            cancelled: Box::leak(Box::default()),
            log: Mutex::default(),
        }
    }

    /// With the guest running.
    fn with_guest() -> Self {
        let bench = Bench::new();
        bench.host.create(&domain("")).unwrap();
        bench.host.forget_calls();
        bench
    }

    fn call<T>(&self, argv: &[&str], stdin: &[u8], work: impl FnOnce(&Call<'_>) -> T) -> T {
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        work(&Call {
            argv: &argv,
            stdin,
            hypervisor: &self.host,
            files: &self.directory,
            machine: &self.machine,
            settings: &self.settings,
            cancelled: self.cancelled,
            log: &|severity, line| self.lines().push(format!("{severity:?} {line}")),
        })
    }

    fn run(&self, verb: &str, argv: &[&str], stdin: &[u8]) -> Result<Done, Failure> {
        self.call(argv, stdin, |call| run(verb, call))
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap()
    }

    /// What was done to the VM directory, or asked about it; but not that snapshots were looked for.
    fn file_calls(&self) -> Vec<FileCall> {
        let calls = self.directory.calls.lock().unwrap();
        calls.iter().filter(|call| !matches!(call, FileCall::Snapshots { .. })).cloned().collect()
    }

    /// What the machine was asked for, in order.
    fn asked(&self) -> Vec<String> {
        self.machine.asked.lock().unwrap().clone()
    }

    fn count(&self, operation: Operation) -> usize {
        self.host.operations().iter().filter(|o| **o == operation).count()
    }

    /// Runs `work` while another thread waits for `when`, and does `then` once it is so.
    fn meanwhile<T>(
        &self,
        when: impl Fn(&Self) -> bool + Sync,
        then: impl FnOnce(&Self) + Send,
        work: impl FnOnce() -> T,
    ) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // What never comes must not be waited for when the work is over.
                while !when(self) && !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                then(self);
            });
            let result = work();
            over.store(true, Ordering::Relaxed);
            result
        })
    }
}

#[track_caller]
fn refused(result: Result<Done, Failure>, kind: Kind, part: &str) {
    let failure = result.unwrap_err();
    assert_eq!(failure.kind, kind, "{failure}");
    assert!(failure.text.contains(part), "{failure}");
}

#[track_caller]
fn done(result: Result<Done, Failure>, effect: Effect) {
    assert_eq!(result.unwrap().effect, effect);
}

#[test]
fn what_is_not_built_says_so_and_every_argument_is_looked_at() {
    let bench = Bench::with_guest();
    refused(bench.run("restore", &[], b""), Kind::NotBuilt, "vmm/kvm/restore is not built");
    for verb in BUILT {
        refused(bench.run(verb, &[], b""), Kind::Input, "argument 1");
        refused(bench.run(verb, &["../../etc", "node1", "0", "node1"], b""), Kind::Input, "../../etc");
    }
    refused(bench.run("migrate", &[UUID, "-oProxyCommand=x", "node1"], b""), Kind::Input, "ProxyCommand");
    assert_eq!(bench.host.operations(), [], "nothing was asked of libvirt");
}
