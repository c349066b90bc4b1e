//! The disks of a guest that runs here: an order of a plan, done on a thread of its own.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, DiskName, RequestId};
use causeway_core::plan::{BackupRest, BackupTarget, CopyFormat, DiskOrder, Quiesce, Tracking};
use causeway_core::reach::wire::{Done, Effect, Severity};
use causeway_core::reach::worker::Workers;
use causeway_domain::Hypervisor;
use causeway_domain::disk::backup::{back_up, end_backup};
use causeway_domain::disk::chain::Remembered;
use causeway_domain::disk::follow::{INTERVAL, SETTLE, follow};
use causeway_domain::disk::rest::{self, How, Rest};
use causeway_domain::disk::snapshot::snapshot;
use causeway_domain::disk::{Backup, Control, Ended, Format, Goal, Hold, Moment, Names, Progress, Watchdog};
use tokio::sync::watch;

use super::files::{Reply, Request};
use super::guard::{Held, Rests};
use super::resident::Out;
use super::turn::Turn;
use super::work::{Place, Told, log};

/// What a step keeps of its deadline to abort a job and to see that the guest is on its old chain.
const RESERVE: Duration = Duration::from_secs(45);

/// Longest rest of a guest within one order, without the waits for its agent.
const MOMENT: u64 = 120;

/// Longest time of a look at where a path leads.
const LOOK: Duration = Duration::from_secs(10);

/// A line of progress comes at least with so many per cent, and at least that often.
const LINES: (u8, Duration) = (10, Duration::from_secs(30));

/// An order as a step gives it.
pub(super) struct DiskCall<'a> {
    pub request: &'a RequestId,
    pub id: &'a DeployId,
    pub order: &'a DiskOrder,
    pub deadline: Duration,
    pub turn: Option<Arc<Turn>>,
}

impl Place {
    /// Does an order. Hears of a cancel and of its deadline by itself, and brings the guest back first.
    pub(super) async fn guest_disk(
        &self,
        call: DiskCall<'_>,
        cancelled: &watch::Receiver<bool>,
        out: &Out,
    ) -> Result<Done, Failure> {
        let (id, order, request, turn) =
            (call.id.clone(), call.order.clone(), call.request.clone(), call.turn.clone());
        let (connect, workers, rests) =
            (self.connector(), Arc::clone(&self.workers), Arc::clone(&self.rests));
        let (out, deadline, runtime) = (out.clone(), call.deadline, tokio::runtime::Handle::current());
        let stop = Arc::new(AtomicBool::new(*cancelled.borrow()));
        let flag = Arc::clone(&stop);
        // At the deadline this future goes; the thread is told, and holds the VM's turn until it has ended.
        let _told = Told(Arc::clone(&stop));
        let thread = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let host = connect().map_err(|e| Failure::from_chain(e.kind(), &e))?;
            let names = Remembered::new(|path| resolve(&workers, &runtime, path));
            let log = |severity, text: &str| log(&out, &request, severity, text);
            let around = Around { deadline, cancelled: &flag, log: &log, names: &names, rests: &rests };
            perform(host.as_ref(), &id, &order, &around)
        });
        let mut cancelled = cancelled.clone();
        let tell = async {
            if cancelled.wait_for(|c| *c).await.is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = thread => result.unwrap_or_else(|e| Err(Failure::new(Kind::Bug, e))),
            () = tell => Err(Failure::new(Kind::Bug, "an endless wait ended")),
        }
    }
}

/// Where a path leads; asked of a child, for the storage may hang.
fn resolve(workers: &Workers, runtime: &tokio::runtime::Handle, path: &str) -> Option<String> {
    let request = Request::Resolve { path: path.to_owned() };
    match runtime.block_on(workers.call::<_, Reply>(&request, LOOK)) {
        Ok(Reply::Done(found)) => Some(found),
        Ok(Reply::Guest(_)) => None,
        Err(failure) => {
            tracing::debug!(path, %failure, "taken for what it says");
            None
        }
    }
}

/// What is around an order.
struct Around<'a> {
    deadline: Duration,
    cancelled: &'a AtomicBool,
    log: &'a dyn Fn(Severity, &str),
    names: &'a dyn Names,
    rests: &'a Rests,
}

