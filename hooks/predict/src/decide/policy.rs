//! The question put to the decision: the migration, what is allowed, what is available, what is forecast.

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};
use crate::migration::Migration;
use crate::preflight::{Destination, Needs};
use crate::uncertainty::{Noise, POINTS};

/// What a migration may cost. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// It must end within this, seconds from now.
    pub deadline_s: f64,
    /// Longest silence that is bearable, seconds.
    pub max_downtime_s: f64,
    /// Least probability of keeping both, 0 to 1.
    #[serde(default = "nine_in_ten")]
    pub min_p: f64,
    /// Share of the link it may take, 0 to 1.
    #[serde(default = "all_of_it")]
    pub allowed_share: f64,
    /// Price of 10⁹ bytes on the wire.
    #[serde(default, rename = "price_per_GB")]
    pub price_per_gb: f64,
    /// The most it may cost, in the unit of the price; absent: anything.
    #[serde(default)]
    pub budget: Option<f64>,
    /// The most auto-converge may throttle the guest, per cent.
    #[serde(default = "half_speed")]
    pub max_throttle_pct: f64,
    /// The longest the guest may wait for pages after post-copy began, seconds; absent: any time.
    #[serde(default)]
    pub max_fault_stall_s: Option<f64>,
    /// When to switch to post-copy, seconds; absent: at a quarter of the deadline.
    #[serde(default)]
    pub postcopy_after_s: Option<f64>,
    /// May the guest be suspended, moved cold and started again?
    #[serde(default)]
    pub allow_cold: bool,
    /// Time to start a guest that was moved cold, seconds.
    #[serde(default = "a_boot")]
    pub boot_s: f64,
    /// Longest silence that is bearable in a cold move, seconds; absent: any up to the deadline.
    #[serde(default)]
    pub max_cold_downtime_s: Option<f64>,
    /// How well the inputs are known.
    #[serde(default)]
    pub noise: Noise,
    /// Points per probability.
    #[serde(default = "points", rename = "mc_n")]
    pub points: u32,
}

fn nine_in_ten() -> f64 {
    0.9
}

fn all_of_it() -> f64 {
    1.0
}

fn half_speed() -> f64 {
    50.0
}

fn a_boot() -> f64 {
    20.0
}

fn points() -> u32 {
    POINTS
}

impl Policy {
    /// A deadline and a bearable silence, both in seconds; defaults for the rest.
    #[must_use]
    pub fn new(deadline_s: f64, max_downtime_s: f64) -> Self {
        Self {
            deadline_s,
            max_downtime_s,
            min_p: nine_in_ten(),
            allowed_share: all_of_it(),
            price_per_gb: 0.0,
            budget: None,
            max_throttle_pct: half_speed(),
            max_fault_stall_s: None,
            postcopy_after_s: None,
            allow_cold: false,
            boot_s: a_boot(),
            max_cold_downtime_s: None,
            noise: Noise::default(),
            points: POINTS,
        }
    }

    /// What `wire_bytes` cost.
    #[must_use]
    pub fn price(&self, wire_bytes: f64) -> f64 {
        wire_bytes / 1e9 * self.price_per_gb
    }

    fn check(&self) -> Result<(), Error> {
        // The loop is followed to four times the deadline.
        error::seconds("deadline_s", self.deadline_s * 4.0)?;
        error::seconds("max_downtime_s", self.max_downtime_s)?;
        error::fraction("min_p", self.min_p)?;
        error::factor("allowed_share", self.allowed_share)?;
        error::limit("price_per_GB", self.price_per_gb)?;
        error::limit("budget", self.budget.unwrap_or(0.0))?;
        error::limit("max_throttle_pct", self.max_throttle_pct)?;
        error::limit("max_fault_stall_s", self.max_fault_stall_s.unwrap_or(0.0))?;
        error::seconds("postcopy_after_s", self.postcopy_after_s.unwrap_or(0.0))?;
        error::seconds("boot_s", self.boot_s)?;
        error::limit("max_cold_downtime_s", self.max_cold_downtime_s.unwrap_or(0.0))?;
        self.noise.check()
    }
}

/// What both hypervisors can do, and may be told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// Several connections.
    pub multifd: bool,
    /// How many.
    pub multifd_channels: u32,
    /// Compression.
    pub compress: bool,
    /// How much smaller it makes this guest's pages.
    pub compress_ratio: f64,
    /// How fast it takes pages in, bytes/s.
    #[serde(rename = "compress_Bps")]
    pub compress_rate: f64,
    /// Throttling the guest.
    pub auto_converge: bool,
    /// Post-copy.
    pub postcopy: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            multifd: false,
            multifd_channels: 4,
            compress: false,
            compress_ratio: 2.0,
            compress_rate: 4e8,
            auto_converge: false,
            postcopy: false,
        }
    }
}

/// A later moment, and how things will be then.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// From now, seconds.
    pub offset_s: f64,
    /// The link's rate then, as a factor of now's.
    #[serde(default = "all_of_it")]
    pub link_factor: f64,
    /// The guest's touch rates then, as a factor of now's.
    #[serde(default = "all_of_it")]
    pub dirty_factor: f64,
}

/// May this guest move?
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The migration.
    pub migration: Migration,
    /// What it may cost.
    pub policy: Policy,
    /// What may be used.
    pub features: Features,
    /// Later moments to consider, soonest first.
    pub forecast: Vec<Slot>,
    /// What the guest needs and the destination has; absent: not looked at here.
    pub placement: Option<(Needs, Destination)>,
}

impl Request {
    /// The plain question: `migration` under `policy`, with nothing optional.
    #[must_use]
    pub fn new(migration: Migration, policy: Policy) -> Self {
        Self { migration, policy, features: Features::default(), forecast: Vec::new(), placement: None }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.migration.check()?;
        self.policy.check()?;
        error::factor("multifd_channels", f64::from(self.features.multifd_channels))?;
        error::factor("compress_ratio", self.features.compress_ratio)?;
        error::rate("compress_Bps", self.features.compress_rate)?;
        for slot in &self.forecast {
            error::seconds("offset_s", slot.offset_s)?;
            error::factor("link_factor", slot.link_factor)?;
            error::fraction("dirty_factor", slot.dirty_factor.min(1.0))?;
            error::limit("dirty_factor", slot.dirty_factor)?;
        }
        Ok(())
    }
}
