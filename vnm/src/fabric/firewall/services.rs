//! What the firewall has of the services of a bridge (contract VNM 4.11): the map from ports to where they are, which the program
//! that passes them on reads, and the chain that keeps the question for their address from leaving the host.
//!
//! Tables, chains and maps bear the stock release's names: its program looks for them, and its `clean` finds them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use super::change::Family;
use super::nft::{FirewallError, Nft};
use crate::desired::services::{ADDRESS, Endpoint, Parts, Services};

/// The table, in two families.
pub(super) const TABLE: &str = "one_tproxy";

/// What of one bridge is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicesSeen {
    /// The comments of its chain's rules; none where there is no chain.
    pub chain: Option<Vec<String>>,
    /// The elements of its map.
    pub endpoints: BTreeMap<u16, Endpoint>,
    /// Whether other bridges have services.
    pub company: bool,
}

impl ServicesSeen {
    /// Whether that is what `wanted` has.
    pub fn has(&self, wanted: &Services) -> bool {
        let rules: Option<Vec<&str>> = self.chain.as_ref().map(|it| it.iter().map(String::as_str).collect());
        let by_bridge = rules.as_deref() == Some(&[Keeper::Bridge.comment(wanted).as_str()]);
        let by_ways_out = match wanted.ways_out.is_empty() {
            true => rules.as_deref() == Some(&[]),
            false => rules.as_deref() == Some(&[Keeper::WaysOut.comment(wanted).as_str()]),
        };
        self.endpoints == wanted.endpoints && (by_bridge || by_ways_out)
    }
}

/// One batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServicesChange {
    /// Chain and map of a bridge, in place of what they were.
    Set(Services),
    /// Neither any more.
    Remove {
        /// The bridge's.
        parts: Parts,
        /// The tables as well: nobody else has any.
        tables: bool,
    },
}

impl fmt::Display for ServicesChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServicesChange::Set(services) => write!(f, "set services at {services}"),
            ServicesChange::Remove { parts, .. } => write!(f, "remove the services of {}", parts.bridge),
        }
    }
}

/// How the question for the address is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// By the bridge: it reaches no other port at all. Not every kernel knows it there.
    Bridge,
    /// By the ways out of it: it does not reach another host.
    WaysOut,
}

impl Keeper {
    /// The kernel keeps as many as 128 bytes of a comment, which is enough for the three ways out that a bridge can have.
    fn comment(self, services: &Services) -> String {
        match self {
            Keeper::Bridge => format!("causeway {}", services.bridge),
            Keeper::WaysOut => {
                let names: Vec<&str> = services.ways_out.iter().map(|name| name.as_str()).collect();
                format!("causeway to {}", names.join(" "))
            }
        }
    }

    /// What of a frame tells that it must stay.
    fn matches(self, services: &Services, parts: &Parts) -> String {
        match self {
            Keeper::Bridge => format!("meta ibrname \"{}\" oifname != \"{}\"", services.bridge, parts.outer),
            Keeper::WaysOut => {
                let names: Vec<String> = services.ways_out.iter().map(|name| format!("\"{name}\"")).collect();
                format!("oifname {{ {} }}", names.join(", "))
            }
        }
    }
}

/// In the language of `nft`, whose JSON knows no map to pairs before release 1.0.7. Every name is plain, see [`Parts::of`].
fn set(services: &Services, parts: &Parts, keeper: Keeper) -> String {
    let Parts { chain, map, .. } = parts;
    // Without a way out there is nothing to keep in.
    let rule = match keeper == Keeper::WaysOut && services.ways_out.is_empty() {
        true => String::new(),
        false => format!(
            "add rule bridge {TABLE} {chain} {} arp operation request arp daddr ip {ADDRESS} drop comment \"{}\"\n",
            keeper.matches(services, parts),
            keeper.comment(services),
        ),
    };
    let elements = services.endpoints.iter();
    let elements: Vec<String> =
        elements.map(|(port, to)| format!("{port} : {} . {}", to.address, to.port)).collect();
    format!(
        "{}flush chain bridge {TABLE} {chain}\n{rule}flush map ip {TABLE} {map}\n\
         add element ip {TABLE} {map} {{ {} }}\n",
        there(parts),
        elements.join(", ")
    )
}