fn perform(
    host: &dyn Hypervisor,
    id: &DeployId,
    order: &DiskOrder,
    around: &Around<'_>,
) -> Result<Done, Failure> {
    let path = |path: &causeway_core::names::DiskPath| path.path().display().to_string();
    match order {
        DiskOrder::Snapshot { disk, overlay, quiesce } => {
            let how = quiesce.map(how);
            within(id, disk.as_str(), "snapshot", how, around, |control| {
                snapshot(host, id, disk.as_str(), &path(overlay), how, control)
            })
        }
        DiskOrder::Commit { disk, top, base, active, relative, speed } => {
            let (active, relative) = (*active, *relative);
            let goal = Goal::Commit { top: path(top), base: path(base), active, relative };
            job(host, id, disk, &goal, *speed, around)
        }
        DiskOrder::Pull { disk, base, relative, speed } => {
            let goal = Goal::Pull { base: base.as_ref().map(path), relative: *relative };
            job(host, id, disk, &goal, *speed, around)
        }
        DiskOrder::Copy { disk, to, format, quiesce, speed } => {
            let format = match format {
                CopyFormat::Raw => Format::Raw,
                CopyFormat::Qcow2 => Format::Qcow2,
            };
            let goal = Goal::Copy { to: path(to), format, rest: quiesce.map(how) };
            job(host, id, disk, &goal, *speed, around)
        }
        DiskOrder::Backup { targets, tracking, rest } => {
            let backup = backup(targets, tracking.as_ref());
            let moment = rest.map(moment);
            let how = moment.map(|moment| How { agent: wait(moment), or_suspend: false });
            let disks = backup.disks().join(", ");
            within(id, &disks, "backup", how, around, |control| back_up(host, id, &backup, moment, control))
        }
        DiskOrder::EndBackup { below } => within(id, "the guest", "backup", None, around, |control| {
            end_backup(host, id, &path(below), control)
        }),
        DiskOrder::Freeze { quiesce, seconds } => freeze(host, id, *quiesce, *seconds, around),
        DiskOrder::Thaw { agent_seconds } => thaw(host, id, *agent_seconds, around),
    }
}

fn backup(targets: &[BackupTarget], tracking: Option<&Tracking>) -> Backup {
    let target = |t: &BackupTarget| (t.disk.as_str().to_owned(), t.to.path().display().to_string());
    Backup {
        targets: targets.iter().map(target).collect(),
        begin: tracking.map(|tracking| tracking.begin.clone()),
        since: tracking.and_then(|tracking| tracking.since.clone()),
    }
}

fn moment(rest: BackupRest) -> Moment {
    match rest {
        BackupRest::Agent { seconds } => Moment::Frozen(Duration::from_secs(seconds.into())),
        BackupRest::Suspend => Moment::Suspended,
    }
}

fn wait(moment: Moment) -> Duration {
    match moment {
        Moment::Frozen(wait) => wait,
        Moment::Suspended => Duration::ZERO,
    }
}

fn how(quiesce: Quiesce) -> How {
    How { agent: Duration::from_secs(quiesce.agent_seconds.into()), or_suspend: quiesce.or_suspend }
}

fn job(
    host: &dyn Hypervisor,
    id: &DeployId,
    disk: &DiskName,
    goal: &Goal,
    speed: Option<u64>,
    around: &Around<'_>,
) -> Result<Done, Failure> {
    let (word, how) = match goal {
        Goal::Commit { .. } => ("commit", None),
        Goal::Pull { .. } => ("pull", None),
        Goal::Copy { rest, .. } => ("copy", *rest),
    };
    within(id, disk.as_str(), word, how, around, |control| {
        follow(host, id, disk.as_str(), goal, speed.unwrap_or(0), control)
    })
}

