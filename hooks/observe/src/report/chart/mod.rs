//! The plots of a report, as SVG text that can stand in a page.
//!
//! Everything is drawn at twice the size it is shown at, because the drawing library places shapes on whole pixels.

mod axis;
mod canvas;
mod overview;
mod timeline;

pub use overview::{moves_per_group, overview};
pub use timeline::timeline;

use plotters::style::RGBColor;

/// One colour per probe, told apart by people with any colour vision (Okabe and Ito's palette, without its yellow).
const PROBES: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];
/// The network's share.
pub const SHARE: RGBColor = RGBColor(70, 70, 80);
const TEXT: RGBColor = RGBColor(40, 44, 52);
const FAINT: RGBColor = RGBColor(120, 126, 138);
const GRID: RGBColor = RGBColor(226, 229, 235);
const BAND: RGBColor = RGBColor(252, 228, 223);
const ALARM: RGBColor = RGBColor(178, 34, 34);
const WIDTH: i32 = 2000;

/// The colour of the probe at `index` of the plan; they repeat after six.
pub fn colour(index: usize) -> RGBColor {
    PROBES.get(index % PROBES.len()).copied().unwrap_or(TEXT)
}
