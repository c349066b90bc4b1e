//! The plan of a measurement: whom to watch, how, and what moves it meanwhile.
//!
//! A plan is a TOML file. Everything but `guest` and what moves it has a default:
//!
//! ```toml
//! output = "results"              # directory for the results, made if missing        ["measurement"]
//! command = ["onevm", "migrate", "--live", "12", "{to}"]   # what makes one move; never a shell
//! # watch = "30s"                 # instead of a command: somebody else makes the move within this time
//! repetitions = 10                # how often the list of moves is gone through, 1 to 10000            [1]
//! settle_before = "1s"            # undisturbed watching before each move                              ["1s"]
//! settle_after = "2s"             # and after it, still part of its window                             ["2s"]
//! answer_deadline = "10s"         # how long a probe may take to be answered before and after a move  ["10s"]
//! move_deadline = "2min"          # how long one command may take before it is killed                  ["2min"]
//! deadline = "60min"              # how long everything may take                                       ["60min"]
//! on_failure = "stop"             # or "continue": after a move whose command failed                   ["stop"]
//!
//! [guest]                         # at least one of the two
//! deploy_id = "one-12"            # a UUID or one-<VM id>; its address is then asked of the caller
//! address = "10.9.0.11"           # IPv4 or IPv6, link-local with its device: "fe80::1%br-vm"
//!
//! [[moves]]                       # none: one move per repetition, without places
//! from = "h1"
//! to = "h2"
//!
//! [[probe]]                       # none: one ICMP probe
//! kind = "udp"                    # icmp, udp or tcp
//! name = "udp-7007"               # in tables and plots                                 ["icmp" or kind and port]
//! port = 7007                     # udp and tcp
//! interval = "5ms"                # 1ms to 1s                                                          ["5ms"]
//! answers = "any"                 # udp: "echo" (the datagram comes back) or "any" (anything)          ["echo"]
//! payload = "get"                 # udp with "any": what is sent
//! sources = 64                    # udp with "any": source ports used in turn, 1 to 256                [64]
//!
//! [capture]                       # the network's share of each silence; every move needs from and to. `-Q in`: only what
//!                                 # the guest sends; its broadcasts leave by the other host's tap too
//! mac = "02:00:0a:09:00:0b"
//! observer = ["tcpdump", "-i", "eth0", "-Q", "in", "-s", "64", "-U", "--immediate-mode", "-w", "-"]
//! [[capture.host]]
//! name = "h1"
//! command = ["ip", "netns", "exec", "h1",
//!            "tcpdump", "-i", "one-12-0", "-Q", "in", "-s", "64", "-U", "--immediate-mode", "-w", "-"]
//! ```
//!
//! A malformed value is an error that names the key, the value and the accepted form. So is an unknown key: a person wrote
//! this file, and a slip of the pen must not silently measure something else.

pub mod argv;
mod error;
mod parse;
mod section;
pub mod span;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_core::names::{DeployId, HostName, LinkName, Mac};

pub use argv::{Argv, Place};
pub use error::PlanError;

/// The largest plan that is read, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// A checked plan. Made by [`Plan::parse`] or [`Plan::read`] only, so that every value is within its range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Whom to watch.
    pub guest: Guest,
    /// How to watch; at least one, names are unique.
    pub probes: Vec<ProbePlan>,
    /// The moves of one repetition; empty if they have no names.
    pub moves: Vec<Leg>,
    /// How a move comes about.
    pub drive: Drive,
    /// How often the list of moves is gone through.
    pub repetitions: u32,
    /// Undisturbed watching before each move.
    pub settle_before: Duration,
    /// Watching after each move, part of its window.
    pub settle_after: Duration,
    /// How long a probe may take to be answered before and after a move.
    pub answer_deadline: Duration,
    /// How long one move's command may take.
    pub move_deadline: Duration,
    /// How long everything may take.
    pub deadline: Duration,
    /// What a failed move means for those after it.
    pub on_failure: OnFailure,
    /// How to tell the network's share, if it is asked for.
    pub capture: Option<CapturePlan>,
    /// Where the results go.
    pub output: PathBuf,
}

/// Whom to watch; at least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The guest as libvirt names it.
    pub deploy_id: Option<DeployId>,
    /// Where its probes go. If it is missing the caller has to find it out: [`Plan::with_address`].
    pub address: Option<Address>,
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.deploy_id, &self.address) {
            (Some(id), Some(address)) => write!(f, "{id} at {address}"),
            (Some(id), None) => id.fmt(f),
            (None, Some(address)) => address.fmt(f),
            (None, None) => f.write_str("no guest"),
        }
    }
}

