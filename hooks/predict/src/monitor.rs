//! Watching a migration that runs: will it make its deadline, or is every further byte wasted?
//!
//! Each sample of the hypervisor's statistics updates what is known of the path and of the guest, and
//! the pre-copy loop is followed anew from the state the sample shows. A formula of the kind
//! *remaining ÷ (bandwidth − dirty rate)* is not used: it calls healthy migrations hopeless, as QEMU's
//! dirty rate does not count pages that are pending already.

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{self, Error};
use crate::guest::{Class, Memory};
use crate::precopy::{self, Observed, Rates};
use crate::tuning::Tuning;

/// What is being watched. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Watch {
    /// It should end within this, seconds from its start.
    pub deadline_s: f64,
    /// The guest's memory, as measured before the start.
    #[serde(rename = "vm")]
    pub memory: Memory,
    /// What the path was thought to give.
    pub rates: Rates,
    /// Settings and constants.
    #[serde(default, rename = "hv", deserialize_with = "tuning_or_default")]
    pub tuning: Tuning,
    /// Is post-copy a way out?
    #[serde(default)]
    pub postcopy_ok: bool,
    /// Weight of the newest throughput, 0 to 1.
    #[serde(default = "three_tenths")]
    pub alpha: f64,
    /// Samples in a row that must look bad.
    #[serde(default = "three")]
    pub k: u32,
    /// No advice but to go on before this, seconds.
    #[serde(default = "two_seconds")]
    pub warmup_s: f64,
    /// Share of the deadline by which it may be missed once something was learned.
    #[serde(default = "a_twentieth")]
    pub margin: f64,
    /// The same before the first sync, when only the measurement before the start speaks.
    #[serde(default = "half")]
    pub margin_first: f64,
}

/// `null` stands for the defaults, as an absent field does.
fn tuning_or_default<'de, D: Deserializer<'de>>(input: D) -> Result<Tuning, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

fn three_tenths() -> f64 {
    0.3
}

fn three() -> u32 {
    3
}

fn two_seconds() -> f64 {
    2.0
}

fn a_twentieth() -> f64 {
    0.05
}

fn half() -> f64 {
    0.5
}

/// The hypervisor's statistics at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Since the start, seconds.
    pub t_s: f64,
    /// `ram.transferred`, bytes.
    pub transferred: f64,
    /// `ram.remaining`, bytes.
    pub remaining: f64,
    /// `ram.dirty-pages-rate` times the page size, bytes/s; 0 before the first sync.
    pub dirty_rate: f64,
    /// `ram.dirty-sync-count`.
    pub syncs: u64,
    /// `cpu-throttle-percentage`.
    pub throttle_pct: f64,
}

impl Sample {
    fn check(&self) -> Result<(), Error> {
        error::seconds("a sample's time", self.t_s)?;
        error::bytes("transferred", self.transferred)?;
        error::bytes("remaining", self.remaining)?;
        error::rate_or_zero("dirty_rate", self.dirty_rate)?;
        error::throttle("throttle_pct", self.throttle_pct)
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Let it run.
    Continue,
    /// Resume the guest on the destination now.
    Postcopy,
    /// Give up; the source goes on running the guest.
    Abort,
}

/// What a sample led to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Advice {
    /// What to do.
    pub action: Action,
    /// The throughput that is believed, bytes/s.
    #[serde(rename = "b")]
    pub rate: f64,
    /// When it will end, seconds from its start; infinite: never.
    #[serde(rename = "eta", serialize_with = "crate::number::serialize")]
    pub eta_s: f64,
}

/// The state of watching one migration.
#[derive(Debug, Clone)]
pub struct Monitor {
    watch: Watch,
    /// Believed throughput, and whether it was ever measured.
    rate: f64,
    measured: bool,
    last: Option<Sample>,
    last_sync_s: f64,
    /// Has a sync corrected what was measured before the start?
    learned: bool,
    /// Samples in a row that looked bad.
    bad: u32,
}

/// Shares of the working set touched in the first pass (`r·t/W`), above which the pass shows the size of the
/// set, and below which it shows the rate. Between them it shows both.
const SHOWS_SIZE: f64 = 0.5;
const SHOWS_RATE: f64 = 2.0;

impl Monitor {
    /// Begin to watch.
    ///
    /// # Errors
    /// [`Error`] names the first number that makes no sense.
    pub fn new(mut watch: Watch) -> Result<Self, Error> {
        error::seconds("deadline_s", watch.deadline_s * 4.0)?;
        error::fraction("alpha", watch.alpha)?;
        error::seconds("warmup_s", watch.warmup_s)?;
        error::limit("margin", watch.margin)?;
        error::limit("margin_first", watch.margin_first)?;
        watch.memory.check()?;
        watch.rates.check()?;
        // Beyond this it is "never".
        watch.tuning.horizon_s = 4.0 * watch.deadline_s;
        watch.tuning.check()?;
        let rate = watch.rates.run_rate;
        Ok(Self { watch, rate, measured: false, last: None, last_sync_s: 0.0, learned: false, bad: 0 })
    }

