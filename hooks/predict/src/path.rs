//! What one path can carry: the guest's MTU, the payload rate and what binds it.

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};

/// What is wrapped around guest or migration traffic on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// Plain Ethernet.
    #[default]
    None,
    /// VXLAN over IPv4.
    Vxlan,
    /// VXLAN over IPv6.
    Vxlan6,
    /// Geneve over IPv4 with one group of option words.
    Geneve,
    /// Ethernet in GRE over IPv4.
    Gre,
    /// `WireGuard` over IPv4.
    Wireguard,
    /// `WireGuard` over IPv6.
    Wireguard6,
    /// `OpenVPN` over UDP; the cipher decides the exact number.
    OpenvpnUdp,
    /// IPsec ESP in tunnel mode with AES-GCM.
    IpsecGcm,
    /// VXLAN carried inside a `WireGuard` tunnel.
    #[serde(rename = "vxlan+wireguard")]
    VxlanInWireguard,
}

impl Overlay {
    /// Bytes that the wrapping takes from every packet.
    #[must_use]
    pub fn overhead_bytes(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Gre => 42,
            Self::Vxlan => 50,
            Self::IpsecGcm => 57,
            Self::Geneve => 58,
            Self::Wireguard => 60,
            Self::OpenvpnUdp => 69,
            Self::Vxlan6 => 70,
            Self::Wireguard6 => 80,
            Self::VxlanInWireguard => 110,
        }
    }

    /// Does the wrapping number its networks with a VXLAN identifier?
    #[must_use]
    pub fn has_vni(self) -> bool {
        matches!(self, Self::Vxlan | Self::Vxlan6 | Self::VxlanInWireguard)
    }
}

/// IPv4 and TCP headers with timestamps.
const IP_TCP_BYTES: u32 = 52;
/// Ethernet header, checksum, preamble and gap between frames.
const FRAMING_BYTES: f64 = 38.0;
/// TCP's initial window in segments (RFC 6928).
const INITIAL_SEGMENTS: f64 = 10.0;

/// Which packets fit where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MtuPlan {
    /// Bytes the overlay takes.
    pub overhead: u32,
    /// Largest MTU a guest can use inside the overlay.
    pub inner_mtu: i64,
    /// Largest TCP payload of one packet inside the overlay.
    pub mss: i64,
    /// Underlay MTU at which a guest may keep an MTU of 1500.
    pub underlay_for_1500: u32,
    /// Does a guest MTU of 1500 fit now?
    pub ok_for_1500: bool,
}

/// Work out which packets fit through `overlay` on an underlay with `underlay_mtu`.
#[must_use]
pub fn mtu_plan(underlay_mtu: u32, overlay: Overlay) -> MtuPlan {
    let overhead = overlay.overhead_bytes();
    let inner_mtu = i64::from(underlay_mtu) - i64::from(overhead);
    MtuPlan {
        overhead,
        inner_mtu,
        mss: inner_mtu - i64::from(IP_TCP_BYTES),
        underlay_for_1500: 1500 + overhead,
        ok_for_1500: inner_mtu >= 1500,
    }
}

/// A path as it is described, before anything is measured on it.
///
/// The names in JSON are those of the known-answer files. A limit that is absent or zero does not bind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// Speed of the slowest link, bytes/s on the wire.
    #[serde(rename = "link_Bps")]
    pub link_rate: f64,
    /// Share of the link that is ours, 0 to 1.
    #[serde(default = "one")]
    pub share: f64,
    /// Round trip, seconds.
    #[serde(default)]
    pub rtt_s: f64,
    /// Share of packets lost, 0 to 1.
    #[serde(default)]
    pub loss: f64,
    /// MTU of the underlay, bytes.
    #[serde(default = "ethernet_mtu")]
    pub mtu: u32,
    /// What the migration stream is wrapped in.
    #[serde(default)]
    pub overlay: Overlay,
    /// Parallel TCP connections.
    #[serde(default = "single")]
    pub streams: u32,
    /// Socket window of one connection, bytes.
    #[serde(default, rename = "wnd_bytes")]
    pub window_bytes: f64,
    /// Encryption speed of one connection, bytes/s.
    #[serde(default, rename = "enc_Bps_per_stream")]
    pub encryption_rate: f64,
    /// Copying speed of one sending thread, bytes/s.
    #[serde(default, rename = "copy_Bps_per_stream")]
    pub copy_rate: f64,
    /// The cap set on the migration, bytes/s; it does not hold while the guest is stopped.
    #[serde(default, rename = "max_bandwidth_Bps")]
    pub max_bandwidth: f64,
}

