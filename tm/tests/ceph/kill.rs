//! A call in a process of its own, which ends or stands still at one of its points, and what is there in the end.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Picture, Stage};

/// The child's part, for an `#[ignore]`d test of the name `killed_child`: performs the call it is given by `act`, and at the
/// point it is given sends itself the signal it is given.
pub fn child(act: impl FnOnce(&Stage, &Value, &dyn Fn(&'static str))) {
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
    act(&on, &call, &|_| {
        *passed.borrow_mut() += 1;
        if *passed.borrow() == at.saturating_add(1) {
            kill_process(Pid::from_raw(std::process::id() as i32).unwrap(), signal).unwrap();
        }
    });
}

/// That child, to be killed at a point, or not at all.
pub fn command(on: &Stage, call: &Value, point: usize) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    tell(&mut child, on, call, point);
    child
}

/// Tells a child what it is to do.
pub fn tell(child: &mut Command, on: &Stage, call: &Value, point: usize) {
    child.args(["--exact", "killed_child", "--ignored"]).stdout(Stdio::null()).stderr(Stdio::null());
    child.env("CAUSEWAY_TEST_DIR", on.dir()).env("CAUSEWAY_TEST_IMAGE", on.image.to_string());
    child.env("CAUSEWAY_TEST_CALL", call.to_string()).env("CAUSEWAY_TEST_POINT", point.to_string());
    child.env("CAUSEWAY_TEST_SIGNAL", "kill").env("CAUSEWAY_TEST_USER", &on.user);
}

/// Has a call killed at its point of that number.
pub fn at(on: &Stage, call: &Value, point: usize) {
    use std::os::unix::process::ExitStatusExt;
    let ended = command(on, call, point).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(9), "{call}, point {point}: {said}");
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

impl Stage {
    /// What is left to compare when the cluster may still take a dead client for a living one.
    pub fn settled(&self) -> Picture {
        let mut picture = self.picture();
        picture.retain(|name, _| !name.contains(".causeway-"));
        for seen in picture.values_mut() {
            seen.snapshots.retain(|snapshot| !snapshot.0.starts_with("causeway-"));
        }
        picture
    }
}
