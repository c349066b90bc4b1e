//! `OpenNebulaNetwork.conf`: the network drivers' settings on a host, and what one network says otherwise
//! (contract VNM 2).
//!
//! The file is YAML with Ruby's symbols as keys (`:vlan_mtu: 1500`). Ruby reads YAML 1.1, so `yes` and `on` are flags.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::error::SettingsError;
use super::yaml;
use crate::document::{NetworkOverrides, VXLAN_MODES, VXLAN_TEPS, VxlanMode, VxlanTep};
use crate::names::DiskPath;

/// A service that guests reach through a transparent proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TproxyService {
    /// `:service_port:`: the port in the guest's network.
    pub service_port: u16,
    /// `:remote_addr:`: where it goes.
    pub remote_addr: String,
    /// `:remote_port:`: to which port.
    pub remote_port: u16,
    /// `:networks:`: names or ids of the networks; `None` means all.
    pub networks: Option<Vec<String>>,
}

/// The settings of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConf {
    /// `:validate_vlan_id:`: refuse a bridge that already carries another VLAN.
    pub validate_vlan_id: bool,
    /// `:arp_cache_poisoning:`: filter forged ARP on Open vSwitch.
    pub arp_cache_poisoning: bool,
    /// `:datastore_location:`.
    pub datastore_location: Option<DiskPath>,
    /// `:vlan_mtu:`, bytes.
    pub vlan_mtu: u32,
    /// `:vxlan_mode:`.
    pub vxlan_mode: VxlanMode,
    /// `:vxlan_mc:`: the VNI is added to it.
    pub vxlan_mc: Ipv4Addr,
    /// `:vxlan_ttl:`; `None` leaves it to the kernel.
    pub vxlan_ttl: Option<u8>,
    /// `:vxlan_mtu:`, bytes.
    pub vxlan_mtu: u32,
    /// `:vxlan_tep:`.
    pub vxlan_tep: VxlanTep,
    /// `:ip_link_conf:`: further options of VLAN and VXLAN links; an empty value is a flag.
    pub ip_link_conf: BTreeMap<String, String>,
    /// `:ipset_maxelem:`.
    pub ipset_maxelem: u32,
    /// `:keep_empty_bridge:`: never remove a bridge.
    pub keep_empty_bridge: bool,
    /// `:ip_bridge_conf:` over the translated `:bridge_conf:`: options of Linux bridges.
    pub ip_bridge_conf: BTreeMap<String, String>,
    /// `:ovs_bridge_conf:`: columns of bridges that we create in Open vSwitch.
    pub ovs_bridge_conf: BTreeMap<String, String>,
    /// `:ovs_open_trunks:`, ours: ports of Open vSwitch carry every VLAN, as the stock driver's do.
    pub ovs_open_trunks: bool,
    /// `:tproxy:`.
    pub tproxy: Vec<TproxyService>,
    /// `:tproxy_debug_level:`, 0 to 3.
    pub tproxy_debug_level: u8,
    /// `:tproxy_process_owner:`.
    pub tproxy_process_owner: String,
    /// Keys that no release knows, to be logged as warnings.
    pub unknown_keys: Vec<String>,
}

impl Default for NetworkConf {
    /// What holds where the file is absent.
    fn default() -> Self {
        NetworkConf {
            validate_vlan_id: false,
            arp_cache_poisoning: true,
            datastore_location: None,
            vlan_mtu: 1500,
            vxlan_mode: VxlanMode::Multicast,
            vxlan_mc: Ipv4Addr::new(239, 0, 0, 0),
            vxlan_ttl: Some(16),
            vxlan_mtu: 1500,
            vxlan_tep: VxlanTep::Dev,
            ip_link_conf: BTreeMap::new(),
            ipset_maxelem: 65536,
            keep_empty_bridge: false,
            ip_bridge_conf: BTreeMap::new(),
            ovs_bridge_conf: BTreeMap::new(),
            ovs_open_trunks: false,
            tproxy: Vec::new(),
            tproxy_debug_level: 2,
            tproxy_process_owner: "oneadmin".to_owned(),
            unknown_keys: Vec::new(),
        }
    }
}

/// The bridge options that once were brctl's, and what `ip link` calls them.
const BRCTL: [(&str, &str); 6] = [
    ("setageing", "ageing_time"),
    ("sethello", "hello_time"),
    ("setmaxage", "max_age"),
    ("stp", "stp_state"),
    ("setbridgeprio", "priority"),
    ("setfd", "forward_delay"),
];

