//! The page of a report: one HTML file that stands alone.
//!
//! No script, no outside reference, and a policy that forbids both; every text that comes from a plan, a host or a command
//! is escaped.

use std::fmt::{self, Write};

use super::{MoveResult, Report, Spread, chart, readable};
use crate::measure::Error;
use crate::moment::utc;
use crate::mover::Outcome;
use crate::plan::{Drive, Plan, ProbeKind, UdpAnswers, span};

/// Moves that get a time line; with more, those with the longest silences.
const TIMELINES: usize = 12;
/// Rows of the table of moves; the rest is in `moves.csv`.
const ROWS: usize = 200;

const STYLE: &str = include_str!("page.css");

/// The page.
///
/// # Errors
/// [`Error::Draw`] if a plot could not be drawn.
pub fn page(report: &Report) -> Result<String, Error> {
    let mut out = String::new();
    write_page(report, &mut out)?;
    Ok(out)
}

impl From<fmt::Error> for Error {
    fn from(error: fmt::Error) -> Error {
        Error::Draw(error.to_string())
    }
}

fn write_page(report: &Report, out: &mut String) -> Result<(), Error> {
    let guest = escape(&report.plan.guest.to_string());
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Silence of {guest}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>How long {guest} was silent</h1>\n<p class=\"sub\">{}</p>\n</header>\n",
        subtitle(report),
    )?;
    if let Some(why) = &report.stopped {
        let why = escape(&why.to_string());
        writeln!(out, "<p class=\"alarm\">The run ended early: {why}.</p>")?;
    }
    cards(report, out)?;
    if !report.moves.is_empty() {
        writeln!(out, "<section>\n<h2>Silence of each move</h2>")?;
        legend(report, out)?;
        let together = chart::moves_per_group(report.moves.len());
        if together > 1 {
            writeln!(out, "<p class=\"sub\">Each group is the worst of {together} neighbouring moves.</p>")?;
        }
        writeln!(out, "{}</section>", chart::overview(report)?)?;
        timelines(report, out)?;
        table(report, out)?;
    }
    words(report, out)?;
    writeln!(
        out,
        "<footer>causeway {} · figures in nanoseconds: <code>summary.csv</code>, <code>moves.csv</code>, \
         <code>samples.csv</code></footer>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    )?;
    Ok(())
}

fn subtitle(report: &Report) -> String {
    let made = report.moves.iter().filter(|m| m.outcome == Outcome::Done);
    format!(
        "{} of {} moves made · started {} · {}",
        made.count(),
        report.plan.total_moves(),
        utc(report.clock.wall_zero()),
        escape(&how(&report.plan)),
    )
}

fn how(plan: &Plan) -> String {
    match &plan.drive {
        Drive::Command(argv) => {
            let shown = argv.fill(|place| place.to_string());
            format!("by {}", shown.join(" "))
        }
        Drive::Watch(time) => format!("somebody else moved it within {}", span::print(*time)),
        Drive::Caller => "moved by the caller".to_owned(),
    }
}

fn cards(report: &Report, out: &mut String) -> fmt::Result {
    writeln!(out, "<section class=\"cards\">")?;
    for (index, record) in report.probes.iter().enumerate() {
        let watches = || report.moves.iter().filter_map(|m| m.watches.get(index));
        let lost: u64 = watches().map(|w| w.lost).sum();
        let asked: u64 = watches().map(|w| w.asked).sum();
        let breaks: u64 = watches().map(|w| w.breaks).sum();
        let mut small = format!("{lost} of {asked} questions unanswered");
        if matches!(record.plan.kind, ProbeKind::Tcp { .. }) {
            small = match breaks {
                0 => "the connection survived every move".to_owned(),
                1 => "the connection broke once".to_owned(),
                n => format!("the connection broke {n} times"),
            };
        }
        let kind = format!("{} every {}", describe(&record.plan.kind), span::print(record.plan.interval));
        let name = escape(&record.plan.name);
        card(out, hex(chart::colour(index)), &name, &kind, report.silence(index), &small)?;
    }
    if report.plan.capture.is_some() || report.network_share().is_some() {
        let spread = report.network_share();
        let told = spread.as_ref().map_or(0, |s| s.moves);
        let small = format!("told for {told} of {} moves", report.moves.len());
        card(out, hex(chart::SHARE), "network share", "captured on the taps", spread, &small)?;
    }
    writeln!(out, "</section>")
}

