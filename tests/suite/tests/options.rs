//! The words of `ARGUMENTS` that change how a step is run: `-d` and `-r` (contract VMM 1.2).

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use causeway_suite::front_end::{Answer, FrontEnd};
use causeway_suite::oned::Oned;
use causeway_suite::programs::program;
use causeway_suite::request::Request;

const DEPLOY: (&str, &str) = ("k-qcow2-01", "DEPLOY");
const RESIZE: (&str, &str) = ("k-vmm-07", "RESIZE");
const MIGRATE: (&str, &str) = ("k-qcow2-06", "MIGRATE");
const REBOOT: (&str, &str) = ("k-vmm-01", "REBOOT");

/// An agent without keys.
struct Agent(Child);

impl Agent {
    fn start(socket: &Path) -> Agent {
        let mut command = Command::new("ssh-agent");
        let agent = command.args(["-D", "-a"]).arg(socket).stdout(Stdio::null()).spawn().unwrap();
        let limit = Instant::now() + Duration::from_secs(60);
        while !socket.exists() {
            assert!(Instant::now() < limit, "the agent does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        Agent(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn driver(front_end: &FrontEnd, arguments: &str, agent: &Path) -> Oned {
    let nest = front_end.driver("causeway-vmm", arguments).unwrap().env("SSH_AUTH_SOCK", agent);
    let mut oned = Oned::start(&nest).unwrap().with_patience(Duration::from_secs(60));
    oned.init().unwrap();
    oned
}

/// Whether the request succeeds, as recorded and for this front-end.
fn succeeds(front_end: &FrontEnd, oned: &mut Oned, (scenario, action): (&str, &str)) -> bool {
    let recorded = Request::recorded(scenario, action).unwrap();
    let request = recorded.map(|text| front_end.localized(text)).unwrap();
    if action == "DEPLOY" {
        request.write_deployment().unwrap();
    }
    oned.send(&request.action, request.vm, &request.render()).unwrap();
    oned.reply(action, request.vm).unwrap().is_success()
}

/// A stand-in's answer that says whether the agent was there: exit code 0 only then, and the deploy id in any case.
fn if_agent() -> Answer {
    Answer::says("6e1f0f2a-0000-4000-8000-000000000001\n")
        .once_run("[ -S \"$SSH_AUTH_SOCK\" ] || { echo 'no agent' >&2; exit 7; }")
}

#[test]
fn d_gives_the_agent_to_the_actions_that_it_names_and_to_no_others() {
    for (arguments, expected) in [
        ("-t 15 -r 0 kvm -p", [false, false, true]),
        ("-t 15 -r 0 kvm -p -d deploy,reboot", [true, true, false]),
        ("-t 15 -r 0 kvm -p -d Migrate,deploy", [true, false, true]),
    ] {
        let front_end = FrontEnd::new().unwrap();
        let socket = front_end.root().join("agent");
        let _agent = Agent::start(&socket);
        for slot in ["vmm/kvm/deploy", "vmm/kvm/reboot", "vmm/kvm/migrate"] {
            front_end.answer(slot, &if_agent()).unwrap();
        }
        let mut oned = driver(&front_end, arguments, &socket);
        let found = [DEPLOY, REBOOT, MIGRATE].map(|request| succeeds(&front_end, &mut oned, request));
        assert_eq!(found, expected, "{arguments}");
        oned.finalize().unwrap();
    }
}

#[test]
fn r_tries_steps_by_a_call_of_their_own_again_and_no_others() {
    for (retries, failures, resized) in [(2, 2, true), (2, 3, false), (0, 1, false)] {
        let front_end = FrontEnd::new().unwrap();
        let runs = |slot: &str| front_end.calls().unwrap().iter().filter(|call| call.slot == slot).count();
        let mut oned = driver(&front_end, &format!("-t 15 -r {retries} kvm -p"), Path::new("/nonexistent"));
        for _ in 0..failures {
            front_end.answer_once("vmm/kvm/resize", &Answer::fails(1, "busy\n")).unwrap();
        }
        assert_eq!(succeeds(&front_end, &mut oned, RESIZE), resized, "{retries} {failures}");
        assert_eq!(runs("vmm/kvm/resize"), retries + 1);
        front_end.answer_once("vmm/kvm/reboot", &Answer::fails(1, "busy\n")).unwrap();
        assert!(!succeeds(&front_end, &mut oned, REBOOT));
        assert_eq!(runs("vmm/kvm/reboot"), 1);
        oned.finalize().unwrap();
    }
}

/// oned closes standard error, and ends without a word of its own when a driver does not start.
#[test]
fn what_keeps_a_driver_from_starting_is_in_its_log() {
    for (settings, arguments, named) in
        [("[deadlinez]\nvmm = 3", "-t 15 kvm", "deadlinez"), ("", "-t fifteen kvm", "fifteen")]
    {
        let front_end = FrontEnd::new().unwrap();
        front_end.configure(settings).unwrap();
        let oned = Oned::start(&front_end.driver("causeway-vmm", arguments).unwrap()).unwrap();
        let ended = oned.close().unwrap();
        assert!(!ended.status.success() && ended.replies.is_empty(), "{ended:?}");
        let log = std::fs::read_to_string(front_end.var().join("causeway-vmm.log")).unwrap();
        assert!(log.contains("not started") && log.contains(named), "{log}");
    }
}

/// A script that pipes all it has to say, and does not wait for answers.
#[test]
fn what_is_answered_is_said_before_the_end() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = Oned::start(&front_end.driver("causeway-vmm", "-t 15 kvm").unwrap()).unwrap();
    oned.owe("DEPLOY", 5);
    oned.say(b"INIT\nDEPLOY 5 !!\nFINALIZE\n").unwrap();
    let reply = oned.reply("DEPLOY", 5).unwrap();
    assert!(!reply.is_success(), "{reply:?}");
}

#[test]
fn the_plan_of_a_line_is_printed_and_nothing_is_logged_or_done() {
    let front_end = FrontEnd::new().unwrap();
    let deploy = Request::recorded(DEPLOY.0, DEPLOY.1).unwrap();
    let deploy = deploy.map(|text| front_end.localized(text)).unwrap();
    deploy.write_deployment().unwrap();
    let line = front_end.root().join("request");
    let payload = BASE64_STANDARD.encode(deploy.render());
    std::fs::write(&line, format!("DEPLOY {} {payload}\n", deploy.vm)).unwrap();
    let plan = |arguments: &[&str]| {
        let mut command = Command::new(program("causeway").unwrap());
        command.arg("plan").args(arguments).arg(&line).env("ONE_LOCATION", front_end.location());
        command.output().unwrap()
    };
    let printed = plan(&[]);
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.status.success() && text.contains("  deploy @ "), "{printed:?}");
    let refused = plan(&["--arguments", "-t fifteen kvm"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("fifteen"));
    assert!(!front_end.var().join("causeway-vmm.log").exists());
    assert_eq!(front_end.calls().unwrap().len(), 0);
}
