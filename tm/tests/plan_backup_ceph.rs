//! Plans of backups and restores of volumes, compared with a golden file; and what must be refused before anything is done.

#![cfg(test)]

use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::VmDocument;
use causeway_core::plan::{Plan, Slot};
use causeway_testing::golden;
use causeway_tm::datastore::Front;
use causeway_tm::facts::{BackupSource, DatastoreFacts, Facts, Needs, VmFacts};
use causeway_tm::{TmSettings, Transfer, needs, steps};

const ARGV: &str = "h1:/var/lib/one//datastores/108/4 0:1:2 6e1f0f2a-0000-4000-8000-000000214451 - 4 108";
const RESTORE: &str = "h1:/var/lib/one//datastores/108/4 4 19 -1 -1";
const LISTING: &str = r#"{"0":"rsync://110//0:75ef/ds/110/4/75ef/disk.0.0","1":"rsync://110//0:75ef/ds/110/4/75ef/disk.1.0",
    "tpm":"rsync://110//0:75ef/ds/110/4/75ef/disk.tpm.0"}"#;
const DATASTORE: &str = "<DATASTORE><ID>110</ID><DS_MAD>rsync</DS_MAD></DATASTORE>";

/// A VM with a copy of an image, an image itself, and a volatile disk.
fn document(config: &str, more: &str) -> String {
    let disk = |id: u32, more: &str| {
        format!(
            "<DISK><DISK_ID>{id}</DISK_ID><CEPH_USER>libvirt</CEPH_USER><POOL_NAME>one</POOL_NAME><FORMAT>raw</FORMAT>\
             <SIZE>1024</SIZE>{more}</DISK>"
        )
    };
    format!(
        "<VM><ID>4</ID><LCM_STATE>69</LCM_STATE><DEPLOY_ID>6e1f0f2a-0000-4000-8000-000000214451</DEPLOY_ID><TEMPLATE>\
         {}{}{}{more}</TEMPLATE><BACKUPS><BACKUP_CONFIG>{config}</BACKUP_CONFIG></BACKUPS></VM>",
        disk(0, "<CLONE>YES</CLONE><SOURCE>one/one-5</SOURCE><TYPE>RBD</TYPE>"),
        disk(1, "<CLONE>NO</CLONE><PERSISTENT>YES</PERSISTENT><SOURCE>one/one-6</SOURCE><TYPE>RBD</TYPE>"),
        disk(2, "<TYPE>fs</TYPE><DISK_TYPE>RBD</DISK_TYPE>"),
    )
}

fn facts(document: &str, format: &str) -> Facts {
    let vm = VmFacts::of(&VmDocument::parse(document.as_bytes()).unwrap()).unwrap();
    let image =
        format!("<IMAGE><ID>19</ID><DATASTORE_ID>110</DATASTORE_ID><FORMAT>{format}</FORMAT></IMAGE>");
    let backup = Some(BackupSource::of(document, &image, DATASTORE).unwrap());
    let mut datastore = DatastoreFacts::default();
    datastore.ceph.data_pool = Some("cold".to_owned());
    Facts { vm: Some(vm), backup, datastores: [(108, datastore)].into(), ..Facts::default() }
}

fn settings() -> TmSettings {
    let front = Front {
        downloader: "/var/lib/one/remotes/datastore/downloader.sh".into(),
        restricted: Vec::new(),
        ssh: vec!["/usr/bin/ssh".to_owned()],
        sender: String::new(),
        now: 1_369_353_600,
        receiver: "exec /usr/libexec/causeway/causeway-host receive".to_owned(),
    };
    TmSettings { front: Some(front), ..TmSettings::default() }
}

fn call(verb: &str) -> (Slot, Vec<String>) {
    let argv = if verb == "restore" { RESTORE } else { ARGV };
    (format!("tm/ceph/{verb}").parse().unwrap(), argv.split(' ').map(str::to_owned).collect())
}

fn plan(verb: &str, document: &str, format: &str) -> Result<Transfer, Failure> {
    let ((slot, argv), mut facts) = (call(verb), facts(document, format));
    if verb == "restore" {
        facts.take_reading(LISTING)?;
    }
    Ok(steps(&slot, &argv, document.as_bytes(), &facts, &settings())?)
}

fn render(title: &str, transfer: &Transfer) -> String {
    let plan = serde_json::json!({"action": title, "vm": 4, "steps": transfer.steps, "answer": "empty"});
    let plan: Plan = serde_json::from_value(plan).unwrap();
    plan.render()
}

fn increment(last: &str) -> String {
    format!(
        "<MODE>INCREMENT</MODE><LAST_INCREMENT_ID>{last}</LAST_INCREMENT_ID><INCREMENTAL_BACKUP_ID>19\
         </INCREMENTAL_BACKUP_ID>"
    )
}

