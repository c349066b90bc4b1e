//! The recorded calls of a file datastore as plans and answers; documents that must be refused.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{decode, encode};
use causeway_core::plan::{Place, Slot, Work};
use causeway_testing::golden;
use causeway_tm::TmSettings;
use causeway_tm::datastore::{Front, Request, built};
use proptest::prelude::*;

const VERBS: [&str; 9] =
    ["clone", "cp", "mkfs", "monitor", "rm", "snap_delete", "snap_flatten", "snap_revert", "stat"];

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/recorded").join(format!("{name}.base64.txt"))).unwrap()
}

/// The recorded document of an action, edited.
fn edited(verb: &str, edits: &[(&str, &str)]) -> Vec<u8> {
    let name = if matches!(verb, "system" | "pool") {
        "tm_qcow2_monitor".to_owned()
    } else {
        format!("datastore_fs_{verb}")
    };
    let mut text = String::from_utf8(decode(&recorded(&name)).unwrap()).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{from} is not in {text}");
        text = text.replacen(from, to, 1);
    }
    encode(text.as_bytes()).into_bytes()
}

/// The stand-ins of the recording answered with paths in another datastore than the document's.
const STORED: (&str, &str) = ("datastores/1/", "datastores/103/");

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

fn slot(verb: &str) -> Slot {
    if verb == "system" {
        "tm/qcow2/monitor".parse().unwrap()
    } else if verb == "pool" {
        "tm/ceph/monitor".parse().unwrap()
    } else {
        Slot::new("datastore", "fs", verb).unwrap()
    }
}

fn read(verb: &str, id: &str, stdin: &[u8]) -> Result<Request, Failure> {
    Request::read(&slot(verb), &[id.to_owned()], stdin).map_err(Failure::from)
}

/// The one step of a request: its place, and its call as text.
fn step(request: &Request) -> Result<(Place, String), Failure> {
    let host = request.bridges().first();
    let transfer = request
        .steps(host, request.sources().first(), &front(), &TmSettings::default())
        .map_err(Failure::from)?;
    assert_eq!((transfer.steps.len(), transfer.inputs.len()), (1, 0));
    let Work::Transfer { call, .. } = &transfer.steps[0].work else { panic!("{:?}", transfer.steps) };
    Ok((transfer.steps[0].place.clone(), format!("{} {call}", transfer.steps[0].name)))
}

fn planned(verb: &str, id: &str, edits: &[(&str, &str)]) -> Result<(Place, String), Failure> {
    step(&read(verb, id, &edited(verb, edits))?)
}

/// The words after `argv` in the recording, by action.
fn argv() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("tests/recorded/datastore_fs.txt").unwrap();
    let mut argv = BTreeMap::new();
    let mut verb = String::new();
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("/var/lib/one/remotes/datastore/fs/") {
            verb = path.split(' ').next().unwrap().to_owned();
        }
        if let Some(words) = line.trim().strip_prefix("argv   [\"") {
            argv.insert(verb.clone(), words.trim_end_matches("\"]").to_owned());
        }
    }
    argv
}

#[test]
fn the_recorded_calls_become_the_known_steps() {
    let argv = argv();
    let mut text = String::new();
    for verb in VERBS {
        assert!(built(&slot(verb)));
        let id = &argv[verb];
        let snapshots = ["rm", "snap_delete", "snap_flatten", "snap_revert"].contains(&verb);
        let edits = if snapshots { vec![STORED] } else { Vec::new() };
        let (place, call) = planned(verb, id, &edits).unwrap();
        text.push_str(&format!("datastore/fs/{verb} {id} @ {place}\n  {call}\n"));
    }
    let (place, call) = planned("system", "102", &[]).unwrap();
    text.push_str(&format!("tm/qcow2/monitor 102 @ {place}\n  {call}\n"));
    golden::compare(Path::new("tests/golden/recorded_datastore.txt"), &text);
}

