//! Sections 1.1 to 1.6 of the VMM contract, and what the recorded edge cases taught about oned, as tests of the built
//! driver process.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use causeway_suite::front_end::{Answer, Event, FrontEnd, Site};
use causeway_suite::oned::{Oned, Reply};
use causeway_suite::request::Request;

const KVM: &str = "-t 15 -r 0 kvm -p";

fn driver(front_end: &FrontEnd, arguments: &str) -> Oned {
    let mut oned = Oned::start(&front_end.driver("causeway-vmm", arguments).unwrap()).unwrap();
    oned.init().unwrap();
    oned
}

fn recorded(front_end: &FrontEnd, scenario: &str, action: &str) -> Request {
    let recorded = Request::recorded(scenario, action).unwrap();
    let request = recorded.map(|text| front_end.localized(text)).unwrap();
    request.write_deployment().unwrap();
    request
}

fn ask(oned: &mut Oned, request: &Request) -> Reply {
    oned.ask(&request.action, request.vm, &request.render()).unwrap()
}

/// Spoils a request in one place.
type Breaking = fn(&mut Request);

/// A request that costs one stand-in and no more: proof that the driver still serves.
fn serves(front_end: &FrontEnd, oned: &mut Oned) {
    let reply = ask(oned, &recorded(front_end, "k-vmm-01", "REBOOT"));
    assert!(reply.is_success(), "{reply:?}");
}

fn payload(request: &Request) -> String {
    BASE64_STANDARD.encode(request.render())
}

// 1.1 The nest.

#[test]
fn the_hostile_nest_reaches_neither_the_driver_nor_its_children() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let status = fs::read_to_string(format!("/proc/{}/status", oned.pid())).unwrap();
    let blocked = status.lines().find(|line| line.starts_with("SigBlk:")).unwrap();
    assert_eq!(blocked, "SigBlk:\t0000000000000000");
    let stderr = fs::read_link(format!("/proc/{}/fd/2", oned.pid())).unwrap();
    assert_eq!(stderr, PathBuf::from("/dev/null"));

    // What two stand-ins see of it, one started here and one on a host.
    // The shell reads its own mask itself: it blocks signals while it starts a program, and clears them for that.
    let tell = "while read -r line; do case $line in SigBlk*) echo \"$line\" ;; esac; done \
                </proc/$$/status >\"$call/nest\"; ls -l /proc/self/fd >>\"$call/nest\"";
    for slot in ["tm/qcow2/context", "vmm/kvm/deploy"] {
        front_end.answer(slot, &Answer::says("one-0\n").once_run(tell)).unwrap();
    }
    assert!(ask(&mut oned, &recorded(&front_end, "k-qcow2-01", "DEPLOY")).is_success());
    let mut seen = 0;
    for call in fs::read_dir(front_end.root().join("slots/calls")).unwrap() {
        let Ok(nest) = fs::read_to_string(call.unwrap().path().join("nest")) else { continue };
        let mut lines = nest.lines();
        assert_eq!(lines.next().unwrap().split_whitespace().nth(1), Some("0000000000000000"));
        let inherited = |line: &&str| {
            let Some((facts, to)) = line.split_once(" -> ") else { return false };
            // The directory that is being listed is open too.
            !to.starts_with("/proc/") && ![" 0", " 1", " 2"].iter().any(|fd| facts.ends_with(fd))
        };
        let leaked: Vec<&str> = lines.filter(inherited).collect();
        assert_eq!(leaked, [""; 0]);
        seen += 1;
    }
    assert_eq!(seen, 2);
    oned.finalize().unwrap();
}

#[test]
fn all_arguments_come_as_one_and_each_option_is_honoured() {
    let front_end = FrontEnd::new().unwrap();
    // The positional word first, long options, a local step under another name, a deadline of seconds, another shell.
    let arguments = "kvm  --threads 3 -r 1 -p -l save=reset,reboot --timeout 4 -s /bin/sh -d migrate,save";
    let mut oned = driver(&front_end, arguments);
    // -l: on the front-end, the renamed script, standard input in base64 (contract VMM 2.3 step 3).
    let save = ask(&mut oned, &recorded(&front_end, "k-qcow2-02", "SAVE"));
    assert!(save.is_success(), "{save:?}");
    let calls = front_end.calls().unwrap();
    assert_eq!((calls[0].slot.as_str(), &calls[0].site), ("vmm/kvm/reset", &Site::FrontEnd));
    let document = BASE64_STANDARD.decode(&calls[0].stdin).unwrap();
    assert!(document.starts_with(b"<VMM_DRIVER_ACTION_DATA>"));
    assert_eq!(calls[1].site, Site::Host("node1".to_owned()));
    // -w: of VMM steps only.
    front_end.answer("vmm/kvm/cancel", &Answer::default().after(600.0)).unwrap();
    let cancel = ask(&mut oned, &recorded(&front_end, "k-qcow2-05", "CANCEL"));
    assert!(!cancel.is_success() && cancel.payload.contains("within 4 s"), "{cancel:?}");
    front_end.answer("vnm/ovswitch_vxlan/update_sg", &Answer::default().after(4.5)).unwrap();
    assert!(ask(&mut oned, &recorded(&front_end, "k-vmm-06", "UPDATESG")).is_success());
    oned.finalize().unwrap();
}

