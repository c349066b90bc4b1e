//! What must exist on a host for the NICs of one VM: plain data, the same on every host kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use causeway_core::names::{DeployId, LinkName, Mac, VmId, Vni};
use serde::{Deserialize, Serialize};

use super::function::Function;
use super::guard::Guard;
use super::number::Number;
use super::services::Services;
use super::switch::{Switch, SwitchPort};
use super::tags::Tags;

/// The network of one VM on one host. Lists are sorted by name or NIC, so that equal states are equal texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Whose network it is.
    pub vm: VmId,
    /// The guest, where it is known already.
    pub deploy: Option<DeployId>,
    /// The guest's devices. Libvirt creates and plugs them; we only wait for none of them.
    pub ports: Vec<Port>,
    /// The Linux bridges that the devices are plugged into.
    pub bridges: Vec<Bridge>,
    /// The tunnels that join the bridges of several hosts.
    pub tunnels: Vec<Vxlan>,
    /// The VLAN devices that do so.
    pub vlans: Vec<Vlan>,
    /// The VLANs within their bridges that the guest's devices are in, where bridges filter by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tags>,
    /// The bridges of Open vSwitch that the devices are plugged into.
    pub switches: Vec<Switch>,
    /// The guest's ports on them.
    pub seats: Vec<SwitchPort>,
    /// What guests reach in their own network, on Linux bridges that have that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Services>,
    /// The virtual functions that the guest has for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<Function>,
    /// What may pass by each NIC; one that is open has none.
    pub guards: Vec<Guard>,
    /// The numbers of its NICs on this host, as they are reserved; empty where nothing is reserved yet.
    pub numbers: BTreeMap<u32, Number>,
    /// Where the guest's addresses are found, once its devices are there.
    pub fdb: Vec<FdbEntry>,
}

impl Desired {
    /// Nothing at all.
    pub fn nothing(vm: VmId) -> Self {
        Desired {
            vm,
            deploy: None,
            ports: Vec::new(),
            bridges: Vec::new(),
            tunnels: Vec::new(),
            vlans: Vec::new(),
            tags: Vec::new(),
            switches: Vec::new(),
            seats: Vec::new(),
            services: Vec::new(),
            functions: Vec::new(),
            guards: Vec::new(),
            numbers: BTreeMap::new(),
            fdb: Vec::new(),
        }
    }
}

impl Desired {
    /// The NICs that need a device of that name: as their own, their bridge, or a way out of that.
    pub fn nics_of(&self, device: &str) -> BTreeSet<u32> {
        let is = |name: &LinkName| name.as_str() == device;
        let tunnels: BTreeSet<&LinkName> =
            self.tunnels.iter().filter(|t| is(&t.name) || is(&t.uplink)).map(|t| &t.name).collect();
        let of_tunnels =
            self.tunnels.iter().filter(|t| tunnels.contains(&t.name)).filter_map(|t| t.bridge.as_ref());
        let of_vlans = self.vlans.iter().filter(|v| is(&v.name) || is(&v.uplink)).map(|vlan| &vlan.bridge);
        let of_uplinks = self.bridges.iter().filter(|b| b.uplink.as_ref().is_some_and(is)).map(|b| &b.name);
        let of_switches = self
            .switches
            .iter()
            .filter(|switch| switch.uplinks.iter().any(|uplink| is(uplink) || tunnels.contains(uplink)));
        let of_switches = of_switches.map(|switch| &switch.name);
        let bridges: BTreeSet<&LinkName> =
            of_tunnels.chain(of_vlans).chain(of_uplinks).chain(of_switches).collect();
        let needs = |port: &&Port| is(&port.tap) || is(&port.bridge) || bridges.contains(&port.bridge);
        let functions = self.functions.iter().filter(|function| is(&function.device));
        let ports = self.ports.iter().filter(needs).map(|port| port.nic);
        ports.chain(functions.map(|function| function.nic)).collect()
    }

    /// What an action on it must have for itself: its bridges, and the physical functions of its virtual ones.
    pub fn places(&self) -> impl Iterator<Item = &LinkName> {
        let devices = self.functions.iter().map(|function| &function.device);
        self.ports.iter().map(|port| &port.bridge).chain(devices)
    }