    /// What the guest's memory is believed to be like by now: worth logging with every advice.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.watch.memory
    }

    /// Take in one sample. Samples about a second apart are best; times must not go back.
    ///
    /// # Errors
    /// [`Error`] names the first number of the sample that makes no sense.
    pub fn observe(&mut self, sample: &Sample) -> Result<Advice, Error> {
        sample.check()?;
        if let Some(last) = self.last.replace(*sample) {
            let new_sync = sample.syncs != last.syncs;
            self.update_rate(&last, sample, new_sync);
            if new_sync {
                self.update_memory(sample);
            }
        }
        let eta_s = sample.t_s + self.rest(sample)?;
        Ok(Advice { action: self.judge(sample.t_s, eta_s), rate: self.rate, eta_s })
    }

    fn update_rate(&mut self, last: &Sample, sample: &Sample, new_sync: bool) {
        let (elapsed, sent) = (sample.t_s - last.t_s, sample.transferred - last.transferred);
        // Zero pages leave `remaining` at full size but the wire at nine bytes: no measure of the path.
        let zero_pages = !new_sync && last.remaining - sample.remaining > 1.5 * sent;
        if elapsed <= 0.0 || sent <= 0.0 || zero_pages {
            return;
        }
        let seen = sent / elapsed;
        self.rate =
            if self.measured { self.watch.alpha * seen + (1.0 - self.watch.alpha) * self.rate } else { seen };
        self.measured = true;
    }

    fn update_memory(&mut self, sample: &Sample) {
        let distinct = |since_s: f64| sample.dirty_rate * (sample.t_s - since_s);
        if sample.syncs == 2 && sample.dirty_rate > 0.0 {
            // This rate covers exactly the first pass.
            self.learn_first_pass(distinct(0.0), sample.t_s);
        } else if sample.syncs >= 3 && sample.dirty_rate > 0.0 {
            // Later ones leave out what was pending: they are lower bounds and only raise the rate.
            let expected = self.watch.memory.dirtied(sample.t_s - self.last_sync_s);
            let seen = distinct(self.last_sync_s);
            if expected > 0.0 && seen > 1.2 * expected {
                for class in &mut self.watch.memory.classes {
                    class.touch_rate = (class.touch_rate * (seen / expected).min(3.0)).min(1e15);
                }
            }
        }
        self.learned |= sample.syncs >= 2;
        self.last_sync_s = sample.t_s;
    }

    /// The first pass took `pass_s` seconds and `distinct` bytes were dirtied in it.
    fn learn_first_pass(&mut self, distinct: f64, pass_s: f64) {
        let memory = &mut self.watch.memory;
        let expected = memory.dirtied(pass_s);
        if memory.classes.is_empty() || expected < 0.05 * distinct {
            let touch_rate = 2.0 * distinct / pass_s;
            let class =
                Class { working_set: distinct, touch_rate, pattern: Default::default(), cpu_share: 0.0 };
            memory.classes = vec![class];
        } else {
            let off = (distinct / expected).clamp(0.2, 5.0);
            for class in &mut memory.classes {
                let touched = class.touch_rate * pass_s / class.working_set;
                let touched = if class.working_set > 0.0 { touched } else { 0.0 };
                if touched >= SHOWS_SIZE {
                    class.working_set *= off;
                }
                if touched <= SHOWS_RATE {
                    class.touch_rate = (class.touch_rate * off).min(1e15);
                }
            }
        }
        let room = 0.95 * memory.nonzero_bytes();
        memory.fit_classes(room);
    }

    /// Seconds from now to the end.
    fn rest(&self, sample: &Sample) -> Result<f64, Error> {
        let mut rates = self.watch.rates;
        if rates.capped {
            rates.run_rate = self.rate.min(rates.switch_rate);
        } else {
            (rates.run_rate, rates.switch_rate) = (self.rate, self.rate);
        }
        let observed = Observed {
            pending_bytes: sample.remaining,
            syncs: sample.syncs,
            since_sync_s: (sample.t_s - self.last_sync_s).max(0.0),
            throttle_pct: sample.throttle_pct,
        };
        // A stalled path measures below what is modelled; it will not carry the guest in time either.
        if rates.run_rate < 1.0 {
            return Ok(f64::INFINITY);
        }
        Ok(precopy::resume(&self.watch.memory, &rates, &self.watch.tuning, &observed)?.total_s)
    }

    fn judge(&mut self, t_s: f64, eta_s: f64) -> Action {
        if t_s < self.watch.warmup_s {
            return Action::Continue;
        }
        let margin = if self.learned { self.watch.margin } else { self.watch.margin_first };
        self.bad =
            if eta_s > self.watch.deadline_s * (1.0 + margin) { self.bad.saturating_add(1) } else { 0 };
        match (self.bad >= self.watch.k, self.watch.postcopy_ok) {
            (false, _) => Action::Continue,
            (true, true) => Action::Postcopy,
            (true, false) => Action::Abort,
        }
    }
}
