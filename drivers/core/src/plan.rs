//! An action as data: named steps, each in its place, each with its undo.
//!
//! A plan is pure. It is what `--dry-run` prints, what golden tests compare, what kill points are generated from, what
//! the log shows, and what the rollback walks backwards. Nothing in it refers to a running process.
//!
//! A step calls a *slot* with the argv and the standard input that the contract gives the stock script in that place
//! (contract VMM 2.4), or does one of the few file operations that the stock driver does itself. Whether the slot is
//! ours or somebody else's is looked up where the step runs; the plan is the same.

mod disk;
mod input;
mod slot;

pub use disk::{AGENT_WAIT, BackupRest, BackupTarget, CopyFormat, DiskOrder, Quiesce, Tracking};
pub use input::Input;
pub use slot::Slot;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::{DeployId, DiskPath, HostName, VmId};

/// Where a step runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// On the front-end, as a child of the driver process.
    FrontEnd,
    /// On a host, through the resident on its one kept ssh session.
    Host(HostName),
    /// On a host, over an ssh session of its own that forwards the agent and ends with the action (contract VMM 1.2,
    /// option `-d`).
    Delegated(HostName),
}

impl Place {
    /// The host, where the place is one.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Place::FrontEnd => None,
            Place::Host(host) | Place::Delegated(host) => Some(host),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::FrontEnd => f.write_str("front-end"),
            Place::Host(host) => write!(f, "{host}"),
            Place::Delegated(host) => write!(f, "{host} (agent)"),
        }
    }
}

/// One argument of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// Known when the plan is made.
    Text(String),
    /// The first word that an earlier step of this name prints: DEPLOY's `post` needs the id that `deploy` printed.
    Output(String),
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Arg::Text(text.to_owned())
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Arg::Text(text)
    }
}

/// The bytes a step reads, by their name in [`Plan::inputs`]: one envelope serves many steps and travels once.
pub type InputName = String;

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Calls an executable's place, with the contract's argv and standard input.
    Slot {
        /// Which one.
        slot: Slot,
        /// Its arguments, without the program's name.
        argv: Vec<Arg>,
        /// Its standard input; none means an empty one.
        input: Option<InputName>,
    },
    /// `mkdir -p` of the VM directory.
    MakeDir {
        /// The directory.
        path: DiskPath,
    },
    /// Writes a side file of the VM directory (`vm.xml`, `ds.xml`), mode 0600, under its final name at once.
    WriteFile {
        /// The file.
        path: DiskPath,
        /// Its content.
        input: InputName,
    },
    /// A piece of the transfer manager's work, in its own form; run in a child that can be killed.
    Transfer {
        /// Understood by the `tm` crate only.
        call: serde_json::Value,
        /// Bytes that travel beside the call.
        inputs: Vec<InputName>,
    },
    /// Brings a guest whose migration broke to rest on the one host where it was proved to be.
    Settle {
        /// The guest.
        id: DeployId,
        /// What is to happen to it on this host.
        order: Order,
    },
    /// Works on a disk of a guest that runs on this host.
    GuestDisk {
        /// The guest.
        id: DeployId,
        /// What is done.
        order: DiskOrder,
    },
}

impl Work {
    /// Whether it may have to ask the hypervisor. Somebody else's slot is counted among these: whose it is shows on the host.
    pub fn concerns_guests(&self) -> bool {
        match self {
            Work::Slot { .. } | Work::Settle { .. } | Work::GuestDisk { .. } => true,
            Work::MakeDir { .. } | Work::WriteFile { .. } | Work::Transfer { .. } => false,
        }
    }
}

/// What [`Work::Settle`] does with a guest on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Let it run again: it was proved to be nowhere else.
    Resume,
    /// Destroy a copy that never ran: the guest was proved to run elsewhere.
    Discard,
}

/// How long a step may take and whom it holds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Bounded by milliseconds to seconds of host work.
    Short,
    /// Bounded by the guest or by a copy: a shutdown, a migration, a backup. A deploy never waits for it.
    Long,
}

/// What a step's failure means for the action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The action fails with this step's text, after the undo.
    Stop,
    /// A warning in the VM's log; the action goes on (contract VMM 2.4, *(ig)*).
    Warn,
}

/// What must be true of the guest once a step is done; asked of the hosts when the step's own answer is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The guest runs on the first host and is on none of the others.
    RunsOn {
        /// The guest.
        id: DeployId,
        /// Where it is to run.
        host: HostName,
        /// Where it may be instead: the source of a migration.
        from: Option<HostName>,
    },
    /// The guest is not on the host any more.
    Gone {
        /// The guest.
        id: DeployId,
        /// The host.
        host: HostName,
    },
}

impl Goal {
    /// The guest the goal is about.
    pub fn id(&self) -> &DeployId {
        match self {
            Goal::RunsOn { id, .. } | Goal::Gone { id, .. } => id,
        }
    }
}

