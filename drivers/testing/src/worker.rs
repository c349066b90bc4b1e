//! A file worker that can be told to misbehave.

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::reach::worker;
use serde::{Deserialize, Serialize};

/// What it can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Its process id.
    Pid,
    /// The text, once more.
    Echo(String),
    /// To fail with that text.
    Fail(String),
    /// To end without an answer.
    Die,
    /// To start a child, write both process ids to this file, and never answer.
    Hang {
        /// The file.
        register: String,
    },
}

/// Answers until its input ends.
///
/// # Errors
/// A broken stream.
pub fn serve() -> io::Result<()> {
    worker::serve(|ask: Ask| match ask {
        Ask::Pid => Ok(std::process::id().to_string()),
        Ask::Echo(text) => Ok(text),
        Ask::Fail(text) => Err(Failure::new(Kind::HostState, text)),
        Ask::Die => std::process::exit(9),
        Ask::Hang { register } => hang(&register).map_err(|e| Failure::new(Kind::Bug, e)),
    })
}

fn hang(register: &str) -> io::Result<String> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("linger")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let fresh = format!("{register}.new");
    std::fs::write(&fresh, format!("{} {}\n", std::process::id(), child.id()))?;
    std::fs::rename(fresh, register)?;
    child.wait()?;
    Ok(String::new())
}

/// What the child does: nothing, for longer than any test.
pub fn linger() {
    std::thread::sleep(Duration::from_secs(120));
}
