//! A fake host: the far end of a session, with the manners that its name says.
//!
//! The session's client is the program `causeway-fake-host` instead of ssh; it is called as ssh is, and the host's name
//! decides how it behaves. The remote command is the path of a file, to which the process adds a line with its own id,
//! so that a test can count the sessions and see each of them go.
//!
//! | host | manners |
//! |---|---|
//! | `good` | answers everything at once |
//! | `pair-N` | waits for N exchanges, then answers them step by step, each step for all of them, the last first |
//! | `queue-N` | waits for N exchanges, then answers one after the other |
//! | `silent` | connects, never speaks |
//! | `greeting` | greets like a login shell |
//! | `refuses` | says why on standard error, and ends |
//! | `missing` | is not there: the host's shell says so, and ends |
//! | `schema-N` | says hello in schema N, with other fields than ours |
//! | `babbles` | writes a megabyte that is neither text nor lines to standard error before each answer |
//! | `dies` | ends in the middle of the first answer |
//! | `deaf` | says hello, closes its input, and stays |

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::Duration;

use causeway_core::names::RequestId;
use causeway_core::outcome::Sighting;
use causeway_core::reach::frame::{self, FrameError};
use causeway_core::reach::wire::{
    Done, Effect, Exchange, FromResident, Hello, Owner, SCHEMA, StepEnd, ToResident,
};
use tokio::io::{AsyncWriteExt, Stdin, Stdout};

/// Plays `host` on standard input and output until the other side goes away.
///
/// # Errors
/// A broken stream, or a host that is not in the table.
pub async fn play(host: &str, register: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(register)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    let mut far = Far { input: tokio::io::stdin(), output: tokio::io::stdout() };
    let (manners, number) = match host.split_once('-') {
        Some((manners, number)) => (manners, number.parse().map_err(io::Error::other)?),
        None => (host, 0),
    };
    match (manners, number) {
        ("good", 0) => far.answer(false).await,
        ("babbles", 0) => far.answer(true).await,
        ("pair", count) => far.pair(count).await,
        ("queue", count) => far.queue(count).await,
        ("silent", 0) => stay().await,
        ("greeting", 0) => {
            far.output.write_all(b"Welcome to Debian GNU/Linux 12\n").await?;
            far.output.flush().await?;
            stay().await
        }
        ("refuses", 0) => {
            io::stderr().write_all(b"h1: Permission denied (publickey).\n")?;
            std::process::exit(255)
        }
        ("missing", 0) => {
            io::stderr().write_all(b"sh: 1: exec: /x/causeway-host: not found\n")?;
            std::process::exit(127)
        }
        ("schema", number) => {
            let hello = serde_json::json!({"hello": {"version": "9.9", "schema": number, "shoe_size": 44}});
            far.say(&hello).await?;
            stay().await
        }
        ("dies", 0) => far.die().await,
        ("deaf", 0) => {
            far.say(&hello()).await?;
            // The descriptor itself: a handle that is dropped leaves it open.
            rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
            stay().await
        }
        _ => Err(io::Error::other(format!("no such host: {host}"))),
    }
}

async fn stay() -> io::Result<()> {
    // Ends with the test's patience at the latest: nothing is left running if the other side does not end it.
    tokio::time::sleep(Duration::from_secs(120)).await;
    Ok(())
}

fn hello() -> FromResident {
    FromResident::Hello(Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: SCHEMA,
        tls: false,
        host_name: "fake".to_owned(),
    })
}

fn started(request: &RequestId, step: &str) -> FromResident {
    FromResident::Started { request: request.clone(), step: step.to_owned() }
}

/// A step that prints the request's id.
fn ended(request: &RequestId, step: &str) -> FromResident {
    let done = Done { output: request.to_string(), effect: Effect::Made };
    let end = StepEnd { step: step.to_owned(), result: Ok(done), owner: Owner::Ours, micros: 1 };
    FromResident::Ended { request: request.clone(), end }
}

struct Far {
    input: Stdin,
    output: Stdout,
}

impl Far {
    async fn say<T: serde::Serialize>(&mut self, message: &T) -> io::Result<()> {
        frame::write(&mut self.output, message).await.map_err(io::Error::other)
    }

    /// The next message; none at the end of the input.
    async fn hear(&mut self) -> io::Result<Option<ToResident>> {
        match frame::read(&mut self.input).await {
            Ok(message) => Ok(Some(message)),
            Err(FrameError::Closed) => Ok(None),
            Err(e) => Err(io::Error::other(e)),
        }
    }

    async fn answer(&mut self, babbling: bool) -> io::Result<()> {
        self.say(&hello()).await?;
        while let Some(message) = self.hear().await? {
            if babbling {
                io::stderr().write_all(&vec![0xff; 1 << 20])?;
            }
            match message {
                ToResident::Run(exchange) => self.run(&exchange).await?,
                ToResident::Cancel { request } => self.say(&FromResident::End { request }).await?,
                ToResident::Alive => {}
                ToResident::Locate { ask, .. } => {
                    self.say(&FromResident::Located { ask, sighting: Sighting::Running }).await?;
                }
            }
        }
        Ok(())
    }

    async fn run(&mut self, exchange: &Exchange) -> io::Result<()> {
        for step in &exchange.steps {
            self.say(&started(&exchange.request, &step.name)).await?;
            self.say(&ended(&exchange.request, &step.name)).await?;
        }
        self.say(&FromResident::End { request: exchange.request.clone() }).await
    }

    /// The next `count` exchanges; fewer at the end of the input.
    async fn gather(&mut self, count: usize) -> io::Result<Vec<Exchange>> {
        let mut exchanges: Vec<Exchange> = Vec::new();
        while exchanges.len() < count {
            match self.hear().await? {
                Some(ToResident::Run(exchange)) => exchanges.push(*exchange),
                Some(_) => {}
                None => break,
            }
        }
        Ok(exchanges)
    }

    async fn queue(&mut self, count: usize) -> io::Result<()> {
        self.say(&hello()).await?;
        for exchange in self.gather(count).await? {
            self.run(&exchange).await?;
        }
        stay().await
    }

    async fn pair(&mut self, count: usize) -> io::Result<()> {
        self.say(&hello()).await?;
        let exchanges = self.gather(count).await?;
        let longest = exchanges.iter().map(|e| e.steps.len()).max().unwrap_or_default();
        for index in 0..longest {
            for exchange in exchanges.iter().rev() {
                if let Some(step) = exchange.steps.get(index) {
                    self.say(&started(&exchange.request, &step.name)).await?;
                    self.say(&ended(&exchange.request, &step.name)).await?;
                }
            }
        }
        for exchange in exchanges.iter().rev() {
            self.say(&FromResident::End { request: exchange.request.clone() }).await?;
        }
        stay().await
    }

    async fn die(&mut self) -> io::Result<()> {
        self.say(&hello()).await?;
        while let Some(message) = self.hear().await? {
            if let ToResident::Run(exchange) = message {
                let name = exchange.steps.first().map(|step| step.name.clone()).unwrap_or_default();
                self.say(&started(&exchange.request, &name)).await?;
                let whole = frame::encode(&ended(&exchange.request, &name)).map_err(io::Error::other)?;
                self.output.write_all(whole.get(..whole.len() / 2).unwrap_or_default()).await?;
                self.output.flush().await?;
                std::process::exit(1);
            }
        }
        Ok(())
    }
}
