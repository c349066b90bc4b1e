//! What Open vSwitch says, under attack: it is refused or understood, and whatever is understood leads to no change of what is
//! somebody else's.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_core::names::VmId;

use super::change::{Change, Edit, Transaction};
use super::openflow::{Action, Cookies, Openflow};
use super::ovsdb::{Operation, Ovsdb};
use super::{Leaving, Observed, Scope, Surroundings, census, difference, flows, mark, observe, removal};
use crate::desired::{Datapath, Desired, Number, Switch, SwitchPort, Vlans};

/// A connection at whose other end all of that has been said, and which was closed then. The other end must be kept.
fn told(bytes: &[u8]) -> Option<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().ok()?;
    // What is too much for the connection is cut.
    theirs.set_nonblocking(true).ok()?;
    let _ = (&theirs).write(bytes);
    theirs.shutdown(Shutdown::Write).ok()?;
    Some((ours, theirs))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// The kind of a message about bundles (OpenFlow 1.4 section 7.1).
const BUNDLE_CONTROL: u8 = 33;

/// The network of the VM that the corpus is about.
fn desired() -> Desired {
    let mut desired = Desired::nothing(VmId(1));
    let (tap, bridge) = ("one-1-0".parse().unwrap(), "br0".parse().unwrap());
    desired.switches.push(Switch {
        name: "br0".parse().unwrap(),
        datapath: Datapath::Any,
        options: [("stp_enable".to_owned(), "true".to_owned())].into(),
        uplinks: BTreeSet::new(),
        keep: false,
    });
    desired.seats.push(SwitchPort {
        nic: 0,
        tap,
        switch: bridge,
        vlans: Vlans::Access(50),
        mtu: None,
        socket: None,
    });
    desired.numbers.insert(0, Number::try_from(Number::FIRST).unwrap());
    desired
}

/// Whether a transaction takes away only what is ours, or the guest's own port.
fn takes_only_ours(transaction: &Transaction, seen: &Observed) -> bool {
    transaction.edits.iter().all(|edit| match edit {
        Edit::RemoveBridge { name, .. } => seen.bridges.get(name).is_some_and(|bridge| bridge.is_ours()),
        Edit::RemovePort { name, .. } => {
            let ours = |row| mark::is_ours(row) || row.map("external_ids").contains_key(mark::UPLINK);
            name == "one-1-0" || seen.ports.get(name).is_some_and(|port| ours(&port.port))
        }
        Edit::SetPort { name, .. } => name == "one-1-0" || mark::hatch_names("br0").contains(name),
        Edit::AddBridge { .. } | Edit::AddPort { .. } | Edit::ReadTwoTags => true,
    })
}

#[test]
fn fuzz_database() {
    let nowhere = Path::new("/nonexistent");
    crate::seeded::fuzz("ovsdb", |bytes| {
        let open = || told(bytes).and_then(|(ours, end)| Some((Ovsdb::over(ours, soon()).ok()?, end)));
        let desired = desired();
        if let Some((mut database, _end)) = open()
            && let Ok(seen) = observe::observe(&mut database, nowhere, soon(), &Scope::from(&desired))
        {
            assert!(seen.bridges.keys().all(|name| name == "br0"), "{seen:?}");
            let mut changes = Vec::new();
            if let Ok(found) = difference(&desired, &seen, &Surroundings::default()) {
                changes.extend(found.changes);
            }
            changes.extend(removal(&Leaving::from(&desired), &seen, &BTreeSet::new()).changes);
            for change in changes {
                let said = serde_json::to_vec(&change).unwrap();
                assert_eq!(serde_json::from_slice::<Change>(&said).unwrap(), change);
                if let Change::Database(transaction) = &change {
                    assert!(takes_only_ours(transaction, &seen), "{change:?}");
                }
            }
        }
        if let Some((mut database, _end)) = open() {
            // No bridge is served, so no flow was seen.
            let found = census::census(&mut database, nowhere, soon()).unwrap_or_default();
            assert!(found.values().all(|nic| !nic.flows), "{found:?}");
        }
        if let Some((mut database, _end)) = open()
            && let Ok(results) = database.transact(&[Operation::comment("one"), Operation::comment("two")])
        {
            assert_eq!(results.len(), 2);
        }
    });
}

#[test]
fn fuzz_bridge() {
    crate::seeded::fuzz("openflow", |bytes| {
        let open = || {
            let (ours, end) = told(bytes)?;
            Some((Openflow::over("br0", ours, soon()).ok()?, end))
        };
        let Some((mut bridge, _end)) = open() else { return };
        if let Ok(found) = bridge.flows(Cookies { value: 0, mask: 0 }) {
            for flow in found {
                assert!(flow.key.matches.is_read_as_written(), "{flow:?}");
                let known = |action: &&Action| !matches!(action, Action::Other(_));
                assert!(flow.actions.iter().filter(known).all(Action::is_read_as_written), "{flow:?}");
                let said = serde_json::to_vec(&flow).unwrap();
                assert_eq!(serde_json::from_slice::<super::openflow::Flow>(&said).unwrap(), flow);
                let _ = (flows::owner(flow.cookie), flows::port_of(&flow));
            }
        }
        if let Some((mut bridge, _end)) = open() {
            // Whoever says nothing of bundles has made none.
            let made = bridge.change(&flows::come_and_gone()).is_ok();
            assert!(!made || bytes.contains(&BUNDLE_CONTROL));
        }
        if let Some((mut bridge, _end)) = open() {
            let _ = bridge.forget(&[7, 8]);
        }
        if let Some((mut bridge, _end)) = open() {
            let _ = bridge.send_from(7, &[vec![0; 60]]);
        }
    });
}
