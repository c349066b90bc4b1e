//! One command of the transfer manager, in whichever process it comes up: ours becomes steps on the hosts, anybody
//! else's a script on the front-end. And what must be known for it that no argument says.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::VmDocument;
use causeway_core::engine::Reach;
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Input, InputName, Place, Slot, Step, Work};
use causeway_core::reach::slots::{Standing, standing, standing_with_fallback};
use causeway_core::reach::wire::{Exchange, FromResident, WireStep};
use causeway_tm::Transfer;
use causeway_tm::datastore::Hosts;
use causeway_tm::facts::{BackupSource, DatastoreFacts, Lookup, Needs, VmFacts};

use super::oned::Oned;
use super::places::Places;

/// Who does a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doer {
    /// We do: our wrapper stands in the slot, or nobody, and it is built.
    Ours(Slot),
    /// The executable in this slot, which is the command's or that without the suffix.
    Foreign(Slot),
    /// Nobody.
    Nobody,
}

/// Looks who does what the slot `asked` is for.
pub fn doer(remotes: &Path, asked: &Slot) -> Doer {
    let (found, standing) = standing_with_fallback(remotes, asked);
    let slot = match standing {
        Standing::Foreign(_) if is_ours_by_a_link(remotes, &found) => found,
        Standing::Foreign(_) => return Doer::Foreign(found),
        Standing::Ours => found,
        Standing::Missing => asked.clone(),
    };
    // Both names: a suffix that has a form of its own is not served by the verb without it.
    if causeway_tm::plan::built(&slot) && causeway_tm::plan::built(asked) {
        Doer::Ours(slot)
    } else {
        Doer::Nobody
    }
}

/// Whether the driver's directory is a link to another one's, as `tm/shared` is one to `tm/qcow2` (contract TM 0), and
/// our wrapper for the slot there stands in it.
fn is_ours_by_a_link(remotes: &Path, slot: &Slot) -> bool {
    let Ok(target) = std::fs::read_link(remotes.join(slot.family()).join(slot.driver())) else {
        return false;
    };
    let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let there = Slot::new(slot.family(), name, slot.verb());
    there.is_ok_and(|there| standing(remotes, &there) == Standing::Ours)
}

/// That nobody does what `slot` is for.
pub fn not_built(slot: &Slot) -> Failure {
    if let Some(why) = causeway_tm::plan::absent(slot) {
        return Failure::new(Kind::NotBuilt, format!("there is no {slot}: {why}"));
    }
    let text = format!("{slot} is not built in this version of causeway, and no other driver stands there");
    Failure::new(Kind::NotBuilt, text)
}

/// Our steps, those for this machine done here: oned names the front-end as the host of a stopped VM's disks (contract
/// TM 4), and nobody needs a session to be where he is.
pub fn at_home(mut steps: Vec<Step>) -> Vec<Step> {
    let here = crate::host::work::host_name();
    for step in &mut steps {
        let Work::Transfer { call, .. } = &mut step.work else { continue };
        // Between two hosts either end can do it; the one that needs no session is better.
        let other_end = step.place.host().is_some_and(|host| !is_here(host.as_str(), &here))
            && causeway_tm::carry::turn_to(call, |host| is_here(host.as_str(), &here));
        if other_end || step.place.host().is_some_and(|host| is_here(host.as_str(), &here)) {
            step.place = Place::FrontEnd;
        }
    }
    steps
}

/// Whether `host` names the machine whose kernel calls it `here`, with its domain or without.
fn is_here(host: &str, here: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let whole = host.eq_ignore_ascii_case(here);
    // Two whole names with different domains are two machines.
    let one_is_short = !host.contains('.') || !here.contains('.');
    host == "localhost" || whole || (one_is_short && short(host) == short(here))
}

/// The step of somebody else's script: its arguments as they came, on the front-end (contract TM 1.3).
pub fn foreign(
    name: String,
    slot: Slot,
    argv: &[String],
    input: Option<InputName>,
    deadline: Duration,
) -> Step {
    let argv = argv.iter().map(|word| word.as_str().into()).collect();
    Step::new(name, Place::FrontEnd, Work::Slot { slot, argv, input }, deadline)
}

