//! How many pages a running guest makes dirty, measured by QEMU before a migration starts.
//!
//! QEMU's `calc-dirty-rate` in its mode `page-sampling`: it hashes some pages, waits, hashes them again. It sees only
//! writes that change something, it counts a page once however often it was written, and it disturbs the guest less
//! than dirty logging does. libvirt's own call cannot set the number of samples, and its default of 512 per GiB was off
//! by up to half in trials; hence the way through the monitor. Must not run during a migration (it disturbs the
//! tracking of dirty pages), and QEMU refuses to start a second one beside the first.

use std::thread;
use std::time::{Duration, Instant};

use causeway_core::names::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Cause, DomainError, Operation};
use crate::host::Version;
use crate::hypervisor::Hypervisor;

/// Samples per GiB that bring the result within about a tenth of the truth.
pub const SAMPLES_PER_GIB: u16 = 8192;

/// What QEMU accepts as samples per GiB.
const SAMPLES: std::ops::RangeInclusive<u16> = 128..=16384;

/// The first QEMU that takes periods in milliseconds (`calc-time-unit`).
const MILLISECONDS_SINCE: Version = Version { major: 8, minor: 2, release: 0 };

/// How long QEMU may take beyond the period: hashing a large guest's samples takes a while.
const GRACE: Duration = Duration::from_secs(10);

/// How often QEMU is asked whether it is done.
const POLL: Duration = Duration::from_millis(20);

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyRate {
    /// The period that QEMU really measured over.
    pub period: Duration,
    /// Distinct pages made dirty, in whole MiB per second, rounded down by QEMU.
    pub mib_per_second: u64,
}

impl DirtyRate {
    /// Bytes of distinct pages made dirty within the period. QEMU rounds down to whole MiB per second; half of one is
    /// added back, except to nothing.
    pub fn distinct_bytes(&self) -> f64 {
        if self.mib_per_second == 0 {
            return 0.0;
        }
        // Exact below 2^53.
        let rate = self.mib_per_second as f64 + 0.5;
        rate * f64::from(1 << 20) * self.period.as_secs_f64()
    }
}

/// The version of the QEMU that runs this domain, which need not be the host's default one.
///
/// # Errors
/// As [`Hypervisor::monitor`].
pub fn emulator_version(host: &dyn Hypervisor, id: &DeployId) -> Result<Version, DomainError> {
    let answer = host.monitor(id, &json!({"execute": "query-version"}))?;
    let number = |name: &str| {
        let found = answer.get("qemu")?.get(name)?.as_u64()?;
        u32::try_from(found).ok()
    };
    match (number("major"), number("minor"), number("micro")) {
        (Some(major), Some(minor), Some(release)) => Ok(Version { major, minor, release }),
        _ => Err(unreadable(id, &answer)),
    }
}

/// The shortest period that this QEMU can measure over.
pub fn shortest_period(emulator: Version) -> Duration {
    if emulator >= MILLISECONDS_SINCE { Duration::from_millis(50) } else { Duration::from_secs(1) }
}

/// Measures over `period` with that many samples per GiB; returns after the period and the time to hash the samples.
///
/// The period is between [`shortest_period`] and 60 seconds, whole seconds where the QEMU knows nothing finer.
///
/// # Errors
/// [`Cause::Input`] for a period or number of samples that QEMU does not take, [`Cause::Answer`] if QEMU refuses (it
/// migrates, it measures already), [`Cause::Deadline`] if it does not finish, and all of [`Hypervisor::monitor`].
pub fn calc_dirty_rate(
    host: &dyn Hypervisor,
    id: &DeployId,
    emulator: Version,
    period: Duration,
    samples_per_gib: u16,
) -> Result<DirtyRate, DomainError> {
    let request = Request::new(emulator, period, samples_per_gib)
        .map_err(|text| DomainError::new(Operation::Monitor, id, Cause::Input(text)))?;
    host.monitor(id, &request.start)?;
    let start = Instant::now();
    thread::sleep(period);
    loop {
        let answer = host.monitor(id, &request.query)?;
        match request.read(&answer) {
            Reading::Done(rate) => return Ok(rate),
            Reading::Measuring if start.elapsed() < period + GRACE => thread::sleep(POLL),
            Reading::Measuring => {
                let cause = Cause::Deadline(period + GRACE);
                return Err(DomainError::new(Operation::Monitor, id, cause));
            }
            Reading::Unreadable => return Err(unreadable(id, &answer)),
        }
    }
}

fn unreadable(id: &DeployId, answer: &Value) -> DomainError {
    let text = format!("{:.200}", answer.to_string());
    DomainError::new(Operation::Monitor, id, Cause::Answer(text))
}

/// The two monitor commands of one measurement.
struct Request {
    start: Value,
    query: Value,
    unit: Duration,
}

enum Reading {
    Measuring,
    Done(DirtyRate),
    Unreadable,
}

