//! How much of a guest's memory is not zero: the part that a migration really sends.
//!
//! A zero page costs nine bytes on the wire, any other four thousand. The hypervisor's resident size is a poor stand-in:
//! it holds QEMU's own memory too, and pages that the guest has cleared. So a few hundred pages, spread evenly over the
//! guest's RAM, are looked at through QEMU's monitor (`xp`, physical memory). Only whether they are all zero is kept.

use causeway_core::names::DeployId;
use causeway_domain::{Cause, DomainError, Hypervisor, Operation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Pages that are looked at unless told otherwise: one standard deviation is then at most 2.2 % of RAM.
pub const PAGES: u32 = 512;

/// Smaller pieces of RAM are the holes and shadows of the PC's first megabyte.
const SMALLEST_RANGE: u64 = 1 << 20;

/// An estimate of the bytes that are not zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Nonzero {
    /// The estimate, bytes.
    pub bytes: f64,
    /// Its standard deviation divided by itself, from the sampling alone.
    pub cv: f64,
    /// Where it comes from.
    pub source: Source,
}

/// Where an estimate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Pages of the guest were looked at.
    Sampled,
    /// The size of the hypervisor's process: an upper bound.
    Resident,
    /// Nothing is known, so all RAM: an upper bound.
    Ram,
}

impl Nonzero {
    /// From `nonzero` of `looked_at` pages.
    pub fn of_sample(ram_bytes: u64, nonzero: u32, looked_at: u32) -> Self {
        let n = f64::from(looked_at.max(1));
        // Agresti and Coull's two pages of each kind keep an all-zero or all-full sample from claiming certainty.
        let adjusted = (f64::from(nonzero) + 2.0) / (n + 4.0);
        let share = f64::from(nonzero) / n;
        let deviation = (adjusted * (1.0 - adjusted) / (n + 4.0)).sqrt();
        Nonzero {
            bytes: ram_bytes as f64 * share.max(1.0 / n),
            cv: deviation / share.max(1.0 / n),
            source: Source::Sampled,
        }
    }

    /// The upper bound where no page could be looked at: resident bytes, but not more than RAM.
    pub fn bound(ram_bytes: u64, resident: Option<u64>) -> Self {
        match resident {
            Some(resident) if resident < ram_bytes => {
                Nonzero { bytes: resident as f64, cv: 0.1, source: Source::Resident }
            }
            _ => Nonzero { bytes: ram_bytes as f64, cv: 0.1, source: Source::Ram },
        }
    }
}

/// Looks at `pages` pages of the guest.
///
/// # Errors
/// As [`Hypervisor::monitor`]; [`Cause::Answer`] if QEMU shows its memory in a form that is not known here.
pub fn sample(
    host: &dyn Hypervisor,
    id: &DeployId,
    ram_bytes: u64,
    pages: u32,
) -> Result<Nonzero, DomainError> {
    let unreadable = |what: &str| DomainError::new(Operation::Monitor, id, Cause::Answer(what.to_owned()));
    let map = human(host, id, "info mtree -f")?;
    let ranges = ram_ranges(&map);
    let total: u64 = ranges.iter().map(Range::pages).sum();
    if total == 0 {
        return Err(unreadable("no RAM in the memory map"));
    }
    let (mut nonzero, mut looked_at) = (0, 0);
    for number in 0..pages {
        let Some(address) = address_of(&ranges, position(number, pages, total)) else {
            continue;
        };
        match look(host, id, address)? {
            Some(true) => (nonzero, looked_at) = (nonzero + 1, looked_at + 1),
            Some(false) => looked_at += 1,
            // A page that cannot be read is not sent either (a hole, a device).
            None => {}
        }
    }
    // A guest that shows no page at all keeps them from the host.
    if looked_at < pages / 2 || looked_at == 0 {
        return Err(unreadable("the guest's memory cannot be read"));
    }
    Ok(Nonzero::of_sample(ram_bytes, nonzero, looked_at))
}

