//! Network interfaces as a VM document describes them: `NIC`, `NIC_ALIAS` and the network part of `PCI`
//! (contract VNM 3.1, 3.2).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::bandwidth::Bandwidth;
use super::reading::{DocumentError, Form, NumberList, Reading};
use super::tree::Element;
use super::words::DriverName;
use crate::names::{LinkName, Mac, Vni};

/// The network drivers of the stock release. Their attributes have forms that we know; another's have not.
const STOCK: [&str; 9] =
    ["dummy", "bridge", "fw", "802.1Q", "vxlan", "ovswitch", "ovswitch_vxlan", "elastic", "nodeport"];

/// The highest 802.1Q tag: 4095 is reserved, and the kernel refuses it.
const LAST_TAG: u32 = 4094;

/// What carries the frames of a network (`BRIDGE_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeType {
    /// A bridge of the kernel.
    Linux,
    /// Open vSwitch.
    OpenVSwitch,
    /// Open vSwitch with its own data path; the guest is connected by a socket.
    OpenVSwitchDpdk,
    /// None at all.
    None,
}

const BRIDGE_TYPES: [(&str, BridgeType); 4] = [
    ("linux", BridgeType::Linux),
    ("openvswitch", BridgeType::OpenVSwitch),
    ("openvswitch_dpdk", BridgeType::OpenVSwitchDpdk),
    ("none", BridgeType::None),
];

impl BridgeType {
    /// As oned spells it.
    pub fn word(self) -> &'static str {
        BRIDGE_TYPES.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// The outer tag's type of a double-tagged network (`QINQ_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QinqType {
    /// Ethertype 0x8100.
    #[default]
    Dot1q,
    /// Ethertype 0x88a8.
    Dot1ad,
}

const QINQ_TYPES: [(&str, QinqType); 2] = [("802.1q", QinqType::Dot1q), ("802.1ad", QinqType::Dot1ad)];

/// How a vxlan network learns where a MAC is (`VXLAN_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VxlanMode {
    /// By flooding to a multicast group.
    Multicast,
    /// By a routing daemon.
    Evpn,
}

/// The words of `VXLAN_MODE`, of the network and of `OpenNebulaNetwork.conf`.
pub const VXLAN_MODES: [(&str, VxlanMode); 2] =
    [("multicast", VxlanMode::Multicast), ("evpn", VxlanMode::Evpn)];

/// Which local end point an evpn link has (`VXLAN_TEP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VxlanTep {
    /// The device.
    Dev,
    /// The first address of the device.
    LocalIp,
}

/// The words of `VXLAN_TEP`, of the network and of `OpenNebulaNetwork.conf`.
pub const VXLAN_TEPS: [(&str, VxlanTep); 2] = [("dev", VxlanTep::Dev), ("local_ip", VxlanTep::LocalIp)];

/// 802.1Q tags, single or as ranges with both ends: `100,200-210`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagRanges(pub Vec<(u16, u16)>);

impl TagRanges {
    /// Every tag, in the order of the list.
    pub fn tags(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|(low, high)| *low..=*high)
    }

    /// Whether no tag is listed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As the list was written: `3,10-12`.
impl fmt::Display for TagRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (low, high)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match low == high {
                true => write!(f, "{comma}{low}")?,
                false => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

impl Form for TagRanges {
    const ACCEPTED: &'static str = "tags from 0 to 4094 or ranges of them (n-m) with commas between";
    fn read(text: &str) -> Option<Self> {
        let tag = |text: &str| u16::read(text.trim()).filter(|n| u32::from(*n) <= LAST_TAG);
        let item = |item: &str| match item.split_once('-') {
            None => tag(item).map(|n| (n, n)),
            Some((low, high)) => Some((tag(low)?, tag(high)?)).filter(|(low, high)| low <= high),
        };
        let items = text.split(',').filter(|item| !item.trim().is_empty());
        // 4095 items name every tag once; more is a mistake that would cost memory later.
        let ranges: Vec<(u16, u16)> = items.take(4096).map(item).collect::<Option<_>>()?;
        Some(TagRanges(ranges)).filter(|list| list.0.len() < 4096)
    }
}

/// What one network says otherwise than `OpenNebulaNetwork.conf` (contract VNM 2, last table). Keys in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkOverrides {
    /// `CONF`: scalar keys of the file.
    pub conf: BTreeMap<String, String>,
    /// `IP_LINK_CONF`; an empty value is a flag, `__delete__` removes the file's key.
    pub ip_link_conf: BTreeMap<String, String>,
    /// `BRIDGE_CONF`.
    pub bridge_conf: BTreeMap<String, String>,
    /// `OVS_BRIDGE_CONF`.
    pub ovs_bridge_conf: BTreeMap<String, String>,
    /// `VXLAN_MODE`.
    pub vxlan_mode: Option<VxlanMode>,
    /// `VXLAN_TEP`.
    pub vxlan_tep: Option<VxlanTep>,
    /// `VXLAN_MC`.
    pub vxlan_mc: Option<Ipv4Addr>,
}

