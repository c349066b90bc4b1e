//! The watchdog of a guest at rest: a process of its own, so that the guest runs again whatever becomes of the driver, of
//! the session, and of the resident itself.
//!
//! ```text
//! resident                     guard
//!   | -- arm 1 0 60 10 ---------> |   frozen, suspended, seconds, seconds for the agent
//!   | <------------------- ok --- |
//!   | -- disarm ----------------> |
//!   | <------------------- ok --- |   or "acted": the time was over, and the guest was let go
//!   end of input while armed: the guard acts at once
//! ```

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use causeway_core::names::DeployId;
use causeway_domain::disk::rest::{How, Rest, take_back};
use causeway_domain::disk::{Hold, Watchdog};
use causeway_domain::{DomainError, Hypervisor, Libvirt};

/// How long a guard may take to answer: it is started first.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a guard goes on with a guest that does not come back, and how often it tries.
const PERSISTENCE: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(2));

/// A guard of one guest, from the resident's side. Dropped while it is armed, it acts.
pub struct Guard {
    said: Mutex<Option<ChildStdin>>,
    heard: Mutex<Receiver<String>>,
    seconds: u64,
    agent: Duration,
}

impl Guard {
    fn ask(&self, line: &str) -> Result<String, String> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stdin) = said.as_mut() else { return Err("it was let go".to_owned()) };
        stdin.write_all(line.as_bytes()).map_err(|e| e.to_string())?;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.recv_timeout(ANSWER).map_err(|_| "it does not answer".to_owned())
    }
}

impl Watchdog for Guard {
    fn arm(&self, hold: Hold) -> Result<(), String> {
        let (frozen, suspended) = (u8::from(hold.frozen), u8::from(hold.suspended));
        let line = format!("arm {frozen} {suspended} {} {}\n", self.seconds, self.agent.as_secs());
        match self.ask(&line)?.as_str() {
            "ok" => Ok(()),
            other => Err(format!("it says {other:?}")),
        }
    }

    fn disarm(&self) -> bool {
        matches!(self.ask("disarm\n").as_deref(), Ok("ok"))
    }
}

/// A guest at rest between two steps.
pub struct Held {
    /// Sees to it that it does not stay so.
    pub guard: Guard,
    /// How it rests.
    pub rest: Rest,
    /// How it was asked to.
    pub how: How,
}

/// The guests that this resident holds at rest, and what starts their guards.
pub struct Rests {
    words: Vec<OsString>,
    held: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    guests: HashMap<DeployId, Held>,
    /// Nobody is left who would end a rest.
    ended: bool,
}

impl Rests {
    /// Guards are this program with the word `guard`.
    ///
    /// # Errors
    /// The program's own path is not known.
    pub fn new(uri: &str) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Rests::with(vec![program.into(), "guard".into(), "--uri".into(), uri.into()]))
    }

    /// Guards are started by these words, and the guest's id.
    pub(super) fn with(words: Vec<OsString>) -> Self {
        Rests { words, held: Mutex::default() }
    }

    /// Starts a guard that, once armed, acts after that many seconds, with so much patience for the guest's agent.
    ///
    /// # Errors
    /// It can't be started.
    pub fn guard(&self, id: &DeployId, seconds: u64, agent: Duration) -> io::Result<Guard> {
        let Some((program, words)) = self.words.split_first() else {
            return Err(io::Error::other("a guard without a program"));
        };
        let mut child = Command::new(program)
            .args(words)
            .arg(id.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ours may be gone when it has something to say, and that must not end it.
            .stderr(Stdio::null())
            // Whatever ends this process by a signal to its group leaves the guard alone.
            .process_group(0)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (tell, heard) = mpsc::channel();
        thread::Builder::new().name("guard".to_owned()).spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                // Nobody may be listening any more.
                let _ = tell.send(line);
            }
            let _ = child.wait();
        })?;
        Ok(Guard { said: Mutex::new(stdin), heard: Mutex::new(heard), seconds, agent })
    }

    /// Keeps a guest at rest, unless the session has ended meanwhile.
    pub fn keep(&self, id: &DeployId, held: Held) {
        let mut table = self.lock();
        if !table.ended {
            table.guests.insert(id.clone(), held);
        }
    }

    /// A guest that was kept, and is not any more.
    pub fn take(&self, id: &DeployId) -> Option<Held> {
        self.lock().guests.remove(id)
    }

    /// Lets go of all: their guards act at once.
    pub fn end(&self) {
        let mut table = self.lock();
        table.ended = true;
        table.guests.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a guard was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Armed {
    hold: Hold,
    until: Instant,
    agent: Duration,
}

/// The guard's life: it ends when its input does, once nothing is left to be taken back.
///
/// # Errors
/// The guest did not come back for an hour.
pub fn serve(uri: &str, id: &DeployId) -> anyhow::Result<()> {
    let (tell, lines) = mpsc::channel();
    thread::Builder::new().name("words".to_owned()).spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    })?;
    watch(&lines, &|word| say(word), &|armed| bring_back(uri, id, armed))
}

fn say(word: &str) {
    let mut out = io::stdout();
    // Whoever would read it may have died.
    let _ = writeln!(out, "{word}").and_then(|()| out.flush());
}

