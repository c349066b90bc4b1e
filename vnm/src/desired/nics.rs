//! What the NICs of a VM need, one after the other: the way from a document to a [`Desired`] state.

use causeway_core::document::{Nic, VmDocument};
use causeway_core::names::{LinkName, VmId};

use super::driver::Driver;
use super::facts::Facts;
use super::guard::{Guard, aliases};
use super::port::{device_name, port};
use super::refusal::Refusal;
use super::settings::{Effective, Settings};
use super::state::{Bridge, BridgeOption, Desired, FdbEntry, Port, Vlan, Vxlan};
use super::{ovswitch, services, vlan, vxlan};

/// A desired state and what the VM's owner should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What must exist.
    pub desired: Desired,
    /// What was not taken as it was asked for.
    pub notes: Vec<String>,
}

/// Works out what must exist for the selected NICs of `vm`.
///
/// # Errors
/// A [`Refusal`], for the first thing that is wrong.
pub fn desired(
    driver: Driver,
    vm: &VmDocument,
    settings: &Settings,
    facts: &Facts,
) -> Result<Answer, Refusal> {
    driver.refuse_others(vm)?;
    let mut under_way = UnderWay {
        driver,
        vm,
        facts,
        answer: Answer {
            desired: Desired { deploy: vm.deploy_id.clone(), ..Desired::nothing(vm.id) },
            notes: Vec::new(),
        },
    };
    for nic in driver.selected(vm) {
        let added = settings.effective(nic).and_then(|effective| under_way.add(nic, &effective));
        let added = added.and_then(|()| under_way.serve(nic, settings));
        added.map_err(|refusal| refusal.for_nic(nic.nic_id))?;
    }
    let mut answer = under_way.answer;
    finish(&mut answer.desired);
    Ok(answer)
}

struct UnderWay<'a> {
    driver: Driver,
    vm: &'a VmDocument,
    facts: &'a Facts,
    answer: Answer,
}