/// Whether the page is not zero: its first 64 bytes tell most, only then is the whole page read.
fn look(host: &dyn Hypervisor, id: &DeployId, address: u64) -> Result<Option<bool>, DomainError> {
    for words in [8, PAGE / 8] {
        let text = human(host, id, &format!("xp /{words}xg {address:#x}"))?;
        match all_zero(&text) {
            Some(true) => {}
            Some(false) => return Ok(Some(true)),
            None => return Ok(None),
        }
    }
    Ok(Some(false))
}

fn human(host: &dyn Hypervisor, id: &DeployId, line: &str) -> Result<String, DomainError> {
    let command = json!({
        "execute": "human-monitor-command",
        "arguments": {"command-line": line},
    });
    match host.monitor(id, &command)? {
        Value::String(text) => Ok(text),
        other => {
            let text = format!("{:.80}", other.to_string());
            Err(DomainError::new(Operation::Monitor, id, Cause::Answer(text)))
        }
    }
}

/// A piece of the guest's physical address space that is RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE
    }
}

/// The ranges of RAM in what `info mtree -f` prints: those of the view that the system's memory has.
fn ram_ranges(map: &str) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut in_memory_view = false;
    for line in map.lines().map(str::trim) {
        if line.starts_with("FlatView") {
            if !ranges.is_empty() {
                break;
            }
            in_memory_view = false;
        } else if line.starts_with("AS \"memory\"") {
            in_memory_view = true;
        } else if in_memory_view {
            ranges.extend(ram_range(line));
        }
    }
    ranges
}

/// One line such as `0000000000100000-0000000007ffffff (prio 0, ram): pc.ram @0000000000100000`.
fn ram_range(line: &str) -> Option<Range> {
    let (addresses, rest) = line.split_once(" (prio ")?;
    let (kind, name) = rest.split_once("): ")?;
    let is_ram = kind.ends_with(", ram");
    // Video memory is RAM of a device; it is small and not in the VM's figure.
    let of_device = ["vram", "vga", "qxl", "rom", "bios"].iter().any(|word| name.contains(word));
    if !is_ram || of_device {
        return None;
    }
    let (start, last) = addresses.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(last)?.checked_add(1)?);
    (end.checked_sub(start)? >= SMALLEST_RANGE).then_some(Range { start, end })
}

/// Where the `number`-th of `count` looks falls among `total` pages: one in each of `count` equal stretches, at a place in
/// it that differs from stretch to stretch, so that no regular layout of the guest hits always or never.
fn position(number: u32, count: u32, total: u64) -> u64 {
    // The fractional parts of multiples of the golden ratio, as 32-bit integers.
    let within = u128::from(number.wrapping_mul(0x9e37_79b9));
    let scaled = (u128::from(number) << 32 | within) * u128::from(total);
    let page = scaled / (u128::from(count.max(1)) << 32);
    u64::try_from(page).unwrap_or(u64::MAX)
}

fn address_of(ranges: &[Range], mut page: u64) -> Option<u64> {
    for range in ranges {
        if page < range.pages() {
            return Some(range.start + page * PAGE);
        }
        page -= range.pages();
    }
    None
}

