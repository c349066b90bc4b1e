//! Small plans of the shapes that matter: a guest is started, moved, ended.
//!
//! They have the step order, the undo and the goals of the real ones (contract VMM 2.4), and nothing else of them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use causeway_core::names::{DeployId, HostName, VmId};
use causeway_core::plan::{Answer, Arg, DiskOrder, Goal, Input, Place, Plan, Quiesce, Slot, Step, Work};

/// The deadline of every step of these plans.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The name that `text` spells.
///
/// # Panics
/// A text that does not have the name's form: the test is wrong.
pub fn named<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no {}", std::any::type_name::<T>()))
}

/// Makes the steps of one VM's plans.
#[derive(Debug, Clone)]
pub struct Maker {
    /// The VM.
    pub vm: VmId,
    /// Its guest.
    pub id: DeployId,
    /// Where it runs, or is to run.
    pub source: HostName,
    /// Where it may go.
    pub destination: HostName,
}

impl Maker {
    /// VM 7 with the hosts `h1` and `h2`.
    pub fn of_two_hosts() -> Self {
        let vm = VmId(7);
        let id = named("6e1f0f2a-0000-4000-8000-000000571347");
        Maker { vm, id, source: named("h1"), destination: named("h2") }
    }

    /// A step that calls `family/driver/verb`.
    pub fn slot(&self, name: &str, place: Place, slot: [&str; 3], argv: &[&str]) -> Step {
        let [family, driver, verb] = slot;
        let work = Work::Slot {
            slot: named::<Slot>(&format!("{family}/{driver}/{verb}")),
            argv: argv.iter().map(|text| Arg::from(*text)).collect(),
            input: Some("envelope".to_owned()),
        };
        Step::new(name, place, work, DEADLINE)
    }

    fn on(&self, host: &HostName) -> Place {
        Place::Host(host.clone())
    }

    /// The network `driver` made ready on `host`, and taken down again by its undo.
    pub fn pre(&self, driver: &str, host: &HostName) -> Step {
        let step = self.slot(&format!("pre:{driver}"), self.on(host), ["vnm", driver, "pre"], &[]);
        let mut clean = self.clean(driver, host);
        clean.name = format!("undo-{}", clean.name);
        step.undone_by(vec![clean])
    }

    /// The network `driver` taken down on `host`.
    pub fn clean(&self, driver: &str, host: &HostName) -> Step {
        self.slot(&format!("clean:{driver}"), self.on(host), ["vnm", driver, "clean"], &[host.as_str()])
    }

    /// The guest's ports set up on `host`.
    pub fn post(&self, driver: &str, host: &HostName) -> Step {
        self.slot(&format!("post:{driver}"), self.on(host), ["vnm", driver, "post"], &[self.id.as_str()])
    }

    fn gone(&self, host: &HostName) -> Goal {
        Goal::Gone { id: self.id.clone(), host: host.clone() }
    }

    /// The guest started on the source.
    pub fn start(&self) -> Step {
        let here = self.on(&self.source);
        let step = self.slot("deploy", here.clone(), ["vmm", "kvm", "deploy"], &["/deployment.0"]);
        let cancel = self.slot("undo-cancel", here, ["vmm", "kvm", "cancel"], &[self.id.as_str()]);
        let goal = Goal::RunsOn { id: self.id.clone(), host: self.source.clone(), from: None };
        step.undone_by(vec![cancel.reaching(self.gone(&self.source))]).reaching(goal).finishes()
    }

    /// What libvirt keeps of the guest put aside, for it would not let it go; given back if it does not go.
    pub fn depart(&self) -> Step {
        let slot = |verb| self.slot(verb, self.on(&self.source), ["vmm", "kvm", verb], &[self.id.as_str()]);
        slot("depart").undone_by(vec![slot("stay")]).ignored()
    }

    /// The guest moved from the source to the destination.
    pub fn go(&self) -> Step {
        let argv = [self.id.as_str(), self.destination.as_str(), self.source.as_str()];
        let step = self.slot("migrate", self.on(&self.source), ["vmm", "kvm", "migrate"], &argv);
        let (host, from) = (self.destination.clone(), Some(self.source.clone()));
        step.reaching(Goal::RunsOn { id: self.id.clone(), host, from }).long().finishes()
    }