impl UnderWay<'_> {
    fn add(&mut self, nic: &Nic, effective: &Effective) -> Result<(), Refusal> {
        let mut port = port(self.driver, nic, self.vm.id)?;
        // The guest has those of its aliases on the same device.
        port.addresses
            .extend(aliases(self.vm, nic).flat_map(|alias| alias.addresses.all().collect::<Vec<_>>()));
        let guard = match self.driver.guards() {
            true => Some(Guard::of(nic, self.vm, &port.tap, port.mac)?).filter(|guard| !guard.is_open()),
            false => None,
        };
        if nic.phydev.is_none() && self.driver.needs_uplink() {
            return self.add_nothing(nic, guard.is_some());
        }
        if self.driver.is_switch() {
            self.add_seat(nic, &port, effective, guard.as_ref())?;
        } else {
            self.add_to_bridge(nic, &port, effective, guard.as_ref())?;
        }
        self.answer.desired.ports.push(port);
        self.answer.desired.guards.extend(guard);
        Ok(())
    }

    /// A bridge that two of the VM's networks have in common has the services of both.
    fn serve(&mut self, nic: &Nic, settings: &Settings) -> Result<(), Refusal> {
        let state = &mut self.answer.desired;
        let ours =
            |port: &&Port| port.nic == nic.nic_id && state.bridges.iter().any(|b| b.name == port.bridge);
        let Some(bridge) = state.ports.iter().find(ours).map(|port| port.bridge.clone()) else {
            return Ok(());
        };
        let Some(found) = services::services(nic, &bridge, settings, state)? else { return Ok(()) };
        match state.services.iter_mut().find(|known| known.bridge == bridge) {
            Some(known) => found.endpoints.into_iter().for_each(|(port, endpoint)| {
                known.endpoints.entry(port).or_insert(endpoint);
            }),
            None => state.services.push(found),
        }
        Ok(())
    }

    /// The bridge of such a NIC is the operator's. Stock does nothing for it either, but filter: that takes a bridge of ours.
    fn add_nothing(&mut self, nic: &Nic, guarded: bool) -> Result<(), Refusal> {
        if guarded {
            let why =
                "its bridge has to be ours, because SECURITY_GROUPS or FILTER_* keep something away from it";
            return Err(Refusal::Missing { nic: nic.nic_id, attribute: "PHYDEV", why });
        }
        self.answer.notes.push(format!("NIC {}: no PHYDEV, so nothing to prepare", nic.nic_id));
        Ok(())
    }

    fn add_to_bridge(
        &mut self,
        nic: &Nic,
        port: &Port,
        effective: &Effective,
        guard: Option<&Guard>,
    ) -> Result<(), Refusal> {
        if !nic.vlan_tagged_id.is_empty() && !self.driver.has_tunnels() {
            let accepted = "absent: a bridge of Linux with VLANs of its own is not built yet";
            let found = nic.vlan_tagged_id.to_string();
            return Err(Refusal::malformed(nic.nic_id, "VLAN_TAGGED_ID", &found, accepted));
        }
        let mut bridge = Bridge {
            name: port.bridge.clone(),
            options: effective.bridge.clone(),
            uplink: None,
            keep: effective.keep,
        };
        if self.driver.has_tunnels() {
            let notes = &mut self.answer.notes;
            let tunnel = vxlan::tunnel(self.driver, nic, effective, port, self.facts, notes)?;
            self.add_tunnel(nic, tunnel)?;
        } else if self.driver == Driver::Dot1q {
            let vlan = vlan::vlan(nic, effective, port, self.facts, &mut self.answer.notes)?;
            self.add_vlan(nic, vlan)?;
        } else if let Some(uplink) = &nic.phydev {
            self.facts.uplink(nic.nic_id, uplink)?;
            bridge.uplink = Some(uplink.clone());
        }
        // The options of filtering are no part of the question whether two NICs mean the same bridge.
        let state = &mut self.answer.desired;
        let filtered = guard.is_some_and(Guard::is_stateful);
        let index = match state.bridges.iter().position(|known| known.name == bridge.name) {
            Some(index) => index,
            None => {
                state.bridges.push(bridge.clone());
                state.bridges.len() - 1
            }
        };
        let known = state.bridges.get(index).map(without_filtering);
        if known.is_some_and(|known| known != without_filtering(&bridge)) {
            return Err(self.clash(nic, &bridge.name));
        }
        if let Some(known) = state.bridges.get_mut(index).filter(|_| filtered) {
            known.options.extend(FILTERING.map(|option| (option, 1)));
        }
        Ok(())
    }

    fn add_seat(
        &mut self,
        nic: &Nic,
        port: &Port,
        effective: &Effective,
        guard: Option<&Guard>,
    ) -> Result<(), Refusal> {
        let mut switch = ovswitch::switch(nic, port, effective, self.facts)?;
        if self.driver.has_tunnels() {
            let notes = &mut self.answer.notes;
            let tunnel = vxlan::tunnel(self.driver, nic, effective, port, self.facts, notes)?;
            switch.uplinks = [tunnel.name.clone()].into();
            self.add_tunnel(nic, tunnel)?;
        }
        let seat = ovswitch::seat(nic, port, effective, guard)?;
        let known = self.answer.desired.switches.iter().find(|known| known.name == switch.name);
        match known {
            Some(known) if *known == switch => {}
            Some(_) => return Err(self.clash(nic, &switch.name)),
            None => self.answer.desired.switches.push(switch),
        }
        self.answer.desired.seats.push(seat);
        Ok(())
    }

    /// One bridge has one tunnel, and one tunnel is in one bridge: anything else joins two networks (W25).
    fn add_tunnel(&mut self, nic: &Nic, tunnel: Vxlan) -> Result<(), Refusal> {
        let near = |t: &&Vxlan| t.name == tunnel.name || (t.bridge.is_some() && t.bridge == tunnel.bridge);
        match self.answer.desired.tunnels.iter().find(near) {
            Some(same) if *same == tunnel => {}
            Some(_) => return Err(self.clash(nic, &tunnel.name)),
            None => self.answer.desired.tunnels.push(tunnel),
        }
        Ok(())
    }

    fn add_vlan(&mut self, nic: &Nic, vlan: Vlan) -> Result<(), Refusal> {
        let near = |v: &&Vlan| v.name == vlan.name || v.bridge == vlan.bridge;
        match self.answer.desired.vlans.iter().find(near) {
            Some(same) if *same == vlan => {}
            Some(_) => return Err(self.clash(nic, &vlan.name)),
            None => self.answer.desired.vlans.push(vlan),
        }
        Ok(())
    }

    /// The refusal of a second meaning of `name`; the other NIC is the last one that was taken.
    fn clash(&self, nic: &Nic, name: &LinkName) -> Refusal {
        let same = |port: &&Port| port.bridge == *name || Some(&port.bridge) == nic.bridge.as_ref();
        let ports = &self.answer.desired.ports;
        let other = ports.iter().find(same).or(ports.last()).map_or(nic.nic_id, |port| port.nic);
        Refusal::Clash { nic: nic.nic_id, other, name: name.clone() }
    }
}

