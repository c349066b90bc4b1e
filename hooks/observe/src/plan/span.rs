//! Spans of time as a plan file writes them: a decimal number and a unit, `5ms`, `2.5s`, `250us`, `2min`.

use std::time::Duration;

/// The accepted form, for messages.
pub const ACCEPTED: &str = "a number with its unit (us, ms, s, min), such as \"5ms\" or \"2.5s\"";

/// Reads a span; `None` for any other text. Exact: `0.1ms` is 100,000 ns, and a fraction of a nanosecond is refused.
pub fn parse(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let unit: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |t: &str| !t.is_empty() && t.len() <= 18 && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = fraction.parse::<u128>().ok()? * u128::from(unit);
    if part % scale != 0 {
        return None;
    }
    let nanos = whole.parse::<u128>().ok()? * u128::from(unit) + part / scale;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// Writes a span as [`parse`] reads it, in the largest unit that keeps it whole; below a microsecond in `us`.
pub fn print(span: Duration) -> String {
    let nanos = span.as_nanos();
    for (unit, name) in [(60_000_000_000, "min"), (1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")] {
        if nanos > 0 && nanos.is_multiple_of(unit) {
            return format!("{}{name}", nanos / unit);
        }
    }
    let text = format!("{}.{:03}", nanos / 1_000, nanos % 1_000);
    format!("{}us", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_spans() {
        for (text, nanos) in [
            ("5ms", 5_000_000),
            ("2.5ms", 2_500_000),
            ("250us", 250_000),
            ("0.001us", 1),
            ("10s", 10_000_000_000),
            ("1.5min", 90_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            "",
            "5",
            "ms",
            "-5ms",
            "+5ms",
            "5 ms",
            "5MS",
            "5h",
            ".5s",
            "5.s",
            "1e3s",
            "5ms ",
            "0.0001us",
            "1.2.3s",
            "٣s",
            "99999999999999999min",
            "9999999999999999999s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos: u64) {
            let span = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&print(span)), Some(span));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC{0,24}") {
            let _ = parse(&text);
        }
    }
}