fn card(
    out: &mut String,
    colour: String,
    name: &str,
    kind: &str,
    spread: Option<Spread>,
    small: &str,
) -> fmt::Result {
    let (median, worst, number) = match &spread {
        Some(s) => {
            let bound = if s.open { "≥ " } else { "" };
            let worst = format!("{bound}{}", readable(s.worst));
            (readable(s.median), worst, format!("worst, move {}", s.worst_move))
        }
        None => ("–".to_owned(), "–".to_owned(), "worst".to_owned()),
    };
    writeln!(
        out,
        "<div class=\"card\" style=\"border-top-color:{colour}\"><h3>{name}</h3><p class=\"sub\">{}</p>\
         <div class=\"pair\"><div><b>{median}</b><span>median</span></div>\
         <div><b>{worst}</b><span>{number}</span></div></div><p class=\"sub\">{}</p></div>",
        escape(kind),
        escape(small),
    )
}

fn describe(kind: &ProbeKind) -> String {
    match kind {
        ProbeKind::Icmp => "ICMP echo".to_owned(),
        ProbeKind::Udp { port, answers } => match answers {
            UdpAnswers::Echo => format!("UDP echo, port {port},"),
            UdpAnswers::Any { .. } => format!("UDP request, port {port},"),
        },
        ProbeKind::Tcp { port } => format!("TCP stream, port {port},"),
    }
}

fn legend(report: &Report, out: &mut String) -> fmt::Result {
    write!(out, "<p class=\"legend\">")?;
    for (index, record) in report.probes.iter().enumerate() {
        let name = escape(&record.plan.name);
        let colour = hex(chart::colour(index));
        write!(out, "<span><i style=\"background:{colour}\"></i>{name}</span>")?;
    }
    if report.network_share().is_some() {
        let colour = hex(chart::SHARE);
        write!(out, "<span><i style=\"background:{colour}\"></i>network share</span>")?;
    }
    writeln!(out, "</p>")
}

fn timelines(report: &Report, out: &mut String) -> Result<(), Error> {
    let mut chosen: Vec<&MoveResult> = report.moves.iter().collect();
    chosen.sort_by_key(|m| std::cmp::Reverse(m.worst().map(|(_, w)| w.silence.length())));
    chosen.truncate(TIMELINES);
    chosen.sort_by_key(|m| m.number);
    writeln!(out, "<section>\n<h2>Answers around each move</h2>")?;
    if chosen.len() < report.moves.len() {
        writeln!(
            out,
            "<p class=\"sub\">The {TIMELINES} moves with the longest silences; the others are in <code>samples.csv</code>.</p>"
        )?;
    }
    for result in chosen {
        let ended = match &result.outcome {
            Outcome::Done => format!("took {}", readable(result.took())),
            outcome => format!("{} after {}", outcome.word().replace('_', " "), readable(result.took())),
        };
        write!(out, "<figure>\n<figcaption><b>Move {}</b> {}", result.number, escape(&result.way()))?;
        writeln!(out, " <span class=\"sub\">{ended}</span></figcaption>")?;
        writeln!(out, "{}</figure>", chart::timeline(report, result)?)?;
    }
    writeln!(out, "</section>")?;
    Ok(())
}

