//! The transfer manager's process, built and run: recorded scripts through somebody else's drivers, ours for real on
//! images in a temporary datastore, both in one script, and what stops them.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_suite::front_end::{Answer, Event, Site};
use causeway_suite::oned::Oned;
use causeway_suite::recorded::data;
use causeway_suite::request::Request;

#[path = "transfer/alone.rs"]
mod alone;
#[path = "transfer/carry.rs"]
mod carry;
#[path = "transfer/context.rs"]
mod context;
#[path = "transfer/copies.rs"]
mod copies;
use causeway_suite::transfers::{Stage, TM, begun, ends, ok, put, recorded, tool};

#[test]
fn every_recorded_script_gives_the_recorded_calls_and_replies() {
    let stage = Stage::new();
    let oracle = fs::read_to_string(data().join("transfers/calls.txt")).unwrap();
    // Exactly the executables that were called when it was recorded, so that what falls back does so here; `delete` and
    // `mkimage` stand among the virtual machine manager's there.
    let tm = stage.front_end.var().join("remotes/tm");
    let stand_in = fs::read_to_string(tm.join("qcow2/clone")).unwrap();
    fs::remove_dir_all(&tm).unwrap();
    let mut slots: BTreeSet<String> =
        oracle.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    for driver in ["ceph", "local", "qcow2", "shared", "ssh"] {
        slots.extend([format!("tm/{driver}/delete"), format!("tm/{driver}/mkimage")]);
    }
    for slot in &slots {
        put(&stage.front_end.var().join("remotes").join(slot), &stand_in);
    }
    let mut oned = stage.driver(TM);
    let mut seen = BTreeSet::new();
    let mut calls = 0;
    for script in recorded() {
        stage.front_end.forget().unwrap();
        for slot in &script.fails {
            stage.front_end.answer_once(slot, &Answer::fails(1, "ERROR: stub refused\n")).unwrap();
        }
        let path = PathBuf::from(stage.front_end.localized(&script.path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = stage.front_end.localized(&script.lines.join("\n"));
        fs::write(&path, text + "\n").unwrap();
        oned.send_payload("TRANSFER", script.vm, path.to_str().unwrap()).unwrap();
        let reply = oned.reply("TRANSFER", script.vm).unwrap();
        assert_eq!(reply.status, script.status, "{} {}: {}", script.name, script.path, reply.payload);
        let made = stage.front_end.calls().unwrap();
        // A failure is that of the line that ran last; all others ran before it, in order, and nothing else.
        let failed = reply.status == "FAILURE";
        assert_eq!(
            made.len(),
            if failed { 1 } else { script.lines.len() },
            "{} {}",
            script.name,
            script.path
        );
        if failed {
            assert!(reply.payload.contains("stub refused"), "{}", reply.payload);
        }
        for (call, line) in made.iter().zip(&script.lines) {
            let mut words = line.split_whitespace();
            let (action, driver) = (words.next().unwrap().to_lowercase(), words.next().unwrap());
            let slot = format!("tm/{driver}/{action}");
            let shorter = slot.split_once('.').map_or(slot.clone(), |(name, _)| name.to_owned());
            let slot = if slots.contains(&slot) { slot } else { shorter };
            assert_eq!(call.slot, slot, "{}: {line}", script.name);
            let argv: Vec<String> =
                call.argv.iter().map(|word| stage.front_end.recorded_form(word)).collect();
            assert_eq!(argv, words.collect::<Vec<_>>(), "{}: {line}", script.name);
            assert_eq!((&call.site, call.stdin.len()), (&Site::FrontEnd, 0), "{}: {line}", script.name);
            assert_eq!(PathBuf::from(&call.directory), stage.front_end.var());
            seen.insert(format!("{slot} {}", argv.join(" ")));
            calls += 1;
        }
    }
    let missing: Vec<&str> = oracle.lines().filter(|line| !seen.contains(*line)).collect();
    assert_eq!(missing, [""; 0], "recorded calls that no script came to");
    assert!(calls >= 150, "{calls} calls");
    assert_eq!(stage.ear.asked(), [], "somebody else's scripts ask by themselves");
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn ours_make_link_and_delete_real_disks() {
    for (format, wrapped) in [("qcow2", true), ("raw", false)] {
        let stage = Stage::new();
        // Both ways in which a slot is ours: our wrapper in it, or nothing.
        if wrapped {
            stage.our_qcow2();
        } else {
            for verb in ["clone", "clone.ssh", "ln", "delete", "context"] {
                fs::remove_file(stage.front_end.var().join("remotes/tm/qcow2").join(verb)).ok();
            }
        }
        stage.vm7(format, 1);
        let image = stage.image("abc", format);
        let before = fs::read(&image).unwrap();
        let mut oned = stage.driver(TM);
        let disk = stage.datastores("100/7/disk.0");
        let clone = format!("CLONE qcow2 vm:{image} node1:{disk} 7 1\n");
        assert_eq!(stage.transfer(&mut oned, 7, &clone), ok());
        let info = tool("qemu-img", &["info", "-U", "--output=json", &disk]);
        assert!(info.contains(&format!("\"format\": \"{format}\"")), "{info}");
        // The VM's disk is larger than the image.
        assert!(info.contains("\"virtual-size\": 33554432"), "{info}");
        tool("qemu-io", &["-f", format, "-c", "read -q -P 0xa5 1M 1M", &disk]);
        // Again: a retry of oned's admin finds its work done or does it anew.
        assert_eq!(stage.transfer(&mut oned, 7, &clone), ok());
        let delete = format!(
            "DELETE qcow2 node1:{disk} 7 1\nDELETE qcow2 node1:{} 7 100\n",
            stage.datastores("100/7")
        );
        assert_eq!(stage.transfer(&mut oned, 7, &delete), ok());
        assert!(!Path::new(&stage.datastores("100/7")).exists());
        let ln = format!("LN qcow2 vm:{image} node1:{disk} 7 1\n");
        assert_eq!(stage.transfer(&mut oned, 7, &ln), ok());
        tool("qemu-io", &["-f", format, "-c", "read -q -P 0xa5 1M 1M", &disk]);
        assert_eq!(stage.transfer(&mut oned, 7, &delete), ok());
        assert_eq!(fs::read(&image).unwrap(), before, "the image itself was touched");
        let script = stage.front_end.var().join("vms/7/context.sh");
        fs::write(&script, "ETH0_IP='10.0.0.7'\n").unwrap();
        let iso = stage.datastores("100/7/disk.1");
        let context = format!("CONTEXT qcow2 {} node1:{iso} 7 100\n", script.display());
        assert_eq!(stage.transfer(&mut oned, 7, &context), ok());
        assert_eq!(&fs::read(&iso).unwrap()[0x8001..0x8006], b"CD001");
        assert_eq!(stage.slots(), [""; 0], "a stand-in was called");
        oned.is_square().unwrap();
        oned.finalize().unwrap();
    }
}

#[test]
fn ours_and_others_work_in_one_script_in_its_order() {
    let stage = Stage::new();
    stage.our_qcow2();
    stage.vm7("qcow2", 1);
    let (image, disk) = (stage.image("abc", "qcow2"), stage.datastores("100/7/disk.0"));
    // The foreign script in the middle sees what ours did before it, and ours afterwards what it did.
    let seen = format!("test -e {disk} && : >{}", stage.datastores("100/7/disk.2"));
    stage
        .front_end
        .answer("tm/ssh/mkswap", &Answer::default().once_run(&format!("{seen} || exit 7")))
        .unwrap();
    let (swap, dir) = (stage.datastores("100/7/disk.2"), stage.datastores("100/7"));
    let script = format!(
        "\n# two kinds\nCLONE qcow2 vm:{image} node1:{disk} 7 1\nMKSWAP ssh 16 node1:{swap} 7 100\n\
         DELETE qcow2 node1:{swap} 7 100\n"
    );
    let mut oned = stage.driver(TM);
    assert_eq!(stage.transfer(&mut oned, 7, &script), ok());
    let left: BTreeSet<String> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left.iter().collect::<Vec<_>>(), ["disk.0", "disk.0.snap"]);
    assert_eq!(stage.slots(), ["tm/ssh/mkswap"]);
    let call = &stage.front_end.calls().unwrap()[0];
    assert_eq!(call.argv, ["16", &format!("node1:{swap}"), "7", "100"]);
    // Each object is asked for once.
    let asked = stage.ear.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn the_first_failure_ends_the_script_and_says_why() {
    let stage = Stage::new();
    let mut oned = stage.driver(TM);
    let said = "ERROR: 7 no space left\nINFO: tried hard\nplain words\n";
    stage.front_end.answer_once("tm/ceph/ln", &Answer::fails(3, said)).unwrap();
    let script = "CLONE ceph vm:one/one-1 h:/d/0/7/disk.0 7 1\nLN ceph vm:one/one-2 h:/d/0/7/disk.1 7 1\n\
                  CLONE ceph vm:one/one-3 h:/d/0/7/disk.2 7 1\n";
    let (status, reason) = stage.transfer(&mut oned, 7, script);
    assert_eq!((status.as_str(), reason.as_str()), ("FAILURE", "2:ln: no space left; plain words"));
    assert_eq!(stage.slots(), ["tm/ceph/clone", "tm/ceph/ln"]);
    let logged = |severity, text: &str| oned.log().iter().any(|l| l.severity == severity && l.text == text);
    assert!(logged('E', "no space left") && logged('I', "tried hard"), "{:?}", oned.log());
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn nothing_of_a_script_runs_that_cannot_run_whole() {
    let stage = Stage::new();
    let mut oned = stage.driver("-t 15 -d qcow2,ceph,shared");
    let good = "CLONE ceph vm:one/one-1 h:/d/0/7/disk.0 7 1\n";
    let long = format!("{good}{}", "#".repeat(1 << 20));
    let bad: [(&[u8], &str); 9] = [
        (b"MKSWAP ssh 16 h:/d/0/7/disk.1 7 0", "line 2, MKSWAP ssh: Transfer Driver 'ssh' not available"),
        (b"CLONE nosuch a b c d", "Transfer Driver 'nosuch' not available"),
        (b"LATER ceph a b", "line 2, LATER ceph: tm/ceph/later is not built"),
        (b"DELETE", "is followed by no transfer manager"),
        (b"DELETE ../../../bin x", "slot part \"../../../bin\" is not"),
        (b"../X ceph x", "slot part \"../x\" is not"),
        (b"DELETE ceph \xff\xfe", "line 2: not UTF-8"),
        (b"LATER qcow2 h:/d/0/7 7 1 -1 0", "tm/qcow2/later is not built"),
        (b"DELETE qcow2 h:/d/0/7/../8 7 0\nCLONE ceph a b", ""),
    ];
    // The last one is ours and malformed.
    fs::remove_file(stage.front_end.var().join("remotes/tm/qcow2/delete")).unwrap();
    for (line, reason) in bad {
        let path = stage.script(7, "transfer.0.prolog", "");
        fs::write(&path, [good.as_bytes(), line, b"\n"].concat()).unwrap();
        oned.send_payload("TRANSFER", 7, path.to_str().unwrap()).unwrap();
        let reply = oned.reply("TRANSFER", 7).unwrap();
        assert!(!reply.is_success() && reply.payload.contains(reason), "{line:?}: {reply:?}");
    }
    assert!(stage.transfer(&mut oned, 7, &long).1.contains("at most 1048576"));
    for payload in ["/nonexistent/transfer.0.prolog", "transfer.0.prolog", "/etc"] {
        oned.send_payload("TRANSFER", 7, payload).unwrap();
        assert!(!oned.reply("TRANSFER", 7).unwrap().is_success(), "{payload}");
    }
    // The stock driver drops these; their VM would wait for ever.
    oned.owe("TRANSFER", 8);
    oned.say(b"TRANSFER  8 \n").unwrap();
    assert!(!oned.reply("TRANSFER", 8).unwrap().is_success());
    oned.send_payload("CLONE", 9, "x").unwrap();
    assert!(oned.reply("CLONE", 9).unwrap().payload.contains("nothing that a transfer manager does"));
    assert_eq!(stage.slots(), [""; 0]);
    // An empty script is done at once, and without -d every directory counts.
    assert_eq!(stage.transfer(&mut oned, 7, "\n# nothing\n"), ok());
    oned.is_square().unwrap();
    oned.finalize().unwrap();
    let mut oned = stage.driver("");
    assert_eq!(stage.transfer(&mut oned, 7, "MKSWAP ssh 16 h:/d/0/7/disk.1 7 0\n"), ok());
    let (_, reason) = stage.transfer(&mut oned, 7, "CLONE nosuch a b c d\n");
    assert!(reason.contains("Transfer Driver 'nosuch' not available"), "{reason}");
    oned.finalize().unwrap();
}

#[test]
fn a_failed_look_up_is_a_failure_and_no_empty_value() {
    let stage = Stage::new();
    stage.our_qcow2();
    let (image, disk) = (stage.image("abc", "qcow2"), stage.datastores("100/7/disk.0"));
    let clone = format!("CLONE qcow2 vm:{image} node1:{disk} 7 1\n");
    let mut oned = stage.driver(TM);
    // Contract TM 6.3, W41: the stock script goes on with an empty answer.
    let (status, reason) = stage.transfer(&mut oned, 7, &clone);
    assert_eq!(status, "FAILURE");
    assert!(reason.contains("cannot look up VM 7: one.vm.info 7: "), "{reason}");
    stage.vm7("qcow2", 1);
    stage.ear.tell("one.datastore.info", 1, "<DATASTORE><ID>1</ID></DATASTORE>");
    let (_, reason) = stage.transfer(&mut oned, 7, &clone);
    assert!(reason.contains("DATASTORE/TEMPLATE is not in the document of datastore 1"), "{reason}");
    stage.vm7("", 1);
    let (_, reason) = stage.transfer(&mut oned, 7, &clone);
    assert!(reason.contains("DISK 0 FORMAT is not in the document of VM 7"), "{reason}");
    assert!(!Path::new(&disk).exists());
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_cancel_kills_all_of_a_script_before_the_next_one_of_its_vm() {
    let stage = Stage::new();
    let mut oned = stage.driver(TM);
    let file = |name: &str| stage.front_end.root().join("slots").join(name);
    let busy = "sleep 600 & echo $! >\"$home/child\"; echo $$ >\"$home/leader\"; wait";
    stage.front_end.answer("tm/ssh/clone", &Answer::default().once_run(busy)).unwrap();
    // One that was killed and not yet waited for runs no more.
    let witness = "for file in leader child; do
          state=$(cut -d' ' -f3 \"/proc/$(cat \"$home/$file\")/stat\" 2>/dev/null)
          case $state in ''|Z|X) ;; *) echo \"$file $state\" >>\"$home/overlap\" ;; esac
        done";
    stage.front_end.answer("tm/ssh/delete", &Answer::default().once_run(witness)).unwrap();
    stage.send(&mut oned, 7, "CLONE ssh vm:/d/1/abc h:/d/0/7/disk.0 7 1\n");
    begun(&stage.front_end, "tm/ssh/clone");
    while fs::read_to_string(file("leader")).unwrap_or_default().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // As oned does it when a VM is deleted (contract TM 4).
    oned.cancel(7).unwrap();
    assert_eq!(stage.transfer(&mut oned, 7, "DELETE ssh h:/d/0/7/disk.0 7 1\n"), ok());
    assert!(!file("overlap").exists(), "the copy still ran beside the delete");
    ends(&file("leader"));
    ends(&file("child"));
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_script_gets_what_the_stock_wrapper_gives() {
    let stage = Stage::new();
    let etc = stage.front_end.etc();
    fs::write(etc.join("defaultrc"), "PRIORITY=7\n").unwrap();
    fs::write(etc.join("tmrc"), "QCOW2_OPTIONS=\"-o preallocation=metadata\"\n").unwrap();
    let told = "printf '%s|' \"$PWD\" \"$QCOW2_OPTIONS\" \"$PRIORITY\" \"$(nice)\" >\"$home/told\"; \
                ls -l /proc/self/fd | grep -c -v -e '[012] -> ' -e total -e /proc >\"$home/open\"";
    stage.front_end.answer("tm/ssh/clone", &Answer::default().once_run(told)).unwrap();
    // A script that names no interpreter is read by a shell, as when a shell starts it.
    let bare = stage.front_end.root().join("slots/bare");
    let text = format!("[ \"$1\" = 'a;b' ] && : >{}\n", bare.display());
    put(&stage.front_end.var().join("remotes/tm/ssh/delete"), &text);
    let mut oned = stage.driver(TM);
    let script = "CLONE ssh vm:/d/1/abc h:/d/0/7/disk.0 7 1\nDELETE ssh a;b 7 1\n";
    assert_eq!(stage.transfer(&mut oned, 7, script), ok());
    let told = fs::read_to_string(stage.front_end.root().join("slots/told")).unwrap();
    assert_eq!(told, format!("{}|-o preallocation=metadata|7|7|", stage.front_end.var().display()));
    assert_eq!(fs::read_to_string(stage.front_end.root().join("slots/open")).unwrap().trim(), "0");
    assert!(bare.exists());
    oned.finalize().unwrap();
}

#[test]
fn t_bounds_the_scripts_and_a_delete_does_not_wait_for_copies() {
    let stage = Stage::new();
    let mut oned = stage.driver("-t 2 -d ssh");
    stage.front_end.answer("tm/ssh/clone", &Answer::default().once_begun("tm/ssh/delete", 1)).unwrap();
    for vm in 20..25 {
        stage.send(&mut oned, vm, &format!("CLONE ssh vm:/d/1/abc h{vm}:/d/0/{vm}/disk.0 {vm} 1\n"));
    }
    begun(&stage.front_end, "tm/ssh/clone");
    assert_eq!(stage.transfer(&mut oned, 25, "DELETE ssh h:/d/0/25/disk.0 25 1\n"), ok());
    for vm in 20..25 {
        assert!(oned.reply("TRANSFER", vm).unwrap().is_success());
    }
    let (mut running, mut most) = (0, 0);
    for event in stage.front_end.events().unwrap() {
        match event {
            Event::Begin(slot) if slot == "tm/ssh/clone" => running += 1,
            Event::End(slot) if slot == "tm/ssh/clone" => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    assert_eq!(most, 2);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn w_is_the_deadline_of_a_step() {
    let stage = Stage::new();
    let mut oned = stage.driver("-t 2 -d ssh -w 1");
    let file = stage.front_end.root().join("slots/child");
    let busy = "sleep 600 & echo $! >\"$home/child\"; wait";
    stage.front_end.answer("tm/ssh/clone", &Answer::default().once_run(busy)).unwrap();
    let (status, reason) = stage.transfer(&mut oned, 7, "CLONE ssh vm:/d/1/abc h:/d/0/7/disk.0 7 1\n");
    assert_eq!(status, "FAILURE");
    assert!(reason.contains("did not end within 1 s"), "{reason}");
    ends(&file);
    oned.finalize().unwrap();
}

/// Sends a clone that never answers, and kills the driver in the middle of it. The script dies with it: its successor's
/// would run beside it.
fn killed_in_flight(stage: &Stage) {
    let mut oned = stage.driver(TM);
    let first = "sleep 600 & echo $! >\"$home/child\"; echo $$ >\"$home/leader\"; wait";
    let first = Answer::default().once_run(first);
    stage.front_end.answer_once("tm/ssh/clone", &first).unwrap();
    stage.send(&mut oned, 7, "CLONE ssh vm:/d/1/abc h:/d/0/7/disk.0 7 1\n");
    begun(&stage.front_end, "tm/ssh/clone");
    let leader = stage.front_end.root().join("slots/leader");
    while fs::read_to_string(&leader).unwrap_or_default().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    oned.kill().unwrap();
    ends(&leader);
    ends(&leader.with_file_name("child"));
}

#[test]
fn a_script_in_flight_is_taken_up_by_the_next_process_if_oned_still_waits() {
    let stage = Stage::new();
    stage.vm7("raw", 1);
    killed_in_flight(&stage);
    let mut oned = stage.driver(TM);
    oned.owe("TRANSFER", 7);
    let reply = oned.reply("TRANSFER", 7).unwrap();
    assert!(reply.is_success(), "{reply:?} {:?}", oned.log());
    assert_eq!(stage.slots(), ["tm/ssh/clone", "tm/ssh/clone"]);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
    // What has been answered is not taken up once more.
    let mut oned = stage.driver(TM);
    oned.listen(Duration::from_secs(4));
    assert_eq!(stage.slots().len(), 2);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_script_in_flight_is_left_if_oned_waits_no_more() {
    let stage = Stage::new();
    // BOOT: somebody has told oned that the prolog is done (`onevm recover --success`).
    stage.vm7("raw", 2);
    killed_in_flight(&stage);
    let mut oned = stage.driver(TM);
    oned.listen(Duration::from_secs(4));
    assert_eq!(stage.slots().len(), 1);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_retry_takes_the_place_of_what_would_be_taken_up() {
    let stage = Stage::new();
    stage.vm7("raw", 1);
    killed_in_flight(&stage);
    // x08: the admin retries after the restart. One run, one answer: the VM boots after the first.
    let mut oned = stage.driver(TM);
    assert_eq!(stage.transfer(&mut oned, 7, "CLONE ssh vm:/d/1/abc h:/d/0/7/disk.0 7 1\n"), ok());
    oned.listen(Duration::from_secs(4));
    assert_eq!(stage.slots().len(), 2, "once before the kill, once for the retry");
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_disk_of_ours_is_attached_to_a_running_vm_with_what_oned_knows_of_its_datastores() {
    let stage = Stage::new();
    stage.our_qcow2();
    let recorded = Request::recorded("k-qcow2-09", "ATTACHDISK").unwrap();
    let request = recorded.map(|text| stage.front_end.localized(text)).unwrap();
    let command = request.text("TM_COMMAND").to_owned();
    let words: Vec<&str> = command.split_whitespace().collect();
    let (source, disk) = (words[2].split_once(':').unwrap().1, words[3].split_once(':').unwrap().1);
    let image = stage.image(source.rsplit('/').next().unwrap(), "raw");
    assert_eq!(Path::new(&image), Path::new(source));
    let nest = stage.front_end.driver("causeway-vmm", "-t 15 -r 0 kvm -p").unwrap();
    let mut oned = Oned::start(&nest.env("ONE_XMLRPC", stage.ear.endpoint())).unwrap();
    oned.init().unwrap();
    let refused = oned.ask(&request.action, request.vm, &request.render()).unwrap();
    assert!(refused.payload.contains("cannot look up datastore 102: "), "{refused:?}");
    for id in [102, 103] {
        stage.ear.tell("one.datastore.info", id, &format!("<DATASTORE><ID>{id}</ID><TEMPLATE/></DATASTORE>"));
    }
    let reply = oned.ask(&request.action, request.vm, &request.render()).unwrap();
    assert!(reply.is_success(), "{reply:?}");
    assert!(Path::new(disk).exists());
    // The VM stands in the request.
    assert!(stage.ear.asked().iter().all(|(method, _)| method == "one.datastore.info"));
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}
