//! Many guests on one host: how many NICs a second come, and what one more costs beside the floor's own growth.

use std::time::{Duration, Instant};

use causeway_vnm::root::Verb;

use super::floor::Hand;
use super::ours::Kept;
use super::site::Site;
use super::vm::{Kind, Vm};

/// How many NICs are there when one more is measured.
const AT: [u32; 3] = [1, 100, 1000];

/// Where the VMs that come and go begin.
const PASSING: u32 = 20_000;

/// What was found.
#[derive(Default)]
pub struct Grown {
    /// `pre` of all NICs.
    pub all: Duration,
    /// How many there are, then `pre` of one more by the kept connection and the same by hand.
    pub one_more: Vec<(u32, Vec<Duration>, Vec<Duration>)>,
}

/// Brings `nics` NICs with ten rules each, `batch` of them in one VM.
///
/// # Errors
/// An action fails.
pub fn measure(kind: Kind, nics: u32, batch: u32, repeat: u32) -> anyhow::Result<Grown> {
    let site = Site::new(kind)?;
    let (mut kept, mut hand) = (Kept::start()?, Hand::open(kind)?);
    let mut grown = Grown::default();
    let (mut here, mut id, mut passing) = (0, 0, PASSING);
    while here < nics {
        // So that there is a moment with each number of them.
        let stop = AT.into_iter().find(|at| *at > here).unwrap_or(nics).min(nics);
        id += 1;
        let vm = Vm { kind, id, nics: batch.min(stop - here), rules: 10 };
        let begun = Instant::now();
        kept.call(&vm, Verb::Pre)?;
        grown.all += begun.elapsed();
        site.plug(&vm)?;
        here += vm.nics;
        if here != stop {
            continue;
        }
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..repeat {
            for by_hand in [false, true] {
                passing += 1;
                let vm = Vm { kind, id: passing, nics: 1, rules: 10 };
                match by_hand {
                    false => ours.push(kept.call(&vm, Verb::Pre)?.wall),
                    true => floor.push(hand.instead(&vm, Verb::Pre)?.all()),
                }
                kept.call(&vm, Verb::Clean)?;
                // The kernel clears away what was removed.
                std::thread::sleep(Duration::from_millis(60));
            }
        }
        grown.one_more.push((here, ours, floor));
    }
    Ok(grown)
}