fn table(report: &Report, out: &mut String) -> fmt::Result {
    write!(
        out,
        "<section>\n<h2>All figures</h2>\n<table>\n<thead><tr><th>move</th><th>way</th><th>outcome</th><th>took</th>\
         <th>probe</th><th>silence</th><th>lost</th><th>asked</th><th>duplicates</th><th>out of order</th>\
         <th>round trip</th><th>own lag</th><th>network share</th></tr></thead>\n<tbody>\n"
    )?;
    let mut rows = 0;
    for result in &report.moves {
        for (index, watch) in result.watches.iter().enumerate() {
            rows += 1;
            if rows > ROWS {
                continue;
            }
            let head = if index == 0 {
                move_cells(result)
            } else {
                "<td></td><td></td><td></td><td></td>".to_owned()
            };
            let name = report.probes.get(index).map(|r| escape(&r.plan.name));
            let bound = if watch.silence.is_open() { "≥ " } else { "" };
            let lost = watch.lost + watch.not_sent;
            let trip = watch.round_trip.map(readable).unwrap_or_default();
            let share = if index == 0 { network_cell(result) } else { String::new() };
            writeln!(
                out,
                "<tr>{head}<td>{}</td><td class=\"n\">{bound}{}</td><td class=\"n\">{lost}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{trip}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{share}</td></tr>",
                name.unwrap_or_default(),
                readable(watch.silence.length()),
                watch.asked,
                watch.duplicates,
                watch.out_of_order,
                if watch.lag.is_zero() { "&lt; 1 ms".to_owned() } else { readable(watch.lag) },
            )?;
        }
    }
    writeln!(out, "</tbody>\n</table>")?;
    if rows > ROWS {
        writeln!(out, "<p class=\"sub\">{} more rows are in <code>moves.csv</code>.</p>", rows - ROWS)?;
    }
    writeln!(out, "</section>")
}

fn move_cells(result: &MoveResult) -> String {
    let outcome = match &result.outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Failed(why) => format!("<em>failed: {}</em>", escape(why)),
        outcome => format!("<em>{}</em>", outcome.word().replace('_', " ")),
    };
    format!(
        "<td class=\"n\">{}</td><td>{}</td><td>{outcome}</td><td class=\"n\">{}</td>",
        result.number,
        escape(&result.way()),
        readable(result.took()),
    )
}

fn network_cell(result: &MoveResult) -> String {
    match &result.network {
        None => String::new(),
        Some(Ok(share)) => format!("{} of {}", readable(share.share()), readable(share.whole())),
        Some(Err(error)) => format!("<em>{}</em>", escape(&error.to_string())),
    }
}

fn words(report: &Report, out: &mut String) -> fmt::Result {
    write!(
        out,
        "<section class=\"words\">\n<h2>What the words mean</h2>\n<dl>\n\
         <dt>silence</dt><dd>The longest time between two answers, one right after the other, that touches the move. \
         Nothing is subtracted: an undisturbed probe is silent for about its interval. “≥” marks a lower bound: no answer was \
         seen on one side.</dd>\n\
         <dt>lost</dt><dd>Questions that nobody answered, with those that could not even be sent.</dd>\n\
         <dt>own lag</dt><dd>How late the observer itself was at worst around the move. A silence that is not well above it \
         says more about the observer than about the guest.</dd>\n"
    )?;
    if report.plan.capture.is_some() {
        writeln!(
            out,
            "<dt>network share</dt><dd>From the last frame on the source tap to the first seen at the observer, less the time \
             to the first frame on the destination tap: how long the guest already sent and was not heard.</dd>"
        )?;
    }
    if report.probes.iter().any(|r| matches!(r.plan.kind, ProbeKind::Tcp { .. })) {
        writeln!(
            out,
            "<dt>TCP</dt><dd>One connection through all moves. TCP repeats what was lost after growing pauses, so its silence is \
             what an application feels, and can be far longer than the network was away.</dd>"
        )?;
    }
    writeln!(out, "</dl>\n</section>")
}

fn hex(colour: plotters::style::RGBColor) -> String {
    let plotters::style::RGBColor(r, g, b) = colour;
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Text as it may stand anywhere in a page, attributes included. Control characters become blanks.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
