//! What travels between the resident and the privileged side.

use causeway_core::answer::Failure;
use causeway_core::document::{DriverName, decode, encode};
use causeway_core::names::RequestId;
use serde::{Deserialize, Serialize};

use super::watch::Arrival;
use crate::asked::Moment;
use crate::connections::Connections;
use crate::desired::{Desired, Settings};
use crate::fabric::linux::Observed;

/// Raised with every change of these types that the other side could misread.
pub const SCHEMA: u32 = 3;

/// The first frame of the privileged side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `causeway-root`.
    pub program: String,
    /// The package's version, for people.
    pub version: String,
    /// [`SCHEMA`] of the privileged side.
    pub schema: u32,
}

impl Hello {
    /// Ours.
    pub fn ours() -> Self {
        Hello {
            program: "causeway-root".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: SCHEMA,
        }
    }
}

/// What is to be done. The names are those of the slots; `observe`, `connections` and `admit` are our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Prepare the host for the guest.
    Pre,
    /// The guest is here: check, and tell the fabric.
    Post,
    /// The guest has left, or never came.
    Clean,
    /// The rules of its security groups have changed.
    UpdateSg,
    /// Its networks have changed.
    UpdateNic,
    /// Only look: what should be, what is, and what `pre` and `post` would change.
    Observe,
    /// Only look: what the guest has under way.
    Connections,
    /// The guest is about to come, with what it has under way elsewhere.
    Admit,
}

impl Verb {
    /// Every verb with its word.
    pub const WORDS: [(&str, Verb); 8] = [
        ("pre", Verb::Pre),
        ("post", Verb::Post),
        ("clean", Verb::Clean),
        ("update_sg", Verb::UpdateSg),
        ("update_nic", Verb::UpdateNic),
        ("observe", Verb::Observe),
        ("connections", Verb::Connections),
        ("admit", Verb::Admit),
    ];

    /// The verb's word.
    pub fn as_str(self) -> &'static str {
        Verb::WORDS.iter().find(|(_, verb)| *verb == self).map_or("", |(word, _)| word)
    }
}

impl std::str::FromStr for Verb {
    type Err = Failure;
    fn from_str(text: &str) -> Result<Self, Failure> {
        let found = Verb::WORDS.iter().find(|(word, _)| *word == text).map(|(_, verb)| *verb);
        found.ok_or_else(|| {
            let known: Vec<&str> = Verb::WORDS.iter().map(|(word, _)| *word).collect();
            Failure::new(
                causeway_core::answer::Kind::Input,
                format!("{text:?} is no action of a network driver: accepted are {}", known.join(" ")),
            )
        })
    }
}

/// One action for one VM and one driver.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Names the request in logs and comes back with the response.
    pub id: RequestId,
    /// What to do.
    pub verb: Verb,
    /// For which driver; NICs of others are not touched.
    pub driver: DriverName,
    /// The slot's arguments after its name.
    pub args: Vec<String>,
    /// The VM's document in base64, as the slot got it.
    pub document: String,
    /// What the unprivileged side read in `OpenNebulaNetwork.conf`.
    pub settings: Settings,
    /// Only say what would be done.
    pub dry_run: bool,
    /// When it was asked for, on this host; absent where nobody says so.
    #[serde(default)]
    pub asked: Option<Moment>,
    /// Longest time to wait for locks, in milliseconds; the privileged side has an upper bound of its own.
    pub deadline_ms: u64,
}

impl Request {
    /// The document's bytes.
    ///
    /// # Errors
    /// It is not base64.
    pub fn document(&self) -> Result<Vec<u8>, causeway_core::document::Base64Error> {
        decode(self.document.as_bytes())
    }

    /// Puts a document in.
    pub fn with_document(mut self, bytes: &[u8]) -> Self {
        self.document = encode(bytes);
        self
    }
}

/// Shows no document: it holds passwords and keys.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id)
            .field("verb", &self.verb)
            .field("driver", &self.driver)
            .field("document", &self.document.len())
            .finish_non_exhaustive()
    }
}

/// The other thing that can be asked for, and all that can be said of it: the kernel's caches are dropped and its memory
/// is compacted, before a guest needs huge pages or after one has gone (contract VMM 3.1, `CLEANUP_MEMORY_ON_*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactMemory {
    /// Names the request and comes back with the response.
    pub compact_memory: RequestId,
}

/// The networks of all guests of this host are to be what is reserved for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// Names the request and comes back with the response.
    pub reconcile: RequestId,
    /// What the unprivileged side read in `OpenNebulaNetwork.conf`.
    pub settings: Settings,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What on this host may hinder guests' networks, though nobody of ours made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspect {
    /// Names the request and comes back with the response, whose notes are what was found.
    pub inspect: RequestId,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Of which request; none if the request could not be read.
    pub id: Option<RequestId>,
    /// How.
    pub outcome: Outcome,
    /// What was changed, in order and in words, also before a failure; with `dry_run`, what would be.
    pub changes: Vec<String>,
    /// Whether the VM has something reserved that it had not before: `clean` takes that back, even where nothing had to
    /// be changed because other guests use the same network.
    pub reserved: bool,
    /// Whether bridges have services now, or have lost them: the program that passes them on is to look again.
    pub services: bool,
    /// For the VM's log: what is not as it was asked for.
    pub notes: Vec<String>,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// What `observe` found.
    pub seen: Option<Box<Seen>>,
    /// What `connections` found.
    #[serde(default)]
    pub connections: Option<Connections>,
    /// What `post` found of a guest that has moved here.
    #[serde(default)]
    pub arrivals: Vec<Arrival>,
}

/// Success, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done, or already so.
    Done,
    /// Not done. Changes that were made have been taken back as far as the text does not say otherwise.
    Failed(Failure),
}

/// Two states side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What should be.
    pub desired: Desired,
    /// What is.
    pub observed: Observed,
}