/// The value that removes a global key.
const DELETE: &str = "__delete__";

impl NetworkConf {
    /// Reads the text of `file`, whose name is for messages.
    ///
    /// The stock driver falls back to its defaults when the file is broken; we do not guess what it was to say.
    ///
    /// # Errors
    /// [`SettingsError`] for a file that is not YAML, or beyond 64 KiB, 8 levels, 10 000 nodes or 16 aliases, and
    /// for a malformed value.
    pub fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        let root = match yaml::parse(file, text)? {
            Value::Null => return Ok(NetworkConf::default()),
            Value::Object(root) => root,
            _ => return Err(SettingsError::file(file, "not a map of settings")),
        };
        let mut conf = NetworkConf::default();
        let mut old_bridge = BTreeMap::new();
        for (key, value) in &root {
            let name = symbol(key);
            let at = At { file, key: name };
            match name {
                "ip_link_conf" => conf.ip_link_conf = at.map(value)?,
                "ip_bridge_conf" => conf.ip_bridge_conf = at.map(value)?,
                "bridge_conf" => old_bridge = at.map(value)?,
                "ovs_bridge_conf" => conf.ovs_bridge_conf = at.map(value)?,
                "tproxy" => conf.tproxy = at.services(value)?,
                _ => match at.scalar(value) {
                    Some(text) => conf.set(&at, &text)?,
                    None => return Err(at.bad(&value.to_string(), "one value")),
                },
            }
        }
        for (key, value) in old_bridge {
            let name = BRCTL.iter().find(|(old, _)| *old == key).map_or(key.as_str(), |(_, new)| new);
            conf.ip_bridge_conf.entry(name.to_owned()).or_insert(value);
        }
        for value in conf.ip_bridge_conf.values_mut() {
            match value.as_str() {
                "true" => "1".clone_into(value),
                "false" => "0".clone_into(value),
                _ => {}
            }
        }
        Ok(conf)
    }

    /// Sets a scalar; an empty text leaves it as it is.
    fn set(&mut self, at: &At<'_>, text: &str) -> Result<(), SettingsError> {
        if text.is_empty() {
            // The one setting whose emptiness says something.
            if at.key == "vxlan_ttl" {
                self.vxlan_ttl = None;
            }
            return Ok(());
        }
        match at.key {
            "validate_vlan_id" => self.validate_vlan_id = at.flag(text)?,
            "arp_cache_poisoning" => self.arp_cache_poisoning = at.flag(text)?,
            "ovs_open_trunks" => self.ovs_open_trunks = at.flag(text)?,
            "keep_empty_bridge" => self.keep_empty_bridge = at.flag(text)?,
            "datastore_location" => self.datastore_location = Some(at.parsed(text, "an absolute path")?),
            "vlan_mtu" => self.vlan_mtu = at.number(text, 68, 65535)?,
            "vxlan_mtu" => self.vxlan_mtu = at.number(text, 68, 65535)?,
            "ipset_maxelem" => self.ipset_maxelem = at.number(text, 1, u32::MAX)?,
            "vxlan_ttl" => self.vxlan_ttl = Some(at.parsed(text, "a number up to 255")?),
            "vxlan_mc" => self.vxlan_mc = at.parsed(text, "an IPv4 address")?,
            "vxlan_mode" => self.vxlan_mode = at.word(text, &VXLAN_MODES)?,
            "vxlan_tep" => self.vxlan_tep = at.word(text, &VXLAN_TEPS)?,
            "tproxy_debug_level" => self.tproxy_debug_level = at.parsed(text, "a number from 0 to 3")?,
            "tproxy_process_owner" => self.tproxy_process_owner = text.to_owned(),
            unknown => self.unknown_keys.push(unknown.to_owned()),
        }
        Ok(())
    }

    /// The settings for one network: `CONF` over the file, the `VXLAN_*` attributes over `CONF`, the maps merged.
    ///
    /// # Errors
    /// [`SettingsError`] for a malformed value; its file is the attribute of the network.
    pub fn for_network(&self, network: &NetworkOverrides) -> Result<Self, SettingsError> {
        let mut conf = self.clone();
        for (key, value) in &network.conf {
            conf.set(&At { file: "CONF", key: symbol(key) }, value)?;
        }
        conf.vxlan_mode = network.vxlan_mode.unwrap_or(conf.vxlan_mode);
        conf.vxlan_tep = network.vxlan_tep.unwrap_or(conf.vxlan_tep);
        conf.vxlan_mc = network.vxlan_mc.unwrap_or(conf.vxlan_mc);
        merge(&mut conf.ip_link_conf, &network.ip_link_conf);
        merge(&mut conf.ip_bridge_conf, &network.bridge_conf);
        merge(&mut conf.ovs_bridge_conf, &network.ovs_bridge_conf);
        Ok(conf)
    }
}

