//! The network drivers that are built, and which NICs of a VM an action of one is about.

use causeway_core::document::{DriverName, Nic, Pci, VmDocument};

use super::refusal::Refusal;

/// A network driver, by its `VN_MAD` (contract VNM 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `bridge`: a Linux bridge, and `PHYDEV` as a port of it.
    Bridge,
    /// `fw`: the same with security groups and filters.
    Fw,
    /// `802.1Q`: a Linux bridge and a VLAN device.
    Dot1q,
    /// `vxlan`: a Linux bridge and a tunnel.
    Vxlan,
    /// `ovswitch`: a bridge of Open vSwitch.
    OvSwitch,
    /// `ovswitch_vxlan`: the same with a tunnel of the kernel as its way out.
    OvSwitchVxlan,
}

impl Driver {
    /// Every driver with its name.
    pub const NAMES: [(&str, Driver); 6] = [
        ("bridge", Driver::Bridge),
        ("fw", Driver::Fw),
        ("802.1Q", Driver::Dot1q),
        ("vxlan", Driver::Vxlan),
        ("ovswitch", Driver::OvSwitch),
        ("ovswitch_vxlan", Driver::OvSwitchVxlan),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Driver::NAMES.iter().find(|(_, driver)| *driver == self).map_or("", |(name, _)| name)
    }

    /// Whether its guests are plugged into Open vSwitch.
    pub fn is_switch(self) -> bool {
        matches!(self, Driver::OvSwitch | Driver::OvSwitchVxlan)
    }

    /// Whether each of its networks has a tunnel.
    pub fn has_tunnels(self) -> bool {
        matches!(self, Driver::Vxlan | Driver::OvSwitchVxlan)
    }

    /// Whether each of its networks has a device of its own on the uplink: without `PHYDEV` there is nothing to make.
    pub fn needs_uplink(self) -> bool {
        self.has_tunnels() || self == Driver::Dot1q
    }

    /// Whether it keeps away what a guest may not send or get. Networks of `bridge` are open by their definition.
    pub fn guards(self) -> bool {
        self != Driver::Bridge
    }

    /// The NICs an action is about: the one with `ATTACH` if there is one, that of an alias which has it, none if a PCI device
    /// has it, else all of this driver's (contract VNM 4.6).
    pub fn selected(self, vm: &VmDocument) -> Vec<&Nic> {
        let attached = |nic: &Nic| {
            nic.attach || vm.aliases.iter().any(|alias| alias.attach && alias.parent_id == Some(nic.nic_id))
        };
        let all = selects_all(vm);
        vm.nics.iter().filter(|nic| nic.is(self.name()) && (all || attached(nic))).collect()
    }

    /// The PCI devices in networks of this driver that an action is about: the one with `ATTACH` if there is one, none if a NIC or an
    /// alias has it, else all (contract VNM 4.8).
    pub fn selected_pcis(self, vm: &VmDocument) -> Vec<(&Pci, &Nic)> {
        let all = selects_all(vm);
        let networked = vm.pcis.iter().filter_map(|pci| Some((pci, pci.nic.as_ref()?)));
        networked.filter(|(pci, nic)| nic.is(self.name()) && (all || pci.attach)).collect()
    }

    /// Refuses devices that this driver has nothing for.
    ///
    /// # Errors
    /// A PCI device of one of its networks.
    pub(super) fn refuse_others(self, vm: &VmDocument) -> Result<(), Refusal> {
        let devices = vm.pcis.iter().filter_map(|pci| pci.nic.as_ref());
        match devices.into_iter().find(|nic| nic.is(self.name())) {
            Some(nic) if self.has_tunnels() => {
                let accepted = "possible for a PCI device: no card puts its frames into the tunnel";
                Err(Refusal::malformed(nic.nic_id, "VN_MAD", self.name(), accepted))
            }
            _ => Ok(()),
        }
    }
}

impl TryFrom<&DriverName> for Driver {
    type Error = String;
    fn try_from(name: &DriverName) -> Result<Self, String> {
        let found = Driver::NAMES.iter().find(|(known, _)| name == known).map(|(_, driver)| *driver);
        found.ok_or_else(|| {
            let known: Vec<&str> = Driver::NAMES.iter().map(|(known, _)| *known).collect();
            format!("network driver {name} is not built yet: built are {}", known.join(" "))
        })
    }
}

/// Whether an action is about the whole VM, not about one device that is plugged or unplugged.
pub fn selects_all(vm: &VmDocument) -> bool {
    let nics = vm.nics.iter().chain(&vm.aliases).any(|nic| nic.attach);
    !nics && !vm.pcis.iter().any(|pci| pci.attach)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_is_known_to_the_plans() {
        assert_eq!(Driver::NAMES.map(|(name, _)| name), DriverName::OURS);
    }
}
