//! The control of `ovs-vswitchd`: the few words of it that are needed (`ovs-appctl` of Open vSwitch, ovs-vswitchd(8)), and whether
//! there is anybody to hear them.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use serde::Deserialize as _;
use serde_json::{Value, json};

/// Waits until the datapath does what the flows say. It remembers what was decided for frames like the last ones, and looks that over
/// some milliseconds after flows have changed; on a busy host some hundred. Who asks after it has done so is answered after the next
/// time, which on a quiet host comes half a second later: so the question is asked, and then `wake` changes flows once more.
///
/// # Errors
/// The control can't be reached, or does not answer in time. The flows are as they were made.
pub(super) fn wait_for_datapath(run: &Path, deadline: Instant, wake: impl FnOnce()) -> io::Result<()> {
    let question = ask(run, deadline, "revalidator/wait", &[])?;
    wake();
    question.answer().map(|_| ())
}

/// The connections of a zone, as the switch prints them.
///
/// # Errors
/// As above.
pub(super) fn connections(run: &Path, deadline: Instant, datapath: &str, zone: u16) -> io::Result<String> {
    // The switch's own name for the datapath of that type.
    let (datapath, zone) = (format!("{datapath}@ovs-{datapath}"), format!("zone={zone}"));
    ask(run, deadline, "dpctl/dump-conntrack", &["-s", &datapath, &zone])?.answer()
}

/// What was asked and is not answered yet.
struct Question(UnixStream);

fn ask(run: &Path, deadline: Instant, method: &str, params: &[&str]) -> io::Result<Question> {
    let stream = connect(run)?;
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    let asked = json!({"id": 0, "method": method, "params": params});
    (&stream).write_all(asked.to_string().as_bytes())?;
    Ok(Question(stream))
}

impl Question {
    fn answer(self) -> io::Result<String> {
        let answer = Value::deserialize(&mut serde_json::Deserializer::from_reader(&self.0))?;
        match answer.get("error") {
            None | Some(Value::Null) => {
                Ok(answer.get("result").and_then(Value::as_str).unwrap_or_default().to_owned())
            }
            Some(error) => Err(io::Error::other(error.to_string())),
        }
    }
}

fn connect(run: &Path) -> io::Result<UnixStream> {
    let pid = std::fs::read_to_string(run.join("ovs-vswitchd.pid"))?;
    UnixStream::connect(run.join(format!("ovs-vswitchd.{}.ctl", pid.trim())))
}

/// Whether nobody acts on the database: where its server has left the number of its process, the switch does so as well while it
/// runs, and its control takes calls however busy it is.
pub(super) fn is_gone(run: &Path) -> bool {
    let gone = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    run.join("ovsdb-server.pid").exists() && connect(run).is_err_and(|error| gone(&error))
}
