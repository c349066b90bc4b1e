//! The hypervisor's settings and the constants of a pair of hosts.

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};

/// Settings of one migration and constants to be calibrated once per pair of hosts, by moving a small
/// idle guest. The defaults are QEMU's for its settings and cautious guesses for the constants; the
/// names in JSON are those of the known-answer files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tuning {
    /// `downtime-limit`: how long QEMU may stop the guest, seconds.
    pub downtime_limit_s: f64,
    /// From the command to the first byte, seconds.
    pub setup_s: f64,
    /// Stopping the vCPUs and saving what is not device state, seconds.
    pub stop_s: f64,
    /// From the last byte to running vCPUs on the destination, seconds.
    pub resume_s: f64,
    /// One read of the dirty log, seconds per GiB of RAM.
    #[serde(rename = "sync_s_per_GiB")]
    pub sync_s_per_gib: f64,
    /// How fast pages are found to be zero, bytes/s.
    #[serde(rename = "scan_Bps")]
    pub scan_rate: f64,
    /// `avail-switchover-bandwidth` (QEMU 8.2 and later), bytes/s; 0 lets QEMU measure.
    #[serde(rename = "switchover_bw_Bps")]
    pub switchover_rate: f64,
    /// `auto-converge`: slow the guest's vCPUs step by step when it dirties too fast.
    pub auto_converge: bool,
    /// `cpu-throttle-initial`, per cent.
    #[serde(rename = "thr_initial")]
    pub throttle_initial: f64,
    /// `cpu-throttle-increment`, per cent.
    #[serde(rename = "thr_increment")]
    pub throttle_increment: f64,
    /// `max-cpu-throttle`, per cent.
    #[serde(rename = "thr_max")]
    pub throttle_max: f64,
    /// `throttle-trigger-threshold`: dirtied bytes per sent bytes that count as too fast, per cent.
    #[serde(rename = "thr_trigger_pct")]
    pub throttle_trigger: f64,
    /// How much smaller compression makes a page.
    pub compress_ratio: f64,
    /// How much smaller XBZRLE makes a page that has been sent before.
    pub xbzrle_ratio: f64,
    /// State of the devices, sent while the guest is stopped, bytes.
    pub device_state_bytes: f64,
    /// What the network adds to the silence: announcements, flow rules, tunnels, seconds.
    pub net_cutover_s: f64,
    /// When to give up and answer "never", seconds.
    pub horizon_s: f64,
    /// Length of QEMU's rate-limit window, seconds; 0 for its own 0.1 s (`BUFFER_DELAY`).
    pub quantum_s: f64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            downtime_limit_s: 0.3,
            setup_s: 0.02,
            stop_s: 0.005,
            resume_s: 0.010,
            sync_s_per_gib: 0.001,
            scan_rate: 4e9,
            switchover_rate: 0.0,
            auto_converge: false,
            throttle_initial: 20.0,
            throttle_increment: 10.0,
            throttle_max: 99.0,
            throttle_trigger: 50.0,
            compress_ratio: 1.0,
            xbzrle_ratio: 1.0,
            device_state_bytes: 1.0e6,
            net_cutover_s: 0.0,
            horizon_s: 3600.0,
            quantum_s: 0.0,
        }
    }
}

impl Tuning {
    /// The length of one rate-limit window, seconds.
    #[must_use]
    pub fn window_s(&self) -> f64 {
        if self.quantum_s > 0.0 { self.quantum_s } else { 0.1 }
    }

    /// Reading the dirty log of a guest with `ram_bytes` once, seconds.
    #[must_use]
    pub fn sync_s(&self, ram_bytes: f64) -> f64 {
        self.sync_s_per_gib * ram_bytes / (1u64 << 30) as f64
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        error::seconds("downtime_limit_s", self.downtime_limit_s)?;
        error::seconds("setup_s", self.setup_s)?;
        error::seconds("stop_s", self.stop_s)?;
        error::seconds("resume_s", self.resume_s)?;
        error::seconds("sync_s_per_GiB", self.sync_s_per_gib)?;
        error::rate("scan_Bps", self.scan_rate)?;
        error::rate_or_zero("switchover_bw_Bps", self.switchover_rate)?;
        error::throttle("thr_initial", self.throttle_initial)?;
        error::throttle("thr_increment", self.throttle_increment)?;
        error::throttle("thr_max", self.throttle_max)?;
        error::factor("compress_ratio", self.compress_ratio)?;
        error::factor("xbzrle_ratio", self.xbzrle_ratio)?;
        error::bytes("device_state_bytes", self.device_state_bytes)?;
        error::seconds("net_cutover_s", self.net_cutover_s)?;
        error::seconds("horizon_s", self.horizon_s)?;
        error::window("quantum_s", self.window_s())?;
        error::limit("thr_trigger_pct", self.throttle_trigger)
    }
}
