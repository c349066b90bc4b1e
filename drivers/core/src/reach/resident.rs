//! The driver's end of the sessions to the residents: one kept ssh session per host, many requests on it at once.
//!
//! A session that ends takes nothing with it but its answers: whoever waits is told that the answer is lost, and asks
//! the host again over the next one.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::answer::{Failure, Kind};
use crate::names::{DeployId, HostName, RequestId};
use crate::outcome::Sighting;
use crate::reach::frame;
use crate::reach::frame::FrameError;
use crate::reach::missing::not_started;
use crate::reach::wire::{Exchange, FromResident, HEARTBEAT, Hello, ToResident};

/// How a host is reached: everything before the host's name, and the program there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// The client and its options.
    pub client: Vec<String>,
    /// What the remote shell runs.
    pub command: String,
    /// Longest time until the resident's hello.
    pub deadline: Duration,
}

impl Ssh {
    /// The session that is kept: no agent on it, none of the shared master connections that a stock driver may close.
    pub fn kept(client: &str, command: &str, deadline: Duration) -> Self {
        Ssh::with(client, command, deadline, &[NO_MASTER, "ForwardAgent=no"])
    }

    /// The session of one call of a slot: where somebody has opened a master connection that the client's configuration
    /// names, over that one, as the stock scripts go (contract TM 1.6). It opens none, and works without. Over a master the
    /// client's own options for silent hosts count, not ours: the step's deadline is what ends a wait there.
    pub fn passing(client: &str, command: &str, deadline: Duration) -> Self {
        Ssh::with(client, command, deadline, &["ForwardAgent=no"])
    }

    /// The session of one delegated action: it alone forwards the agent (contract VMM 1.2, `-d`).
    pub fn delegated(client: &str, command: &str, deadline: Duration) -> Self {
        Ssh::with(client, command, deadline, &[NO_MASTER, "ForwardAgent=yes"])
    }

