//! A made-up report with known figures, for tests.
//!
//! Two probes at 5 ms over six seconds, three moves of two seconds each: silences of 100, 200 and (failed) 0 ms for
//! ICMP, the same plus 0, 400 and 0 ms for TCP.

use std::time::Duration;

use super::{MoveResult, ProbeRecord, Report};
use crate::capture::CaptureError;
use crate::ledger::Ledger;
use crate::moment::{Clock, Moment};
use crate::mover::Outcome;
use crate::plan::Plan;
use crate::share::{NetworkShare, ShareError};
use crate::silence::{Window, watch};

/// Text that would break a page or a table if it were not escaped.
pub const HOSTILE: &str = "<script>alert(\"1\")</script>, & 'more'\nlines";

const MS: u64 = 1_000_000;

/// Answers after 0.4 ms, but none between the two moments of each of `silences` (in ms); the answer at the end of a
/// silence is read exactly there.
fn ledger(silences: &[(u64, u64)]) -> Ledger {
    let mut ledger = Ledger::default();
    let mut answers = Vec::new();
    for sequence in 0..1200 {
        let sent = sequence * 5 * MS;
        ledger.asked(Moment(sent), true);
        let at = sent + 400_000;
        // Silences are counted from answer to answer, and answers come 0.4 ms after their questions.
        let inside = |(from, to): &&(u64, u64)| from * MS < sent && sent < to * MS;
        if !silences.iter().any(|s| inside(&s)) {
            answers.push((sequence, at));
        }
    }
    for (sequence, at) in answers {
        ledger.answered(sequence, Moment(at));
    }
    ledger
}

pub fn report() -> Report {
    let plan = Plan::parse(
        "repetitions = 3\ncommand = [\"x\"]\n[guest]\ndeploy_id = \"one-12\"\naddress = \"10.9.0.11\"\n\
         [[moves]]\nfrom = \"h1\"\nto = \"h2\"\n[[probe]]\nkind = \"icmp\"\n[[probe]]\nkind = \"tcp\"\nport = 7\n",
    )
    .unwrap();
    let clock = Clock::start();
    let icmp = ledger(&[(500, 600), (2_500, 2_700)]);
    let tcp = ledger(&[(500, 600), (2_500, 3_100)]);
    let stamp = |ms: u64| clock.unix_nanos(Moment(ms * MS));
    let share = NetworkShare {
        last_at_source: stamp(500),
        first_at_destination: stamp(593),
        first_at_observer: stamp(600),
    };
    let network = [Some(Ok(share)), Some(Err(CaptureError::Share(ShareError::NothingAtDestination))), None];
    let outcomes = [Outcome::Done, Outcome::Done, Outcome::Failed(HOSTILE.to_owned())];
    let moves = network
        .into_iter()
        .zip(outcomes)
        .zip(0u32..)
        .map(|((network, outcome), index)| {
            let from = Moment(u64::from(index) * 2_000 * MS);
            let window = Window { from, to: from.plus(Duration::from_secs(2)) };
            MoveResult {
                number: index + 1,
                leg: plan.leg(index + 1).cloned(),
                window,
                ended: from.plus(Duration::from_millis(700)),
                outcome,
                watches: [&icmp, &tcp].map(|l| watch(l, window)).to_vec(),
                network,
            }
        })
        .collect();
    let ledgers = [icmp, tcp];
    let probes = plan.probes.iter().cloned().zip(ledgers);
    Report {
        probes: probes.map(|(plan, ledger)| ProbeRecord { plan, ledger }).collect(),
        clock,
        moves,
        stopped: None,
        plan,
    }
}