#[test]
fn only_delegated_actions_have_an_agent() {
    let front_end = FrontEnd::new().unwrap();
    let socket = front_end.root().join("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let nest = front_end.driver("causeway-vmm", KVM).unwrap().env("SSH_AUTH_SOCK", &socket);
    let mut oned = Oned::start(&nest).unwrap();
    oned.init().unwrap();
    let tell = Answer::default().once_run("echo \"${SSH_AUTH_SOCK:-none}\" >\"$home/agent-of-${slot##*/}\"");
    for verb in ["migrate", "save"] {
        front_end.answer(&format!("vmm/kvm/{verb}"), &tell).unwrap();
    }
    assert!(ask(&mut oned, &recorded(&front_end, "k-qcow2-06", "MIGRATE")).is_success());
    assert!(ask(&mut oned, &recorded(&front_end, "k-qcow2-02", "SAVE")).is_success());
    let of =
        |verb: &str| fs::read_to_string(front_end.root().join(format!("slots/agent-of-{verb}"))).unwrap();
    assert_ne!(of("migrate").trim(), "none");
    assert_eq!(of("save").trim(), "none");
    oned.finalize().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn a_driver_that_cannot_start_says_nothing_to_oned() {
    let front_end = FrontEnd::new().unwrap();
    for arguments in ["-t 0 kvm", "-t 15 kvm xen", "--no-such-option kvm"] {
        let mut oned = Oned::start(&front_end.driver("causeway-vmm", arguments).unwrap()).unwrap();
        let error = oned.init().unwrap_err().to_string();
        assert!(error.contains("ended instead") || error.contains("does not take"), "{arguments}: {error}");
    }
    front_end.configure("no_such_setting = 1").unwrap();
    let mut oned = Oned::start(&front_end.driver("causeway-vmm", KVM).unwrap()).unwrap();
    assert!(oned.init().is_err());
}

// 1.3 Handshake and lines.

#[test]
fn init_is_answered_in_a_write_of_its_own_and_nothing_comes_after_it() {
    let front_end = FrontEnd::new().unwrap();
    let nest = front_end.driver("causeway-vmm", KVM).unwrap().with_packets();
    let mut oned = Oned::start(&nest).unwrap();
    oned.init().unwrap();
    // What came in oned's one read behind the answer would be lost (recorded in e27).
    oned.listen(Duration::from_millis(2500));
    assert_eq!(oned.log(), []);
    oned.is_square().unwrap();
    serves(&front_end, &mut oned);
    oned.finalize().unwrap();
}

#[test]
fn lines_are_read_with_cr_blanks_and_tabs_and_bad_ones_cost_nobody_else() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let reboot = recorded(&front_end, "k-vmm-01", "REBOOT");
    let payload = payload(&reboot);
    let good = [
        format!("REBOOT  3 {payload}\r\n"),
        format!("  REBOOT \t 3   {payload}  \n"),
        // With a status word, should a release ever send one.
        format!("REBOOT - 3 {payload}\n"),
    ];
    for line in &good {
        oned.owe("REBOOT", 3);
        oned.say(line.as_bytes()).unwrap();
        assert!(oned.reply("REBOOT", 3).unwrap().is_success(), "{:?}", line.get(..20));
    }
    // What two of oned's threads that write at once may make of their lines; not text; control characters.
    let bad: [&[u8]; 8] = [
        b"\n",
        b"   \t \r\n",
        b"GARBAGE line here\n",
        b"PFZNTV9EUklWRVJfQUNUSU9OX0RBVEE+\n",
        b"\xff\xfe\x00\x01 \x80\n",
        b"REBOOT\n",
        b"REBOOT  -1 x\n",
        b"REBOOT  99999999999999999999 x\n",
    ];
    for line in bad {
        oned.say(line).unwrap();
    }
    serves(&front_end, &mut oned);
    assert_eq!(front_end.calls().unwrap().len(), 4);
    oned.is_square().unwrap();
    // Nobody's VM: oned's own log is told.
    assert!(oned.log().iter().any(|line| line.vm == -1 && line.severity == 'W'));
    oned.finalize().unwrap();
}

#[test]
fn whatever_has_a_type_and_an_id_is_answered() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let whole = payload(&recorded(&front_end, "k-vmm-01", "REBOOT"));
    let cut = whole.get(..whole.len() / 2 + 1).unwrap();
    for (line, action, about) in [
        (format!("POLL  3 {whole}\n"), "POLL", "POLL"),
        (format!("REBOT  3 {whole}\n"), "REBOT", "REBOT"),
        (format!("reboot  3 {whole}\n"), "reboot", "reboot"),
        (format!("TRANSFER  3 {whole}\n"), "TRANSFER", "TRANSFER"),
        ("REBOOT  3\n".to_owned(), "REBOOT", "payload"),
        ("REBOOT  3 \n".to_owned(), "REBOOT", "payload"),
        (format!("REBOOT  3 {cut}\n"), "REBOOT", "payload"),
        (format!("REBOOT  3 {whole} {whole}\n"), "REBOOT", "document"),
        ("REBOOT  3 !!!!\n".to_owned(), "REBOOT", "payload"),
        (format!("REBOOT  4 {whole}\n"), "REBOOT", "VM 3"),
    ] {
        let vm = if line.contains("  4 ") { 4 } else { 3 };
        oned.owe(action, vm);
        oned.say(line.as_bytes()).unwrap();
        let reply = oned.reply(action, vm).unwrap();
        assert_eq!(reply.status, "FAILURE", "{action}");
        assert!(reply.payload.contains(about), "{action}: {}", reply.payload);
    }
    assert_eq!(front_end.calls().unwrap().len(), 0);
    oned.is_square().unwrap();
    serves(&front_end, &mut oned);
    oned.finalize().unwrap();
}