/// Performs the one step that a plan must have the output of before it can be made; it changes nothing.
///
/// # Errors
/// What the step failed of, or that its host can't be reached.
pub async fn read(
    places: &Places,
    request: RequestId,
    vm: VmId,
    reading: Transfer,
    inputs: BTreeMap<InputName, Input>,
) -> Result<String, Failure> {
    let mut steps = at_home(reading.steps);
    let none = || Failure::new(Kind::Bug, "nothing is to be read");
    let step = steps.pop().ok_or_else(none)?;
    let exchange = Exchange {
        request,
        action: "read".to_owned(),
        vm,
        steps: vec![WireStep::from(&step)],
        inputs,
        outputs: BTreeMap::new(),
    };
    let mut events = places.start(&step.place, exchange).await?;
    while let Some(event) = events.receiver.recv().await {
        if let FromResident::Ended { end, .. } = event {
            return end.result.map(|done| done.output);
        }
    }
    Err(Failure::new(Kind::Unreachable, format!("{}: the answer from {} is lost", step.name, step.place)))
}

/// What was looked up, or why it could not be. A look-up that failed stays a failure.
#[derive(Debug, Default)]
pub struct Known {
    vms: BTreeMap<VmId, Result<VmFacts, Failure>>,
    datastores: BTreeMap<u32, Result<DatastoreFacts, Failure>>,
    automounted: Option<Result<BTreeSet<u32>, Failure>>,
    hosts: Option<Result<Hosts, Failure>>,
    backups: BTreeMap<u32, Result<BackupSource, Failure>>,
}

impl Known {
    /// Takes in what is known of a VM already, so that oned is not asked for it.
    pub fn take_vm(&mut self, id: VmId, facts: Result<VmFacts, Failure>) {
        self.vms.insert(id, facts);
    }

    /// Asks oned for all of `needs` that is not known yet.
    pub async fn ask(&mut self, oned: &Oned, needs: &Needs) {
        if let Some(id) = needs.vm.map(|need| need.vm()).filter(|id| !self.vms.contains_key(id)) {
            self.vms.insert(id, vm_facts(oned, id).await);
        }
        let facts = needs.vm.and_then(|need| self.vms.get(&need.vm())).and_then(|facts| facts.as_ref().ok());
        // What the document does not say is told by whoever gathers.
        if let Some(image) = needs.image(facts).ok().flatten()
            && let Some(vm) = needs.vm
            && !self.backups.contains_key(&image)
        {
            self.backups.insert(image, backup_source(oned, vm.vm(), image).await);
        }
        for id in needs.all_datastores(facts).unwrap_or_default() {
            if let Entry::Vacant(unknown) = self.datastores.entry(id) {
                unknown.insert(datastore_facts(oned, id).await);
            }
        }
        let known = self.datastores.values().filter_map(|facts| facts.as_ref().ok());
        if self.automounted.is_none() && needs.pool(known) {
            self.automounted = Some(oned.automounted().await);
        }
        if needs.hosts && self.hosts.is_none() {
            self.hosts = Some(oned.hosts().await);
        }
    }
}

async fn vm_facts(oned: &Oned, id: VmId) -> Result<VmFacts, Failure> {
    let document = oned.vm(id).await?;
    let wrong = |e: &dyn std::error::Error| Failure::new(Kind::Input, e);
    let vm = VmDocument::parse(document.as_bytes()).map_err(|e| wrong(&e))?;
    if vm.id != id {
        return Err(Failure::new(Kind::Refused, format!("oned answered with VM {}", vm.id)));
    }
    Ok(VmFacts::of(&vm)?)
}

async fn datastore_facts(oned: &Oned, id: u32) -> Result<DatastoreFacts, Failure> {
    let document = oned.datastore(id).await?;
    Ok(DatastoreFacts::parse(id, document.as_bytes())?)
}

async fn backup_source(oned: &Oned, vm: VmId, image: u32) -> Result<BackupSource, Failure> {
    let image = oned.image(image).await?;
    let datastore = oned.datastore_with_secrets(BackupSource::datastore_of(&image)?).await?;
    Ok(BackupSource::of(&oned.vm(vm).await?, &image, &datastore)?)
}

impl Lookup for Known {
    fn backup(&self, image: u32) -> Result<BackupSource, Failure> {
        self.backups.get(&image).cloned().unwrap_or_else(|| Err(not_asked()))
    }

    fn vm(&self, id: VmId) -> Result<VmFacts, Failure> {
        self.vms.get(&id).cloned().unwrap_or_else(|| Err(not_asked()))
    }