fn one() -> f64 {
    1.0
}

fn single() -> u32 {
    1
}

fn ethernet_mtu() -> u32 {
    1500
}

impl Path {
    /// A plain Ethernet path of `link_rate` bytes/s: MTU 1500, one stream, nothing else known.
    #[must_use]
    pub fn ethernet(link_rate: f64) -> Self {
        Self {
            link_rate,
            share: 1.0,
            rtt_s: 0.0,
            loss: 0.0,
            mtu: 1500,
            overlay: Overlay::None,
            streams: 1,
            window_bytes: 0.0,
            encryption_rate: 0.0,
            copy_rate: 0.0,
            max_bandwidth: 0.0,
        }
    }

    fn check(&self) -> Result<(), Error> {
        error::rate("link_Bps", self.link_rate)?;
        error::factor("share", self.share)?;
        error::seconds("rtt_s", self.rtt_s)?;
        error::fraction("loss", self.loss)?;
        error::factor("streams", f64::from(self.streams))?;
        error::bytes("wnd_bytes", self.window_bytes)?;
        error::rate_or_zero("enc_Bps_per_stream", self.encryption_rate)?;
        error::rate_or_zero("copy_Bps_per_stream", self.copy_rate)?;
        error::rate_or_zero("max_bandwidth_Bps", self.max_bandwidth)?;
        if self.mss() < 1.0 {
            return Err(Error::OutOfRange {
                quantity: "mtu",
                value: f64::from(self.mtu),
                accepted: "an MTU with room for the overlay, the headers and a byte of payload",
            });
        }
        Ok(())
    }

    fn mss(&self) -> f64 {
        f64::from(self.mtu) - f64::from(self.overlay.overhead_bytes() + IP_TCP_BYTES)
    }
}

/// What a path is bound by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Copying in the sending threads.
    Copy,
    /// Encryption.
    Encryption,
    /// The link.
    Link,
    /// Loss and round trip (Mathis 1997): a Reno-like sender; newer congestion controls do better.
    Mathis,
    /// The cap set on the migration.
    MaxBandwidth,
    /// The socket window.
    Window,
    /// Nothing was computed: the rate was measured.
    Measured,
}

/// What a path carries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Throughput {
    /// Payload rate while the guest runs, bytes/s.
    #[serde(rename = "B_run")]
    pub run_rate: f64,
    /// Payload rate while the guest is stopped, when no cap holds, bytes/s.
    #[serde(rename = "B_switch")]
    pub switch_rate: f64,
    /// What binds [`Self::run_rate`].
    pub binding: Bound,
    /// Payload of one packet, bytes.
    pub mss: f64,
    /// What the start of the connection costs against a start at full speed, seconds.
    pub slow_start_s: f64,
    /// Is it the cap set on the migration that binds?
    pub capped: bool,
}

