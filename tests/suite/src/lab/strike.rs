//! Breaks what a point says, and mends it again as a service manager or a person at the switch would.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::points::Fault;
use super::{FRONT_END, HOSTS, Lab, LabError, truth};
use crate::request::Guest;

/// How long what is mended by others stays broken.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// libvirtd.
    pub libvirtd: Duration,
    /// A cable.
    pub link: Duration,
}

/// Breaks it. Says whether there was anything to break: a guest that has not been started has no process yet. The driver
/// process is its player's to kill.
///
/// # Errors
/// A machine can't be entered.
pub fn strike(lab: &Lab, guest: &Guest, fault: &Fault) -> Result<bool, LabError> {
    match fault {
        Fault::Driver => Ok(true),
        Fault::Resident(host) => kill(lab, host, &truth::residents(lab, host)?),
        Fault::Session(host) => kill_listed(lab, host, "pgrep -f '^sshd: oneadmin' || :"),
        Fault::Libvirtd(host) => kill_listed(lab, host, "pgrep -x libvirtd || :"),
        Fault::Guest(host) => {
            // virtqemud's file of the process that it started for this very domain.
            let name = format!("one-{}", guest.vm);
            let struck =
                kill_listed(lab, host, &format!("cat /run/libvirt/qemu/{name}.pid 2>/dev/null || :"))?;
            if struck {
                until_missed(lab, host, &name)?;
            }
            Ok(struck)
        }
        Fault::Link(place) => lab.plug(place, false).map(|()| true),
    }
}

/// Waits until the front-end can open a session to each host again.
///
/// # Errors
/// It can't within a minute.
pub fn until_reached(lab: &Lab) -> Result<(), LabError> {
    for host in HOSTS {
        let start = Instant::now();
        let words = ["one", FRONT_END, "timeout", "10", "ssh", "-o", "BatchMode=yes", host, "true"];
        while let Err(error) = lab.run(&words) {
            if start.elapsed() > Duration::from_secs(60) {
                return Err(error);
            }
            sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// Waits until libvirt has seen that a guest's process has gone: it says for a moment that it runs.
fn until_missed(lab: &Lab, host: &str, name: &str) -> Result<(), LabError> {
    let script = "for try in $(seq 100); do
        timeout 10 virsh -q list --name | grep -qx \"$1\" || exit 0; sleep 0.1; done";
    lab.script(host, script, &[name]).map(drop)
}

fn kill_listed(lab: &Lab, host: &str, list: &str) -> Result<bool, LabError> {
    let pids: Vec<String> = lab.script(host, list, &[])?.split_whitespace().map(str::to_owned).collect();
    kill(lab, host, &pids)
}

/// Kills processes of a machine by the ids that they have there.
fn kill(lab: &Lab, host: &str, pids: &[String]) -> Result<bool, LabError> {
    let pids: Vec<&str> = pids.iter().map(String::as_str).collect();
    // One that ended meanwhile is dead too.
    lab.script(host, "for pid; do kill -KILL \"$pid\" 2>/dev/null; done; :", &pids)?;
    Ok(!pids.is_empty())
}

/// Mends it.
///
/// # Errors
/// libvirtd does not start again, or a machine can't be entered.
pub fn mend(lab: &Lab, fault: &Fault, outage: Outage) -> Result<(), LabError> {
    match fault {
        Fault::Libvirtd(host) => {
            sleep(outage.libvirtd);
            start_libvirtd(lab, host)
        }
        Fault::Link(place) => {
            sleep(outage.link);
            lab.plug(place, true)
        }
        Fault::Driver | Fault::Resident(_) | Fault::Session(_) | Fault::Guest(_) => Ok(()),
    }
}

/// Starts libvirtd as the machine's first process did: in its control groups, which it looks for from their root.
fn start_libvirtd(lab: &Lab, host: &str) -> Result<(), LabError> {
    let script = "for group in /sys/fs/cgroup/*/cgroup.procs; do echo $$ >\"$group\"; done
        exec nsenter -t 1 -C -- libvirtd -d --listen";
    lab.script(host, script, &[]).map(drop)
}
