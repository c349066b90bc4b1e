//! The CSV files of a report (RFC 4180 quoting, lines end with a line feed).
//!
//! An empty field means "there is none": no answer, no host names, no share.

use std::io::{self, Write};
use std::time::Duration;

use super::{MoveResult, ProbeRecord, Report, Spread};
use crate::ledger::{Fate, Sample};
use crate::moment::{Moment, nanos};
use crate::mover::Outcome;
use crate::silence::Watch;

/// The header of `samples.csv`.
pub const SAMPLES: [&str; 6] = ["probe", "sequence", "sent_ns", "fate", "answered_ns", "round_trip_ns"];

/// The header of `moves.csv`.
pub const MOVES: [&str; 27] = [
    "move",
    "from",
    "to",
    "outcome",
    "detail",
    "started_ns",
    "ended_ns",
    "watched_until_ns",
    "probe",
    "interval_ns",
    "asked",
    "answered",
    "lost",
    "not_sent",
    "duplicates",
    "out_of_order",
    "connection_breaks",
    "median_round_trip_ns",
    "silence_ns",
    "silence_from_ns",
    "silence_to_ns",
    "silence_is_lower_bound",
    "observer_lag_ns",
    "network_share_ns",
    "switch_ns",
    "source_to_observer_ns",
    "network_detail",
];

/// The header of `summary.csv`.
pub const SUMMARY: [&str; 7] =
    ["quantity", "probe", "moves", "median_ns", "worst_ns", "worst_move", "has_lower_bounds"];

/// Writes one row per question.
///
/// # Errors
/// What `out` says.
pub fn samples(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    row(out, &SAMPLES)?;
    for probe in &report.probes {
        for (sequence, sample) in probe.ledger.samples().iter().enumerate() {
            row(out, &sample_row(probe, sequence, sample))?;
        }
    }
    Ok(())
}

fn sample_row(probe: &ProbeRecord, sequence: usize, sample: &Sample) -> [String; 6] {
    let (fate, answered) = match sample.fate {
        Fate::Answered(at) => ("answered", Some(at)),
        Fate::Lost => ("lost", None),
        Fate::NotSent => ("not_sent", None),
    };
    [
        probe.plan.name.clone(),
        sequence.to_string(),
        moment(sample.sent),
        fate.to_owned(),
        answered.map(moment).unwrap_or_default(),
        sample.round_trip().map(span).unwrap_or_default(),
    ]
}

/// Writes one row per move and probe.
///
/// # Errors
/// What `out` says.
pub fn moves(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    row(out, &MOVES)?;
    for result in &report.moves {
        for (probe, watch) in report.probes.iter().zip(&result.watches) {
            row(out, &move_row(result, probe, watch))?;
        }
    }
    Ok(())
}

fn move_row(result: &MoveResult, probe: &ProbeRecord, watch: &Watch) -> [String; 27] {
    let host = |pick: fn(&crate::plan::Leg) -> String| result.leg.as_ref().map(pick);
    let share = result.share();
    let detail = match &result.outcome {
        Outcome::Failed(why) => why.clone(),
        _ => String::new(),
    };
    let network = match &result.network {
        Some(Err(error)) => error.to_string(),
        _ => String::new(),
    };
    [
        result.number.to_string(),
        host(|leg| leg.from.to_string()).unwrap_or_default(),
        host(|leg| leg.to.to_string()).unwrap_or_default(),
        result.outcome.word().to_owned(),
        detail,
        moment(result.window.from),
        moment(result.ended),
        moment(result.window.to),
        probe.plan.name.clone(),
        span(probe.plan.interval),
        watch.asked.to_string(),
        watch.answered.to_string(),
        watch.lost.to_string(),
        watch.not_sent.to_string(),
        watch.duplicates.to_string(),
        watch.out_of_order.to_string(),
        watch.breaks.to_string(),
        watch.round_trip.map(span).unwrap_or_default(),
        span(watch.silence.length()),
        moment(watch.silence.from),
        moment(watch.silence.to),
        watch.silence.is_open().to_string(),
        span(watch.lag),
        share.map(|s| span(s.share())).unwrap_or_default(),
        share.map(|s| span(s.switch())).unwrap_or_default(),
        share.map(|s| span(s.whole())).unwrap_or_default(),
        network,
    ]
}

