//! How much of a host a backup may take (`<DS_MAD>_NICE` and its kin in the backup's datastore; contract TM 2.3).

use causeway_core::document::tree::Element;
use serde::{Deserialize, Serialize};

use crate::error::TmError;

/// Ends of the attributes' names, which begin with the datastore's driver.
const NAMES: [&str; 6] = ["MAX_RIOPS", "MAX_WIOPS", "CPU_QUOTA", "MEMORY_MAX_MB", "NICE", "IONICE"];

/// The attributes as they came. They are checked when a backup is planned: any other datastore may have any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitFacts {
    datastore: u32,
    /// `DS_MAD` in capitals.
    driver: String,
    /// In the order of [`NAMES`].
    texts: [Option<String>; 6],
}

/// What a backup datastore allows, at least one limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The datastore, which the limits are shared in by all backups on a host.
    pub datastore: u32,
    /// `DS_MAD` in capitals, which the attributes' names begin with.
    pub driver: String,
    /// `MAX_RIOPS`: reads of the disk a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u32>,
    /// `MAX_WIOPS`: writes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u32>,
    /// `CPU_QUOTA`: per cent of one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// `MEMORY_MAX_MB`, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// `NICE`: what is added to a process's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// `IONICE`: the level in the best-effort class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ionice: Option<u32>,
}

impl LimitFacts {
    pub(super) fn of(datastore: u32, root: &Element, template: &Element) -> Self {
        let driver = root.value("DS_MAD").unwrap_or_default().to_ascii_uppercase();
        // Without a driver there is nobody whose attributes they could be.
        let text = |end: &str| template.value(&format!("{driver}_{end}")).filter(|_| !driver.is_empty());
        let texts = NAMES.map(|end| text(end).map(|text| text.trim().to_owned()).filter(|t| !t.is_empty()));
        LimitFacts { datastore, driver, texts }
    }

    /// The limits; none where the datastore has none. As with the stock driver, -1 stands for no limit.
    ///
    /// # Errors
    /// A value that is none.
    pub fn read(&self) -> Result<Option<Limits>, TmError> {
        let Some([read, write, cpu, memory, nice, ionice]) =
            self.texts.iter().any(Option::is_some).then_some(&self.texts)
        else {
            return Ok(None);
        };
        let [riops, wiops, quota, most, nicely, disk] = NAMES;
        let limits = Limits {
            datastore: self.datastore,
            driver: self.driver.clone(),
            read_iops: self.number(riops, read, "a whole number from 1 on, or -1 for no limit", |n| n > 0)?,
            write_iops: self
                .number(wiops, write, "a whole number from 1 on, or -1 for no limit", |n| n > 0)?,
            cpu_percent: self.number(quota, cpu, "per cent from 1 on, or -1 for no limit", |n| n > 0)?,
            memory_mb: self.number(most, memory, "MiB from 1 on, or -1 for no limit", |n| n > 0)?,
            nice: self.number(nicely, nice, "a whole number from -20 to 19; -1 is no limit", |n: i32| {
                (-20..20).contains(&n)
            })?,
            ionice: self.number(disk, ionice, "a level from 0 to 7, or -1 for no limit", |n| n < 8)?,
        };
        Ok(Some(limits).filter(|limits| !limits.names().is_empty()))
    }

    fn number<N: std::str::FromStr + Copy>(
        &self,
        end: &str,
        text: &Option<String>,
        accepted: &'static str,
        fits: impl Fn(N) -> bool,
    ) -> Result<Option<N>, TmError> {
        let Some(text) = text.as_deref().filter(|text| *text != "-1") else { return Ok(None) };
        let number = text.parse().ok().filter(|number| fits(*number));
        number.map(Some).ok_or_else(|| TmError::Attribute {
            attribute: format!("{}_{end}", self.driver),
            object: format!("datastore {}", self.datastore),
            value: text.to_owned(),
            accepted: accepted.into(),
        })
    }
}

impl Limits {
    /// The attributes that are set, by their whole names.
    pub fn names(&self) -> Vec<String> {
        let set = [
            self.read_iops.is_some(),
            self.write_iops.is_some(),
            self.cpu_percent.is_some(),
            self.memory_mb.is_some(),
            self.nice.is_some(),
            self.ionice.is_some(),
        ];
        let names = NAMES.iter().zip(set).filter(|(_, set)| *set);
        names.map(|(end, _)| format!("{}_{end}", self.driver)).collect()
    }

    /// Those of them that are about a group of processes, and not about each one.
    pub fn of_a_group(&self) -> Vec<String> {
        Limits { nice: None, ionice: None, ..self.clone() }.names()
    }

    /// The attributes for a message, with their datastore.
    pub fn told(&self, names: &[String]) -> String {
        format!("{} of datastore {}", names.join(", "), self.datastore)
    }
}

#[cfg(test)]
mod tests {
    use super::super::DatastoreFacts;
    use super::*;

    fn read(template: &str) -> Result<Option<Limits>, TmError> {
        let xml = format!(
            "<DATASTORE><ID>110</ID><DS_MAD>rsync</DS_MAD><TEMPLATE>{template}</TEMPLATE></DATASTORE>"
        );
        DatastoreFacts::parse(110, xml.as_bytes()).unwrap().limits.read()
    }

    #[test]
    fn a_backup_datastore_says_how_much_its_backups_may_take() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("<RSYNC_NICE>-1</RSYNC_NICE><RSYNC_IONICE></RSYNC_IONICE>"), Ok(None));
        // Those of another driver.
        assert_eq!(read("<RESTIC_NICE>19</RESTIC_NICE>"), Ok(None));
        let limits = read(
            "<RSYNC_NICE>19</RSYNC_NICE><RSYNC_IONICE> 7 </RSYNC_IONICE><RSYNC_MAX_RIOPS>100</RSYNC_MAX_RIOPS>\
             <RSYNC_MAX_WIOPS>-1</RSYNC_MAX_WIOPS><RSYNC_CPU_QUOTA>150</RSYNC_CPU_QUOTA>",
        );
        let limits = limits.unwrap().unwrap();
        let names = ["RSYNC_MAX_RIOPS", "RSYNC_CPU_QUOTA", "RSYNC_NICE", "RSYNC_IONICE"];
        assert_eq!(
            (limits.names(), limits.of_a_group()),
            (names.map(str::to_owned).to_vec(), limits.names()[..2].to_vec())
        );
        assert_eq!(
            (limits.nice, limits.ionice, limits.read_iops, limits.cpu_percent),
            (Some(19), Some(7), Some(100), Some(150))
        );
        assert_eq!(limits.told(&limits.of_a_group()), "RSYNC_MAX_RIOPS, RSYNC_CPU_QUOTA of datastore 110");
    }

    #[test]
    fn what_is_no_limit_is_refused_by_name() {
        for (name, value) in [
            ("RSYNC_MAX_RIOPS", "0"),
            ("RSYNC_MAX_WIOPS", "many"),
            ("RSYNC_CPU_QUOTA", "50%"),
            ("RSYNC_MEMORY_MAX_MB", "0x10"),
            ("RSYNC_NICE", "20"),
            ("RSYNC_NICE", "19; reboot"),
            ("RSYNC_IONICE", "8"),
            ("RSYNC_IONICE", "-2"),
        ] {
            let said = read(&format!("<{name}>{value}</{name}>")).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{name} of datastore 110 is {value:?}, not ")), "{said}");
        }
    }
}
