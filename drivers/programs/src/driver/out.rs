//! Standard output: oned's pipe, written by one task, a whole line at a time.

use causeway_core::engine;
use causeway_core::names::VmId;
use causeway_core::protocol::{INIT_SUCCESS, Log, Reply, Severity};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

struct Text {
    bytes: String,
    written: Option<oneshot::Sender<()>>,
}

/// Where replies and log lines go.
#[derive(Clone)]
pub struct Out(mpsc::UnboundedSender<Text>);

impl Out {
    /// Starts the writer on this thread's local tasks. It ends when oned closes the pipe.
    pub fn start() -> Self {
        let (sender, mut queue) = mpsc::unbounded_channel::<Text>();
        tokio::task::spawn_local(async move {
            let mut stdout = tokio::io::stdout();
            while let Some(text) = queue.recv().await {
                // oned has gone when this fails; the end of standard input says so too.
                let ok =
                    stdout.write_all(text.bytes.as_bytes()).await.is_ok() && stdout.flush().await.is_ok();
                if let Some(written) = text.written.filter(|_| ok) {
                    let _ = written.send(());
                }
            }
        });
        Out(sender)
    }

    /// The answer to `INIT`, in a write of its own.
    pub fn init(&self) {
        self.send(INIT_SUCCESS.to_owned());
    }

    /// One reply; returns when it is in oned's pipe, so that the journal's end never comes before it.
    pub async fn reply(&self, reply: &Reply) {
        let (written, wait) = oneshot::channel();
        let _ = self.0.send(Text { bytes: reply.render(), written: Some(written) });
        let _ = wait.await;
    }

    /// A line for oned's own log.
    pub fn tell_oned(&self, severity: Severity, text: impl Into<String>) {
        self.send(Log { severity, vm: None, text: text.into() }.render());
    }

    fn send(&self, bytes: String) {
        let _ = self.0.send(Text { bytes, written: None });
    }
}

impl engine::Log for Out {
    fn log(&self, vm: VmId, severity: Severity, text: &str) {
        self.send(Log { severity, vm: Some(vm), text: text.to_owned() }.render());
    }
}
