//! Many trials in one lab: all kill points of the actions' plans, or a spread of them.

use std::fmt;
use std::io::Write;
use std::time::Instant;

use super::points::{Point, spread};
use super::strike::Outage;
use super::trial::{Action, Trials};
use super::{HOSTS, Lab, LabError, Standing, breakpoints, guest};

/// `kvmrc` of the hosts: a migration that lasts long enough to break in its midst.
const KVMRC: &str = "MIGRATE_OPTIONS=\"--bandwidth 24\"\n";

/// What the guest writes: less than the migration carries.
const WRITES: (u32, u32) = (8, 400);

/// How the points are tried.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// How long a broken libvirtd or cable stays so.
    pub outage: Outage,
    /// Whether a guest that was only started is waited for and asked too.
    pub thorough: bool,
    /// How many points; all if not given.
    pub sample: Option<usize>,
    /// Only those of them whose names hold each of these texts, or, after a `!`, do not; with commas between them.
    pub only: String,
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Tally {
    /// The points that there are.
    pub points: usize,
    /// Those that were tried.
    pub tried: usize,
    /// Those of them where there was something to break.
    pub struck: usize,
    /// The replies that said success.
    pub successes: usize,
    /// Broken promises.
    pub broken: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { points, tried, struck, successes, broken } = self;
        let broken = broken.len();
        write!(
            f,
            "{tried} of {points} kill points tried, {struck} with something to kill; \
             {successes} actions succeeded all the same, {broken} promises broken"
        )
    }
}

/// An action with the settings under which it is tried.
struct Round {
    action: Action,
    /// `causeway.toml` of the front-end.
    settings: &'static str,
}

/// Both ways of driving a migration.
const ROUNDS: [Round; 3] = [
    Round { action: Action::Deploy, settings: "" },
    Round { action: Action::Migrate, settings: "[migration]\ntransport = \"p2p\"\n" },
    Round { action: Action::Migrate, settings: "[migration]\ntransport = \"ssh\"\n" },
];

impl Campaign {
    /// Starts a lab, tries the points, and stops it. A broken promise ends its trial, and the next one has a fresh lab.
    ///
    /// # Errors
    /// The lab does not start, or something is left of it.
    pub fn run(&self) -> Result<Tally, LabError> {
        let lab = Standing::start()?;
        let mut trials = self.begin(&lab)?;
        let mut rounds = Vec::new();
        for round in &ROUNDS {
            trials.driver().configure(round.settings)?;
            rounds.push(trials.points(round.action)?);
        }
        let all: Vec<Point> = rounds.iter().flatten().cloned().collect();
        let chosen = match self.sample {
            Some(count) => spread(&all, count),
            None => (0..all.len()).collect(),
        };
        let named = |index: &usize| all.get(*index).is_some_and(|point| self.wants(&point.to_string()));
        let chosen: Vec<usize> = chosen.into_iter().filter(named).collect();
        let mut tally = Tally { points: all.len(), ..Tally::default() };
        let mut first = 0;
        for (round, points) in ROUNDS.iter().zip(&rounds) {
            trials.driver().configure(round.settings)?;
            for index in chosen.iter().filter_map(|i| i.checked_sub(first)).filter(|i| *i < points.len()) {
                if tally.one(&mut trials, round.action, index) {
                    continue;
                }
                drop(trials);
                lab.start()?;
                trials = self.begin(&lab)?;
                trials.driver().configure(round.settings)?;
            }
            first += points.len();
        }
        trials.finish()?;
        lab.stop()?;
        Ok(tally)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.split(',').all(|text| match text.strip_prefix('!') {
            Some(text) => !name.contains(text),
            None => name.contains(text),
        })
    }

    fn begin<'a>(&self, lab: &'a Lab) -> Result<Trials<'a>, LabError> {
        breakpoints::install(lab)?;
        for host in HOSTS {
            lab.write(host, "/var/tmp/one/etc/vmm/kvm/kvmrc", KVMRC)?;
        }
        let (mib, pages) = WRITES;
        Trials::new(lab, guest::virtual_machine(lab.directory(), mib, pages), self.outage, self.thorough)
    }
}

impl Tally {
    /// Tries one point and tells what came of it; false when a promise was broken.
    fn one(&mut self, trials: &mut Trials<'_>, action: Action, index: usize) -> bool {
        let start = Instant::now();
        self.tried += 1;
        let text = match trials.run(action, index) {
            Ok(verdict) => {
                self.struck += usize::from(verdict.struck);
                self.successes += usize::from(verdict.success);
                let nothing = if verdict.struck { "" } else { " (nothing to kill)" };
                let answer = if verdict.success { "SUCCESS" } else { "FAILURE" };
                format!("{}{nothing}: {answer} {}", verdict.point, verdict.text)
            }
            Err(error) => {
                self.broken.push(error.to_string());
                format!("BROKEN {error}")
            }
        };
        let line = format!("{:>4} {text} ({:.1} s)\n", self.tried, start.elapsed().as_secs_f64());
        // Past the test's capture: a run of hours shows how far it is.
        let _ = std::io::stderr().write_all(line.as_bytes());
        !text.starts_with("BROKEN")
    }
}
