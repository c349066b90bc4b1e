//! One size of VM through all contenders, one after the other in each round, so that a busy machine is busy for all of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use causeway_vnm::root::Verb;

use super::floor::{self, Hand};
use super::once::{self, Once};
use super::ours::{self, Kept};
use super::site::Site;
use super::stock::Stock;
use super::vm::{Kind, Vm};

/// The actions, in the order of a guest's life.
pub const VERBS: [Verb; 3] = [Verb::Pre, Verb::Post, Verb::Clean];

/// The VM that is there all the time.
const NEIGHBOUR: u32 = 60_000;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// The connection that a resident keeps.
    Kept,
    /// `causeway-root`, started for one request.
    Root,
    /// `causeway-net slot`, which starts it by `sudo`.
    Slot,
    /// The stock scripts.
    Stock,
}

impl Contender {
    const ALL: [Contender; 4] = [Contender::Kept, Contender::Root, Contender::Slot, Contender::Stock];
}

/// What one action took, of all rounds.
#[derive(Default)]
pub struct Series {
    /// From the call to the answer.
    pub wall: Vec<Duration>,
    /// By the clock of the privileged side.
    pub within: Vec<Duration>,
    processor: Duration,
    /// Processes begun by one.
    pub forks: Option<u64>,
    /// Of the largest process, KiB.
    pub peak: u64,
}

impl Series {
    fn add(&mut self, wall: Duration, processor: Duration) {
        self.wall.push(wall);
        self.processor += processor;
    }

    /// Milliseconds on processors that each took.
    pub fn processor(&self) -> f64 {
        let count = u32::try_from(self.wall.len().max(1)).unwrap_or(1);
        milliseconds(self.processor) / f64::from(count)
    }
}

/// Which of several times stands for all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The middle one.
    Median,
    /// The shortest: on a busy machine all others tell of that.
    Best,
}

impl Standing {
    /// That one, in milliseconds.
    pub fn of(self, times: &[Duration]) -> f64 {
        let mut times = times.to_vec();
        times.sort();
        let place = if self == Standing::Best { 0 } else { times.len() / 2 };
        milliseconds(times.get(place).copied().unwrap_or_default())
    }
}

/// In milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// All that was measured of one size.
#[derive(Default)]
pub struct Measured {
    /// Of each contender, by the action's place in [`VERBS`].
    pub series: BTreeMap<(Contender, usize), Series>,
    /// Why one could not do an action.
    pub failed: BTreeMap<(Contender, usize), String>,
    /// The floor of each action.
    pub floor: BTreeMap<usize, Vec<floor::Took>>,
}

struct Case<'a> {
    site: Site,
    kind: Kind,
    nics: u32,
    rules: u32,
    next: u32,
    stock: Option<Stock>,
    kept: Kept,
    hand: Hand,
    measured: &'a mut Measured,
}

/// Measures a size.
///
/// # Errors
/// One of ours fails.
pub fn measure(
    kind: Kind,
    nics: u32,
    rules: u32,
    repeat: u32,
    stock: Option<&Path>,
) -> anyhow::Result<Measured> {
    let site = Site::new(kind)?;
    let stock = stock.map(|sources| Stock::lay(sources, site.scratch(), kind)).transpose()?;
    let mut measured = Measured::default();
    let (kept, hand) = (Kept::start()?, Hand::open(kind)?);
    let mut case = Case { site, kind, nics, rules, next: 0, stock, kept, hand, measured: &mut measured };
    // The host has a guest already, which is guarded.
    let other = if kind == Kind::Ovswitch { kind } else { Kind::Fw };
    case.kept.call(&Vm { kind: other, id: NEIGHBOUR, nics: 1, rules: 10 }, Verb::Pre)?;
    // The first round makes what stays: tables, directories.
    for round in 0..=repeat {
        case.floor(round > 0)?;
        for contender in Contender::ALL {
            case.round(contender, round > 0)?;
        }
    }
    let peak = case.kept.peak()?;
    if once::can_trace() {
        case.kept = Kept::traced(case.site.scratch())?;
        for contender in Contender::ALL {
            case.forks(contender)?;
        }
    }
    for verb in 0..VERBS.len() {
        if let Some(series) = case.measured.series.get_mut(&(Contender::Kept, verb)) {
            series.peak = peak;
        }
    }
    Ok(measured)
}

