//! The slots of a file datastore by themselves, as the stock datastore process starts them: an id as the only argument,
//! a document on standard input, and an answer of oned's form on standard output (contract TM 3).
//!
//! The work is one step, run by the same engine as everything else: in a child of this process on the front-end, or by
//! the resident of a host of `BRIDGE_LIST`.

use std::io::Write;
use std::process::ExitCode;

use causeway_core::answer::{Failure, Kind, one_line};
use causeway_core::engine::{Engine, Log, Outcome, Patience};
use causeway_core::journal::Journal;
use causeway_core::names::{HostName, RequestId, VmId};
use causeway_core::plan::{Answer, Plan, Slot};
use causeway_core::protocol::{Severity, TmOptions};
use causeway_tm::datastore::{Monitord, PublicKey, Request, choose, datagrams};
use causeway_tm::host::VmSizes;
use tokio::net::UdpSocket;

use super::slot::{cancelled_by_signal, failed, read_stdin};
use crate::driver::config::Config;
use crate::driver::expand::at_home;

/// Added to an image's number where a VM's is asked for: a host does one thing for a VM at a time, and oned never gives
/// a VM such a number. An image must not wait for the VM that has its own.
const NO_VM: u32 = 1 << 31;

/// Does it, or prints its step.
///
/// # Errors
/// Standard output is closed, or signals can't be had.
pub(super) async fn run(
    slot: &Slot,
    argv: &[String],
    dry_run: bool,
    config: &Config<TmOptions>,
) -> anyhow::Result<ExitCode> {
    match perform(slot, argv, dry_run, config).await? {
        Ok(text) => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(text.as_bytes())?;
            stdout.flush()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => Ok(failed(&failure)),
    }
}

async fn perform(
    slot: &Slot,
    argv: &[String],
    dry_run: bool,
    config: &Config<TmOptions>,
) -> anyhow::Result<Result<String, Failure>> {
    let planned = match plan(slot, argv, config).await {
        Ok(planned) => planned,
        Err(failure) => return Ok(Err(failure)),
    };
    let Planned { request, host, plan } = planned;
    if dry_run {
        let steps = plan.render();
        let steps = steps.split_once('\n').map_or("", |(_, steps)| steps);
        return Ok(Ok(format!("{slot} {}\n{steps}", request.id())));
    }
    let places = config.places_in_passing(config.front()?, &plan.steps);
    let journal = Journal::none();
    let cancelled = cancelled_by_signal()?;
    let engine =
        Engine { reach: &places, log: &Stderr, journal: &journal, patience: Patience::default(), cancelled };
    let id = RequestId::new(0, std::process::id(), 0);
    let output = match engine.run(&plan, &id).await {
        // What prints nothing ends with oned's word for nothing.
        Outcome::Success(_) if plan.answer == Answer::Empty => String::new(),
        Outcome::Success(output) => output,
        Outcome::Failure(failure) => return Ok(Err(failure)),
        Outcome::Cancelled => return Ok(Err(Failure::new(Kind::Cancelled, "cancelled"))),
    };
    Ok(answer(&request, &output, host.as_ref(), config).await)
}

struct Planned {
    request: Request,
    host: Option<HostName>,
    plan: Plan,
}

async fn plan(slot: &Slot, argv: &[String], config: &Config<TmOptions>) -> Result<Planned, Failure> {
    let mut request = Request::read(slot, argv, &read_stdin()?)?;
    if request.mounts() {
        request = request.among(config.oned().automounted().await?);
    }
    let [host, from] = bridges(&request, config).await?;
    let front = config.fetching();
    let transfer = request.steps(host.as_ref(), from.as_ref(), &front, &config.transfer_settings())?;
    let steps = at_home(transfer.steps);
    let answer = match steps.last().filter(|_| request.prints()) {
        Some(step) => Answer::Output(step.name.clone()),
        None => Answer::Empty,
    };
    let plan = Plan {
        action: slot.to_string(),
        vm: VmId(NO_VM | request.id()),
        deploy_id: None,
        steps,
        inputs: Default::default(),
        answer,
        first_word: None,
        recall: None,
    };
    Ok(Planned { request, host, plan })
}

/// The host that is to do it, and the one that has what it is made of, where there are such.
async fn bridges(request: &Request, config: &Config<TmOptions>) -> Result<[Option<HostName>; 2], Failure> {
    let lists = [request.bridges(), request.sources()];
    if lists.iter().all(|list| list.is_empty()) {
        return Ok([None, None]);
    }
    // A look-up that fails is no host that is up (R4).
    let hosts = config.oned().hosts().await?;
    // By chance, where the contract leaves it to chance: to spread them is all that it is for.
    let chance = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_micros());
    let turn = request.turn().unwrap_or_else(chance);
    let one = |list: &[HostName]| match list {
        [] => Ok(None),
        list => choose(list, &hosts, turn).cloned().map(Some),
    };
    Ok([one(lists[0])?, one(lists[1])?])
}

async fn answer(
    request: &Request,
    output: &str,
    host: Option<&HostName>,
    config: &Config<TmOptions>,
) -> Result<String, Failure> {
    let answer = request.answer(output, host, &config.transfer_settings())?;
    if !answer.sizes.is_empty()
        && let Err(failure) = tell(&answer.sizes, config).await
    {
        // oned still learns how full the datastore is.
        Stderr.log(VmId(0), Severity::Warning, &format!("monitord was not told of disks: {failure}"));
    }
    Ok(answer.stdout)
}

/// Tells monitord how much room the disks of VMs take.
async fn tell(sizes: &[VmSizes], config: &Config<TmOptions>) -> Result<(), Failure> {
    let monitord = Monitord::parse(&config.monitord_conf()?)?;
    let key = monitord.key.as_deref().map(|path| {
        let text = std::fs::read_to_string(path);
        let unread = |e| Failure::new(Kind::HostState, e).context(format!("PUBKEY {}", path.display()));
        text.map_err(unread).and_then(|text| PublicKey::parse(&text))
    });
    let key = key.transpose()?;
    let broken = |e: std::io::Error| Failure::new(Kind::HostState, e).context(monitord.address);
    let any = if monitord.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.map_err(broken)?;
    for datagram in datagrams(sizes, key.as_ref()).map_err(broken)? {
        socket.send_to(datagram.as_bytes(), monitord.address).await.map_err(broken)?;
    }
    Ok(())
}

/// Standard error, as the stock driver reads it: a mark and the text. Without a number, for no VM's log is meant.
struct Stderr;

impl Log for Stderr {
    fn log(&self, _: VmId, severity: Severity, text: &str) {
        let mark = match severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARN",
            Severity::Info => "INFO",
            Severity::Debug => "DEBUG",
        };
        eprintln!("{mark}: {}", one_line(text));
    }
}
