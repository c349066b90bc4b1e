//! Plans of backups, compared with a golden file; and backups that must be refused, before anything is done.

#![cfg(test)]

use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{VmDocument, decode, encode_lines};
use causeway_core::plan::{Plan, Slot};
use causeway_testing::golden;
use causeway_tm::facts::{DatastoreFacts, Facts, Format, VmFacts, VmNeed};
use causeway_tm::plan::{Stdin, stdin_of};
use causeway_tm::{Source, TmSettings, Transfer, needs, steps};

const ARGV: &str = "h1:/var/lib/one//datastores/102/4 0:2 6e1f0f2a-0000-4000-8000-000000214451 - 4 102";

fn slot(text: &str) -> Slot {
    text.parse().unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A VM with a copy of an image, and a volatile disk of plain bytes.
fn document(config: &str, more: &str) -> String {
    format!(
        "<VM><ID>4</ID><LCM_STATE>69</LCM_STATE><DEPLOY_ID>6e1f0f2a-0000-4000-8000-000000214451</DEPLOY_ID><TEMPLATE>\
         <DISK><DISK_ID>0</DISK_ID><CLONE>YES</CLONE><FORMAT>qcow2</FORMAT><SOURCE>/var/lib/one/datastores/1/abc</SOURCE>\
         <TARGET>vda</TARGET><TYPE>FILE</TYPE></DISK><DISK><DISK_ID>2</DISK_ID><FORMAT>raw</FORMAT><TARGET>vdb</TARGET>\
         <TYPE>fs</TYPE></DISK>{more}</TEMPLATE><BACKUPS><BACKUP_CONFIG>{config}</BACKUP_CONFIG></BACKUPS></VM>"
    )
}

fn facts(document: &str) -> Facts {
    let vm = VmFacts::of(&VmDocument::parse(document.as_bytes()).unwrap()).unwrap();
    Facts { vm: Some(vm), ..Facts::default() }
}

/// A backup datastore that allows only so much.
const LIMITED: &str = "<DATASTORE><ID>110</ID><DS_MAD>rsync</DS_MAD><TEMPLATE><RSYNC_NICE>19</RSYNC_NICE>\
    <RSYNC_MAX_WIOPS>200</RSYNC_MAX_WIOPS></TEMPLATE></DATASTORE>";

fn plan(verb: &str, argv: &str, document: &str) -> Result<Transfer, Failure> {
    let (slot, argv) = (slot(&format!("tm/qcow2/{verb}")), words(argv));
    Ok(steps(&slot, &argv, document.as_bytes(), &facts(document), &TmSettings::default())?)
}

fn render(title: &str, transfer: &Transfer) -> String {
    let plan = serde_json::json!({"action": title, "vm": 4, "steps": transfer.steps, "answer": "empty"});
    let plan: Plan = serde_json::from_value(plan).unwrap();
    plan.render()
}

const INCREMENT: &str = "<MODE>INCREMENT</MODE><INCREMENT_MODE>CBT</INCREMENT_MODE>";

#[test]
fn backups_become_their_golden_steps() {
    let mut text = String::new();
    let only = ARGV.replace("0:2", "0");
    let increment = |last: &str| format!("{INCREMENT}<LAST_INCREMENT_ID>{last}</LAST_INCREMENT_ID>");
    for (title, argv, config, more) in [
        ("full", ARGV, "<MODE>FULL</MODE>".to_owned(), ""),
        ("first", &only, format!("{}<FS_FREEZE>AGENT</FS_FREEZE>", increment("-1")), ""),
        ("next", &only, format!("{}<FS_FREEZE>SUSPEND</FS_FREEZE>", increment("3")), ""),
        ("TPM", &only, "<MODE>FULL</MODE>".to_owned(), "<TPM><MODEL>tpm-crb</MODEL></TPM>"),
    ] {
        for verb in ["prebackup", "prebackup_live", "postbackup", "postbackup_live"] {
            let transfer = plan(verb, argv, &document(&config, more)).unwrap();
            text.push_str(&render(&format!("{title}: {verb}"), &transfer));
        }
    }
    let base = Some("/backups".parse().unwrap());
    let settings = TmSettings { backup_base: base, ..TmSettings::default() };
    let document = document("<MODE>FULL</MODE>", "");
    for verb in ["prebackup_live", "postbackup_live"] {
        let slot = slot(&format!("tm/shared/{verb}"));
        let transfer = steps(&slot, &words(ARGV), document.as_bytes(), &facts(&document), &settings).unwrap();
        text.push_str(&render(&format!("BACKUP_BASE_PATH: {slot}"), &transfer));
    }
    let limited = self::document("<MODE>FULL</MODE><LAST_DATASTORE_ID>110</LAST_DATASTORE_ID>", "");
    for verb in ["prebackup", "prebackup_live", "postbackup"] {
        let mut facts = facts(&limited);
        facts.datastores.insert(110, DatastoreFacts::parse(110, LIMITED.as_bytes()).unwrap());
        let slot = slot(&format!("tm/qcow2/{verb}"));
        let transfer =
            steps(&slot, &words(ARGV), limited.as_bytes(), &facts, &TmSettings::default()).unwrap();
        text.push_str(&render(&format!("limits: {verb}"), &transfer));
    }
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backup.txt"), &text);
}

#[test]
fn the_limits_are_those_of_the_datastore_that_the_backup_goes_to() {
    let limited = document("<MODE>FULL</MODE><LAST_DATASTORE_ID>110</LAST_DATASTORE_ID>", "");
    let needs = needs(&slot("tm/qcow2/prebackup"), &words(ARGV)).unwrap();
    let vm = facts(&limited).vm;
    assert_eq!(needs.all_datastores(vm.as_ref()).unwrap().into_iter().collect::<Vec<_>>(), [110]);
    assert!(needs.all_datastores(facts(&document("", "")).vm.as_ref()).unwrap().is_empty());
    // What could not be looked up is no datastore without limits.
    let unknown = plan("prebackup", ARGV, &limited).unwrap_err();
    assert_eq!(unknown.text, "DATASTORE is not in the document of datastore 110");
    let mut facts = facts(&limited);
    let odd = LIMITED.replace(">19<", ">lots<");
    facts.datastores.insert(110, DatastoreFacts::parse(110, odd.as_bytes()).unwrap());
    let slot = slot("tm/qcow2/prebackup");
    let odd = steps(&slot, &words(ARGV), limited.as_bytes(), &facts, &TmSettings::default()).unwrap_err();
    assert!(odd.to_string().starts_with("RSYNC_NICE of datastore 110 is \"lots\", not "), "{odd}");
}

#[test]
fn the_document_is_kept_as_it_came() {
    let document = document("<MODE>FULL</MODE>", "<NAME><![CDATA[it's \"odd\" & `x`]]></NAME>");
    let transfer = plan("prebackup", ARGV, &document).unwrap();
    let [(name, Source::Bytes(input))] = &transfer.inputs.into_iter().collect::<Vec<_>>()[..] else {
        panic!()
    };
    assert_eq!(name, "tm:backup:vm.xml");
    assert_eq!(input.0.as_ref(), encode_lines(document.as_bytes()).as_bytes());
    assert_eq!(decode(&input.0).unwrap(), document.as_bytes());
    assert_eq!(stdin_of(&slot("tm/qcow2/prebackup_live")), Stdin::Plain);
    assert_eq!(stdin_of(&slot("tm/qcow2/premigrate")), Stdin::Encoded);
    assert_eq!(stdin_of(&slot("tm/qcow2/clone")), Stdin::Nothing);
}

#[test]
fn only_what_makes_a_backup_asks_for_the_vm() {
    let of = |verb: &str| needs(&slot(&format!("tm/qcow2/{verb}")), &words(ARGV)).unwrap().vm;
    for verb in ["prebackup", "prebackup_live"] {
        assert!(matches!(of(verb), Some(VmNeed::Document(_))), "{verb}");
    }
    // A clean-up must not fail for an oned that does not answer.
    assert_eq!((of("postbackup"), of("postbackup_live")), (None, None));
}

#[test]
fn what_is_no_backup_is_refused_by_name() {
    let full = document("<MODE>FULL</MODE>", "");
    let refused = |verb: &str, argv: &str, document: &str| plan(verb, argv, document).unwrap_err();
    for (from, to, said) in [
        ("102/4", "102/5", "is not a path of VM 4"),
        ("102/4", "103/4", "is not in datastore 102"),
        ("102/4", "102/../4", "argument 1"),
        ("102/4", "102/4/disk.0", "argument 1"),
        ("0:2", "0:0", "numbers of different disks"),
        ("0:2", "0:x", "argument 2"),
        ("0:2", "0:", "argument 2"),
        ("0:2", "0:7", "DISK 7 is not in the document of VM 4"),
        (" - ", " x ", "argument 4"),
        ("6e1f0f2a-0000-4000-8000-000000214451", "a;b", "argument 3"),
    ] {
        let failure = refused("prebackup_live", &ARGV.replace(from, to), &full);
        assert!(failure.text.contains(said), "{to}: {failure}");
    }
    assert!(refused("prebackup", "h1:/ds/102/4 0", &full).text.contains("not 2 arguments"));
    let nobody = refused("prebackup_live", &ARGV.replace("6e1f0f2a-0000-4000-8000-000000214451", "-"), &full);
    assert_eq!(nobody.text, "DEPLOY_ID is not in the document of VM 4");

    let increment = document(&format!("{INCREMENT}<LAST_INCREMENT_ID>-1</LAST_INCREMENT_ID>"), "");
    let raw = refused("prebackup", ARGV, &increment);
    assert!(raw.text.starts_with("DISK 2 FORMAT of VM 4 is \"raw\", not qcow2"), "{raw}");
    for (from, to, said, kind) in [
        ("<TYPE>FILE</TYPE>", "<TYPE>RBD</TYPE>", "DISK 0 TYPE of VM 4 is \"RBD\"", Kind::Input),
        ("<FORMAT>qcow2</FORMAT>", "<FORMAT>vmdk</FORMAT>", "not raw or qcow2", Kind::Input),
        ("<FORMAT>qcow2</FORMAT>", "", "DISK 0 FORMAT is not in", Kind::Input),
        ("<MODE>FULL</MODE>", "<INTERACTIVE>YES</INTERACTIVE>", "INTERACTIVE=YES", Kind::NotBuilt),
    ] {
        let failure = refused("prebackup_live", ARGV, &full.replace(from, to));
        assert!(failure.text.contains(said), "{to}: {failure}");
        assert_eq!(failure.kind, kind);
    }
    let slot = slot("tm/qcow2/prebackup");
    let empty = steps(&slot, &words(ARGV), b" \n", &facts(&full), &TmSettings::default()).unwrap_err();
    assert!(empty.to_string().contains("standard input"), "{empty}");
    assert_eq!(facts(&full).vm.unwrap().format(2), Ok(&Format::Raw));
}
