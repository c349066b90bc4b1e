//! Post-copy: the guest is resumed on the destination and its remaining pages follow.
//!
//! The downtime no longer depends on what the guest writes: it is device state, the list of pages to
//! throw away, and two round trips. What remains is sent while the guest runs; a page it needs before
//! it has come costs it a round trip. From the switch on neither host alone holds the guest.

use crate::PAGE;
use crate::error::{self, Error};
use crate::guest::Memory;
use crate::precopy::{self, Mode, Outcome, PAGE_HEADER, Patience, Rates, TO_THE_HORIZON};
use crate::tuning::Tuning;

/// Pre-copy first; if that has not converged `switch_after_s` seconds after the start, post-copy.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn simulate(
    memory: &Memory,
    rates: &Rates,
    tuning: &Tuning,
    switch_after_s: f64,
) -> Result<Outcome, Error> {
    memory.check()?;
    rates.check()?;
    tuning.check()?;
    error::seconds("switch_after_s", switch_after_s)?;
    Ok(follow(memory, rates, tuning, switch_after_s, TO_THE_HORIZON))
}

/// As [`simulate`], for numbers that have been checked.
pub(crate) fn follow(
    memory: &Memory,
    rates: &Rates,
    tuning: &Tuning,
    switch_after_s: f64,
    patience: Patience,
) -> Outcome {
    // What has not converged one window after the switch need not be followed further.
    let horizon_s = tuning.horizon_s.min(switch_after_s + tuning.window_s());
    let precopy = precopy::follow(memory, rates, &Tuning { horizon_s, ..tuning.clone() }, patience);
    if precopy.converged && precopy.total_s - precopy.downtime_s <= switch_after_s {
        return precopy;
    }
    // Up to the switch nothing may converge, which a limit below any page makes sure of.
    let until_switch = Tuning { horizon_s: switch_after_s, downtime_limit_s: 1e-9, ..tuning.clone() };
    let before = precopy::follow(memory, rates, &until_switch, patience);

    // Pages written since the last window are in the log and not yet pending.
    let unseen = memory.dirtied(tuning.window_s());
    let remaining = memory.ram_bytes.min(before.residual_bytes + unseen);
    let wire_per_page = PAGE_HEADER + PAGE / tuning.compress_ratio;
    let remaining_wire = remaining / PAGE * wire_per_page;
    let discard_list = memory.ram_bytes / PAGE / 8.0;
    let stopped_bytes = tuning.device_state_bytes + discard_list;
    let downtime_s = tuning.stop_s + tuning.resume_s + stopped_bytes / rates.switch_rate + 2.0 * rates.rtt_s;
    let postcopy_s = remaining_wire / rates.switch_rate;

    // Half of the hot pages arrive with the stream before the guest asks for them.
    let faults = 0.5 * remaining.min(memory.working_set()) / PAGE;
    let fault_s = rates.rtt_s + (PAGE + PAGE_HEADER) / rates.switch_rate;
    Outcome {
        converged: true,
        mode: Mode::PostCopy,
        total_s: switch_after_s + downtime_s + postcopy_s,
        downtime_s,
        service_gap_s: downtime_s + tuning.net_cutover_s,
        wire_bytes: before.wire_bytes + remaining_wire + stopped_bytes,
        throttle_pct: 0.0,
        throttle_stall_s: 0.0,
        residual_bytes: remaining,
        postcopy_s,
        fault_stall_s: postcopy_s.min(faults * fault_s),
        ..before
    }
}
