//! Ranges as a switch matches them: by bits.

/// The fewest pairs of a number and a mask that match exactly `low` to `high`.
pub(super) fn blocks(low: u16, high: u16) -> Vec<(u16, u16)> {
    let mut out = Vec::new();
    let (mut next, last) = (u32::from(low), u32::from(high));
    while next <= last {
        // As large as where it begins allows, and as what is left needs.
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let left = (last - next + 1).ilog2();
        let bits = aligned.min(left);
        let size = 1_u32 << bits;
        let mask = u16::try_from(0xffff_u32 & !(size - 1)).unwrap_or(0);
        out.push((u16::try_from(next).unwrap_or(u16::MAX), mask));
        next += size;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_are_the_range_and_nothing_else(a in any::<u16>(), b in any::<u16>(), port in any::<u16>()) {
            let (low, high) = (a.min(b), a.max(b));
            let found = blocks(low, high);
            for port in [port, low, high, low.wrapping_sub(1), high.wrapping_add(1)] {
                let times = found.iter().filter(|(value, mask)| port & mask == *value).count();
                prop_assert_eq!(times, usize::from((low..=high).contains(&port)), "{} in {:?}", port, found);
            }
            prop_assert!(found.len() <= 30);
        }
    }
}
