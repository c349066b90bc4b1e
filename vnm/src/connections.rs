//! Connections that a guest has under way, as the host that it leaves tells them to the host that it comes to: what was let
//! begin there goes on here, though nothing like it may begin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most that are told of one NIC; each is two to four flows of a switch.
pub const MOST: usize = 4096;

/// The most that are told of one VM by one driver: a frame holds them, as an argument too.
pub const MOST_OF_ALL: usize = 32_768;

/// The least time for which one is kept where its guest comes to, in seconds: it may be longer under way than the connection
/// had left.
const AT_LEAST: u32 = 30;
/// The most, in seconds: what the kernel gives to one of TCP that is established.
const AT_MOST: u32 = 5 * 24 * 3600;

/// What carries a connection. Of anything else the guest's next packet begins a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its number in the header of IP.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }

    /// The one of that number.
    pub fn of_number(number: u8) -> Option<Self> {
        [Transport::Tcp, Transport::Udp].into_iter().find(|known| known.number() == number)
    }
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Told")]
pub struct Connection {
    /// What carries it.
    pub transport: Transport,
    /// Who began it.
    pub from: SocketAddr,
    /// With whom.
    pub to: SocketAddr,
    /// How long nothing may be heard of it before it is forgotten, in seconds.
    pub seconds: u32,
}

/// One as it is read, before anything is believed of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    transport: Transport,
    from: SocketAddr,
    to: SocketAddr,
    seconds: u32,
}

impl TryFrom<Told> for Connection {
    type Error = ConnectionsError;
    fn try_from(told: Told) -> Result<Self, ConnectionsError> {
        let Told { transport, from, to, seconds } = told;
        let seconds = seconds.clamp(AT_LEAST, AT_MOST);
        Connection::new(transport, from, to, seconds).ok_or(ConnectionsError::Families { from, to })
    }
}

impl Connection {
    /// One between those ends; none where the one has an address of IPv4 and the other of IPv6.
    pub fn new(transport: Transport, from: SocketAddr, to: SocketAddr, seconds: u32) -> Option<Self> {
        (from.is_ipv4() == to.is_ipv4()).then_some(Connection { transport, from, to, seconds })
    }

    /// What carries it and its two ends, whoever of them began it.
    pub fn ends(&self) -> (Transport, SocketAddr, SocketAddr) {
        (self.transport, self.from.min(self.to), self.from.max(self.to))
    }

    /// Whether one of these addresses is an end of it.
    pub fn is_of(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        addresses.contains(&self.from.ip()) || addresses.contains(&self.to.ip())
    }
}

/// Connections of a guest, by `NIC_ID`. Written as JSON without a blank, so that it is one word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Connections(pub BTreeMap<u32, Vec<Connection>>);

/// What is no list of connections.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionsError {
    /// It has another form.
    #[error("the list of connections can't be read")]
    Form(#[from] serde_json::Error),
    /// One end has an address of IPv4, the other of IPv6.
    #[error("no connection leads from {from} to {to}")]
    Families {
        /// The one.
        from: SocketAddr,
        /// The other.
        to: SocketAddr,
    },
    /// It is longer than any that we write.
    #[error("NIC {nic} has {count} connections: {MOST} are accepted")]
    Many {
        /// `NIC_ID`.
        nic: u32,
        /// How many.
        count: usize,
    },
}

impl std::fmt::Display for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| std::fmt::Error)?)
    }
}

impl FromStr for Connections {
    type Err = ConnectionsError;
    fn from_str(text: &str) -> Result<Self, ConnectionsError> {
        let told: Connections = serde_json::from_str(text)?;
        match told.0.iter().find(|(_, all)| all.len() > MOST) {
            Some((nic, all)) => Err(ConnectionsError::Many { nic: *nic, count: all.len() }),
            None => Ok(told),
        }
    }
}

/// Any connection.
#[cfg(test)]
pub(crate) fn strategy() -> impl proptest::strategy::Strategy<Value = Connection> {
    use proptest::prelude::*;
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let four = any::<([u8; 4], u16, [u8; 4], u16)>()
        .prop_map(|(from, p, to, q)| (SocketAddr::from((from, p)), SocketAddr::from((to, q))));
    let six = any::<([u16; 8], u16, [u16; 8], u16)>()
        .prop_map(|(from, p, to, q)| (SocketAddr::from((from, p)), SocketAddr::from((to, q))));
    (transport, prop_oneof![four, six], AT_LEAST..=AT_MOST)
        .prop_map(|(transport, (from, to), seconds)| Connection { transport, from, to, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_list_is_one_word_and_read_as_it_is_written(
            all in proptest::collection::btree_map(any::<u32>(), proptest::collection::vec(strategy(), 0..4), 0..4)
        ) {
            let all = Connections(all);
            let text = all.to_string();
            prop_assert_eq!(text.split_whitespace().count(), 1);
            prop_assert_eq!(text.parse::<Connections>().unwrap(), all);
        }

        #[test]
        fn whatever_is_told_is_read_or_not(text in "[\\[\\]{}\":,.0-9a-z]{0,80}") {
            let _ = text.parse::<Connections>();
        }
    }

    #[test]
    fn fuzz_connections() {
        crate::seeded::fuzz("connections", |bytes| {
            let Ok(read) = String::from_utf8_lossy(bytes).parse::<Connections>() else { return };
            let all = read.0.values().flatten();
            all.for_each(|one| assert!(one.from.is_ipv4() == one.to.is_ipv4() && one.seconds >= AT_LEAST));
            assert_eq!(read.to_string().parse::<Connections>().unwrap(), read);
        });
    }

    #[test]
    fn what_is_no_list_says_why() {
        let wrong = |text: &str| {
            let error = text.parse::<Connections>().unwrap_err();
            std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
                .map(|error| error.to_string())
                .collect::<Vec<_>>()
                .join(": ")
        };
        let one = |to: &str| {
            format!(r#"{{"transport":"tcp","from":"10.0.0.1:5","to":"{to}","seconds":999999999}}"#)
        };
        let mixed = wrong(&format!(r#"{{"0":[{}]}}"#, one("[fd00::1]:6")));
        assert!(mixed.contains("no connection leads from 10.0.0.1:5 to [fd00::1]:6"), "{mixed}");
        let many = wrong(&format!(r#"{{"3":[{}]}}"#, vec![one("10.0.0.2:6"); MOST + 1].join(",")));
        assert!(many.contains("NIC 3 has 4097 connections: 4096 are accepted"), "{many}");
        assert!(wrong("[]").contains("can't be read"));
        let read: Connections = format!(r#"{{"0":[{}]}}"#, one("10.0.0.2:6")).parse().unwrap();
        assert_eq!(read.0[&0][0].seconds, AT_MOST);
    }
}