/// Gives work on a disk what it needs around it: a guard of its own, lines of progress, a deadline that leaves time for
/// the way back.
fn within(
    id: &DeployId,
    disk: &str,
    word: &str,
    how: Option<How>,
    around: &Around<'_>,
    work: impl FnOnce(&Control<'_>) -> Result<Ended, causeway_domain::DomainError>,
) -> Result<Done, Failure> {
    let agent = how.map_or(Duration::ZERO, |how| how.agent);
    let watchdog = Lazy { rests: around.rests, id, agent, guard: Default::default() };
    let last = Cell::new((0_u8, Instant::now()));
    let progress = |progress: &Progress| {
        let (percent, at) = last.get();
        let (step, pause) = LINES;
        let due = progress.percent >= percent.saturating_add(step) || at.elapsed() >= pause;
        if due || (progress.percent == 100 && percent < 100) {
            last.set((progress.percent, Instant::now()));
            (around.log)(Severity::Info, &format!("{word} of {disk}: {progress}"));
        }
    };
    let control = Control {
        deadline: around.deadline.saturating_sub(RESERVE.min(around.deadline / 3)),
        interval: INTERVAL,
        settle: SETTLE,
        cancelled: &|| around.cancelled.load(Ordering::Relaxed),
        progress: &progress,
        warn: &|text| (around.log)(Severity::Warning, &format!("{word} of {disk}: {text}")),
        names: around.names,
        watchdog: &watchdog,
    };
    let effect = match work(&control)? {
        Ended::Done => Effect::Made,
        Ended::Already => Effect::Already,
    };
    Ok(Done { output: String::new(), effect })
}

/// A guard that is started when it is first needed: most work brings no guest to rest.
struct Lazy<'a> {
    rests: &'a Rests,
    id: &'a DeployId,
    agent: Duration,
    guard: std::cell::OnceCell<super::guard::Guard>,
}

impl Watchdog for Lazy<'_> {
    fn arm(&self, hold: Hold) -> Result<(), String> {
        let guard = match self.guard.get() {
            Some(guard) => guard,
            None => {
                let seconds = MOMENT + 2 * self.agent.as_secs();
                let guard = self.rests.guard(self.id, seconds, self.agent).map_err(|e| e.to_string())?;
                self.guard.get_or_init(|| guard)
            }
        };
        guard.arm(hold)
    }

    fn disarm(&self) -> bool {
        self.guard.get().is_none_or(Watchdog::disarm)
    }
}

/// How a guest rests, in the word that a freeze prints.
fn word(rest: Rest) -> &'static str {
    match rest {
        Rest::Frozen => "frozen",
        Rest::Suspended { .. } => "suspended",
        Rest::Still => "still",
        Rest::Running => "running",
    }
}

fn freeze(
    host: &dyn Hypervisor,
    id: &DeployId,
    quiesce: Quiesce,
    seconds: u32,
    around: &Around<'_>,
) -> Result<Done, Failure> {
    if around.cancelled.load(Ordering::Relaxed) {
        return Err(Failure::new(Kind::Cancelled, "cancelled"));
    }
    // One that was frozen before, by an answer that was lost, begins anew: its time has run meanwhile.
    if let Some(held) = around.rests.take(id) {
        end(host, id, &held)?;
    }
    let how = how(quiesce);
    let guard = around.rests.guard(id, seconds.into(), how.agent);
    let guard = guard.map_err(|e| Failure::new(Kind::HostState, format!("start a guard of {id}: {e}")))?;
    let rest = rest::bring(host, id, how, &guard)?;
    if rest == Rest::Running {
        (around.log)(Severity::Warning, "no agent freezes the guest, and it runs on");
    }
    around.rests.keep(id, Held { guard, rest, how });
    Ok(Done { output: word(rest).to_owned(), effect: Effect::Made })
}

fn thaw(host: &dyn Hypervisor, id: &DeployId, agent: u32, around: &Around<'_>) -> Result<Done, Failure> {
    let over = || Failure::new(Kind::HostState, format!("the rest of {id} was over before its work"));
    let mut held = around.rests.take(id).ok_or_else(over)?;
    held.how.agent = Duration::from_secs(agent.into());
    match end(host, id, &held)? {
        true => Ok(Done::quiet()),
        false => Err(over()),
    }
}

