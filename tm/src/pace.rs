//! How fast a copy may be, and how far it is. Pure but for [`Paced`]: time is handed in, as the time since the beginning.

use std::io::Read;
use std::time::{Duration, Instant};

/// Keeps a sender below a rate.
#[derive(Debug, Clone)]
pub struct Limit {
    bytes_per_second: Option<u64>,
    /// When what was sent so far may have been sent.
    due: Duration,
}

/// How far a sender may fall behind its rate and still catch up.
const SLACK: Duration = Duration::from_millis(250);

impl Limit {
    /// At most so many bytes a second; none means no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Limit { bytes_per_second, due: Duration::ZERO }
    }

    /// So many bytes went out; how long to wait before the next.
    pub fn sent(&mut self, bytes: usize, now: Duration) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        // A pause of the other end's is no credit for a burst.
        self.due = self.due.max(now.saturating_sub(SLACK)).saturating_add(takes);
        self.due.saturating_sub(now)
    }
}

/// A stream that is read no faster than a rate: whoever fills it waits.
#[derive(Debug)]
pub struct Paced<R> {
    stream: R,
    limit: Limit,
    begun: Instant,
}

impl<R> Paced<R> {
    /// At most so many bytes a second; none means no limit.
    pub fn new(stream: R, bytes_per_second: Option<u64>) -> Self {
        Paced { stream, limit: Limit::new(bytes_per_second), begun: Instant::now() }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(buffer)?;
        let pause = self.limit.sent(count, self.begun.elapsed());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        Ok(count)
    }
}

/// What a VM's log is told of a long copy.
#[derive(Debug)]
pub struct Progress {
    total: u64,
    /// When the last line was given, and how many bytes were done then.
    last: (Duration, u64),
    /// What that line said: per cent, bytes a second, and when the end was expected.
    said: Option<(u64, u64, Duration)>,
}

/// How long a copy goes on before the log is told of it, and between two lines.
const EVERY: Duration = Duration::from_secs(10);
/// How much later than foretold an end may be before the log is told why.
const LATER: Duration = Duration::from_secs(2);

impl Progress {
    /// Of about so many bytes, of which some were there at `begun`.
    pub fn new(total: u64, done: u64, begun: Duration) -> Self {
        Progress { total, last: (begun, done), said: None }
    }

    /// So many bytes are done; a line, if it is time for one.
    pub fn line(&mut self, done: u64, now: Duration) -> Option<String> {
        let (when, before) = self.last;
        let took = now.checked_sub(when).filter(|took| *took >= EVERY)?;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = done.saturating_sub(before).saturating_mul(1000) / millis;
        self.last = (now, done.max(before));
        // A file may turn out to have more data than its blocks promised: never all before the end, and never less than
        // was said before.
        let share = done.saturating_mul(100).checked_div(self.total).unwrap_or(99).min(99);
        let share = share.max(self.said.map_or(0, |said| said.0));
        let begin = format!("{share} % of {}, {}/s", size(self.total), size(rate));
        if rate == 0 {
            // The next line compares with the one before this.
            self.said = self.said.map(|said| (share, said.1, said.2));
            return Some(format!("{begin}: nothing came through for {} s", took.as_secs()));
        }
        let left = Duration::from_secs(self.total.saturating_sub(done) / rate);
        let end = now + left;
        let mut line = format!("{begin}, about {} left", span(left));
        if let Some((_, old, expected)) = self.said
            && end > expected + LATER
        {
            line.push_str(&if rate < old {
                format!(" (longer than foretold: {}/s before)", size(old))
            } else {
                " (longer than foretold: it stood still meanwhile)".to_owned()
            });
        }
        self.said = Some((share, rate, end));
        Some(line)
    }
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

/// A time for people.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_limit_is_kept_and_a_pause_is_no_credit() {
        let mut limit = Limit::new(Some(1 << 20));
        assert_eq!(limit.sent(1 << 20, Duration::ZERO), SECOND);
        assert_eq!(limit.sent(1 << 20, SECOND), SECOND);
        // A minute of silence later.
        assert_eq!(limit.sent(1 << 20, 60 * SECOND), SECOND - SLACK);
        assert_eq!(limit.sent(1 << 20, 60 * SECOND), 2 * SECOND - SLACK);
        assert_eq!(Limit::new(None).sent(usize::MAX, Duration::ZERO), Duration::ZERO);
    }

    proptest! {
        /// Whatever the pieces and the pauses: never faster than the limit, but for one slack.
        #[test]
        fn never_faster(pieces in proptest::collection::vec((1_usize..2_000_000, 0_u64..3000), 1..60)) {
            let mut limit = Limit::new(Some(10 << 20));
            let (mut now, mut sent) = (Duration::ZERO, 0_u64);
            for (bytes, pause) in pieces {
                let wait = limit.sent(bytes, now);
                sent += bytes as u64;
                now += wait + Duration::from_millis(pause);
                let most = (now + SLACK).as_secs_f64() * f64::from(10 << 20) + 1.0;
                prop_assert!(sent as f64 <= most, "{sent} bytes in {now:?}");
            }
        }

        /// Whatever comes and however fast: per cent never fall, and an end is put off with a reason only.
        #[test]
        fn progress_keeps_its_word(steps in proptest::collection::vec((0_u64..400, 1_u64..40), 1..40)) {
            let mut progress = Progress::new(8000 << 20, 0, Duration::ZERO);
            let (mut done, mut now, mut share) = (0, Duration::ZERO, 0);
            let mut end: Option<Duration> = None;
            for (more, seconds) in steps {
                done += more << 20;
                now += Duration::from_secs(seconds);
                let Some(line) = progress.line(done, now) else { continue };
                let said: u64 = line.split(' ').next().unwrap().parse().unwrap();
                prop_assert!((share..100).contains(&said), "{line} after {share} %");
                share = said;
                if let (Some(promised), Some((_, _, new))) = (end, progress.said) {
                    let reason = line.contains("longer than foretold") || line.contains("nothing came");
                    prop_assert!(new <= promised + LATER || reason, "{line}");
                }
                end = progress.said.map(|said| said.2);
            }
        }
    }

    #[test]
    fn a_stream_is_read_at_its_rate_and_whole() {
        let begun = Instant::now();
        let mut read = Vec::new();
        let bytes = vec![7; 300 << 10];
        // In grains of 64 KiB: the last one is not waited for by whoever has them all.
        Paced::new(bytes.as_slice(), Some(1 << 20)).read_to_end(&mut read).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
        assert_eq!(read, bytes);
        let begun = Instant::now();
        Paced::new(bytes.as_slice(), None).read_to_end(&mut Vec::new()).unwrap();
        assert!(begun.elapsed() < Duration::from_millis(250));
    }

    #[test]
    fn what_a_log_is_told() {
        let mut progress = Progress::new(10 << 30, 0, Duration::ZERO);
        assert_eq!(progress.line(1 << 30, 5 * SECOND), None);
        let line = progress.line(2 << 30, 16 * SECOND).unwrap();
        assert_eq!(line, "20 % of 10.0 GiB, 128.0 MiB/s, about 64 s left");
        let line = progress.line(2 << 30, 26 * SECOND).unwrap();
        assert_eq!(line, "20 % of 10.0 GiB, 0 B/s: nothing came through for 10 s");
        let line = progress.line(3 << 30, 46 * SECOND).unwrap();
        assert_eq!(
            line,
            "30 % of 10.0 GiB, 51.1 MiB/s, about 2 min left (longer than foretold: 128.0 MiB/s before)"
        );
    }
}
