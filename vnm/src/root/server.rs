//! The privileged side's loop: requests in, responses out, one after the other, until the input ends.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};

use super::action::{self, Found};
use super::frame::{self, FrameError};
use super::memory;
use super::place::Places;
use super::step::Log;
use super::wire::{CompactMemory, Hello, Inspect, Outcome, Reconcile, Request, Response};
use crate::fabric::firewall::Nft;

/// How long the rules of a host may take to be listed.
const INSPECTION: Duration = Duration::from_secs(30);

/// Serves until the input ends.
///
/// A request that cannot be understood is answered with a failure; a frame that is too large ends the connection after
/// the answer, because what follows it cannot be told from its body.
///
/// # Errors
/// The connection broke.
pub fn serve(places: &Places, input: &mut impl Read, output: &mut impl Write) -> Result<(), FrameError> {
    frame::write(output, &Hello::ours())?;
    loop {
        let body = match frame::read(input) {
            Ok(None) => return Ok(()),
            Ok(Some(body)) => body,
            Err(error @ FrameError::TooLarge(_)) => {
                frame::write(output, &unread(&error))?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let asked = (
            frame::decode::<CompactMemory>(&body),
            frame::decode::<Reconcile>(&body),
            frame::decode::<Inspect>(&body),
            frame::decode::<Request>(&body),
        );
        let response = match asked {
            (Ok(ask), ..) => compact(places, ask),
            (_, Ok(ask), ..) => reconcile(places, &ask),
            (_, _, Ok(ask), _) => inspect(places, ask),
            (_, _, _, Ok(request)) => answer(places, &request),
            (_, _, _, Err(error)) => unread(&error),
        };
        match frame::write(output, &response) {
            // Nothing of it has been written.
            Err(error @ FrameError::TooLarge(_)) => frame::write(output, &shortened(response, &error))?,
            other => other?,
        }
    }
}

/// A response that tells less: how it went is as it was, unless what is left out is what was asked for.
fn shortened(response: Response, error: &FrameError) -> Response {
    let told = response.seen.is_some() || response.connections.is_some();
    let failure = Failure::from_chain(Kind::HostState, error).context("the answer can't be told");
    let (outcome, notes) = match told {
        true => (Outcome::Failed(failure), Vec::new()),
        false => (response.outcome, vec![failure.text]),
    };
    Response { outcome, notes, changes: Vec::new(), seen: None, connections: None, ..response }
}

/// Does one request and says how it went.
pub fn answer(places: &Places, request: &Request) -> Response {
    let started = Instant::now();
    let mut ignore = |_: &super::step::Step<'_>| {};
    let mut log = Log::new(&mut ignore);
    let result = action::run(places, request, &mut log);
    let Log { changes, reserved, services, notes, arrivals, .. } = log;
    let (mut seen, mut connections) = (None, None);
    let outcome = match result {
        Ok(found) => {
            match found {
                Found::Nothing => {}
                Found::States(states) => seen = Some(states),
                Found::Connections(all) => connections = Some(all),
            }
            Outcome::Done
        }
        Err(failure) => Outcome::Failed(failure),
    };
    Response {
        id: Some(request.id.clone()),
        outcome,
        changes: changes.iter().map(ToString::to_string).collect(),
        reserved,
        services,
        notes,
        micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        seen,
        connections,
        arrivals,
    }
}

/// Brings the host's networks back and says how that went.
pub fn reconcile(places: &Places, ask: &Reconcile) -> Response {
    let started = Instant::now();
    let mut ignore = |_: &super::step::Step<'_>| {};
    let mut log = Log::new(&mut ignore);
    let outcome = match super::reconcile::run(places, ask, &mut log) {
        Ok(()) => Outcome::Done,
        Err(failure) => Outcome::Failed(failure),
    };
    Response {
        id: Some(ask.reconcile.clone()),
        changes: log.changes.iter().map(ToString::to_string).collect(),
        notes: log.notes,
        micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        ..unchanged(outcome)
    }
}

/// Says what of others' rules drops or marks frames of bridges.
pub fn inspect(places: &Places, ask: Inspect) -> Response {
    let started = Instant::now();
    let mut nft = Nft::new(places.nft.clone(), started + INSPECTION);
    let (outcome, notes) = match nft.foreign() {
        Ok(found) => (Outcome::Done, found.iter().map(ToString::to_string).collect()),
        Err(error) => (Outcome::Failed(Failure::from_chain(Kind::HostState, &error)), Vec::new()),
    };
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Response { id: Some(ask.inspect), notes, micros, ..unchanged(outcome) }
}

/// Compacts the memory and says how that went.
fn compact(places: &Places, ask: CompactMemory) -> Response {
    let started = Instant::now();
    let outcome = match memory::compact(&places.memory) {
        Ok(()) => Outcome::Done,
        Err(failure) => Outcome::Failed(failure),
    };
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Response { id: Some(ask.compact_memory), micros, ..unchanged(outcome) }
}

/// The answer to what is no request.
fn unread(error: &FrameError) -> Response {
    unchanged(Outcome::Failed(Failure::from_chain(Kind::Input, error)))
}

/// A response that tells of no network.
fn unchanged(outcome: Outcome) -> Response {
    Response {
        id: None,
        outcome,
        changes: Vec::new(),
        reserved: false,
        services: false,
        notes: Vec::new(),
        micros: 0,
        seen: None,
        connections: None,
        arrivals: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Connections;

    #[test]
    fn an_answer_that_no_frame_holds_is_told_in_short() {
        let too_large = FrameError::TooLarge(9 << 20);
        let done = Response { changes: vec!["x".to_owned()], reserved: true, ..unchanged(Outcome::Done) };
        let short = shortened(done, &too_large);
        assert_eq!((short.outcome, short.changes.len(), short.reserved), (Outcome::Done, 0, true));
        assert!(short.notes[0].contains("a frame of 9437184 bytes is larger than"), "{:?}", short.notes);
        let told = Response { connections: Some(Connections::default()), ..unchanged(Outcome::Done) };
        let short = shortened(told, &too_large);
        assert_eq!(short.connections, None);
        assert!(matches!(short.outcome, Outcome::Failed(failure) if failure.text.contains("can't be told")));
    }
}
