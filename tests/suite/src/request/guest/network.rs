//! The network interface of a guest of the lab, and the rules of its security groups.

/// A network interface.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its network driver: `vxlan`, `ovswitch`.
    pub vn_mad: String,
    /// Hardware address.
    pub mac: String,
    /// Address.
    pub ip: String,
    /// The bridge.
    pub bridge: String,
    /// The underlay's device.
    pub phydev: String,
    /// `VLAN_ID`: VXLAN network identifier, or the VLAN.
    pub vni: u32,
    /// Bytes; the driver's default if not given.
    pub mtu: Option<u32>,
    /// More attributes, by name, or others in the place of usual ones: `FILTER_MAC_SPOOFING`, `SECURITY_GROUPS`.
    pub more: Vec<(String, String)>,
}

impl Nic {
    /// What the document has of it, in a VM of that number.
    pub(super) fn values(&self, vm: u32) -> Vec<(&str, String)> {
        let mut values = vec![
            ("AR_ID", "0".to_owned()),
            ("BRIDGE", self.bridge.clone()),
            ("BRIDGE_TYPE", if self.is_switched() { "openvswitch" } else { "linux" }.to_owned()),
            ("IP", self.ip.clone()),
            ("MAC", self.mac.clone()),
            ("NETWORK", "lab".to_owned()),
            ("NETWORK_ID", "0".to_owned()),
            ("NIC_ID", "0".to_owned()),
            ("PHYDEV", self.phydev.clone()),
            ("SECURITY_GROUPS", "0".to_owned()),
            ("TARGET", format!("one-{vm}-0")),
            ("VLAN_ID", self.vni.to_string()),
            ("VN_MAD", self.vn_mad.clone()),
        ];
        values.extend(self.mtu.map(|mtu| ("MTU", mtu.to_string())));
        values.retain(|(name, _)| self.more.iter().all(|(other, _)| other != name));
        values.extend(self.more.iter().map(|(name, text)| (name.as_str(), text.clone())));
        values
    }

    /// Whether it is plugged into Open vSwitch.
    pub fn is_switched(&self) -> bool {
        let said = self.more.iter().any(|(name, kind)| name == "BRIDGE_TYPE" && kind == "openvswitch");
        said || self.vn_mad.starts_with("ovswitch")
    }
}

/// A rule of a security group.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The group.
    pub group: u32,
    /// `INBOUND` or `OUTBOUND`.
    pub direction: &'static str,
    /// `TCP`, `UDP`, `ICMP`.
    pub protocol: &'static str,
    /// Ports.
    pub range: Option<&'static str>,
}

impl Rule {
    /// What the document has of it.
    pub(super) fn values(&self) -> Vec<(&str, String)> {
        let mut values = vec![
            ("PROTOCOL", self.protocol.to_owned()),
            ("RULE_TYPE", self.direction.to_owned()),
            ("SECURITY_GROUP_ID", self.group.to_string()),
        ];
        values.extend(self.range.map(|range| ("RANGE", range.to_owned())));
        values
    }
}
