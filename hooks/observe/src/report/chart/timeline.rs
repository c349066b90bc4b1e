//! One move: a lane per probe, with every question and answer around the silence.
//!
//! ```text
//!         │ ·  round trip of each answered question, at the moment it was asked
//! icmp    │· · · ·░░░░░░░░░░░░░· · · ·      ░ the silence, from answer to answer
//! answers │| | | |             | | | |      when each answer was read
//! lost    │       ||||||||||||              when each unanswered question was asked
//!         └──────────────────────────── time since the move began
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use plotters::style::RGBColor;

use super::axis::{Axis, label};
use super::canvas::{Canvas, Hang, draw};
use super::{ALARM, BAND, FAINT, GRID, SHARE, TEXT, WIDTH, colour};
use crate::ledger::{ArrivalKind, Fate};
use crate::measure::Error;
use crate::moment::{Moment, nanos};
use crate::report::{MoveResult, ProbeRecord, Report, readable};
use crate::silence::Silence;

const LEFT: i32 = 210;
const RIGHT: i32 = WIDTH - 60;
const HEAD: i32 = 56;
const FOOT: i32 = 92;
const LANE: i32 = 260;
/// Within a lane: the round trips, then the strip of answers, then the strip of losses.
const TRIPS: (i32, i32) = (40, 150);
const ANSWERS: (i32, i32) = (166, 188);
const LOST: (i32, i32) = (200, 222);

/// The time shown around the silences of a move.
fn range(result: &MoveResult) -> (Moment, Moment) {
    let gaps = || result.watches.iter().map(|w| w.silence);
    let from = gaps().map(|s| s.from).min().unwrap_or(result.window.from);
    let to = gaps().map(|s| s.to).max().unwrap_or(result.window.to);
    let margin = to.since(from) / 2;
    let margin = margin.clamp(Duration::from_millis(60), Duration::from_secs(2));
    (from.minus(margin), to.plus(margin))
}

/// The lanes of move `result` of `report`.
pub fn timeline(report: &Report, result: &MoveResult) -> Result<String, Error> {
    let lanes = i32::try_from(report.probes.len()).unwrap_or(i32::MAX / LANE);
    let height = HEAD + lanes * LANE + FOOT;
    let zero = result.window.from;
    let (from, to) = range(result);
    let time = Axis::new(relative(from, zero), relative(to, zero), LEFT, RIGHT);
    draw(height, |canvas| {
        let bottom = height - FOOT;
        draw_time(canvas, time, bottom)?;
        for (index, record) in report.probes.iter().enumerate() {
            let Some(watch) = result.watches.get(index) else {
                continue;
            };
            let lane = Lane {
                canvas,
                time,
                zero,
                top: HEAD + LANE * i32::try_from(index).unwrap_or_default(),
                colour: colour(index),
            };
            lane.silence(&watch.silence)?;
            lane.round_trips(record)?;
            lane.strips(record)?;
            lane.names(record)?;
        }
        draw_marks(canvas, report, result, time, bottom)
    })
}

fn draw_time(canvas: &Canvas<'_>, time: Axis, bottom: i32) -> Result<(), Error> {
    let (ticks, step) = time.ticks(11);
    for value in ticks {
        let x = time.at(value);
        canvas.line((x, HEAD), (x, bottom), GRID, 1)?;
        canvas.text(&label(value, step), (x, bottom + 24), Hang::Middle, 12, FAINT)?;
    }
    canvas.line((LEFT, bottom), (RIGHT, bottom), FAINT, 2)?;
    let middle = (LEFT + RIGHT) / 2;
    canvas.text("since the move began", (middle, bottom + 66), Hang::Middle, 12, FAINT)
}

/// What happened at known moments: the command's start and end, and what the captures saw.
fn draw_marks(
    canvas: &Canvas<'_>,
    report: &Report,
    result: &MoveResult,
    time: Axis,
    bottom: i32,
) -> Result<(), Error> {
    let zero = result.window.from;
    let mut marks = vec![(0, "begins", TEXT), (relative(result.ended, zero), "ends", TEXT)];
    if let Some(share) = result.share() {
        let of_zero = report.clock.unix_nanos(zero);
        let at = |stamp: u64| i64::try_from(i128::from(stamp) - i128::from(of_zero)).unwrap_or(i64::MAX);
        marks.push((at(share.last_at_source), "last at source", SHARE));
        marks.push((at(share.first_at_destination), "first at destination", SHARE));
        marks.push((at(share.first_at_observer), "first seen", SHARE));
    }
    marks.retain(|(at, _, _)| time.holds(*at));
    marks.sort_by_key(|(at, _, _)| *at);
    // Labels of marks that lie close together are put side by side, the earlier to the left of its line.
    let mut free_from = LEFT;
    for (at, name, ink) in marks {
        let x = time.at(at);
        canvas.dashes(x, HEAD, bottom, ink)?;
        let width = i32::try_from(name.len()).unwrap_or_default() * 12;
        let start = (x - width / 2).max(free_from).min(RIGHT - width);
        canvas.text(name, (start, HEAD - 24), Hang::Left, 11, ink)?;
        free_from = start + width + 24;
    }
    Ok(())
}

