//! A network driver's slot, as the resident and the stand-alone program run it: argv and standard input in, an answer
//! out, the work done by the privileged side.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{BridgeType, DriverName, VmDocument, decode};
use causeway_core::names::RequestId;

use crate::asked::Moment;
use crate::bandwidth::{self, Guests, Wanted};
use crate::desired::switch::SOCKETS;
use crate::desired::{Driver, Refusal, Settings};
use crate::root::client::{COMMAND, ClientError, RootClient};
use crate::root::watch::Arrival;
use crate::root::{Outcome, Request, Response, Verb, updated_network};

/// How long the privileged side may take to start: `sudo` may ask a slow directory service who we are.
const START: Duration = Duration::from_secs(10);

/// More than any contract passes (contract VNM 1.3 has two).
const ARGUMENTS: usize = 8;

/// The driver's verbs that run on the front-end and have nothing to do: a network is made where its VMs are.
const IDLE: [&str; 2] = ["vnet_create", "vnet_delete"];

/// What a slot needs besides its input.
#[derive(Debug, Clone)]
pub struct Context {
    /// Names the request in every log.
    pub request: RequestId,
    /// What `OpenNebulaNetwork.conf` says on this host.
    pub settings: Settings,
    /// Longest time for the whole action.
    pub deadline: Duration,
    /// Only say what would be done.
    pub dry_run: bool,
    /// When the action was asked for.
    pub asked: Moment,
}

/// What a slot ends with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// For oned: empty, because nothing of it is read (contract VNM 1.6); with a dry run, one change per line; what `connections`
    /// found, as one word.
    pub stdout: String,
    /// For the VM's log, as warnings.
    pub notes: Vec<String>,
    /// What was changed, in words.
    pub changes: Vec<String>,
    /// How the arrival of a guest was that has moved here.
    pub arrivals: Vec<Arrival>,
    /// Whether the VM has something reserved that it had not before. Only an action that neither changed nor reserved
    /// anything left nothing that an undo (`clean`) would have to take back.
    pub reserved: bool,
    /// Whether the stock program that passes services on (`tproxy`) is to look again.
    pub services: bool,
}

/// The privileged side, started when it is first needed and again when it has gone.
pub struct Root {
    argv: Vec<String>,
    client: Option<RootClient>,
}

impl Default for Root {
    fn default() -> Self {
        Root::new(COMMAND.map(str::to_owned).to_vec())
    }
}

impl Root {
    /// Started with this command line.
    pub fn new(argv: Vec<String>) -> Self {
        Root { argv, client: None }
    }

    /// Lets the side end by itself, if it was started; see [`RootClient::let_go`].
    pub fn let_go(&mut self) {
        self.client.take().into_iter().for_each(RootClient::let_go);
    }

    /// Sends a request.
    ///
    /// # Errors
    /// As [`RootClient::call`]; a side that was gone before the request came is started once more.
    pub fn call(&mut self, request: &Request, deadline: Duration) -> Result<Response, ClientError> {
        if let Some(mut client) = self.client.take().filter(RootClient::is_open) {
            match client.call(request, deadline) {
                // Every action may be run twice, so it does not matter how far this one got.
                Err(ClientError::Ended { .. }) => {}
                Err(error) => return Err(error),
                Ok(response) => {
                    self.client = Some(client);
                    return Ok(response);
                }
            }
        }
        let mut client = RootClient::start(&self.argv, START.min(deadline))?;
        let response = client.call(request, deadline)?;
        self.client = Some(client);
        Ok(response)
    }
}

/// Has the host's memory compacted by a privileged side of its own, for it may take a while and networks must not wait.
///
/// # Errors
/// It can't be started, is late, or the kernel refuses.
pub fn compact_memory(argv: &[String], id: &RequestId, deadline: Duration) -> Result<(), Failure> {
    let asked = RootClient::start(argv, START.min(deadline));
    let response = asked.and_then(|mut root| root.compact_memory(id, deadline)).map_err(unanswered)?;
    match response.outcome {
        Outcome::Failed(failure) => Err(failure),
        Outcome::Done => Ok(()),
    }
}

/// Runs the slot `vnm/<driver>/<verb>`. `root` is held only while the privileged side works, so that whoever waits for a
/// guest's libvirt keeps nobody else's network waiting.
///
/// # Errors
/// The failure for oned: one sentence that names NIC, attribute or device.
pub fn run(
    verb: &str,
    driver: &str,
    argv: &[String],
    stdin: &[u8],
    context: &Context,
    root: &Mutex<Root>,
    guests: &dyn Guests,
) -> Result<Answer, Failure> {
    if IDLE.contains(&verb) {
        return Ok(Answer::default());
    }
    let verb: Verb = verb.parse()?;
    let input = |e: &dyn std::fmt::Display| Failure::new(Kind::Input, e);
    let driver: DriverName = driver.parse().map_err(|e| input(&e))?;
    // Decoded here already: what is no base64 is not worth waking anybody for.
    let document = decode(stdin).map_err(|e| input(&e).context("standard input"))?;
    let request = Request {
        id: context.request.clone(),
        verb,
        driver,
        args: argv.iter().take(ARGUMENTS).cloned().collect(),
        document: String::new(),
        settings: context.settings.clone(),
        dry_run: context.dry_run,
        asked: Some(context.asked),
        // The privileged side gives up first, so that its own words arrive.
        deadline_ms: u64::try_from(context.deadline.as_millis()).unwrap_or(u64::MAX) / 10 * 9,
    };
    let errand = Errand { request: request.with_document(&document), deadline: context.deadline, root };
    let response = match verb {
        Verb::UpdateNic => update_nic(&errand, &document, guests)?,
        _ => errand.ask(context.dry_run)?,
    };
    if verb == Verb::Pre && !context.dry_run {
        make_sockets_dir(Path::new(SOCKETS), &document)?;
    }
    Ok(Answer {
        stdout: match response.connections {
            Some(connections) => connections.to_string(),
            None if context.dry_run => response.changes.iter().map(|change| format!("{change}\n")).collect(),
            None => String::new(),
        },
        notes: response.notes,
        arrivals: response.arrivals,
        changes: response.changes,
        reserved: response.reserved,
        services: response.services,
    })
}

