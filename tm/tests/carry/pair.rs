//! Two hosts in two directories, and the two ends as two processes with pipes between them.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use causeway_core::answer::Failure;
use causeway_core::names::HostName;
use causeway_tm::carry::{Carry, Courier, End, Ended, Manner, Part, Spot, carry, serve};
use causeway_tm::host::Worker;
use rustix::process::{Signal, getpid, kill_process};

use crate::common::{Datastores, half_made, picture};

pub type Picture = BTreeMap<PathBuf, String>;

/// Where a process ends itself: at the point of that number, or nowhere.
pub const NOWHERE: usize = usize::MAX;

pub struct Pair {
    _dir: tempfile::TempDir,
    root: PathBuf,
    pub source: Datastores,
    pub destination: Datastores,
}

/// What came of a move.
pub struct Run {
    pub result: Result<Ended, Failure>,
    pub log: Vec<String>,
    /// The points that this end passed, and those of the other.
    pub near: Vec<&'static str>,
    pub far: Vec<String>,
}

impl Pair {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (source, destination) = (root.join("h1"), root.join("h2"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&destination).unwrap();
        let pair = Pair {
            source: Datastores::below(&source),
            destination: Datastores::below(&destination),
            _dir: dir,
            root,
        };
        fs::create_dir(pair.from()).unwrap();
        pair
    }

    pub fn from(&self) -> PathBuf {
        self.source.path("100/7")
    }

    pub fn to(&self) -> PathBuf {
        self.destination.path("100/7")
    }

    pub fn order(&self, runs_at: End, manner: Manner) -> Carry {
        let spot = |host: &str, on: &Datastores| Spot {
            host: host.parse().unwrap(),
            dir: on.text("100/7").parse().unwrap(),
        };
        Carry {
            from: spot("h1", &self.source),
            to: spot("h2", &self.destination),
            runs_at,
            manner,
            part: Part::Move,
            local: true,
        }
    }

    fn locks(&self, end: End) -> &Path {
        match end {
            End::Source => &self.source.locks,
            End::Destination => &self.destination.locks,
        }
    }

    pub fn moved(&self, runs_at: End) -> Run {
        self.run(&self.order(runs_at, Manner::default()), NOWHERE, &[])
    }

    /// Moves over a connection that is cut after so many bytes to the other end or from it; how many went each way.
    pub fn cut(&self, order: &Carry, to: usize, from: usize) -> (Run, usize, usize) {
        let passed = self.root.join("passed");
        let _ = fs::remove_file(&passed);
        let run = self.run_over(order, NOWHERE, &[], &|far| {
            let words: Vec<&str> = far.get_args().map(|word| word.to_str().unwrap()).collect();
            let mut wire = test("wire");
            wire.envs(far.get_envs().filter_map(|(name, value)| Some((name, value?))));
            wire.env("CAUSEWAY_TEST_WORDS", serde_json::to_string(&words).unwrap());
            wire.env("CAUSEWAY_TEST_LIMITS", format!("[{to},{from}]")).env("CAUSEWAY_TEST_PASSED", &passed);
            wire
        });
        // Cut at once, nothing went.
        let counts = fs::read(&passed).map(|bytes| serde_json::from_slice(&bytes).unwrap());
        let (to, from) = counts.unwrap_or_default();
        (run, to, from)
    }

    /// Moves, while the other end ends itself at a point the first time it is started.
    pub fn run(&self, order: &Carry, far: usize, pauses: &[Duration]) -> Run {
        self.run_over(order, far, pauses, &|far| far)
    }

