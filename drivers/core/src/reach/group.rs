//! Process groups of our children: killed as one, and waited for before anything else is done in their place.
//!
//! A killed process does not end at once: it has to be scheduled first, and one that waits for a dead file server does
//! not end at all. Whoever goes on in the meantime works beside it (contract TM 6.3, W35).

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio::time::Instant;

use crate::answer::Failure;

/// How long the end of killed processes is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LATER_LOOKS: Duration = Duration::from_millis(50);

/// Groups that were killed and have not been seen to end. The kernel's table of processes is one, and so is this.
static KILLED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A process group that is killed when this value goes, also when a cancel drops the future that holds it.
pub(super) struct Group(Option<Pid>);

impl Group {
    /// The group that a child with a group of its own leads. Drop it before the child: until that is reaped, no other
    /// process can have its number.
    pub(super) fn led_by(child: &Child) -> Self {
        Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Leaves the group alone: its leader has ended by itself.
    pub(super) fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is the usual case.
            let _ = kill_process_group(group, Signal::KILL);
            killed().push(group);
        }
    }
}

/// Gives `failure`, which is why processes were killed, once they have ended: at most 10 s later, and then with the names
/// of those that live on.
pub async fn once_ended(failure: Failure) -> Failure {
    // They stay in the table meanwhile: others may be waiting for them, too.
    let groups = killed().clone();
    let failure = wait(&groups, failure).await;
    killed().retain(|group| !groups.contains(group));
    failure
}

fn killed() -> MutexGuard<'static, Vec<Pid>> {
    KILLED.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn wait(groups: &[Pid], failure: Failure) -> Failure {
    let give_up = Instant::now() + PATIENCE;
    let mut pause = FIRST_LOOK;
    loop {
        let alive = if groups.is_empty() { Vec::new() } else { living(groups) };
        if alive.is_empty() {
            return failure;
        }
        if Instant::now() >= give_up {
            let text = format!("{}; killed, and does not end: {}", failure.text, alive.join(", "));
            return Failure::new(failure.kind, text);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LATER_LOOKS);
    }
}

/// The processes of `groups` that still run, as `process 4711 (cp)`. One that nobody has reaped yet runs no more.
fn living(groups: &[Pid]) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let stat = |process: fs::DirEntry| fs::read_to_string(process.path().join("stat")).ok();
    processes.filter_map(|process| member(&stat(process.ok()?)?, groups)).collect()
}

/// What `/proc/<pid>/stat` says of a member of `groups` that lives (`proc_pid_stat(5)`): `pid (name) state ppid pgrp …`,
/// where the name may hold anything.
fn member(stat: &str, groups: &[Pid]) -> Option<String> {
    let (start, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let (state, group) = (fields.next()?, fields.nth(1)?);
    let group = Pid::from_raw(group.parse().ok()?)?;
    let lives = !matches!(state, "Z" | "X") && groups.contains(&group);
    lives.then(|| format!("process {start})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Kind;

    #[test]
    fn a_member_is_known_by_its_group_whatever_its_name() {
        let groups = [Pid::from_raw(40).unwrap()];
        let said = |stat| member(stat, &groups);
        assert_eq!(said("41 (cp) D 40 40 40 0 -1 0").unwrap(), "process 41 (cp)");
        assert_eq!(said("41 (a) Z 1 40 () S 1 40 40 0").unwrap(), "process 41 (a) Z 1 40 ()");
        for other in
            ["41 (cp) Z 40 40 40", "41 (cp) X 40 40 40", "41 (cp) R 40 41 40", "41 (cp", "", "41 (cp) R x"]
        {
            assert_eq!(said(other), None, "{other}");
        }
    }

    #[test]
    fn what_was_killed_has_ended_when_the_failure_is_given() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for _ in 0..20 {
                // Several, of which all but the first are nobody's to wait for.
                let mut command = tokio::process::Command::new("/bin/sh");
                command.args(["-c", "for i in 1 2 3 4; do (while :; do :; done) & done; wait"]);
                let child = command.process_group(0).kill_on_drop(true).spawn().unwrap();
                let group = Group::led_by(&child);
                let number = group.0.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                drop(group);
                let failure = once_ended(Failure::new(Kind::Cancelled, "cancelled")).await;
                assert_eq!(failure.text, "cancelled");
                assert_eq!(living(&[number]), [""; 0]);
                drop(child);
            }
        });
    }
}
