//! Recording stand-ins: a shell script in every slot that notes how it was called and answers as it is told.

use std::fs;
use std::path::Path;

use super::{make_directory, write, write_script};
use crate::error::SuiteError;

/// The verbs of `vmm/kvm` (contract VMM 3.2).
const VMM: [&str; 23] = [
    "attach_disk",
    "attach_nic",
    "cancel",
    "deploy",
    "detach_disk",
    "detach_nic",
    "exec",
    "exec_cancel",
    "migrate",
    "migrate_local",
    "prereconfigure",
    "reboot",
    "reconfigure",
    "reset",
    "resize",
    "resize_disk",
    "restore",
    "save",
    "shutdown",
    "snapshot_create",
    "snapshot_delete",
    "snapshot_revert",
    "vgpu",
];

const VNM_DRIVERS: [&str; 6] = ["802.1Q", "bridge", "elastic", "ovswitch", "ovswitch_vxlan", "vxlan"];
const VNM: [&str; 5] = ["clean", "post", "pre", "update_nic", "update_sg"];

const TM_DRIVERS: [&str; 5] = ["ceph", "local", "qcow2", "shared", "ssh"];
const TM: [&str; 23] = [
    "clone",
    "clone.ssh",
    "context",
    "delete",
    "delete.ssh",
    "failmigrate",
    "ln",
    "mkimage",
    "mkswap",
    "mvds",
    "postbackup",
    "postbackup_live",
    "postmigrate",
    "prebackup",
    "prebackup_live",
    "premigrate",
    "resize",
    "resize.ssh",
    "snap_create",
    "snap_create.ssh",
    "snap_create_live",
    "snap_create_live.ssh",
    "snap_delete",
];

const DATASTORES: [&str; 2] = ["restic", "rsync"];
const DATASTORE: [&str; 2] = ["backup", "backup_cancel"];

/// Where a call was made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// From the front-end's remotes.
    FrontEnd,
    /// From the remotes of this host, reached over ssh.
    Host(String),
}

/// One call of a stand-in.
#[derive(Debug, Clone)]
pub struct Call {
    /// The slot: `vmm/kvm/deploy`.
    pub slot: String,
    /// Where.
    pub site: Site,
    /// Its path.
    pub program: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Its standard input, to the end.
    pub stdin: Vec<u8>,
    /// Its working directory.
    pub directory: String,
    /// Its exit code; none while it runs, and for good if it was killed.
    pub code: Option<i32>,
}

/// A call's beginning or end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It began.
    Begin(String),
    /// It ended by itself.
    End(String),
}

/// What a stand-in answers.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
    /// Seconds before it answers.
    pause: f64,
    /// What it does first.
    shell: String,
}

impl Answer {
    /// Success, with this on standard output.
    pub fn says(stdout: &str) -> Answer {
        Answer { stdout: stdout.to_owned(), ..Answer::default() }
    }

    /// This exit code, with this on standard error.
    pub fn fails(code: i32, stderr: &str) -> Answer {
        Answer { code, stderr: stderr.to_owned(), ..Answer::default() }
    }

    /// With this on standard output as well.
    #[must_use]
    pub fn and_says(mut self, stdout: &str) -> Answer {
        stdout.clone_into(&mut self.stdout);
        self
    }

    /// After running this piece of shell. It knows `$home`, where `$home/journal` has a line for each beginning and end
    /// of a call, `$call`, a directory of this call's own, and `$slot`.
    #[must_use]
    pub fn once_run(mut self, shell: &str) -> Answer {
        shell.clone_into(&mut self.shell);
        self
    }

    /// After `count` calls of `slot` have begun: proves that what it waits for goes on beside it.
    #[must_use]
    pub fn once_begun(self, slot: &str, count: u32) -> Answer {
        let begun = format!("$(grep -c '^begin .* {slot}$' \"$home/journal\")");
        self.once_run(&format!("until [ \"{begun}\" -ge {count} ]; do sleep 0.05; done"))
    }

    /// After so many seconds.
    #[must_use]
    pub fn after(mut self, seconds: f64) -> Answer {
        self.pause = seconds;
        self
    }

    /// As a piece of shell that the stand-in reads.
    fn render(&self) -> String {
        let quoted = |text: &str| text.replace('\'', "'\\''");
        let mut text = format!("{}\n", self.shell);
        if self.pause > 0.0 {
            text.push_str(&format!("sleep {}\n", self.pause));
        }
        text.push_str(&format!("printf %s '{}'\n", quoted(&self.stdout)));
        text.push_str(&format!("printf %s '{}' >&2\n", quoted(&self.stderr)));
        text.push_str(&format!("code={}\n", self.code));
        text
    }
}

