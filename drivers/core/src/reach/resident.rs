//! The driver's end of the sessions to the residents: one kept ssh session per host, many requests on it at once.
//!
//! A session that ends takes nothing with it but its answers: whoever waits is told that the answer is lost, and asks
//! the host again over the next one.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

use crate::answer::{Failure, Kind};
use crate::names::{DeployId, HostName, RequestId};
use crate::outcome::Sighting;
use crate::reach::frame;
use crate::reach::wire::{Exchange, FromResident, Hello, ToResident};

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
        Ssh::with(client, command, deadline, "no")
    }

    /// The session of one delegated action: it alone forwards the agent (contract VMM 1.2, `-d`).
    pub fn delegated(client: &str, command: &str, deadline: Duration) -> Self {
        Ssh::with(client, command, deadline, "yes")
    }

    fn with(client: &str, command: &str, deadline: Duration, agent: &str) -> Self {
        let connect = deadline.as_secs().max(1);
        let options = [
            "BatchMode=yes".to_owned(),
            "ControlMaster=no".to_owned(),
            "ControlPath=none".to_owned(),
            format!("ForwardAgent={agent}"),
            format!("ConnectTimeout={connect}"),
            // A host that falls silent ends its own session within half a minute.
            "ServerAliveInterval=10".to_owned(),
            "ServerAliveCountMax=3".to_owned(),
            "LogLevel=ERROR".to_owned(),
        ];
        let mut words = vec![client.to_owned(), "-T".to_owned()];
        words.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        Ssh { client: words, command: command.to_owned(), deadline }
    }
}

type Events = mpsc::UnboundedSender<FromResident>;

#[derive(Default)]
struct Waiting {
    closed: bool,
    requests: HashMap<RequestId, Events>,
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
    /// [`Kind::Unreachable`] with what ssh said when no hello comes in time; [`Kind::HostState`] when the resident
    /// there is of another schema.
    pub async fn open(ssh: &Ssh, host: &HostName) -> Result<Arc<Session>, Failure> {
        let lost = |why: String| Failure::new(Kind::Unreachable, why).context(format!("cannot reach {host}"));
        let (program, options) = ssh.client.split_first().ok_or_else(|| Failure::new(Kind::Bug, "no ssh client"))?;
        let mut command = Command::new(program);
        command.args(options).arg("--").arg(host.as_str()).arg(&ssh.command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.process_group(0).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|e| lost(format!("{program}: {e}")))?;
        let (Some(mut input), Some(mut output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::new(Kind::Bug, "an ssh client without pipes"));
        };
        let complaint = Arc::new(Mutex::new(String::new()));
        tokio::task::spawn_local(listen_errors(errors, host.clone(), Arc::clone(&complaint)));
        let hello = match tokio::time::timeout(ssh.deadline, frame::read::<FromResident>(&mut output)).await {
            Ok(Ok(FromResident::Hello(hello))) => hello,
            Ok(Ok(_)) => return Err(lost("the resident did not greet".to_owned())),
            Ok(Err(e)) => {
                // Let ssh say why before its session is given up.
                let _ = tokio::time::timeout(Duration::from_secs(2), child.wait()).await;
                tokio::task::yield_now().await;
                let said = complaint.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(lost(if said.is_empty() { e.to_string() } else { said }));
            }
            Err(_) => return Err(lost(format!("no answer within {} s", ssh.deadline.as_secs()))),
        };
        hello.check().map_err(|why| Failure::new(Kind::HostState, why).context(host))?;

        let (send, mut queue) = mpsc::unbounded_channel::<ToResident>();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        tokio::task::spawn_local(async move {
            while let Some(message) = queue.recv().await {
                if frame::write(&mut input, &message).await.is_err() {
                    break;
                }
            }
        });
        let readers = Arc::clone(&waiting);
        tokio::task::spawn_local(async move {
            dispatch(&mut output, &readers).await;
            // Dropping the senders tells everybody that the answer is lost.
            let mut waiting = readers.lock().unwrap_or_else(PoisonError::into_inner);
            *waiting = Waiting { closed: true, ..Waiting::default() };
            drop(waiting);
            let _ = child.start_kill();
            let _ = child.wait().await;
        });
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
            waiting.requests.insert(exchange.request.clone(), events);
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
            Err(_) => Sighting::Unreachable(format!("no answer within {} s", deadline.as_secs())),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn dispatch(output: &mut ChildStdout, waiting: &Mutex<Waiting>) {
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
            FromResident::End { request } => {
                if let Some(events) = waiting.requests.remove(request) {
                    let _ = events.send(message);
                }
            }
            FromResident::Started { request, .. }
            | FromResident::Ended { request, .. }
            | FromResident::Log { request, .. } => {
                if let Some(events) = waiting.requests.get(request) {
                    let _ = events.send(message);
                }
            }
        }
    }
}

async fn listen_errors(errors: ChildStderr, host: HostName, complaint: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(errors).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::info!(%host, line, "resident");
        let mut said = complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < 1000 {
            if !said.is_empty() {
                said.push_str("; ");
            }
            said.push_str(line.trim());
        }
    }
}

/// The kept sessions, one per host.
pub struct Hosts {
    ssh: Ssh,
    sessions: Mutex<HashMap<HostName, Arc<tokio::sync::Mutex<Option<Arc<Session>>>>>>,
}

impl Hosts {
    /// No session yet; each is opened as `ssh` says when it is first needed.
    pub fn new(ssh: Ssh) -> Self {
        Hosts { ssh, sessions: Mutex::default() }
    }

    /// The session to `host`, opened anew where there is none or it has ended. A silent host holds up only those who
    /// want the same host.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn session(&self, host: &HostName) -> Result<Arc<Session>, Failure> {
        let place = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sessions.entry(host.clone()).or_default())
        };
        let mut session = place.lock().await;
        if let Some(open) = session.as_ref().filter(|s| !s.is_closed()) {
            return Ok(Arc::clone(open));
        }
        let opened = Session::open(&self.ssh, host).await?;
        *session = Some(Arc::clone(&opened));
        Ok(opened)
    }
}
