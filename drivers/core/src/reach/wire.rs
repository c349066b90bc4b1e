//! What the driver process and the resident on a host say to each other.
//!
//! ```text
//! driver                         resident
//!   | <------- Hello ------------- |   version, schema: a mismatch ends the session
//!   | -------- Run --------------> |   steps of one request, all in this place
//!   | <------- Started, Done ----- |   a pair per step, in order
//!   | <------- End --------------- |   after the last step, or the first that failed; for a Run without steps: when
//!   |                              |   nothing runs here for its VM any more, in whichever process it was started
//!   | -------- Cancel -----------> |   stops what runs for a request
//!   | -------- Locate -----------> |   where is this guest? answered by Located
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::answer::Failure;
use crate::names::{DeployId, RequestId, VmId};
use crate::outcome::Sighting;
use crate::plan::{Input, InputName, OnFailure, Step, Work};
pub use crate::protocol::Severity;

/// Raised with every change of these types that an older peer could misread.
pub const SCHEMA: u32 = 3;

/// The first frame of a resident. Of another schema's only the version and the schema need be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The package's version, for people.
    pub version: String,
    /// [`SCHEMA`] of the resident.
    pub schema: u32,
    /// Whether libvirt's TLS certificates lie on this host: a migration can then go from libvirtd to libvirtd.
    #[serde(default)]
    pub tls: bool,
    /// The name libvirt calls this host by.
    #[serde(default)]
    pub host_name: String,
}

impl Hello {
    /// Whether this side can talk to that one; the failure names the command that mends it.
    ///
    /// # Errors
    /// The schemas differ.
    pub fn check(&self) -> Result<(), String> {
        if self.schema == SCHEMA {
            return Ok(());
        }
        Err(format!(
            "the host runs causeway {} (schema {}), this front-end needs schema {SCHEMA}: run `install.sh host` there",
            self.version, self.schema
        ))
    }
}

/// One step as the resident needs it: no place, no undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireStep {
    /// Its name in the plan.
    pub name: String,
    /// What it does.
    pub work: Work,
    /// Whether the steps after it run when it fails.
    pub on_failure: OnFailure,
    /// Longest time it may take, in milliseconds.
    pub deadline_ms: u64,
    /// Whether it is stopped when the driver goes away.
    pub cancellable: bool,
    /// How often somebody else's script is tried again; the deadline is for all tries together.
    #[serde(default, skip_serializing_if = "crate::plan::is_zero")]
    pub retries: u16,
}

impl From<&Step> for WireStep {
    fn from(step: &Step) -> Self {
        WireStep {
            name: step.name.clone(),
            work: step.work.clone(),
            on_failure: step.on_failure,
            deadline_ms: u64::try_from(step.deadline.as_millis()).unwrap_or(u64::MAX),
            cancellable: step.cancellable,
            retries: step.retries,
        }
    }
}

impl WireStep {
    /// The deadline as a duration.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

/// Consecutive steps of one request in one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// The request.
    pub request: RequestId,
    /// The action's word.
    pub action: String,
    /// The VM.
    pub vm: VmId,
    /// The steps, in order.
    pub steps: Vec<WireStep>,
    /// What they read.
    pub inputs: BTreeMap<InputName, Input>,
    /// First words that earlier steps printed, for [`Arg::Output`](crate::plan::Arg::Output).
    pub outputs: BTreeMap<String, String>,
}

/// Driver to resident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToResident {
    /// Run these steps.
    Run(Box<Exchange>),
    /// Stop what runs for this request and answer with `End` when it has stopped.
    Cancel {
        /// The request.
        request: RequestId,
    },
    /// Say where this guest is.
    Locate {
        /// Returned with the answer.
        ask: u64,
        /// The guest.
        id: DeployId,
    },
    /// Nothing; the driver is there. See [`LEASE`].
    Alive,
}

/// How long a resident takes its driver for there without a word. What a network held back for longer must not be done
/// any more: the driver may have given it up, asked over another session, and answered. A session is given up after
/// 30 seconds of silence at the earliest.
pub const LEASE: Duration = Duration::from_secs(20);

/// How often a driver says that it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Whether a step changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It did what it is for; its undo applies.
    Made,
    /// It found its work done already: nothing of it is ours to undo.
    Already,
}

/// Who did the work of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// We did.
    Ours,
    /// An executable of somebody else's in the slot.
    Foreign,
}

/// How a step ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What it printed, without the last line feed.
    pub output: String,
    /// Whether it changed anything.
    pub effect: Effect,
}

impl Done {
    /// Work done, nothing to say.
    pub fn quiet() -> Self {
        Done { output: String::new(), effect: Effect::Made }
    }

    /// The first word of the output; empty where there is none.
    pub fn first_word(&self) -> &str {
        self.output.split_whitespace().next().unwrap_or_default()
    }
}

/// One step's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEnd {
    /// The step.
    pub step: String,
    /// How it ended.
    pub result: Result<Done, Failure>,
    /// Who did it.
    pub owner: Owner,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// Resident to driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromResident {
    /// The first frame.
    Hello(Hello),
    /// A step begins.
    Started {
        /// The request.
        request: RequestId,
        /// The step.
        step: String,
    },
    /// A step ended.
    Ended {
        /// The request.
        request: RequestId,
        /// How.
        end: StepEnd,
    },
    /// The exchange is over: all steps ended, one failed, or it was cancelled.
    End {
        /// The request.
        request: RequestId,
    },
    /// A line for the VM's log.
    Log {
        /// The request.
        request: RequestId,
        /// How bad.
        severity: Severity,
        /// The line.
        text: String,
    },
    /// Where a guest is.
    Located {
        /// Which question.
        ask: u64,
        /// The answer.
        sighting: Sighting,
    },
}
