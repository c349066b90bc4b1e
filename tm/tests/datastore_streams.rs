//! Images that come from another machine, and what a datastore tells of itself.

#![cfg(test)]

mod common;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Instant;

use causeway_core::answer::{Failure, Kind};
use causeway_tm::host::Worker;
use common::images::{Images, downloader, raw_of};
use common::{Datastores, picture, tool};
use serde_json::{Value, json};

/// What arrives in a stream is an image when all of it came, and nothing before.
#[test]
fn a_stream_that_ends_too_early_is_no_image() {
    let on = Datastores::new();
    let worker = Worker::new(&on.locks, Instant::now());
    let receive = |stream: &[u8]| causeway_tm::host::receive(stream, &worker);
    let order = json!({"call": on.import(json!({"stream": {"checksum": null, "unpacked": false}}), json!("qcow2"))["datastore"], "deadline_ms": 60_000});
    let mut stream = Vec::new();
    for frame in [order.to_string().into_bytes(), vec![7; 60_000], vec![0; 65_536], vec![9; 1000], Vec::new()]
    {
        stream.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        stream.extend(frame);
    }
    let edges = [0, 3, 40, 30_000, stream.len() - 1004, stream.len() - 4, stream.len() - 1];
    let step = if std::env::var_os("CAUSEWAY_TEST_LONG").is_some() { 211 } else { 9973 };
    let cuts: Vec<usize> = edges.into_iter().chain((0..stream.len()).step_by(step)).collect();
    for &cut in &cuts {
        let failure = receive(&stream[..cut]).unwrap_err();
        assert!(!failure.text.is_empty(), "{cut}");
        assert!(!on.path("1/new").exists(), "{cut}");
        on.nothing_half_made();
    }
    let text = format!("datastore_streams: cp to a host, cut at {} bytes, no half image\n", cuts.len());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert_eq!(receive(&stream).unwrap(), "qcow2");
    let bytes = raw_of(&on.path("1/new"), "qcow2");
    assert!(bytes.starts_with(&[7; 60_000]) && bytes.len() >= 126_536);
    let other = json!({"call": on.remove()["datastore"], "deadline_ms": 1}).to_string();
    let other = [&u32::try_from(other.len()).unwrap().to_be_bytes(), other.as_bytes()].concat();
    assert!(receive(&other).unwrap_err().text.contains("another call"));
}

/// A host without our program is told apart from one that does not answer, whichever way the bytes go.
#[test]
fn a_host_that_lacks_our_program_is_named() {
    let on = Datastores::new();
    let ssh = json!(["sh", "-c", "exec sh -c \"$1\"", "h2", "exec /nonexistent/causeway-host receive"]);
    std::fs::write(on.path("up"), vec![7; 1 << 20]).unwrap();
    let file = json!({"file": {"path": on.text("up"), "dirs": {"safe": [], "restricted": []}, "unpack": null, "checksum": null}});
    let sent =
        json!({"datastore": {"deliver": {"import": on.import(file, json!(null))["datastore"], "ssh": ssh}}});
    let host = json!({"host": {"ssh": ssh, "image": on.text("1/abc"), "stored": "raw"}});
    for call in [sent, on.import(host, json!(null))] {
        let failure = on.failure(&call);
        assert_eq!(failure.kind, causeway_core::answer::Kind::HostState);
        assert_eq!(failure.text, "h2 has no /nonexistent/causeway-host: run `install.sh host` there");
        on.nothing_half_made();
    }
}

/// A host knows no name for what comes in a stream; whoever sent it does.
#[test]
fn what_was_sent_is_named_by_who_sent_it() {
    let on = Datastores::new();
    let text = "what was sent: it is empty".to_owned();
    let refusal = Err::<String, _>(Failure { kind: Kind::Input, text });
    std::fs::write(on.beside("refusal"), serde_json::to_vec(&refusal).unwrap()).unwrap();
    let refuses = format!("cat >/dev/null; cat {}", on.beside("refusal").display());
    let ssh = json!(["sh", "-c", "exec sh -c \"$1\"", "h2", refuses]);
    let deliver =
        |import: Value| on.failure(&json!({"datastore": {"deliver": {"import": import, "ssh": ssh}}}));
    let up = on.beside("up").display().to_string();
    std::fs::write(&up, b"").unwrap();
    let file = json!({"file": {"path": up, "dirs": {"safe": [], "restricted": []}, "unpack": null, "checksum": null}});
    let failure = deliver(on.import(file, json!(null))["datastore"].clone());
    assert_eq!((failure.kind, failure.text), (Kind::Input, format!("{up}: what was sent: it is empty")));
    let fetch = |address: &str| json!({"program": downloader(&on), "address": address, "decompress": false, "limit": null});
    let address = json!({"address": {"fetch": fetch("http://empty/"), "checksum": null}});
    let failure = deliver(on.import(address, json!(null))["datastore"].clone());
    assert_eq!(failure.text, "PATH: what was sent: it is empty");
    // Of a restore there is no PATH.
    let staged =
        json!({"disk": {"file": on.path("100/7/disk.0"), "kept": "beside", "qcow2": true, "size_mb": 1}});
    for (address, says) in [
        ("http://empty/", "disk.0 of backup image 19 in datastore 110: what was sent: it is empty"),
        (
            "http://fails/",
            "downloader.sh of disk.0 of backup image 19 in datastore 110: curl: (22) 404; Error copying",
        ),
    ] {
        let mut fetch = fetch(address);
        fetch["what"] = json!("disk.0 of backup image 19 in datastore 110");
        let origin = json!({"address": {"fetch": fetch, "checksum": null}});
        assert_eq!(deliver(json!({"stage": {"staged": staged, "origin": origin}})).text, says);
    }
}