/// A guest's address as the observer reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The observer's device, for a link-local IPv6 address.
    pub device: Option<LinkName>,
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Address {
        Address { ip, device: None }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "{}%{device}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

/// One move: where from and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The host the guest leaves.
    pub from: HostName,
    /// The host it goes to.
    pub to: HostName,
}

/// How a move comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drive {
    /// A command is run for each move.
    Command(Argv),
    /// Somebody else moves the guest within this time.
    Watch(Duration),
    /// The plan does not say: the caller brings a [`Mover`](crate::mover::Mover).
    Caller,
}

/// What a failed move means for those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// They are not made.
    Stop,
    /// They are made, as long as the guest answers.
    Continue,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePlan {
    /// Its name in tables and plots: 1 to 32 letters, digits, `.`, `-`, `_`.
    pub name: String,
    /// From one question to the next, 1 ms to 1 s.
    pub interval: Duration,
    /// What it sends.
    pub kind: ProbeKind,
}

/// What a probe sends and how it knows the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// ICMP or ICMPv6 echo requests.
    Icmp,
    /// Numbered datagrams.
    Udp {
        /// The guest's port.
        port: u16,
        /// How an answer is known.
        answers: UdpAnswers,
    },
    /// Numbered records on one long-lived connection to an echo service.
    Tcp {
        /// The guest's port.
        port: u16,
    },
}

/// How a datagram's answer is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UdpAnswers {
    /// It carries the question's record: [`crate::respond`], or any echo service.
    Echo,
    /// It may be anything; the source port it comes back to says which question it answers. Questions use `sources`
    /// ports in turn, so an answer is certain within `sources` intervals and credited to the newest question of its
    /// port after that.
    Any {
        /// What is sent.
        payload: String,
        /// How many source ports are used in turn.
        sources: u16,
    },
}

/// How to tell the network's share of each silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturePlan {
    /// The guest's Ethernet address: only frames from it count.
    pub mac: Mac,
    /// Writes a capture of what reaches the observer to its standard output.
    pub observer: Argv,
    /// Writes a capture of the guest's tap, for every host of the plan's moves.
    pub hosts: Vec<(HostName, Argv)>,
}

impl CapturePlan {
    /// The command that captures the guest's tap on `host`.
    pub fn host(&self, host: &HostName) -> Option<&Argv> {
        self.hosts.iter().find(|(name, _)| name == host).map(|(_, argv)| argv)
    }
}

impl Plan {
    /// Reads a plan from text.
    ///
    /// # Errors
    /// [`PlanError`] for text above [`MAX_BYTES`], text that is not TOML, and every key that is missing, unknown,
    /// malformed or contradicts another.
    pub fn parse(text: &str) -> Result<Plan, PlanError> {
        parse::plan(text)
    }

    /// Reads a plan from a file; a relative `output` is relative to the current directory.
    ///
    /// # Errors
    /// As [`Plan::parse`], and if the file cannot be read.
    pub fn read(path: &Path) -> Result<Plan, PlanError> {
        let failed = |source| PlanError::Read { path: path.to_owned(), source };
        let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        File::open(path)
            .map_err(failed)?
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() > MAX_BYTES {
            return Err(PlanError::TooLarge { limit: MAX_BYTES });
        }
        let text =
            std::str::from_utf8(&bytes).map_err(|error| PlanError::NotText { at: error.valid_up_to() })?;
        Plan::parse(text)
    }

    /// The plan with the guest's address filled in, for a plan that names the guest by its deploy id only.
    #[must_use]
    pub fn with_address(mut self, address: Address) -> Plan {
        self.guest.address = Some(address);
        self
    }

    /// How many moves the plan makes in all.
    pub fn total_moves(&self) -> u32 {
        let per_repetition = u32::try_from(self.moves.len().max(1)).unwrap_or(u32::MAX);
        self.repetitions.saturating_mul(per_repetition)
    }

    /// The leg of move `number`, counted from 1; `None` if the plan's moves have no names.
    pub fn leg(&self, number: u32) -> Option<&Leg> {
        let count = u32::try_from(self.moves.len()).ok()?;
        let index = number.checked_sub(1)?.checked_rem(count)?;
        self.moves.get(usize::try_from(index).ok()?)
    }

    /// What a place of a command stands for in move `number`; empty for what the plan does not know.
    pub fn place(&self, place: Place, number: u32) -> String {
        let leg = self.leg(number);
        let text = match place {
            Place::From => leg.map(|leg| leg.from.to_string()),
            Place::To => leg.map(|leg| leg.to.to_string()),
            Place::DeployId => self.guest.deploy_id.as_ref().map(ToString::to_string),
            Place::Address => self.guest.address.as_ref().map(ToString::to_string),
            Place::Move => Some(number.to_string()),
        };
        text.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