/// What a bridge needs so that its frames come by the rules of `inet`.
const FILTERING: [BridgeOption; 2] = [BridgeOption::NfCallIptables, BridgeOption::NfCallIp6tables];

fn without_filtering(bridge: &Bridge) -> Bridge {
    let mut bridge = bridge.clone();
    bridge.options.retain(|option, _| !FILTERING.contains(option));
    bridge
}

/// What a NIC's devices are called: enough to take them away, whatever the rest of the document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Its device and its bridge.
    pub port: Port,
    /// Whether the bridge is kept when it is empty.
    pub keep: bool,
    /// Its tunnel or VLAN device, if it has one.
    pub tunnel: Option<LinkName>,
    /// `PHYDEV`.
    pub uplink: Option<LinkName>,
}

/// Works out the names of a NIC's devices.
///
/// # Errors
/// A [`Refusal`] if there are no such devices; then there is nothing to take away.
pub fn names(driver: Driver, nic: &Nic, vm: VmId, settings: &Settings) -> Result<Names, Refusal> {
    let tunnel = match (&nic.phydev, nic.vni(), nic.vlan_tag()) {
        (Some(uplink), Some(vni), _) => Some(vxlan::tunnel_name(driver, nic.nic_id, uplink, vni)?),
        (Some(uplink), None, Some(tag)) if driver == Driver::Dot1q => {
            Some(device_name(nic.nic_id, uplink, "VLAN_ID", &tag)?)
        }
        _ => None,
    };
    Ok(Names {
        port: port(driver, nic, vm)?,
        // With settings that cannot be read, nobody knows that the bridge may go.
        keep: settings.effective(nic).map_or(true, |effective| effective.keep),
        tunnel,
        uplink: nic.phydev.clone(),
    })
}

/// Sorts, and derives where each address is found.
fn finish(state: &mut Desired) {
    state.ports.sort_by_key(|port| port.nic);
    state.seats.sort_by_key(|seat| seat.nic);
    state.guards.sort_by_key(|guard| guard.nic);
    state.bridges.sort_by(|a, b| a.name.cmp(&b.name));
    state.switches.sort_by(|a, b| a.name.cmp(&b.name));
    state.tunnels.sort_by(|a, b| a.name.cmp(&b.name));
    state.vlans.sort_by(|a, b| a.name.cmp(&b.name));
    let linux = state.ports.iter().filter(|port| state.bridges.iter().any(|b| b.name == port.bridge));
    state.fdb = fdb(&linux.cloned().collect::<Vec<_>>());
}

/// One entry per address and bridge; an address that two NICs of one bridge share is found nowhere in particular.
pub fn fdb(ports: &[Port]) -> Vec<FdbEntry> {
    let shared =
        |port: &Port| ports.iter().filter(|p| p.mac == port.mac && p.bridge == port.bridge).count() > 1;
    let entry = |port: &Port| FdbEntry { bridge: port.bridge.clone(), mac: port.mac, port: port.tap.clone() };
    let mut entries: Vec<FdbEntry> = ports.iter().filter(|port| !shared(port)).map(entry).collect();
    entries.sort();
    entries
}
