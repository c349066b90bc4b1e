//! Why a network is not prepared as a document asks: which NIC, which attribute, what would be accepted.

use causeway_core::answer::Kind;
use causeway_core::document::DocumentError;
use causeway_core::names::{LinkName, NameError};
use causeway_core::settings::SettingsError;

use super::facts::UPLINKS_FILE;

/// A document or setting that we do not act on. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The document itself.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A setting, or a network's `CONF` attribute.
    #[error("NIC {nic}")]
    Settings {
        /// `NIC_ID`.
        nic: u32,
        /// What is wrong.
        source: SettingsError,
    },
    /// An argument of the slot that is none.
    #[error("argument {value:?} is not {accepted}")]
    Argument {
        /// What stands there.
        value: String,
        /// The accepted form.
        accepted: &'static str,
    },
    /// A known attribute with a value that is none.
    #[error("NIC {nic}: {attribute} is {value:?}, not {accepted}")]
    Malformed {
        /// `NIC_ID`.
        nic: u32,
        /// The attribute.
        attribute: String,
        /// Its value, cut to a printable length.
        value: String,
        /// The accepted form.
        accepted: String,
    },
    /// An attribute that this driver cannot do without.
    #[error("NIC {nic}: {attribute} is missing: {why}")]
    Missing {
        /// `NIC_ID`.
        nic: u32,
        /// The attribute.
        attribute: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// A setting that has the form of its key but that we cannot act on.
    #[error("{}setting {key} is {value:?}, not {accepted}", nic.map(|nic| format!("NIC {nic}: ")).unwrap_or_default())]
    Setting {
        /// `NIC_ID` of the NIC that it is wanted for, where that is known.
        nic: Option<u32>,
        /// The key.
        key: String,
        /// Its value, cut to a printable length.
        value: String,
        /// The accepted form.
        accepted: String,
    },
    /// An uplink that the operator did not list.
    #[error("NIC {nic}: uplink {name} is not listed in {file}: add a line {name:?} to it to let virtual networks use it", name = name.as_str())]
    NotListed {
        /// `NIC_ID`.
        nic: u32,
        /// The uplink.
        name: LinkName,
        /// The root-owned list.
        file: &'static str,
    },
    /// An uplink that is not there.
    #[error("NIC {nic}: uplink {name} does not exist on this host")]
    NoUplink {
        /// `NIC_ID`.
        nic: u32,
        /// The uplink.
        name: LinkName,
    },
    /// An uplink without what the network needs of it.
    #[error("NIC {nic}: uplink {name} {lack}")]
    Uplink {
        /// `NIC_ID`.
        nic: u32,
        /// The uplink.
        name: LinkName,
        /// What it lacks.
        lack: &'static str,
    },
    /// A function of a card that works as a switch.
    #[error(
        "NIC {nic}: its virtual function has the device {representor} beside {device}, so that the card is in switchdev mode, and only \
         networks of ovswitch have a bridge for it: `devlink dev eswitch set pci/ADDRESS mode legacy` of the physical function makes \
         the card sort frames by itself"
    )]
    Switchdev {
        /// `NIC_ID`.
        nic: u32,
        /// The physical function's device.
        device: LinkName,
        /// The device that stands for the virtual function.
        representor: LinkName,
    },
    /// Two NICs that want different things of one device.
    #[error("NIC {nic} and NIC {other} want {name} to be two different things")]
    Clash {
        /// The one.
        nic: u32,
        /// The other.
        other: u32,
        /// The device.
        name: LinkName,
    },
}

impl Refusal {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            Refusal::Settings { source, .. } => source.kind(),
            Refusal::NotListed { .. }
            | Refusal::NoUplink { .. }
            | Refusal::Uplink { .. }
            | Refusal::Switchdev { .. } => Kind::HostState,
            _ => Kind::Input,
        }
    }

    /// A malformed attribute.
    pub fn malformed(nic: u32, attribute: &str, value: &str, accepted: impl Into<String>) -> Self {
        Refusal::Malformed {
            nic,
            attribute: attribute.to_owned(),
            value: printable(value),
            accepted: accepted.into(),
        }
    }

    /// A device that the operator did not list.
    pub fn not_listed(nic: u32, name: &LinkName) -> Self {
        Refusal::NotListed { nic, name: name.clone(), file: UPLINKS_FILE }
    }

    /// A malformed setting.
    pub fn setting(key: &str, value: &str, accepted: impl Into<String>) -> Self {
        Refusal::Setting {
            nic: None,
            key: printable(key),
            value: printable(value),
            accepted: accepted.into(),
        }
    }

    /// The same, for that NIC.
    #[must_use]
    pub fn for_nic(self, id: u32) -> Self {
        match self {
            Refusal::Setting { key, value, accepted, .. } => {
                Refusal::Setting { nic: Some(id), key, value, accepted }
            }
            other => other,
        }
    }
}

/// Cut so that a hostile value does not fill a log.
fn printable(value: &str) -> String {
    NameError::new("", value, "").value
}
