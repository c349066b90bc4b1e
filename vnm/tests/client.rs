//! The unprivileged side against programs that behave badly: every wait ends, and every error says what happened.

#![cfg(test)]

mod common;

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use causeway_core::names::RequestId;
use causeway_vnm::asked::Moment;
use causeway_vnm::desired::Settings;
use causeway_vnm::root::client::{ClientError, RootClient};
use causeway_vnm::root::{Hello, Outcome, Request, SCHEMA, Verb};
use causeway_vnm::slot::{self, Context, Root};
use common::limits::NoGuests;
use common::side::{Side, response};

const SOON: Duration = Duration::from_millis(300);
const EVER: Duration = Duration::from_secs(30);

fn request(document: &[u8]) -> Request {
    Request {
        id: "test-1".parse().unwrap(),
        verb: Verb::Pre,
        driver: "vxlan".parse().unwrap(),
        args: Vec::new(),
        document: String::new(),
        settings: Settings::default(),
        dry_run: false,
        asked: None,
        deadline_ms: 1000,
    }
    .with_document(document)
}

fn text(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

/// Whether any process still has `dir` in its command line.
fn is_alive(dir: &Path) -> bool {
    let dir = dir.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.into_iter().any(|command| String::from_utf8_lossy(&command).contains(&format!("cd {dir}")))
}

#[test]
fn one_child_answers_many_requests() {
    let fake = Side::new();
    let argv =
        fake.argv("cat hello; for i in 1 2 3; do head -c 4 >/dev/null; cat done; done; cat >/dev/null");
    let mut client = RootClient::start(&argv, EVER).unwrap();
    for _ in 0..3 {
        assert_eq!(client.call(&request(b"<VM/>"), EVER).unwrap().outcome, Outcome::Done);
    }
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let error = RootClient::start(&["/nonexistent/causeway-root"], EVER).err().unwrap();
    assert!(text(&error).starts_with("start /nonexistent/causeway-root: "), "{}", text(&error));
}

#[test]
fn what_sudo_says_reaches_the_log() {
    let fake = Side::new();
    let argv = fake.argv("echo 'sudo: a password is required' >&2; exit 1");
    let error = RootClient::start(&argv, EVER).err().unwrap();
    assert!(matches!(error, ClientError::Ended { .. }));
    assert!(text(&error).contains("(exit code 1): sudo: a password is required"), "{}", text(&error));
}

#[test]
fn another_release_is_refused_with_the_command_that_mends_it() {
    let fake = Side::new();
    fake.frame("old", &Hello { schema: SCHEMA + 1, version: "9.9.9".to_owned(), ..Hello::ours() });
    let error = RootClient::start(&fake.argv("cat old; cat >/dev/null"), EVER).err().unwrap();
    assert!(
        text(&error).contains("version 9.9.9") && text(&error).contains("install.sh host"),
        "{}",
        text(&error)
    );
}

#[test]
fn a_silent_program_costs_its_deadline_and_nothing_stays() {
    let fake = Side::new();
    let begun = Instant::now();
    let error = RootClient::start(&fake.argv("exec sleep 600"), SOON).err().unwrap();
    assert!(matches!(error, ClientError::Late { .. }), "{error}");
    assert!(begun.elapsed() >= SOON);
    let mut client = RootClient::start(&fake.argv("cat hello; cat >/dev/null; true"), EVER).unwrap();
    let error = client.call(&request(b"<VM/>"), SOON).unwrap_err();
    assert!(matches!(error, ClientError::Late { .. }), "{error}");
    assert!(!client.is_open(), "a late answer would be taken for the next one's");
    assert!(client.call(&request(b"<VM/>"), SOON).is_err());
    drop(client);
    let end = Instant::now() + EVER;
    while is_alive(fake.dir.path()) {
        assert!(Instant::now() < end, "a child was left behind");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_no_protocol_is_no_answer() {
    let fake = Side::new();
    for script in
        ["echo 'Welcome to this host, dear user'", "printf '\\000\\000\\000\\004null'", "printf 'xy'"]
    {
        let error = RootClient::start(&fake.argv(script), EVER).err().unwrap();
        assert!(matches!(error, ClientError::Answer { .. } | ClientError::Ended { .. }), "{script}: {error}");
    }
}

#[test]
fn the_answer_to_another_request_is_not_taken() {
    let fake = Side::new();
    fake.frame("stray", &response(Some("test-2")));
    let mut client = RootClient::start(&fake.argv("cat hello stray; cat >/dev/null"), EVER).unwrap();
    assert!(matches!(client.call(&request(b"<VM/>"), EVER), Err(ClientError::Stray { .. })));
    assert!(!client.is_open());
}

#[test]
fn a_large_document_and_a_talkative_program_do_not_block_each_other() {
    let fake = Side::new();
    // Far more than a pipe holds, in all three directions at once.
    let argv = fake.argv("cat hello; head -c 1000000 /dev/zero | tr '\\0' x >&2; head -c 2000000 >/dev/null; cat done; cat >/dev/null");
    let mut client = RootClient::start(&argv, EVER).unwrap();
    let document = vec![b'x'; 3_000_000];
    assert_eq!(client.call(&request(&document), EVER).unwrap().outcome, Outcome::Done);
    let too_large = vec![b'x'; 7 << 20];
    assert!(client.call(&request(&too_large), EVER).is_err());
}

fn context() -> Context {
    let request: RequestId = "test-1".parse().unwrap();
    Context { request, settings: Settings::default(), deadline: EVER, dry_run: false, asked: Moment::now() }
}

#[test]
fn a_program_that_died_between_requests_is_started_again() {
    let fake = Side::new();
    let root = Mutex::new(Root::new(fake.argv("echo >>starts; cat hello; head -c 4 >/dev/null; cat done")));
    for expected in 1..=3 {
        let answer = slot::run("pre", "vxlan", &[], b"PFZNLz4=\n", &context(), &root, &NoGuests).unwrap();
        assert_eq!((answer.stdout.as_str(), answer.notes.len()), ("", 1));
        let starts = std::fs::read_to_string(fake.dir.path().join("starts")).unwrap();
        assert_eq!(starts.lines().count(), expected);
    }
}

#[test]
fn a_slot_refuses_what_is_no_input_without_waking_anybody() {
    let root = Mutex::new(Root::new(vec!["/nonexistent/never-started".to_owned()]));
    let run = |verb: &str, driver: &str, stdin: &[u8]| {
        slot::run(verb, driver, &[], stdin, &context(), &root, &NoGuests)
    };
    assert!(run("pre", "vxlan", b"not base64!").unwrap_err().text.contains("standard input: not base64"));
    assert!(run("reboot", "vxlan", b"").unwrap_err().text.contains("no action of a network driver"));
    assert!(run("pre", "../vxlan", b"").unwrap_err().text.contains("driver name"));
    for verb in ["vnet_create", "vnet_delete"] {
        assert_eq!(run(verb, "vxlan", b"PFZORVQvPg==").unwrap().stdout, "");
    }
    let text = run("pre", "vxlan", b"PFZNLz4=").unwrap_err().text;
    assert!(text.starts_with("start /nonexistent/never-started: "), "{text}");
}
