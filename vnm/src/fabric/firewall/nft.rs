//! `nft`, once per batch; and the kernel's tables, read without it.
//!
//! What goes in and what comes out are files without a name, so that neither waits for the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use causeway_core::names::LinkName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::TABLE;
use super::change::{Chain, Change, Element, Family, Key, Map};
use super::fence::{in_chain, out_chain};
use super::kernel::Kernel;
use super::observed::{Observed, Scope};
use super::skeleton;
use crate::fabric::linux::NetlinkError;

/// Where Debian has it.
pub const PROGRAM: &str = "/usr/sbin/nft";

/// How much of its complaints is kept, in bytes.
const COMPLAINT: u64 = 4096;

/// Why the firewall could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The kernel did not tell what is there.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The program was not started, or lost.
    #[error("{what} {}", program.display())]
    Program {
        /// What was tried.
        what: &'static str,
        /// The program.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The program did not end in time. The kernel has taken all of the batch or nothing.
    #[error("{} did not end in time and was killed", program.display())]
    Deadline {
        /// The program.
        program: PathBuf,
    },
    /// Nothing was changed.
    #[error("{} refused to {what}: {said}", program.display())]
    Refused {
        /// The program.
        program: PathBuf,
        /// The change, in words.
        what: String,
        /// What the program said.
        said: String,
    },
    /// An answer that is none of the forms we know.
    #[error("the answer of {} cannot be read", program.display())]
    Answer {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// Every number for the connections of a bridge is in use.
    #[error("bridge {bridge} can have no security groups: 4096 bridges of this host have some already")]
    NoZone {
        /// The bridge.
        bridge: LinkName,
    },
    /// A name that would be read as something else: with a `*` at its end it is any name that begins so, with an `@` in front a set.
    #[error("device {name} can have no guard: its name is not of letters, digits, '.', '_' and '-' alone")]
    Name {
        /// The guest's device, or its bridge.
        name: LinkName,
    },
    /// Connections can't be known here.
    #[error("security groups need the connections of bridged frames: {lack}")]
    NoTracking {
        /// What is missing, and what helps.
        lack: String,
    },
}

/// The firewall of the network namespace it was opened in.
pub struct Nft {
    program: PathBuf,
    deadline: Instant,
    kernel: Option<Kernel>,
}

impl Nft {
    /// `program` is run once for each change and killed at the deadline; reading needs no program.
    pub fn new(program: PathBuf, deadline: Instant) -> Self {
        Nft { program, deadline, kernel: None }
    }

    pub(super) fn kernel(&mut self) -> Result<&mut Kernel, NetlinkError> {
        if self.kernel.is_none() {
            self.kernel = Some(Kernel::open()?);
        }
        let none = || NetlinkError::Socket { what: "open", source: io::Error::other("there is none") };
        self.kernel.as_mut().ok_or_else(none)
    }

    /// Whether our table of that family stands.
    ///
    /// # Errors
    /// [`FirewallError::Netlink`].
    pub fn stands(&mut self, family: Family) -> Result<bool, FirewallError> {
        Ok(self.kernel()?.has_table(family, TABLE)?)
    }

    /// What of ours is there, as far as `scope` asks.
    ///
    /// # Errors
    /// [`FirewallError::Netlink`].
    pub fn observe(&mut self, scope: &Scope) -> Result<Observed, FirewallError> {
        let kernel = self.kernel()?;
        let mut observed = Observed::default();
        for family in [Family::Bridge, Family::Inet] {
            if kernel.has_table(family, TABLE)? {
                observed.tables.insert(family);
            }
        }
        let mut wanted = scope.chains();
        if let Some(own) = own_elements(kernel, scope)? {
            observed.others_unread = true;
            observed.elements = own;
            observed.elements.extend(kernel.elements(Map::Bridges)?);
        } else {
            for map in Map::ALL.into_iter().filter(|map| observed.tables.contains(&map.family())) {
                observed.elements.extend(kernel.elements(map)?);
            }
        }
        // A bridge's chain goes when its last guarded guest does.
        let of_scope = |element: &&Element| {
            matches!(&element.key, Key::Device(name) if scope.bridges.iter().any(|bridge| bridge.as_str() == name))
                || scope.taps.iter().any(|tap| is_of(tap, element, &observed.elements))
        };
        let bridges = observed.elements.iter().filter(|element| element.map == Map::Bridges).filter(of_scope);
        wanted.extend(bridges.map(|element| Chain { family: Family::Inet, name: element.chain.clone() }));

        let mut chains = BTreeMap::new();
        for chain in wanted.into_iter().filter(|chain| observed.tables.contains(&chain.family)) {
            if let Some(rules) = kernel.rules(chain.family, TABLE, &chain.name)? {
                chains.insert(chain, rules.into_iter().map(|rule| rule.comment).collect());
            }
        }
        observed.chains = chains;
        let stays = |element: &Element| {
            let of_scope = |name: &str| scope.taps.iter().any(|tap| tap.as_str() == name);
            element.map == Map::From && !matches!(&element.key, Key::Device(name) if of_scope(name))
        };
        if !observed.others_unread && !observed.elements.iter().any(stays) {
            for family in observed.tables.clone() {
                let (chains, others) = kernel.names(family)?;
                let theirs = chains.iter().any(|chain| !skeleton::is_ours(family, chain))
                    || others.iter().any(|name| !Map::ALL.iter().any(|map| map.as_str() == name));
                observed.shared.extend(theirs.then_some(family));
            }
        }
        Ok(observed)
    }

    /// Applies a change: the kernel takes all of it, or nothing.
    ///
    /// # Errors
    /// [`FirewallError::Refused`]: all is as it was. [`FirewallError::Deadline`]: all of it, or nothing.
    pub fn apply(&mut self, change: &Change) -> Result<(), FirewallError> {
        self.run(&["-j", "-f", "-"], &change.text(), &change.to_string()).map(|_| ())
    }

    /// The same with a batch in the program's own language, for what its JSON can't say.
    pub(super) fn batch(&mut self, batch: &str, what: &str) -> Result<(), FirewallError> {
        self.run(&["-f", "-"], batch, what).map(|_| ())
    }

    /// Whether the kernel would take that.
    pub(super) fn would_take(&mut self, batch: &Value) -> Result<bool, FirewallError> {
        match self.run(&["-j", "-c", "-f", "-"], &batch.to_string(), "check a batch") {
            Ok(_) => Ok(true),
            Err(FirewallError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Everybody's tables.
    pub(super) fn list(&mut self) -> Result<Value, FirewallError> {
        let out = self.run(&["-j", "list", "ruleset"], "", "list all rules")?;
        serde_json::from_slice(&out)
            .map_err(|source| FirewallError::Answer { program: self.program.clone(), source })
    }

    fn run(&mut self, args: &[&str], input: &str, what: &str) -> Result<Vec<u8>, FirewallError> {
        let (mut stdout, mut stderr) = (self.file("")?, self.file("")?);
        let stdin = self.file(input)?;
        let handle = |file: &File| file.try_clone().map(Stdio::from).map_err(self.failed("prepare"));
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.current_dir("/").stdin(stdin).stdout(handle(&stdout)?).stderr(handle(&stderr)?);
        let mut child = command.spawn().map_err(self.failed("start"))?;
        let status = wait(&mut child, self.deadline).map_err(self.failed("wait for"))?;
        match status {
            None => Err(FirewallError::Deadline { program: self.program.clone() }),
            Some(status) if status.success() => read(&mut stdout, u64::MAX).map_err(self.failed("read from")),
            Some(status) => {
                let said = read(&mut stderr, COMPLAINT).map_err(self.failed("read from"))?;
                let said = complaint(&said, status);
                Err(FirewallError::Refused { program: self.program.clone(), what: what.to_owned(), said })
            }
        }
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> FirewallError {
        let program = self.program.clone();
        move |source| FirewallError::Program { what, program: program.clone(), source }
    }

    /// A file without a name, at its beginning.
    fn file(&self, content: &str) -> Result<File, FirewallError> {
        let made = || -> io::Result<File> {
            let mut file = File::from(memfd_create("nft", MemfdFlags::CLOEXEC)?);
            file.write_all(content.as_bytes())?;
            file.rewind()?;
            Ok(file)
        };
        made().map_err(self.failed("prepare"))
    }
}

/// The elements of the scope's devices, looked up by their keys, as long as each is as it is wanted or not there: then none has to go,
/// and those of the host's other guests make no difference. None where something else is there, or nothing is wanted.
fn own_elements(kernel: &mut Kernel, scope: &Scope) -> Result<Option<BTreeSet<Element>>, NetlinkError> {
    if scope.elements.is_empty() {
        return Ok(None);
    }
    let mut found = BTreeSet::new();
    for tap in &scope.taps {
        for map in [Map::From, Map::To, Map::Direct] {
            found.extend(kernel.element(map, &Key::Device(tap.to_string()))?);
        }
    }
    for Element { map, key, .. } in scope.elements.iter().filter(|element| element.map.by_mark()) {
        found.extend(kernel.element(*map, key)?);
    }
    // A chain that is there without its mark may be led to by another mark.
    for chain in scope.taps.iter().flat_map(|tap| [in_chain(tap), out_chain(tap)]) {
        let marked = found.iter().any(|element| element.map.by_mark() && element.chain == chain);
        if !marked && kernel.has_chain(Family::Inet, TABLE, &chain)? {
            return Ok(None);
        }
    }
    Ok(found.is_subset(&scope.elements).then_some(found))
}

/// Whether that bridge is the one that the tap's NIC was guarded on.
fn is_of(tap: &LinkName, bridge: &Element, elements: &BTreeSet<Element>) -> bool {
    let mut from = elements.iter().filter(|element| element.map == Map::From);
    from.any(|element| {
        matches!(&element.key, Key::Device(name) if name == tap.as_str())
            && element.comment.parse().is_ok_and(|owner: super::Owner| {
                matches!(&bridge.key, Key::Device(name) if *name == owner.bridge.as_str())
            })
    })
}

fn read(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut out = Vec::new();
    file.take(limit).read_to_end(&mut out)?;
    Ok(out)
}

/// What it said, on one line.
fn complaint(said: &[u8], status: ExitStatus) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { status.to_string() } else { lines.join("; ") }
}

/// Waits for a child's end; at the deadline it is killed and there is no status.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = pidfd_open(pid.ok_or(Errno::SRCH)?, PidfdFlags::empty());
    let ended = handle.and_then(|handle| {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left.min(Duration::from_secs(3600))).ok();
            match poll(&mut [PollFd::new(&handle, PollFlags::IN)], left.as_ref()) {
                Err(Errno::INTR) => {}
                other => return other.map(|count| count > 0),
            }
        }
    });
    if !matches!(ended, Ok(true)) {
        child.kill()?;
    }
    let status = child.wait()?;
    ended.map(|ended| ended.then_some(status)).map_err(io::Error::from)
}
