//! How a VM is to be backed up (`BACKUPS/BACKUP_CONFIG`; contract TM 2.3).

use causeway_core::document::tree::Element;
use causeway_core::names::HostName;

use serde::{Deserialize, Serialize};

use crate::error::TmError;

/// The attributes as they came. They are checked when a plan needs them: a VM that is not being backed up may have any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupFacts {
    /// `MODE`.
    pub mode: Option<String>,
    /// `INCREMENT_MODE`.
    pub increment_mode: Option<String>,
    /// `LAST_INCREMENT_ID`: of the increment that the next one follows; -1 where there is none.
    pub last_increment: Option<String>,
    /// `INCREMENTAL_BACKUP_ID`: the backup image that holds the chain of increments.
    pub chain: Option<String>,
    /// `FS_FREEZE`.
    pub freeze: Option<String>,
    /// `INTERACTIVE`: a tool of another vendor's takes the data out itself.
    pub interactive: Option<String>,
    /// `LAST_DATASTORE_ID`: the datastore that the backup goes to.
    pub datastore: Option<String>,
    /// `LAST_BRIDGE`: the host that worked on the volumes of a VM on Ceph.
    pub bridge: Option<String>,
    /// Whether the VM has a TPM, whose state belongs to the backup.
    pub tpm: bool,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// All of each disk.
    Full,
    /// All of each disk; the next one is to hold what changes from now on.
    First,
    /// What has changed since the increment of that number.
    Since(u32),
}

impl Extent {
    /// The number of this backup within its chain, which ends its files' names.
    pub fn increment(self) -> u32 {
        match self {
            Extent::Full | Extent::First => 0,
            Extent::Since(last) => last.saturating_add(1),
        }
    }
}

/// What happens in the guest at the moment that the backup is of (`FS_FREEZE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Nothing: the backup is what a loss of power would leave.
    None,
    /// Its agent freezes its file systems.
    Agent,
    /// Its processors stand still.
    Suspend,
}

impl BackupFacts {
    pub(super) fn of(vm: &Element) -> Self {
        let config = vm.all(&["BACKUPS", "BACKUP_CONFIG"]);
        let value = |name| config.first().and_then(|c| c.value(name)).filter(|text| !text.is_empty());
        let tpm = vm.all(&["TEMPLATE", "TPM"]);
        BackupFacts {
            mode: value("MODE"),
            increment_mode: value("INCREMENT_MODE"),
            last_increment: value("LAST_INCREMENT_ID"),
            chain: value("INCREMENTAL_BACKUP_ID"),
            freeze: value("FS_FREEZE"),
            interactive: value("INTERACTIVE"),
            datastore: value("LAST_DATASTORE_ID"),
            bridge: value("LAST_BRIDGE"),
            tpm: tpm.iter().any(|tpm| tpm.value("MODEL").is_some_and(|model| !model.is_empty())),
        }
    }

    /// What the backup is to hold; `object` is whose attributes these are, for messages.
    ///
    /// # Errors
    /// A value that is none, or a way of working that is not built.
    pub fn extent(&self, object: &str) -> Result<Extent, TmError> {
        if self.interactive.as_deref().is_some_and(|text| text.eq_ignore_ascii_case("yes")) {
            return Err(TmError::NotYet(format!(
                "BACKUP_CONFIG of {object} has INTERACTIVE=YES: backups that another program reads are not built; set it to \
                 NO, or keep the stock scripts (`install.sh frontend --keep tm/<driver>/prebackup`, and its kin)"
            )));
        }
        match self.mode.as_deref() {
            None | Some("FULL") => return Ok(Extent::Full),
            Some("INCREMENT") => {}
            Some(other) => return Err(wrong("MODE", object, other, "FULL or INCREMENT")),
        }
        match self.increment_mode.as_deref().map(str::to_ascii_uppercase).as_deref() {
            // The same increments either way; only where stock notes what has changed differs.
            None | Some("CBT" | "SNAPSHOT") => {}
            Some(other) => return Err(wrong("INCREMENT_MODE", object, other, "CBT or SNAPSHOT")),
        }
        let missing = || TmError::Missing { what: "LAST_INCREMENT_ID".to_owned(), object: object.to_owned() };
        match self.last_increment.as_deref().ok_or_else(missing)? {
            "-1" => Ok(Extent::First),
            text => match text.parse::<u32>().ok().filter(|number| number.to_string() == text) {
                Some(last) => Ok(Extent::Since(last)),
                None => Err(wrong("LAST_INCREMENT_ID", object, text, "-1 or the number of an increment")),
            },
        }
    }