/// The text of the stand-in. It reads its input to the end, as the stock scripts' stubs did, before it answers.
fn stand_in(root: &Path) -> String {
    format!(
        r#"#!/bin/sh
# A recording stand-in: notes how it was called, answers as it is told.
home='{root}/slots'
call=$(mktemp -d "$home/calls/XXXXXXXXXX") || exit 99
id=${{call##*/}}
printf '%s\0' "$0" "$@" >"$call/argv"
printf '%s\n%s\n' "$PWD" "$SSH_CONNECTION" >"$call/where"
driver=${{0%/*}} family=${{0%/*/*}}
slot=${{family##*/}}/${{driver##*/}}/${{0##*/}}
answer=$home/answers/$slot
for once in "$answer.once"/*; do
  if mv "$once" "$call/answer" 2>/dev/null; then
    answer=$call/answer
    break
  fi
done
# From now on a test may kill this: the answer is taken, and the next call gets another one.
echo "begin $id $slot" >>"$home/journal"
cat >"$call/stdin"
code=0
[ ! -r "$answer" ] || . "$answer"
echo "end $id $code $slot" >>"$home/journal"
exit "$code"
"#,
        root = root.display()
    )
}

/// Puts the stand-in into every slot of these remotes.
pub(super) fn fill(root: &Path, remotes: &[&Path]) -> Result<(), SuiteError> {
    make_directory(&root.join("slots/calls"))?;
    write(&root.join("slots/journal"), "")?;
    let text = stand_in(root);
    let families: [(&str, &[&str], &[&str]); 4] = [
        ("vmm", &["kvm"], &VMM),
        ("vnm", &VNM_DRIVERS, &VNM),
        ("tm", &TM_DRIVERS, &TM),
        ("datastore", &DATASTORES, &DATASTORE),
    ];
    for remotes in remotes {
        for (family, drivers, verbs) in families {
            for driver in drivers {
                for verb in verbs {
                    write_script(&remotes.join(family).join(driver).join(verb), &text)?;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn answer(root: &Path, slot: &str, answer: &Answer) -> Result<(), SuiteError> {
    write(&root.join("slots/answers").join(slot), &answer.render())
}

pub(super) fn answer_once(root: &Path, slot: &str, answer: &Answer) -> Result<(), SuiteError> {
    let directory = root.join("slots/answers").join(format!("{slot}.once"));
    make_directory(&directory)?;
    let waiting = fs::read_dir(&directory).map_err(SuiteError::io(directory.display().to_string()))?.count();
    // Taken in the order of their names.
    write(&directory.join(format!("{waiting:04}")), &answer.render())
}

pub(super) fn forget(root: &Path) -> Result<(), SuiteError> {
    let calls = root.join("slots/calls");
    fs::remove_dir_all(&calls).map_err(SuiteError::io(calls.display().to_string()))?;
    make_directory(&calls)?;
    write(&root.join("slots/journal"), "")
}

fn journal(root: &Path) -> Result<String, SuiteError> {
    let path = root.join("slots/journal");
    fs::read_to_string(&path).map_err(SuiteError::io(path.display().to_string()))
}

pub(super) fn events(root: &Path) -> Result<Vec<Event>, SuiteError> {
    let event = |line: &str| {
        let mut words = line.split(' ');
        match (words.next()?, words.next_back()?) {
            ("begin", slot) => Some(Event::Begin(slot.to_owned())),
            ("end", slot) => Some(Event::End(slot.to_owned())),
            _ => None,
        }
    };
    Ok(journal(root)?.lines().filter_map(event).collect())
}

pub(super) fn calls(root: &Path, var: &Path) -> Result<Vec<Call>, SuiteError> {
    let journal = journal(root)?;
    let mut calls = Vec::new();
    for line in journal.lines() {
        let Some(("begin", rest)) = line.split_once(' ') else { continue };
        let Some((id, slot)) = rest.split_once(' ') else { continue };
        let end = format!("end {id} ");
        let code = journal.lines().find_map(|line| line.strip_prefix(&end)?.split(' ').next()?.parse().ok());
        calls.push(call(&root.join("slots/calls").join(id), var, slot, code)?);
    }
    Ok(calls)
}

fn call(record: &Path, var: &Path, slot: &str, code: Option<i32>) -> Result<Call, SuiteError> {
    let file = |name: &str| {
        let path = record.join(name);
        fs::read(&path).map_err(SuiteError::io(path.display().to_string()))
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let argv = file("argv")?;
    let argv = argv.strip_suffix(b"\0").unwrap_or(&argv);
    let mut words = argv.split(|byte| *byte == 0).map(text);
    let program = words.next().unwrap_or_default();
    let place = text(&file("where")?);
    let mut place = place.lines();
    let directory = place.next().unwrap_or_default().to_owned();
    // `CLIENT PORT SERVER PORT`: each host's name has an address of its own.
    let server = place.next().and_then(|line| line.split(' ').nth(2));
    let site = match server.and_then(super::sshd::host_at) {
        Some(host) if !Path::new(&program).starts_with(var) => Site::Host(host.to_owned()),
        _ => Site::FrontEnd,
    };
    let argv = words.collect();
    // Not there yet while the call has not read its input.
    let stdin = file("stdin").unwrap_or_default();
    Ok(Call { slot: slot.to_owned(), site, program, argv, stdin, directory, code })
}
