//! Who owes whom a reply, and what else was said.

use std::time::Instant;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The action.
    pub action: String,
    /// The VM.
    pub vm: u32,
    /// `SUCCESS` or anything else.
    pub status: String,
    /// The rest of the line.
    pub payload: String,
    /// When it was read.
    pub at: Instant,
}

impl Reply {
    /// Whether oned takes it for a success.
    pub fn is_success(&self) -> bool {
        self.status == "SUCCESS"
    }
}

/// A log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `E`, `W`, `I` or `D`.
    pub severity: char,
    /// The VM, or -1 for oned's own log.
    pub vm: i64,
    /// The text.
    pub text: String,
    /// When it was read.
    pub at: Instant,
}

/// What a line means to oned.
pub(super) enum Word {
    Reply(Reply),
    Log(Log),
    /// Something that oned drops with a warning.
    Junk,
}

impl Word {
    /// Reads a line as oned does, but takes nothing that only its leniency lets pass (contract VMM 1.3, 1.4).
    fn read(line: &str) -> Word {
        let mut fields = line.splitn(4, ' ');
        let mut next = || fields.next().unwrap_or_default();
        let (kind, status, vm, text) = (next(), next(), next(), next().to_owned());
        let at = Instant::now();
        if kind == "LOG" {
            let severity = status.chars().next().filter(|c| status.len() == 1 && "EWID".contains(*c));
            return match (severity, vm.parse()) {
                (Some(severity), Ok(vm)) => Word::Log(Log { severity, vm, text, at }),
                _ => Word::Junk,
            };
        }
        let is_word =
            !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        match vm.parse() {
            Ok(vm) if is_word && ["SUCCESS", "FAILURE"].contains(&status) => Word::Reply(Reply {
                action: kind.to_owned(),
                vm,
                status: status.to_owned(),
                payload: text,
                at,
            }),
            _ => Word::Junk,
        }
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    /// Requests without a reply.
    owed: Vec<(String, u32)>,
    /// Requests that were cancelled before their reply was read.
    forgiven: Vec<(String, u32)>,
    /// Replies that nobody has taken yet.
    replies: Vec<Reply>,
    /// What broke the protocol.
    breaches: Vec<String>,
    /// The unfinished line.
    rest: Vec<u8>,
    /// Every log line.
    pub log: Vec<Log>,
}

impl Ledger {
    pub(super) fn heard(&self) -> &[Reply] {
        &self.replies
    }

    pub(super) fn owe(&mut self, action: &str, vm: u32) {
        self.owed.push((action.to_owned(), vm));
    }

    pub(super) fn forgive(&mut self, vm: u32) {
        let (forgiven, owed) = self.owed.drain(..).partition(|(_, of)| *of == vm);
        self.owed = owed;
        self.forgiven.extend::<Vec<_>>(forgiven);
    }