#[test]
fn every_action_that_lacks_what_it_needs_is_answered() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let reboot = recorded(&front_end, "k-vmm-01", "REBOOT");
    let actions = [
        "DEPLOY",
        "RESTORE",
        "MIGRATE",
        "ATTACHDISK",
        "DETACHDISK",
        "ATTACHNIC",
        "DETACHNIC",
        "SNAPSHOTCREATE",
        "SNAPSHOTREVERT",
        "SNAPSHOTDELETE",
        "DISKSNAPSHOTCREATE",
        "RESIZEDISK",
        "UPDATESG",
        "UPDATENIC",
        "BACKUP",
        "BACKUPCANCEL",
        "EXEC",
        "SAVE",
    ];
    for action in actions {
        // The document of a REBOOT has a guest and no more.
        let reply = oned.ask(action, 3, &reboot.render()).unwrap();
        assert_eq!(reply.status, "FAILURE", "{action}");
        assert!(reply.payload.contains("needs "), "{action}: {}", reply.payload);
    }
    let mut guestless = reboot.clone();
    guestless.set_deploy_id("").unwrap();
    for action in ["SHUTDOWN", "CANCEL", "REBOOT", "RESET", "RESIZE", "UPDATECONF"] {
        let reply = oned.ask(action, 3, &guestless.render()).unwrap();
        assert!(!reply.is_success() && reply.payload.contains("DEPLOY_ID"), "{action}: {}", reply.payload);
    }
    assert_eq!(front_end.calls().unwrap().len(), 0);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_line_above_eight_mebibytes_fails_by_its_first_fields_and_a_hundred_megabytes_cost_no_memory() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    serves(&front_end, &mut oned);
    let before = oned.peak_memory().unwrap();
    for megabytes in [9, 100] {
        oned.owe("DEPLOY", 42);
        oned.say(b"DEPLOY  42 ").unwrap();
        let piece = vec![b'Q'; 1 << 20];
        for _ in 0..megabytes {
            oned.say(&piece).unwrap();
        }
        oned.say(b"\n").unwrap();
        let reply = oned.reply("DEPLOY", 42).unwrap();
        assert_eq!(reply.status, "FAILURE");
        assert!(reply.payload.contains(&(megabytes << 20).to_string()[..3]), "{}", reply.payload);
    }
    let grown = oned.peak_memory().unwrap() - before;
    // The limit itself, doubled once while the buffer grew, and change.
    assert!(grown < 24 << 10, "{grown} KiB more for a line that is thrown away");
    serves(&front_end, &mut oned);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn input_is_drained_while_everybody_is_busy() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, "-t 1 -r 0 kvm");
    let gate = front_end.root().join("slots/gate");
    let wait = "until [ -e \"$home/gate\" ]; do sleep 0.05; done";
    front_end.answer("vmm/kvm/reboot", &Answer::default().once_run(wait)).unwrap();
    let mut reboot = recorded(&front_end, "k-vmm-01", "REBOOT");
    // 300 requests of 80 KiB: many times what a pipe holds. oned blocks in its write if nobody reads.
    reboot.set("VM/USER_TEMPLATE", &"x".repeat(60_000)).unwrap();
    let vms = 1000..1300;
    for vm in vms.clone() {
        reboot.set("VM/ID", &vm.to_string()).unwrap();
        oned.send("REBOOT", vm, &reboot.render()).unwrap();
    }
    fs::write(gate, "").unwrap();
    for vm in vms {
        assert!(oned.reply("REBOOT", vm).unwrap().is_success(), "{vm}");
    }
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

