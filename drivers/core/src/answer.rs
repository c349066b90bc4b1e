//! What a request or a slot ends with: success with one line, or a failure with a kind.
//!
//! The kind says whose fault it was; exit code and retry follow from it, never from the text. The table below is part
//! of the interface of every executable:
//!
//! | kind | exit code | meaning |
//! |---|---|---|
//! | success | 0 | done, or already so |
//! | [`Input`](Kind::Input) | 2 | the caller's input is wrong; nothing was changed |
//! | [`HostState`](Kind::HostState) | 3 | the host is not as the action needs it |
//! | [`Refused`](Kind::Refused) | 4 | the other side (libvirt, kernel, a script) said no |
//! | [`Timeout`](Kind::Timeout) | 5 | a deadline passed |
//! | [`Unreachable`](Kind::Unreachable) | 6 | the other side could not be asked |
//! | [`Cancelled`](Kind::Cancelled) | 7 | told to stop |
//! | [`NotBuilt`](Kind::NotBuilt) | 8 | this action is not built, and no other driver stands in its slot |
//! | [`Bug`](Kind::Bug) | 70 | our own fault |
//!
//! 42 and 255 are never used: the stock engine reads them as "script missing" and "ssh failed" (contract VMM 1.2, 5).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose fault a failure is; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The caller's input.
    Input,
    /// The state of the host.
    HostState,
    /// A refusal by libvirt, the kernel or a script.
    Refused,
    /// A deadline.
    Timeout,
    /// The other side could not be asked: its state is unknown, not absent.
    Unreachable,
    /// A `DRIVER_CANCEL`, or the end of the process.
    Cancelled,
    /// Not built, and nobody else's driver in the slot.
    NotBuilt,
    /// A bug of ours.
    Bug,
}

impl Kind {
    /// The exit code of a stand-alone slot.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Input => 2,
            Kind::HostState => 3,
            Kind::Refused => 4,
            Kind::Timeout => 5,
            Kind::Unreachable => 6,
            Kind::Cancelled => 7,
            Kind::NotBuilt => 8,
            Kind::Bug => 70,
        }
    }
}

/// A failure on its way to oned: a kind and a text that says what was tried, on what, and what the other side said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// Whose fault it is.
    pub kind: Kind,
    /// What happened, for the VM's owner.
    pub text: String,
}

impl Failure {
    /// A failure of that kind; `text` may be anything printable.
    pub fn new(kind: Kind, text: impl fmt::Display) -> Self {
        Failure { kind, text: text.to_string() }
    }

    /// A failure whose text walks the chain of sources: `outer: inner: innermost`.
    pub fn from_chain(kind: Kind, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        Failure { kind, text }
    }

    /// Puts what was being done in front: `deploy one-7: <text>`.
    pub fn context(self, what: impl fmt::Display) -> Self {
        Failure { kind: self.kind, text: format!("{what}: {}", self.text) }
    }
}

/// The longest payload of a reply. oned stores it in the VM's template; e12 of the recorded edge cases shows that
/// much longer lines are taken, but nobody reads them.
const PAYLOAD_LIMIT: usize = 4096;

/// Makes `text` fit to be the payload of one protocol line: one line, printable, no leading `-` (oned hides such a
/// text, contract VMM 1.4), at most 4 KiB.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(PAYLOAD_LIMIT));
    for word in text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|w| !w.is_empty()) {
        if line.len() + word.len() >= PAYLOAD_LIMIT {
            line.push_str(" ...");
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let trimmed = line.trim_start_matches(['-', ' ']);
    if trimmed.len() == line.len() { line } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_one_visible_line() {
        assert_eq!(one_line("a\nb\r\n\tc  d"), "a b c d");
        assert_eq!(one_line("- - hidden"), "hidden");
        assert_eq!(one_line("\u{1b}[31mred\0"), "[31mred");
        assert!(one_line(&"word ".repeat(4000)).len() < PAYLOAD_LIMIT + 8);
        assert_eq!(one_line("-"), "");
    }

    #[test]
    fn exit_codes_avoid_those_the_stock_engine_reads() {
        let kinds = [
            Kind::Input,
            Kind::HostState,
            Kind::Refused,
            Kind::Timeout,
            Kind::Unreachable,
            Kind::Cancelled,
            Kind::NotBuilt,
            Kind::Bug,
        ];
        let mut codes: Vec<u8> = kinds.iter().map(|k| k.exit_code()).collect();
        assert!(codes.iter().all(|c| ![0, 1, 42, 255].contains(c)));
        codes.dedup();
        assert_eq!(codes.len(), kinds.len());
    }
}