/// How long a script that failed is left alone before it is tried again.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// For `serde`, which wants a reference.
pub(crate) fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// For `serde`, which wants a reference.
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

/// One named step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in its plan: `pre:vxlan`, `deploy`, `vm.xml`.
    pub name: String,
    /// Where it runs.
    pub place: Place,
    /// What it does.
    pub work: Work,
    /// Undoes it, in this order; run when this step or a later one fails. Only for what this action changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Step>,
    /// What its failure means.
    pub on_failure: OnFailure,
    /// Whom it holds up.
    pub lane: Lane,
    /// Longest time it may take.
    pub deadline: Duration,
    /// Whether the resident stops it when the driver process goes away, instead of letting it finish.
    pub cancellable: bool,
    /// How often somebody else's script is tried again when it fails (contract VMM 1.2, `-r`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u16,
    /// What to ask the hosts when its answer is lost; none means that it is simply run again, if it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// Whether doing it twice would do harm: then a lost answer is a failure that says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub once: bool,
}

impl Step {
    /// A short, cancellable step without undo, whose failure stops the action.
    pub fn new(name: impl Into<String>, place: Place, work: Work, deadline: Duration) -> Self {
        Step {
            name: name.into(),
            place,
            work,
            undo: Vec::new(),
            on_failure: OnFailure::Stop,
            lane: Lane::Short,
            deadline,
            cancellable: true,
            retries: 0,
            goal: None,
            once: false,
        }
    }

    /// With this undo.
    pub fn undone_by(mut self, undo: Vec<Step>) -> Self {
        self.undo = undo;
        self
    }

    /// Its failure only warns.
    pub fn ignored(mut self) -> Self {
        self.on_failure = OnFailure::Warn;
        self
    }

    /// In the long lane.
    pub fn long(mut self) -> Self {
        self.lane = Lane::Long;
        self
    }

    /// Left to finish when the driver process goes away: stopping it half-way would be worse.
    pub fn finishes(mut self) -> Self {
        self.cancellable = false;
        self
    }

    /// Tried again so often, each time with the deadline that it has now.
    pub fn tried_again(mut self, retries: u16) -> Self {
        self.retries = retries;
        let retries = u32::from(retries);
        let more = self.deadline.saturating_mul(retries) + RETRY_PAUSE * retries;
        self.deadline = self.deadline.saturating_add(more);
        self
    }

    /// With what must be true afterwards.
    pub fn reaching(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }
}

/// What the reply carries on success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing: `-`.
    Empty,
    /// The output of the step of that name.
    Output(String),
}

/// A whole action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The action's word, as oned sends it.
    pub action: String,
    /// The VM.
    pub vm: VmId,
    /// Its guest, where one exists already.
    pub deploy_id: Option<DeployId>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The bytes that steps read, by name.
    #[serde(default)]
    pub inputs: BTreeMap<InputName, Input>,
    /// What the reply carries.
    pub answer: Answer,
    /// First word of the reply's payload, in success and failure (UPDATESG, UPDATENIC; contract VMM 1.4).
    pub first_word: Option<u32>,
    /// What the next process needs to make this plan again, if this one dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<Recall>,
}

/// A request without its VM and its datastore, which hold secrets and which oned can be asked for again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// What is left of the request: hosts, paths and transfer commands for the virtual machine manager, the script's
    /// path for the transfer manager.
    pub request: String,
    /// The datastore that the request carried.
    pub datastore: Option<u32>,
    /// `SEQ` of the last history record: once oned has begun another, nobody waits for this answer.
    pub sequence: Option<u32>,
}

impl Plan {
    /// The plan as `--dry-run` prints it: a line a step, its undo indented below it; no inputs, for they hold secrets.
    pub fn render(&self) -> String {
        let mut text = format!("{} {}\n", self.action, self.vm);
        for step in &self.steps {
            render_step(&mut text, "  ", step);
            for undo in &step.undo {
                render_step(&mut text, "    undo ", undo);
            }
        }
        text
    }

    /// Whether any step is in the long lane.
    pub fn lane(&self) -> Lane {
        if self.steps.iter().any(|s| s.lane == Lane::Long) { Lane::Long } else { Lane::Short }
    }
}

/// The names of the inputs that a step reads; its undo travels in an exchange of its own.
pub fn inputs_of(step: &Step) -> Vec<&str> {
    match &step.work {
        Work::Slot { input, .. } => input.iter().map(String::as_str).collect(),
        Work::WriteFile { input, .. } => vec![input],
        Work::Transfer { inputs, .. } => inputs.iter().map(String::as_str).collect(),
        Work::MakeDir { .. } | Work::Settle { .. } | Work::GuestDisk { .. } => Vec::new(),
    }
}