impl Case<'_> {
    fn vm(&mut self) -> Vm {
        self.next += 1;
        Vm { kind: self.kind, id: self.next, nics: self.nics, rules: self.rules }
    }

    /// A guest's life; `work` does the actions.
    fn life(
        &mut self,
        mut work: impl FnMut(&mut Self, &Vm, usize, Verb) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let vm = self.vm();
        for (place, verb) in VERBS.into_iter().enumerate() {
            match verb {
                Verb::Post => self.site.plug(&vm)?,
                Verb::Clean => self.site.unplug(&vm)?,
                _ => {}
            }
            work(self, &vm, place, verb)?;
        }
        Ok(())
    }

    fn floor(&mut self, counts: bool) -> anyhow::Result<()> {
        self.life(|case, vm, place, verb| {
            let took = case.hand.instead(vm, verb)?;
            if counts {
                case.measured.floor.entry(place).or_default().push(took);
            }
            Ok(())
        })
    }

    fn round(&mut self, contender: Contender, counts: bool) -> anyhow::Result<()> {
        if self.lacks(contender) {
            return Ok(());
        }
        self.life(|case, vm, place, verb| {
            let took = match case.one(contender, vm, verb) {
                Err(error) if contender == Contender::Stock => {
                    case.measured.failed.insert((contender, place), format!("{error:#}"));
                    return Ok(());
                }
                other => other?,
            };
            if counts {
                let series = case.measured.series.entry((contender, place)).or_default();
                series.add(took.once.wall, took.once.processor);
                series.peak = series.peak.max(took.once.peak);
                series.within.extend(took.within);
            }
            Ok(())
        })
    }

    fn lacks(&self, contender: Contender) -> bool {
        contender == Contender::Stock && self.stock.is_none()
    }

    fn one(&mut self, contender: Contender, vm: &Vm, verb: Verb) -> anyhow::Result<One> {
        let scratch = self.site.scratch();
        let once = match contender {
            Contender::Kept => {
                let took = self.kept.call(vm, verb)?;
                let once = Once { wall: took.wall, processor: took.processor, peak: 0 };
                return Ok(One { once, within: Some(took.within) });
            }
            Contender::Root => {
                let input = ours::one_request(vm, verb)?;
                let (once, output) = ours::root(&input)?.run(scratch)?;
                ours::answered(&output)?;
                once
            }
            Contender::Slot => ours::slot(vm, verb, &ours::slot_input(vm), scratch)?.run(scratch)?.0,
            Contender::Stock => match &self.stock {
                Some(stock) => stock.call(vm, verb, |call| call.run(scratch))?.0,
                None => Once::default(),
            },
        };
        Ok(One { once, within: None })
    }

    fn forks(&mut self, contender: Contender) -> anyhow::Result<()> {
        if self.lacks(contender) {
            return Ok(());
        }
        self.life(|case, vm, place, verb| {
            let scratch = case.site.scratch();
            let forks = match contender {
                Contender::Kept => case.kept.forks(vm, verb)?,
                Contender::Root => {
                    let input = ours::one_request(vm, verb)?;
                    ours::root(&input)?.forks(scratch)?
                }
                Contender::Slot => ours::slot(vm, verb, &ours::slot_input(vm), scratch)?.forks(scratch)?,
                Contender::Stock => {
                    let Some(stock) = &case.stock else { return Ok(()) };
                    match stock.call(vm, verb, |call| call.forks(scratch)) {
                        Ok(forks) => forks,
                        Err(_) => return Ok(()),
                    }
                }
            };
            if let Some(series) = case.measured.series.get_mut(&(contender, place)) {
                series.forks = Some(forks);
            }
            Ok(())
        })
    }
}

struct One {
    once: Once,
    within: Option<Duration>,
}
