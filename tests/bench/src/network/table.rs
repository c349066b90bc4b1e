//! What is printed: tables in Markdown, times in milliseconds.

use super::case::{Contender, Measured, Series, Standing, VERBS, milliseconds};
use super::floor::Took;
use super::growth::Grown;
use super::vm::Kind;

/// The head of the first table.
pub fn head(standing: Standing) {
    println!(
        "{}, ms; in parentheses ms of processor and processes begun. `floor`: the same changes by hand, of which netlink + \
         transaction + bundle + nft. `kept`: by the connection of a resident. `root`: `causeway-root` for one request. \
         `slot`: `causeway-net slot`, which starts that by sudo and does not wait for its end: its processor time is told without it.\n",
        match standing {
            Standing::Median => "Medians",
            Standing::Best => "Best of all repetitions",
        }
    );
    println!(
        "| driver, NICs x rules | action | floor | of which | kept | above floor | root | above floor | slot | above floor | \
         stock | stock/kept | stock/slot |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
}

/// The lines of one size.
pub fn case(kind: Kind, nics: u32, rules: u32, measured: &Measured, standing: Standing) {
    for (place, verb) in VERBS.into_iter().enumerate() {
        let took = measured.floor.get(&place).map_or(&[][..], Vec::as_slice);
        let part =
            |part: fn(&Took) -> std::time::Duration| standing.of(&took.iter().map(part).collect::<Vec<_>>());
        let floor = part(Took::all);
        let parts = [part(|t| t.netlink), part(|t| t.transaction), part(|t| t.bundle), part(|t| t.nft)];
        let parts: Vec<String> = parts.iter().map(|part| format!("{part:.1}")).collect();
        let of = |contender| measured.series.get(&(contender, place));
        let told = |contender| of(contender).map_or_else(|| "-".to_owned(), |series| cost(series, standing));
        let above = |contender| {
            of(contender).map_or_else(|| "-".to_owned(), |s| format!("{:.1}", standing.of(&s.wall) - floor))
        };
        let ratio = |contender| match (of(Contender::Stock), of(contender)) {
            (Some(stock), Some(ours)) => format!("{:.0}", standing.of(&stock.wall) / standing.of(&ours.wall)),
            _ => "-".to_owned(),
        };
        println!(
            "| {} {nics} x {rules} | {} | {floor:.1} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            kind.driver(),
            verb.as_str(),
            parts.join(" + "),
            told(Contender::Kept),
            above(Contender::Kept),
            told(Contender::Root),
            above(Contender::Root),
            told(Contender::Slot),
            above(Contender::Slot),
            told(Contender::Stock),
            ratio(Contender::Kept),
            ratio(Contender::Slot),
        );
    }
    let peak = |contender| {
        let peaks =
            (0..VERBS.len()).filter_map(|place| measured.series.get(&(contender, place)).map(|s| s.peak));
        peaks.max().map_or_else(
            || "-".to_owned(),
            |kib| format!("{:.1}", f64::from(u32::try_from(kib).unwrap_or(0)) / 1024.0),
        )
    };
    eprintln!(
        "{} {nics} x {rules}: peak memory of the largest process, MiB: kept {}, root {}, slot {}, stock {}",
        kind.driver(),
        peak(Contender::Kept),
        peak(Contender::Root),
        peak(Contender::Slot),
        peak(Contender::Stock),
    );
    for ((_, place), text) in &measured.failed {
        let verb = VERBS.get(*place).map_or("", |verb| verb.as_str());
        eprintln!("{} {nics} x {rules}: stock could not do {verb}: {text}", kind.driver());
    }
}

fn cost(series: &Series, standing: Standing) -> String {
    let forks = series.forks.map_or_else(|| "?".to_owned(), |forks| forks.to_string());
    format!("{:.1} ({:.1}, {forks})", standing.of(&series.wall), series.processor())
}

/// The tools by themselves.
pub fn tools(tools: &[(&'static str, f64)]) {
    println!("\n| by hand, with next to nothing to do | ms |\n|---|---|");
    for (what, took) in tools {
        println!("| {what} | {took:.1} |");
    }
}

/// The head of the second table.
pub fn growth_head() {
    println!(
        "\n`pre` by the kept connection, ten rules a NIC; one more NIC with so many there: ours, ms (the floor's share)\n\n\
         | driver | NICs | of one VM | s | NICs a second | one more |\n|---|---|---|---|---|---|"
    );
}

/// A line of it.
pub fn grown(kind: Kind, nics: u32, batch: u32, grown: &Grown, standing: Standing) {
    let one_more: Vec<String> = grown
        .one_more
        .iter()
        .map(|(here, ours, floor)| format!("at {here}: {:.1} ({:.1})", standing.of(ours), standing.of(floor)))
        .collect();
    let seconds = milliseconds(grown.all) / 1e3;
    println!(
        "| {} | {nics} | {batch} | {seconds:.1} | {:.0} | {} |",
        kind.driver(),
        f64::from(nics) / seconds,
        one_more.join("; ")
    );
}
