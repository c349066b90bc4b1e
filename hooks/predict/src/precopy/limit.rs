//! The smallest downtime limit at which a migration converges.

use super::{Rates, simulate};
use crate::error::{self, Error};
use crate::guest::Memory;
use crate::tuning::Tuning;

/// The smallest downtime limit between `low_s` and `high_s` at which the loop converges before the horizon,
/// seconds, found to within one per cent; infinite if it does not at `high_s` either.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn downtime_limit_needed(
    memory: &Memory,
    rates: &Rates,
    tuning: &Tuning,
    low_s: f64,
    high_s: f64,
) -> Result<f64, Error> {
    error::factor("the lowest limit", low_s)?;
    error::factor("the highest limit", high_s)?;
    let mut tuning = Tuning { downtime_limit_s: high_s, ..tuning.clone() };
    if !simulate(memory, rates, &tuning)?.converged {
        return Ok(f64::INFINITY);
    }
    let (mut low, mut high) = (low_s, high_s);
    // Halving in logarithms: 20 steps would do for any accepted range.
    while high / low > 1.01 {
        tuning.downtime_limit_s = (low * high).sqrt();
        if simulate(memory, rates, &tuning)?.converged {
            high = tuning.downtime_limit_s;
        } else {
            low = tuning.downtime_limit_s;
        }
    }
    Ok(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Class;

    #[test]
    fn the_limit_found_converges_and_a_tenth_less_does_not() {
        let class =
            Class { working_set: 200e6, touch_rate: 400e6, pattern: Default::default(), cpu_share: 0.0 };
        let memory = Memory { ram_bytes: 2e9, zero_frac: 0.2, classes: vec![class] };
        let rates = Rates { run_rate: 1e8, switch_rate: 1e8, rtt_s: 0.0, slow_start_s: 0.0, capped: false };
        let tuning = Tuning { horizon_s: 200.0, ..Tuning::default() };
        let needed = downtime_limit_needed(&memory, &rates, &tuning, 0.01, 60.0).unwrap();
        let converges = |limit: f64| {
            let tuning = Tuning { downtime_limit_s: limit, ..tuning.clone() };
            simulate(&memory, &rates, &tuning).unwrap().converged
        };
        assert!(converges(needed) && !converges(0.9 * needed), "{needed}");
    }
}
