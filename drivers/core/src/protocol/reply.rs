//! What is written to oned: `TYPE STATUS OID PAYLOAD` (contract VMM 1.3, 1.4).

use super::action::Action;
use serde::{Deserialize, Serialize};

use crate::answer::one_line;
use crate::names::VmId;

/// The answer to `INIT`. It must be alone in its write: what follows it in the same read is lost (contract VMM 1.3).
pub const INIT_SUCCESS: &str = "INIT SUCCESS - -\n";

/// Stands for an empty payload.
const NOTHING: &str = "-";

/// What a failure says that has no text of its own: an empty one would be suppressed by oned.
const NO_REASON: &str = "failed, no reason is known";

/// The one answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The action of the request.
    pub action: Action,
    /// The VM of the request.
    pub vm: VmId,
    /// Success with its payload (a deploy id, the words of a backup, or nothing), or the reason of the failure.
    pub result: Result<String, String>,
    /// A word that must stand before the payload, in success and in failure: oned drops an UPDATESG or UPDATENIC reply
    /// without the id of the group or network, and the update of that group stops there.
    pub first_word: Option<u32>,
}

impl Reply {
    /// A success; `payload` may be empty.
    pub fn success(action: Action, vm: VmId, payload: impl Into<String>) -> Self {
        Reply { action, vm, result: Ok(payload.into()), first_word: None }
    }

    /// A failure; `reason` is for the VM's owner.
    pub fn failure(action: Action, vm: VmId, reason: impl Into<String>) -> Self {
        Reply { action, vm, result: Err(reason.into()), first_word: None }
    }

    /// The same reply with the id of the security group (UPDATESG) or virtual network (UPDATENIC) in front.
    #[must_use]
    pub fn about(mut self, id: u32) -> Self {
        self.first_word = Some(id);
        self
    }

    /// The line, with its line feed. Whatever the texts hold, it is one line whose payload oned shows.
    pub fn render(&self) -> String {
        let (status, text) = match &self.result {
            Ok(text) => ("SUCCESS", one_line(text)),
            Err(text) => ("FAILURE", one_line(text)),
        };
        let payload = match (self.first_word, text.as_str(), &self.result) {
            (Some(id), "", _) => id.to_string(),
            (Some(id), text, _) => format!("{id} {text}"),
            (None, "", Ok(_)) => NOTHING.to_owned(),
            (None, "", Err(_)) => NO_REASON.to_owned(),
            (None, text, _) => text.to_owned(),
        };
        format!("{} {status} {} {payload}\n", self.action, self.vm)
    }
}

/// How grave a log line is; oned reads the letter (contract VMM 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// `E`.
    Error,
    /// `W`.
    Warning,
    /// `I`.
    Info,
    /// `D`.
    Debug,
}

impl Severity {
    /// The letter.
    pub fn letter(self) -> char {
        match self {
            Severity::Error => 'E',
            Severity::Warning => 'W',
            Severity::Info => 'I',
            Severity::Debug => 'D',
        }
    }
}

/// A text for the log of a VM, or of oned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How grave.
    pub severity: Severity,
    /// Whose log; `None` is oned's own.
    pub vm: Option<VmId>,
    /// What happened.
    pub text: String,
}

impl Log {
    /// One protocol line for each line of the text that is not blank; nothing for a blank text.
    pub fn render(&self) -> String {
        let vm = self.vm.map_or_else(|| "-1".to_owned(), |vm| vm.to_string());
        let lines = self.text.lines().map(one_line).filter(|line| !line.is_empty());
        lines.map(|line| format!("LOG {} {vm} {line}\n", self.severity.letter())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Line, Message};
    use proptest::prelude::*;

    #[test]
    fn the_lines_of_the_contract() {
        let vm = VmId(42);
        let deploy = Reply::success(Action::Deploy, vm, "6e1f0f2a-0000-4000-8000-000000571347");
        assert_eq!(deploy.render(), "DEPLOY SUCCESS 42 6e1f0f2a-0000-4000-8000-000000571347\n");
        assert_eq!(Reply::success(Action::Cancel, vm, "").render(), "CANCEL SUCCESS 42 -\n");
        assert_eq!(
            Reply::success(Action::Backup, vm, "75ef 1024 raw").render(),
            "BACKUP SUCCESS 42 75ef 1024 raw\n"
        );
        let failed = Reply::failure(Action::Save, vm, "-- save one-42:\n disk full\n");
        assert_eq!(failed.render(), "SAVE FAILURE 42 save one-42: disk full\n");
        let silent = Reply::failure(Action::Save, vm, "-").render();
        assert_eq!(silent, "SAVE FAILURE 42 failed, no reason is known\n");
    }

    #[test]
    fn updates_name_their_object_first() {
        let good = Reply::success(Action::UpdateSg, VmId(3), "").about(100);
        assert_eq!(good.render(), "UPDATESG SUCCESS 3 100\n");
        let bad = Reply::failure(Action::UpdateNic, VmId(3), "no such NIC").about(7);
        assert_eq!(bad.render(), "UPDATENIC FAILURE 3 7 no such NIC\n");
    }

    #[test]
    fn a_log_text_becomes_a_line_for_each_of_its_lines() {
        let log = |vm, text: &str| Log { severity: Severity::Warning, vm, text: text.into() }.render();
        assert_eq!(log(Some(VmId(7)), "a\n\nb  c\r\n"), "LOG W 7 a\nLOG W 7 b c\n");
        assert_eq!(log(None, "x"), "LOG W -1 x\n");
        assert_eq!(log(None, " \n"), "");
    }

    proptest! {
        #[test]
        fn whatever_the_text_a_reply_is_one_line(text: String, good: bool, id in proptest::option::of(0_u32..9)) {
            let result = if good { Ok(text) } else { Err(text) };
            let reply = Reply { action: Action::UpdateSg, vm: VmId(1), result, first_word: id };
            let line = reply.render();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.ends_with('\n'));
            prop_assert!(!line.contains('\r') && !line.contains('\0'));
            let payload = line.trim_end().splitn(4, ' ').nth(3).unwrap().to_owned();
            prop_assert!(good || !payload.starts_with('-'));
            if let Some(id) = id {
                prop_assert_eq!(payload.split(' ').next().unwrap(), id.to_string());
            }
            // Both directions share the grammar: what we write is what we would read.
            prop_assert!(matches!(Message::parse(&Line::Whole(line.into_bytes())), Some(Message::Request(_))));
        }
    }
}