fn render_step(text: &mut String, indent: &str, step: &Step) {
    let work = describe(&step.work);
    let ignored = if step.on_failure == OnFailure::Warn { " (failure ignored)" } else { "" };
    text.push_str(&format!("{indent}{} @ {}: {work}{ignored}\n", step.name, step.place));
}

/// What a step does, in one line: the same words in a plan, in a log and in the dry run of a slot.
pub fn describe(work: &Work) -> String {
    match work {
        Work::Slot { slot, argv, input } => {
            let args: Vec<String> = argv
                .iter()
                .map(|arg| match arg {
                    // The stock scripts of two actions take the whole envelope as an argument: no secret is printed.
                    Arg::Text(text) if text.len() > 200 => format!("({} characters)", text.len()),
                    Arg::Text(text) => format!("{text:?}"),
                    Arg::Output(name) => format!("<{name}>"),
                })
                .collect();
            format!("{slot} [{}] < {}", args.join(", "), input.as_deref().unwrap_or("nothing"))
        }
        Work::MakeDir { path } => format!("make directory {path}"),
        Work::WriteFile { path, input } => format!("write {path} < {input}"),
        Work::Transfer { call, .. } => format!("transfer {call}"),
        Work::Settle { id, order } => format!("{order:?} {id}").to_lowercase(),
        Work::GuestDisk { id, order } => format!("guest {id}: {order}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_cannot_leave_its_directory() {
        for text in
            ["vmm/kvm", "vmm/kvm/a/b", "vmm/../deploy", "/kvm/deploy", "vmm/kvm/", "vmm/kvm/a b", "a/-b/c"]
        {
            assert!(text.parse::<Slot>().is_err(), "{text:?}");
        }
        let slot: Slot = "tm/qcow2/snap_create.ssh".parse().unwrap();
        assert_eq!(slot.without_suffix().unwrap().to_string(), "tm/qcow2/snap_create");
        assert_eq!(slot.without_suffix().unwrap().without_suffix(), None);
    }

    #[test]
    fn an_order_for_a_disk_says_what_it_does() {
        let path = |text: &str| text.parse::<DiskPath>().unwrap();
        let vda: crate::names::DiskName = "vda".parse().unwrap();
        let quiesce = Some(Quiesce::as_stock());
        let overlay = path("/ds/7/disk.0.snap/2");
        let orders = [
            (
                DiskOrder::Snapshot { disk: vda.clone(), overlay, quiesce },
                "snapshot vda: go on in /ds/7/disk.0.snap/2, frozen by its agent within 60 s, or suspended",
            ),
            (
                DiskOrder::Commit {
                    disk: vda.clone(),
                    top: path("/ds/7/disk.0.snap/2"),
                    base: path("/ds/7/disk.0.snap/1"),
                    active: true,
                    relative: false,
                    speed: Some(1 << 20),
                },
                "commit vda: /ds/7/disk.0.snap/2 into /ds/7/disk.0.snap/1, the guest goes on with it, \
                 at most 1048576 bytes/s",
            ),
            (
                DiskOrder::Pull { disk: vda.clone(), base: None, relative: false, speed: None },
                "pull vda: all of it",
            ),
            (
                DiskOrder::Copy {
                    disk: vda,
                    to: path("/ds/1/new"),
                    format: CopyFormat::Raw,
                    quiesce: None,
                    speed: None,
                },
                "copy vda: to /ds/1/new (raw), as it runs",
            ),
            (
                DiskOrder::Freeze { quiesce: Quiesce::as_stock(), seconds: 30 },
                "freeze: frozen by its agent within 60 s, or suspended, for at most 30 s",
            ),
            (
                DiskOrder::Rest { rest: BackupRest::Agent { seconds: 5 }, seconds: 30 },
                "freeze: only by its agent within 5 s, for at most 30 s",
            ),
            (
                DiskOrder::Rest { rest: BackupRest::Suspend, seconds: 30 },
                "freeze: suspended, for at most 30 s",
            ),
            (DiskOrder::Thaw { agent_seconds: 5 }, "thaw"),
        ];
        for (order, expected) in orders {
            let work = Work::GuestDisk { id: DeployId::of_vm(VmId(7)), order };
            assert_eq!(describe(&work), format!("guest one-7: {expected}"));
            let json = serde_json::to_string(&work).unwrap();
            assert_eq!(serde_json::from_str::<Work>(&json).unwrap(), work);
        }
    }

    #[test]
    fn inputs_survive_a_frame_and_hide_in_debug() {
        for bytes in [b"<VM/>".to_vec(), vec![0xff, 0, 1], Vec::new()] {
            let input = Input::new(bytes.clone());
            let json = serde_json::to_string(&input).unwrap();
            assert_eq!(serde_json::from_str::<Input>(&json).unwrap().0.as_ref(), bytes);
        }
        assert_eq!(format!("{:?}", Input::new("secret")), "Input(6 bytes)");
    }
}
