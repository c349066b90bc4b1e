//! A call that is killed at one of its points, in a process of its own.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Datastores;

/// The child's part, for an `#[ignore]`d test of the name `killed_child`: performs the call it is given and kills itself
/// at the point it is given.
pub fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let on = Datastores::below(Path::new(&variable("CAUSEWAY_TEST_DIR")));
    let call = serde_json::from_str(&variable("CAUSEWAY_TEST_CALL")).unwrap();
    let input: Vec<Vec<u8>> =
        std::env::var("CAUSEWAY_TEST_INPUT").into_iter().map(String::into_bytes).collect();
    let at: usize = variable("CAUSEWAY_TEST_POINT").parse().unwrap();
    let passed = RefCell::new(0);
    on.perform_at(&call, &input, &|_| {
        *passed.borrow_mut() += 1;
        if *passed.borrow() > at {
            kill_process(Pid::from_raw(std::process::id() as i32).unwrap(), Signal::KILL).unwrap();
        }
    })
    .unwrap();
}

/// Has a call killed at its point of that number.
pub fn at(on: &Datastores, call: &Value, input: Option<&str>, point: usize) {
    use std::os::unix::process::ExitStatusExt;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "killed_child", "--ignored"]).stdout(Stdio::null()).stderr(Stdio::null());
    child.env("CAUSEWAY_TEST_DIR", on.root.parent().unwrap());
    child.env("CAUSEWAY_TEST_CALL", call.to_string());
    child.env("CAUSEWAY_TEST_POINT", point.to_string());
    if let Some(input) = input {
        child.env("CAUSEWAY_TEST_INPUT", input);
    }
    assert_eq!(child.status().unwrap().signal(), Some(9), "{call}, point {point}");
}
