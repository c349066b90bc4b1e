//! The actions of a Ceph datastore as plans and answers, from the recorded documents; documents that must be refused.

#![cfg(test)]

use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{decode, encode};
use causeway_core::names::HostName;
use causeway_core::plan::{Lane, Place, Slot, Step, Work};
use causeway_testing::golden;
use causeway_tm::TmSettings;
use causeway_tm::datastore::{Front, Request};
use proptest::prelude::*;

const VERBS: [&str; 10] =
    ["clone", "cp", "export", "mkfs", "monitor", "rm", "snap_delete", "snap_flatten", "snap_revert", "stat"];
/// What a Ceph datastore says, in the place of what the recorded file datastore does.
const CLUSTER: &str = "<BRIDGE_LIST>h1 h2</BRIDGE_LIST><POOL_NAME>one</POOL_NAME><CEPH_USER>libvirt</CEPH_USER>\
    <CEPH_KEY>/etc/ceph/libvirt.key</CEPH_KEY><CEPH_CONF>/etc/ceph/b.conf</CEPH_CONF>\
    <CEPH_SECRET>hush</CEPH_SECRET><CLONE_TARGET>";
const EDIT: (&str, &str) = ("<CLONE_TARGET>", CLUSTER);

/// Which number each recorded document is called with.
fn id(verb: &str) -> &'static str {
    match verb {
        "cp" | "stat" => "0",
        "mkfs" => "2",
        "monitor" => "1",
        "snap_delete" | "snap_flatten" | "snap_revert" => "4",
        _ => "34",
    }
}

fn read(verb: &str, edits: &[(&str, &str)]) -> Result<Request, Failure> {
    let recorded = if verb == "export" { "rm" } else { verb };
    let path = format!("tests/recorded/datastore_fs_{recorded}.base64.txt");
    let mut text = String::from_utf8(decode(&std::fs::read(Path::new(&path)).unwrap()).unwrap()).unwrap();
    for (attribute, volume) in [("SOURCE", "one/one-SELF"), ("PATH", "one/one-5")] {
        let (open, close) = (format!("<{attribute}><![CDATA[/var/lib"), format!("</{attribute}>"));
        if let Some(at) = text.find(&open) {
            let end = at + text[at..].find(&close).unwrap();
            let volume = volume.replace("SELF", id(verb));
            text.replace_range(at..end, &format!("<{attribute}><![CDATA[{volume}]]>"));
        }
    }
    for (from, to) in edits {
        assert!(text.contains(from), "{from} is not in {text}");
        text = text.replacen(from, to, 1);
    }
    let slot = Slot::new("datastore", "ceph", verb).unwrap();
    let read = Request::read(&slot, &[id(verb).to_owned()], encode(text.as_bytes()).as_bytes());
    read.map_err(Failure::from)
}

fn front() -> Front {
    Front {
        downloader: "/var/lib/one/remotes/datastore/downloader.sh".into(),
        restricted: vec!["/var/lib/one".into(), "/etc/one".into()],
        ssh: vec!["/usr/bin/ssh".to_owned(), "-T".to_owned()],
        receiver: "exec receiver".to_owned(),
        sender: "exec sender".to_owned(),
        now: 1_369_353_600,
    }
}

fn step_of(request: &Request) -> Result<(Step, String), Failure> {
    let transfer = request.steps(request.bridges().first(), None, &front(), &TmSettings::default());
    let transfer = transfer.map_err(Failure::from)?;
    assert_eq!((transfer.steps.len(), transfer.inputs.len()), (1, 0));
    let step = transfer.steps[0].clone();
    let Work::Transfer { call, .. } = &step.work else { panic!("{step:?}") };
    let text = call.to_string();
    Ok((step, text))
}

fn planned(verb: &str, edits: &[(&str, &str)]) -> Result<(Step, String), Failure> {
    step_of(&read(verb, &[&[EDIT], edits].concat())?)
}

#[test]
fn the_recorded_calls_become_the_known_steps() {
    let mut text = String::new();
    for verb in VERBS {
        let (step, call) = planned(verb, &[]).unwrap();
        let place =
            if verb == "stat" || verb == "cp" { Place::FrontEnd } else { Place::Host("h1".parse().unwrap()) };
        assert_eq!(step.place, place, "{verb}");
        text.push_str(&format!(
            "datastore/ceph/{verb} {} @ {}\n  {} {call}\n",
            id(verb),
            step.place,
            step.name
        ));
    }
    golden::compare(Path::new("tests/golden/recorded_datastore_ceph.txt"), &text);
    // Nothing of it holds the secret that the hypervisor has, and a key is named by its file.
    assert!(!text.contains("hush") && text.contains("/etc/ceph/libvirt.key"));
}