/// The form of each recorded answer, with what ours is made of.
#[test]
fn answers_have_the_recorded_form() {
    let answer = |verb: &str, id: &str, edits: &[(&str, &str)], output: &str| {
        let request = read(verb, id, &edited(verb, edits)).unwrap();
        request.answer(output, None, &TmSettings::default()).unwrap().stdout
    };
    // md5 of "1795197465:34\n": the image's registration and its number, under BASE_PATH as oned writes it.
    let name = "/var/lib/one//datastores/103/";
    let clone = answer("clone", "34", &[], "qcow2");
    assert!(
        clone.starts_with(name) && clone.ends_with(" qcow2\n") && clone.len() == name.len() + 32 + 7,
        "{clone}"
    );
    assert_eq!(
        answer("cp", "0", &[], "raw"),
        "/var/lib/one//datastores/101/9525a9ace721d2e2386b845ee3f060d5 raw\n"
    );
    assert_eq!(answer("mkfs", "2", &[], "").split(' ').count(), 1);
    assert_eq!(answer("stat", "0", &[], "1024"), "1024\n");
    for verb in ["rm", "snap_delete", "snap_flatten", "snap_revert"] {
        assert_eq!(answer(verb, &argv()[verb], &[STORED], ""), "");
    }
    let usage = "USED_MB=1000 TOTAL_MB=100000 FREE_MB=99000";
    assert_eq!(answer("monitor", "1", &[], usage), "USED_MB=1000\nTOTAL_MB=100000\nFREE_MB=99000\n");
    assert_eq!(answer("system", "102", &[], usage), format!("{usage}\n"));
    let told = read("system", "102", &edited("system", &[])).unwrap();
    let told =
        told.answer(&format!("{usage}\n[{{\"vm\":7,\"disks\":[]}}]"), None, &TmSettings::default()).unwrap();
    assert_eq!(told.sizes.len(), 1);
}

