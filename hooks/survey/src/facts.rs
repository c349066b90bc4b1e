//! All measurements in the form that the model takes.

use causeway_predict::estimate::{Bandwidth, Dirty, Facts};
use causeway_predict::tuning::Tuning;

use crate::curve::DirtyCurve;
use crate::guest::GuestFacts;
use crate::path::Throughput;

/// What is measured, as the model's facts.
///
/// `cap` is the bandwidth that will be set on the migration, bytes per second; `tuning` brings settings and the pair of
/// hosts' constants, its downtime limit is replaced by the guest's. Doubts that the measurements know of replace the
/// model's defaults where they are larger.
pub fn facts(
    guest: &GuestFacts,
    curve: &DirtyCurve,
    path: &Throughput,
    cap: Option<f64>,
    tuning: Tuning,
) -> Facts {
    let bandwidth = Bandwidth::Measured { rate: path.rate, cap, rtt_s: path.rtt_s };
    let dirty = Dirty::Samples(curve.samples());
    let mut facts = Facts::new(guest.ram_bytes as f64, dirty, bandwidth);
    facts.nonzero_bytes = guest.nonzero.bytes.min(facts.ram_bytes);
    facts.tuning = Tuning { downtime_limit_s: guest.max_downtime.as_secs_f64(), ..tuning };
    let doubt = &mut facts.uncertainty;
    doubt.bandwidth_cv = doubt.bandwidth_cv.max(path.mean_cv());
    doubt.rate_cv = doubt.rate_cv.max(curve.cv());
    doubt.working_set_cv = doubt.working_set_cv.max(curve.cv());
    doubt.nonzero_cv = doubt.nonzero_cv.max(guest.nonzero.cv);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::Point;
    use crate::nonzero::Nonzero;
    use causeway_domain::Version;
    use std::time::Duration;

    #[test]
    fn the_model_takes_what_was_measured() {
        let guest = GuestFacts {
            ram_bytes: 128 << 20,
            resident_bytes: None,
            nonzero: Nonzero::of_sample(128 << 20, 350, 512),
            vcpus: 1,
            machine: None,
            emulator: Version { major: 10, minor: 0, release: 2 },
            max_downtime: Duration::from_millis(500),
            hostdevs: 0,
        };
        let point = |s: u64, mib: u32| Point {
            period: Duration::from_secs(s),
            distinct_bytes: f64::from(mib) * 1048576.0,
            cv: 0.05,
        };
        let curve = DirtyCurve { points: vec![point(1, 8), point(2, 16), point(5, 32)] };
        let path = Throughput::of(&[(0.1, 4_000_000); 12], 0.0005);
        let facts = facts(&guest, &curve, &path, Some(20e6), Tuning::default());
        assert_eq!(facts.tuning.downtime_limit_s, 0.5);
        assert!(facts.nonzero_bytes < facts.ram_bytes);
        assert!(facts.uncertainty.nonzero_cv > 0.02);
        let estimate = causeway_predict::estimate(&facts).unwrap();
        let total = estimate.time_s;
        // 88 MiB at 20 MB/s, and what is written meanwhile.
        assert!(total.low > 4.0 && total.high < 14.0, "{total:?}");
    }
}