#[test]
fn answers_have_the_recorded_form() {
    let settings = TmSettings::default();
    let host: HostName = "h1".parse().unwrap();
    let answer = |verb: &str, edits: &[(&str, &str)], output: &str| {
        let request = read(verb, &[&[EDIT], edits].concat()).unwrap();
        request.answer(output, Some(&host), &settings).unwrap().stdout
    };
    assert_eq!(answer("cp", &[], "raw"), "one/one-0 raw\n");
    assert_eq!(answer("clone", &[], "raw"), "one/one-34 raw\n");
    assert_eq!(answer("mkfs", &[], ""), "one/one-2\n");
    for verb in ["rm", "snap_delete", "snap_flatten", "snap_revert"] {
        assert_eq!(answer(verb, &[], ""), "");
    }
    let usage = "USED_MB=1000 TOTAL_MB=100000 FREE_MB=99000";
    assert_eq!(answer("monitor", &[], usage), "USED_MB=1000\nTOTAL_MB=100000\nFREE_MB=99000\n");
    assert_eq!(answer("stat", &[], "1024"), "1024\n");
    let told = r#"exported {"name":"one/one-34","md5":"0123","format":"raw","dispose":false}"#;
    assert_eq!(
        answer("export", &[], told),
        "<IMPORT_INFO><IMPORT_SOURCE>rbd://h1/one/one-34?CEPH_USER=libvirt&amp;CEPH_KEY=/etc/ceph/libvirt.key\
         &amp;CEPH_CONF=/etc/ceph/b.conf</IMPORT_SOURCE><MD5>0123</MD5><SIZE>1024</SIZE><FORMAT>raw</FORMAT>\
         <DISPOSE>NO</DISPOSE></IMPORT_INFO>\n"
    );
    // The pool of a datastore that names none is that of `ceph.conf`.
    assert_eq!(answer("cp", &[("<POOL_NAME>one<", "<POOL_NAME><")], "raw"), "one/one-0 raw\n");
    assert_eq!(answer("cp", &[("<POOL_NAME>one<", "<POOL_NAME>two<")], "raw"), "two/one-0 raw\n");
}

/// W26: for a disk that will be saved only a name is chosen; no host is needed for that.
#[test]
fn a_name_is_chosen_without_a_cluster() {
    let save = ("<FORMAT><![CDATA[raw]]></FORMAT>", "<FORMAT>save_as</FORMAT>");
    let request = read("mkfs", &[save]).unwrap();
    let (step, call) = step_of(&request).unwrap();
    assert_eq!(step.place, Place::FrontEnd);
    assert!(call.contains("nothing"), "{call}");
    assert_eq!(request.answer("", None, &TmSettings::default()).unwrap().stdout, "one/one-2\n");
}