/// Whether all words that `xp` printed are zero; `None` if it printed no words.
fn all_zero(text: &str) -> Option<bool> {
    let mut words = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .flat_map(|(_, words)| words.split_whitespace())
        .filter_map(|word| word.strip_prefix("0x"))
        .peekable();
    words.peek()?;
    Some(words.all(|word| word.bytes().all(|b| b == b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_domain::fake::Fake;

    const MAP: &str = "FlatView #0\r\n AS \"I/O\", root: io\r\n  0000000000000000-0000000000ffffff (prio 0, ram): io\r\n\
        FlatView #1\r\n AS \"memory\", root: system\r\n AS \"cpu-memory-0\", root: system\r\n Root memory region: system\r\n\
        \x20 0000000000000000-00000000000c2fff (prio 0, ram): pc.ram\r\n\
        \x20 00000000000f0000-00000000000fffff (prio 0, rom): pc.ram @00000000000f0000\r\n\
        \x20 0000000000100000-0000000007ffffff (prio 0, ram): pc.ram @0000000000100000\r\n\
        \x20 00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram\r\n\
        \x20 0000000100000000-000000013fffffff (prio 0, ram): pc.ram @00000000c0000000\r\n\
        FlatView #2\r\n AS \"memory\", root: system\r\n  0000000200000000-000000023fffffff (prio 0, ram): other\r\n";

    const ZEROES: &str = "0000000001000000: 0x0000000000000000 0x0000000000000000\r\n";
    const WORDS: &str = "0000000001000000: 0x0000000000000000 0x01b9fffffff23d8d\r\n";

    #[test]
    fn the_memory_map_gives_the_guests_ram_and_no_devices() {
        let ranges = ram_ranges(MAP);
        let expected =
            [Range { start: 0x10_0000, end: 0x800_0000 }, Range { start: 0x1_0000_0000, end: 0x1_4000_0000 }];
        assert_eq!(ranges, expected);
        assert_eq!(ram_ranges("nothing of the kind"), []);
    }

    #[test]
    fn what_xp_prints_is_zero_or_not_or_nothing() {
        assert_eq!(all_zero(ZEROES), Some(true));
        assert_eq!(all_zero(WORDS), Some(false));
        assert_eq!(all_zero("000000f000000000: Cannot access memory\r\n"), None);
        assert_eq!(all_zero(""), None);
    }

    #[test]
    fn the_looks_fall_into_equal_stretches() {
        let (count, total) = (512, 300_000);
        for number in 0..count {
            let page = position(number, count, total);
            let stretch = u64::from(number) * total / u64::from(count);
            let next = u64::from(number + 1) * total / u64::from(count);
            assert!((stretch..=next).contains(&page), "{number}: {page}");
            assert!(page < total);
        }
        let ranges = ram_ranges(MAP);
        assert_eq!(address_of(&ranges, 0), Some(0x10_0000));
        let first = ranges[0].pages();
        assert_eq!(address_of(&ranges, first), Some(0x1_0000_0000));
        assert_eq!(address_of(&ranges, first + ranges[1].pages()), None);
    }

    #[test]
    fn a_sample_is_counted_with_its_doubt() {
        let half = Nonzero::of_sample(1 << 30, 256, 512);
        assert_eq!(half.bytes, f64::from(1 << 29));
        assert!((0.04..0.05).contains(&half.cv), "{}", half.cv);
        let full = Nonzero::of_sample(1 << 30, 512, 512);
        assert!(full.bytes == f64::from(1 << 30) && full.cv > 0.0);
        let none = Nonzero::of_sample(1 << 30, 0, 512);
        assert!(none.bytes > 0.0 && none.cv > 0.5);
    }

    #[test]
    fn without_a_look_only_a_bound_is_known() {
        let resident = Nonzero::bound(1 << 30, Some(1 << 28));
        assert_eq!((resident.bytes, resident.source), (f64::from(1 << 28), Source::Resident));
        for unknown in [None, Some(1 << 31)] {
            let bound = Nonzero::bound(1 << 30, unknown);
            assert_eq!((bound.bytes, bound.source), (f64::from(1 << 30), Source::Ram));
        }
    }

    #[test]
    fn a_guest_is_looked_at_page_by_page() {
        let host = Fake::new("node1");
        let xml = "<domain type='kvm'><name>one-7</name><memory unit='MiB'>128</memory></domain>";
        host.create(xml).unwrap();
        let id = "one-7".parse().unwrap();
        let answer = |text: &str| host.queue_monitor("human-monitor-command", json!(text));
        answer(MAP);
        // Page 1: not zero at once. Page 2: zero to its end. Page 3: not zero later. Page 4: cannot be read.
        for text in [WORDS, ZEROES, ZEROES, ZEROES, WORDS, "x: Cannot access memory"] {
            answer(text);
        }
        let found = sample(&host, &id, 128 << 20, 4).unwrap();
        assert_eq!(found, Nonzero::of_sample(128 << 20, 2, 3));
        answer("FlatView #0");
        assert!(sample(&host, &id, 128 << 20, 4).is_err());
    }
}
