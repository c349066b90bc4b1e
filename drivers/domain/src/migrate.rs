//! What a live migration is asked to do, checked before libvirt sees it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use virt::sys;

/// Who drives the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drive {
    /// The source's libvirtd connects to the destination's by itself. It survives the death of this process.
    PeerToPeer,
    /// This process holds a connection to both. If it dies before the last phase, the destination stays undecided until
    /// libvirt notices.
    Client,
}

/// Which disks travel with the memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disks {
    /// None: both hosts see the same storage.
    #[default]
    Shared,
    /// These targets (`vda`), in full. The files must exist at the destination.
    Copy(Vec<String>),
    /// These targets, without what their backing files hold.
    CopyTopLayer(Vec<String>),
}

/// Slow the guest down when it writes faster than the path carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AutoConverge {
    /// First step in percent; QEMU's own is 20.
    pub initial: Option<u8>,
    /// Further steps in percent; QEMU's own is 10.
    pub increment: Option<u8>,
}

/// A request for one live migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateRequest {
    /// Who drives.
    pub drive: Drive,
    /// libvirt URI of the destination: as the source host reaches it if peer-to-peer, as this process does otherwise.
    pub destination: String,
    /// Where QEMU sends the memory to, such as `tcp://10.77.0.2`; libvirt's choice if absent.
    pub migrate_uri: Option<String>,
    /// Encrypt and authenticate the memory stream with the hosts' certificates.
    pub tls: bool,
    /// The name in the destination's certificate, where it is not that of `migrate_uri`.
    pub tls_destination: Option<String>,
    /// Carry the memory inside libvirt's own connection (slow; peer-to-peer only).
    pub tunnelled: bool,
    /// Address for the destination's QEMU to listen on.
    pub listen_address: Option<String>,
    /// Cap in MiB per second; libvirt knows no finer step. Does not hold while the guest is stopped.
    pub bandwidth_mib: Option<u32>,
    /// Cap in MiB per second after the switch to post-copy.
    pub bandwidth_postcopy_mib: Option<u32>,
    /// Slow the guest down if needed.
    pub auto_converge: Option<AutoConverge>,
    /// Send changed pages as differences (XBZRLE) with a cache of that many bytes, 0 for QEMU's own size.
    pub xbzrle_cache: Option<u64>,
    /// Several connections at once; `Some(0)` leaves their number to QEMU.
    pub parallel: Option<u8>,
    /// Allow a later switch to post-copy.
    pub post_copy: bool,
    /// Which disks travel.
    pub disks: Disks,
    /// Domain XML for the destination, where paths or bridges differ.
    pub dest_xml: Option<String>,
    /// Leave the guest paused at the destination.
    pub paused: bool,
    /// Go on even where libvirt calls the disks' cache mode unsafe. Only ever on an admin's explicit word.
    pub allow_unsafe: bool,
    /// Give up and abort after this time. The abort itself may take until libvirt's next look at QEMU.
    pub deadline: Duration,
}

impl MigrateRequest {
    /// A plain request: live, shared storage, nothing tuned.
    pub fn new(drive: Drive, destination: impl Into<String>, deadline: Duration) -> Self {
        MigrateRequest {
            drive,
            destination: destination.into(),
            migrate_uri: None,
            tls: false,
            tls_destination: None,
            tunnelled: false,
            listen_address: None,
            bandwidth_mib: None,
            bandwidth_postcopy_mib: None,
            auto_converge: None,
            xbzrle_cache: None,
            parallel: None,
            post_copy: false,
            disks: Disks::Shared,
            dest_xml: None,
            paused: false,
            allow_unsafe: false,
            deadline,
        }
    }

    /// Refuses combinations that QEMU or libvirt cannot do (some of them fail late, with the guest slowed down for
    /// nothing).
    ///
    /// # Errors
    /// One sentence that names the two settings.
    pub fn check(&self) -> Result<(), String> {
        let percent = |p: Option<u8>| p.is_none_or(|p| (1..=99).contains(&p));
        let conflicts = [
            (self.destination.is_empty(), "no destination is named"),
            (self.tunnelled && self.drive == Drive::Client, "tunnelled needs a peer-to-peer migration"),
            (self.tunnelled && self.tls, "tunnelled and tls exclude each other"),
            (self.tunnelled && self.parallel.is_some(), "tunnelled and parallel exclude each other"),
            (self.tunnelled && self.post_copy, "tunnelled and post_copy exclude each other"),
            (self.tunnelled && self.disks != Disks::Shared, "tunnelled cannot copy disks"),
            (
                self.xbzrle_cache.is_some() && self.parallel.is_some(),
                "xbzrle and parallel exclude each other",
            ),
            (self.tls_destination.is_some() && !self.tls, "tls_destination without tls"),
            (self.bandwidth_mib == Some(0), "bandwidth_mib is 0"),
            (
                !self.auto_converge.is_none_or(|a| percent(a.initial) && percent(a.increment)),
                "auto_converge takes 1 to 99 percent",
            ),
            (
                matches!(&self.disks, Disks::Copy(d) | Disks::CopyTopLayer(d) if d.is_empty()),
                "an empty list of disks to copy (libvirt would copy all)",
            ),
        ];
        match conflicts.iter().find(|(wrong, _)| *wrong) {
            Some((_, text)) => Err((*text).to_owned()),
            None => Ok(()),
        }
    }

