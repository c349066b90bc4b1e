//! Every kill point of DEPLOY and MIGRATE, with outages that outlast sessions and migration streams.

use std::io::Write;
use std::time::{Duration, Instant};

use causeway_suite::lab::campaign::Campaign;
use causeway_suite::lab::strike::Outage;

/// Sessions are given up after 40 s of silence, libvirt's own connections after 30 s.
const OUTAGE: Outage = Outage { libvirtd: Duration::from_secs(5), link: Duration::from_secs(50) };

#[test]
fn a_guest_runs_exactly_where_the_reply_says() {
    let start = Instant::now();
    let tally = Campaign { outage: OUTAGE, thorough: true, sample: None }.run().unwrap();
    let text = format!("long_kill: {tally}, in {} s\n", start.elapsed().as_secs());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(tally.broken.is_empty(), "{}", tally.broken.join("\n"));
}