    fn run_over(
        &self,
        order: &Carry,
        far: usize,
        pauses: &[Duration],
        wire: &dyn Fn(Command) -> Command,
    ) -> Run {
        let points = self.root.join("points");
        fs::write(&points, "").unwrap();
        let passed = RefCell::new(Vec::new());
        let log = RefCell::new(Vec::new());
        let first = RefCell::new(Some(far));
        let result = {
            let worker = Worker {
                between: &|point| passed.borrow_mut().push(point),
                ..Worker::new(self.locks(order.runs_at), Instant::now() + Duration::from_secs(120))
            };
            let courier = Courier {
                worker: &worker,
                reach: &|_: &HostName, end| {
                    wire(far_end(end, self.locks(end), &points, first.take().unwrap_or(NOWHERE)))
                },
                log: &|_, text| log.borrow_mut().push(text.to_owned()),
                pauses,
            };
            carry(order, &courier).map_err(Failure::from)
        };
        let far = fs::read_to_string(&points).unwrap().lines().map(str::to_owned).collect();
        Run { result, log: log.into_inner(), near: passed.into_inner(), far }
    }

    /// The move as a process that the tracer can watch, its other end too, and where it writes down what came of it.
    #[cfg(target_arch = "x86_64")]
    pub fn watched(&self, order: &Carry) -> (Command, PathBuf) {
        let mut child = causeway_testing::tracer::command(std::env::current_exe().unwrap());
        child.args(["--exact", "near_end", "--ignored"]);
        self.tell(&mut child, order);
        let answer = self.root.join("answer");
        child.env("CAUSEWAY_TEST_ANSWER", &answer).stdout(Stdio::null()).stderr(Stdio::null());
        (child, answer)
    }

    fn tell(&self, child: &mut Command, order: &Carry) {
        child.env("CAUSEWAY_TEST_ORDER", serde_json::to_string(order).unwrap());
        child.env("CAUSEWAY_TEST_LOCKS", self.locks(order.runs_at));
        child.env("CAUSEWAY_TEST_FAR", self.locks(order.runs_at.other())).stdin(Stdio::null());
    }

    /// Moves in a process that ends itself at a point.
    pub fn killed(&self, order: &Carry, point: usize) {
        use std::os::unix::process::ExitStatusExt;
        let pid = self.locks(order.runs_at.other()).with_extension("pid");
        let _ = fs::remove_file(&pid);
        let mut child = test("near_end");
        self.tell(&mut child, order);
        child.env("CAUSEWAY_TEST_POINT", point.to_string());
        let status = child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.signal(), Some(9), "point {point}");
        let Ok(pid) = fs::read_to_string(pid) else { return };
        let runs = || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        let begun = Instant::now();
        while runs() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the other end lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Both hosts, but for what says that a datastore is there.
    pub fn picture(&self) -> Picture {
        let both = [("h1", &self.source), ("h2", &self.destination)];
        let all = both.into_iter().flat_map(|(host, on)| {
            picture(&on.root).into_iter().map(move |(path, text)| (Path::new(host).join(path), text))
        });
        let is_mark = |path: &Path| path.ends_with(".causeway") || path.ends_with(".monitor");
        all.filter(|(path, _)| !is_mark(path)).collect()
    }

    pub fn nothing_half_made(&self) {
        let left: Vec<PathBuf> = self.picture().into_keys().filter(|path| half_made(path)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!self.to().join(".causeway-origin").exists());
    }
}

/// A test of this program as a process of its own.
fn test(name: &str) -> Command {
    // The harness writes to standard output, which is the other end's here.
    let script = "exec 3<&0 4>&1 >/dev/null </dev/null; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored"]);
    command
}