fn merge(global: &mut BTreeMap<String, String>, network: &BTreeMap<String, String>) {
    for (key, value) in network {
        let key = symbol(key).to_owned();
        if value == DELETE {
            global.remove(&key);
        } else {
            global.insert(key, value.clone());
        }
    }
}

/// `:name` as Ruby writes a symbol, or a plain name.
fn symbol(key: &str) -> &str {
    key.strip_prefix(':').unwrap_or(key)
}

/// A setting being read.
struct At<'a> {
    file: &'a str,
    key: &'a str,
}

impl At<'_> {
    fn bad(&self, value: &str, accepted: impl ToString) -> SettingsError {
        SettingsError::value(self.file, self.key, value, accepted)
    }

    /// A value as text; `None` for a list or a map.
    fn scalar(&self, value: &Value) -> Option<String> {
        match value {
            Value::Null => Some(String::new()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) => Some(symbol(text.trim()).to_owned()),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn flag(&self, text: &str) -> Result<bool, SettingsError> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(self.bad(text, "true or false")),
        }
    }

    fn parsed<T: std::str::FromStr>(&self, text: &str, accepted: &str) -> Result<T, SettingsError> {
        text.parse().map_err(|_| self.bad(text, accepted))
    }

    fn number(&self, text: &str, low: u32, high: u32) -> Result<u32, SettingsError> {
        let number = text.parse::<u32>().ok().filter(|n| (low..=high).contains(n));
        number.ok_or_else(|| self.bad(text, format_args!("a number from {low} to {high}")))
    }

    fn word<T: Copy>(&self, text: &str, table: &[(&str, T)]) -> Result<T, SettingsError> {
        let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
        let found = table.iter().find(|(word, _)| text.eq_ignore_ascii_case(word));
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| self.bad(text, format_args!("one of {}", words.join(" "))))
    }

    /// A map of options: keys in lower case, values as text.
    fn map(&self, value: &Value) -> Result<BTreeMap<String, String>, SettingsError> {
        let entries = match value {
            Value::Null => return Ok(BTreeMap::new()),
            Value::Object(entries) => entries,
            other => return Err(self.bad(&other.to_string(), "a map of options")),
        };
        let option = |(key, value): (&String, &Value)| {
            let key = symbol(key).to_ascii_lowercase();
            let text =
                self.scalar(value).ok_or_else(|| self.bad(&value.to_string(), "a map of single values"))?;
            Ok((key, text))
        };
        entries.iter().map(option).collect()
    }

    fn services(&self, value: &Value) -> Result<Vec<TproxyService>, SettingsError> {
        let accepted = "a list of services, each with service_port, remote_addr and remote_port";
        let bad = |value: &Value| self.bad(&value.to_string(), accepted);
        let items = match value {
            Value::Null => return Ok(Vec::new()),
            Value::Array(items) => items,
            other => return Err(bad(other)),
        };
        let service = |item: &Value| {
            let fields = item.as_object()?;
            let get = |name: &str| fields.iter().find(|(key, _)| symbol(key) == name).map(|(_, value)| value);
            let text = |name: &str| get(name).and_then(|value| self.scalar(value));
            let networks = match get("networks") {
                None | Some(Value::Null) => None,
                Some(Value::Array(names)) => {
                    Some(names.iter().filter_map(|name| self.scalar(name)).collect())
                }
                Some(_) => return None,
            };
            Some(TproxyService {
                service_port: text("service_port")?.parse().ok()?,
                remote_addr: text("remote_addr").filter(|addr| !addr.is_empty())?,
                remote_port: text("remote_port")?.parse().ok()?,
                networks,
            })
        };
        items.iter().map(|item| service(item).ok_or_else(|| bad(item))).collect()
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
