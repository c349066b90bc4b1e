//! Where monitord listens: `NETWORK` of `monitord.conf`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use causeway_core::answer::{Failure, Kind};

/// Where it listens unless it is told otherwise.
const PORT: u16 = 4124;

/// monitord, as far as we speak to it. It runs beside oned, on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitord {
    /// Where it takes datagrams.
    pub address: SocketAddr,
    /// The file of the key that it wants them encrypted with (`PUBKEY`).
    pub key: Option<PathBuf>,
}

impl Monitord {
    /// Reads `monitord.conf`; what it does not say is as shipped.
    ///
    /// # Errors
    /// An address or a port that is none.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let network = section(text);
        let wrong = |name: &str, value: &str| {
            Failure::new(Kind::HostState, format!("monitord.conf: {name} of NETWORK is {value:?}"))
        };
        let ip = match value(&network, "ADDRESS") {
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(text) => text.parse().map_err(|_| wrong("ADDRESS", &text))?,
        };
        // What listens everywhere listens here.
        let ip = match ip {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let port = match value(&network, "PORT") {
            None => PORT,
            Some(text) => text.parse().map_err(|_| wrong("PORT", &text))?,
        };
        Ok(Monitord { address: SocketAddr::new(ip, port), key: value(&network, "PUBKEY").map(PathBuf::from) })
    }
}

/// What stands between the brackets of `NETWORK = [ ... ]`, without comments.
fn section(text: &str) -> String {
    let plain = |line: &str| line.split('#').next().unwrap_or_default().to_owned();
    let plain: String = text.lines().map(plain).collect::<Vec<_>>().join(" ");
    let begin =
        |rest: &str| Some(rest.trim_start().strip_prefix('=')?.trim_start().strip_prefix('[')?.to_owned());
    let network = plain.match_indices("NETWORK").find_map(|(at, name)| begin(plain.get(at + name.len()..)?));
    network.and_then(|rest| rest.split(']').next().map(str::to_owned)).unwrap_or_default()
}

/// `NAME = "value"`, where the value is not empty.
fn value(section: &str, name: &str) -> Option<String> {
    let pair = |item: &str| {
        let (key, value) = item.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    };
    section.split(',').find_map(pair).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_files() {
        let shipped = "# NETWORK = [ PORT = 1 ]\nDB = [ CONNECTIONS = 15 ]\n\nNETWORK = [\n    ADDRESS         = \"0.0.0.0\",\n    \
                       MONITOR_ADDRESS = \"auto\",\n    PORT            = 4124,\n    THREADS = 8, # many\n    \
                       PUBKEY          = \"\",\n    PRIKEY          = \"\"\n]\n";
        let here = Monitord { address: "127.0.0.1:4124".parse().unwrap(), key: None };
        assert_eq!(Monitord::parse(shipped), Ok(here.clone()));
        assert_eq!(Monitord::parse(""), Ok(here));
        let own = Monitord::parse("NETWORK=[ADDRESS=10.0.0.1,PORT=\"5\",PUBKEY=\"/etc/one/key\"]").unwrap();
        assert_eq!((own.address.to_string().as_str(), own.key), ("10.0.0.1:5", Some("/etc/one/key".into())));
        assert_eq!(Monitord::parse("NETWORK=[ADDRESS=\"::\"]").unwrap().address.to_string(), "[::1]:4124");
        for text in ["NETWORK = [ ADDRESS = \"monitor\" ]", "NETWORK = [ PORT = 70000 ]"] {
            assert!(Monitord::parse(text).is_err(), "{text}");
        }
    }
}