fn watch(
    lines: &Receiver<String>,
    say: &dyn Fn(&str),
    act: &dyn Fn(Armed) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut armed: Option<Armed> = None;
    let mut acted = false;
    loop {
        let left = armed.map_or(PERSISTENCE.0, |armed| armed.until.saturating_duration_since(Instant::now()));
        match (lines.recv_timeout(left), armed) {
            (Ok(line), _) if line == "disarm" => {
                say(if acted { "acted" } else { "ok" });
                armed = None;
            }
            (Ok(line), _) => match read(&line) {
                Some(new) => {
                    (armed, acted) = (Some(new), false);
                    say("ok");
                }
                None => say("what?"),
            },
            (Err(RecvTimeoutError::Timeout), None) => {}
            (Err(RecvTimeoutError::Timeout), Some(hold)) => {
                act(hold)?;
                (armed, acted) = (None, true);
            }
            (Err(RecvTimeoutError::Disconnected), Some(hold)) => return act(hold),
            (Err(RecvTimeoutError::Disconnected), None) => return Ok(()),
        }
    }
}

/// `arm FROZEN SUSPENDED SECONDS AGENT_SECONDS`
fn read(line: &str) -> Option<Armed> {
    let numbers: Option<Vec<u64>> =
        line.strip_prefix("arm ")?.split(' ').map(|word| word.parse().ok()).collect();
    let numbers = numbers?;
    let &[frozen, suspended, seconds, agent] = numbers.as_slice() else { return None };
    let hold = Hold { frozen: frozen > 0, suspended: suspended > 0 };
    let until = Instant::now().checked_add(Duration::from_secs(seconds))?;
    Some(Armed { hold, until, agent: Duration::from_secs(agent) })
}

/// Goes on until the guest is back or gone.
fn bring_back(uri: &str, id: &DeployId, armed: Armed) -> anyhow::Result<()> {
    tracing::warn!(%id, hold = ?armed.hold, "the guest is let go");
    let (limit, pause) = PERSISTENCE;
    let since = Instant::now();
    let mut client = None;
    loop {
        match try_back(&mut client, uri, id, armed) {
            Ok(()) => return Ok(()),
            Err(error) if since.elapsed() > limit => return Err(error.into()),
            Err(error) => tracing::warn!(%id, %error, cause = %error.cause, "the guest is not back yet"),
        }
        thread::sleep(pause);
    }
}

fn try_back(client: &mut Option<Libvirt>, uri: &str, id: &DeployId, armed: Armed) -> Result<(), DomainError> {
    let host: &dyn Hypervisor = match client {
        Some(client) => client,
        None => client.insert(Libvirt::connect(uri)?),
    };
    take_back(host, id, armed.hold, armed.agent, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What a guard says and does when it hears these lines, and then no more.
    fn played(lines: &[&str], silent: bool) -> Vec<String> {
        let (tell, heard) = mpsc::channel();
        for line in lines {
            tell.send((*line).to_owned()).unwrap();
        }
        let seen = RefCell::new(Vec::new());
        let end = silent.then_some(tell);
        let say = |word: &str| seen.borrow_mut().push(word.to_owned());
        let act = |armed: Armed| {
            seen.borrow_mut().push(format!("acts {} {}", armed.hold.frozen, armed.hold.suspended));
            match silent {
                true => anyhow::bail!("enough"),
                false => Ok(()),
            }
        };
        let _ = watch(&heard, &say, &act);
        drop(end);
        seen.into_inner()
    }

    #[test]
    fn a_guard_acts_when_its_master_or_its_time_is_gone_and_not_otherwise() {
        assert_eq!(played(&[], false), [""; 0]);
        assert_eq!(played(&["arm 1 0 60 5"], false), ["ok", "acts true false"]);
        assert_eq!(played(&["arm 1 0 60 5", "disarm"], false), ["ok", "ok"]);
        assert_eq!(played(&["arm 1 0 60 5", "arm 1 1 60 5"], false), ["ok", "ok", "acts true true"]);
        assert_eq!(played(&["arm 0 1 0 5"], true), ["ok", "acts false true"]);
        assert_eq!(played(&["arm x", "arm 1 0 60", "go"], false), ["what?"; 3]);
    }

    #[test]
    fn who_comes_too_late_is_told() {
        let (tell, heard) = mpsc::channel();
        tell.send("arm 1 0 0 5".to_owned()).unwrap();
        let seen = RefCell::new(Vec::new());
        let late = RefCell::new(Some(tell));
        let act = |_: Armed| {
            if let Some(tell) = late.borrow_mut().take() {
                tell.send("disarm".to_owned()).unwrap();
            }
            Ok(())
        };
        watch(&heard, &|word| seen.borrow_mut().push(word.to_owned()), &act).unwrap();
        assert_eq!(seen.into_inner(), ["ok", "acted"]);
    }

    /// Answers as a guard does, and writes down what it hears.
    fn scripted(log: &std::path::Path) -> Rests {
        let script =
            format!("while read line; do echo \"$line\" >>{0}; echo ok; done; echo end >>{0}", log.display());
        Rests::with(["sh", "-c", &script, "guard"].map(OsString::from).to_vec())
    }

    #[test]
    fn a_guard_hears_of_every_hold_and_of_our_end() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let rests = scripted(&log);
        let id: DeployId = "one-7".parse().unwrap();
        let agent = Duration::from_secs(5);
        let guard = rests.guard(&id, 60, agent).unwrap();
        guard.arm(Hold { frozen: true, suspended: false }).unwrap();
        assert!(guard.disarm());
        guard.arm(Hold { frozen: false, suspended: true }).unwrap();
        let how = How { agent, or_suspend: true };
        rests.keep(&id, Held { guard, rest: Rest::Suspended { thaw: false }, how });
        rests.end();
        let expected = "arm 1 0 60 5\ndisarm\narm 0 1 60 5\nend\n";
        while std::fs::read_to_string(&log).unwrap() != expected {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(Rests::with(vec!["/nowhere/guard".into()]).guard(&id, 1, agent).is_err());
        let mute = Rests::with(vec!["false".into()]).guard(&id, 1, agent).unwrap();
        assert!(mute.arm(Hold::default()).is_err());
    }
}