#[test]
fn what_the_datastore_says_is_in_the_call() {
    let more = |text: &'static str| ("<POOL_NAME>", text);
    let data = more("<EC_POOL_NAME>data</EC_POOL_NAME><STAGING_DIR>/srv/stage</STAGING_DIR><POOL_NAME>");
    for verb in ["cp", "clone", "mkfs"] {
        assert!(planned(verb, &[data]).unwrap().1.contains(r#""data_pool":"data""#), "{verb}");
    }
    let file_system = ("<FS><![CDATA[]]></FS>", "<FS>ext4</FS>");
    let (_, call) = planned("mkfs", &[data, file_system]).unwrap();
    assert!(call.contains(r#""kind":"ext4""#) && call.contains(r#""staging":"/srv/stage""#), "{call}");
    let trash = more("<CEPH_TRASH>yes</CEPH_TRASH><POOL_NAME>");
    assert!(planned("rm", &[trash]).unwrap().1.contains(r#""trash":true"#));
    // What is packed is unpacked where it becomes a volume, and nothing is if the datastore says so (W32).
    let packed = more("<NO_DECOMPRESS>yes</NO_DECOMPRESS><POOL_NAME>");
    let path = ("<PATH><![CDATA[/var/tmp/os.qcow2]]></PATH>", "<PATH>https://h/os.img.xz</PATH>");
    for (edits, unpack) in [(vec![path], true), (vec![path, packed], false)] {
        let (_, call) = planned("cp", &edits).unwrap();
        assert!(call.contains(r#""decompress":false"#), "{call}");
        assert!(call.contains(&format!(r#""unpack":{unpack}"#)), "{call}");
    }
    // Whoever waits for a removal waits for room: it does not stand behind copies.
    let lane = |verb: &str| planned(verb, &[]).unwrap().0.lane;
    assert_eq!((lane("rm"), lane("clone")), (Lane::Short, Lane::Long));
}

/// A failed `cp` left no SOURCE: only what it made for that very registration may go.
#[test]
fn an_image_that_never_was_is_removed_by_its_registration() {
    let (_, call) = planned("rm", &[("one/one-34", "")]).unwrap();
    assert!(
        call.contains(r#""image":"one/one-34""#) && call.contains(r#""registered":1795197465"#),
        "{call}"
    );
}

#[test]
fn documents_that_fit_nothing_are_refused() {
    let refused = |verb: &str, edits: &[(&str, &str)], says: &str| {
        let failure = planned(verb, edits).unwrap_err();
        assert!(failure.text.contains(says), "{verb}: {} does not say {says}", failure.text);
        assert_eq!(failure.kind, Kind::Input);
    };
    for verb in VERBS.into_iter().filter(|verb| *verb != "stat") {
        refused(verb, &[("h1 h2", "")], "BRIDGE_LIST is not in the document of datastore");
    }
    refused("rm", &[("h1 h2", "h1 -oProxyCommand=x")], "BRIDGE_LIST of datastore 103");
    for source in
        ["two/one-34", "one-34", "/var/lib/one/datastores/103/x", "one/--pool", "one/one-34@snap", "one/a\nb"]
    {
        refused("rm", &[("one/one-34", source)], "SOURCE of image 34");
    }
    for path in ["one-5", "/etc/passwd", "one/x@1", "-p/x"] {
        refused("clone", &[("one/one-5", path)], "PATH of image 34");
    }
    refused("clone", &[("<REGTIME>1795197465</REGTIME>", "")], "REGTIME is not in the document");
    for (attribute, value, verb) in [
        ("CEPH_USER", "--conf=x", "rm"),
        ("CEPH_KEY", "AQsecret==", "rm"),
        ("CEPH_CONF", "../x", "monitor"),
        ("EC_POOL_NAME", "a/b", "clone"),
        ("CEPH_TRASH", "maybe", "rm"),
        ("RBD_FORMAT", "1", "mkfs"),
        ("STAGING_DIR", "tmp", "cp"),
    ] {
        let first = format!("<{attribute}>{value}</{attribute}><BRIDGE_LIST>");
        let once =
            format!("<{attribute}>{}</{attribute}>", if attribute == "CEPH_USER" { "libvirt" } else { "" });
        let mut edits = vec![("<BRIDGE_LIST>", first.as_str())];
        if CLUSTER.contains(&once) {
            edits = vec![("<CEPH_USER>libvirt<", "<CEPH_USER>--conf=x<")];
        }
        refused(verb, &edits, &format!("{attribute} of datastore"));
    }
    refused("snap_revert", &[("<TARGET_SNAPSHOT>0<", "<TARGET_SNAPSHOT>-1<")], "TARGET_SNAPSHOT");
    refused("mkfs", &[("<FS><![CDATA[]]></FS>", "<FS>../x</FS>")], "SUPPORTED_FS");
    // An address is put into a command line by the stock downloader.
    refused("export", &[("/etc/ceph/libvirt.key", "/etc/ceph/a b.key")], "CEPH_KEY of datastore 103");
    refused("export", &[("one/one-34", "one/one;34")], "SOURCE of image 34");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever SOURCE says, no call names anything but a volume of the datastore's pool.
    #[test]
    fn no_text_of_a_document_leads_elsewhere(source in "(one/|two/|)[-a-z0-9/@.: ]{0,14}") {
        let edit = format!("<SOURCE><![CDATA[{source}]]>");
        if let Ok((_, call)) = planned("rm", &[("<SOURCE><![CDATA[one/one-34]]>", &edit)]) {
            let call: serde_json::Value = serde_json::from_str(&call).unwrap();
            let image = call["datastore"]["volume"]["image"].as_str().unwrap();
            let name = image.strip_prefix("one/").unwrap();
            prop_assert!(!name.contains(['/', '@']) && !name.starts_with('-') && !name.is_empty());
        }
    }
}
