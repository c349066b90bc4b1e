//! Domain XML: the facts that the drivers need of it, and the edits that they make in it and in a snapshot's.
//!
//! Reading is safe against hostile text: at most [`SIZE_LIMIT`] bytes, [`DEPTH_LIMIT`] levels and [`ELEMENT_LIMIT`]
//! elements, no document type, no entities but the five of XML. Nothing is fetched. An edit replaces the bytes of the
//! values it changes and keeps every other byte, so that what oned wrote is what libvirt reads.

mod backup;
mod bandwidths;
mod chains;
mod facts;
mod rewrite;
mod snapshot;
mod tree;

pub use backup::backup_files;
pub use bandwidths::{InterfaceBandwidths, bandwidths};
pub use chains::chains;
pub use facts::{Disk, Facts, Interface, METADATA_NAMESPACE, Metadata, Nvram, Source, facts, metadata};
pub use rewrite::{escaped, is_disk_link, rewrite_sources};
pub use snapshot::{snapshot_name, snapshot_of};
pub use tree::{DEPTH_LIMIT, ELEMENT_LIMIT, SIZE_LIMIT};

/// Why a domain XML cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// A cap was exceeded.
    #[error("more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// Not well-formed XML.
    #[error("byte {at}: {reason}")]
    Malformed {
        /// Where in the text.
        at: u64,
        /// What the parser says.
        reason: String,
    },
    /// A construct that a domain XML has no use for.
    #[error("byte {at}: {what} is not accepted")]
    Forbidden {
        /// Where in the text.
        at: u64,
        /// What it is.
        what: &'static str,
    },
    /// Well-formed, but not a domain.
    #[error("the root element is {0:?}, not <domain>")]
    NotADomain(String),
    /// Well-formed, but no snapshot's metadata.
    #[error("the root element is {0:?}, not <domainsnapshot>")]
    NotASnapshot(String),
    /// Well-formed, but no backup.
    #[error("the root element is {0:?}, not <domainbackup>")]
    NotABackup(String),
    /// An element that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value that does not have its form.
    #[error("{what} {value:?} is not {accepted}")]
    Value {
        /// Which element or attribute.
        what: &'static str,
        /// Its value.
        value: String,
        /// The accepted form.
        accepted: &'static str,
    },
}
