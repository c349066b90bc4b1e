//! A kernel made of data, that does as it is told.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::LinkName;
use causeway_vnm::desired::BridgeOption;
use causeway_vnm::fabric::linux::ethtool::Offload;
use causeway_vnm::fabric::linux::mark::Mark;
use causeway_vnm::fabric::linux::parse::{Link, LinkKind, VlanSeen, VxlanSeen};
use causeway_vnm::fabric::linux::vlan_table::Tagging;
use causeway_vnm::fabric::linux::{Change, Observed};

/// A kernel that does as it is told.
#[derive(Clone)]
pub struct Model {
    pub seen: Observed,
    next: u32,
}

impl Model {
    pub fn new() -> Self {
        let mut model = Model { seen: Observed::default(), next: 1 };
        for name in ["up0", "up1"] {
            model.add(name, LinkKind::Outer("hardware".into()), None, Mark::Foreign);
        }
        model
    }

    pub fn add(&mut self, name: &str, kind: LinkKind, bridge: Option<u32>, mark: Mark) {
        let link =
            Link { index: self.next, name: name.into(), kind, mac: None, mtu: 1500, up: true, bridge, mark };
        assert!(self.index(name).is_none(), "{name} exists");
        self.seen.links.insert(self.next, link);
        self.plugged(self.next);
        self.next += 1;
    }

    pub fn index(&self, name: &str) -> Option<u32> {
        self.seen.links.values().find(|link| link.name == name).map(|link| link.index)
    }

    pub fn at(&mut self, name: &LinkName) -> &mut Link {
        let index = self.index(name.as_str()).unwrap();
        self.seen.links.get_mut(&index).unwrap()
    }