/// A request, and the way to whom it goes.
struct Errand<'a> {
    request: Request,
    deadline: Duration,
    root: &'a Mutex<Root>,
}

impl Errand<'_> {
    /// Sends it; what comes back is a success.
    fn ask(&self, dry_run: bool) -> Result<Response, Failure> {
        let request = Request { dry_run, ..self.request.clone() };
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let response = root.call(&request, self.deadline).map_err(unanswered)?;
        match response.outcome {
            Outcome::Failed(failure) => Err(failure),
            Outcome::Done => Ok(response),
        }
    }
}

/// `update_nic`: the guest's limits, then the network; the limits are put back where the network could not be changed.
fn update_nic(errand: &Errand<'_>, document: &[u8], guests: &dyn Guests) -> Result<Response, Failure> {
    let dry_run = errand.request.dry_run;
    let Some(wanted) = wanted_limits(&errand.request, document)? else { return errand.ask(dry_run) };
    let (changes, notes) = match guests.interfaces(&wanted.guest)? {
        Some(interfaces) => bandwidth::difference(&wanted, &interfaces),
        None => (Vec::new(), vec![format!("{} is not here, so its limits were not changed", wanted.guest)]),
    };
    if !changes.is_empty() && !dry_run {
        // Whatever the privileged side refuses, it refuses before anything has changed.
        errand.ask(true)?;
        bandwidth::set(guests, &wanted.guest, &changes)?;
    }
    let mut response = match errand.ask(dry_run) {
        Err(failure) if !dry_run => {
            return Err(bandwidth::take_back(guests, &wanted.guest, &changes, failure));
        }
        other => other?,
    };
    response.changes.splice(0..0, changes.iter().map(ToString::to_string));
    response.notes.extend(notes);
    Ok(response)
}

fn wanted_limits(request: &Request, document: &[u8]) -> Result<Option<Wanted>, Failure> {
    // What is wrong with driver or document, the privileged side tells.
    let (Ok(driver), Ok(vm)) = (Driver::try_from(&request.driver), VmDocument::parse(document)) else {
        return Ok(None);
    };
    let refused = |refusal: Refusal| Failure::from_chain(refusal.kind(), &refusal);
    let network = updated_network(&request.args).map_err(refused)?;
    let deploy = request.args.first().map_or("", String::as_str);
    bandwidth::wanted(driver, &vm, deploy, network).map_err(refused)
}

/// QEMU makes the socket of a DPDK port, as the user that this runs as; the directory for it lies among that user's own, so it
/// is nothing for the privileged side.
fn make_sockets_dir(dir: &Path, document: &[u8]) -> Result<(), Failure> {
    // What is wrong with the document, the privileged side tells.
    let Ok(vm) = VmDocument::parse(document) else { return Ok(()) };
    if !vm.nics.iter().any(|nic| nic.bridge_type == Some(BridgeType::OpenVSwitchDpdk)) {
        return Ok(());
    }
    let context = || format!("make {}, for the sockets of DPDK ports", dir.display());
    std::fs::create_dir_all(dir).map_err(|e| Failure::new(Kind::HostState, e).context(context()))
}

fn unanswered(error: ClientError) -> Failure {
    let kind = match &error {
        ClientError::Late { .. } => Kind::Timeout,
        ClientError::Answer { .. } | ClientError::Stray { .. } => Kind::Bug,
        _ => Kind::HostState,
    };
    Failure::from_chain(kind, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_sockets_is_made_for_dpdk_only_and_named_where_it_can_not_be() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = dir.path().join("one/vhost-socks");
        let document = |kind: &str| {
            format!(
                "<VM><ID>7</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>ovswitch</VN_MAD>\
                 <BRIDGE_TYPE>{kind}</BRIDGE_TYPE></NIC></TEMPLATE></VM>"
            )
        };
        make_sockets_dir(&sockets, document("openvswitch").as_bytes()).unwrap();
        assert!(!sockets.exists());
        make_sockets_dir(&sockets, document("openvswitch_dpdk").as_bytes()).unwrap();
        assert!(sockets.is_dir());
        std::fs::write(dir.path().join("file"), "").unwrap();
        let wrong = make_sockets_dir(&dir.path().join("file/x"), document("openvswitch_dpdk").as_bytes());
        assert!(wrong.unwrap_err().text.contains("file/x, for the sockets of DPDK ports"));
    }
}
