//! How fast a guest's interface may be (contract VNM 3.1, `INBOUND_*` and `OUTBOUND_*`), in libvirt's units and as libvirt
//! means it.

use std::fmt;

/// The limits of one direction; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Average, KiB/s (`*_AVG_BW`).
    pub average: Option<u64>,
    /// Peak, KiB/s (`*_PEAK_BW`).
    pub peak: Option<u64>,
    /// KiB that may go at peak speed (`*_PEAK_KB`).
    pub burst: Option<u64>,
}

impl Bandwidth {
    /// Whether any limit is set.
    pub fn is_limited(&self) -> bool {
        *self != Bandwidth::default()
    }

    /// What libvirt makes of it: zero is no limit, and without an average there is none at all.
    #[must_use]
    pub fn in_force(self) -> Self {
        let some = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
        match some(self.average) {
            Some(average) => {
                Bandwidth { average: Some(average), peak: some(self.peak), burst: some(self.burst) }
            }
            None => Bandwidth::default(),
        }
    }
}

/// `1000 KiB/s, at most 2000, 100 KiB at once`.
impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = self.in_force();
        let Some(average) = limits.average else { return f.write_str("no limit") };
        write!(f, "{average} KiB/s")?;
        if let Some(peak) = limits.peak {
            write!(f, ", at most {peak}")?;
        }
        limits.burst.map_or(Ok(()), |burst| write!(f, ", {burst} KiB at once"))
    }
}

/// Both directions, as the guest sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidths {
    /// Towards the guest.
    pub inbound: Bandwidth,
    /// From the guest.
    pub outbound: Bandwidth,
}

impl Bandwidths {
    /// As [`Bandwidth::in_force`], of both.
    #[must_use]
    pub fn in_force(self) -> Self {
        Bandwidths { inbound: self.inbound.in_force(), outbound: self.outbound.in_force() }
    }
}

impl fmt::Display for Bandwidths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inbound {}, outbound {}", self.inbound, self.outbound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_limit_and_nothing_counts_without_an_average() {
        let of = |average, peak, burst| Bandwidth { average, peak, burst };
        assert_eq!(of(Some(0), Some(500), Some(9)).in_force(), Bandwidth::default());
        assert_eq!(of(None, Some(500), None).in_force(), Bandwidth::default());
        assert_eq!(of(Some(1), Some(0), Some(0)).in_force(), of(Some(1), None, None));
        let both = Bandwidths { inbound: of(Some(10), Some(20), Some(3)), outbound: of(None, None, Some(1)) };
        assert_eq!(both.to_string(), "inbound 10 KiB/s, at most 20, 3 KiB at once, outbound no limit");
        assert_eq!(both.in_force().in_force(), both.in_force());
    }
}