// 1.4 Replies.

#[test]
fn a_reply_is_one_plain_line_whatever_a_script_says() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let deploy = recorded(&front_end, "k-qcow2-01", "DEPLOY");
    let post = |front_end: &FrontEnd| {
        let calls = front_end.calls().unwrap();
        calls.into_iter().rfind(|call| call.slot.ends_with("/post")).map(|call| call.argv)
    };
    // e21: oned takes the first word; so does `post`.
    front_end.answer("vmm/kvm/deploy", &Answer::says("one-0 and more\nDEPLOY SUCCESS 1 x\n")).unwrap();
    let reply = ask(&mut oned, &deploy);
    assert_eq!(reply.payload, "one-0 and more DEPLOY SUCCESS 1 x");
    assert_eq!(post(&front_end).unwrap(), ["one-0", "node1"]);

    let noise =
        "ERROR: \\033[31mred\\033[0m\\r\\n--\\n\\tDEPLOY SUCCESS 0 x\\nINIT SUCCESS\\n\\377\\376\\000\\n";
    let said = Answer::fails(1, "").once_run(&format!("printf '{noise}' >&2"));
    front_end.answer("vmm/kvm/deploy", &said).unwrap();
    let reply = ask(&mut oned, &deploy);
    assert_eq!(reply.status, "FAILURE");
    assert!(reply.payload.contains("red"), "{}", reply.payload);

    // A megabyte in one line, as e12's log line but more of it, and ten thousand lines.
    let long = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2; seq 10000 >&2";
    front_end.answer("vmm/kvm/deploy", &Answer::fails(3, "plain end\n").once_run(long)).unwrap();
    let reply = ask(&mut oned, &deploy);
    assert_eq!(reply.status, "FAILURE");
    assert!(reply.payload.len() < 64 << 10, "{} bytes", reply.payload.len());
    assert!(oned.log().iter().all(|line| line.text.len() < 64 << 10));

    // Says nothing, and nothing that oned would not suppress (e14).
    for said in ["", "-\n", "ERROR: -\n"] {
        front_end.answer("vmm/kvm/deploy", &Answer::fails(1, said)).unwrap();
        assert_eq!(ask(&mut oned, &deploy).status, "FAILURE", "{said:?}");
    }
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_deploy_that_names_no_guest_is_a_failure_and_leaves_none() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    // e20: oned takes an empty id for a failure, so the guest must not run on (contract VMM 7, B3).
    front_end.answer("vmm/kvm/deploy", &Answer::says("\n")).unwrap();
    let deploy = recorded(&front_end, "k-qcow2-01", "DEPLOY");
    let mut netless = deploy.clone();
    netless.element("VM/TEMPLATE/NIC").unwrap().name = "NO_NIC".to_owned();
    for (what, request) in [("with a network", deploy), ("without", netless)] {
        front_end.forget().unwrap();
        let reply = ask(&mut oned, &request);
        assert_eq!(reply.status, "FAILURE", "{what}: {reply:?}");
        let calls = front_end.calls().unwrap();
        assert!(calls.iter().any(|call| call.slot == "vmm/kvm/cancel"), "{what}: the guest runs on");
    }
    oned.finalize().unwrap();
}