    /// The number of the backup image that the next increment will belong to; none where it begins one.
    ///
    /// # Errors
    /// As [`extent`](Self::extent); or nothing says which image that is.
    pub fn followed(&self, object: &str) -> Result<Option<u32>, TmError> {
        let Extent::Since(_) = self.extent(object)? else { return Ok(None) };
        let what = "INCREMENTAL_BACKUP_ID".to_owned();
        let missing = || TmError::Missing { what, object: object.to_owned() };
        let text = self.chain.as_deref().ok_or_else(missing)?;
        let number = text.parse().ok().filter(|number: &u32| number.to_string() == text);
        let number = number.ok_or_else(|| wrong("INCREMENTAL_BACKUP_ID", object, text, "an image's number"));
        number.map(Some)
    }

    /// The datastore that the backup goes to; none where the document names none.
    ///
    /// # Errors
    /// A value that is no number.
    pub fn goes_to(&self, object: &str) -> Result<Option<u32>, TmError> {
        let Some(text) = self.datastore.as_deref().filter(|text| *text != "-1") else { return Ok(None) };
        let number = text.parse().ok().filter(|number: &u32| number.to_string() == text);
        number.map(Some).ok_or_else(|| wrong("LAST_DATASTORE_ID", object, text, "a datastore's number"))
    }

    /// The host that a VM on Ceph is backed up on, where that is not its own.
    ///
    /// # Errors
    /// A value that is no host's name.
    pub fn bridge(&self, object: &str) -> Result<Option<HostName>, TmError> {
        let parse =
            |text: &str| text.parse().map_err(|_| wrong("LAST_BRIDGE", object, text, "the name of a host"));
        self.bridge.as_deref().map(parse).transpose()
    }

    /// What happens in the guest meanwhile.
    ///
    /// # Errors
    /// A value that is none.
    pub fn freeze(&self, object: &str) -> Result<Freeze, TmError> {
        match self.freeze.as_deref().map(str::to_ascii_uppercase).as_deref() {
            None | Some("NONE") => Ok(Freeze::None),
            Some("AGENT") => Ok(Freeze::Agent),
            Some("SUSPEND") => Ok(Freeze::Suspend),
            Some(other) => Err(wrong("FS_FREEZE", object, other, "NONE, AGENT or SUSPEND")),
        }
    }
}

