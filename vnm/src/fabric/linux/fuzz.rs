//! What the kernel says of devices, addresses and tables, under attack: it is refused or understood, and whatever is understood
//! leads to no removal of what is not ours.

use std::collections::BTreeSet;

use causeway_core::names::VmId;

use super::change::Change;
use super::netlink::Answer;
use super::observe::{addresses_of, found_in, links};
use super::{Leaving, Observed, Surroundings, difference, removal};
use crate::desired::{Bridge, Desired, FdbEntry, Port};

/// A VM with one NIC on a bridge of the corpus.
fn desired() -> Desired {
    let mut desired = Desired::nothing(VmId(7));
    let name = |name: &str| name.parse().unwrap();
    let (mac, tap, bridge) = ("02:00:0a:00:07:00".parse().unwrap(), name("one-7-0"), name("onebr.4"));
    desired.ports.push(Port { nic: 0, tap, bridge, mac, addresses: Vec::new() });
    desired.bridges.push(Bridge {
        name: name("onebr.4"),
        options: Default::default(),
        uplink: Some(name("up0")),
        keep: false,
    });
    desired.fdb.push(FdbEntry { bridge: name("onebr.4"), mac, port: name("one-7-0") });
    desired
}

#[test]
fn fuzz_answers() {
    crate::seeded::fuzz("rtnetlink", |bytes| {
        let Some(sequence) = bytes.get(8..).and_then(|rest| rest.first_chunk()) else { return };
        let mut answer = Answer { found: Vec::new(), whole: true };
        if let Err(error) = answer.take(bytes, u32::from_ne_bytes(*sequence), "list devices") {
            assert!(error.to_string().contains("list devices"), "{error}");
        }
        let mut seen = Observed::default();
        seen.links.extend(links(answer.found.clone()).into_iter().map(|link| (link.index, link)));
        for index in seen.links.keys().copied().collect::<BTreeSet<u32>>().into_iter().chain([1, 2, 3, 4]) {
            seen.addresses.insert(index, addresses_of(index, answer.found.clone()));
        }
        let desired = desired();
        seen.fdb = desired.fdb.iter().filter_map(|entry| found_in(entry, &seen, &answer.found)).collect();
        let said = serde_json::to_vec(&seen).unwrap();
        assert_eq!(serde_json::from_slice::<Observed>(&said).unwrap(), seen);

        let _ = difference(&desired, &seen, &Surroundings::default());
        for change in removal(&Leaving::from(&desired), &seen, &BTreeSet::new()).changes {
            let Change::Delete { name } = &change else { continue };
            assert!(seen.named(name).is_some_and(|link| link.mark.is_ours()), "{change}");
        }
    });
}
