//! `:tproxy:` on this side (contract VNM 4.11): names of services resolved, and the stock program told that something has
//! changed. causeway-root does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use causeway_core::reach::child;
use causeway_core::settings::TproxyService;

use super::machine::as_root;

/// Longest time for all names together: networks of VMs wait for it.
const RESOLVED: Duration = Duration::from_secs(5);

/// Longest time of the program, each time that it is run.
const TOLD: Duration = Duration::from_secs(30);

/// Started where it does not run yet; then it reads the firewall's maps again. It ends by itself when they are empty.
const WORDS: [&str; 2] = ["start", "reload"];

/// Puts addresses in the place of names. A service whose name has none is left out, and told of.
pub(super) fn resolve(services: &mut Vec<TproxyService>) -> Vec<String> {
    let is_name = |service: &&TproxyService| service.remote_addr.parse::<Ipv4Addr>().is_err();
    let found = look_up(services.iter().filter(is_name).map(|it| it.remote_addr.clone()).collect());
    let mut notes = Vec::new();
    services.retain_mut(|service| {
        if !is_name(&&*service) {
            return true;
        }
        if let Some(address) = found.get(&service.remote_addr) {
            service.remote_addr = address.to_string();
            return true;
        }
        notes.push(format!(
            "OpenNebulaNetwork.conf: tproxy remote_addr {:?} has no IPv4 address, so port {} has no service",
            service.remote_addr, service.service_port
        ));
        false
    });
    notes
}

/// The addresses that are known in time.
fn look_up(names: BTreeSet<String>) -> BTreeMap<String, Ipv4Addr> {
    let mut found = BTreeMap::new();
    if names.is_empty() {
        return found;
    }
    let (tell, told) = mpsc::channel();
    let resolve = move || {
        for name in names {
            let address = address_of(&name);
            // Nobody listens any more once it is late.
            if tell.send(address.map(|address| (name, address))).is_err() {
                return;
            }
        }
    };
    // A resolver that hangs is left behind; without a thread nothing is found.
    let _ = thread::Builder::new().name("resolver".to_owned()).spawn(resolve);
    let end = Instant::now() + RESOLVED;
    while let Ok(one) = told.recv_timeout(end.saturating_duration_since(Instant::now())) {
        found.extend(one);
    }
    found
}

/// The lowest, so that it is the same each time whatever their order is.
fn address_of(name: &str) -> Option<Ipv4Addr> {
    let found = (name, 0).to_socket_addrs().ok()?;
    let four = found.filter_map(|at| match at.ip() {
        IpAddr::V4(four) => Some(four),
        IpAddr::V6(_) => None,
    });
    four.min()
}

/// Has the stock program look at what is there now; what went wrong. The network stands without it.
pub(super) async fn tell(root: &[String], remotes: &Path) -> Vec<String> {
    let program: PathBuf = remotes.join("vnm/tproxy");
    let mut notes = Vec::new();
    for word in WORDS {
        let (starter, argv) = as_root(root, &program, vec![word.to_owned()]);
        let failed = match child::run(&starter, &argv, b"", TOLD).await {
            Ok(script) if script.success => continue,
            Ok(script) if script.complaint.is_empty() => script.status,
            Ok(script) => script.complaint,
            Err(failure) => failure.text,
        };
        notes.push(format!("{} {word}, for services of :tproxy:: {failed}", program.display()));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_name_is_an_address_then_or_its_service_is_none() {
        let service = |port, address: &str| TproxyService {
            service_port: port,
            remote_addr: address.to_owned(),
            remote_port: port,
            networks: None,
        };
        let mut services = vec![
            service(1, "no-such-host.invalid"),
            service(2, "10.0.0.2"),
            service(3, "localhost"),
            service(4, "::1"),
        ];
        let notes = resolve(&mut services);
        let left: Vec<_> = services.iter().map(|it| (it.service_port, it.remote_addr.as_str())).collect();
        assert_eq!(left, [(2, "10.0.0.2"), (3, "127.0.0.1")]);
        assert_eq!(notes.len(), 2);
        assert!(
            notes[0].contains("\"no-such-host.invalid\" has no IPv4 address, so port 1 has no service"),
            "{notes:?}"
        );
        assert_eq!(resolve(&mut Vec::new()), [""; 0]);
    }

    #[test]
    fn the_program_is_started_as_root_and_told_to_look_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = ["env", "AS=root", "/nowhere/causeway-root"].map(str::to_owned);
        let notes = runtime.block_on(tell(&root, dir.path()));
        assert_eq!(notes.len(), 2);
        assert!(notes[0].contains("vnm/tproxy start, for services of :tproxy:: "), "{notes:?}");

        std::fs::create_dir(dir.path().join("vnm")).unwrap();
        let (program, told) = (dir.path().join("vnm/tproxy"), dir.path().join("told"));
        std::fs::write(&program, format!("#!/bin/sh\necho \"$AS $*\" >>{}\n", told.display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(runtime.block_on(tell(&root, dir.path())), [""; 0]);
        assert_eq!(std::fs::read_to_string(told).unwrap(), "root start\nroot reload\n");
    }
}
