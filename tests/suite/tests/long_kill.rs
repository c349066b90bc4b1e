//! Every kill point of DEPLOY and MIGRATE, with outages that outlast sessions and migration streams. `POINTS=TEXT` tries
//! only those whose names hold the text (`!TEXT`: the others; `TEXT,TEXT`: both), `LINK=SECONDS` pulls cables for another time.

use std::io::Write;
use std::time::{Duration, Instant};

use causeway_suite::lab::campaign::Campaign;
use causeway_suite::lab::strike::Outage;

/// Sessions are given up after 40 s of silence, libvirt's own connections after 30 s.
const LINK: u64 = 50;

/// Long enough for whoever asks meanwhile to have been refused.
const LIBVIRTD: Duration = Duration::from_secs(5);

#[test]
fn a_guest_runs_exactly_where_the_reply_says() {
    let start = Instant::now();
    let link = std::env::var("LINK").ok().and_then(|text| text.parse().ok()).unwrap_or(LINK);
    let outage = Outage { libvirtd: LIBVIRTD, link: Duration::from_secs(link) };
    let only = std::env::var("POINTS").unwrap_or_default();
    let tally = Campaign { outage, thorough: true, sample: None, only }.run().unwrap();
    let text = format!("long_kill: {tally}, in {} s\n", start.elapsed().as_secs());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(tally.broken.is_empty(), "{}", tally.broken.join("\n"));
}
