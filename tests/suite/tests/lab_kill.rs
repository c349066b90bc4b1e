//! Kill points of DEPLOY and MIGRATE, made from their plans: a spread sample of them. `long_kill` runs all.

use std::io::Write;
use std::time::{Duration, Instant};

use causeway_suite::lab::campaign::Campaign;
use causeway_suite::lab::strike::Outage;

/// Points that CI tries.
const SAMPLE: usize = 44;

/// Short enough for every session and every migration stream to survive.
const OUTAGE: Outage = Outage { libvirtd: Duration::from_secs(1), link: Duration::from_secs(3) };

#[test]
fn a_guest_runs_exactly_where_the_reply_says() {
    let start = Instant::now();
    let campaign = Campaign { outage: OUTAGE, thorough: false, sample: Some(SAMPLE), only: String::new() };
    let tally = campaign.run().unwrap();
    // Past the test's capture: the count belongs to the run's account.
    let text = format!("lab_kill: {tally}, in {} s\n", start.elapsed().as_secs());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(tally.tried >= 40, "{tally}");
    assert!(tally.broken.is_empty(), "{}", tally.broken.join("\n"));
}
