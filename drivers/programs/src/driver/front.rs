//! The front-end's files, read by a child that may be killed: `/var/lib/one` may lie on a file server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::DiskPath;
use causeway_core::plan::{Input, InputName};
use causeway_core::protocol::Severity;
use causeway_core::reach::worker::{self, Workers};
use causeway_core::settings::Causeway;
use causeway_tm::front::{Limits, read_sources};
use causeway_tm::plan::Source;
use serde::{Deserialize, Serialize};

use crate::storage::Transfer;

/// The largest deployment file or transfer script that is read.
const FILE_LIMIT: u64 = 8 << 20;

/// Longest wait for a file of the front-end.
const DEADLINE: Duration = Duration::from_secs(30);

/// How much sooner a child gives up, seconds.
const MARGIN: u64 = 5;

/// How many children read at once.
const WORKERS: usize = 2;

/// How many fetch at once.
const FETCHERS: usize = 8;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Read(DiskPath),
    Sources { sources: BTreeMap<InputName, Source>, seconds: u64 },
    Transfer(Transfer),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Read(Input),
    Sources(BTreeMap<InputName, Input>),
    Transferred(String),
}

/// The children.
pub struct Front {
    workers: Workers,
    /// Those that fetch: nobody who reads a file waits for a slow server.
    fetchers: Workers,
    causeway: Causeway,
}

impl Front {
    /// Children of this program, started with the word `worker` when they are first needed; their locks lie in the
    /// journal's directory.
    ///
    /// # Errors
    /// The program's own path is not known.
    pub fn new(causeway: &Causeway) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let state = &causeway.journal_dir;
        let words = vec![program.into(), OsString::from("worker"), OsString::from("--state"), state.into()];
        let fetchers = Workers::new(words.clone(), FETCHERS);
        Ok(Front { workers: Workers::new(words, WORKERS), fetchers, causeway: causeway.clone() })
    }

    /// The content of a file.
    ///
    /// # Errors
    /// It can't be read, or is above 8 MiB.
    pub async fn read(&self, path: &DiskPath) -> Result<Vec<u8>, Failure> {
        match self.workers.call(&Request::Read(path.clone()), DEADLINE).await? {
            Answer::Read(input) => Ok(input.0.to_vec()),
            _ => Err(confused()),
        }
    }

    /// The bytes of every source.
    ///
    /// # Errors
    /// As [`read_sources`].
    pub async fn sources(
        &self,
        sources: BTreeMap<InputName, Source>,
    ) -> Result<BTreeMap<InputName, Input>, Failure> {
        if sources.is_empty() {
            return Ok(BTreeMap::new());
        }
        let fetched = sources.values().any(|source| matches!(source, Source::Address(_)));
        let (workers, deadline) = match fetched {
            true => (&self.fetchers, self.causeway.deadlines.tm.duration().max(DEADLINE)),
            false => (&self.workers, DEADLINE),
        };
        // The child is to say what it waited for, before it is ended.
        let seconds = deadline.as_secs().saturating_sub(MARGIN);
        match workers.call(&Request::Sources { sources, seconds }, deadline).await? {
            Answer::Sources(inputs) => Ok(inputs),
            _ => Err(confused()),
        }
    }

    /// Does a piece of the transfer manager's work on the front-end; what it prints. `log` is the VM's.
    ///
    /// # Errors
    /// What it failed of.
    pub async fn transfer(
        &self,
        call: serde_json::Value,
        inputs: Vec<Input>,
        deadline: Duration,
        log: impl Fn(Severity, &str),
    ) -> Result<String, Failure> {
        let transfer = Transfer::new(call, inputs, deadline, &self.causeway);
        match self.workers.call_and_listen(&Request::Transfer(transfer), deadline, log).await? {
            Answer::Transferred(output) => Ok(output),
            _ => Err(confused()),
        }
    }
}

fn confused() -> Failure {
    Failure::new(Kind::Bug, "a file worker gave the answer to another question")
}

/// The child's life.
///
/// # Errors
/// A broken pipe or frame.
pub fn serve(state: &Path) -> io::Result<()> {
    worker::serve_and_tell(|request: Request, log| match request {
        Request::Transfer(transfer) => transfer.perform(state, log).map(Answer::Transferred),
        Request::Read(path) => read(&path).map(Answer::Read),
        Request::Sources { sources, seconds } => {
            let deadline = Instant::now() + Duration::from_secs(seconds);
            read_sources(&sources, Limits::default(), deadline).map(Answer::Sources)
        }
    })
}

fn read(path: &DiskPath) -> Result<Input, Failure> {
    let failed = |e: io::Error| Failure::new(Kind::HostState, format!("cannot be read: {e}"));
    let mut bytes = Vec::new();
    let file = File::open(path.path()).map_err(failed)?;
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_LIMIT) {
        return Err(Failure::new(Kind::Input, format!("is above {} MiB", FILE_LIMIT >> 20)));
    }
    Ok(Input::new(bytes))
}