#[test]
fn an_export_tells_where_the_file_is() {
    let xml = edited("rm", &[STORED]);
    let request = Request::read(&slot("export"), &["34".to_owned()], &xml).unwrap();
    let output = r#"exported {"name":"abc","md5":"0123","format":"qcow2","dispose":false}"#;
    let answer = |host: Option<&str>| {
        let host = host.map(|host| host.parse().unwrap());
        request.answer(output, host.as_ref(), &TmSettings::default()).unwrap().stdout
    };
    let path = "/var/lib/one//datastores/103/abc";
    let form = |source: &str| {
        format!(
            "<IMPORT_INFO><IMPORT_SOURCE>{source}</IMPORT_SOURCE><MD5>0123</MD5><SIZE>1024</SIZE>\
             <FORMAT>qcow2</FORMAT><DISPOSE>NO</DISPOSE></IMPORT_INFO>\n"
        )
    };
    assert_eq!(answer(None), form(path));
    assert_eq!(answer(Some("h1")), form(&format!("ssh://h1:{path}")));
    assert!(step(&request).unwrap().1.contains(r#""export":{"image":"/var/lib/one/datastores/103/"#));
}

#[test]
fn a_host_of_the_list_works_where_there_is_one() {
    let list = ("<CLONE_TARGET>", "<BRIDGE_LIST>h1 h2</BRIDGE_LIST><CLONE_TARGET>");
    let h1 = Place::Host("h1".parse().unwrap());
    for verb in ["clone", "mkfs", "rm", "snap_delete", "snap_flatten", "snap_revert"] {
        let mut edits = vec![list];
        if !["clone", "mkfs"].contains(&verb) {
            edits.push(STORED);
        }
        assert_eq!(planned(verb, &argv()[verb], &edits).unwrap().0, h1, "{verb}");
    }
    assert_eq!(planned("monitor", "1", &[list]).unwrap().0, h1);
    assert_eq!(planned("stat", "0", &[list]).unwrap().0, Place::FrontEnd);
    // What it is made of is on the front-end, and goes there over a session of its own.
    let (place, call) = planned("cp", "0", &[list]).unwrap();
    assert_eq!(place, Place::FrontEnd);
    assert!(call.contains(r#""ssh":["/usr/bin/ssh","-T","h1","exec receiver"]"#), "{call}");
    let odd = ("<CLONE_TARGET>", "<BRIDGE_LIST>h1 -oProxyCommand=x</BRIDGE_LIST><CLONE_TARGET>");
    assert!(
        planned("rm", "34", &[STORED, odd]).unwrap_err().text.starts_with("BRIDGE_LIST of datastore 103")
    );
    // What only chooses a name goes nowhere.
    let save = ("<FORMAT><![CDATA[raw]]></FORMAT>", "<FORMAT>save_as</FORMAT>");
    let (place, call) = planned("mkfs", "2", &[list, save]).unwrap();
    assert_eq!(place, Place::FrontEnd);
    assert!(call.contains("nothing"), "{call}");
}

/// W5: what an image is decides, not what its driver is called.
/// `monitor` of a pool: the cluster is the datastore's, and the front-end need not reach it.
#[test]
fn a_pool_is_asked_for_on_a_host_of_the_list() {
    let said = "<BRIDGE_LIST>h1</BRIDGE_LIST><POOL_NAME>two</POOL_NAME><CEPH_USER>libvirt</CEPH_USER>\
                <CEPH_KEY>/etc/ceph/k</CEPH_KEY><CEPH_CONF>/etc/ceph/b c.conf</CEPH_CONF></TEMPLATE></DATASTORE>";
    let end = "</TEMPLATE></DATASTORE>";
    let (place, call) = planned("pool", "102", &[(end, said)]).unwrap();
    assert_eq!(place.to_string(), "h1");
    let cluster = r#"{"conf":"/etc/ceph/b c.conf","key":"/etc/ceph/k","user":"libvirt"}"#;
    assert_eq!(
        call,
        format!(r#"monitor:102 {{"pool_usage":{{"cluster":{cluster},"disks":true,"pool":"two"}}}}"#)
    );
    let plain = "<BRIDGE_LIST>h1</BRIDGE_LIST></TEMPLATE></DATASTORE>";
    assert!(planned("pool", "102", &[(end, plain)]).unwrap().1.contains(r#""pool":"one""#));
    let refused = planned("pool", "102", &[]).unwrap_err().text;
    assert_eq!(refused, "BRIDGE_LIST is not in the document of datastore 102");
    let odd = said.replace("two", "a/b");
    assert!(
        planned("pool", "102", &[(end, &odd)]).unwrap_err().text.starts_with("POOL_NAME of datastore 102")
    );
    // What the call prints (`rbd/usage.rs`) becomes oned's line and monitord's sizes.
    let request = read("pool", "102", &edited("pool", &[(end, plain)])).unwrap();
    assert!(request.prints() && request.turn().is_none() && built(&slot("pool")));
    let printed = "USED_MB=2 TOTAL_MB=12 FREE_MB=10\n\
                   [{\"vm\":7,\"disks\":[{\"id\":0,\"size_mb\":4,\"snapshots\":{\"12\":2}}]}]";
    let answer = request.answer(printed, None, &TmSettings::default()).unwrap();
    assert_eq!((answer.stdout.as_str(), answer.sizes.len()), ("USED_MB=2 TOTAL_MB=12 FREE_MB=10\n", 1));
}

#[test]
fn a_chain_is_a_chain_whatever_the_driver_is_called() {
    for verb in ["snap_delete", "snap_flatten", "snap_revert"] {
        let shared =
            planned(verb, "4", &[STORED, ("<TM_MAD><![CDATA[qcow2]]>", "<TM_MAD><![CDATA[shared]]>")]);
        assert!(shared.unwrap().1.contains(r#""chain":true"#), "{verb}");
        let raw = planned(verb, "4", &[STORED, ("<FORMAT><![CDATA[qcow2]]>", "<FORMAT><![CDATA[raw]]>")]);
        assert!(raw.unwrap().1.contains(r#""chain":false"#), "{verb}");
        let none = planned(verb, "4", &[STORED, ("<FORMAT><![CDATA[qcow2]]>", "<FORMAT><![CDATA[]]>")]);
        assert_eq!(none.unwrap_err().text, "FORMAT is not in the document of image 4");
    }
}

#[test]
fn documents_that_fit_nothing_are_refused() {
    let refused = |verb: &str, id: &str, edits: &[(&str, &str)], says: &str| {
        let failure = planned(verb, id, edits).unwrap_err();
        assert!(failure.text.contains(says), "{verb}: {} does not say {says}", failure.text);
        failure.kind
    };
    // Another image than the argument, another datastore, a path outside, a link to the root of all.
    assert_eq!(refused("rm", "35", &[STORED], "IMAGE ID of datastore/fs/rm is \"34\", not 35"), Kind::Input);
    refused("monitor", "2", &[], "DATASTORE ID");
    refused("rm", "34", &[], "SOURCE of image 34 is \"/var/lib/one/datastores/1/");
    for source in [
        "/var/lib/one/datastores/103",
        "/var/lib/one/datastores/103/a/b",
        "/etc/passwd",
        "/103/x",
        "abc",
        "/x/103/abc",
    ] {
        let to = format!("<SOURCE>{source}</SOURCE>");
        refused(
            "rm",
            "34",
            &[("<SOURCE><![CDATA[/var/lib/one/datastores/1/0123456789abcdef34]]></SOURCE>", &to)],
            "SOURCE",
        );
    }
    let path = "<PATH><![CDATA[/var/lib/one/datastores/1/0123456789abcdef3]]></PATH>";
    refused("clone", "34", &[(path, "<PATH>/etc/passwd</PATH>")], "PATH of image 34");
    refused("clone", "34", &[(path, "<PATH/>")], "PATH is not in the document");
    refused("clone", "34", &[("<REGTIME>1795197465</REGTIME>", "<REGTIME>x</REGTIME>")], "REGTIME");
    refused("clone", "34", &[("<REGTIME>1795197465</REGTIME>", "")], "REGTIME is not in the document");
    refused("clone", "34", &[("<DRIVER><![CDATA[qcow2]]>", "<DRIVER><![CDATA[tape]]>")], "raw or qcow2");
    refused(
        "cp",
        "0",
        &[("datastores/101]]></BASE_PATH>", "datastores/102]]></BASE_PATH>")],
        "BASE_PATH of datastore 101",
    );
    refused(
        "snap_revert",
        "4",
        &[STORED, ("<TARGET_SNAPSHOT>0<", "<TARGET_SNAPSHOT>-1<")],
        "TARGET_SNAPSHOT",
    );
    refused(
        "snap_revert",
        "4",
        &[STORED, ("<TARGET_SNAPSHOT>0<", "<TARGET_SNAPSHOT>../0<")],
        "TARGET_SNAPSHOT",
    );
    refused("mkfs", "2", &[("<FS><![CDATA[]]></FS>", "<FS>../x</FS>")], "SUPPORTED_FS");
    refused("mkfs", "2", &[("<SIZE>100</SIZE>", "<SIZE>0</SIZE>")], "SIZE");
    let nfs = ("<CLONE_TARGET>", "<NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE><CLONE_TARGET>");
    for verb in VERBS {
        let kind = refused(verb, &argv()[verb], &[nfs], "NFS_AUTO_HOST is not in the document of datastore");
        assert_eq!(kind, Kind::Input);
    }
    for (argv, stdin, says) in [
        (vec![], recorded("datastore_fs_rm"), "takes ID, not 0 arguments"),
        (vec!["34", "x"], recorded("datastore_fs_rm"), "takes ID, not 2 arguments"),
        (vec!["-34"], recorded("datastore_fs_rm"), "argument 1"),
        (vec!["34"], b"<DS_DRIVER_ACTION_DATA/>".to_vec(), "standard input: not base64"),
        (vec!["34"], encode(b"<VM/>").into_bytes(), "DS_DRIVER_ACTION_DATA is not in the document"),
        (vec!["34"], encode(b"<DS_DRIVER_ACTION_DATA>").into_bytes(), "standard input"),
        (vec!["34"], Vec::new(), "standard input"),
    ] {
        let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
        let failure = Failure::from(Request::read(&slot("rm"), &argv, &stdin).unwrap_err());
        assert!(failure.text.contains(says), "{} does not say {says}", failure.text);
    }
    assert!(!built(&"datastore/lvm/cp".parse().unwrap()) && !built(&"datastore/fs/backup".parse().unwrap()));
}

/// A failed `cp` left no SOURCE; what it may have left is under the name that it would have had.
#[test]
fn an_image_that_never_was_is_removed_by_its_name() {
    let source = "<SOURCE><![CDATA[/var/lib/one/datastores/1/0123456789abcdef34]]></SOURCE>";
    let (_, call) = planned("rm", "34", &[(source, "<SOURCE/>")]).unwrap();
    let (_, made) = planned("clone", "34", &[]).unwrap();
    let name = call.split("datastores/103/").nth(1).unwrap().split('"').next().unwrap();
    assert!(name.len() == 32 && made.contains(name), "{call} {made}");
}

#[test]
fn what_a_download_needs_is_in_the_call_and_no_more() {
    let path = "<PATH><![CDATA[/var/tmp/os.qcow2]]></PATH>";
    let to = "<PATH>https://h/os.img?a=b&amp;c</PATH>";
    let more = (
        "<DEV_PREFIX>",
        "<MD5>0123456789ABCDEF0123456789abcdef</MD5><SHA1>0123456789ABCDEF0123456789abcdef01234567</SHA1>\
         <URL_ARGS>d=e</URL_ARGS><DEV_PREFIX>",
    );
    let datastore = (
        "<CLONE_TARGET>",
        "<LIMIT_TRANSFER_BW>5M</LIMIT_TRANSFER_BW><NO_DECOMPRESS>yes</NO_DECOMPRESS><SECRET>hush</SECRET><CLONE_TARGET>",
    );
    let (_, call) = planned("cp", "0", &[(path, to), more, datastore]).unwrap();
    for part in [
        r#""address":"https://h/os.img?a=b&c&d=e""#,
        // Both are compared, where both are given.
        r#""md5":"0123456789abcdef0123456789abcdef","sha1":"0123456789abcdef0123456789abcdef01234567""#,
        r#""decompress":false"#,
        r#""limit":"5M""#,
        "downloader.sh",
    ] {
        assert!(call.contains(part), "{part}: {call}");
    }
    // W48: what the document has besides is nobody's argument, and is not kept.
    assert!(!call.contains("hush"));
    let request = read("cp", "0", &edited("cp", &[(path, to), datastore])).unwrap();
    assert!(!format!("{request:?}").contains("hush"));
    let injected = ("<DEV_PREFIX>", "<URL_ARGS>`x`</URL_ARGS><DEV_PREFIX>");
    assert!(planned("cp", "0", &[(path, to), injected]).is_err());
    let (_, call) = planned("stat", "0", &[("<PATH>/var/tmp/os.qcow2</PATH>", to)]).unwrap();
    assert!(call.contains(r#""ask_size":{"address":"https://h/os.img?a=b&c"}"#), "{call}");
    // Of a store's keys only a signature for that object, and for as long as a copy may take.
    let app = (path, "<PATH>s3://apps/marketapp-7</PATH>");
    let keys = "<MARKETPLACE><TEMPLATE><ACCESS_KEY_ID>AKIA</ACCESS_KEY_ID><AWS>NO</AWS><ENDPOINT>https://s3.h</ENDPOINT>\
                <REGION>eu</REGION><SECRET_ACCESS_KEY>hush</SECRET_ACCESS_KEY></TEMPLATE></MARKETPLACE></DS_DRIVER";
    let (_, call) = planned("cp", "0", &[app, ("</DS_DRIVER", keys)]).unwrap();
    let signed = r#""address":"https://s3.h/apps/marketapp-7?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F"#;
    assert!(call.contains(signed) && call.contains("&X-Amz-Expires=86400&"), "{call}");
    assert!(!call.contains("hush"));
    let request = read("cp", "0", &edited("cp", &[app, ("</DS_DRIVER", keys)])).unwrap();
    assert!(!format!("{request:?}").contains("hush"));
    let keyless = planned("cp", "0", &[app]).unwrap_err();
    assert!(keyless.text.contains("not an app of an S3 marketplace"), "{keyless}");
    // A file datastore takes what it is given.
    let files = ("</BASE_PATH><TYPE>0</TYPE>", "</BASE_PATH><TYPE>2</TYPE>");
    let driver = ("<CLONE_TARGET>", "<DRIVER>qcow2</DRIVER><CLONE_TARGET>");
    let (_, call) = planned("cp", "0", &[files, driver]).unwrap();
    assert!(
        call.contains(r#""format":null"#)
            && call.contains(r#""opened":false"#)
            && call.contains(r#""unpack":null"#)
    );
    let (_, call) = planned("cp", "0", &[driver]).unwrap();
    assert!(call.contains(r#""format":"qcow2""#), "{call}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever SOURCE and PATH say, no call names a place outside of the datastores' root.
    #[test]
    fn no_text_of_a_document_leads_outside(
        text in "(/|\\.\\./|/etc|/var/lib/one//datastores/103|/var/lib/one/datastores/1|[a-z0-9. '\"$;]{1,6}){1,5}",
        verb in prop::sample::select(vec!["rm", "clone", "snap_revert", "snap_flatten", "export"]),
    ) {
        let of = if verb == "export" { "rm" } else { verb };
        let id = argv()[of].clone();
        let xml = String::from_utf8(decode(&edited(of, &[])).unwrap()).unwrap();
        let (tag, end) = if verb == "clone" { ("<PATH>", "</PATH>") } else { ("<SOURCE>", "</SOURCE>") };
        let (before, rest) = xml.split_once(tag).unwrap();
        let (_, after) = rest.split_once(end).unwrap();
        let xml = format!("{before}{tag}{text}{end}{after}");
        let request = Request::read(&slot(verb), &[id], encode(xml.as_bytes()).as_bytes()).map_err(Failure::from);
        if let Ok((_, call)) = request.and_then(|request| step(&request)) {
            let json = call.split_once(' ').unwrap().1;
            let call: serde_json::Value = serde_json::from_str(json).unwrap();
            let mut paths = Vec::new();
            strings(&call, &mut paths);
            for path in paths.iter().filter(|path| path.contains('/')) {
                prop_assert!(path.starts_with("/var/lib/one/datastores/"), "{}", path);
                prop_assert_eq!(path.split('/').count(), 7);
                prop_assert!(path.split('/').all(|part| part != ".."), "{}", path);
            }
        }
    }
}

fn strings(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        serde_json::Value::Object(values) => values.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

/// `SOURCE_BRIDGE_LIST`, which stands beside the datastore: one host has the image, another one makes the copy.
#[test]
fn a_clone_comes_from_the_host_that_has_the_image() {
    let from = |list: &'static str| ("<DATASTORE><ID>", list);
    let away = from("<SOURCE_BRIDGE_LIST>s1 s2</SOURCE_BRIDGE_LIST><DATASTORE><ID>");
    let to = ("<CLONE_TARGET>", "<BRIDGE_LIST>h1 h2</BRIDGE_LIST><CLONE_TARGET>");
    let (place, call) = planned("clone", "34", &[away]).unwrap();
    assert_eq!(place, Place::FrontEnd);
    let origin = r#""origin":{"host":{"image":"/var/lib/one/datastores/1/0123456789abcdef3","ssh":["/usr/bin/ssh","-T","s1","exec sender"],"stored":"qcow2"}}"#;
    assert!(call.contains(r#""format":"qcow2""#) && call.contains(origin), "{call}");
    let (place, call) = planned("clone", "34", &[away, to]).unwrap();
    assert_eq!(place, Place::FrontEnd);
    assert!(
        call.contains(origin) && call.contains(r#""ssh":["/usr/bin/ssh","-T","h1","exec receiver"]"#),
        "{call}"
    );
    // A raw image is plain bytes, whatever a guest has made them look like.
    let raw = ("<FORMAT><![CDATA[qcow2]]>", "<FORMAT><![CDATA[raw]]>");
    assert!(planned("clone", "34", &[away, raw]).unwrap().1.contains(r#""opened":false"#));
    // The host that makes it has it: nothing goes anywhere.
    let same = from("<SOURCE_BRIDGE_LIST>h1 h2</SOURCE_BRIDGE_LIST><DATASTORE><ID>");
    let (place, call) = planned("clone", "34", &[same, to]).unwrap();
    assert_eq!(place, Place::Host("h1".parse().unwrap()));
    assert!(call.contains(r#""copy""#), "{call}");
    let odd = from("<SOURCE_BRIDGE_LIST>-oProxyCommand=x</SOURCE_BRIDGE_LIST><DATASTORE><ID>");
    assert!(
        planned("clone", "34", &[odd]).unwrap_err().text.starts_with("SOURCE_BRIDGE_LIST of the document")
    );
}
