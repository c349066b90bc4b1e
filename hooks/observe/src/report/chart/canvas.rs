//! The few shapes the plots are made of.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle};

use super::WIDTH;
use crate::measure::Error;

/// Where a text hangs on its point.
#[derive(Clone, Copy)]
pub enum Hang {
    Left,
    Right,
    Middle,
}

/// A surface of [`WIDTH`] by some height that is being drawn on.
pub struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// Draws on a canvas of `height` and gives the SVG text.
pub fn draw(height: i32, shapes: impl FnOnce(&Canvas<'_>) -> Result<(), Error>) -> Result<String, Error> {
    let size = (u32::try_from(WIDTH).unwrap_or_default(), u32::try_from(height).unwrap_or_default());
    let mut text = String::new();
    let canvas = Canvas { area: SVGBackend::with_string(&mut text, size).into_drawing_area() };
    shapes(&canvas)?;
    canvas.area.present().map_err(failed)?;
    drop(canvas);
    Ok(text)
}

fn failed(error: DrawingAreaErrorKind<std::io::Error>) -> Error {
    Error::Draw(error.to_string())
}

impl Canvas<'_> {
    /// A filled rectangle between two corners.
    pub fn bar(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<(), Error> {
        let shape = Rectangle::new([from, to], colour.filled());
        self.area.draw(&shape).map_err(failed)
    }

    /// A straight line.
    pub fn line(&self, from: (i32, i32), to: (i32, i32), colour: RGBColor, width: u32) -> Result<(), Error> {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        let shape = PathElement::new(vec![from, to], style);
        self.area.draw(&shape).map_err(failed)
    }

    /// A broken vertical line.
    pub fn dashes(&self, x: i32, top: i32, bottom: i32, colour: RGBColor) -> Result<(), Error> {
        let (dash, step) = (10, 18);
        let mut y = top;
        while y < bottom {
            self.line((x, y), (x, (y + dash).min(bottom)), colour, 2)?;
            y += step;
        }
        Ok(())
    }

    /// A small disc.
    pub fn dot(&self, at: (i32, i32), colour: RGBColor) -> Result<(), Error> {
        let shape = Circle::new(at, 4, colour.filled());
        self.area.draw(&shape).map_err(failed)
    }

    /// A line of text, its middle at the height of `at`; `size` is in shown pixels.
    pub fn text(
        &self,
        text: &str,
        at: (i32, i32),
        hang: Hang,
        size: u32,
        colour: RGBColor,
    ) -> Result<(), Error> {
        let horizontal = match hang {
            Hang::Left => HPos::Left,
            Hang::Right => HPos::Right,
            Hang::Middle => HPos::Center,
        };
        // The library writes a font of size s as s / 1.24; everything is drawn at twice its shown size.
        let font = ("sans-serif", f64::from(size) * 2.48).into_font();
        let style = TextStyle::from(font).color(&colour).pos(Pos::new(horizontal, VPos::Center));
        let shape = Text::new(text.to_owned(), at, style);
        self.area.draw(&shape).map_err(failed)
    }
}