    /// The devices by which its bridges lead out of the host.
    pub fn ways_out(&self) -> impl Iterator<Item = &LinkName> {
        let tunnels = self.tunnels.iter().map(|tunnel| &tunnel.name);
        let vlans = self.vlans.iter().map(|vlan| &vlan.name);
        let uplinks = self.bridges.iter().filter_map(|bridge| bridge.uplink.as_ref());
        tunnels.chain(vlans).chain(uplinks).chain(self.switches.iter().flat_map(|switch| &switch.uplinks))
    }

    /// Whether one of its Linux bridges leads out of the host: by an uplink, or by a device that is made for that.
    pub fn leads_out(&self, bridge: &Bridge) -> bool {
        bridge.uplink.is_some() || self.has_device(&bridge.name)
    }

    /// Whether a device is made by which a Linux bridge leads out: a tunnel, or a VLAN.
    pub fn has_device(&self, bridge: &LinkName) -> bool {
        let tunnels = self.tunnels.iter().filter_map(|tunnel| tunnel.bridge.as_ref());
        tunnels.chain(self.vlans.iter().map(|vlan| &vlan.bridge)).any(|name| name == bridge)
    }
}

/// One NIC's device on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// `NIC_ID`.
    pub nic: u32,
    /// The tap, always `one-<VM>-<NIC>`.
    pub tap: LinkName,
    /// The bridge that libvirt plugs it into: of Linux, or of Open vSwitch.
    pub bridge: LinkName,
    /// The guest's Ethernet address.
    pub mac: Mac,
    /// The guest's addresses, for announcements; leases only, never trusted for more.
    pub addresses: Vec<IpAddr>,
}

/// A Linux bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Its name.
    pub name: LinkName,
    /// Options set when it is made, and set again where they differ.
    pub options: BTreeMap<BridgeOption, u32>,
    /// The device that is a port of it and leads out of the host (`PHYDEV` of `bridge` and `fw`).
    pub uplink: Option<LinkName>,
    /// Keep it, and its tunnel, when the last guest has left (`keep_empty_bridge`).
    pub keep: bool,
}

/// A bridge option under the name that `ip link` and `ip_bridge_conf` use. Times are in hundredths of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BridgeOption {
    /// How long a learned address is kept.
    AgeingTime,
    /// Time in the listening and learning states.
    ForwardDelay,
    /// Time between STP hellos.
    HelloTime,
    /// Longest age of an STP message.
    MaxAge,
    /// 1: speak STP.
    StpState,
    /// STP priority.
    Priority,
    /// 1: filter by VLAN.
    VlanFiltering,
    /// The VLAN of a new port's frames without a tag; 0 is none.
    VlanDefaultPvid,
    /// 1: forward multicast to listeners only.
    McastSnooping,
    /// 1: ask for listeners.
    McastQuerier,
    /// 1: frames of IPv4 and ARP come by the rules of `inet` on their way through it.
    NfCallIptables,
    /// 1: the same for IPv6.
    NfCallIp6tables,
}

/// A VXLAN device (contract VNM 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    /// `PHYDEV.VLAN_ID`.
    pub name: LinkName,
    /// The Linux bridge it is a port of; none where it is a port of Open vSwitch, which says so itself.
    pub bridge: Option<LinkName>,
    /// `PHYDEV`.
    pub uplink: LinkName,
    /// What tells it from every other tunnel: while the device exists, none of this can be changed.
    pub identity: VxlanIdentity,
    /// What can be changed while guests use it.
    pub tuning: VxlanTuning,
    /// Largest payload of its frames, in bytes.
    pub mtu: u32,
}

/// A VLAN device of the kernel (contract VNM 4.1, `802.1Q`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// `PHYDEV.VLAN_ID`.
    pub name: LinkName,
    /// The bridge it is a port of.
    pub bridge: LinkName,
    /// `PHYDEV`.
    pub uplink: LinkName,
    /// What tells it from every other one: while the device exists, none of this can be changed.
    pub identity: VlanIdentity,
    /// Largest payload of its frames, in bytes.
    pub mtu: u32,
}

