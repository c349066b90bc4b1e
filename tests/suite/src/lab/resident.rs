//! A resident on one of the lab's hosts, spoken to as a driver process does.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use causeway_core::answer::Failure;
use causeway_core::names::{DeployId, RequestId, VmId};
use causeway_core::plan::{DiskOrder, Place, Step, Work};
use causeway_core::reach::frame;
use causeway_core::reach::wire::{Done, Exchange, FromResident, ToResident, WireStep};

use super::{LIBEXEC, Lab, LabError};

/// Where the host's last resident left its number.
const PID: &str = "/tmp/resident.pid";

/// Longest wait for the end of a step.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longest time of a step.
const DEADLINE: Duration = Duration::from_secs(100);

/// A resident and the session with it.
pub struct Resident {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Receiver<FromResident>,
    aside: VecDeque<FromResident>,
    host: String,
    sent: u64,
    /// Lines for the VM's log, all of them.
    pub lines: Vec<String>,
}

impl Resident {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(lab: &Lab, host: &str) -> Result<Resident, LabError> {
        let program = format!("{LIBEXEC}/causeway-host");
        let script = format!("echo $$ >{PID}; exec \"$@\"");
        let resident = [&program, "resident", "--uri", "qemu:///system", "--lease", "600"];
        let words = [&["one", host, "sh", "-c", &script, "sh"], resident.as_slice()].concat();
        let mut command = lab.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(LabError::io("start a resident"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (tell, heard) = mpsc::channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout?);
            while let Some(message) = read(&mut stdout) {
                tell.send(message).ok()?;
            }
            Some(())
        });
        let host = host.to_owned();
        Ok(Resident { child, stdin, heard, aside: VecDeque::new(), host, sent: 0, lines: Vec::new() })
    }

    /// Gives an order for a guest's disk.
    ///
    /// # Errors
    /// The session is over.
    pub fn send(&mut self, id: &DeployId, order: &DiskOrder) -> Result<RequestId, LabError> {
        self.sent += 1;
        let request = RequestId::new(0, self.child.id(), self.sent);
        let host = self.host.parse().map_err(|e| LabError::Promise(format!("{e}")))?;
        let work = Work::GuestDisk { id: id.clone(), order: order.clone() };
        let step = Step::new("disk", Place::Host(host), work, DEADLINE);
        self.say(&ToResident::Run(Box::new(Exchange {
            request: request.clone(),
            action: "TEST".to_owned(),
            vm: VmId(7),
            steps: vec![WireStep::from(&step)],
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
        })))?;
        Ok(request)
    }

    /// Gives an order and waits for its end.
    ///
    /// # Errors
    /// The session is over, or there is no end.
    pub fn ask(&mut self, id: &DeployId, order: &DiskOrder) -> Result<Result<Done, Failure>, LabError> {
        let request = self.send(id, order)?;
        self.end(&request)
    }

    /// Stops what runs for a request.
    ///
    /// # Errors
    /// The session is over.
    pub fn cancel(&mut self, request: &RequestId) -> Result<(), LabError> {
        self.say(&ToResident::Cancel { request: request.clone() })
    }

    /// The end of a request's step.
    ///
    /// # Errors
    /// The session is over, or there is no end.
    pub fn end(&mut self, wanted: &RequestId) -> Result<Result<Done, Failure>, LabError> {
        loop {
            if let FromResident::Ended { request, end } = self.hear()?
                && request == *wanted
            {
                return Ok(end.result);
            }
        }
    }

    /// Waits for a line of the VM's log with this text.
    ///
    /// # Errors
    /// None comes.
    pub fn await_line(&mut self, text: &str) -> Result<(), LabError> {
        let before = self.lines.len();
        loop {
            if self.lines.iter().skip(before).any(|line| line.contains(text)) {
                return Ok(());
            }
            let message = self.hear()?;
            if matches!(message, FromResident::Ended { .. }) {
                self.aside.push_back(message);
                return LabError::promise(format!("no line with {text:?}: {:?}", self.lines));
            }
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// It has ended already.
    pub fn kill(&self, lab: &Lab) -> Result<(), LabError> {
        lab.script(&self.host, "kill -KILL \"$(cat \"$1\")\"", &[PID]).map(drop)
    }

    /// Ends the session, as a driver process that dies does.
    pub fn hang_up(mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }

    fn say(&mut self, message: &ToResident) -> Result<(), LabError> {
        let frame = frame::encode(message).map_err(|e| LabError::Promise(e.to_string()))?;
        let over = || LabError::Promise("the session is over".to_owned());
        self.stdin.as_mut().ok_or_else(over)?.write_all(&frame).map_err(LabError::io("speak to a resident"))
    }

    fn hear(&mut self) -> Result<FromResident, LabError> {
        if let Some(message) = self.aside.pop_front() {
            return Ok(message);
        }
        let limit = Instant::now() + PATIENCE;
        let silent = |_| LabError::Promise("the resident says nothing".to_owned());
        let message = self.heard.recv_timeout(limit - Instant::now()).map_err(silent)?;
        if let FromResident::Log { text, .. } = &message {
            self.lines.push(text.clone());
        }
        Ok(message)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stream: &mut impl Read) -> Option<FromResident> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).ok()?];
    stream.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}
