//! The VMs of the benchmark, as oned would say of them.

use std::fmt::Write;

/// A driver that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Fw,
    Vxlan,
    Ovswitch,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Fw, Kind::Vxlan, Kind::Ovswitch];

    /// `VN_MAD`.
    pub fn driver(self) -> &'static str {
        match self {
            Kind::Fw => "fw",
            Kind::Vxlan => "vxlan",
            Kind::Ovswitch => "ovswitch",
        }
    }
}

/// A VM with NICs of one driver.
#[derive(Clone, Copy)]
pub struct Vm {
    pub kind: Kind,
    pub id: u32,
    pub nics: u32,
    /// Rules of each NIC's security group, and both filters; with none, everything may pass.
    pub rules: u32,
}

impl Vm {
    /// The device of a NIC.
    pub fn tap(&self, nic: u32) -> String {
        format!("one-{}-{nic}", self.id)
    }

    /// The bridge of a NIC.
    pub fn bridge(&self, nic: u32) -> String {
        match self.kind {
            Kind::Vxlan => format!("onebr{}", self.vni(nic)),
            _ => "br0".to_owned(),
        }
    }

    /// The MAC of a NIC.
    pub fn mac(&self, nic: u32) -> String {
        let [_, _, high, low] = self.id.to_be_bytes();
        let [_, _, _, nic] = nic.to_be_bytes();
        format!("02:00:0a:{high:02x}:{low:02x}:{nic:02x}")
    }

    /// Numbers of all NICs.
    pub fn each(&self) -> std::ops::Range<u32> {
        0..self.nics
    }

    fn vni(&self, nic: u32) -> u32 {
        10 + nic
    }

    /// Its document.
    pub fn document(&self) -> String {
        let id = self.id;
        let mut template = String::new();
        for nic in self.each() {
            template += &self.nic(nic);
            template += &self.group(nic);
        }
        if self.rules == 0 {
            template += &rule(0, "INBOUND", "ALL", "");
            template += &rule(0, "OUTBOUND", "ALL", "");
        }
        format!(
            "<VM><ID>{id}</ID><DEPLOY_ID>one-{id}</DEPLOY_ID><HISTORY_RECORDS><HISTORY><SEQ>0</SEQ>\
             <HOSTNAME>node1</HOSTNAME><VM_MAD>kvm</VM_MAD></HISTORY></HISTORY_RECORDS><TEMPLATE>{template}</TEMPLATE></VM>"
        )
    }

    fn nic(&self, nic: u32) -> String {
        let place = match self.kind {
            Kind::Fw => "<BRIDGE_TYPE>linux</BRIDGE_TYPE>".to_owned(),
            Kind::Vxlan => format!(
                "<BRIDGE_TYPE>linux</BRIDGE_TYPE><PHYDEV>up0</PHYDEV><VLAN_ID>{}</VLAN_ID>",
                self.vni(nic)
            ),
            Kind::Ovswitch => "<BRIDGE_TYPE>openvswitch</BRIDGE_TYPE><VLAN_ID>50</VLAN_ID>\
                               <OVS_BRIDGE_CONF>datapath_type=netdev</OVS_BRIDGE_CONF>"
                .to_owned(),
        };
        let filters = match self.rules {
            0 => "",
            _ => "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>",
        };
        let [_, _, high, low] = self.id.to_be_bytes();
        format!(
            "<NIC><NIC_ID>{nic}</NIC_ID><NETWORK_ID>{nic}</NETWORK_ID><VN_MAD>{driver}</VN_MAD><BRIDGE>{bridge}</BRIDGE>{place}\
             <MAC>{mac}</MAC><IP>10.{nic}.{high}.{low}</IP><IP6>fd00::{id:x}:{nic:x}</IP6><TARGET>{tap}</TARGET>\
             <SECURITY_GROUPS>{group}</SECURITY_GROUPS>{filters}</NIC>",
            driver = self.kind.driver(),
            bridge = self.bridge(nic),
            mac = self.mac(nic),
            id = self.id,
            tap = self.tap(nic),
            group = self.group_of(nic),
        )
    }

    fn group_of(&self, nic: u32) -> u32 {
        if self.rules == 0 { 0 } else { 100 + nic }
    }

    /// The rules of a NIC's own group.
    fn group(&self, nic: u32) -> String {
        let (group, mut out) = (self.group_of(nic), String::new());
        for number in 0..self.rules {
            let port = 2000 + number * 10;
            let _ = match number {
                0 => write!(out, "{}", rule(group, "OUTBOUND", "ALL", "")),
                1 => write!(out, "{}", rule(group, "INBOUND", "ICMP", "")),
                2 => {
                    let network = "<IP>10.1.0.0</IP><SIZE>256</SIZE>";
                    write!(out, "{}", rule(group, "INBOUND", "UDP", network))
                }
                _ => {
                    let range = format!("<RANGE>{},{port}:{}</RANGE>", 22 + number, port + 5);
                    write!(out, "{}", rule(group, "INBOUND", "TCP", &range))
                }
            };
        }
        out
    }

    /// What libvirt would say of it once it runs.
    pub fn domain(&self) -> String {
        let interface = |nic| {
            format!(
                "<interface type='bridge'><mac address='{}'/><source bridge='{}'/><target dev='{}'/></interface>",
                self.mac(nic),
                self.bridge(nic),
                self.tap(nic)
            )
        };
        let interfaces: String = self.each().map(interface).collect();
        format!("<domain type='kvm'><name>one-{}</name><devices>{interfaces}</devices></domain>", self.id)
    }
}

fn rule(group: u32, way: &str, protocol: &str, more: &str) -> String {
    format!(
        "<SECURITY_GROUP_RULE><SECURITY_GROUP_ID>{group}</SECURITY_GROUP_ID><RULE_TYPE>{way}</RULE_TYPE>\
         <PROTOCOL>{protocol}</PROTOCOL>{more}</SECURITY_GROUP_RULE>"
    )
}
