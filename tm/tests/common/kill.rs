//! A call in a process of its own: killed at one of its points, or watched by the tracer.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Datastores;

/// The child's part, for an `#[ignore]`d test of the name `killed_child`: performs the call it is given, and kills itself
/// at the point it is given or writes down what came of it.
pub fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let on = Datastores::at(Path::new(&variable("CAUSEWAY_TEST_DIR")));
    let call = serde_json::from_str(&variable("CAUSEWAY_TEST_CALL")).unwrap();
    let input: Vec<Vec<u8>> =
        std::env::var("CAUSEWAY_TEST_INPUT").into_iter().map(String::into_bytes).collect();
    let at: usize = std::env::var("CAUSEWAY_TEST_POINT").map_or(usize::MAX, |text| text.parse().unwrap());
    let passed = RefCell::new(0);
    let came = on.perform_at(&call, &input, &|_| {
        *passed.borrow_mut() += 1;
        if *passed.borrow() > at {
            kill_process(Pid::from_raw(std::process::id() as i32).unwrap(), Signal::KILL).unwrap();
        }
    });
    let came = serde_json::to_vec(&came.map(drop)).unwrap();
    std::fs::write(variable("CAUSEWAY_TEST_ANSWER"), came).unwrap();
}

/// Tells a child which call of which datastores it is to perform; where it writes down what came of it.
pub fn tell(child: &mut Command, on: &Datastores, call: &Value, input: Option<&str>) -> PathBuf {
    let answer = on.root.parent().unwrap().join("answer");
    child.args(["--exact", "killed_child", "--ignored"]).stdout(Stdio::null()).stderr(Stdio::null());
    child.env("CAUSEWAY_TEST_DIR", on.root.parent().unwrap());
    child.env("CAUSEWAY_TEST_CALL", call.to_string()).env("CAUSEWAY_TEST_ANSWER", &answer);
    if let Some(input) = input {
        child.env("CAUSEWAY_TEST_INPUT", input);
    }
    answer
}

/// Has a call killed at its point of that number.
pub fn at(on: &Datastores, call: &Value, input: Option<&str>, point: usize) {
    use std::os::unix::process::ExitStatusExt;
    let mut child = Command::new(std::env::current_exe().unwrap());
    tell(&mut child, on, call, input);
    child.env("CAUSEWAY_TEST_POINT", point.to_string());
    assert_eq!(child.status().unwrap().signal(), Some(9), "{call}, point {point}");
}

/// A call in a process that the tracer can watch, and where it writes down what came of it.
#[cfg(target_arch = "x86_64")]
pub fn watched(on: &Datastores, call: &Value, input: Option<&str>) -> (Command, PathBuf) {
    let mut child = causeway_testing::tracer::command(std::env::current_exe().unwrap());
    let answer = tell(&mut child, on, call, input);
    (child, answer)
}

/// Does it with each, four at a time: they wait for the disk more than for the processor. What they count, together.
pub fn each<T: Sync>(all: &[T], one: impl Fn(&T) -> usize + Sync) -> usize {
    let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    sum.fetch_add(one(case), Ordering::Relaxed);
                }
            });
        }
    });
    sum.into_inner()
}