#[test]
fn backups_and_restores_become_their_golden_steps() {
    let mut text = String::new();
    let full = "<MODE>FULL</MODE>";
    for (title, config) in [
        ("full", full.to_owned()),
        ("first", format!("{}<FS_FREEZE>AGENT</FS_FREEZE>", increment("-1"))),
        ("next", format!("{}<FS_FREEZE>SUSPEND</FS_FREEZE>", increment("3"))),
        ("on another host", format!("{full}<FS_FREEZE>AGENT</FS_FREEZE><LAST_BRIDGE>h2</LAST_BRIDGE>")),
    ] {
        for verb in ["prebackup", "prebackup_live", "postbackup", "postbackup_live"] {
            let transfer = plan(verb, &document(&config, ""), "raw").unwrap();
            text.push_str(&render(&format!("{title}: {verb}"), &transfer));
        }
    }
    let limited = document(&format!("{full}<LAST_DATASTORE_ID>110</LAST_DATASTORE_ID>"), "");
    let mut facts = facts(&limited, "raw");
    let store = "<DATASTORE><ID>110</ID><DS_MAD>restic</DS_MAD><TEMPLATE><RESTIC_IONICE>7</RESTIC_IONICE>\
                 <RESTIC_CPU_QUOTA>80</RESTIC_CPU_QUOTA></TEMPLATE></DATASTORE>";
    facts.datastores.insert(110, DatastoreFacts::parse(110, store.as_bytes()).unwrap());
    let (slot, argv) = call("prebackup_live");
    let transfer = steps(&slot, &argv, limited.as_bytes(), &facts, &settings()).unwrap();
    text.push_str(&render("limits: prebackup_live", &transfer));
    text.push_str(&render("restore", &plan("restore", &document(full, ""), "raw").unwrap()));
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backup_ceph.txt"), &text);
}

/// Which image an increment belongs to is known when the VM is; only then it is asked for.
#[test]
fn only_an_increment_asks_for_its_chain() {
    let of = |verb: &str| -> Needs {
        let (slot, argv) = call(verb);
        needs(&slot, &argv).unwrap()
    };
    let image = |verb: &str, config: &str| of(verb).image(facts(&document(config, ""), "raw").vm.as_ref());
    for verb in ["prebackup", "prebackup_live"] {
        assert_eq!(image(verb, &increment("3")), Ok(Some(19)), "{verb}");
        assert_eq!(image(verb, &increment("-1")), Ok(None), "{verb}");
        assert_eq!(image(verb, "<MODE>FULL</MODE>"), Ok(None), "{verb}");
        assert!(image(verb, &increment("3").replace("19", "x")).is_err(), "{verb}");
        assert_eq!(of(verb).image(None), Ok(None));
    }
    assert_eq!(image("postbackup", &increment("3")), Ok(None));
    // The host that has the directory is named in the document.
    assert!(of("postbackup_live").vm.is_some());
    assert_eq!(image("restore", &increment("3")), Ok(Some(19)));
    assert_eq!(of("restore").datastores.into_iter().collect::<Vec<_>>(), [108]);
}

#[test]
fn what_is_no_backup_of_volumes_is_refused_by_name() {
    let full = document("<MODE>FULL</MODE>", "");
    let refused = |verb: &str, document: &str, format: &str| plan(verb, document, format).unwrap_err();
    // A chain of the cluster's own differences.
    let next = document(&increment("3"), "");
    for (verb, document) in [("prebackup", &next), ("prebackup_live", &next), ("restore", &full)] {
        let failure = refused(verb, document, "rbd");
        assert!(
            failure.text.starts_with("FORMAT of backup image 19 is \"rbd\", not raw"),
            "{verb}: {failure}"
        );
        assert!(failure.text.contains("onevm backup --reset"), "{failure}");
    }
    assert!(plan("prebackup", &full, "rbd").is_ok(), "a whole backup goes on with nothing");
    for verb in ["prebackup", "restore"] {
        for (from, to, said) in [
            ("<SOURCE>one/one-5</SOURCE><TYPE>RBD</TYPE>", "<TYPE>FILE</TYPE>", "DISK 0 of VM 4 is \"FILE\""),
            ("<SOURCE>one/one-5</SOURCE><TYPE>RBD</TYPE>", "<TYPE>RBD</TYPE>", "DISK 0 SOURCE is not in"),
            ("one/one-6", "-pool/one-6", "SOURCE of DISK 1 of VM 4"),
            ("libvirt", "--conf", "CEPH_USER of DISK 0 of VM 4"),
        ] {
            let failure = refused(verb, &full.replace(from, to), "raw");
            assert!(failure.text.contains(said), "{verb} {to}: {failure}");
        }
    }
    for (config, said, kind) in [
        ("<LAST_BRIDGE>-oProxyCommand=x</LAST_BRIDGE>", "BACKUP_CONFIG LAST_BRIDGE of VM 4", Kind::Input),
        ("<FS_FREEZE>maybe</FS_FREEZE>", "FS_FREEZE", Kind::Input),
        ("<INTERACTIVE>YES</INTERACTIVE>", "INTERACTIVE=YES", Kind::NotBuilt),
    ] {
        let failure = refused("prebackup_live", &document(config, ""), "raw");
        assert!(failure.text.contains(said), "{config}: {failure}");
        assert_eq!(failure.kind, kind);
    }
    let tpm = "<TPM><MODEL>tpm-crb</MODEL></TPM>";
    let away = refused("prebackup", &document("<LAST_BRIDGE>h2</LAST_BRIDGE>", tpm), "raw");
    assert!(away.text.contains("has a TPM, whose state is on h1, and LAST_BRIDGE h2"), "{away}");
    assert!(plan("prebackup", &document("<LAST_BRIDGE>h1</LAST_BRIDGE>", tpm), "raw").is_ok());
    let (slot, argv) = call("prebackup");
    assert!(steps(&slot, &argv, b" ", &facts(&full, "raw"), &settings()).is_err());
}