fn wrong(attribute: &str, object: &str, value: &str, accepted: &'static str) -> TmError {
    TmError::Attribute {
        attribute: format!("BACKUP_CONFIG {attribute}"),
        object: object.to_owned(),
        value: value.to_owned(),
        accepted: accepted.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::document;

    fn facts(config: &str) -> BackupFacts {
        let xml = format!("<VM><BACKUPS><BACKUP_CONFIG>{config}</BACKUP_CONFIG></BACKUPS></VM>");
        BackupFacts::of(&document::parse(xml.as_bytes()).unwrap())
    }

    #[test]
    fn the_recorded_config_is_a_full_backup() {
        let found = facts(
            "<BACKUP_VOLATILE>NO</BACKUP_VOLATILE><FS_FREEZE>NONE</FS_FREEZE><INCREMENTAL_BACKUP_ID>-1\
             </INCREMENTAL_BACKUP_ID><INCREMENT_MODE>CBT</INCREMENT_MODE><INTERACTIVE>NO</INTERACTIVE><KEEP_LAST>2\
             </KEEP_LAST><LAST_DATASTORE_ID>110</LAST_DATASTORE_ID><LAST_INCREMENT_ID>-1</LAST_INCREMENT_ID>\
             <MODE>FULL</MODE>",
        );
        assert_eq!(found.extent("VM 4"), Ok(Extent::Full));
        assert_eq!((found.freeze("VM 4"), found.datastore.as_deref()), (Ok(Freeze::None), Some("110")));
        assert!(!found.tpm);
        assert_eq!(found.goes_to("VM 4"), Ok(Some(110)));
        assert_eq!(facts("<LAST_DATASTORE_ID>-1</LAST_DATASTORE_ID>").goes_to("VM 4"), Ok(None));
        assert!(facts("<LAST_DATASTORE_ID>x</LAST_DATASTORE_ID>").goes_to("VM 4").is_err());
    }

    #[test]
    fn increments_follow_each_other() {
        let of = |last: &str| {
            facts(&format!("<MODE>INCREMENT</MODE><LAST_INCREMENT_ID>{last}</LAST_INCREMENT_ID>"))
                .extent("VM 4")
        };
        assert_eq!(of("-1"), Ok(Extent::First));
        assert_eq!(of("3").map(Extent::increment), Ok(4));
        for odd in ["", "-2", "one", "03", "4294967296"] {
            assert!(of(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_increment_belongs_to_an_image_and_is_made_on_a_host() {
        let of = |more: &str| {
            facts(&format!("<MODE>INCREMENT</MODE><LAST_INCREMENT_ID>3</LAST_INCREMENT_ID>{more}"))
        };
        let chain = "<INCREMENTAL_BACKUP_ID>39</INCREMENTAL_BACKUP_ID>";
        assert_eq!(of(chain).followed("VM 4"), Ok(Some(39)));
        assert!(of("").followed("VM 4").is_err());
        assert!(of("<INCREMENTAL_BACKUP_ID>-1</INCREMENTAL_BACKUP_ID>").followed("VM 4").is_err());
        assert_eq!(facts("<MODE>FULL</MODE>").followed("VM 4"), Ok(None));
        assert_eq!(of("").bridge("VM 4"), Ok(None));
        assert_eq!(of("<LAST_BRIDGE>h2</LAST_BRIDGE>").bridge("VM 4").unwrap().unwrap().to_string(), "h2");
        assert!(of("<LAST_BRIDGE>-oProxyCommand=x</LAST_BRIDGE>").bridge("VM 4").is_err());
    }

    #[test]
    fn increments_are_the_same_whatever_their_mode() {
        for mode in ["", "<INCREMENT_MODE>CBT</INCREMENT_MODE>", "<INCREMENT_MODE>snapshot</INCREMENT_MODE>"]
        {
            let of = |last: &str| {
                let text =
                    format!("<MODE>INCREMENT</MODE>{mode}<LAST_INCREMENT_ID>{last}</LAST_INCREMENT_ID>");
                facts(&text).extent("VM 4")
            };
            assert_eq!((of("-1"), of("2")), (Ok(Extent::First), Ok(Extent::Since(2))), "{mode}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_by_name() {
        let refused = |config: &str| {
            let facts = facts(config);
            facts.extent("VM 4").err().or(facts.freeze("VM 4").err()).unwrap().to_string()
        };
        assert_eq!(
            refused("<MODE>HALF</MODE>"),
            "BACKUP_CONFIG MODE of VM 4 is \"HALF\", not FULL or INCREMENT"
        );
        assert_eq!(
            refused("<FS_FREEZE>no</FS_FREEZE>"),
            "BACKUP_CONFIG FS_FREEZE of VM 4 is \"NO\", not NONE, AGENT or SUSPEND"
        );
        let increment = "<MODE>INCREMENT</MODE><LAST_INCREMENT_ID>-1</LAST_INCREMENT_ID>";
        for (more, word) in [
            ("<INCREMENT_MODE>x</INCREMENT_MODE>", "INCREMENT_MODE"),
            ("<INTERACTIVE>YES</INTERACTIVE>", "INTERACTIVE=YES"),
        ] {
            let said = refused(&format!("{increment}{more}"));
            assert!(said.contains(word), "{said}");
        }
    }
}
