//! What a prediction is made from, and how far off each part of it can be.

use serde::{Deserialize, Serialize};

use crate::dirty::{self, Sample};
use crate::disk::Disk;
use crate::error::{self, Error};
use crate::guest::{Class, Memory};
use crate::migration::Migration;
use crate::path::{self, Path, Throughput};
use crate::precopy::Mode;
use crate::tuning::Tuning;

/// What is known about the guest's writing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dirty {
    /// Classes that were worked out already; none for an idle guest.
    Classes(Vec<Class>),
    /// Measured points of the dirty curve, to which one class is fitted.
    Samples(Vec<Sample>),
}

/// What is known about the path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bandwidth {
    /// Its description; the payload rate follows from it.
    Described(Path),
    /// A measured payload rate.
    Measured {
        /// What a probe got through, bytes/s.
        rate: f64,
        /// The cap to be set on the migration, bytes/s.
        cap: Option<f64>,
        /// Round trip, seconds.
        rtt_s: f64,
    },
}

/// The learned remainder: measured divided by predicted, from earlier moves between the same hosts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Correction {
    /// Of the total time.
    pub time: f64,
    /// Of the downtime.
    pub downtime: f64,
    /// Of the bytes on the wire.
    pub bytes: f64,
}

impl Default for Correction {
    fn default() -> Self {
        Self { time: 1.0, downtime: 1.0, bytes: 1.0 }
    }
}

/// How far off each input can be: coefficients of variation of log-normal factors with median 1, unless a
/// name says otherwise. The defaults of the model's own errors are those it had on real migrations
/// with known inputs; a pair of hosts with a record should use its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uncertainty {
    /// Of the path's rate; a cap is a setting and has none.
    pub bandwidth_cv: f64,
    /// Of the touch rates.
    pub rate_cv: f64,
    /// Of the working sets.
    pub working_set_cv: f64,
    /// Of the bytes that are not zero.
    pub nonzero_cv: f64,
    /// Of the fixed costs: set-up, stop, resume and the reading of the dirty log.
    pub fixed_cv: f64,
    /// Standard deviation of what a busy host adds to or takes from the stop phase, seconds.
    pub pause_sd_s: f64,
    /// Of what the model itself gets wrong in the total time.
    pub model_time_cv: f64,
    /// Of what the model itself gets wrong in the downtime.
    pub model_downtime_cv: f64,
    /// Of what the model itself gets wrong in the bytes.
    pub model_bytes_cv: f64,
}

impl Default for Uncertainty {
    fn default() -> Self {
        Self {
            bandwidth_cv: 0.1,
            rate_cv: 0.2,
            working_set_cv: 0.2,
            nonzero_cv: 0.02,
            fixed_cv: 0.2,
            pause_sd_s: 0.01,
            model_time_cv: 0.06,
            model_downtime_cv: 0.1,
            model_bytes_cv: 0.05,
        }
    }
}

impl Uncertainty {
    /// Everything is known exactly: the interval is a point.
    pub const NONE: Self = Self {
        bandwidth_cv: 0.0,
        rate_cv: 0.0,
        working_set_cv: 0.0,
        nonzero_cv: 0.0,
        fixed_cv: 0.0,
        pause_sd_s: 0.0,
        model_time_cv: 0.0,
        model_downtime_cv: 0.0,
        model_bytes_cv: 0.0,
    };

    pub(super) fn check(&self) -> Result<(), Error> {
        error::variation("bandwidth_cv", self.bandwidth_cv)?;
        error::variation("rate_cv", self.rate_cv)?;
        error::variation("working_set_cv", self.working_set_cv)?;
        error::variation("nonzero_cv", self.nonzero_cv)?;
        error::variation("fixed_cv", self.fixed_cv)?;
        error::seconds("pause_sd_s", self.pause_sd_s)?;
        error::variation("model_time_cv", self.model_time_cv)?;
        error::variation("model_downtime_cv", self.model_downtime_cv)?;
        error::variation("model_bytes_cv", self.model_bytes_cv)
    }
}

