//! The keys of `OpenNebulaNetwork.conf` that a driver here needs, as they travel to the privileged side, and what they
//! come to for one NIC (contract VNM 2).
//!
//! The file belongs to the unprivileged user, so its values are checked here once more, by the side that acts on them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use causeway_core::document::{Nic, VXLAN_MODES, VXLAN_TEPS, VxlanMode, VxlanTep};
use causeway_core::settings::{NetworkConf, TproxyService};
use serde::{Deserialize, Serialize};

use super::options::{LinkOptions, bridge_options, link_options, switch_options, vlan_options};
use super::refusal::Refusal;
use super::services::Service;
use super::state::BridgeOption;

/// Values of the file; an absent one is the built-in fallback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `multicast` or `evpn`.
    pub vxlan_mode: String,
    /// Base address of the multicast groups.
    pub vxlan_mc: Ipv4Addr,
    /// Hop limit; none leaves it to the kernel.
    pub vxlan_ttl: Option<u8>,
    /// MTU where the NIC names none, bytes.
    pub vxlan_mtu: u32,
    /// `dev` or `local_ip`.
    pub vxlan_tep: String,
    /// MTU of a VLAN device where the NIC names none, bytes.
    pub vlan_mtu: u32,
    /// Never remove a bridge or its tunnel.
    pub keep_empty_bridge: bool,
    /// Options of the tunnel; an empty value is a flag.
    pub ip_link_conf: BTreeMap<String, String>,
    /// Options of the bridge.
    pub ip_bridge_conf: BTreeMap<String, String>,
    /// Columns of the bridges that we make in Open vSwitch.
    pub ovs_bridge_conf: BTreeMap<String, String>,
    /// Filter forged ARP on Open vSwitch.
    pub arp_cache_poisoning: bool,
    /// Every port of Open vSwitch carries all VLANs, as with the stock driver (`ovs_open_trunks`, ours).
    pub ovs_open_trunks: bool,
    /// Services for guests; those that are named by address, and not by a name that is to be resolved.
    pub tproxy: Vec<Service>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings::from(&NetworkConf::default())
    }
}

impl From<&NetworkConf> for Settings {
    fn from(conf: &NetworkConf) -> Self {
        Settings {
            vxlan_mode: word(&VXLAN_MODES, &conf.vxlan_mode),
            vxlan_mc: conf.vxlan_mc,
            vxlan_ttl: conf.vxlan_ttl,
            vxlan_mtu: conf.vxlan_mtu,
            vxlan_tep: word(&VXLAN_TEPS, &conf.vxlan_tep),
            vlan_mtu: conf.vlan_mtu,
            keep_empty_bridge: conf.keep_empty_bridge,
            ip_link_conf: conf.ip_link_conf.clone(),
            ip_bridge_conf: conf.ip_bridge_conf.clone(),
            ovs_bridge_conf: conf.ovs_bridge_conf.clone(),
            arp_cache_poisoning: conf.arp_cache_poisoning,
            ovs_open_trunks: conf.ovs_open_trunks,
            tproxy: conf.tproxy.iter().filter_map(service).collect(),
        }
    }
}

fn service(of: &TproxyService) -> Option<Service> {
    Some(Service {
        service_port: of.service_port,
        remote_addr: of.remote_addr.parse().ok()?,
        remote_port: of.remote_port,
        networks: of.networks.clone().unwrap_or_default(),
    })
}

fn word<T: PartialEq>(table: &[(&str, T)], value: &T) -> String {
    table.iter().find(|(_, known)| known == value).map_or(String::new(), |(word, _)| (*word).to_owned())
}

fn value<T: Copy>(table: &[(&str, T)], key: &str, text: &str) -> Result<T, Refusal> {
    let known: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
    let found = table.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| Refusal::setting(key, text, format!("one of {}", known.join(" "))))
}

/// The settings as they hold for one NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// How addresses are learned.
    pub mode: VxlanMode,
    /// The local end point with EVPN.
    pub tep: VxlanTep,
    /// Base address of the groups.
    pub base: Ipv4Addr,
    /// MTU where the NIC names none, bytes.
    pub mtu: u32,
    /// Keep the bridge when it is empty.
    pub keep: bool,
    /// The tunnel's options; `vxlan_ttl` is among them.
    pub link: LinkOptions,
    /// MTU of a VLAN device where the NIC names none, bytes.
    pub vlan_mtu: u32,
    /// The tags of VLAN devices are those of a provider.
    pub provider: bool,
    /// The bridge's options.
    pub bridge: BTreeMap<BridgeOption, u32>,
    /// The columns of a bridge of Open vSwitch.
    pub switch: BTreeMap<String, String>,
    /// Ports of Open vSwitch carry all VLANs.
    pub open_trunks: bool,
}

impl Settings {
    /// What holds for `nic`: its own attributes win over its `CONF`, and that over the file.
    ///
    /// # Errors
    /// A [`Refusal`] for a value that has not the key's form, and for an option that we cannot set.
    pub fn effective(&self, nic: &Nic) -> Result<Effective, Refusal> {
        let file = NetworkConf {
            vxlan_mode: value(&VXLAN_MODES, "vxlan_mode", &self.vxlan_mode)?,
            vxlan_mc: self.vxlan_mc,
            vxlan_ttl: self.vxlan_ttl,
            vxlan_mtu: self.vxlan_mtu,
            vxlan_tep: value(&VXLAN_TEPS, "vxlan_tep", &self.vxlan_tep)?,
            vlan_mtu: self.vlan_mtu,
            keep_empty_bridge: self.keep_empty_bridge,
            ip_link_conf: self.ip_link_conf.clone(),
            ip_bridge_conf: self.ip_bridge_conf.clone(),
            ovs_bridge_conf: self.ovs_bridge_conf.clone(),
            ovs_open_trunks: self.ovs_open_trunks,
            ..NetworkConf::default()
        };
        let misread = |source| Refusal::Settings { nic: nic.nic_id, source };
        let conf = file.for_network(&nic.overrides).map_err(misread)?;
        for (key, mtu) in [("vxlan_mtu", conf.vxlan_mtu), ("vlan_mtu", conf.vlan_mtu)] {
            if !(68..=65_535).contains(&mtu) {
                return Err(Refusal::setting(key, &mtu.to_string(), "a number from 68 to 65535"));
            }
        }
        let (link, provider) = if nic.is("802.1Q") {
            (BTreeMap::new(), vlan_options(&conf.ip_link_conf)?)
        } else {
            let mut link = conf.ip_link_conf;
            if let Some(ttl) = conf.vxlan_ttl {
                link.entry("ttl".to_owned()).or_insert(ttl.to_string());
            }
            (link, false)
        };
        Ok(Effective {
            mode: conf.vxlan_mode,
            tep: conf.vxlan_tep,
            base: conf.vxlan_mc,
            mtu: conf.vxlan_mtu,
            keep: conf.keep_empty_bridge,
            link: link_options(&link)?,
            vlan_mtu: conf.vlan_mtu,
            provider,
            bridge: bridge_options(&conf.ip_bridge_conf)?,
            switch: switch_options(&conf.ovs_bridge_conf)?,
            open_trunks: conf.ovs_open_trunks,
        })
    }
}
