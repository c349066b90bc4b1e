//! Standard output: oned's pipe, written by one task, whole lines at a time.

use std::io;

use causeway_core::engine;
use causeway_core::names::VmId;
use causeway_core::protocol::{INIT_SUCCESS, Log, Reply, Severity};
use causeway_core::reach::standard;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// How many bytes of lines are gathered for one write, but for the last of them.
const BATCH: usize = 64 << 10;

struct Text {
    bytes: String,
    written: Option<oneshot::Sender<()>>,
}

/// Where replies and log lines go.
#[derive(Clone)]
pub struct Out(mpsc::UnboundedSender<Text>);

impl Out {
    /// Starts the writer on this thread's local tasks. It ends when oned closes the pipe.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn start() -> io::Result<Self> {
        let stdout = standard::output()?;
        let (sender, queue) = mpsc::unbounded_channel();
        tokio::task::spawn_local(write(stdout, queue));
        Ok(Out(sender))
    }

    /// The answer to `INIT`, in a write of its own.
    pub fn init(&self) {
        self.send(INIT_SUCCESS.to_owned());
    }

    /// One reply; the future ends when it is in oned's pipe, so that the journal's end never comes before it, or says
    /// that it never will be. Dropped, it is written all the same.
    pub fn reply(&self, reply: &Reply) -> impl Future<Output = bool> + use<> {
        self.written(reply.render())
    }

    /// Ends when all that was sent before is in oned's pipe, or oned has gone.
    pub async fn flush(&self) {
        self.written(String::new()).await;
    }

    fn written(&self, bytes: String) -> impl Future<Output = bool> + use<> {
        let (written, wait) = oneshot::channel();
        let _ = self.0.send(Text { bytes, written: Some(written) });
        async move { wait.await.is_ok() }
    }

    /// A line for oned's own log.
    pub fn tell_oned(&self, severity: Severity, text: impl Into<String>) {
        self.send(Log { severity, vm: None, text: text.into() }.render());
    }

    fn send(&self, bytes: String) {
        let _ = self.0.send(Text { bytes, written: None });
    }
}

/// Writes what is sent; lines that wait together go out together, but the answer to `INIT`.
async fn write(mut stdout: impl AsyncWrite + Unpin, mut queue: mpsc::UnboundedReceiver<Text>) {
    while let Some(Text { mut bytes, written }) = queue.recv().await {
        let mut waiting = vec![written];
        while bytes.len() < BATCH
            && bytes != INIT_SUCCESS
            && let Ok(text) = queue.try_recv()
        {
            bytes.push_str(&text.bytes);
            waiting.push(text.written);
        }
        // oned has gone when this fails; the end of standard input says so too.
        let ok = stdout.write_all(bytes.as_bytes()).await.is_ok() && stdout.flush().await.is_ok();
        for written in waiting.into_iter().flatten().filter(|_| ok) {
            let _ = written.send(());
        }
    }
}

impl engine::Log for Out {
    fn log(&self, vm: VmId, severity: Severity, text: &str) {
        self.send(Log { severity, vm: Some(vm), text: text.to_owned() }.render());
    }
}