    fn with(client: &str, command: &str, deadline: Duration, own: &[&str]) -> Self {
        let connect = format!("ConnectTimeout={}", deadline.as_secs().max(1));
        let common = [
            "BatchMode=yes",
            "ControlMaster=no",
            &connect,
            // A host that falls silent ends its own session within half a minute.
            "ServerAliveInterval=10",
            "ServerAliveCountMax=3",
            "LogLevel=ERROR",
        ];
        let mut words = vec![client.to_owned(), "-T".to_owned()];
        let options = own.iter().chain(&common);
        words.extend(options.flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
        Ssh { client: words, command: command.to_owned(), deadline }
    }
}

/// A connection of its own, whatever the client's configuration says.
const NO_MASTER: &str = "ControlPath=none";

/// How long an ssh client that ends may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The longest line of a session's standard error that is kept in one piece, in bytes.
const LINE_LIMIT: usize = 1000;

type Events = mpsc::UnboundedSender<FromResident>;

/// Who listens to a request's exchange.
struct Listener {
    events: Events,
    /// Earlier exchanges of the request that nobody listens to any more and that have not ended. The host runs them
    /// one after the other, so what comes before their ends is theirs.
    stale: u32,
}

#[derive(Default)]
struct Waiting {
    closed: bool,
    requests: HashMap<RequestId, Listener>,
    asks: HashMap<u64, oneshot::Sender<Sighting>>,
}

/// One open session.
pub struct Session {
    /// What the resident said first.
    pub hello: Hello,
    send: mpsc::UnboundedSender<ToResident>,
    waiting: Arc<Mutex<Waiting>>,
    next_ask: AtomicU64,
}

impl Session {
    /// Opens a session to `host` and reads the hello.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] with what ssh said when no hello comes in time; [`Kind::HostState`] when there is no
    /// resident on the host, or one of another schema.
    pub async fn open(ssh: &Ssh, host: &HostName) -> Result<Arc<Session>, Failure> {
        let lost = |why: String| Failure::new(Kind::Unreachable, why).context(format!("cannot reach {host}"));
        let (program, options) =
            ssh.client.split_first().ok_or_else(|| Failure::new(Kind::Bug, "no ssh client"))?;
        let mut command = Command::new(program);
        command.args(options).arg("--").arg(host.as_str()).arg(&ssh.command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.process_group(0).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|e| lost(format!("{program}: {e}")))?;
        let (Some(input), Some(mut output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::new(Kind::Bug, "an ssh client without pipes"));
        };
        let complaint = Arc::new(Mutex::new(String::new()));
        let listener = tokio::task::spawn_local(listen_errors(errors, host.clone(), Arc::clone(&complaint)));
        let hello = match tokio::time::timeout(ssh.deadline, frame::read::<FromResident>(&mut output)).await {
            Ok(Ok(FromResident::Hello(hello))) => hello,
            Ok(Ok(_)) => return Err(lost("the resident did not greet".to_owned())),
            Ok(Err(FrameError::Closed)) => {
                // Let ssh say why before its session is given up.
                let _ = tokio::time::timeout(LAST_WORDS, listener).await;
                let status = tokio::time::timeout(LAST_WORDS, child.wait()).await;
                if let Ok(Ok(status)) = status
                    && let Some(failure) = not_started(status, host.as_str(), &ssh.command)
                {
                    return Err(failure);
                }
                let said = complaint.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(lost(if said.is_empty() { FrameError::Closed.to_string() } else { said }));
            }
            Ok(Err(e)) => return Err(lost(e.to_string())),
            Err(_) => return Err(lost(format!("no answer within {} s", ssh.deadline.as_secs_f64()))),
        };
        hello.check().map_err(|why| Failure::new(Kind::HostState, why).context(host))?;

        let (send, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        tokio::task::spawn_local(serve(child, input, output, queue, Arc::clone(&waiting)));
        tokio::task::spawn_local(beat(send.downgrade()));
        Ok(Arc::new(Session { hello, send, waiting, next_ask: AtomicU64::new(1) }))
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Sends an exchange; its events arrive on the channel, which closes without an
    /// [`End`](FromResident::End) when the session is lost.
    pub fn run(&self, exchange: Exchange) -> mpsc::UnboundedReceiver<FromResident> {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut waiting = self.lock();
        if !waiting.closed {
            let before = waiting.requests.remove(&exchange.request);
            let stale = before.map_or(0, |listener| listener.stale + 1);
            waiting.requests.insert(exchange.request.clone(), Listener { events, stale });
            drop(waiting);
            // A failed send is a closed session: the channel closes too.
            let _ = self.send.send(ToResident::Run(Box::new(exchange)));
        }
        receiver
    }

    /// Tells the resident to stop what runs for `request`; the exchange then ends by itself.
    pub fn cancel(&self, request: &RequestId) {
        let _ = self.send.send(ToResident::Cancel { request: request.clone() });
    }

    /// Asks where a guest is; silence is [`Sighting::Unreachable`].
    pub async fn locate(&self, id: &DeployId, deadline: Duration) -> Sighting {
        let ask = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.closed {
                return Sighting::Unreachable("the session is closed".to_owned());
            }
            waiting.asks.insert(ask, answer);
        }
        let _ = self.send.send(ToResident::Locate { ask, id: id.clone() });
        match tokio::time::timeout(deadline, receiver).await {
            Ok(Ok(sighting)) => sighting,
            Ok(Err(_)) => Sighting::Unreachable("the session ended".to_owned()),
            Err(_) => {
                self.lock().asks.remove(&ask);
                Sighting::Unreachable(format!("no answer within {} s", deadline.as_secs_f64()))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries a session to its end, whichever direction ends first.
async fn serve(
    mut child: Child,
    mut input: ChildStdin,
    output: ChildStdout,
    mut queue: mpsc::UnboundedReceiver<ToResident>,
    waiting: Arc<Mutex<Waiting>>,
) {
    let readers = Arc::clone(&waiting);
    let mut reader = tokio::task::spawn_local(async move { dispatch(output, &readers).await });
    let failed = tokio::select! {
        result = frame::write_all(&mut input, &mut queue) => result.is_err(),
        _ = &mut reader => true,
    };
    // Its last user has gone: the resident sees the end of its input, finishes what must not be cut short, and ends.
    drop(input);
    if failed {
        reader.abort();
    } else {
        let _ = reader.await;
    }
    close(&waiting);
    let _ = child.start_kill();
    let _ = child.wait().await;
}

/// Says that the driver is there, for as long as the session has a user.
async fn beat(session: mpsc::WeakUnboundedSender<ToResident>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let Some(send) = session.upgrade() else { return };
        if send.send(ToResident::Alive).is_err() {
            return;
        }
    }
}

/// Dropping the senders tells everybody that the answer is lost.
fn close(waiting: &Mutex<Waiting>) {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    *waiting = Waiting { closed: true, ..Waiting::default() };
}

async fn dispatch(output: ChildStdout, waiting: &Mutex<Waiting>) {
    let mut output = BufReader::new(output);
    loop {
        let message = match frame::read::<FromResident>(&mut output).await {
            Ok(message) => message,
            Err(e) => {
                tracing::debug!(error = %e, "session ended");
                return;
            }
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match &message {
            FromResident::Hello(_) => {}
            FromResident::Located { ask, sighting } => {
                if let Some(answer) = waiting.asks.remove(ask) {
                    // Nobody waits any more: the question had a deadline.
                    let _ = answer.send(sighting.clone());
                }
            }
            FromResident::End { request } => match waiting.requests.get_mut(request) {
                Some(listener) if listener.stale > 0 => listener.stale -= 1,
                _ => {
                    if let Some(listener) = waiting.requests.remove(request) {
                        let _ = listener.events.send(message);
                    }
                }
            },
            FromResident::Started { request, .. }
            | FromResident::Ended { request, .. }
            | FromResident::Log { request, .. } => {
                if let Some(listener) = waiting.requests.get(request).filter(|listener| listener.stale == 0) {
                    let _ = listener.events.send(message);
                }
            }
        }
    }
}

/// Reads what a session says on standard error to its end, whatever it is: unread, it would fill the pipe and stop the
/// session. Lines need not be text, nor ever end.
async fn listen_errors(mut errors: ChildStderr, host: HostName, complaint: Arc<Mutex<String>>) {
    let mut chunk = [0; 4096];
    let mut line = Vec::new();
    loop {
        let length = errors.read(&mut chunk).await.unwrap_or_default();
        let read = chunk.get(..length).unwrap_or_default();
        for byte in read {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() >= LINE_LIMIT {
                note_line(&std::mem::take(&mut line), &host, &complaint);
            }
        }
        if read.is_empty() {
            note_line(&line, &host, &complaint);
            return;
        }
    }
}

fn note_line(line: &[u8], host: &HostName, complaint: &Mutex<String>) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    tracing::info!(%host, text, "resident");
    let mut said = complaint.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() < LINE_LIMIT {
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.push_str(text);
    }
}

/// The session of one host, and how the last try to open one failed.
#[derive(Default)]
struct Kept {
    session: Option<Arc<Session>>,
    failed: Option<(Instant, Failure)>,
}

/// The kept sessions, one per host.
pub struct Hosts {
    ssh: Ssh,
    sessions: Mutex<HashMap<HostName, Arc<tokio::sync::Mutex<Kept>>>>,
}

impl Hosts {
    /// No session yet; each is opened as `ssh` says when it is first needed.
    pub fn new(ssh: Ssh) -> Self {
        Hosts { ssh, sessions: Mutex::default() }
    }

    /// The session to `host`, opened anew where there is none or it has ended. A silent host holds up only those who
    /// want the same host, and all of them together for one deadline: who waited for a try takes its result.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn session(&self, host: &HostName) -> Result<Arc<Session>, Failure> {
        let asked = Instant::now();
        let place = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sessions.entry(host.clone()).or_default())
        };
        let mut kept = place.lock().await;
        if let Some(open) = kept.session.as_ref().filter(|s| !s.is_closed()) {
            return Ok(Arc::clone(open));
        }
        if let Some((_, failure)) = kept.failed.as_ref().filter(|(when, _)| *when > asked) {
            return Err(failure.clone());
        }
        match Session::open(&self.ssh, host).await {
            Ok(opened) => {
                *kept = Kept { session: Some(Arc::clone(&opened)), failed: None };
                Ok(opened)
            }
            Err(failure) => {
                *kept = Kept { session: None, failed: Some((Instant::now(), failure.clone())) };
                Err(failure)
            }
        }
    }
}