impl Request {
    fn new(emulator: Version, period: Duration, samples_per_gib: u16) -> Result<Self, String> {
        let fine = emulator >= MILLISECONDS_SINCE;
        let range = shortest_period(emulator)..=Duration::from_secs(60);
        if !range.contains(&period) || (!fine && period.subsec_nanos() != 0) {
            return Err(format!(
                "QEMU {emulator} does not measure over {period:?}, only over {:?} to 60s{}",
                range.start(),
                if fine { "" } else { " in whole seconds" },
            ));
        }
        if !SAMPLES.contains(&samples_per_gib) {
            return Err(format!("{samples_per_gib} samples per GiB, QEMU takes 128 to 16384"));
        }
        let mode = "page-sampling";
        let (arguments, query) = if fine {
            let milliseconds = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
            let unit = "millisecond";
            (
                json!({"calc-time": milliseconds, "calc-time-unit": unit,
                    "sample-pages": samples_per_gib, "mode": mode}),
                json!({"execute": "query-dirty-rate", "arguments": {"calc-time-unit": unit}}),
            )
        } else {
            (
                json!({"calc-time": period.as_secs(), "sample-pages": samples_per_gib, "mode": mode}),
                json!({"execute": "query-dirty-rate"}),
            )
        };
        Ok(Request {
            start: json!({"execute": "calc-dirty-rate", "arguments": arguments}),
            query,
            unit: match fine {
                true => Duration::from_millis(1),
                false => Duration::from_secs(1),
            },
        })
    }

    fn read(&self, answer: &Value) -> Reading {
        let number = |name: &str| answer.get(name).and_then(Value::as_u64);
        match answer.get("status").and_then(Value::as_str) {
            Some("measuring") => Reading::Measuring,
            Some("measured") => match (number("dirty-rate"), number("calc-time")) {
                (Some(mib_per_second), Some(units)) => Reading::Done(DirtyRate {
                    period: self.unit.saturating_mul(u32::try_from(units).unwrap_or(u32::MAX)),
                    mib_per_second,
                }),
                _ => Reading::Unreadable,
            },
            _ => Reading::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const NEW: Version = Version { major: 10, minor: 0, release: 2 };
    const OLD: Version = Version { major: 7, minor: 2, release: 22 };

    fn guest() -> (Fake, DeployId) {
        let host = Fake::new("node1");
        let xml = "<domain type='kvm'><name>one-7</name><memory>1024</memory></domain>";
        host.create(xml).unwrap();
        (host, "one-7".parse().unwrap())
    }

    #[test]
    fn a_measurement_is_started_awaited_and_read() {
        let (host, id) = guest();
        host.queue_monitor("calc-dirty-rate", json!({}));
        let measuring = json!({"status": "measuring", "calc-time": 50, "mode": "page-sampling"});
        host.queue_monitor("query-dirty-rate", measuring);
        let measured = json!({"status": "measured", "dirty-rate": 15, "calc-time": 53});
        host.queue_monitor("query-dirty-rate", measured);
        let period = Duration::from_millis(50);
        let rate = calc_dirty_rate(&host, &id, NEW, period, SAMPLES_PER_GIB).unwrap();
        let expected = DirtyRate { period: Duration::from_millis(53), mib_per_second: 15 };
        assert_eq!(rate, expected);
        let calls = host.calls();
        let sent: Value = serde_json::from_str(&calls[1].detail).unwrap();
        let arguments = json!({"calc-time": 50, "calc-time-unit": "millisecond",
            "sample-pages": 8192, "mode": "page-sampling"});
        assert_eq!(sent["arguments"], arguments);
    }

    #[test]
    fn an_old_qemu_is_asked_in_its_own_words() {
        let request = Request::new(OLD, Duration::from_secs(2), SAMPLES_PER_GIB).unwrap();
        let arguments = json!({"calc-time": 2, "sample-pages": 8192, "mode": "page-sampling"});
        assert_eq!(request.start["arguments"], arguments);
        assert_eq!(request.query, json!({"execute": "query-dirty-rate"}));
        for period in [Duration::from_millis(100), Duration::from_millis(1500)] {
            assert!(Request::new(OLD, period, SAMPLES_PER_GIB).is_err());
        }
        assert!(Request::new(NEW, Duration::from_millis(100), SAMPLES_PER_GIB).is_ok());
        assert!(Request::new(NEW, Duration::from_secs(61), SAMPLES_PER_GIB).is_err());
        assert!(Request::new(NEW, Duration::from_secs(1), 64).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let (host, id) = guest();
        host.queue_monitor("calc-dirty-rate", json!({}));
        host.queue_monitor("query-dirty-rate", json!({"status": "unstarted"}));
        let period = Duration::from_millis(50);
        let error = calc_dirty_rate(&host, &id, NEW, period, SAMPLES_PER_GIB).unwrap_err();
        assert!(matches!(error.cause, Cause::Answer(_)));
    }

    #[test]
    fn the_emulator_tells_its_version() {
        let (host, id) = guest();
        let version = json!({"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "Debian"});
        host.queue_monitor("query-version", version);
        assert_eq!(emulator_version(&host, &id).unwrap(), NEW);
        assert!(emulator_version(&host, &id).is_err());
    }

    #[test]
    fn half_a_step_is_added_back_but_not_to_nothing() {
        let rate = |mib_per_second| DirtyRate { period: Duration::from_secs(2), mib_per_second };
        assert_eq!(rate(0).distinct_bytes(), 0.0);
        assert_eq!(rate(15).distinct_bytes(), 31.0 * 1024.0 * 1024.0);
    }
}
