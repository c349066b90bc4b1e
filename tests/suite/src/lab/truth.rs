//! What is really there: asked of the hosts themselves, never of our programs.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{HOSTS, Lab, LabError};
use crate::request::Guest;

/// How long a host's libvirt may take to answer again after it was killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a process that was told to end may stay.
const ENDED: Duration = Duration::from_secs(15);

/// Where a guest's processors run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The hosts on which it is running.
    pub running: Vec<String>,
    /// Hosts on which there is a domain of it in another state, with the state.
    pub otherwise: Vec<(String, String)>,
}

impl Whereabouts {
    /// Whether it runs on this host and there is no other trace of it.
    pub fn is_only_on(&self, host: &str) -> bool {
        self.running == [host] && self.otherwise.is_empty()
    }

    /// Whether there is no domain of it.
    pub fn is_nowhere(&self) -> bool {
        self.running.is_empty() && self.otherwise.is_empty()
    }
}

/// Asks both hosts' libvirt, until it answers.
///
/// # Errors
/// One does not answer for a minute.
pub fn whereabouts(lab: &Lab, guest: &Guest) -> Result<Whereabouts, LabError> {
    let name = format!("one-{}", guest.vm);
    let mut seen = Whereabouts { running: Vec::new(), otherwise: Vec::new() };
    for host in HOSTS {
        let listing = listing(lab, host)?;
        let states = listing.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let _number = words.next()?;
            (words.next()? == name).then(|| words.collect::<Vec<_>>().join(" "))
        });
        for state in states {
            if state == "running" {
                seen.running.push(host.to_owned());
            } else {
                seen.otherwise.push((host.to_owned(), state));
            }
        }
    }
    Ok(seen)
}

fn listing(lab: &Lab, host: &str) -> Result<String, LabError> {
    let start = Instant::now();
    loop {
        match lab.run(&["exec", host, "timeout", "10", "virsh", "-q", "list", "--all"]) {
            Err(_) if start.elapsed() < PATIENCE => sleep(Duration::from_millis(200)),
            other => return other,
        }
    }
}

/// Looks for what a guest could leave behind on a host beside its files: domains, links, rules, processes.
///
/// # Errors
/// Something is left; it is named.
pub fn nothing_left(lab: &Lab, host: &str) -> Result<(), LabError> {
    listing(lab, host)?;
    let script = "timeout 10 virsh -q list --all --name | sed '/^$/d; s/^/domain /'
        ip -br link | awk '$1 ~ /^(onebr|one-|eth0[.])/ { print \"link \" $1 }'
        nft list ruleset
        bridge fdb show | grep -c 'dst 10[.]77' | sed '/^0$/d; s/$/ forwarding entries/'
        [ ! -S /run/openvswitch/db.sock ] || ovs-vsctl --timeout=10 list-br | sed 's/^/switch /'
        pgrep -a qemu | cut -c 1-60 | sed 's/^/process /'";
    let start = Instant::now();
    loop {
        let left = lab.script(host, script, &[])?;
        if left.trim().is_empty() {
            return Ok(());
        }
        // A process that was told to end may take its time.
        if start.elapsed() > ENDED {
            return LabError::promise(format!("left on {host}: {left}"));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Looks for what a host still keeps for guests that are gone: reservations, numbers.
///
/// # Errors
/// Something is kept; it is named.
pub fn nothing_reserved(lab: &Lab, host: &str) -> Result<(), LabError> {
    let script = "find /var/lib/causeway/network -mindepth 1 ! -type d ! -name '.*'";
    let kept = lab.script(host, script, &[])?;
    if !kept.trim().is_empty() {
        return LabError::promise(format!("kept on {host}: {kept}"));
    }
    Ok(())
}

/// Looks for the files of a guest on the hosts' datastore.
///
/// # Errors
/// Something is left; it is named.
pub fn no_file_left(lab: &Lab, guest: &Guest) -> Result<(), LabError> {
    let directory = guest.directory().display().to_string();
    for host in HOSTS {
        let left = lab.script(host, "ls -A \"$1\" 2>/dev/null || :", &[&directory])?;
        if !left.trim().is_empty() {
            return LabError::promise(format!("left on {host}: {left}"));
        }
    }
    Ok(())
}

/// The ids of our residents on a host.
///
/// # Errors
/// The host can't be entered.
pub fn residents(lab: &Lab, host: &str) -> Result<Vec<String>, LabError> {
    let script = "for p in $(pgrep -x 'causeway-(host|disks)'); do
        if tr '\\0' '\\n' </proc/$p/cmdline | grep -qx resident; then echo $p; fi; done";
    Ok(lab.script(host, script, &[])?.split_whitespace().map(str::to_owned).collect())
}