    fn datastore(&self, id: u32) -> Result<DatastoreFacts, Failure> {
        self.datastores.get(&id).cloned().unwrap_or_else(|| Err(not_asked()))
    }

    fn automounted(&self) -> Result<BTreeSet<u32>, Failure> {
        self.automounted.clone().unwrap_or_else(|| Err(not_asked()))
    }

    fn hosts(&self) -> Result<Hosts, Failure> {
        self.hosts.clone().unwrap_or_else(|| Err(not_asked()))
    }
}

fn not_asked() -> Failure {
    Failure::new(Kind::Bug, "oned was not asked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_tm::facts::{VmNeed, gather};

    #[test]
    fn a_machine_is_known_by_its_name_with_or_without_domain() {
        for (host, here) in [("vm", "vm"), ("VM", "vm"), ("vm", "vm.example.org"), ("vm.example.org", "vm")] {
            assert!(is_here(host, here), "{host} {here}");
        }
        for (host, here) in [("vm2", "vm"), ("vm.a.org", "vm.b.org"), ("10.0.0.1", "vm"), ("", "vm")] {
            assert!(!is_here(host, here), "{host} {here}");
        }
    }

    #[tokio::test]
    async fn a_look_up_that_fails_is_no_empty_value() {
        let nobody = Oned::at("http://127.0.0.1:9/RPC2", Some("oneadmin:x"));
        let needs = Needs {
            vm: Some(VmNeed::Document(VmId(7))),
            datastores: [1].into(),
            hosts: true,
            ..Needs::default()
        };
        let mut known = Known::default();
        known.ask(&nobody, &needs).await;
        let failure = Failure::from(gather(&needs, &known).unwrap_err());
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(failure.text.starts_with("cannot look up VM 7: one.vm.info 7: "), "{failure}");
        let datastores = Needs { vm: None, ..needs };
        let failure = Failure::from(gather(&datastores, &known).unwrap_err());
        assert!(failure.text.starts_with("cannot look up datastore 1: one.datastore.info 1: "), "{failure}");
    }

    #[test]
    fn a_slot_has_one_doer() {
        use std::os::unix::fs::PermissionsExt;
        let remotes = tempfile::tempdir().unwrap();
        let put = |slot: &str, text: &str| {
            let path = remotes.path().join(slot);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        put("tm/qcow2/clone", "#!/bin/sh\nexec /x/causeway-tm slot tm/qcow2/clone \"$@\"\n");
        put("tm/qcow2/later", "#!/bin/sh\nexec /x/causeway-tm slot tm/qcow2/later \"$@\"\n");
        put("tm/qcow2/delete", "#!/bin/sh\necho mine\n");
        let of = |slot: &str| doer(remotes.path(), &slot.parse().unwrap());
        let (ours, foreign) =
            (|s: &str| Doer::Ours(s.parse().unwrap()), |s: &str| Doer::Foreign(s.parse().unwrap()));
        assert_eq!(of("tm/qcow2/clone"), ours("tm/qcow2/clone"));
        assert_eq!(of("tm/shared/ln"), ours("tm/shared/ln"));
        // As the stock release installs it.
        std::os::unix::fs::symlink("qcow2", remotes.path().join("tm/shared")).unwrap();
        assert_eq!(of("tm/shared/clone"), ours("tm/shared/clone"));
        assert_eq!(of("tm/shared/delete"), foreign("tm/shared/delete"));
        assert_eq!(of("tm/qcow2/delete"), foreign("tm/qcow2/delete"));
        assert_eq!(of("tm/qcow2/delete.ssh"), foreign("tm/qcow2/delete"));
        // A wrapper in a slot that this version does not fill, and an empty slot of another driver.
        assert_eq!(of("tm/qcow2/later"), Doer::Nobody);
        assert_eq!(of("tm/lvm/clone"), Doer::Nobody);
        assert_eq!(of("tm/ceph/clone"), ours("tm/ceph/clone"));
        assert_eq!(of("tm/ceph/snap_create_live"), ours("tm/ceph/snap_create_live"));
        // By itself, not by falling back to `ln`, which would leave the VM hanging on a shared image.
        assert_eq!(of("tm/qcow2/ln.ssh"), ours("tm/qcow2/ln.ssh"));
    }
}