    /// The guest ended on the source.
    pub fn stop(&self) -> Step {
        let step =
            self.slot("shutdown", self.on(&self.source), ["vmm", "kvm", "shutdown"], &[self.id.as_str()]);
        step.reaching(self.gone(&self.source)).long()
    }

    /// A disk saved while the guest rests: frozen, copied on the front-end's side, thawed.
    pub fn save_disk(&self) -> Plan {
        let on_disk = |name: &str, order| {
            let work = Work::GuestDisk { id: self.id.clone(), order };
            Step::new(name, self.on(&self.source), work, DEADLINE)
        };
        let quiesce = Quiesce { agent_seconds: 5, or_suspend: true };
        let freeze = on_disk("freeze", DiskOrder::Freeze { quiesce, seconds: 600 });
        let thaw = |name| on_disk(name, DiskOrder::Thaw { agent_seconds: 5 });
        let steps = vec![
            // One that was let go already is no failure of the undo.
            freeze.undone_by(vec![thaw("undo-thaw").ignored()]),
            self.slot("copy", Place::FrontEnd, ["tm", "shared", "cpds"], &[]),
            thaw("thaw"),
        ];
        self.plan("SAVE", steps, Answer::Empty)
    }

    /// A plan of those steps. oned has no id yet for a guest that they start.
    pub fn plan(&self, action: &str, steps: Vec<Step>, answer: Answer) -> Plan {
        let starts = steps.iter().any(|step| matches!(step.goal, Some(Goal::RunsOn { from: None, .. })));
        Plan {
            action: action.to_owned(),
            vm: self.vm,
            deploy_id: (!starts).then(|| self.id.clone()),
            steps,
            inputs: BTreeMap::from([("envelope".to_owned(), Input::new("<VM><SECRET>hush</SECRET></VM>"))]),
            answer,
            first_word: None,
            recall: None,
        }
    }

    /// Like DEPLOY, with two networks.
    pub fn deploy(&self) -> Plan {
        let here = self.on(&self.source);
        let make = Work::MakeDir { path: named("/var/lib/one/datastores/0/7") };
        let write = Work::WriteFile {
            path: named("/var/lib/one/datastores/0/7/vm.xml"),
            input: "envelope".to_owned(),
        };
        let steps = vec![
            self.slot("context", Place::FrontEnd, ["tm", "shared", "context"], &[]),
            self.pre("vxlan", &self.source),
            self.pre("fw", &self.source),
            Step::new("mkdir", here.clone(), make, DEADLINE),
            Step::new("vm.xml", here, write, DEADLINE),
            self.start(),
            self.post("vxlan", &self.source),
            self.post("fw", &self.source),
        ];
        self.plan("DEPLOY", steps, Answer::Output("deploy".to_owned()))
    }

    /// Like MIGRATE, with one network.
    pub fn migrate(&self) -> Plan {
        let give_up = self.slot("failmigrate", Place::FrontEnd, ["tm", "shared", "failmigrate"], &[]);
        let prepare = self.slot("premigrate", Place::FrontEnd, ["tm", "shared", "premigrate"], &[]);
        let steps = vec![
            prepare.undone_by(vec![give_up.ignored()]),
            self.pre("vxlan", &self.destination),
            self.depart(),
            self.go(),
            self.clean("vxlan", &self.source).ignored(),
            self.post("vxlan", &self.destination).ignored(),
            self.slot("arrive", self.on(&self.destination), ["vmm", "kvm", "arrive"], &[]).ignored(),
            self.slot("postmigrate", Place::FrontEnd, ["tm", "shared", "postmigrate"], &[]).ignored(),
        ];
        self.plan("MIGRATE", steps, Answer::Empty)
    }

    /// Like SHUTDOWN.
    pub fn shutdown(&self) -> Plan {
        let steps = vec![self.stop(), self.clean("vxlan", &self.source).ignored()];
        self.plan("SHUTDOWN", steps, Answer::Empty)
    }
}
