//! What was foretold beside what came.

use anyhow::bail;
use causeway_predict::estimate::{Correction, Estimate, Facts, Interval};

use crate::road::Leg;

/// Widest interval that is of use, as a part of its middle, to either side.
const WIDEST: f64 = 0.40;

/// In how many of ten runs a figure may lie outside of its 90 % interval.
const OUTSIDE: f64 = 0.1;

/// One figure in its unit: its name, how it reads, and how to get at it.
struct Row {
    name: &'static str,
    unit: &'static str,
    interval: fn(&Estimate) -> Interval,
    /// From the model's unit to the one that is printed.
    scale: f64,
    measured: fn(&Leg) -> Option<f64>,
}

#[allow(clippy::cast_precision_loss)] // milliseconds and bytes of one migration are far below 2^53
const ROWS: [Row; 3] = [
    Row {
        name: "total time",
        unit: "s",
        interval: |e| e.time_s,
        scale: 1.0,
        measured: |leg| leg.job.time_elapsed_ms.map(|ms| ms as f64 / 1e3),
    },
    Row {
        name: "switch-over time",
        unit: "ms",
        interval: |e| e.downtime_s,
        scale: 1e3,
        measured: |leg| leg.job.downtime_ms.map(|ms| ms as f64 / 1e3),
    },
    Row {
        name: "bytes sent",
        unit: "MiB",
        interval: |e| e.bytes,
        scale: 1.0 / 1_048_576.0,
        measured: |leg| leg.job.memory_processed.map(|bytes| bytes as f64),
    },
];

/// Prints a prediction.
pub fn prediction(estimate: &Estimate) {
    for row in &ROWS {
        let interval = (row.interval)(estimate);
        println!("   {:<18} {}", row.name, words(&interval, row));
    }
    println!("   {:<18} {:.0} %", "will converge", estimate.p_converge * 100.0);
}

/// Prints a prediction beside what came.
pub fn compare(leg: &Leg) {
    for row in &ROWS {
        let interval = (row.interval)(&leg.estimate);
        let measured = (row.measured)(leg);
        let came = measured.map_or_else(|| "?".to_owned(), |m| format!("{:.1} {}", m * row.scale, row.unit));
        let verdict = match measured {
            Some(value) if interval.contains(value) => "inside",
            _ => "OUTSIDE",
        };
        println!("   {:<18} {} | {came} {verdict}", row.name, words(&interval, row));
    }
}

/// What moves between two hosts taught about them: a time that the model does not know of, since libvirt spends it
/// before QEMU begins, and the ratio of measured to foretold for the rest.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    setup_s: f64,
    correction: Correction,
    moves: f64,
}

impl Known {
    /// The facts of the next move between these hosts.
    pub fn applied_to(&self, mut facts: Facts) -> Facts {
        facts.tuning.setup_s += self.setup_s;
        facts.correction = self.correction;
        facts
    }

    /// Takes a move in: the first counts in full, every later one for half of what is left over.
    pub fn learn(&mut self, leg: &Leg) {
        self.moves += 1.0;
        let weight = if self.moves > 1.0 { 0.5 } else { 1.0 };
        let [time, downtime, bytes] = ROWS.each_ref().map(|row| {
            let foretold = (row.interval)(&leg.estimate).median;
            (foretold, (row.measured)(leg).unwrap_or(foretold))
        });
        self.setup_s = (self.setup_s + weight * (time.1 - time.0)).max(0.0);
        let mix = |known: f64, (foretold, measured): (f64, f64)| {
            if foretold > 0.0 { known * (1.0 + weight * (measured / foretold - 1.0)) } else { known }
        };
        self.correction.downtime = mix(self.correction.downtime, downtime);
        self.correction.bytes = mix(self.correction.bytes, bytes);
    }
}

fn words(interval: &Interval, row: &Row) -> String {
    let [median, low, high] = [interval.median, interval.low, interval.high].map(|v| v * row.scale);
    format!("{median:>7.1} {} | {low:.1} to {high:.1} {}", row.unit, row.unit)
}

/// Whether the predictions were worth something: no interval too wide, and few figures outside.
///
/// # Errors
/// Which figure was not.
pub fn judge(legs: &[Leg]) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    for row in &ROWS {
        let wide = legs.iter().map(|leg| {
            let interval = (row.interval)(&leg.estimate);
            ((interval.high - interval.median).max(interval.median - interval.low)) / interval.median
        });
        let widest = wide.fold(0.0, f64::max);
        if widest > WIDEST {
            faults.push(format!(
                "the interval of {} reaches {:.0} % from its middle",
                row.name,
                widest * 100.0
            ));
        }
        let outside = legs.iter().filter(|leg| {
            let interval = (row.interval)(&leg.estimate);
            !(row.measured)(leg).is_some_and(|value| interval.contains(value))
        });
        let outside = outside.count();
        #[allow(clippy::cast_precision_loss)] // a handful of moves
        if outside as f64 > (legs.len() as f64 * OUTSIDE).max(1.0) {
            faults.push(format!(
                "{} was outside of its interval in {outside} of {} moves",
                row.name,
                legs.len()
            ));
        }
    }
    if !faults.is_empty() {
        bail!("the prediction was not good enough: {}", faults.join("; "));
    }
    Ok(())
}
