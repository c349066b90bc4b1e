//! The actions that oned sends, spelled as it spells them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::NameError;

/// Declares the actions once: variant, spelling, meaning.
macro_rules! actions {
    ($($variant:ident $word:literal $meaning:literal,)+) => {
        /// What a request asks for (contract VMM 2.2, TM 1.2).
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Action {
            $(#[doc = $meaning] $variant,)+
            /// A word that no release we know sends; answered with a failure.
            Other(OtherAction),
        }

        impl Action {
            /// Every action that has a name of its own.
            pub const ALL: &'static [Action] = &[$(Action::$variant,)+];

            /// The action as oned writes it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Action::$variant => $word,)+
                    Action::Other(word) => word.as_str(),
                }
            }
        }

        impl FromStr for Action {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                match text {
                    $($word => Ok(Action::$variant),)+
                    other => other.parse().map(Action::Other),
                }
            }
        }
    };
}

actions! {
    Deploy "DEPLOY" "Start a VM from a deployment file.",
    Shutdown "SHUTDOWN" "Ask the guest to stop, then make it.",
    Cancel "CANCEL" "Stop a VM at once.",
    Save "SAVE" "Write the guest's memory to a checkpoint and stop it.",
    Restore "RESTORE" "Start a VM from its checkpoint.",
    Migrate "MIGRATE" "Move a running VM to another host or datastore.",
    Reboot "REBOOT" "Ask the guest to restart.",
    Reset "RESET" "Restart a VM at once.",
    AttachDisk "ATTACHDISK" "Plug a disk into a running VM.",
    DetachDisk "DETACHDISK" "Unplug a disk from a running VM.",
    AttachNic "ATTACHNIC" "Plug a NIC, an alias or a network device into a running VM.",
    DetachNic "DETACHNIC" "Unplug a NIC, an alias or a network device from a running VM.",
    SnapshotCreate "SNAPSHOTCREATE" "Make a snapshot of a whole running VM.",
    SnapshotRevert "SNAPSHOTREVERT" "Take a VM back to a snapshot.",
    SnapshotDelete "SNAPSHOTDELETE" "Delete a snapshot of a whole VM.",
    DiskSnapshotCreate "DISKSNAPSHOTCREATE" "Make a snapshot of one disk of a running VM.",
    ResizeDisk "RESIZEDISK" "Grow a disk of a running VM.",
    Resize "RESIZE" "Change memory or processors of a running VM.",
    UpdateConf "UPDATECONF" "Give a running VM a new context.",
    UpdateSg "UPDATESG" "Apply changed rules of a security group.",
    UpdateNic "UPDATENIC" "Apply changed attributes of a virtual network.",
    Backup "BACKUP" "Back up a VM.",
    BackupCancel "BACKUPCANCEL" "Stop a backup.",
    Cleanup "CLEANUP" "Remove whatever is left of a VM.",
    Exec "EXEC" "Run a command by the guest's agent.",
    ExecCancel "EXEC_CANCEL" "Stop that command.",
    Transfer "TRANSFER" "Run a transfer script (transfer manager).",
}

/// The word of an unknown action: short and printable, so that it can be sent back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OtherAction(String);

impl OtherAction {
    /// The word as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OtherAction {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let ok = (1..=32).contains(&text.len())
            && text.bytes().all(word)
            && text.starts_with(|c: char| c.is_ascii_alphabetic());
        if ok {
            Ok(OtherAction(text.to_owned()))
        } else {
            Err(NameError::new("action", text, "a word of at most 32 letters, digits, '_' and '-'"))
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Action {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Action> for String {
    fn from(action: Action) -> String {
        action.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_its_word() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse::<Action>().as_ref(), Ok(action));
            let json = serde_json::to_string(action).unwrap();
            assert_eq!(&serde_json::from_str::<Action>(&json).unwrap(), action);
        }
        assert_eq!(Action::ALL.len(), 27);
    }

    #[test]
    fn other_words_stay_what_they_are() {
        assert_eq!("POLL".parse::<Action>().unwrap().as_str(), "POLL");
        // oned's own spelling only: it drops a type in lower case itself (recorded).
        assert!(matches!("deploy".parse::<Action>(), Ok(Action::Other(_))));
        for bad in ["", "A B", "A\u{e9}", "1A", "-", &"A".repeat(33)] {
            assert!(bad.parse::<Action>().is_err(), "{bad:?}");
        }
    }
}
