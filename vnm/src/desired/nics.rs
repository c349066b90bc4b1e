//! What the NICs of a VM need, one after the other: the way from a document to a [`Desired`] state.

use causeway_core::document::{Nic, Pci, VmDocument};
use causeway_core::names::{LinkName, VmId};

use super::driver::Driver;
use super::facts::Facts;
use super::function::function;
use super::guard::{Guard, aliases};
use super::port::{device_name, port};
use super::refusal::Refusal;
use super::settings::{Effective, Settings};
use super::state::{Bridge, BridgeOption, Desired, FdbEntry, Port, Vlan, Vxlan};
use super::tags::{Tags, tags};
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
        settings,
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
    for (pci, nic) in driver.selected_pcis(vm) {
        under_way.add_function(pci, nic)?;
    }
    let mut answer = under_way.answer;
    finish(&mut answer.desired);
    Ok(answer)
}

struct UnderWay<'a> {
    driver: Driver,
    vm: &'a VmDocument,
    settings: &'a Settings,
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
            self.add_seat(nic, &port, effective, guard.as_ref(), None)?;
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

    fn add_function(&mut self, pci: &Pci, nic: &Nic) -> Result<(), Refusal> {
        let notes = &mut self.answer.notes;
        let Some(function) = function(self.driver, pci, nic, self.vm, self.facts, notes)? else {
            return Ok(());
        };
        let known = &mut self.answer.desired.functions;
        if let Some(other) = known.iter().find(|other| other.is_same(&function)) {
            return Err(Refusal::Clash { nic: nic.nic_id, other: other.nic, name: function.device });
        }
        known.push(function.clone());
        match function.representor {
            Some(representor) => self.add_represented(nic, representor, function.device),
            None => Ok(()),
        }
    }

    /// The device that stands for a function is a port like any guest's, and the physical function's leads out.
    fn add_represented(&mut self, nic: &Nic, representor: LinkName, uplink: LinkName) -> Result<(), Refusal> {
        let effective = self.settings.effective(nic)?;
        let port = Port { tap: representor, ..port(self.driver, nic, self.vm.id)? };
        let guard = Guard::of(nic, self.vm, &port.tap, port.mac)?;
        let guard = Some(guard).filter(|guard| !guard.is_open());
        let inner = Nic { phydev: None, ..nic.clone() };
        self.add_seat(&inner, &port, &effective, guard.as_ref(), Some(uplink))?;
        self.answer.desired.ports.push(port);
        self.answer.desired.guards.extend(guard);
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
        let mut bridge = Bridge {
            name: port.bridge.clone(),
            options: effective.bridge.clone(),
            uplink: None,
            keep: effective.keep,
        };
        let mut way_out = nic.phydev.clone();
        if self.driver.has_tunnels() {
            let notes = &mut self.answer.notes;
            let tunnel = vxlan::tunnel(self.driver, nic, effective, port, self.facts, notes)?;
            self.add_tunnel(nic, tunnel)?;
        } else if self.driver == Driver::Dot1q {
            let vlan = vlan::vlan(nic, effective, port, self.facts, &mut self.answer.notes)?;
            way_out = Some(vlan.name.clone());
            self.add_vlan(nic, vlan)?;
        } else if let Some(uplink) = &nic.phydev {
            self.facts.uplink(nic.nic_id, uplink)?;
            bridge.uplink = Some(uplink.clone());
        }
        let tags = tags(self.driver, nic, port, way_out.as_ref(), &effective.bridge, guard)?;
        // What NICs need of a bridge is no part of the question whether two of them mean the same one.
        let state = &mut self.answer.desired;
        let filtered = guard.is_some_and(Guard::is_stateful);
        let index = match state.bridges.iter().position(|known| known.name == bridge.name) {
            Some(index) => index,
            None => {
                state.bridges.push(bridge.clone());
                state.bridges.len() - 1
            }
        };
        let known = state.bridges.get(index).map(without_needs);
        if known.is_some_and(|known| known != without_needs(&bridge)) {
            return Err(self.clash(nic, &bridge.name));
        }
        if let Some(known) = state.bridges.get_mut(index) {
            let filtering = FILTERING.map(|option| (option, 1)).into_iter().filter(|_| filtered);
            let asked = [(BridgeOption::VlanFiltering, 1)].into_iter();
            let asked = asked.filter(|(option, on)| bridge.options.get(option) == Some(on));
            known.options.extend(filtering.chain(asked).chain(tags.iter().flat_map(Tags::options)));
        }
        state.tags.extend(tags);
        Ok(())
    }

    fn add_seat(
        &mut self,
        nic: &Nic,
        port: &Port,
        effective: &Effective,
        guard: Option<&Guard>,
        uplink: Option<LinkName>,
    ) -> Result<(), Refusal> {
        let mut switch = ovswitch::switch(nic, port, effective, self.facts)?;
        switch.uplinks.extend(uplink);
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

fn without_needs(bridge: &Bridge) -> Bridge {
    let mut bridge = bridge.clone();
    let by_vlan = [BridgeOption::VlanFiltering, BridgeOption::VlanDefaultPvid];
    bridge.options.retain(|option, _| !FILTERING.contains(option) && !by_vlan.contains(option));
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
    state.functions.sort_by_key(|function| function.nic);
    state.tags.sort_by_key(|tags| tags.nic);
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