/// Addresses besides the MAC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `IP`.
    pub ip: Option<Ipv4Addr>,
    /// `IP6`: a lease without autoconfiguration.
    pub ip6: Option<Ipv6Addr>,
    /// `IP6_LINK`.
    pub ip6_link: Option<Ipv6Addr>,
    /// `IP6_GLOBAL`.
    pub ip6_global: Option<Ipv6Addr>,
    /// `IP6_ULA`.
    pub ip6_ula: Option<Ipv6Addr>,
    /// `VROUTER_IP` and the `VROUTER_IP6*`: floating addresses that the guest may use as well.
    pub vrouter: Vec<IpAddr>,
}

impl Addresses {
    /// Every address the guest may send from.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        let six = [self.ip6, self.ip6_link, self.ip6_global, self.ip6_ula];
        let own = self.ip.map(IpAddr::from).into_iter();
        own.chain(six.into_iter().flatten().map(IpAddr::from)).chain(self.vrouter.iter().copied())
    }

    fn read(from: &mut Reading<'_>) -> Self {
        let four: Option<Ipv4Addr> = from.get("VROUTER_IP");
        let mut vrouter: Vec<IpAddr> = four.map(IpAddr::from).into_iter().collect();
        for name in ["VROUTER_IP6", "VROUTER_IP6_GLOBAL", "VROUTER_IP6_LINK", "VROUTER_IP6_ULA"] {
            vrouter.extend(from.get::<Ipv6Addr>(name).map(IpAddr::from));
        }
        Addresses {
            ip: from.get("IP"),
            ip6: from.get("IP6"),
            ip6_link: from.get("IP6_LINK"),
            ip6_global: from.get("IP6_GLOBAL"),
            ip6_ula: from.get("IP6_ULA"),
            vrouter,
        }
    }
}

/// One `NIC` or `NIC_ALIAS`, or a `PCI` device that is connected to a network.
///
/// Of a NIC whose `VN_MAD` is not one of the stock release's only the identity is read: its driver alone knows the forms
/// of the rest, which it finds in [`element`](Nic::element).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// `NIC_ID`.
    pub nic_id: u32,
    /// `NETWORK`: the network's name, for messages.
    pub network: Option<String>,
    /// `NETWORK_ID`.
    pub network_id: Option<u32>,
    /// `VN_MAD`: the network driver; without one no network driver is run for this NIC.
    pub vn_mad: Option<DriverName>,
    /// `BRIDGE`.
    pub bridge: Option<LinkName>,
    /// `BRIDGE_TYPE`.
    pub bridge_type: Option<BridgeType>,
    /// `PHYDEV`: the uplink.
    pub phydev: Option<LinkName>,
    /// `VLAN_ID`: a tag, or for `vxlan` the VNI; see [`vlan_tag`](Nic::vlan_tag) and [`vni`](Nic::vni).
    pub vlan_id: Option<u32>,
    /// `OUTER_VLAN_ID`: for `ovswitch_vxlan` the VNI.
    pub outer_vlan_id: Option<u32>,
    /// `VLAN_TAGGED_ID`: tags that the guest may send itself.
    pub vlan_tagged_id: TagRanges,
    /// `CVLANS`: inner tags of a double-tagged network.
    pub cvlans: TagRanges,
    /// `QINQ_TYPE`.
    pub qinq_type: QinqType,
    /// `MAC`.
    pub mac: Option<Mac>,
    /// `IP` and its relatives.
    pub addresses: Addresses,
    /// `TARGET`: the tap's name on the host (an alias has one that no device bears).
    pub target: Option<LinkName>,
    /// `MTU`, bytes.
    pub mtu: Option<u32>,
    /// `FILTER_MAC_SPOOFING`.
    pub filter_mac_spoofing: bool,
    /// `FILTER_IP_SPOOFING`.
    pub filter_ip_spoofing: bool,
    /// `SECURITY_GROUPS`.
    pub security_groups: Vec<u32>,
    /// `ATTACH`: this is the one being plugged or unplugged.
    pub attach: bool,
    /// `PARENT_ID`: the NIC that an alias belongs to.
    pub parent_id: Option<u32>,
    /// `ALIAS_IDS`: the aliases that belong to this NIC.
    pub alias_ids: Vec<u32>,
    /// `MODEL`, as libvirt takes it.
    pub model: Option<String>,
    /// `INBOUND_*`: towards the guest.
    pub inbound: Bandwidth,
    /// `OUTBOUND_*`: from the guest.
    pub outbound: Bandwidth,
    /// `SPOOFCHK`, for a virtual function.
    pub spoofchk: Option<bool>,
    /// `TRUST`, for a virtual function.
    pub trust: Option<bool>,
    /// What this network says otherwise than the file.
    pub overrides: NetworkOverrides,
    /// The element itself, for a driver that is not ours.
    pub element: Arc<Element>,
}