/// Whether they were there or not, they are now.
fn there(parts: &Parts) -> String {
    let Parts { chain, map, .. } = parts;
    format!(
        "add table bridge {TABLE}\n\
         add chain bridge {TABLE} {chain} {{ type filter hook forward priority filter; policy accept; }}\n\
         add table ip {TABLE}\n\
         add map ip {TABLE} {map} {{ type inet_service : ipv4_addr . inet_service; }}\n"
    )
}

fn remove(parts: &Parts, tables: bool) -> String {
    let Parts { chain, map, .. } = parts;
    let tables = match tables {
        true => format!("delete table bridge {TABLE}\ndelete table ip {TABLE}\n"),
        false => String::new(),
    };
    format!(
        "{}flush chain bridge {TABLE} {chain}\ndelete chain bridge {TABLE} {chain}\ndelete map ip {TABLE} {map}\n{tables}",
        there(parts)
    )
}

impl Nft {
    /// What of a bridge's services is there.
    ///
    /// # Errors
    /// [`FirewallError::Netlink`].
    pub fn services(&mut self, parts: &Parts) -> Result<ServicesSeen, FirewallError> {
        let kernel = self.kernel()?;
        let rules = kernel.rules(Family::Bridge, TABLE, &parts.chain)?;
        let chains = kernel.chains(Family::Bridge, TABLE)?;
        let mut endpoints = BTreeMap::new();
        for datum in kernel.data(Family::Ip, TABLE, &parts.map)? {
            endpoints.extend(endpoint(&datum.key, &datum.value));
        }
        Ok(ServicesSeen {
            chain: rules.map(|rules| rules.into_iter().map(|rule| rule.comment).collect()),
            endpoints,
            company: chains.iter().any(|chain| *chain != parts.chain),
        })
    }

    /// Applies a change: the kernel takes all of it, or nothing.
    ///
    /// # Errors
    /// As [`Nft::apply`].
    pub fn apply_services(&mut self, change: &ServicesChange) -> Result<(), FirewallError> {
        let what = change.to_string();
        match change {
            ServicesChange::Remove { parts, tables } => self.batch(&remove(parts, *tables), &what),
            ServicesChange::Set(services) => {
                let Some(parts) = Parts::of(&services.bridge) else {
                    return Err(FirewallError::Name { name: services.bridge.clone() });
                };
                match self.batch(&set(services, &parts, Keeper::Bridge), &what) {
                    Err(FirewallError::Refused { .. }) => {
                        self.batch(&set(services, &parts, Keeper::WaysOut), &what)
                    }
                    other => other,
                }
            }
        }
    }
}

/// An element as the kernel keeps it: ports in network order, each part of a pair filled up to four bytes.
fn endpoint(key: &[u8], data: &[u8]) -> Option<(u16, Endpoint)> {
    let (key, _) = key.split_first_chunk::<2>()?;
    let (address, rest) = data.split_first_chunk::<4>()?;
    let (port, _) = rest.split_first_chunk::<2>()?;
    let to = Endpoint { address: Ipv4Addr::from(*address), port: u16::from_be_bytes(*port) };
    Some((u16::from_be_bytes(*key), to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_element_breaks_the_reader(key: Vec<u8>, data: Vec<u8>) {
            let read = endpoint(&key, &data);
            prop_assert_eq!(read.is_some(), key.len() >= 2 && data.len() >= 6);
        }

        #[test]
        fn an_element_is_read_as_the_kernel_writes_it(port: u16, address: [u8; 4], to: u16) {
            let data = [&address[..], &to.to_be_bytes(), &[0, 0]].concat();
            let endpoint = endpoint(&[&port.to_be_bytes()[..], &[0, 0]].concat(), &data);
            prop_assert_eq!(endpoint, Some((port, Endpoint { address: address.into(), port: to })));
        }
    }
}
