//! Disks: mirroring one that is not shared, and moving a guest cold.

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};
use crate::guest::Memory;

/// A mirror takes at most this share of what it is given; above it there is no end to be foretold.
const SATURATED: f64 = 0.95;

/// The guest's disk. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// Do both hosts see the same disk? Then nothing is copied and nothing else here matters.
    pub shared: bool,
    /// Allocated bytes.
    pub alloc_bytes: f64,
    /// The guest's writes, bytes/s.
    #[serde(rename = "write_Bps")]
    pub write_rate: f64,
    /// Mean size of one write, bytes; absent: as large as a granule.
    pub mean_write_bytes: Option<f64>,
    /// The mirror's granule (its dirty bitmap's), bytes.
    #[serde(rename = "granularity")]
    pub granule_bytes: f64,
    /// What the source can read, bytes/s; absent or 0: not a limit.
    #[serde(rename = "src_read_Bps")]
    pub read_rate: Option<f64>,
    /// What the destination can write, bytes/s; absent or 0: not a limit.
    #[serde(rename = "dst_write_Bps")]
    pub store_rate: Option<f64>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            shared: false,
            alloc_bytes: 0.0,
            write_rate: 0.0,
            mean_write_bytes: None,
            granule_bytes: 65536.0,
            read_rate: None,
            store_rate: None,
        }
    }
}

impl Disk {
    /// A disk that both hosts see.
    #[must_use]
    pub fn shared() -> Self {
        Self { shared: true, ..Self::default() }
    }

    /// Bytes that move with the guest.
    #[must_use]
    pub fn moving_bytes(&self) -> f64 {
        if self.shared { 0.0 } else { self.alloc_bytes }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        error::bytes("alloc_bytes", self.alloc_bytes)?;
        error::rate_or_zero("write_Bps", self.write_rate)?;
        error::rate("mean_write_bytes", self.mean_write_bytes.unwrap_or(1.0))?;
        error::rate("granularity", self.granule_bytes)?;
        error::rate_or_zero("src_read_Bps", self.read_rate.unwrap_or(0.0))?;
        error::rate_or_zero("dst_write_Bps", self.store_rate.unwrap_or(0.0))
    }

    /// What the guest's writes cost on the wire, bytes/s: a write smaller than a granule costs a whole one.
    pub(crate) fn mirrored_write_rate(&self) -> f64 {
        let mean = self.mean_write_bytes.unwrap_or(self.granule_bytes);
        self.write_rate * (self.granule_bytes / mean).max(1.0)
    }

    fn bottleneck(&self, rate: f64) -> f64 {
        let limit = |limit: Option<f64>| limit.filter(|rate| *rate > 0.0).unwrap_or(f64::INFINITY);
        rate.min(limit(self.read_rate)).min(limit(self.store_rate))
    }
}

/// How mirroring a disk goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mirror {
    /// Does it reach the point from which it only follows the guest's writes?
    pub converged: bool,
    /// Time to that point, seconds.
    #[serde(serialize_with = "crate::number::serialize")]
    pub time_s: f64,
    /// Bytes on the wire up to that point.
    #[serde(serialize_with = "crate::number::serialize")]
    pub wire_bytes: f64,
    /// What it takes from the path from then on, bytes/s.
    #[serde(rename = "steady_Bps")]
    pub steady_rate: f64,
}

/// Mirror a disk (libvirt does it before the memory moves) over a path of `rate` bytes/s.
///
/// # Errors
/// [`Error::OutOfRange`] names the first number that makes no sense.
pub fn mirror(disk: &Disk, rate: f64) -> Result<Mirror, Error> {
    disk.check()?;
    error::rate("B", rate)?;
    Ok(follow(disk, rate))
}

/// As [`mirror`], for numbers that have been checked.
pub(crate) fn follow(disk: &Disk, rate: f64) -> Mirror {
    if disk.shared {
        return Mirror { converged: true, time_s: 0.0, wire_bytes: 0.0, steady_rate: 0.0 };
    }
    let available = disk.bottleneck(rate);
    let steady_rate = disk.mirrored_write_rate();
    if steady_rate >= SATURATED * available {
        return Mirror { converged: false, time_s: f64::INFINITY, wire_bytes: f64::INFINITY, steady_rate };
    }
    let time_s = disk.alloc_bytes / (available - steady_rate);
    Mirror { converged: true, time_s, wire_bytes: disk.alloc_bytes + steady_rate * time_s, steady_rate }
}

/// How a cold move goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ColdMove {
    /// From suspended to running, seconds.
    pub total_s: f64,
    /// The same: a cold guest is silent all the time.
    pub downtime_s: f64,
    /// Bytes on the wire.
    pub wire_bytes: f64,
}

/// Suspend, copy the image and the disk over a path of `rate` bytes/s, start again within `boot_s`.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn cold_move(memory: &Memory, disk: &Disk, rate: f64, boot_s: f64) -> Result<ColdMove, Error> {
    memory.check()?;
    disk.check()?;
    error::rate("B", rate)?;
    error::seconds("boot_s", boot_s)?;
    let wire_bytes = memory.nonzero_bytes() + disk.moving_bytes();
    let total_s = wire_bytes / rate + boot_s;
    Ok(ColdMove { total_s, downtime_s: total_s, wire_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_disk_costs_nothing() {
        let mirror = mirror(&Disk { alloc_bytes: 1e12, ..Disk::shared() }, 1e6).unwrap();
        assert_eq!((mirror.time_s, mirror.steady_rate), (0.0, 0.0));
    }

    #[test]
    fn small_writes_cost_whole_granules_and_the_slower_end_counts() {
        let disk = Disk {
            alloc_bytes: 1e9,
            mean_write_bytes: Some(4096.0),
            read_rate: Some(5e7),
            ..Disk::default()
        };
        let ends = |write_rate: f64| mirror(&Disk { write_rate, ..disk.clone() }, 1e8).unwrap().converged;
        // 95 % of 5e7 bytes/s, in granules of sixteen times the write.
        let at = 0.95 * 5e7 / 16.0;
        assert!(ends(at * 0.999) && !ends(at * 1.001));
    }
}