/// Everything known about one guest, one path and one pair of hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// RAM, bytes.
    pub ram_bytes: f64,
    /// RAM that is not zero pages, bytes; the hypervisor's resident size is an upper bound.
    pub nonzero_bytes: f64,
    /// The guest's writing.
    pub dirty: Dirty,
    /// The path.
    pub bandwidth: Bandwidth,
    /// Settings (downtime limit, horizon, …) and calibrated constants (stop, resume, device state, …).
    #[serde(default)]
    pub tuning: Tuning,
    /// The guest's disk.
    #[serde(default = "Disk::shared")]
    pub disk: Disk,
    /// When to switch to post-copy, seconds after the memory phase began; absent: not at all.
    #[serde(default)]
    pub postcopy_after_s: Option<f64>,
    /// The learned remainder.
    #[serde(default)]
    pub correction: Correction,
    /// How far off all this can be.
    #[serde(default)]
    pub uncertainty: Uncertainty,
}

impl Facts {
    /// A guest of which nothing but its memory is known, over a measured path: no zero pages, shared disk,
    /// defaults for the rest.
    #[must_use]
    pub fn new(ram_bytes: f64, dirty: Dirty, bandwidth: Bandwidth) -> Self {
        Self {
            ram_bytes,
            nonzero_bytes: ram_bytes,
            dirty,
            bandwidth,
            tuning: Tuning::default(),
            disk: Disk::shared(),
            postcopy_after_s: None,
            correction: Correction::default(),
            uncertainty: Uncertainty::default(),
        }
    }

    /// The migration with central values: what [`crate::migration::predict`] follows, and what
    /// [`crate::decide::decide`] judges.
    ///
    /// # Errors
    /// [`Error`] names the first number that makes no sense.
    pub fn migration(&self) -> Result<Migration, Error> {
        error::bytes("ram_bytes", self.ram_bytes)?;
        error::bytes("nonzero_bytes", self.nonzero_bytes)?;
        let mut memory = Memory {
            ram_bytes: self.ram_bytes,
            zero_frac: zero_frac(self.ram_bytes, self.nonzero_bytes),
            classes: match &self.dirty {
                Dirty::Classes(classes) => classes.clone(),
                Dirty::Samples(samples) => vec![fitted(samples, self.ram_bytes)?],
            },
        };
        memory.fit_classes(memory.nonzero_bytes());
        let migration = Migration {
            tuning: self.tuning.clone(),
            disk: self.disk.clone(),
            mode: if self.postcopy_after_s.is_some() { Mode::PostCopy } else { Mode::PreCopy },
            switch_after_s: self.postcopy_after_s.unwrap_or(0.0),
            ..Migration::new(memory, self.path())
        };
        migration.check()?;
        Ok(migration)
    }

    fn path(&self) -> Path {
        match &self.bandwidth {
            Bandwidth::Described(path) => path.clone(),
            Bandwidth::Measured { rate, cap, rtt_s } => {
                Path { rtt_s: *rtt_s, max_bandwidth: cap.unwrap_or(0.0), ..Path::ethernet(*rate) }
            }
        }
    }

    /// What the path carries.
    pub(super) fn throughput(&self, path: &Path) -> Result<Throughput, Error> {
        match self.bandwidth {
            Bandwidth::Described(_) => path::throughput(path),
            Bandwidth::Measured { .. } => path::measured(path),
        }
    }
}

pub(super) fn zero_frac(ram_bytes: f64, nonzero_bytes: f64) -> f64 {
    if ram_bytes > 0.0 { (1.0 - nonzero_bytes / ram_bytes).max(0.0) } else { 0.0 }
}

/// One class through measured samples. Where the samples show only a full set, its rate is taken to be five
/// sets per shortest interval: more than the least that fits, and nothing measured speaks against it.
fn fitted(samples: &[Sample], ram_bytes: f64) -> Result<Class, Error> {
    let mut class = Class::from(dirty::fit(samples, ram_bytes)?);
    if dirty::rate_is_lower_bound(samples) {
        let shortest_s = samples.iter().map(|s| s.interval_s).fold(f64::INFINITY, f64::min);
        class.touch_rate = class.touch_rate.max(5.0 * class.working_set / shortest_s);
    }
    Ok(class)
}
