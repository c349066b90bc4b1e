//! Connections of a guest on a switch: those that the datapath tracks, as `ovs-vswitchd` prints them (it has no other way to tell
//! them), and those that the guest has brought with it and by which nothing has come yet.

use std::net::{IpAddr, SocketAddr};

use causeway_core::names::VmId;

use super::openflow::{Openflow, OpenflowError};
use super::{Ovs, OvsError, control, flows};
use crate::connections::{Connection, Transport};

/// States of TCP from the answer to the first packet on until both ends have closed.
const ALIVE: [&str; 7] =
    ["SYN_RECV", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "CLOSING", "LAST_ACK"];

impl Ovs {
    /// The connections of TCP and UDP of a zone, as far as addresses in them are not changed on the way.
    ///
    /// # Errors
    /// The switch does not tell.
    pub fn connections(&mut self, datapath: &str, zone: u16) -> Result<Vec<Connection>, OvsError> {
        let text = control::connections(&self.run, self.deadline, datapath, zone)
            .map_err(|source| OvsError::Control { zone, source })?;
        Ok(text.lines().filter_map(connection).collect())
    }

    /// The connections of a NIC that the datapath does not track and that are let begin once more: see [`flows::admit`].
    ///
    /// # Errors
    /// The bridge does not tell; that it is not there is no error.
    pub fn admitted(&mut self, bridge: &str, vm: VmId, nic: u32) -> Result<Vec<Connection>, OvsError> {
        match Openflow::connect(&self.run, bridge, self.deadline) {
            Ok(mut connection) => Ok(flows::admitted(&connection.told(flows::lent(vm, nic))?)),
            Err(OpenflowError::Connect { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A connection out of its line; none for what is of no kind that goes on elsewhere.
///
/// ```text
/// tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=5,dport=6),reply=(...),zone=9,timeout=86400,protoinfo=(state=ESTABLISHED)
/// ```
fn connection(line: &str) -> Option<Connection> {
    let transport = match line.split_once(',')?.0 {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let (from, to) = ends(within(line, "orig=(")?)?;
    let state = within(line, "protoinfo=(").and_then(|state| value(state, "state"));
    let alive = state.is_some_and(|state| ALIVE.contains(&state)) || transport != Transport::Tcp;
    if ends(within(line, "reply=(")?)? != (to, from) || !alive {
        return None;
    }
    let seconds = value(line, "timeout").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    Connection::new(transport, from, to, seconds)
}

/// What stands between that opening and its end.
fn within<'a>(line: &'a str, opening: &str) -> Option<&'a str> {
    Some(line.split_once(opening)?.1.split_once(')')?.0)
}

fn value<'a>(list: &'a str, key: &str) -> Option<&'a str> {
    list.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

fn ends(tuple: &str) -> Option<(SocketAddr, SocketAddr)> {
    let end = |address, port| -> Option<SocketAddr> {
        let address: IpAddr = value(tuple, address)?.parse().ok()?;
        Some(SocketAddr::new(address, value(tuple, port)?.parse().ok()?))
    };
    Some((end("src", "sport")?, end("dst", "dport")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Open vSwitch 3.1 prints them.
    const TCP: &str = "tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=5,dport=6),reply=(src=10.0.0.2,dst=10.0.0.1,sport=6,dport=5),\
                       zone=9,timeout=86390,protoinfo=(state=ESTABLISHED)";
    const UDP: &str = "udp,orig=(src=fd00::1,dst=fd00::2,sport=5,dport=6),reply=(src=fd00::2,dst=fd00::1,sport=6,dport=5),zone=9,timeout=30";

    #[test]
    fn what_goes_on_elsewhere_is_read_and_nothing_else() {
        let end = |text: &str| text.parse().unwrap();
        let (from, to) = (end("10.0.0.1:5"), end("10.0.0.2:6"));
        assert_eq!(
            connection(TCP),
            Some(Connection { transport: Transport::Tcp, from, to, seconds: 86_390 })
        );
        let (from, to) = (end("[fd00::1]:5"), end("[fd00::2]:6"));
        assert_eq!(connection(UDP), Some(Connection { transport: Transport::Udp, from, to, seconds: 30 }));
        let untold = UDP.replace(",timeout=30", "");
        assert_eq!(connection(&untold).unwrap().seconds, 0);
        for (old, new) in
            [("ESTABLISHED", "TIME_WAIT"), ("tcp,", "icmp,"), ("sport=6", "sport=7"), ("state=", "states=")]
        {
            assert_eq!(connection(&TCP.replace(old, new)), None, "{new}");
        }
    }

    #[test]
    fn fuzz_tracked() {
        crate::seeded::fuzz("tracked", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            for read in text.lines().filter_map(connection) {
                assert_eq!(read.from.is_ipv4(), read.to.is_ipv4());
                assert!(text.contains(&read.from.port().to_string()));
            }
        });
    }

    proptest! {
        #[test]
        fn no_line_breaks_the_reader(line in "[a-z0-9=(),.:]{0,120}", at in 0_usize..150, byte in b' '..b'~') {
            let _ = connection(&line);
            let mut nearly = TCP.as_bytes().to_vec();
            if let Some(place) = nearly.get_mut(at) {
                *place = byte;
            }
            let _ = connection(&String::from_utf8_lossy(&nearly));
        }
    }
}
