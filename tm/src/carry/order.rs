//! What is to be carried where, as it stands in a plan and travels to the other end.

use causeway_core::names::HostName;
use serde::{Deserialize, Serialize};

use crate::host::Call;
use crate::place::VmDir;

/// A VM's directory on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spot {
    /// The host, as oned names it.
    pub host: HostName,
    /// The directory there.
    pub dir: VmDir,
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.dir)
    }
}

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Where the directory is.
    Source,
    /// Where it is to be.
    Destination,
}

impl End {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            End::Source => End::Destination,
            End::Destination => End::Source,
        }
    }

    /// What it does, as the word that `causeway-host carry` is started with.
    pub fn word(self) -> &'static str {
        match self {
            End::Source => "send",
            End::Destination => "receive",
        }
    }
}

/// How an admin wants directories to be carried (`[carry]` of `causeway.toml`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manner {
    /// Most bytes a second that go over the connection; none means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Both ends read and write only when nobody else wants their disks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// Data is packed where that makes it smaller.
    pub packed: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Manner { bytes_per_second: None, idle: false, packed: true }
    }
}

/// Has a call run at its destination where that is `here`; whether it does. Any other call stays as it is.
pub fn turn_to(call: &mut serde_json::Value, here: impl Fn(&HostName) -> bool) -> bool {
    let Ok(Call::CarryDir(mut carry)) = serde_json::from_value(call.clone()) else { return false };
    if !here(&carry.to.host) {
        return false;
    }
    carry.runs_at = End::Destination;
    match serde_json::to_value(Call::CarryDir(carry)) {
        Ok(turned) => {
            *call = turned;
            true
        }
        Err(_) => false,
    }
}

/// Which part of a move. Where a guest moves while it runs, its directory must be at both ends for a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All of it: in the end the directory is at the destination only.
    #[default]
    Move,
    /// The destination gets a copy, and the word of its origin stays in it (`premigrate`).
    Copy,
    /// The guest is at the destination: the source's directory goes, if the destination has its copy (`postmigrate`).
    Leave,
    /// The guest stayed: the copy at the destination goes (`failmigrate`).
    Drop,
}

impl Part {
    /// For `serde`, which wants a reference.
    fn is_whole(&self) -> bool {
        *self == Part::Move
    }
}

/// One move of a VM's directory between two hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carry {
    /// Where it is.
    pub from: Spot,
    /// Where it is to be.
    pub to: Spot,
    /// The end that the step runs at; the other one is started from there, over ssh.
    pub runs_at: End,
    /// How.
    pub manner: Manner,
    /// Which part of it.
    #[serde(default, skip_serializing_if = "Part::is_whole")]
    pub part: Part,
    /// Whether the datastore lies on the destination's own disk, and is monitored there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

impl Carry {
    /// The host that is reached over ssh.
    pub fn far(&self) -> &HostName {
        match self.runs_at {
            End::Source => &self.to.host,
            End::Destination => &self.from.host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_runs_at_the_end_that_is_here() {
        let spot = |host: &str| Spot { host: host.parse().unwrap(), dir: "/d/100/7".parse().unwrap() };
        let (from, to, manner) = (spot("node1"), spot("front"), Manner::default());
        let carry = Carry { from, to, runs_at: End::Source, manner, part: Part::Move, local: true };
        assert_eq!(carry.far().as_str(), "front");
        let mut call = serde_json::to_value(Call::CarryDir(carry.clone())).unwrap();
        let before = call.clone();
        assert!(!turn_to(&mut call, |host| host.as_str() == "other"));
        assert_eq!(call, before);
        assert!(turn_to(&mut call, |host| host.as_str() == "front"));
        let turned = Carry { runs_at: End::Destination, ..carry };
        assert_eq!(turned.far().as_str(), "node1");
        assert_eq!(call, serde_json::to_value(Call::CarryDir(turned)).unwrap());
        let mut other = serde_json::json!({"nothing": {"reason": "x"}});
        assert!(!turn_to(&mut other, |_| true));
    }
}
