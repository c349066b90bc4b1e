//! File workers, with real children.

#![cfg(test)]

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::reach::worker::Workers;
use causeway_testing::worker::Ask;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes, shorter than a person waits.
const LONG: Duration = Duration::from_secs(60);

fn workers(count: usize) -> Workers {
    Workers::new(vec![OsString::from(env!("CARGO_BIN_EXE_causeway-fake-host")), "worker".into()], count)
}

async fn ask(workers: &Workers, ask: Ask) -> Result<String, Failure> {
    workers.call(&ask, LONG).await
}

/// Waits until the process has gone with all its threads, or only waits for its parent to be told.
async fn is_gone(pid: i32) -> bool {
    for _ in 0..500 {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        if state.is_empty() || (state.contains(") Z ") && threads <= 1) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// The two process ids that a hanging worker leaves: its own and its child's.
async fn hanging(register: &Path) -> [i32; 2] {
    loop {
        if let Ok(text) = std::fs::read_to_string(register) {
            let ids: Vec<i32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
            return ids.try_into().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn hang(register: &Path) -> Ask {
    Ask::Hang { register: register.to_str().unwrap().to_owned() }
}

#[tokio::test]
async fn a_worker_is_kept_and_its_failures_are_its_own() {
    let workers = workers(2);
    let first = ask(&workers, Ask::Pid).await.unwrap();
    assert_eq!(ask(&workers, Ask::Echo("\u{fffd}\0 'x'\n".to_owned())).await.unwrap(), "\u{fffd}\0 'x'\n");
    let failure = ask(&workers, Ask::Fail("no space".to_owned())).await.unwrap_err();
    assert_eq!((failure.kind, failure.text.as_str()), (Kind::HostState, "no space"));
    assert_eq!(
        ask(&workers, Ask::Pid).await.unwrap(),
        first,
        "one that failed to do something is not broken"
    );
    let large = "x".repeat(9 << 20);
    assert_eq!(ask(&workers, Ask::Echo(large.clone())).await.unwrap(), large);
}

#[tokio::test]
async fn at_its_deadline_a_worker_is_killed_with_its_children_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let register = dir.path().join("pids");
    let workers = workers(1);
    let before = ask(&workers, Ask::Pid).await.unwrap();
    let failure = workers.call::<_, String>(&hang(&register), Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(failure.kind, Kind::Timeout);
    let [worker, child] = hanging(&register).await;
    assert_eq!(worker.to_string(), before);
    assert!(is_gone(worker).await, "the worker still runs");
    assert!(is_gone(child).await, "its child still runs");
    assert_ne!(ask(&workers, Ask::Pid).await.unwrap(), before, "the one place is free again");
}

#[tokio::test]
async fn a_call_that_is_given_up_takes_its_worker_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let register = dir.path().join("pids");
    let workers = workers(1);
    let ask_to_hang = hang(&register);
    let [worker, child] = tokio::select! {
        _ = workers.call::<_, String>(&ask_to_hang, LONG) => panic!("it never answers"),
        ids = hanging(&register) => ids,
    };
    assert!(is_gone(worker).await && is_gone(child).await);
    assert_eq!(ask(&workers, Ask::Echo("next".to_owned())).await.unwrap(), "next");
}

#[tokio::test]
async fn a_worker_that_dies_costs_one_answer() {
    let workers = workers(1);
    let failure = ask(&workers, Ask::Die).await.unwrap_err();
    assert_eq!(failure.kind, Kind::HostState);
    assert!(failure.text.starts_with("file worker: "), "{failure}");
    assert_eq!(ask(&workers, Ask::Echo("next".to_owned())).await.unwrap(), "next");
}

#[tokio::test]
async fn one_that_died_while_idle_costs_nothing() {
    let workers = workers(1);
    let pid: i32 = ask(&workers, Ask::Pid).await.unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert!(is_gone(pid).await);
    assert_ne!(ask(&workers, Ask::Pid).await.unwrap(), pid.to_string());
}

#[tokio::test]
async fn no_more_than_so_many_work_at_once() {
    let workers = workers(2);
    let calls = (0..40).map(|number: u32| {
        let workers = &workers;
        async move {
            assert_eq!(ask(workers, Ask::Echo(number.to_string())).await.unwrap(), number.to_string());
            ask(workers, Ask::Pid).await.unwrap()
        }
    });
    let mut pids = join_all(calls).await;
    pids.sort();
    pids.dedup();
    assert!(pids.len() <= 2, "{pids:?}");
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_a_failure() {
    let missing = Workers::new(vec!["/nonexistent/worker".into()], 1);
    assert_eq!(ask(&missing, Ask::Pid).await.unwrap_err().kind, Kind::HostState);
    // It answers with our own frame.
    let parrot = Workers::new(vec!["/bin/cat".into()], 1);
    let failure = ask(&parrot, Ask::Pid).await.unwrap_err();
    assert!(failure.text.contains("does not speak our protocol"), "{failure}");
}

#[tokio::test]
async fn a_worker_whose_parent_goes_ends_in_the_middle_of_its_work() {
    let dir = tempfile::tempdir().unwrap();
    let register = dir.path().join("pids");
    // The parent's end of the pipe is all that a worker knows of it: closing it is what a death looks like.
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_causeway-fake-host"));
    child.arg("worker").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut child, 0);
    let mut child = child.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let request = causeway_core::reach::frame::encode(&hang(&register)).unwrap();
    std::io::Write::write_all(&mut input, &request).unwrap();
    let [worker, grandchild] = hanging(&register).await;
    drop(input);
    assert!(is_gone(worker).await, "the worker still runs");
    assert!(is_gone(grandchild).await, "its child still runs");
    child.wait().unwrap();
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in pinned.iter_mut().zip(&mut results) {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}