    /// libvirt's flags (`virDomainMigrateFlags`) for this request.
    pub fn flags(&self) -> u32 {
        // ABORT_ON_ERROR: a disk error on the source must not be carried to the destination as a paused guest.
        let always = sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_ABORT_ON_ERROR;
        let choices = [
            (self.drive == Drive::PeerToPeer, sys::VIR_MIGRATE_PEER2PEER),
            (self.tunnelled, sys::VIR_MIGRATE_TUNNELLED),
            (self.tls, sys::VIR_MIGRATE_TLS),
            (self.auto_converge.is_some(), sys::VIR_MIGRATE_AUTO_CONVERGE),
            (self.xbzrle_cache.is_some(), sys::VIR_MIGRATE_COMPRESSED),
            (self.parallel.is_some(), sys::VIR_MIGRATE_PARALLEL),
            (self.post_copy, sys::VIR_MIGRATE_POSTCOPY),
            (self.paused, sys::VIR_MIGRATE_PAUSED),
            (self.allow_unsafe, sys::VIR_MIGRATE_UNSAFE),
            (matches!(self.disks, Disks::Copy(_)), sys::VIR_MIGRATE_NON_SHARED_DISK),
            (matches!(self.disks, Disks::CopyTopLayer(_)), sys::VIR_MIGRATE_NON_SHARED_INC),
        ];
        choices.iter().filter(|(wanted, _)| *wanted).fold(always, |flags, (_, flag)| flags | flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(drive: Drive) -> MigrateRequest {
        MigrateRequest::new(drive, "qemu+tls://h2/system", Duration::from_secs(60))
    }

    #[test]
    fn flags_follow_the_request() {
        let client = plain(Drive::Client);
        assert_eq!(client.flags(), sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_ABORT_ON_ERROR);
        let peer = MigrateRequest {
            tls: true,
            post_copy: true,
            parallel: Some(4),
            disks: Disks::Copy(vec!["vda".into()]),
            ..plain(Drive::PeerToPeer)
        };
        let added = sys::VIR_MIGRATE_PEER2PEER
            | sys::VIR_MIGRATE_TLS
            | sys::VIR_MIGRATE_POSTCOPY
            | sys::VIR_MIGRATE_PARALLEL
            | sys::VIR_MIGRATE_NON_SHARED_DISK;
        assert_eq!(peer.flags(), client.flags() | added);
        assert_eq!(peer.flags() & sys::VIR_MIGRATE_UNSAFE, 0);
    }

    #[test]
    fn impossible_combinations_are_refused_with_both_names() {
        let base = plain(Drive::PeerToPeer);
        assert_eq!(base.check(), Ok(()));
        let tunnelled = MigrateRequest { tunnelled: true, ..base.clone() };
        let wrong = [
            MigrateRequest { drive: Drive::Client, ..tunnelled.clone() },
            MigrateRequest { tls: true, ..tunnelled.clone() },
            MigrateRequest { parallel: Some(2), ..tunnelled.clone() },
            MigrateRequest { post_copy: true, ..tunnelled.clone() },
            MigrateRequest { disks: Disks::Copy(vec!["vda".into()]), ..tunnelled },
            MigrateRequest { parallel: Some(2), xbzrle_cache: Some(0), ..base.clone() },
            MigrateRequest { disks: Disks::CopyTopLayer(vec![]), ..base.clone() },
            MigrateRequest { bandwidth_mib: Some(0), ..base.clone() },
            MigrateRequest { tls_destination: Some("h2".into()), ..base.clone() },
            MigrateRequest { destination: String::new(), ..base.clone() },
            MigrateRequest {
                auto_converge: Some(AutoConverge { initial: Some(100), increment: None }),
                ..base
            },
        ];
        for request in wrong {
            assert!(request.check().is_err(), "{request:?}");
        }
    }
}
