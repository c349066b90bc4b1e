//! What a migration costs beside time: the source's processors, and the risk of losing it.

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};

/// Work for the source host. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Bytes on the wire.
    pub wire_bytes: f64,
    /// Duration, seconds.
    pub total_s: f64,
    /// What one core copies, bytes/s.
    #[serde(default = "copy_rate", rename = "copy_Bps_per_core")]
    pub copy_rate: f64,
    /// What one core encrypts, bytes/s; 0: no encryption.
    #[serde(default, rename = "enc_Bps_per_core")]
    pub encryption_rate: f64,
    /// What one core compresses, bytes of pages per second; 0: no compression.
    #[serde(default, rename = "comp_Bps_per_core")]
    pub compression_rate: f64,
    /// How much smaller compression makes the pages.
    #[serde(default = "incompressible")]
    pub compress_ratio: f64,
}

fn copy_rate() -> f64 {
    2.5e9
}

fn incompressible() -> f64 {
    1.0
}

/// Processor time on the source host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cpu {
    /// Core-seconds in all.
    #[serde(rename = "core_s")]
    pub core_seconds: f64,
    /// Cores busy on average.
    pub cores: f64,
}

/// Processor time that `work` takes on the source host.
///
/// # Errors
/// [`Error::OutOfRange`] names the first number that makes no sense.
pub fn cpu(work: &Work) -> Result<Cpu, Error> {
    error::bytes("wire_bytes", work.wire_bytes)?;
    error::seconds("total_s", work.total_s)?;
    error::rate("copy_Bps_per_core", work.copy_rate)?;
    error::rate_or_zero("enc_Bps_per_core", work.encryption_rate)?;
    error::rate_or_zero("comp_Bps_per_core", work.compression_rate)?;
    error::factor("compress_ratio", work.compress_ratio)?;
    let mut core_seconds = work.wire_bytes / work.copy_rate;
    if work.encryption_rate > 0.0 {
        core_seconds += work.wire_bytes / work.encryption_rate;
    }
    if work.compression_rate > 0.0 {
        core_seconds += work.wire_bytes * work.compress_ratio / work.compression_rate;
    }
    let cores = if work.total_s > 0.0 { core_seconds / work.total_s } else { 0.0 };
    Ok(Cpu { core_seconds, cores })
}

/// What a migration is exposed to. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// Seconds of pre-copy, during which a failure costs only the attempt.
    pub pre_s: f64,
    /// Seconds of post-copy, during which a failure costs the guest.
    pub post_s: f64,
    /// Link failures per hour.
    pub link_failures_per_hour: f64,
    /// Chance of everything that no check foresaw, 0 to 1.
    #[serde(default = "unforeseen")]
    pub base: f64,
}

fn unforeseen() -> f64 {
    0.005
}

/// Chances of failure, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Risk {
    /// The attempt fails and the guest stays on its source.
    pub p_abort: f64,
    /// The guest is lost.
    pub p_loss: f64,
    /// Either.
    pub p_fail: f64,
}

/// Chances of failure with links that fail independently of their age.
///
/// # Errors
/// [`Error::OutOfRange`] names the first number that makes no sense.
pub fn risk(exposure: &Exposure) -> Result<Risk, Error> {
    error::seconds("pre_s", exposure.pre_s)?;
    error::seconds("post_s", exposure.post_s)?;
    error::seconds("link_failures_per_hour", exposure.link_failures_per_hour)?;
    error::fraction("base", exposure.base)?;
    let per_second = exposure.link_failures_per_hour / 3600.0;
    let p_abort = 1.0 - (1.0 - exposure.base) * (-per_second * exposure.pre_s).exp();
    let p_loss = (1.0 - p_abort) * (1.0 - (-per_second * exposure.post_s).exp());
    Ok(Risk { p_abort, p_loss, p_fail: p_abort + p_loss })
}