    pub fn delete(&mut self, name: &str) {
        let index = self.index(name).unwrap();
        self.seen.links.remove(&index);
        self.seen.vlans.remove(&index);
        for link in self.seen.links.values_mut().filter(|link| link.bridge == Some(index)) {
            link.bridge = None;
            self.seen.vlans.remove(&link.index);
        }
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::CreateBridge { name, options } => {
                self.add(name.as_str(), LinkKind::Bridge(options.clone()), None, Mark::Newborn);
            }
            Change::CreateVxlan(tunnel) => {
                let identity = &tunnel.identity;
                let device = identity.device.as_ref().map(|name| self.index(name.as_str()).unwrap());
                let seen = VxlanSeen {
                    vni: Some(identity.vni),
                    device,
                    group: identity.group,
                    local: identity.local,
                    port: identity.port,
                    checksums: identity.checksums,
                    tuning: tunnel.tuning,
                };
                let bridge = tunnel.bridge.as_ref().and_then(|bridge| self.index(bridge.as_str()));
                assert!(bridge.is_some(), "a tunnel before its bridge");
                self.add(tunnel.name.as_str(), LinkKind::Vxlan(seen), bridge, Mark::Newborn);
                self.at(&tunnel.name).mtu = tunnel.mtu;
            }
            Change::CreateVlan(vlan) => {
                let device = self.index(vlan.uplink.as_str());
                let bridge = self.index(vlan.bridge.as_str());
                assert!(device.is_some() && bridge.is_some(), "a VLAN device before its bridge");
                let seen = VlanSeen { device, identity: vlan.identity };
                self.add(vlan.name.as_str(), LinkKind::Vlan(seen), bridge, Mark::Newborn);
                self.at(&vlan.name).mtu = vlan.mtu;
            }
            Change::Mark { name } => self.at(name).mark = Mark::Ours,
            Change::SetMtu { name, mtu } => self.at(name).mtu = *mtu,
            Change::SetUp { name } => self.at(name).up = true,
            Change::SetBridgeOf { name, bridge } => {
                let bridge = self.index(bridge.as_str());
                let port = self.at(name);
                port.bridge = bridge;
                let index = port.index;
                self.plugged(index);
            }
            Change::TakeOut { name } => {
                let port = self.at(name);
                port.bridge = None;
                let index = port.index;
                self.seen.vlans.remove(&index);
            }
            Change::SetVlans { port, untagged, tagged } => self.set_vlans(port, *untagged, tagged),
            Change::ForgetVlans { port, vlans } => {
                let index = self.at(port).index;
                self.seen.vlans.get_mut(&index).unwrap().retain(|vlan, _| !vlans.contains(vlan));
            }
            Change::SetBridge { name, options } => {
                self.move_native(name, options);
                if let LinkKind::Bridge(known) = &mut self.at(name).kind {
                    known.extend(options.clone());
                }
            }
            Change::SetVxlan { name, tuning } => {
                if let LinkKind::Vxlan(known) = &mut self.at(name).kind {
                    known.tuning = *tuning;
                }
            }
            Change::SetOffload { name } => drop(self.seen.offload.insert(name.clone(), Offload::On)),
            Change::SetFunction { device, index, setting }
            | Change::ResetFunction { device, index, setting } => {
                let device = self.at(device).index;
                let known = self.seen.functions.get_mut(&device).unwrap().get_mut(index).unwrap();
                known.mac = setting.mac.unwrap_or(known.mac);
                known.vlan = setting.vlan.unwrap_or(known.vlan);
                known.spoofchk = setting.spoofchk.unwrap_or(known.spoofchk);
                known.trust = setting.trust.unwrap_or(known.trust);
            }
            Change::SetFdb(entry) => {
                self.seen.fdb.retain(|e| (e.mac, &e.bridge) != (entry.mac, &entry.bridge));
                self.seen.fdb.push(entry.clone());
            }
            Change::ForgetFdb(entry) => self.seen.fdb.retain(|e| e != entry),
            Change::ForgetRemote(remote) => self.seen.remotes.retain(|r| r != remote),
            Change::Delete { name } => self.delete(name.as_str()),
        }
    }

    /// A bridge puts itself and each new port into its default VLAN.
    fn plugged(&mut self, index: u32) {
        let link = &self.seen.links[&index];
        let bridge = match &link.kind {
            LinkKind::Bridge(_) => Some(index),
            _ => link.bridge,
        };
        let Some(bridge) = bridge else { return };
        let native = self.native(bridge);
        let table = native.map(|vlan| (vlan, Tagging::NATIVE)).into_iter().collect();
        self.seen.vlans.insert(index, table);
    }

    fn native(&self, bridge: u32) -> Option<u16> {
        let LinkKind::Bridge(options) = &self.seen.links[&bridge].kind else { panic!("no bridge") };
        let pvid = options.get(&BridgeOption::VlanDefaultPvid).copied().unwrap_or(1);
        u16::try_from(pvid).ok().filter(|vlan| *vlan != 0)
    }

    /// What was in the old default VLAN by itself is in the new one.
    fn move_native(&mut self, name: &LinkName, options: &BTreeMap<BridgeOption, u32>) {
        let Some(new) = options.get(&BridgeOption::VlanDefaultPvid) else { return };
        let new = u16::try_from(*new).unwrap();
        let bridge = self.at(name).index;
        let Some(old) = self.native(bridge) else { return };
        let ports: Vec<u32> = self.seen.ports_of(bridge).map(|port| port.index).chain([bridge]).collect();
        for port in ports {
            let table = self.seen.vlans.get_mut(&port).unwrap();
            if table.get(&old) == Some(&Tagging::NATIVE) && !table.contains_key(&new) {
                table.remove(&old);
                table.insert(new, Tagging::NATIVE);
            }
        }
    }

    fn set_vlans(&mut self, port: &LinkName, untagged: Option<u16>, tagged: &BTreeSet<u16>) {
        let index = self.at(port).index;
        let table = self.seen.vlans.get_mut(&index).expect("a port of a bridge");
        if let Some(vlan) = untagged {
            table.values_mut().for_each(|how| how.pvid = false);
            table.insert(vlan, Tagging::NATIVE);
        }
        table.extend(tagged.iter().map(|vlan| (*vlan, Tagging::TAGGED)));
    }

    /// The tags whose frames a port lets in; none where its bridge does not look at them.
    pub fn tags_of(&self, port: &str) -> Option<BTreeSet<u16>> {
        let link = &self.seen.links[&self.index(port).unwrap()];
        let LinkKind::Bridge(options) = &self.seen.links[&link.bridge.unwrap()].kind else {
            panic!("no bridge")
        };
        let filters = options.get(&BridgeOption::VlanFiltering) == Some(&1);
        filters.then(|| {
            let table = self.seen.vlans.get(&link.index).cloned().unwrap_or_default();
            table.into_iter().filter(|(_, how)| !how.pvid).map(|(vlan, _)| vlan).collect()
        })
    }
}
