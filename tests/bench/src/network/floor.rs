//! The datapath's own floor: the changes that an action makes, worked out beforehand by a dry run and then applied by hand, over
//! connections that are open. What is left of our own is nothing but the messages: netlink, a transaction and a bundle, one
//! run of `nft`.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use causeway_vnm::fabric::Change;
use causeway_vnm::fabric::linux::{Rtnetlink, apply};
use causeway_vnm::fabric::ovs::openflow::Openflow;
use causeway_vnm::fabric::ovs::{self, Ovs};
use causeway_vnm::root::step::{Log, Step};
use causeway_vnm::root::{Places, Request, Verb, action, server};

use super::ours::request;
use super::site::feed;
use super::vm::{Kind, Vm};

/// Far enough away.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What applies changes.
pub struct Hand {
    netlink: Rtnetlink,
    switch: Option<Ovs>,
    places: Places,
}

/// What the changes of an action took, by their kind.
#[derive(Clone, Copy, Default)]
pub struct Took {
    pub netlink: Duration,
    pub transaction: Duration,
    pub bundle: Duration,
    pub nft: Duration,
}

impl Took {
    /// All together.
    pub fn all(&self) -> Duration {
        self.netlink + self.transaction + self.bundle + self.nft
    }
}

impl Hand {
    /// Opens the connections.
    ///
    /// # Errors
    /// The switch does not answer.
    pub fn open(kind: Kind) -> anyhow::Result<Hand> {
        let places = Places::default();
        let switch = match kind {
            Kind::Ovswitch => Some(Ovs::open(&places.switch, Instant::now() + PATIENCE)?),
            _ => None,
        };
        Ok(Hand { netlink: Rtnetlink::open()?, switch, places })
    }

    /// Applies what that action would change, and then does the action, which finds nothing left to change but its own records.
    ///
    /// # Errors
    /// A change is refused, or the action fails.
    pub fn instead(&mut self, vm: &Vm, verb: Verb) -> anyhow::Result<Took> {
        let changes = self.worked_out(&Request { dry_run: true, ..request(vm, verb)? })?;
        let mut took = Took::default();
        for change in &changes {
            match change {
                Change::Linux(change) => {
                    timed(&mut took.netlink, || {
                        let made = apply::apply(&mut self.netlink, change);
                        // What is advice is not made everywhere.
                        if change.is_advisory() { Ok(()) } else { Ok(made?) }
                    })?;
                }
                Change::Switch(change @ ovs::Change::Database(_)) => {
                    let switch = self.switch.as_mut().context("no switch")?;
                    timed(&mut took.transaction, || Ok(switch.apply(change)?))?;
                }
                // Not by ours, which afterwards waits for the datapath to look over what it remembers.
                Change::Switch(ovs::Change::Flows { bridge, forget, changes, .. }) => {
                    timed(&mut took.bundle, || {
                        let end = Instant::now() + PATIENCE;
                        let mut connection = Openflow::connect(&self.places.switch.run, bridge, end)?;
                        connection.forget(forget)?;
                        Ok(connection.change(changes)?)
                    })?;
                }
                Change::Fence(change) => {
                    let batch = change.text();
                    timed(&mut took.nft, || nft(&self.places, &batch))?;
                }
                Change::Track(_) | Change::Services(_) => {
                    anyhow::bail!("guests of the benchmark have no connections and no services")
                }
            }
        }
        let response = server::answer(&self.places, &request(vm, verb)?);
        match response.outcome {
            causeway_vnm::root::Outcome::Done => Ok(took),
            causeway_vnm::root::Outcome::Failed(failure) => anyhow::bail!("{}", failure.text),
        }
    }

    fn worked_out(&self, request: &Request) -> anyhow::Result<Vec<Change>> {
        let mut ignore = |_: &Step<'_>| {};
        let mut log = Log::new(&mut ignore);
        let done = action::run(&self.places, request, &mut log);
        done.map_err(|failure| anyhow::anyhow!("{}", failure.text))?;
        Ok(log.changes)
    }
}

fn timed(place: &mut Duration, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let begun = Instant::now();
    work()?;
    *place += begun.elapsed();
    Ok(())
}

fn nft(places: &Places, batch: &str) -> anyhow::Result<()> {
    feed(Command::new(&places.nft).args(["-j", "-f", "-"]), batch.as_bytes())
}