struct Lane<'a, 'b> {
    canvas: &'a Canvas<'b>,
    time: Axis,
    zero: Moment,
    top: i32,
    colour: RGBColor,
}

impl Lane<'_, '_> {
    fn x(&self, moment: Moment) -> Option<i32> {
        let value = relative(moment, self.zero);
        self.time.holds(value).then(|| self.time.at(value))
    }

    fn silence(&self, silence: &Silence) -> Result<(), Error> {
        let from = self.time.at(relative(silence.from, self.zero));
        let to = self.time.at(relative(silence.to, self.zero)).max(from + 2);
        let (top, bottom) = (self.top + 8, self.top + LOST.1 + 6);
        self.canvas.bar((from, top), (to, bottom), BAND)?;
        let length = readable(silence.length());
        let text = if silence.is_open() {
            format!("silent for at least {length}")
        } else {
            format!("silent for {length}")
        };
        let middle = ((from + to) / 2).clamp(LEFT + 160, RIGHT - 160);
        self.canvas.text(&text, (middle, top + 18), Hang::Middle, 12, ALARM)
    }

    fn round_trips(&self, record: &ProbeRecord) -> Result<(), Error> {
        let shown = record.ledger.samples().iter().filter_map(|sample| {
            let x = self.x(sample.sent)?;
            Some((x, i64::try_from(nanos(sample.round_trip()?)).unwrap_or(i64::MAX)))
        });
        let dots: Vec<(i32, i64)> = shown.collect();
        let highest = dots.iter().map(|(_, trip)| *trip).max().unwrap_or(1_000_000);
        let (top, bottom) = (self.top + TRIPS.0, self.top + TRIPS.1);
        let height = Axis::new(0, highest, bottom, top);
        let (ticks, step) = height.ticks(3);
        for value in ticks {
            let y = height.at(value);
            self.canvas.line((LEFT, y), (RIGHT, y), GRID, 1)?;
            self.canvas.text(&label(value, step), (LEFT - 12, y), Hang::Right, 10, FAINT)?;
        }
        let places: BTreeSet<_> = dots.iter().map(|(x, trip)| (*x, height.at(*trip))).collect();
        for place in places {
            self.canvas.dot(place, self.colour)?;
        }
        Ok(())
    }

    fn strips(&self, record: &ProbeRecord) -> Result<(), Error> {
        let arrivals = record.ledger.arrivals().iter();
        let first = arrivals.filter(|a| a.kind != ArrivalKind::Duplicate);
        self.strip(ANSWERS, first.filter_map(|a| self.x(a.at)), self.colour)?;
        let asked = |fate: Fate| {
            let samples = record.ledger.samples().iter();
            samples.filter(move |s| s.fate == fate).filter_map(|s| self.x(s.sent))
        };
        self.strip(LOST, asked(Fate::NotSent), FAINT)?;
        self.strip(LOST, asked(Fate::Lost), ALARM)
    }

    /// One stroke per pixel that has something; a probe at 1 ms would otherwise draw each many times over.
    fn strip(
        &self,
        rows: (i32, i32),
        places: impl Iterator<Item = i32>,
        colour: RGBColor,
    ) -> Result<(), Error> {
        for x in places.collect::<BTreeSet<_>>() {
            self.canvas.line((x, self.top + rows.0), (x, self.top + rows.1), colour, 2)?;
        }
        Ok(())
    }

    fn names(&self, record: &ProbeRecord) -> Result<(), Error> {
        let middle = |rows: (i32, i32)| self.top + (rows.0 + rows.1) / 2;
        let name = &record.plan.name;
        self.canvas.text(name, (8, self.top + 22), Hang::Left, 14, self.colour)?;
        self.canvas.text("round trip", (8, middle(TRIPS)), Hang::Left, 10, FAINT)?;
        self.canvas.text("answers", (8, middle(ANSWERS)), Hang::Left, 10, FAINT)?;
        self.canvas.text("lost", (8, middle(LOST)), Hang::Left, 10, FAINT)
    }
}

/// Nanoseconds from `zero` to `moment`, negative before it.
fn relative(moment: Moment, zero: Moment) -> i64 {
    let difference = i128::from(moment.0) - i128::from(zero.0);
    i64::try_from(difference).unwrap_or(i64::MAX)
}