/// Ends a rest; says whether it had lasted until now. A guest that does not come back is left to its guard.
fn end(host: &dyn Hypervisor, id: &DeployId, held: &Held) -> Result<bool, Failure> {
    Ok(rest::release(host, id, held.rest, held.how, &held.guard)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::plan::DiskOrder;
    use causeway_domain::disk::chain::Spelling;
    use causeway_domain::domain::State;
    use causeway_domain::fake::{Agent, Fake, Pace};
    use std::cell::RefCell;

    const XML: &str = "<domain type='kvm'><name>one-7</name><memory unit='MiB'>64</memory><devices><disk type='file'>\
        <driver name='qemu' type='qcow2'/><source file='/ds/0/7/disk.0.snap/1' index='1'/><backingStore type='file' \
        index='2'><format type='qcow2'/><source file='/ds/0/7/disk.0.snap/0'/><backingStore/></backingStore>\
        <target dev='vda'/></disk></devices></domain>";

    struct Host {
        fake: Fake,
        rests: Rests,
        cancelled: AtomicBool,
        lines: RefCell<Vec<String>>,
    }

    impl Host {
        fn new() -> Self {
            let fake = Fake::new("node1");
            fake.create(XML).unwrap();
            let guard = ["sh", "-c", "while read line; do echo ok; done", "guard"];
            let rests = Rests::with(guard.map(Into::into).to_vec());
            Host { fake, rests, cancelled: AtomicBool::new(false), lines: RefCell::default() }
        }

        fn perform(&self, order: &DiskOrder) -> Result<Done, Failure> {
            let log = |_: Severity, text: &str| self.lines.borrow_mut().push(text.to_owned());
            let around = Around {
                deadline: Duration::from_secs(60),
                cancelled: &self.cancelled,
                log: &log,
                names: &Spelling,
                rests: &self.rests,
            };
            perform(&self.fake, &one_7(), order, &around)
        }

        fn state(&self) -> State {
            self.fake.truth(&one_7()).unwrap().state
        }
    }

    fn one_7() -> DeployId {
        "one-7".parse().unwrap()
    }

    fn pull() -> DiskOrder {
        DiskOrder::Pull { disk: "vda".parse().unwrap(), base: None, relative: false, speed: Some(1 << 20) }
    }

    fn frozen(or_suspend: bool) -> DiskOrder {
        DiskOrder::Freeze { quiesce: Quiesce { agent_seconds: 1, or_suspend }, seconds: 60 }
    }

    const THAW: DiskOrder = DiskOrder::Thaw { agent_seconds: 1 };

    #[test]
    fn a_job_has_lines_that_never_fall_and_ends_with_its_effect() {
        let host = Host::new();
        assert_eq!(host.perform(&pull()).unwrap().effect, Effect::Made);
        assert_eq!(host.fake.files(&one_7(), "vda"), ["/ds/0/7/disk.0.snap/1"]);
        let lines = host.lines.borrow().clone();
        let percent = |line: &String| {
            let rest = line.strip_prefix("pull of vda: ").unwrap();
            rest.split_once(" %").unwrap().0.parse::<u8>().unwrap()
        };
        let percents: Vec<u8> = lines.iter().map(percent).collect();
        assert!(percents.is_sorted() && percents.last() == Some(&100), "{lines:?}");
        assert_eq!(host.perform(&pull()).unwrap().effect, Effect::Already);
    }

    #[test]
    fn an_order_hears_of_a_cancel() {
        let host = Host::new();
        host.fake.set_pace(&one_7(), Pace { step: 0, ..Pace::default() });
        std::thread::scope(|scope| {
            let stop = &host.cancelled;
            let fake = &host.fake;
            scope.spawn(move || {
                while !fake.has_disk_job(&one_7(), "vda") {
                    std::thread::yield_now();
                }
                stop.store(true, Ordering::Relaxed);
            });
            assert_eq!(host.perform(&pull()).unwrap_err().kind, Kind::Cancelled);
        });
        assert_eq!(host.fake.files(&one_7(), "vda").len(), 2);
        assert_eq!(host.perform(&frozen(true)).unwrap_err().kind, Kind::Cancelled);
    }

    #[test]
    fn a_guest_rests_until_it_is_thawed() {
        for (agent, or_suspend, word) in [
            (Agent::Answers, true, "frozen"),
            (Agent::None, true, "suspended"),
            (Agent::None, false, "running"),
        ] {
            let host = Host::new();
            host.fake.set_agent(&one_7(), agent);
            // An answer that was lost is asked for again.
            for _ in 0..2 {
                assert_eq!(host.perform(&frozen(or_suspend)).unwrap().output, word);
            }
            assert_eq!(host.fake.is_frozen(&one_7()), agent == Agent::Answers);
            assert_eq!(host.state() == State::Running, word != "suspended");
            host.perform(&THAW).unwrap();
            assert_eq!(host.state(), State::Running);
            assert!(!host.fake.is_frozen(&one_7()));
            let over = host.perform(&THAW).unwrap_err();
            assert!(over.text.contains("was over before its work"), "{over}");
        }
    }

    #[test]
    fn a_guest_that_stood_before_stands_afterwards() {
        let host = Host::new();
        let by_user = State::Paused(causeway_domain::PauseReason::User);
        host.fake.set_state(&one_7(), by_user);
        assert_eq!(host.perform(&frozen(true)).unwrap().output, "still");
        host.perform(&THAW).unwrap();
        assert_eq!(host.state(), by_user);
    }
}
