//! The database of Open vSwitch, by its management protocol (RFC 7047) over a unix socket.
//!
//! All that belongs together goes into one transaction: the switch sees all of it or nothing.

mod datum;
mod operation;

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use datum::{Datum, Row, RowId};
pub use operation::{Condition, Mutation, Operation};

/// The database's name.
const DATABASE: &str = "Open_vSwitch";

/// Why the database could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum OvsdbError {
    /// Nobody serves the socket.
    #[error("the database of Open vSwitch can't be reached at {}: is openvswitch-switch running?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the database of Open vSwitch: {what}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// No answer in time.
    #[error("the database of Open vSwitch has not answered in time")]
    Deadline,
    /// An answer that is none.
    #[error("the answer of the database of Open vSwitch can't be read: {why}")]
    Answer {
        /// What is wrong with it.
        why: String,
    },
    /// The database refused a transaction; nothing of it was done.
    #[error("the database of Open vSwitch refused to {what}: {error}{}", details.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// The operation.
        what: String,
        /// The error's name (RFC 7047 section 3.1), such as `timed out` of a `wait` that found something else.
        error: String,
        /// The database's own words.
        details: Option<String>,
    },
}

impl OvsdbError {
    /// Whether what a transaction was worked out from had changed before it was made: look again.
    pub fn is_stale(&self) -> bool {
        matches!(self, OvsdbError::Refused { error, .. } if error == "timed out")
    }
}

/// A connection to the database.
pub struct Ovsdb {
    writer: UnixStream,
    answers: serde_json::StreamDeserializer<'static, serde_json::de::IoRead<BufReader<UnixStream>>, Message>,
    deadline: Instant,
    next: u64,
}

/// What the database sends: an answer, or a question of its own (`echo`).
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    error: Value,
}

#[derive(Serialize)]
struct Question<'a> {
    method: &'a str,
    params: Value,
    id: u64,
}

impl Ovsdb {
    /// Connects to the database's socket; until `deadline` every call may take.
    ///
    /// # Errors
    /// [`OvsdbError::Connect`].
    pub fn connect(path: &Path, deadline: Instant) -> Result<Self, OvsdbError> {
        let failed = |source| OvsdbError::Connect { path: path.to_owned(), source };
        Ovsdb::over(UnixStream::connect(path).map_err(failed)?, deadline).map_err(failed)
    }

    /// Speaks over a connection that is there.
    pub(super) fn over(writer: UnixStream, deadline: Instant) -> io::Result<Self> {
        let reader = BufReader::new(writer.try_clone()?);
        let answers = serde_json::Deserializer::from_reader(reader).into_iter();
        Ok(Ovsdb { writer, answers, deadline, next: 0 })
    }

    /// Makes a transaction: all of it, or nothing. The results of its operations, in order.
    ///
    /// # Errors
    /// [`OvsdbError::Refused`] names the operation that could not be done.
    pub fn transact(&mut self, operations: &[Operation]) -> Result<Vec<Value>, OvsdbError> {
        let mut params = vec![json!(DATABASE)];
        params.extend(operations.iter().map(|operation| operation.body.clone()));
        let result = self.call("transact", Value::Array(params))?;
        let Value::Array(mut results) = result else {
            return Err(OvsdbError::Answer { why: "a transaction's result is no list".to_owned() });
        };
        // One more than there were operations: the whole failed when it was to be committed.
        for (index, result) in results.iter().enumerate() {
            if let Some(error) = result.get("error") {
                let what = operations.get(index).map_or("commit the transaction", |o| o.what.as_str());
                return Err(refused(what, error, result.get("details")));
            }
        }
        if results.len() < operations.len() {
            return Err(OvsdbError::Answer { why: "a transaction's result lacks operations".to_owned() });
        }
        results.truncate(operations.len());
        Ok(results)
    }

    /// Reads rows: those of each `select` in turn, as they were at one moment.
    ///
    /// # Errors
    /// [`OvsdbError::Answer`] for what is no list of rows.
    pub fn select(&mut self, selects: &[Operation]) -> Result<Vec<Vec<Row>>, OvsdbError> {
        let unreadable = || OvsdbError::Answer { why: "a selection's result is no list of rows".to_owned() };
        let rows = |result: &Value| -> Option<Vec<Row>> {
            result.get("rows")?.as_array()?.iter().map(Row::from_json).collect()
        };
        self.transact(selects)?.iter().map(|result| rows(result).ok_or_else(unreadable)).collect()
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value, OvsdbError> {
        self.next += 1;
        let id = self.next;
        self.send(&Question { method, params, id })?;
        loop {
            let message = self.receive()?;
            match message.method.as_deref() {
                Some("echo") => {
                    self.send(&json!({"id": message.id, "result": message.params, "error": null}))?;
                }
                Some(_) => {}
                None if message.id == json!(id) => {
                    return match message.error {
                        Value::Null => Ok(message.result),
                        error => {
                            Err(refused(method, error.get("error").unwrap_or(&error), error.get("details")))
                        }
                    };
                }
                None => {}
            }
        }
    }

    fn left(&self) -> Result<Duration, OvsdbError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(OvsdbError::Deadline) } else { Ok(left) }
    }

    fn send(&mut self, message: &impl Serialize) -> Result<(), OvsdbError> {
        let left = self.left()?;
        let failed = |source| OvsdbError::Socket { what: "write", source };
        self.writer.set_write_timeout(Some(left)).map_err(failed)?;
        let bytes = serde_json::to_vec(message).map_err(|e| failed(e.into()))?;
        self.writer.write_all(&bytes).map_err(|source| late_or(source, "write"))
    }

    fn receive(&mut self) -> Result<Message, OvsdbError> {
        let left = self.left()?;
        let failed = |source| OvsdbError::Socket { what: "read", source };
        self.writer.set_read_timeout(Some(left)).map_err(failed)?;
        match self.answers.next() {
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) if error.is_io() => Err(late_or(error.into(), "read")),
            Some(Err(error)) => Err(OvsdbError::Answer { why: error.to_string() }),
            None => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

fn late_or(source: io::Error, what: &'static str) -> OvsdbError {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => OvsdbError::Deadline,
        _ => OvsdbError::Socket { what, source },
    }
}

fn refused(what: &str, error: &Value, details: Option<&Value>) -> OvsdbError {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    OvsdbError::Refused { what: what.to_owned(), error: text(error), details: details.map(text) }
}
