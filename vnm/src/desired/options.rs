//! `ip_link_conf` and `ip_bridge_conf`: options in the words of `ip link`, as far as we can set them.
//!
//! The stock driver hands these to `ip`. We speak to the kernel, so an option has to be known here; one that is not is
//! refused by name, because an option that is silently left out may be the one that isolates.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::refusal::Refusal;
use super::state::{BridgeOption, Checksums, VxlanTuning};

/// The kernel's default port, older than the number that IANA assigned (4789); the stock driver leaves it in place.
pub const PORT: u16 = 8472;

/// The shortest `forward_delay` that a bridge with spanning tree takes, in hundredths of a second (IEEE 802.1D, table 8-3).
const SPANNING_TREE_DELAY: u32 = 200;

/// What `ip_link_conf` can say about a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOptions {
    /// `dstport`.
    pub port: u16,
    /// `local`.
    pub local: Option<IpAddr>,
    /// `ttl`, `tos`, `learning`, `ageing`, `df`.
    pub tuning: VxlanTuning,
    /// `udpcsum` and its relatives.
    pub checksums: Checksums,
}

/// Reads the options of a tunnel; an empty value is a flag.
///
/// # Errors
/// [`Refusal::Setting`] for an unknown option or a malformed value.
pub fn link_options(conf: &BTreeMap<String, String>) -> Result<LinkOptions, Refusal> {
    let mut out = LinkOptions {
        port: PORT,
        local: None,
        tuning: VxlanTuning::default(),
        checksums: Checksums::default(),
    };
    for (key, value) in conf {
        let named = format!("ip_link_conf {key}");
        let byte = || number(&named, value, 0, 255).map(|n| u8::try_from(n).unwrap_or(u8::MAX));
        let bare = |on| match value.is_empty() {
            true => Ok(on),
            false => Err(Refusal::setting(&named, value, "a flag without a value")),
        };
        match key.as_str() {
            "dstport" => out.port = port(&named, value)?,
            "local" => out.local = Some(local(&named, value)?),
            "ttl" => out.tuning.ttl = byte()?,
            "tos" => out.tuning.tos = byte()?,
            "ageing" => out.tuning.ageing = number(&named, value, 0, u32::MAX)?,
            "learning" => out.tuning.learning = bare(true)?,
            "nolearning" => out.tuning.learning = bare(false)?,
            "df" => {
                out.tuning.df = match value.as_str() {
                    "set" => true,
                    "unset" => false,
                    other => return Err(Refusal::setting(&named, other, "set or unset")),
                }
            }
            "udpcsum" => out.checksums.udp = bare(true)?,
            "noudpcsum" => out.checksums.udp = bare(false)?,
            "udp6zerocsumtx" => out.checksums.zero6_sent = bare(true)?,
            "noudp6zerocsumtx" => out.checksums.zero6_sent = bare(false)?,
            "udp6zerocsumrx" => out.checksums.zero6_accepted = bare(true)?,
            "noudp6zerocsumrx" => out.checksums.zero6_accepted = bare(false)?,
            _ => {
                let accepted = "an option we can set: dstport local ttl tos ageing df learning udpcsum udp6zerocsumtx \
                                udp6zerocsumrx, or the last four with 'no' in front";
                return Err(Refusal::setting("ip_link_conf", key, accepted));
            }
        }
    }
    Ok(out)
}

/// Reads the options of a VLAN device: whether its tag is one of a provider. The file's other options are of tunnels, and the
/// stock driver would hand them to `ip`, which refuses them.
///
/// # Errors
/// [`Refusal::Setting`] for an unknown option or a malformed value.
pub fn vlan_options(conf: &BTreeMap<String, String>) -> Result<bool, Refusal> {
    let mut provider = false;
    for (key, value) in conf {
        match (key.as_str(), value.to_ascii_lowercase().as_str()) {
            ("protocol", "802.1q") => provider = false,
            ("protocol", "802.1ad") => provider = true,
            ("protocol", other) => {
                return Err(Refusal::setting("ip_link_conf protocol", other, "802.1Q or 802.1ad"));
            }
            _ => {
                let accepted = "an option we can set on a VLAN device: protocol";
                return Err(Refusal::setting("ip_link_conf", key, accepted));
            }
        }
    }
    Ok(provider)
}

/// `dstport 0` is the default port, as `ip link` has it.
fn port(key: &str, value: &str) -> Result<u16, Refusal> {
    let number = number(key, value, 0, 65_535)?;
    Ok(u16::try_from(number).ok().filter(|n| *n != 0).unwrap_or(PORT))
}

fn local(key: &str, value: &str) -> Result<IpAddr, Refusal> {
    let usable = |a: &IpAddr| !a.is_multicast() && !a.is_unspecified() && !a.is_loopback();
    let address = value.parse().ok().filter(usable);
    address.ok_or_else(|| Refusal::setting(key, value, "an address of this host"))
}

