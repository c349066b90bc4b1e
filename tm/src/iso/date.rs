//! The dates that the writer of an image put in by itself, replaced.

/// Sector of the first volume descriptor (ECMA-119, 8.1); the rest follow it until one of type 255.
const DESCRIPTORS: usize = 16;
const SECTOR: usize = 2048;

/// Gives every date of an image one moment, in seconds since the epoch; none if the layout is not that of a single
/// root directory.
pub(super) fn put(image: &mut [u8], seconds: u64) -> Option<()> {
    let moment = Moment::of(seconds);
    for sector in DESCRIPTORS.. {
        let descriptor = image.get_mut(sector * SECTOR..)?.get_mut(..SECTOR)?;
        match descriptor.first()? {
            // Primary and supplementary descriptors have one layout (ECMA-119, 8.4 and 8.5).
            1 | 2 => {
                for at in [813, 830] {
                    descriptor.get_mut(at..)?.get_mut(..17)?.copy_from_slice(&moment.long());
                }
                let root = descriptor.get_mut(156..)?.get_mut(..34)?;
                root.get_mut(18..25)?.copy_from_slice(&moment.short());
                let extent = little_endian(root, 2)?.checked_mul(SECTOR)?;
                let length = little_endian(root, 10)?;
                let end = extent.checked_add(length)?;
                directory(image.get_mut(extent..end)?, moment)?;
            }
            255 => return Some(()),
            _ => {}
        }
    }
    None
}

/// The records of a directory: none crosses a sector's end, and a length of zero skips to the next one.
fn directory(extent: &mut [u8], moment: Moment) -> Option<()> {
    for sector in extent.chunks_mut(SECTOR) {
        let mut rest = sector;
        while let Some(length @ 1..) = rest.first().map(|&length| usize::from(length)) {
            let (record, after) = rest.split_at_mut_checked(length)?;
            record.get_mut(18..25)?.copy_from_slice(&moment.short());
            let name = usize::from(*record.get(32)?);
            // Padded to an even place; what follows is Rock Ridge's.
            let system_use = (33 + name).next_multiple_of(2);
            if let Some(entries) = record.get_mut(system_use..) {
                rock_ridge(entries, moment)?;
            }
            rest = after;
        }
    }
    Some(())
}

/// The time stamps (`TF`, RRIP 4.1.6) among a record's entries, in their short form.
fn rock_ridge(mut entries: &mut [u8], moment: Moment) -> Option<()> {
    while let [a, b, length, ..] = *entries {
        let length = usize::from(length);
        if length < 4 {
            break;
        }
        let (entry, rest) = entries.split_at_mut_checked(length)?;
        let flags = *entry.get(4).unwrap_or(&0);
        if [a, b] == *b"TF" && flags & 0x80 == 0 {
            entry.get_mut(5..)?.chunks_exact_mut(7).for_each(|stamp| stamp.copy_from_slice(&moment.short()));
        }
        entries = rest;
    }
    Some(())
}

fn little_endian(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(field)).ok()
}

/// A moment in universal time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Moment {
    /// Days since the epoch to a date, by the 400-year cycle that begins on 1 March 2000.
    pub(crate) fn of(seconds: u64) -> Self {
        let (days, in_day) = (seconds / 86_400, seconds % 86_400);
        // From 1 March of year 0 to the epoch there are 719 468 days.
        let days = days + 719_468;
        let (cycle, in_cycle) = (days / 146_097, days % 146_097);
        let year = (in_cycle - in_cycle / 1_460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
        let in_year = in_cycle - (365 * year + year / 4 - year / 100);
        let march = (5 * in_year + 2) / 153;
        let month = if march < 10 { march + 3 } else { march - 9 };
        Moment {
            year: cycle * 400 + year + u64::from(month <= 2),
            month,
            day: in_year - (153 * march + 2) / 5 + 1,
            hour: in_day / 3_600,
            minute: in_day / 60 % 60,
            second: in_day % 60,
        }
    }

    /// `20130524T000000Z` (ISO 8601).
    pub(crate) fn stamp(self) -> String {
        let Moment { year, month, day, hour, minute, second } = self;
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }

    /// Seven bytes (ECMA-119, 9.1.5): years since 1900, no more than 255 of them.
    fn short(self) -> [u8; 7] {
        let years = self.year.saturating_sub(1900).min(255);
        let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        [
            byte(years),
            byte(self.month),
            byte(self.day),
            byte(self.hour),
            byte(self.minute),
            byte(self.second),
            0,
        ]
    }

    /// Seventeen bytes (ECMA-119, 8.4.26.1): sixteen digits and the offset from universal time.
    fn long(self) -> [u8; 17] {
        let Moment { month, day, hour, minute, second, .. } = self;
        let year = self.year.min(9999);
        let text = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}00\0");
        text.as_bytes().try_into().unwrap_or([b'0'; 17])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Known moments, among them both sides of a leap day and of a century that is no leap year.
    #[test]
    fn known_moments() {
        let text = |seconds| String::from_utf8(Moment::of(seconds).long()[..16].to_vec()).unwrap();
        assert_eq!(text(0), "1970010100000000");
        assert_eq!(text(951_782_399), "2000022823595900");
        assert_eq!(text(951_782_400), "2000022900000000");
        assert_eq!(text(951_868_800), "2000030100000000");
        assert_eq!(text(1_700_000_000), "2023111422132000");
        assert_eq!(text(1_709_164_800), "2024022900000000");
        assert_eq!(text(4_107_542_400), "2100030100000000");
        assert_eq!(Moment::of(1_700_000_000).short(), [123, 11, 14, 22, 13, 20, 0]);
    }

    proptest! {
        /// Counting the days of all years and months before it gives the day back.
        #[test]
        fn every_day_is_itself(days in 0_u64..80_000) {
            let moment = Moment::of(days * 86_400);
            let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            let before: u64 = (1970..moment.year).map(|year| 365 + u64::from(leap(year))).sum();
            let months = [31, 28 + u64::from(leap(moment.year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let before_month: u64 = months.iter().take(usize::try_from(moment.month - 1).unwrap()).sum();
            prop_assert_eq!(before + before_month + moment.day - 1, days);
            prop_assert!(moment.day >= 1 && moment.day <= months[usize::try_from(moment.month - 1).unwrap()]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_bytes_make_it_panic(mut image in proptest::collection::vec(any::<u8>(), 30_000..45_000), seconds: u64) {
            let _ = put(&mut image, seconds);
            for sector in [16, 17] {
                if let Some(kind) = image.get_mut(sector * SECTOR) { *kind = 1; }
            }
            let _ = put(&mut image, seconds);
        }
    }
}
