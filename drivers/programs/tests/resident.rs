//! The resident's end, as the built executable meets it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Place, Step, Work};
use causeway_core::reach::frame;
use causeway_core::reach::wire::{Exchange, ToResident, WireStep};

/// A resident whose driver may be silent for that many seconds.
fn resident(directory: &Path, lease: u32) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-host"));
    command.arg("resident").args(["--uri", "test:///default"]);
    command.arg("--remotes").arg(directory).arg("--state").arg(directory);
    command.env("CAUSEWAY_LEASE", lease.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn say(resident: &mut Child, message: &ToResident) -> std::io::Result<()> {
    resident.stdin.as_mut().unwrap().write_all(&frame::encode(message).unwrap())
}

/// Makes a directory.
fn exchange(path: &Path) -> ToResident {
    let path = path.to_str().unwrap().parse().unwrap();
    let host = Place::Host("h1".parse().unwrap());
    let step = Step::new("mkdir", host, Work::MakeDir { path }, Duration::from_secs(60));
    ToResident::Run(Box::new(Exchange {
        request: RequestId::new(1, 2, 3),
        action: "DEPLOY".to_owned(),
        vm: VmId(7),
        steps: vec![WireStep::from(&step)],
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
    }))
}

/// All that it says until it hangs up, and that it ends then.
fn last_words(resident: &mut Child) -> String {
    let mut said = Vec::new();
    resident.stdout.as_mut().unwrap().read_to_end(&mut said).unwrap();
    assert!(resident.wait().unwrap().success());
    String::from_utf8_lossy(&said).into_owned()
}

/// A network that is back after a long time brings what was sent before, though the driver has long asked over another
/// session, been told that nobody is at work on the VM, and answered.
#[test]
fn what_comes_after_a_long_silence_is_not_done() {
    let directory = tempfile::tempdir().unwrap();
    let late = directory.path().join("late");
    let mut resident = resident(directory.path(), 1);
    sleep(Duration::from_secs(3));
    // It may have hung up already.
    let _ = say(&mut resident, &exchange(&late));
    let said = last_words(&mut resident);
    assert!(said.contains("hello") && !said.contains("mkdir"), "{said}");
    assert!(!late.exists());
}

#[test]
fn a_driver_that_says_that_it_is_there_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    let mut resident = resident(directory.path(), 30);
    for _ in 0..3 {
        say(&mut resident, &ToResident::Alive).unwrap();
    }
    say(&mut resident, &exchange(&made)).unwrap();
    while !made.exists() {
        assert!(resident.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(10));
    }
    drop(resident.stdin.take());
    let said = last_words(&mut resident);
    assert!(said.contains("mkdir"), "{said}");
}
