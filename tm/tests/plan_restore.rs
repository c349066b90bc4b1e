//! Plans of restores, compared with a golden file; and backups that hold something else than they should.

#![cfg(test)]

use std::path::Path;

use causeway_core::answer::Failure;
use causeway_core::document::{self, VmDocument};
use causeway_core::plan::{Plan, Slot, Work};
use causeway_testing::golden;
use causeway_tm::datastore::Front;
use causeway_tm::facts::{BackupSource, Facts, VmFacts};
use causeway_tm::plan::reading;
use causeway_tm::{Source, TmSettings, Transfer, needs, steps};

const VM: &str = "<VM><ID>4</ID><NAME>it's</NAME><LCM_STATE>71</LCM_STATE><TEMPLATE>\
    <DISK><DISK_ID>0</DISK_ID><CLONE>YES</CLONE><FORMAT>qcow2</FORMAT><SIZE>1024</SIZE>\
    <SOURCE>/var/lib/one/datastores/1/abc</SOURCE></DISK><DISK><DISK_ID>2</DISK_ID><CLONE>NO</CLONE><SAVE>YES</SAVE>\
    <FORMAT>raw</FORMAT><SIZE>16</SIZE><SOURCE>/var/lib/one/datastores/1/def</SOURCE></DISK></TEMPLATE></VM>";
const IMAGE: &str = "<IMAGE><ID>19</ID><DATASTORE_ID>110</DATASTORE_ID><SOURCE>75ef</SOURCE></IMAGE>";
const DATASTORE: &str =
    "<DATASTORE><ID>110</ID><DS_MAD>rsync</DS_MAD><TEMPLATE><SECRET>hush</SECRET></TEMPLATE></DATASTORE>";

const LISTING: &str = r#"{"0":"rsync://110//0:75ef/ds/110/4/75ef/disk.0.0","2":"rsync://110//0:75ef/ds/110/4/75ef/disk.2.0",
    "tpm":"rsync://110//0:75ef/ds/110/4/75ef/disk.tpm.0"}"#;

fn slot(text: &str) -> Slot {
    text.parse().unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn settings() -> TmSettings {
    let front = Front {
        downloader: "/var/lib/one/remotes/datastore/downloader.sh".into(),
        restricted: Vec::new(),
        ssh: words("/usr/bin/ssh"),
        receiver: "exec /usr/libexec/causeway/causeway-host receive".to_owned(),
        sender: String::new(),
        now: 1_369_353_600,
    };
    TmSettings { front: Some(front), ..TmSettings::default() }
}

fn facts(listing: &str) -> Result<Facts, Failure> {
    let vm = VmFacts::of(&VmDocument::parse(VM.as_bytes()).unwrap()).unwrap();
    let backup = Some(BackupSource::of(VM, IMAGE, DATASTORE).unwrap());
    let mut facts = Facts { vm: Some(vm), backup, ..Facts::default() };
    facts.take_reading(listing)?;
    Ok(facts)
}

fn plan(argv: &str, listing: &str) -> Result<Transfer, Failure> {
    Ok(steps(&slot("tm/qcow2/restore"), &words(argv), b"", &facts(listing)?, &settings())?)
}

fn render(title: &str, transfer: &Transfer) -> String {
    let plan = serde_json::json!({"action": title, "vm": 4, "steps": transfer.steps, "answer": "empty"});
    let plan: Plan = serde_json::from_value(plan).unwrap();
    plan.render()
}

/// As recorded: the first without an increment and a disk of its choice.
const ALL: &str = "node1:/var/lib/one//datastores/102/4 4 19 -1 -1";

#[test]
fn restores_become_their_golden_steps() {
    let mut text = String::new();
    for argv in [ALL, "h1:/ds/102/4 4 19 1 2", "h1:/ds/102/4 4 19 -1 0"] {
        text.push_str(&render(argv, &plan(argv, LISTING).unwrap()));
    }
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/restore.txt"), &text);
}

#[test]
fn the_driver_is_asked_on_the_front_end_and_no_text_becomes_a_command() {
    let needs = needs(&slot("tm/shared/restore"), &words(ALL)).unwrap();
    assert_eq!((needs.backup, needs.vm.map(|need| need.vm().0)), (Some(19), Some(4)));
    let facts = facts("{}").unwrap();
    for (argv, increment) in [(ALL, "-1"), ("h1:/ds/102/4 4 19 3 -1", "3")] {
        let read = reading(&slot("tm/shared/restore"), &words(argv), &facts, &settings()).unwrap().unwrap();
        let Work::Slot { slot, argv, .. } = &read.steps[0].work else { panic!() };
        assert_eq!(
            (slot.to_string().as_str(), argv.clone()),
            ("datastore/rsync/ls", vec!["-i".into(), increment.into()])
        );
        // A name with a quote, and a password, go by standard input (W45, W49).
        let rendered = render("", &read);
        assert!(!rendered.contains("it's") && !rendered.contains("hush"), "{rendered}");
        let Source::Bytes(question) = &read.inputs["tm:restore:ls"] else { panic!() };
        let root = document::parse(&question.0).unwrap();
        assert_eq!(root.all(&["VM", "NAME"])[0].text(), "it's");
        assert_eq!(root.all(&["DATASTORE", "TEMPLATE"])[0].value("SECRET").as_deref(), Some("hush"));
    }
}

#[test]
fn a_backup_of_something_else_is_refused() {
    let refused = |argv: &str, listing: &str| plan(argv, listing).unwrap_err().text;
    for (listing, said) in [
        ("", "what is in backup image 19, asked of datastore/rsync/ls: the answer is no list of disks"),
        ("[]", "no list of disks"),
        ("{}", "it has no disk"),
        (r#"{"7": "x"}"#, "DISK 7 is not in the document of VM 4"),
        (r#"{"0.x": "x"}"#, "disk of backup image 19"),
        (r#"{"tpm": "x"}"#, "it has no disk"),
        (r#"{"0": "rsync://1/x;reboot"}"#, "address of restore:disk.0:fetch"),
        (r#"{"0": "rsync://1/`x`"}"#, "of letters, digits"),
        (r#"{"0": "/etc/passwd"}"#, "of letters, digits"),
        (r#"{"0": "rsync://110//0:75ef/ds/110/../111/disk.0.0"}"#, "without `..`"),
    ] {
        let text = refused(ALL, listing);
        assert!(text.contains(said), "{listing}: {text}");
    }
    assert!(refused("h1:/ds/102/4 4 19 -1 1", LISTING).contains("it has no disk 1"));
    for (argv, said) in [
        ("h1:/ds/102/5 4 19 -1 -1", "not a path of VM 4"),
        ("h1:/ds/102/4 4 x -1 -1", "argument 3"),
        ("h1:/ds/102/4 4 19 -2 -1", "argument 4"),
        ("h1:/ds/102/4 4 19 -1", "not 4 arguments"),
    ] {
        assert!(refused(argv, LISTING).contains(said), "{argv}");
    }
}
