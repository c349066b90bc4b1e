//! A reservation's file under attack: it is refused or understood, and what is understood is written as it was read.

use std::collections::BTreeSet;

use causeway_core::names::{LinkName, VmId};

use super::store::read;

#[test]
fn fuzz_files() {
    crate::seeded::fuzz("reservation", |bytes| {
        let reservation = match read(bytes, VmId(1)) {
            Ok(reservation) => reservation,
            Err(why) => return assert!(!why.is_empty() && !why.contains('\n'), "{why:?}"),
        };
        let written = serde_json::to_vec(&reservation).unwrap();
        assert_eq!(read(&written, VmId(1)).as_ref(), Ok(&reservation));
        assert!(read(&written, VmId(2)).is_err(), "it is of another VM");
        let nics: BTreeSet<u32> = reservation.nics.keys().copied().collect();
        let desired = reservation.desired(&nics);
        assert_eq!(desired.ports.len(), nics.len());
        let bridges: BTreeSet<&LinkName> = reservation.bridges().collect();
        assert!(desired.ports.iter().all(|port| bridges.contains(&port.bridge)));
        // Whoever is to come needs its bridge, until it is waited for no longer.
        for (nic, reserved) in &reservation.nics {
            let coming = !reservation.leaving.contains(nic) && !reservation.presence.contains_key(nic);
            let bridge = &reserved.port.bridge;
            assert!(!coming || reservation.needs(bridge, reservation.written));
            let mut missed = reservation.clone();
            let now = reservation.written.saturating_add(1);
            let waits = !missed.miss(*nic, now) && !reservation.leaving.contains(nic);
            assert!(!waits || missed.needs(bridge, now));
        }
    });
}
