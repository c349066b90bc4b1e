//! All moves side by side: one group of bars per move, one bar per probe, and one for the network's share.

use std::time::Duration;

use super::axis::{Axis, label};
use super::canvas::{Canvas, Hang, draw};
use super::{ALARM, FAINT, GRID, SHARE, TEXT, WIDTH, colour};
use crate::measure::Error;
use crate::moment::nanos;
use crate::mover::Outcome;
use crate::report::{MoveResult, Report, readable};
use plotters::style::RGBColor;

const HEIGHT: i32 = 620;
const LEFT: i32 = 150;
const RIGHT: i32 = WIDTH - 60;
const TOP: i32 = 50;
const BOTTOM: i32 = HEIGHT - 90;
/// More groups than this would be thinner than can be seen.
const MAX_GROUPS: usize = 120;
/// Bars at least this wide have room for their value.
const VALUE_WIDTH: i32 = 76;

struct Bar {
    value: Duration,
    open: bool,
    colour: RGBColor,
}

struct Group {
    label: String,
    failed: bool,
    bars: Vec<Bar>,
}

/// How many neighbouring moves share one group, which then shows the worst of them.
pub fn moves_per_group(moves: usize) -> usize {
    moves.div_ceil(MAX_GROUPS).max(1)
}

/// The bars of every move of `report`.
pub fn overview(report: &Report) -> Result<String, Error> {
    let groups = groups(report);
    let values = groups.iter().flat_map(|g| &g.bars).map(|b| b.value);
    let highest = signed(values.max().unwrap_or_default());
    // Room for the value above the highest bar.
    let axis = Axis::new(0, highest.saturating_add(highest / 8), BOTTOM, TOP);
    draw(HEIGHT, |canvas| {
        let (ticks, step) = axis.ticks(6);
        for value in ticks {
            let y = axis.at(value);
            canvas.line((LEFT, y), (RIGHT, y), GRID, 2)?;
            canvas.text(&label(value, step), (LEFT - 16, y), Hang::Right, 12, FAINT)?;
        }
        draw_groups(canvas, &groups, axis)?;
        canvas.line((LEFT, BOTTOM), (RIGHT, BOTTOM), FAINT, 2)?;
        canvas.text("move", ((LEFT + RIGHT) / 2, HEIGHT - 20), Hang::Middle, 12, FAINT)
    })
}

fn draw_groups(canvas: &Canvas<'_>, groups: &[Group], axis: Axis) -> Result<(), Error> {
    let count = i32::try_from(groups.len()).unwrap_or(i32::MAX).max(1);
    let per_group = groups.iter().map(|g| g.bars.len()).max().unwrap_or(0);
    let bars = i32::try_from(per_group).unwrap_or(i32::MAX).max(1);
    let pitch = (RIGHT - LEFT) / count;
    let width = (pitch * 9 / 10 / bars).clamp(1, 110);
    let with_values = width >= VALUE_WIDTH;
    // At most about 40 numbers fit beside each other.
    let every = groups.len().div_ceil(40).max(1);
    for (index, group) in groups.iter().enumerate() {
        let centre = LEFT + pitch / 2 + pitch * i32::try_from(index).unwrap_or_default();
        let mut x = centre - width * i32::try_from(group.bars.len()).unwrap_or(0) / 2;
        for bar in &group.bars {
            let y = axis.at(signed(bar.value));
            let gap = i32::from(width > 6);
            canvas.bar((x + gap, y.min(BOTTOM - 2)), (x + width - gap, BOTTOM), bar.colour)?;
            // The axis has the unit.
            let value = readable(bar.value).replace(" ms", "");
            let value = if bar.open { format!("≥ {value}") } else { value };
            if with_values {
                canvas.text(&value, (x + width / 2, y - 20), Hang::Middle, 11, TEXT)?;
            }
            x += width;
        }
        if index % every == 0 || group.failed {
            let ink = if group.failed { ALARM } else { TEXT };
            canvas.text(&group.label, (centre, BOTTOM + 28), Hang::Middle, 12, ink)?;
        }
    }
    Ok(())
}

fn groups(report: &Report) -> Vec<Group> {
    let together = moves_per_group(report.moves.len());
    report.moves.chunks(together).map(|moves| group(report, moves)).collect()
}

fn group(report: &Report, moves: &[MoveResult]) -> Group {
    let mut bars = Vec::new();
    for index in 0..report.probes.len() {
        let silences = moves.iter().filter_map(|m| m.watches.get(index)).map(|w| w.silence);
        if let Some(worst) = silences.max_by_key(|s| s.length()) {
            bars.push(Bar { value: worst.length(), open: worst.is_open(), colour: colour(index) });
        }
    }
    if report.network_share().is_some() {
        let shares = moves.iter().filter_map(|m| m.share()).map(|s| s.share());
        bars.extend(shares.max().map(|value| Bar { value, open: false, colour: SHARE }));
    }
    let number = moves.first().map(|m| m.number).unwrap_or_default();
    Group { label: number.to_string(), failed: moves.iter().any(|m| m.outcome != Outcome::Done), bars }
}

fn signed(span: Duration) -> i64 {
    i64::try_from(nanos(span)).unwrap_or(i64::MAX)
}