/// What a host sends of an image is what a guest wrote to it last, in one file; what it can't send has no end.
#[test]
fn an_image_is_sent_whole_or_without_an_end() {
    let on = Datastores::new();
    let worker = Worker::new(&on.locks, Instant::now());
    on.chained_image();
    let send = |stored: &str| {
        let order = json!({"image": on.text("1/abc"), "stored": stored, "deadline_ms": 60_000}).to_string();
        let order = [&u32::try_from(order.len()).unwrap().to_be_bytes(), order.as_bytes()].concat();
        let mut output = Vec::new();
        causeway_tm::host::send(order.as_slice(), &mut output, &worker).map(|()| output)
    };
    let mut bytes = Vec::new();
    let mut stream = send("qcow2").unwrap();
    loop {
        let length = u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize;
        if length == 0 {
            break;
        }
        bytes.extend(&stream[4..4 + length]);
        stream.drain(..4 + length);
    }
    assert_eq!(stream.len(), 4, "nothing follows the end");
    std::fs::write(on.beside("sent"), &bytes).unwrap();
    let raw = raw_of(&on.beside("sent"), "qcow2");
    assert_eq!((raw[4 << 20], raw[5 << 20]), (0x11, 0x22));
    assert!(!tool("qemu-img", &["info", &on.beside("sent").display().to_string()]).contains("backing file"));
    on.nothing_half_made();
    std::fs::remove_file(on.path("1/abc")).unwrap();
    assert!(send("raw").is_err());
    assert!(causeway_tm::host::send(&b"x"[..], Vec::new(), &worker).is_err());
}

/// W52, and a VM's persistent disk whose bytes lie with its image.
#[test]
fn a_datastore_tells_how_full_it_and_its_vms_are() {
    let on = Datastores::new();
    let usage = |id: u32, disks: bool| {
        on.perform(
            &json!({"datastore": {"usage": {"datastore": on.text(&id.to_string()), "disks": disks}}}),
            &[],
        )
    };
    let text = usage(100, false).unwrap();
    let numbers: Vec<u64> =
        text.split(' ').map(|word| word.split_once('=').unwrap().1.parse().unwrap()).collect();
    let df = tool("df", &["-B1M", "-P", &on.text("100")]);
    let df: Vec<u64> =
        df.lines().nth(1).unwrap().split_whitespace().skip(1).take(3).map(|n| n.parse().unwrap()).collect();
    assert_eq!(numbers[1], df[0]);
    // Others write to this machine's disk meanwhile.
    assert!(numbers[0].abs_diff(df[1]) < 2000 && numbers[2].abs_diff(df[2]) < 2000, "{numbers:?} {df:?}");
    on.raw_image();
    let dir = on.vm_dir();
    symlink(on.path("1/abc"), dir.join("disk.0")).unwrap();
    std::fs::create_dir(dir.join("disk.12.snap")).unwrap();
    symlink("disk.12.snap/10", dir.join("disk.12")).unwrap();
    for (name, megabytes) in [("0", 1), ("9", 2), ("10", 3)] {
        std::fs::write(dir.join("disk.12.snap").join(name), vec![1; megabytes << 20]).unwrap();
    }
    std::fs::write(dir.join("disk.12.snap/4.current"), "disk.12.snap/9").unwrap();
    symlink("nowhere", dir.join("disk.3")).unwrap();
    std::fs::write(dir.join("vm.xml"), b"x").unwrap();
    std::fs::create_dir_all(on.path("100/8")).unwrap();
    std::fs::create_dir_all(on.path("100/x")).unwrap();
    let told = usage(100, true).unwrap();
    let told: Value = serde_json::from_str(told.split_once('\n').unwrap().1).unwrap();
    assert_eq!(
        told,
        json!([{"vm": 7, "disks": [
            {"id": 0, "size_mb": 1, "snapshots": {}},
            {"id": 12, "size_mb": 3, "snapshots": {"0": 1, "9": 2, "10": 3, "4": 2}},
        ]}])
    );
    // The first time, its directory is made; without the root of all datastores, nothing is.
    usage(105, false).unwrap();
    assert_eq!(picture(&on.path("105")).len(), 0);
    let elsewhere = json!({"datastore": {"usage": {"datastore": on.beside("gone/1"), "disks": false}}});
    assert!(on.failure(&elsewhere).text.starts_with("datastore 1 is not on this host"));
}