/// The part of a VLAN device that is fixed at its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanIdentity {
    /// `VLAN_ID`, from 1 to 4094.
    pub tag: u16,
    /// Whether the tag is one of a provider (802.1ad), not of a customer.
    pub provider: bool,
}

/// As `ip -d link` spells it.
impl fmt::Display for VlanIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.provider { "802.1ad" } else { "802.1Q" };
        write!(f, "protocol {protocol} id {}", self.tag)
    }
}

/// The part of a VXLAN device that is fixed at its creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanIdentity {
    /// The network's number.
    pub vni: Vni,
    /// The device whose routes and addresses it uses; none where it is bound to `local` alone.
    pub device: Option<LinkName>,
    /// The multicast group that unknown destinations are sent to; none with EVPN.
    pub group: Option<IpAddr>,
    /// The address it sends from; none leaves it to the route.
    pub local: Option<IpAddr>,
    /// UDP destination port.
    pub port: u16,
    /// Checksums in the outer UDP header.
    pub checksums: Checksums,
}

/// Checksums in the outer UDP header; the default is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// Written over IPv4.
    pub udp: bool,
    /// Left zero over IPv6.
    pub zero6_sent: bool,
    /// Accepted as zero over IPv6.
    pub zero6_accepted: bool,
}

impl Default for Checksums {
    fn default() -> Self {
        Checksums { udp: true, zero6_sent: false, zero6_accepted: false }
    }
}

/// The part of a VXLAN device that can be changed; the default is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanTuning {
    /// Hop limit of the outer header; 0 leaves it to the kernel.
    pub ttl: u8,
    /// Type of service of the outer header.
    pub tos: u8,
    /// Learn from received frames where an address is.
    pub learning: bool,
    /// Seconds until a learned address is forgotten.
    pub ageing: u32,
    /// Forbid fragmentation of the outer packet.
    pub df: bool,
}

impl Default for VxlanTuning {
    fn default() -> Self {
        VxlanTuning { ttl: 0, tos: 0, learning: true, ageing: 300, df: false }
    }
}

/// One address of a bridge's forwarding table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FdbEntry {
    /// The bridge.
    pub bridge: LinkName,
    /// The address.
    pub mac: Mac,
    /// The port it is behind.
    pub port: LinkName,
}

impl BridgeOption {
    /// Every option, with its name, the lowest and the highest value that the kernel takes.
    pub const TABLE: [(BridgeOption, &'static str, u32, u32); 12] = [
        (BridgeOption::AgeingTime, "ageing_time", 0, 100_000_000),
        (BridgeOption::ForwardDelay, "forward_delay", 0, 3000),
        (BridgeOption::HelloTime, "hello_time", 100, 1000),
        (BridgeOption::MaxAge, "max_age", 600, 4000),
        (BridgeOption::StpState, "stp_state", 0, 1),
        (BridgeOption::Priority, "priority", 0, 65_535),
        (BridgeOption::VlanFiltering, "vlan_filtering", 0, 1),
        (BridgeOption::VlanDefaultPvid, "vlan_default_pvid", 0, 4094),
        (BridgeOption::McastSnooping, "mcast_snooping", 0, 1),
        (BridgeOption::McastQuerier, "mcast_querier", 0, 1),
        (BridgeOption::NfCallIptables, "nf_call_iptables", 0, 1),
        (BridgeOption::NfCallIp6tables, "nf_call_ip6tables", 0, 1),
    ];
}

impl fmt::Display for BridgeOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = BridgeOption::TABLE.iter().find(|row| row.0 == *self);
        f.write_str(row.map_or("", |row| row.1))
    }
}

/// As `ip -d link` spells it: `vni 4 dev eth0 group 239.0.0.4 dstport 8472`.
impl fmt::Display for VxlanIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vni {}", self.vni)?;
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if let Some(group) = self.group {
            write!(f, " group {group}")?;
        }
        if let Some(local) = self.local {
            write!(f, " local {local}")?;
        }
        write!(f, " dstport {}", self.port)?;
        if self.checksums != Checksums::default() {
            let Checksums { udp, zero6_sent, zero6_accepted } = self.checksums;
            write!(f, " udpcsum {udp} udp6zerocsumtx {zero6_sent} udp6zerocsumrx {zero6_accepted}")?;
        }
        Ok(())
    }
}