/// A number in plain decimal digits within bounds.
fn number(key: &str, text: &str, low: u32, high: u32) -> Result<u32, Refusal> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let value = text.parse().ok().filter(|n| digits && (low..=high).contains(n));
    value.ok_or_else(|| Refusal::setting(key, text, format!("a number from {low} to {high}")))
}

/// A switch, in the words of `ip link` and of the stock driver's files.
fn flag(key: &str, text: &str) -> Result<bool, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Refusal::setting(key, text, "0 or 1")),
    }
}

/// What `ip link` calls an option that `brctl` had. The file's are translated where it is read, a network's are not.
fn bridge_name(key: &str) -> &str {
    match key {
        "setageing" => "ageing_time",
        "sethello" => "hello_time",
        "setmaxage" => "max_age",
        "stp" => "stp_state",
        "setbridgeprio" => "priority",
        "setfd" => "forward_delay",
        other => other,
    }
}

/// Reads the options of a bridge.
///
/// # Errors
/// [`Refusal::Setting`] for an unknown option or a value the kernel would not take.
pub fn bridge_options(conf: &BTreeMap<String, String>) -> Result<BTreeMap<BridgeOption, u32>, Refusal> {
    let mut out = BTreeMap::new();
    for (key, value) in conf {
        // Whether frames come by the rules is for whoever guards them to say.
        let row =
            BridgeOption::TABLE.iter().find(|row| row.1 == bridge_name(key) && !row.1.starts_with("nf_call"));
        let Some((option, _, low, high)) = row else {
            let known = BridgeOption::TABLE.iter().map(|row| row.1);
            let known: Vec<&str> = known.filter(|name| !name.starts_with("nf_call")).collect();
            let accepted = format!("an option we can set: {}", known.join(" "));
            return Err(Refusal::setting("ip_bridge_conf", key, accepted));
        };
        let named = format!("ip_bridge_conf {key}");
        let switch = (*low, *high) == (0, 1);
        let value =
            if switch { u32::from(flag(&named, value)?) } else { number(&named, value, *low, *high)? };
        out.insert(*option, value);
    }
    // Only a bridge without spanning tree may forward at once. Whichever of the two is set first, the kernel would take it
    // the first time and refuse it ever after.
    let delay = out.get(&BridgeOption::ForwardDelay).filter(|delay| **delay < SPANNING_TREE_DELAY);
    if let (Some(1), Some(delay)) = (out.get(&BridgeOption::StpState), delay) {
        let accepted = format!("with stp_state 1 a number from {SPANNING_TREE_DELAY}");
        return Err(Refusal::setting("ip_bridge_conf forward_delay", &delay.to_string(), accepted));
    }
    Ok(out)
}

/// The columns of a bridge of Open vSwitch that say yes or no.
const SWITCHES: [&str; 3] = ["stp_enable", "rstp_enable", "mcast_snooping_enable"];

/// Reads the columns of a bridge of Open vSwitch. Those that lead frames or the control of the switch elsewhere (`mirrors`,
/// `controller`, `ports`) are the operator's.
///
/// # Errors
/// [`Refusal::Setting`] for another column or a malformed value.
pub fn switch_options(conf: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal> {
    let mut out = BTreeMap::new();
    for (key, value) in conf {
        let named = format!("ovs_bridge_conf {key}");
        let column = key.replace("other-config:", "other_config:");
        let value = match column.as_str() {
            switch if SWITCHES.contains(&switch) => flag(&named, value)?.to_string(),
            "fail_mode" if ["standalone", "secure"].contains(&value.as_str()) => value.clone(),
            "fail_mode" => return Err(Refusal::setting(&named, value, "standalone or secure")),
            "datapath_type" if ["system", "netdev"].contains(&value.as_str()) => value.clone(),
            "datapath_type" => return Err(Refusal::setting(&named, value, "system or netdev")),
            other if other.strip_prefix("other_config:").is_some_and(is_plain) => {
                Some(value.clone()).filter(|value| is_plain(value)).ok_or_else(|| {
                    Refusal::setting(&named, value, "letters, digits and the signs - _ . : of one word")
                })?
            }
            _ => {
                let accepted = format!(
                    "a column we can set: {} fail_mode datapath_type other_config:KEY",
                    SWITCHES.join(" ")
                );
                return Err(Refusal::setting("ovs_bridge_conf", key, accepted));
            }
        };
        out.insert(column, value);
    }
    Ok(out)
}

fn is_plain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_with_spanning_tree_does_not_forward_at_once() {
        let read = |delay: &str, tree: &str| {
            let conf = [("forward_delay", delay), ("stp_state", tree)];
            bridge_options(&conf.map(|(key, value)| (key.to_owned(), value.to_owned())).into())
        };
        for (delay, tree) in [("0", "0"), ("200", "1"), ("3000", "1")] {
            assert!(read(delay, tree).is_ok(), "{delay} {tree}");
        }
        let refusal = read("199", "on").unwrap_err().to_string();
        assert!(refusal.contains("forward_delay") && refusal.contains("from 200"), "{refusal}");
    }
}
