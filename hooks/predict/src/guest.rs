//! A guest's memory: how much, how much of it is zero, and who writes where.

use serde::{Deserialize, Serialize};

use crate::dirty::{self, Pattern};
use crate::error::{self, Error};

/// A part of memory that is written to in one way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Its size, the working set, bytes.
    #[serde(rename = "w")]
    pub working_set: f64,
    /// How fast pages are touched (touches per second × 4096), bytes/s; not the same as distinct pages.
    #[serde(rename = "r")]
    pub touch_rate: f64,
    /// In which order.
    #[serde(default)]
    pub pattern: Pattern,
    /// Share of its vCPU that the writer needs to keep this rate, 0 to 1. Auto-converge slows it only
    /// when less than that is left.
    #[serde(default)]
    pub cpu_share: f64,
}

impl Class {
    /// Distinct bytes dirtied within `interval_s`, starting from nothing dirty.
    #[must_use]
    pub fn dirtied(&self, interval_s: f64) -> f64 {
        dirty::curve(self.working_set, self.touch_rate, interval_s, self.pattern)
    }
}

/// A guest's memory as the migration sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// RAM, bytes.
    pub ram_bytes: f64,
    /// Share of RAM that is zero pages, 0 to 1: they cost nine bytes and the time to look at them.
    #[serde(default)]
    pub zero_frac: f64,
    /// The parts that are written to. What is neither zero nor in a class is sent once.
    #[serde(default)]
    pub classes: Vec<Class>,
}

impl Memory {
    /// Distinct bytes that all classes together dirty within `interval_s`.
    #[must_use]
    pub fn dirtied(&self, interval_s: f64) -> f64 {
        self.classes.iter().map(|class| class.dirtied(interval_s)).sum()
    }

    /// All working sets together, bytes.
    #[must_use]
    pub fn working_set(&self) -> f64 {
        self.classes.iter().map(|class| class.working_set).sum()
    }

    /// Bytes that are not zero.
    #[must_use]
    pub fn nonzero_bytes(&self) -> f64 {
        self.ram_bytes * (1.0 - self.zero_frac)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        error::bytes("ram_bytes", self.ram_bytes)?;
        error::fraction("zero_frac", self.zero_frac)?;
        for class in &self.classes {
            error::bytes("w", class.working_set)?;
            error::rate_or_zero("r", class.touch_rate)?;
            error::fraction("cpu_share", class.cpu_share)?;
        }
        let claimed = self.ram_bytes * self.zero_frac + self.working_set();
        // The sums are of rounded numbers: a millionth is noise, not a contradiction.
        if claimed > self.ram_bytes * (1.0 + 1e-6) {
            return Err(Error::ClassesExceedRam { claimed, ram: self.ram_bytes });
        }
        Ok(())
    }

    /// Become `base` with its touch rates and working sets multiplied; sets that no longer fit beside
    /// the zero pages shrink together. Keeps the allocation: predictions do this many times.
    pub(crate) fn scale_from(&mut self, base: &Self, rate: f64, working_set: f64) {
        self.ram_bytes = base.ram_bytes;
        self.zero_frac = base.zero_frac;
        self.classes.clear();
        self.classes.extend(base.classes.iter().map(|class| Class {
            working_set: class.working_set * working_set,
            touch_rate: class.touch_rate * rate,
            ..*class
        }));
        self.fit_classes(self.nonzero_bytes());
    }

    /// Shrink all working sets alike until they fit into `room` bytes.
    pub(crate) fn fit_classes(&mut self, room: f64) {
        let claimed = self.working_set();
        if claimed > room {
            for class in &mut self.classes {
                class.working_set *= room / claimed;
            }
        }
    }
}
