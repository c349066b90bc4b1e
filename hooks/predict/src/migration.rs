//! A whole migration over a described path: first the disk, then the memory beside the disk's writes.

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};
use crate::error::{self, Error};
use crate::guest::Memory;
use crate::path::{self, Bound, Path, Throughput};
use crate::postcopy;
use crate::precopy::{self, Mode, Outcome, Patience, Rates, TO_THE_HORIZON};
use crate::tuning::Tuning;

/// One migration to be predicted. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Migration {
    /// The guest's memory.
    #[serde(rename = "vm")]
    pub memory: Memory,
    /// The path.
    pub path: Path,
    /// Settings and constants.
    #[serde(default, rename = "hv")]
    pub tuning: Tuning,
    /// The guest's disk.
    #[serde(default = "Disk::shared")]
    pub disk: Disk,
    /// Pre-copy to the end, or post-copy after a while.
    #[serde(default = "precopy_mode")]
    pub mode: Mode,
    /// With post-copy: when to switch, seconds after the memory phase began.
    #[serde(default = "half_a_minute")]
    pub switch_after_s: f64,
}

fn precopy_mode() -> Mode {
    Mode::PreCopy
}

fn half_a_minute() -> f64 {
    30.0
}

impl Migration {
    /// A pre-copy migration with default settings and a shared disk.
    #[must_use]
    pub fn new(memory: Memory, path: Path) -> Self {
        Self {
            memory,
            path,
            tuning: Tuning::default(),
            disk: Disk::shared(),
            mode: Mode::PreCopy,
            switch_after_s: half_a_minute(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.memory.check()?;
        self.tuning.check()?;
        self.disk.check()?;
        error::seconds("switch_after_s", self.switch_after_s)
    }
}

/// What a migration does not converge for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Diverges {
    /// It converges.
    #[serde(rename = "")]
    No,
    /// The guest writes its disk faster than the mirror follows.
    #[serde(rename = "disk")]
    Disk,
    /// The guest writes its memory faster than the path carries.
    #[serde(rename = "memory")]
    Memory,
}

/// How a whole migration goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    /// The memory's migration, with the disk's time and bytes added in.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The disk's share of the time, seconds.
    #[serde(serialize_with = "crate::number::serialize")]
    pub disk_s: f64,
    /// What binds the path.
    pub binding: Bound,
    /// What does not converge.
    #[serde(rename = "why")]
    pub diverges: Diverges,
}

/// Predict `migration` from the description of its path.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn predict(migration: &Migration) -> Result<Prediction, Error> {
    migration.check()?;
    let throughput = path::throughput(&migration.path)?;
    Ok(over(migration, &throughput, TO_THE_HORIZON))
}

/// Predict `migration` over a path that carries `throughput`; all numbers have been checked.
pub(crate) fn over(migration: &Migration, throughput: &Throughput, patience: Patience) -> Prediction {
    let memory = &migration.memory;
    let mirror = disk::follow(&migration.disk, throughput.run_rate);
    let binding = throughput.binding;
    if !mirror.converged {
        return Prediction {
            outcome: Outcome::never(),
            disk_s: f64::INFINITY,
            binding,
            diverges: Diverges::Disk,
        };
    }
    let rates = Rates {
        // The mirror keeps following the guest's writes while the memory moves.
        run_rate: throughput.run_rate - mirror.steady_rate,
        switch_rate: throughput.switch_rate,
        rtt_s: migration.path.rtt_s,
        slow_start_s: throughput.slow_start_s,
        capped: throughput.capped,
    };
    let mut outcome = match migration.mode {
        Mode::PreCopy => precopy::follow(memory, &rates, &migration.tuning, patience),
        Mode::PostCopy => {
            postcopy::follow(memory, &rates, &migration.tuning, migration.switch_after_s, patience)
        }
    };
    outcome.total_s += mirror.time_s;
    outcome.wire_bytes += mirror.wire_bytes;
    let diverges = if outcome.converged { Diverges::No } else { Diverges::Memory };
    Prediction { outcome, disk_s: mirror.time_s, binding, diverges }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_diverges_is_named_as_the_cause() {
        let memory = Memory { ram_bytes: 1e9, ..Memory::default() };
        let disk = Disk { alloc_bytes: 1e9, write_rate: 2e8, ..Disk::default() };
        let answer = predict(&Migration { disk, ..Migration::new(memory, Path::ethernet(1e8)) }).unwrap();
        assert_eq!((answer.diverges, answer.outcome.total_s), (Diverges::Disk, f64::INFINITY));
    }

    #[test]
    fn the_disk_comes_before_the_memory_and_slows_it() {
        let memory = Memory { ram_bytes: 1e9, ..Memory::default() };
        let plain = Migration::new(memory, Path::ethernet(1e8));
        let disk = Disk { alloc_bytes: 1e9, write_rate: 2e7, ..Disk::default() };
        let with_disk = Migration { disk, ..plain.clone() };
        let (a, b) = (predict(&plain).unwrap(), predict(&with_disk).unwrap());
        assert!(b.outcome.total_s > a.outcome.total_s + b.disk_s + 1.0);
    }
}