pub fn far_end(end: End, locks: &Path, points: &Path, point: usize) -> Command {
    let mut command = test("far_end");
    command.env("CAUSEWAY_TEST_END", serde_json::to_string(&end).unwrap());
    command.env("CAUSEWAY_TEST_LOCKS", locks).env("CAUSEWAY_TEST_POINTS", points);
    command.env("CAUSEWAY_TEST_POINT", point.to_string());
    command
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// Counts points, and ends the process at one.
fn fatal(passed: &RefCell<usize>) {
    *passed.borrow_mut() += 1;
    let point = std::env::var("CAUSEWAY_TEST_POINT").ok().and_then(|text| text.parse().ok());
    if point.is_some() && passed.borrow().checked_sub(1) == point {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
}

pub fn serve_far_end() {
    let points = RefCell::new(File::options().append(true).open(variable("CAUSEWAY_TEST_POINTS")).unwrap());
    let (passed, locks) = (RefCell::new(0), PathBuf::from(variable("CAUSEWAY_TEST_LOCKS")));
    let worker = Worker {
        between: &|point| {
            points.borrow_mut().write_all(format!("{point}\n").as_bytes()).unwrap();
            fatal(&passed);
        },
        ..Worker::new(&locks, Instant::now())
    };
    let end = serde_json::from_str(&variable("CAUSEWAY_TEST_END")).unwrap();
    fs::write(locks.with_extension("pid"), std::process::id().to_string()).unwrap();
    let input = File::open("/proc/self/fd/3").unwrap();
    let output = File::options().write(true).open("/proc/self/fd/4").unwrap();
    // Whoever waits at the other end was told.
    let _ = serve(end, input, output, &worker);
}

pub fn run_near_end() {
    let order: Carry = serde_json::from_str(&variable("CAUSEWAY_TEST_ORDER")).unwrap();
    let (passed, locks) = (RefCell::new(0), PathBuf::from(variable("CAUSEWAY_TEST_LOCKS")));
    let worker = Worker {
        between: &|_| fatal(&passed),
        ..Worker::new(&locks, Instant::now() + Duration::from_secs(60))
    };
    let far = PathBuf::from(variable("CAUSEWAY_TEST_FAR"));
    let reach = |_: &HostName, end| far_end(end, &far, Path::new("/dev/null"), NOWHERE);
    let courier = Courier { worker: &worker, reach: &reach, log: &|_, _| {}, pauses: &[] };
    let came = carry(&order, &courier).map_err(Failure::from);
    match std::env::var("CAUSEWAY_TEST_ANSWER") {
        Ok(answer) => fs::write(answer, serde_json::to_vec(&came.map(drop)).unwrap()).unwrap(),
        Err(_) => drop(came.unwrap()),
    }
}

/// A connection to the other end, which breaks in both directions when one of them has carried so many bytes.
pub fn be_a_wire() {
    let words: Vec<String> = serde_json::from_str(&variable("CAUSEWAY_TEST_WORDS")).unwrap();
    let limits: [usize; 2] = serde_json::from_str(&variable("CAUSEWAY_TEST_LIMITS")).unwrap();
    let mut far = Command::new("sh");
    let mut far = far.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut inner = (far.stdout.take().unwrap(), far.stdin.take());
    let mut outer = (
        File::open("/proc/self/fd/3").unwrap(),
        File::options().write(true).open("/proc/self/fd/4").unwrap(),
    );
    let (passed, far) = (Mutex::new([0, 0]), Mutex::new(far));
    let end = || {
        let mut far = far.lock().unwrap();
        let _ = far.kill();
        let _ = far.wait();
        std::process::exit(0);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut to = inner.1.take().unwrap();
            if pass(&mut outer.0, &mut to, (0, limits[0]), &passed) {
                end();
            }
        });
        pass(&mut inner.0, &mut outer.1, (1, limits[1]), &passed);
        end();
    });
}

/// Carries bytes as they come, and writes down how many; whether it was cut.
fn pass(
    from: &mut impl Read,
    to: &mut impl Write,
    (way, limit): (usize, usize),
    passed: &Mutex<[usize; 2]>,
) -> bool {
    let (path, mut buffer) = (PathBuf::from(variable("CAUSEWAY_TEST_PASSED")), [0; 4096]);
    loop {
        let left = (limit - passed.lock().unwrap()[way]).min(buffer.len());
        if left == 0 {
            return true;
        }
        match from.read(&mut buffer[..left]) {
            Ok(0) | Err(_) => return false,
            Ok(read) => {
                {
                    let mut passed = passed.lock().unwrap();
                    passed[way] += read;
                    // Whoever waits for the end may not wait for ours.
                    let half = path.with_extension("half");
                    fs::write(&half, serde_json::to_vec(&*passed).unwrap()).unwrap();
                    fs::rename(&half, &path).unwrap();
                }
                if to.write_all(&buffer[..read]).is_err() {
                    return true;
                }
            }
        }
    }
}