    pub(super) fn listen(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.rest);
                self.line(&line);
            } else {
                self.rest.push(*byte);
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line).into_owned();
        if text.contains(|c: char| c.is_control()) {
            self.breaches.push(format!("a control character in {text:?}"));
        }
        match Word::read(&text) {
            Word::Log(log) => self.log.push(log),
            Word::Reply(reply) => self.reply(reply),
            Word::Junk => self.breaches.push(format!("not of the protocol: {text:?}")),
        }
    }

    fn reply(&mut self, reply: Reply) {
        let is_it = |(action, vm): &(String, u32)| *action == reply.action && *vm == reply.vm;
        if let Some(index) = self.owed.iter().position(is_it) {
            self.owed.remove(index);
        } else {
            let who =
                if self.forgiven.iter().any(is_it) { "a cancelled request" } else { "nobody's request" };
            self.breaches
                .push(format!("an answer to {who}: {} {} {}", reply.action, reply.vm, reply.payload));
        }
        // oned suppresses such a text (contract VMM 1.4), so nobody would learn what failed.
        if !reply.is_success() && (reply.payload.is_empty() || reply.payload.starts_with('-')) {
            self.breaches.push(format!("a failure without a reason: {} {}", reply.action, reply.vm));
        }
        self.replies.push(reply);
    }

    pub(super) fn take(&mut self, action: &str, vm: u32) -> Option<Reply> {
        let index = self.replies.iter().position(|reply| reply.action == action && reply.vm == vm)?;
        Some(self.replies.remove(index))
    }

    pub(super) fn take_all(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    pub(super) fn last_words(&self) -> String {
        let last: Vec<&str> = self.log.iter().rev().take(5).map(|log| log.text.as_str()).collect();
        last.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Whether nothing has broken the protocol.
    pub(super) fn unbroken(&self) -> Result<(), String> {
        match self.breaches.as_slice() {
            [] => Ok(()),
            breaches => Err(format!("wrote {}", breaches.join("; "))),
        }
    }

    /// Whether, beyond that, every request has had its reply.
    pub(super) fn is_square(&self) -> Result<(), String> {
        self.unbroken()?;
        if !self.rest.is_empty() {
            return Err(format!("left a line unfinished: {:?}", String::from_utf8_lossy(&self.rest)));
        }
        let owed: Vec<String> = self.owed.iter().map(|(action, vm)| format!("{action} {vm}")).collect();
        if owed.is_empty() { Ok(()) } else { Err(format!("has not answered {}", owed.join(", "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(requests: &[(&str, u32)], said: &str) -> Ledger {
        let mut ledger = Ledger::default();
        for (action, vm) in requests {
            ledger.owe(action, *vm);
        }
        ledger.listen(said.as_bytes());
        ledger
    }

    #[test]
    fn one_reply_for_one_request_is_square() {
        let mut ledger = after(&[("SAVE", 7)], "LOG I 7 a b\nSAVE SUCCESS 7 -\n");
        assert_eq!(ledger.is_square(), Ok(()));
        assert_eq!(ledger.take("SAVE", 7).unwrap().payload, "-");
        assert_eq!((ledger.log[0].severity, ledger.log[0].vm, ledger.log[0].text.as_str()), ('I', 7, "a b"));
    }

    #[test]
    fn everything_else_is_not() {
        for (said, complaint) in [
            ("", "has not answered SAVE 7"),
            ("SAVE SUCCESS 7 -", "left a line unfinished"),
            ("SAVE SUCCESS 7 -\nSAVE SUCCESS 7 -\n", "nobody's request: SAVE 7"),
            ("SAVE SUCCESS 8 -\n", "nobody's request: SAVE 8"),
            ("SAVE FAILURE 7 -\n", "a failure without a reason"),
            ("SAVE FAILURE 7\n", "a failure without a reason"),
            ("save SUCCESS 7 -\n", "nobody's request: save 7"),
            ("SAVE success 7 -\n", "not of the protocol"),
            ("SAVE SUCCESS 7 a\r\n", "a control character"),
            ("LOG INFO 7 word\nSAVE SUCCESS 7 -\n", "not of the protocol"),
            ("\nSAVE SUCCESS 7 -\n", "not of the protocol"),
        ] {
            let error = after(&[("SAVE", 7)], said).is_square().unwrap_err();
            assert!(error.contains(complaint), "{said:?}: {error}");
        }
    }

    #[test]
    fn a_cancelled_request_is_owed_no_reply_and_may_have_none() {
        let mut ledger = after(&[("SAVE", 7), ("SAVE", 8)], "");
        ledger.forgive(7);
        assert!(ledger.is_square().unwrap_err().contains("SAVE 8"));
        ledger.listen(b"SAVE SUCCESS 8 -\n");
        assert_eq!(ledger.is_square(), Ok(()));
        ledger.listen(b"SAVE SUCCESS 7 -\n");
        assert!(ledger.is_square().unwrap_err().contains("a cancelled request"));
    }
}
