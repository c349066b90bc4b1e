//! The machine that a VMM verb runs on: its memory, the root helpers of the stock release, and work that outlives the
//! verb.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, RequestId};
use causeway_core::reach::child;
use causeway_domain::Hypervisor;
use causeway_vmm::host::{Helper, Later, sync_clock};

use super::Connect;

/// Longest time of a helper, and of the kernel's work on its memory.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a guest's agent is left to come up between two tries (contract VMM 3.3, *clock sync*).
const AGENT_PAUSE: Duration = Duration::from_secs(5);

/// This machine, as one call of a verb sees it.
#[derive(Clone)]
pub(super) struct Machine {
    /// Where the helpers are.
    pub remotes: PathBuf,
    /// Starts causeway-root.
    pub root: Vec<String>,
    /// libvirt on this host.
    pub uri: String,
    /// How it is reached.
    pub connect: Connect,
    /// The request that the call belongs to.
    pub request: RequestId,
    /// The verb's own deadline.
    pub deadline: Duration,
    /// The runtime, for threads outside of it.
    pub runtime: tokio::runtime::Handle,
    /// Whether the verb was started by itself, and not as a step of a plan.
    pub by_itself: bool,
}

impl causeway_vmm::host::Machine for Machine {
    fn compact_memory(&self) -> Result<(), Failure> {
        causeway_vnm::slot::compact_memory(&self.root, &self.request, self.deadline.min(PATIENCE))
    }

    fn help(&self, helper: &Helper) -> Result<(), Failure> {
        let path = self.remotes.join(helper.name());
        if !path.is_file() {
            return Ok(());
        }
        let (program, argv) = as_root(&self.root, &path, helper.argv());
        let script = child::run(&program, &argv, b"", self.deadline.min(PATIENCE));
        let script = self.runtime.block_on(script)?;
        if script.success {
            return Ok(());
        }
        let said = if script.complaint.is_empty() { script.status } else { script.complaint };
        Err(Failure::new(Kind::Refused, said))
    }

    fn later(&self, work: Later) {
        let Later::SyncClock(id) = work;
        let (connect, uri) = (self.connect, self.uri.clone());
        // Without a thread the clock is not set, as without an agent.
        let _ = thread::Builder::new().name("clock".to_owned()).spawn(move || set_clock(connect, &uri, &id));
    }

    fn peer(&self, uri: &str) -> Option<Result<Arc<dyn Hypervisor>, Failure>> {
        if !self.by_itself {
            return None;
        }
        Some((self.connect)(uri).map_err(|e| Failure::from_chain(e.kind(), &e)))
    }
}

/// A helper is started the way causeway-root is: by the same `sudo`, in whose rules the stock package names it.
pub(super) fn as_root(root: &[String], helper: &Path, argv: Vec<String>) -> (PathBuf, Vec<String>) {
    let Some(([first, rest @ ..], _)) = root.split_last().map(|(program, starter)| (starter, program)) else {
        return (helper.to_owned(), argv);
    };
    let words = rest.iter().cloned().chain([helper.display().to_string()]).chain(argv);
    (PathBuf::from(first), words.collect())
}

/// Sets the guest's clock by a libvirt client of its own: an agent that swallows a command holds up nobody else's call.
fn set_clock(connect: Connect, uri: &str, id: &DeployId) {
    match connect(uri).and_then(|libvirt| sync_clock(libvirt.as_ref(), id, AGENT_PAUSE)) {
        Ok(()) => tracing::info!(%id, "the guest's clock is set"),
        Err(error) => tracing::info!(%id, %error, cause = %error.cause, "the guest's clock is not set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_vmm::host::Machine as _;
    use std::os::unix::fs::PermissionsExt;

    fn machine(dir: &Path, root: &[&str], runtime: &tokio::runtime::Runtime) -> Machine {
        Machine {
            remotes: dir.to_owned(),
            root: root.iter().map(|&word| word.to_owned()).collect(),
            uri: "test:///default".to_owned(),
            connect: |uri| Ok(Arc::new(causeway_domain::Libvirt::connect(uri)?)),
            request: RequestId::new(0, 0, 0),
            deadline: Duration::from_secs(30),
            runtime: runtime.handle().clone(),
            by_itself: false,
        }
    }

    /// Contract VMM 3.5.
    #[test]
    fn a_helper_gets_the_words_of_its_contract_from_the_starter_of_root() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let host = machine(dir.path(), &["env", "AS=root", "/nowhere/causeway-root"], &runtime);
        // As in a resident: a verb has a thread of its own, and the runtime is driven by another.
        let help = |host: &Machine, helper: &Helper| {
            let (host, helper) = (host.clone(), helper.clone());
            let verb = runtime.spawn_blocking(move || host.help(&helper));
            runtime.block_on(verb).unwrap()
        };
        let gpus = Helper::CreateGpus("/ds/7/vm.xml".parse().unwrap());
        help(&host, &gpus).unwrap();

        let put = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        let told = dir.path().join("told");
        put("vgpu", &format!("#!/bin/sh\necho \"$AS $*\" >{}\n", told.display()));
        put("vtpm_setup", "#!/bin/sh\necho 'no state' >&2\nexit 3\n");
        help(&host, &gpus).unwrap();
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "root CREATE /ds/7/vm.xml\n");
        let uuid = "6e1f0f2a-0000-4000-8000-000000000007";
        let tpm = Helper::RecoverTpm(uuid.parse().unwrap(), "/ds/7".parse().unwrap());
        assert_eq!(tpm.argv(), ["recover", uuid, "/ds/7"]);
        assert_eq!(help(&host, &tpm).unwrap_err().text, "no state");
        // Where causeway-root needs no starter, a helper needs none.
        help(&machine(dir.path(), &["/nowhere/causeway-root"], &runtime), &gpus).unwrap();
        assert_eq!(std::fs::read_to_string(&told).unwrap(), " CREATE /ds/7/vm.xml\n");
    }

    #[test]
    fn only_a_verb_by_itself_has_a_peer() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let host = machine(Path::new("/nowhere"), &["/nowhere/causeway-root"], &runtime);
        assert!(host.peer("test:///default").is_none());
        let alone = Machine { by_itself: true, ..host };
        assert!(alone.peer("test:///default").unwrap().is_ok());
        assert!(alone.peer("test:///nowhere/at/all").unwrap().is_err());
        assert!(alone.compact_memory().unwrap_err().text.contains("start /nowhere/causeway-root"));
    }
}