#[test]
fn updates_are_about_their_object_in_failure_too() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    for (scenario, action, verb, element, id) in [
        ("k-vmm-06", "UPDATESG", "update_sg", "SECURITY_GROUP_ID", "100"),
        ("k-vmm-02", "UPDATENIC", "update_nic", "VIRTUAL_NETWORK_ID", "2"),
    ] {
        let request = recorded(&front_end, scenario, action);
        let first = |reply: &Reply| reply.payload.split(' ').next().unwrap().to_owned();
        assert_eq!(first(&ask(&mut oned, &request)), id);
        let slot = format!("vnm/ovswitch_vxlan/{verb}");
        front_end.answer(&slot, &Answer::fails(1, "ERROR: no\n")).unwrap();
        let reply = ask(&mut oned, &request);
        assert_eq!((reply.status.as_str(), first(&reply).as_str()), ("FAILURE", id));
        // Failures before there is a plan: else the group's update of all other VMs stops here (contract VMM 1.4).
        let broken: [(&str, Breaking); 4] = [
            ("a guest without id", |request| request.set_deploy_id("").unwrap()),
            ("a bad NIC", |request| request.set("VM/TEMPLATE/NIC/MAC", "no mac").unwrap()),
            ("a bad host", |request| request.set("HOST", "-oProxyCommand=x").unwrap()),
            ("another VM", |request| request.set("VM/ID", "77").unwrap()),
        ];
        for (what, breaking) in broken {
            let mut request = request.clone();
            breaking(&mut request);
            let reply = oned.ask(action, request.vm, &request.render()).unwrap();
            assert_eq!(
                (reply.status.as_str(), first(&reply).as_str()),
                ("FAILURE", id),
                "{action}, {what}: {reply:?}"
            );
        }
        assert!(!request.text(element).is_empty());
    }
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

// 1.5 The end.

#[test]
fn finalize_and_the_end_of_input_end_it_at_once_with_work_in_flight() {
    for finalize in [true, false] {
        let front_end = FrontEnd::new().unwrap();
        let mut oned = driver(&front_end, KVM);
        let slow = Answer::says("one-0\n").after(1.0);
        front_end.answer("vmm/kvm/deploy", &slow).unwrap();
        let deploy = recorded(&front_end, "k-qcow2-01", "DEPLOY");
        oned.send("DEPLOY", deploy.vm, &deploy.render()).unwrap();
        // What has not begun is not begun.
        let begun = Event::Begin("vmm/kvm/deploy".to_owned());
        let limit = Instant::now() + Duration::from_secs(60);
        while !front_end.events().unwrap().contains(&begun) {
            assert!(Instant::now() < limit, "it was not called");
            std::thread::sleep(Duration::from_millis(20));
        }
        let ended = if finalize { oned.finalize().unwrap() } else { oned.close().unwrap() };
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(ended.replies, []);
        // A start that libvirt is at is let to finish on the host, and the journal knows of it.
        let done =
            || front_end.calls().unwrap().iter().any(|c| c.slot == "vmm/kvm/deploy" && c.code == Some(0));
        let limit = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < limit, "the start was cut short");
            std::thread::sleep(Duration::from_millis(50));
        }
        let journal = fs::read_to_string(front_end.var().join("causeway/vmm.journal")).unwrap();
        assert!(journal.contains("\"begin\"") && !journal.contains("\"end\""), "{journal}");
    }
}

#[test]
fn an_unfinished_line_at_the_end_is_not_acted_upon() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let reboot = recorded(&front_end, "k-vmm-01", "REBOOT");
    oned.say(format!("REBOOT  3 {}", payload(&reboot)).as_bytes()).unwrap();
    let ended = oned.close().unwrap();
    assert!(ended.status.success() && ended.replies.is_empty(), "{ended:?}");
    assert_eq!(front_end.calls().unwrap().len(), 0);
}

#[test]
fn finalize_in_the_middle_of_lines_drops_what_follows() {
    let front_end = FrontEnd::new().unwrap();
    let mut oned = driver(&front_end, KVM);
    let reboot = recorded(&front_end, "k-vmm-01", "REBOOT");
    oned.say(format!("FINALIZE\nREBOOT  3 {}\n", payload(&reboot)).as_bytes()).unwrap();
    let ended = oned.close().unwrap();
    assert!(ended.status.success() && ended.replies.is_empty(), "{ended:?}");
    assert_eq!(front_end.calls().unwrap().len(), 0);
}
