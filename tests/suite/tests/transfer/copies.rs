//! Copies within a host, as its admin wants them: not too fast, after everybody else, and with their progress told.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_suite::transfers::{Stage, TM, ok, tool};

/// MiB of data in the image, and what is copied of it in a second.
const DATA: u64 = 48;
const BANDWIDTH: u64 = 4;

/// How the child that works for this test reads and writes disks, in the words of `ionice`.
fn priorities(stage: &Stage) -> Vec<String> {
    let root = stage.front_end.root().display().to_string();
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let has = |path: &Path, file: &str, text: &str| {
        String::from_utf8_lossy(&fs::read(path.join(file)).unwrap_or_default()).contains(text)
    };
    let workers = processes.filter(|path| has(path, "cmdline", "\0worker\0") && has(path, "environ", &root));
    let number = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    workers.map(|path| tool("ionice", &["-p", &number(&path)]).trim().to_owned()).collect()
}

fn a_slow_copy(attributes: &str, format: &str) {
    let stage = Stage::new();
    stage.our_qcow2();
    stage.front_end.configure_hosts(&format!("[copy]\nbandwidth = {BANDWIDTH}\nidle = true\n")).unwrap();
    let vm = format!(
        "<VM><ID>7</ID><STATE>3</STATE><LCM_STATE>1</LCM_STATE><TEMPLATE><DISK><DISK_ID>0</DISK_ID>\
         <FORMAT>{format}</FORMAT><SIZE>64</SIZE><ORIGINAL_SIZE>64</ORIGINAL_SIZE>{attributes}</DISK></TEMPLATE>\
         <HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><DS_ID>100</DS_ID></HISTORY></HISTORY_RECORDS></VM>"
    );
    stage.vm7(format, 1);
    stage.ear.tell("one.vm.info", 7, &vm);
    let image = stage.datastores("1/abc");
    fs::create_dir_all(stage.datastores("1")).unwrap();
    tool("qemu-img", &["create", "-q", "-f", format, &image, "64M"]);
    tool("qemu-io", &["-f", format, "-c", &format!("write -q -P 0x5a 0 {DATA}M"), &image]);
    let mut oned = stage.driver(TM);
    let disk = stage.datastores("100/7/disk.0");
    let begun = Instant::now();
    stage.send(&mut oned, 7, &format!("CLONE qcow2 vm:{image} node1:{disk} 7 1\n"));
    let limit = Instant::now() + Duration::from_secs(30);
    while !priorities(&stage).contains(&"idle".to_owned()) {
        assert!(Instant::now() < limit, "{:?}", priorities(&stage));
        std::thread::sleep(Duration::from_millis(50));
    }
    let reply = oned.reply("TRANSFER", 7).unwrap();
    assert_eq!((reply.status, reply.payload), ok());
    // A quarter of a second is what may be caught up at the end.
    assert!(begun.elapsed() >= Duration::from_secs(DATA / BANDWIDTH - 1), "{:?}", begun.elapsed());
    tool("qemu-io", &["-f", format, "-c", &format!("read -q -P 0x5a 0 {DATA}M"), &disk]);
    let told = format!("copy of {image}: ");
    let line = oned.log().iter().find(|line| line.text.contains(&told)).unwrap();
    assert!(line.text.contains(" % of 48.") && line.text.ends_with(" left"), "{}", line.text);
    assert!(!priorities(&stage).contains(&"idle".to_owned()));
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_plain_copy_keeps_the_admin_s_limits_and_tells_how_far_it_is() {
    a_slow_copy("", "raw");
}

#[test]
fn a_conversion_keeps_the_admin_s_limits_and_tells_how_far_it_is() {
    a_slow_copy("<QCOW2_STANDALONE>YES</QCOW2_STANDALONE>", "qcow2");
}