/// What `path` carries, from its description.
///
/// # Errors
/// [`Error::OutOfRange`] names the first number of the description that makes no sense.
pub fn throughput(path: &Path) -> Result<Throughput, Error> {
    path.check()?;
    let mss = path.mss();
    let streams = f64::from(path.streams);
    let efficiency = mss / (f64::from(path.mtu) + FRAMING_BYTES);
    // In alphabetical order: of two equal limits the first is named.
    let limits = [
        (Bound::Copy, path.copy_rate > 0.0, streams * path.copy_rate),
        (Bound::Encryption, path.encryption_rate > 0.0, streams * path.encryption_rate),
        (Bound::Link, true, path.link_rate * path.share * efficiency),
        (
            Bound::Mathis,
            path.rtt_s > 0.0 && path.loss > 0.0,
            streams * (mss / path.rtt_s) * 1.5_f64.sqrt() / path.loss.sqrt(),
        ),
        (
            Bound::Window,
            path.rtt_s > 0.0 && path.window_bytes > 0.0,
            streams * path.window_bytes / path.rtt_s,
        ),
    ];
    let (mut binding, mut switch_rate) = (Bound::Link, f64::INFINITY);
    for (bound, applies, rate) in limits {
        if applies && rate < switch_rate {
            (binding, switch_rate) = (bound, rate);
        }
    }
    carried(path, switch_rate, binding)
}

/// What `path` carries when its `link_rate` is a payload rate that was measured end to end: framing, loss
/// and windows are in the measurement already, only the cap is not.
pub(crate) fn measured(path: &Path) -> Result<Throughput, Error> {
    path.check()?;
    carried(path, path.link_rate, Bound::Measured)
}

/// What `path` carries when it turns out to carry `factor` times what was thought. Its cap stays.
pub(crate) fn scaled(path: &Path, thought: &Throughput, factor: f64) -> Result<Throughput, Error> {
    carried(path, thought.switch_rate * factor, thought.binding)
}

/// Apply the cap and the start of the connection to a payload rate.
fn carried(path: &Path, switch_rate: f64, bound: Bound) -> Result<Throughput, Error> {
    let capped = path.max_bandwidth > 0.0 && path.max_bandwidth < switch_rate;
    let run_rate = if capped { path.max_bandwidth } else { switch_rate };
    error::rate("the path's payload rate", run_rate)?;
    let mss = path.mss();
    Ok(Throughput {
        run_rate,
        switch_rate,
        binding: if capped { Bound::MaxBandwidth } else { bound },
        mss,
        slow_start_s: slow_start(run_rate, path.rtt_s, mss, f64::from(path.streams)),
        capped,
    })
}

/// Seconds lost to TCP's slow start against sending at `rate` from the first byte.
fn slow_start(rate: f64, rtt_s: f64, mss: f64, streams: f64) -> f64 {
    let start = INITIAL_SEGMENTS * mss * streams;
    let in_flight = rate * rtt_s;
    if rtt_s <= 0.0 || in_flight <= start {
        return 0.0;
    }
    (in_flight / start).log2() * rtt_s - (in_flight - start) / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_binds_the_running_phase_only() {
        let path = Path { max_bandwidth: 20e6, ..Path::ethernet(125e6) };
        let t = throughput(&path).unwrap();
        assert_eq!((t.run_rate, t.binding, t.capped), (20e6, Bound::MaxBandwidth, true));
        assert!(t.switch_rate > 100e6);
    }

    #[test]
    fn an_mtu_without_room_for_a_byte_is_an_error() {
        let path = Path { mtu: 100, overlay: Overlay::Vxlan, ..Path::ethernet(125e6) };
        assert!(throughput(&path).unwrap_err().to_string().contains("mtu is 100"));
    }

    #[test]
    fn of_two_equal_limits_the_first_by_name_is_reported() {
        let path = Path { copy_rate: 1e6, encryption_rate: 1e6, ..Path::ethernet(125e6) };
        assert_eq!(throughput(&path).unwrap().binding, Bound::Copy);
    }

    #[test]
    fn a_path_too_slow_to_model_is_an_error_and_not_an_endless_loop() {
        let path = Path { rtt_s: 1e9, window_bytes: 1.0, ..Path::ethernet(125e6) };
        assert!(throughput(&path).is_err());
    }
}