impl Nic {
    /// Reads a NIC; `None` (with a fault) if it has no usable `NIC_ID`.
    pub(super) fn read(element: &Arc<Element>, parent: &str, faults: &mut Vec<DocumentError>) -> Option<Nic> {
        let mut from = Reading::of_many(element, parent, "NIC_ID", faults);
        if from.text("NIC_ID").is_none() {
            from.missing("NIC_ID");
        }
        let nic_id = from.get("NIC_ID")?;
        let mut nic = Nic::identity(nic_id, &mut from, element);
        let ours = |name: &DriverName| STOCK.iter().any(|stock| name == stock);
        if nic.vn_mad.as_ref().is_some_and(ours) {
            nic.read_link(&mut from);
            nic.read_filters(&mut from);
            nic.read_limits(&mut from);
        }
        Some(nic)
    }

    /// What every driver needs, foreign or not.
    fn identity(nic_id: u32, from: &mut Reading<'_>, element: &Arc<Element>) -> Nic {
        Nic {
            nic_id,
            network: from.text("NETWORK"),
            network_id: from.get("NETWORK_ID"),
            vn_mad: from.name("VN_MAD"),
            bridge: None,
            bridge_type: None,
            phydev: None,
            vlan_id: None,
            outer_vlan_id: None,
            vlan_tagged_id: TagRanges::default(),
            cvlans: TagRanges::default(),
            qinq_type: QinqType::default(),
            mac: from.name("MAC"),
            addresses: Addresses::default(),
            target: from.name("TARGET"),
            mtu: None,
            filter_mac_spoofing: false,
            filter_ip_spoofing: false,
            security_groups: Vec::new(),
            attach: from.flag("ATTACH"),
            parent_id: from.get("PARENT_ID"),
            alias_ids: from.get::<NumberList>("ALIAS_IDS").unwrap_or_default().0,
            model: from.text("MODEL"),
            inbound: Bandwidth::default(),
            outbound: Bandwidth::default(),
            spoofchk: None,
            trust: None,
            overrides: NetworkOverrides::default(),
            element: Arc::clone(element),
        }
    }

    /// How the frames travel.
    fn read_link(&mut self, from: &mut Reading<'_>) {
        let last_vlan = if self.is("vxlan") { (1 << 24) - 1 } else { LAST_TAG };
        self.bridge = from.name("BRIDGE");
        self.bridge_type = from.word("BRIDGE_TYPE", &BRIDGE_TYPES);
        self.phydev = from.name("PHYDEV");
        self.vlan_id = from.number("VLAN_ID", 0, last_vlan);
        self.outer_vlan_id = from.number("OUTER_VLAN_ID", 0, (1 << 24) - 1);
        self.vlan_tagged_id = from.get("VLAN_TAGGED_ID").unwrap_or_default();
        self.cvlans = from.get("CVLANS").unwrap_or_default();
        self.qinq_type = from.word("QINQ_TYPE", &QINQ_TYPES).unwrap_or_default();
        self.mtu = from.number("MTU", 68, 65535);
        self.overrides = NetworkOverrides {
            conf: from.pairs("CONF"),
            ip_link_conf: from.pairs("IP_LINK_CONF"),
            bridge_conf: from.pairs("BRIDGE_CONF"),
            ovs_bridge_conf: from.pairs("OVS_BRIDGE_CONF"),
            vxlan_mode: from.word("VXLAN_MODE", &VXLAN_MODES),
            vxlan_tep: from.word("VXLAN_TEP", &VXLAN_TEPS),
            vxlan_mc: from.get("VXLAN_MC"),
        };
    }