/// Writes one row per quantity: each probe's silence, and the network's share if there is one.
///
/// # Errors
/// What `out` says.
pub fn summary(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    row(out, &SUMMARY)?;
    for (index, probe) in report.probes.iter().enumerate() {
        if let Some(spread) = report.silence(index) {
            row(out, &summary_row("silence", &probe.plan.name, &spread))?;
        }
    }
    if let Some(spread) = report.network_share() {
        row(out, &summary_row("network_share", "", &spread))?;
    }
    Ok(())
}

fn summary_row(quantity: &str, probe: &str, spread: &Spread) -> [String; 7] {
    [
        quantity.to_owned(),
        probe.to_owned(),
        spread.moves.to_string(),
        span(spread.median),
        span(spread.worst),
        spread.worst_move.to_string(),
        spread.open.to_string(),
    ]
}

fn moment(moment: Moment) -> String {
    moment.0.to_string()
}

fn span(span: Duration) -> String {
    nanos(span).to_string()
}

/// Writes one row.
fn row(out: &mut dyn Write, fields: &[impl AsRef<str>]) -> io::Result<()> {
    for (index, text) in fields.iter().enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        field(out, text.as_ref())?;
    }
    out.write_all(b"\n")
}

/// Writes one field, in quotes where its text needs them.
fn field(out: &mut dyn Write, text: &str) -> io::Result<()> {
    if !text.contains([',', '"', '\n', '\r']) {
        return out.write_all(text.as_bytes());
    }
    write!(out, "\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;
    use proptest::prelude::*;

    /// A reader of the same format, written from RFC 4180 and not from the writer.
    fn read(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut line, mut field) = (Vec::new(), Vec::new(), String::new());
        let mut chars = text.chars().peekable();
        let mut quoted = false;
        while let Some(c) = chars.next() {
            match (quoted, c) {
                (true, '"') if chars.peek() == Some(&'"') => {
                    chars.next();
                    field.push('"');
                }
                (_, '"') => quoted = !quoted,
                (false, ',') => line.push(std::mem::take(&mut field)),
                (false, '\n') => {
                    line.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut line));
                }
                (_, c) => field.push(c),
            }
        }
        rows
    }

    fn written(fill: impl Fn(&mut dyn Write) -> io::Result<()>) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        fill(&mut out).unwrap();
        read(&String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_known_report_gives_known_rows() {
        let report = sample::report();
        let rows = written(|out| summary(&report, out));
        assert_eq!(rows[0], SUMMARY);
        assert_eq!(rows[1], ["silence", "icmp", "2", "150000000", "200000000", "2", "false"]);
        assert_eq!(rows[2], ["silence", "tcp-7", "2", "350000000", "600000000", "2", "false"]);
        assert_eq!(rows[3], ["network_share", "", "1", "7000000", "7000000", "1", "false"]);
        assert_eq!(rows.len(), 4);

        let rows = written(|out| moves(&report, out));
        assert_eq!(rows[0], MOVES);
        assert_eq!(rows.len(), 1 + 3 * 2);
        let column = |name: &str| MOVES.iter().position(|c| *c == name).unwrap();
        let cell = |row: usize, name: &str| rows[row][column(name)].as_str();
        assert_eq!(cell(1, "from"), "h1");
        assert_eq!(cell(1, "silence_ns"), "100000000");
        assert_eq!(cell(1, "lost"), "19");
        assert_eq!(cell(1, "network_share_ns"), "7000000");
        assert_eq!(cell(1, "switch_ns"), "93000000");
        assert_eq!(cell(3, "network_share_ns"), "");
        assert!(cell(3, "network_detail").contains("destination tap"));
        assert_eq!(cell(5, "outcome"), "failed");
        assert_eq!(cell(5, "detail"), sample::HOSTILE);

        let rows = written(|out| samples(&report, out));
        assert_eq!(rows[0], SAMPLES);
        let asked: usize = report.probes.iter().map(|p| p.ledger.samples().len()).sum();
        assert_eq!(rows.len(), 1 + asked);
        assert_eq!(rows[1], ["icmp", "0", "0", "answered", "400000", "400000"]);
        assert!(rows.iter().any(|r| r[3] == "lost" && r[4].is_empty() && r[5].is_empty()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(rows in prop::collection::vec(prop::collection::vec("[a,\"\n\r é;=]{0,8}", 3), 1..6)) {
            let read = written(|out| rows.iter().try_for_each(|r| row(out, r)));
            prop_assert_eq!(read, rows);
        }
    }
}
