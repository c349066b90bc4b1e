//! A call in a process of its own, which ends or stands still at one of its points, and what is there in the end.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_core::answer::Failure;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::case::{Case, Known, chosen};
use super::{Picture, Stage, at_once};

/// The child's part, for an `#[ignore]`d test of the name `killed_child`: performs the call it is given, and at the point it
/// is given sends itself the signal it is given, or writes down what came of it.
pub fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let (conf, dir) = (variable("CAUSEWAY_TEST_CEPH"), variable("CAUSEWAY_TEST_DIR"));
    let mut on =
        Stage::at(Path::new(&conf), Path::new(&dir), variable("CAUSEWAY_TEST_IMAGE").parse().unwrap());
    on.user = variable("CAUSEWAY_TEST_USER");
    let call = serde_json::from_str(&variable("CAUSEWAY_TEST_CALL")).unwrap();
    let at: usize = variable("CAUSEWAY_TEST_POINT").parse().unwrap();
    let signal = match variable("CAUSEWAY_TEST_SIGNAL").as_str() {
        "stop" => Signal::STOP,
        _ => Signal::KILL,
    };
    let passed = RefCell::new(0);
    let came = on.act(&call, &|_| {
        *passed.borrow_mut() += 1;
        if *passed.borrow() == at.saturating_add(1) {
            kill_process(Pid::from_raw(std::process::id() as i32).unwrap(), signal).unwrap();
        }
    });
    std::fs::write(answer(&on), serde_json::to_vec(&came.map(drop)).unwrap()).unwrap();
}

/// Where a child writes down what came of its call.
pub fn answer(on: &Stage) -> PathBuf {
    on.dir().join("answer")
}

/// What came of a child's call, unless it was killed.
pub fn came(on: &Stage) -> Option<Result<(), Failure>> {
    let bytes = std::fs::read(answer(on)).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

/// That child, to be killed at a point, or not at all.
pub fn command(on: &Stage, call: &Value, point: usize) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    tell(&mut child, on, call, point);
    child
}

/// That child, not killed but looked at.
#[cfg(target_arch = "x86_64")]
pub fn watched(on: &Stage, call: &Value) -> Command {
    let mut child = causeway_testing::tracer::command(std::env::current_exe().unwrap());
    tell(&mut child, on, call, usize::MAX);
    child
}

/// Tells a child what it is to do.
fn tell(child: &mut Command, on: &Stage, call: &Value, point: usize) {
    child.args(["--exact", "killed_child", "--ignored"]).stdout(Stdio::null()).stderr(Stdio::null());
    child.env("CAUSEWAY_TEST_CEPH", &on.conf).env("CAUSEWAY_TEST_DIR", on.dir());
    child.env("CAUSEWAY_TEST_IMAGE", on.image.to_string()).env("CAUSEWAY_TEST_USER", &on.user);
    child.env("CAUSEWAY_TEST_CALL", call.to_string()).env("CAUSEWAY_TEST_POINT", point.to_string());
    child.env("CAUSEWAY_TEST_SIGNAL", "kill");
}

/// Has a call killed at its point of that number.
pub fn at(on: &Stage, call: &Value, point: usize) {
    use std::os::unix::process::ExitStatusExt;
    let ended = command(on, call, point).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(9), "{call}, point {point}: {:?}, {said}", came(on));
}

/// Kills calls between any two of their effects and makes them again; in the short form some of them at every fourth point of
/// theirs: each run has others. `done` looks at each that came to its end, undisturbed.
pub fn campaign(
    test: &str,
    conf: &Path,
    all: Vec<Case>,
    short: usize,
    done: impl Fn(&Case, &Stage, &Picture) + Sync,
) {
    let (points, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let all = chosen("CAUSEWAY_TEST_STEP", all, |case| case.name);
    let cases = super::share(&all, short.min(all.len()));
    at_once(&cases, |case| {
        let (Known { passed, before, after, .. }, on) = Known::learn(conf, case, "one");
        done(case, &on, &after);
        assert!(passed.len() > 2, "{}: {passed:?}", case.name);
        for (index, point) in passed.iter().enumerate() {
            let number = points.fetch_add(1, Ordering::Relaxed);
            if !super::long() && !(number + std::process::id() as usize).is_multiple_of(4) {
                continue;
            }
            let on = Stage::new(conf).before(case, "one");
            let call = (case.call)(&on);
            at(&on, &call, index);
            // W26: not even now.
            on.nothing_staged();
            case.judge(point, &on.picture(), &before, &after);
            on.act(&call, &|_| {}).unwrap_or_else(|failure| panic!("{} at {point}: {failure}", case.name));
            assert_eq!(ended(&on), after, "{} killed at {point}", case.name);
            tried.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (tried, points) = (tried.into_inner(), points.into_inner());
    let text = format!(
        "\n{test}: {} of {} steps, killed at {tried} of {points} points; 0 bytes lost\n",
        cases.len(),
        all.len()
    );
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// What is there after a call that came to its end: nothing half-made, no snapshot of its own, nothing staged.
pub fn ended(on: &Stage) -> Picture {
    let picture = on.picture();
    let half_made: Vec<&String> = picture.keys().filter(|name| name.contains(".causeway-")).collect();
    assert!(half_made.is_empty(), "{half_made:?}");
    let own = picture.values().flat_map(|seen| &seen.snapshots).find(|s| s.0.starts_with("causeway-"));
    assert_eq!(own, None);
    on.nothing_staged();
    picture
}

/// Takes out of a picture what goes with a later call; the names.
pub fn settle(picture: &mut Picture) -> Vec<String> {
    let mut names: Vec<String> = picture.keys().filter(|name| name.contains(".causeway-")).cloned().collect();
    picture.retain(|name, _| !name.contains(".causeway-"));
    for (volume, seen) in picture {
        let own = |name: &str| name.starts_with("causeway-");
        names.extend(seen.snapshots.iter().filter(|s| own(&s.0)).map(|s| format!("{volume}@{}", s.0)));
        seen.snapshots.retain(|snapshot| !own(&snapshot.0));
    }
    names
}

impl Stage {
    /// What is left to compare when the cluster may still take a dead client for a living one.
    pub fn settled(&self) -> Picture {
        let mut picture = self.picture();
        settle(&mut picture);
        picture
    }
}