    /// What may pass.
    fn read_filters(&mut self, from: &mut Reading<'_>) {
        self.addresses = Addresses::read(from);
        self.filter_mac_spoofing = from.flag("FILTER_MAC_SPOOFING");
        self.filter_ip_spoofing = from.flag("FILTER_IP_SPOOFING");
        self.security_groups = from.list("SECURITY_GROUPS");
        let words = [("on", true), ("off", false), ("yes", true), ("no", false)];
        self.spoofchk = from.word("SPOOFCHK", &words);
        self.trust = from.word("TRUST", &words);
    }

    /// How fast.
    fn read_limits(&mut self, from: &mut Reading<'_>) {
        let mut direction = |average, peak, burst| Bandwidth {
            average: from.get(average),
            peak: from.get(peak),
            burst: from.get(burst),
        };
        self.inbound = direction("INBOUND_AVG_BW", "INBOUND_PEAK_BW", "INBOUND_PEAK_KB");
        self.outbound = direction("OUTBOUND_AVG_BW", "OUTBOUND_PEAK_BW", "OUTBOUND_PEAK_KB");
    }

    /// Whether `driver` is the one for this NIC.
    pub fn is(&self, driver: &str) -> bool {
        self.vn_mad.as_ref().is_some_and(|name| name == driver)
    }

    /// The tag that the guest's frames get, where `VLAN_ID` is one.
    pub fn vlan_tag(&self) -> Option<u16> {
        let tag = self.vlan_id.filter(|_| !self.is("vxlan"));
        tag.and_then(|tag| u16::try_from(tag).ok())
    }

    /// The identifier of the VXLAN network: `VLAN_ID` of `vxlan`, `OUTER_VLAN_ID` of `ovswitch_vxlan`.
    pub fn vni(&self) -> Option<Vni> {
        let number = match () {
            () if self.is("vxlan") => self.vlan_id,
            () if self.is("ovswitch_vxlan") => self.outer_vlan_id,
            () => None,
        };
        number.and_then(|number| Vni::try_from(number).ok())
    }
}

/// A device passed through to the guest; connected to a network or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pci {
    /// `PCI_ID`, where oned gives one.
    pub pci_id: Option<u32>,
    /// `SHORT_ADDRESS`: `02:00.0`.
    pub short_address: Option<String>,
    /// `ADDRESS`: `0000:02:00:0`.
    pub address: Option<String>,
    /// `UUID` of a mediated device.
    pub uuid: Option<uuid::Uuid>,
    /// `PROFILE` of a virtual GPU.
    pub profile: Option<String>,
    /// `MDEV_MODE` of a virtual GPU.
    pub mdev_mode: Option<String>,
    /// `ATTACH`: this is the one being plugged or unplugged.
    pub attach: bool,
    /// The network part, if the device is connected to a network.
    pub nic: Option<Nic>,
    /// The element itself.
    pub element: Arc<Element>,
}

impl Pci {
    pub(super) fn read(element: &Arc<Element>, parent: &str, faults: &mut Vec<DocumentError>) -> Pci {
        let networked = element.first("NIC_ID").is_some() || element.first("VN_MAD").is_some();
        let nic = networked.then(|| Nic::read(element, parent, faults)).flatten();
        let mut from = Reading::of_many(element, parent, "PCI_ID", faults);
        let uuid = from.text("UUID").and_then(|text| {
            let uuid = uuid::Uuid::parse_str(&text).ok();
            if uuid.is_none() {
                from.fault("UUID", &text, "a UUID");
            }
            uuid
        });
        Pci {
            pci_id: from.get("PCI_ID"),
            short_address: pci_address(&mut from, "SHORT_ADDRESS"),
            address: pci_address(&mut from, "ADDRESS"),
            uuid,
            profile: from.text("PROFILE"),
            mdev_mode: from.text("MDEV_MODE"),
            attach: from.flag("ATTACH"),
            nic,
            element: Arc::clone(element),
        }
    }
}

/// An address becomes a part of a path in sysfs, hence only its own alphabet.
fn pci_address(from: &mut Reading<'_>, name: &str) -> Option<String> {
    let text = from.text(name)?;
    let ok = text.len() <= 16
        && text.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        && !text.contains("..");
    if !ok {
        from.fault(name, &text, "a PCI address such as 02:00.0");
        return None;
    }
    Some(text)
}
