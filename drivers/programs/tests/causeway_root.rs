//! The executable that runs as root: hostile requests, lists it must not trust, deaths at any moment. Each test has a
//! network and a root file system of its own, and needs root to make them.

#![cfg(test)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use causeway_core::answer::Kind;
use causeway_vnm::desired::Settings;
use causeway_vnm::root::client::RootClient;
use causeway_vnm::root::{Hello, Outcome, Request, Response, Verb, frame};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_causeway-root");
const EVER: Duration = Duration::from_secs(60);

/// Makes the host that the program finds: an uplink that is listed, another that is not, and empty state.
const HOST: &str = "\
set -eu
for d in /run /var/lib /etc; do mount -t tmpfs -o mode=755 host $d; done
mkdir /etc/causeway
echo 'up0 # the only one' >/etc/causeway/uplinks
ip link add up0 mtu 1600 type veth peer name far0 mtu 1600
ip addr add 10.77.0.1/24 dev up0
ip link set up0 up
ip link set far0 up
";

/// A command that runs `script` on a fresh host.
fn on_a_host(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &format!("{HOST}{script}")]);
    command
}

/// What is left when the program has read its whole input.
struct Ended {
    responses: Vec<Response>,
    status: i32,
    links: Vec<String>,
    files: String,
}

/// Feeds `input` to the program on a host that `prepare` has changed.
fn feed(prepare: &str, input: &[u8]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("in"), input).unwrap();
    let script = format!(
        "{prepare}\ncd {}\n{PROGRAM} <in >out && echo 0 >rc || echo $? >rc\nip -j link >links\n\
         find /var/lib /run -mindepth 1 -printf '%M %U %p\\n' | sort >files\n",
        dir.path().display()
    );
    let output = on_a_host(&script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    let links: Vec<Value> = serde_json::from_str(&read("links")).unwrap();
    let names = links.iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    Ended {
        responses: responses(&fs::read(path("out")).unwrap()),
        status: read("rc").trim().parse().unwrap(),
        links: names.filter(|name| !["lo", "up0", "far0"].contains(&name.as_str())).collect(),
        files: read("files"),
    }
}

fn responses(mut bytes: &[u8]) -> Vec<Response> {
    let hello: Hello = frame::decode(&frame::read(&mut bytes).unwrap().unwrap()).unwrap();
    assert_eq!(hello, Hello::ours());
    let mut all = Vec::new();
    while let Some(body) = frame::read(&mut bytes).unwrap() {
        all.push(frame::decode(&body).unwrap());
    }
    all
}

fn document(vm: u32, vni: u32, more: &str) -> String {
    let rule = |way: &str| {
        format!(
            "<TEMPLATE><SECURITY_GROUP_RULE><SECURITY_GROUP_ID>0</SECURITY_GROUP_ID><PROTOCOL>ALL</PROTOCOL>\
             <RULE_TYPE>{way}</RULE_TYPE></SECURITY_GROUP_RULE></TEMPLATE>"
        )
    };
    let attribute = |name: &str, value: &str| match more.contains(&format!("<{name}>")) {
        true => String::new(),
        false => format!("<{name}>{value}</{name}>"),
    };
    let nic = [
        attribute("BRIDGE", &format!("br{vni}")),
        attribute("PHYDEV", "up0"),
        attribute("VLAN_ID", &vni.to_string()),
        attribute("TARGET", &format!("one-{vm}-0")),
        format!("<NIC_ID>0</NIC_ID><MAC>02:00:00:00:00:{vm:02x}</MAC><SECURITY_GROUPS>0</SECURITY_GROUPS>"),
    ];
    format!(
        "<VM><ID>{vm}</ID>{}{}<TEMPLATE><NIC>{}{more}<VN_MAD>vxlan</VN_MAD></NIC></TEMPLATE></VM>",
        rule("INBOUND"),
        rule("OUTBOUND"),
        nic.concat()
    )
}

fn request(verb: Verb, document: &str) -> Request {
    Request {
        id: "test-1".parse().unwrap(),
        verb,
        driver: "vxlan".parse().unwrap(),
        args: Vec::new(),
        document: String::new(),
        settings: Settings::default(),
        dry_run: false,
        asked: None,
        deadline_ms: 10_000,
    }
    .with_document(document.as_bytes())
}

fn frames<T: serde::Serialize>(values: &[T]) -> Vec<u8> {
    values.iter().flat_map(|value| frame::encode(value).unwrap()).collect()
}

fn failure(response: &Response) -> (Kind, &str) {
    match &response.outcome {
        Outcome::Failed(failure) => (failure.kind, &failure.text),
        Outcome::Done => panic!("done: {response:?}"),
    }
}

#[test]
fn a_network_comes_and_goes() {
    let pre = request(Verb::Pre, &document(7, 4, ""));
    let ended = feed("", &frames(&[&pre, &pre]));
    assert_eq!(ended.status, 0);
    let outcomes: Vec<_> = ended.responses.iter().map(|r| (&r.outcome, r.changes.len())).collect();
    assert_eq!(outcomes, [(&Outcome::Done, 4), (&Outcome::Done, 0)]);
    assert_eq!(ended.links, ["br4", "up0.4"]);
    let private = |path: &str, mode: &str| {
        let line = format!("{mode} 0 {path}");
        assert!(ended.files.lines().any(|l| l == line), "{line} is not in:\n{}", ended.files);
    };
    private("/var/lib/causeway/network/7.json", "-rw-------");
    private("/var/lib/causeway/network", "drwx------");
    private("/run/causeway", "drwx------");

    let ended = feed("", &frames(&[pre, request(Verb::Clean, &document(7, 4, ""))]));
    assert_eq!(ended.links, [""; 0]);
    let mut files = ended.files.lines().filter(|line| line.starts_with('-'));
    assert!(files.all(|line| line.ends_with("/.collected")), "a file is left:\n{}", ended.files);
}

#[test]
fn no_request_makes_it_touch_what_is_not_its_own() {
    let admin = "\
ip link add br5 type bridge
ip link set br5 up
ip link add eth9 type veth peer name far9
ip link add br6 type bridge
ip link set eth9 master br6
ip tuntap add one-8-0 mode tap
ip link set one-8-0 master br6
ip link add up0.9 type vxlan id 9 group 239.0.0.9 dev up0 dstport 8472
";
    let cases = [
        (document(7, 4, "<PHYDEV>eth9</PHYDEV>"), "eth9 is not listed in /etc/causeway/uplinks"),
        (document(7, 4, "<PHYDEV>far0</PHYDEV>"), "far0 is not listed"),
        (document(7, 5, ""), "bridge br5 was not made by causeway"),
        (document(7, 4, "<BRIDGE>br6</BRIDGE>"), "bridge br6 was not made by causeway"),
        (document(7, 4, "<BRIDGE>eth9</BRIDGE>"), "eth9 is a virtual device"),
        (document(7, 4, "<BRIDGE>one-8-0</BRIDGE>"), "unlike those of guests' devices"),
        (document(7, 4, "<TARGET>one-8-0</TARGET>"), "TARGET is \"one-8-0\", not one-7-0"),
        (document(7, 4, "<TARGET>eth9</TARGET>"), "TARGET is \"eth9\""),
        (document(7, 9, ""), "up0.9 was not made by causeway"),
        (document(7, 4, "<FILTER_MAC_SPOOFING>perhaps</FILTER_MAC_SPOOFING>"), "FILTER_MAC_SPOOFING"),
        (document(7, 4, "").replace("<PROTOCOL>ALL", "<RANGE>1:9</RANGE><PROTOCOL>ALL"), "SECURITY_GROUPS"),
        ("<!DOCTYPE x [<!ENTITY a \"b\">]><VM><ID>&a;</ID></VM>".to_owned(), "document type definitions"),
        ("<VM><ID>../../etc/passwd</ID></VM>".to_owned(), "VM/ID"),
        ("<VM>".to_owned(), "VM"),
        (String::new(), "no root element"),
    ];
    let mut requests = Vec::new();
    for (document, _) in &cases {
        requests.push(request(Verb::Pre, document));
        requests.push(request(Verb::Post, document));
    }
    let ended = feed(admin, &frames(&requests));
    for ((document, words), pair) in cases.iter().zip(ended.responses.chunks(2)) {
        for response in pair {
            let (_, text) = failure(response);
            assert!(text.contains(words), "{document}: {text}");
            assert_eq!(response.changes, [""; 0]);
        }
    }
    let links = ["br5", "far9", "eth9", "br6", "one-8-0", "up0.9"];
    assert_eq!(ended.links, links);
    assert!(!ended.files.contains(".json"), "{}", ended.files);

    // Nor does any clean take it away.
    let cleans: Vec<Request> = cases.iter().map(|(document, _)| request(Verb::Clean, document)).collect();
    let ended = feed(admin, &frames(&cleans));
    assert!(ended.responses.iter().all(|response| response.changes.is_empty()), "{:?}", ended.responses);
    assert_eq!(ended.links, links);
}

#[test]
fn requests_that_are_none_are_answered_and_the_next_one_is_served() {
    let good = serde_json::to_value(request(Verb::Pre, &document(7, 4, ""))).unwrap();
    let with = |key: &str, value: Value| {
        let mut bad = good.clone();
        bad[key] = value;
        bad
    };
    let cases = [
        (json!(null), "cannot be read"),
        (json!([[[[]]]]), "cannot be read"),
        (with("verb", json!("exec")), "unknown variant `exec`"),
        (with("id", json!("../../x")), "request id"),
        (with("driver", json!("../vxlan")), "driver name"),
        (with("driver", json!("elastic")), "elastic is not built yet"),
        (with("verb", json!("update_nic")), "the id of the network"),
        (with("document", json!("%%%")), "not base64"),
        (with("settings", json!({"vxlan_mc": "239.0.0.0; reboot"})), "cannot be read"),
        (with("settings", json!({"exec": "reboot"})), "unknown field `exec`"),
        (with("settings", json!({"ip_link_conf": {"external": ""}})), "ip_link_conf"),
        (with("deadline_ms", json!(-1)), "cannot be read"),
    ];
    let mut values: Vec<Value> = cases.iter().map(|(value, _)| value.clone()).collect();
    values.push(good.clone());
    let ended = feed("", &frames(&values));
    for ((value, words), response) in cases.iter().zip(&ended.responses) {
        let (kind, text) = failure(response);
        assert!(text.contains(words), "{value}: {text}");
        assert!(matches!(kind, Kind::Input | Kind::NotBuilt), "{kind:?}");
    }
    assert_eq!(ended.responses.last().unwrap().outcome, Outcome::Done);
    assert_eq!((ended.status, ended.responses.len()), (0, cases.len() + 1));
    assert_eq!(ended.links, ["br4", "up0.4"]);
}

#[test]
fn frames_that_are_none_end_it() {
    let ended = feed("", b"GET / HTTP/1.1\r\n\r\n");
    assert!(failure(&ended.responses[0]).1.contains("larger than"));
    assert_eq!((ended.status, ended.responses.len()), (3, 1));
    let whole = frames(&[request(Verb::Pre, &document(7, 4, ""))]);
    for cut in [1, 3, 4, 100, whole.len() - 1] {
        let ended = feed("", &whole[..cut]);
        assert_eq!((ended.status, ended.responses.len(), ended.links.len()), (3, 0, 0), "cut at {cut}");
    }
    assert_eq!(feed("", b"").status, 0);
}

#[test]
fn a_list_that_root_alone_did_not_write_does_not_count() {
    let pre = frames(&[request(Verb::Pre, &document(7, 4, ""))]);
    for (prepare, words) in [
        ("chown 9999 /etc/causeway/uplinks", "its owner is not root"),
        ("chmod 666 /etc/causeway/uplinks", "others than its owner may write it"),
        ("chmod 777 /etc/causeway", "others than its owner may write it"),
        ("mv /etc/causeway/uplinks /etc/x; ln -s /etc/x /etc/causeway/uplinks", "read /etc/causeway/uplinks"),
        ("rm /etc/causeway/uplinks; mkfifo /etc/causeway/uplinks", "it is no plain file"),
        ("rm /etc/causeway/uplinks", "create it with the names of the devices"),
        ("echo 'up0 up1' >/etc/causeway/uplinks", "uplinks line 1"),
    ] {
        let ended = feed(prepare, &pre);
        let (kind, text) = failure(&ended.responses[0]);
        assert!(kind == Kind::HostState && text.contains(words), "{prepare}: {kind:?} {text}");
        assert_eq!(ended.links, [""; 0], "{prepare}");
    }
}

#[test]
fn the_resident_and_the_program_speak_the_same_language() {
    let argv = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c"];
    let script = format!("{HOST}exec {PROGRAM}");
    let argv: Vec<&str> = argv.into_iter().chain([script.as_str()]).collect();
    let mut client = RootClient::start(&argv, EVER).unwrap();
    for (verb, changes) in [(Verb::Observe, 4), (Verb::Pre, 4), (Verb::Observe, 0), (Verb::Clean, 2)] {
        let response = client.call(&request(verb, &document(7, 4, "")), EVER).unwrap();
        assert_eq!((&response.outcome, response.changes.len()), (&Outcome::Done, changes), "{verb:?}");
        assert_eq!(response.seen.is_some(), verb == Verb::Observe);
    }
    let late = client.call(&request(Verb::Post, &document(7, 4, "")), EVER).unwrap();
    assert!(failure(&late).1.contains("device one-7-0 of NIC 0 does not exist"));
}

#[test]
fn whoever_starts_it_by_hand_is_told_what_it_is() {
    let run = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let (status, text) = run(Command::new("script").args(["-qec", PROGRAM, "/dev/null"]));
    assert!(status == 2 && text.contains("standard input is a terminal"), "{status} {text}");
    assert!(text.contains("/etc/causeway/uplinks"), "{text}");
    let (status, text) = run(Command::new(PROGRAM).arg("--root=/tmp"));
    assert!(status == 2 && text.contains("unknown argument"), "{status} {text}");
    assert_eq!(run(Command::new(PROGRAM).arg("--version")).0, 0);
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "/proc/self/fd/9"];
    let script = format!("exec 9<{PROGRAM}; exec setpriv {}", nobody.join(" "));
    let (status, text) = run(Command::new("sh").args(["-c", &script]));
    assert!(status == 2 && text.contains("not started as root"), "{status} {text}");
}

#[test]
fn it_keeps_nothing_that_its_starter_left_open() {
    let script = format!("cd /tmp; exec 7</dev/null 9>/dev/null; exec {PROGRAM}");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    frame::read(&mut output).unwrap().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let mut open: Vec<_> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|fd| fd.unwrap().file_name().into_string().unwrap())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("Umask:\t0077"), "{status}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_links_only_what_it_needs() {
    let output = Command::new("ldd").arg(PROGRAM).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let libraries: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let known = |name: &&str| {
        ["libc.so", "libgcc_s.so", "linux-vdso.so", "ld-linux", "libm.so"].iter().any(|k| name.contains(k))
    };
    assert!(libraries.iter().all(known), "{libraries:?}");
}

#[test]
fn a_kill_at_any_moment_is_mended_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let all =
        |verb| -> Vec<Request> { (1..=6).map(|vm| request(verb, &document(vm, 3 + vm % 3, ""))).collect() };
    let (pre, clean) = (all(Verb::Pre), all(Verb::Clean));
    let both: Vec<&Request> = pre.iter().chain(&clean).collect();
    fs::File::create(path("both")).unwrap().write_all(&frames(&both)).unwrap();
    fs::write(path("pre"), frames(&pre)).unwrap();
    fs::write(path("clean"), frames(&clean)).unwrap();
    // Killed after 4, 8, 12... ms: the whole run takes some tens of them.
    let script = format!(
        "cd {}
for ms in $(seq 1 15); do
  timeout -s KILL \"0.$(printf %03d $((ms * 4)))\" {PROGRAM} <both >/dev/null || :
  {PROGRAM} <pre >out
  for vni in 3 4 5; do
    ip link show up0.$vni | grep -q \"master br$vni \" || {{ echo \"no up0.$vni in br$vni after $ms\" >>bad; }}
    ip link show up0.$vni | grep -q 'alias causeway' || {{ echo \"up0.$vni has no mark after $ms\" >>bad; }}
  done
  {PROGRAM} <clean >out
  ip -o link | grep -Ev ': (lo|up0@|far0@)' >>bad || :
  find /var/lib/causeway/network /run/causeway -type f ! -name .collected >>bad
done
",
        dir.path().display()
    );
    let output = on_a_host(&script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(path("bad")).unwrap(), "");
    let last = responses(&fs::read(path("out")).unwrap());
    assert!(last.iter().all(|response| response.outcome == Outcome::Done));
}

/// Contract VMM 3.1, `CLEANUP_MEMORY_ON_START`. The kernel's own switches are covered: a test does not drop the machine's
/// caches.
#[test]
fn memory_is_compacted_by_two_switches_and_by_nothing_a_caller_says() {
    let covered =
        "mount -t tmpfs vm /proc/sys/vm; : >/proc/sys/vm/drop_caches; : >/proc/sys/vm/compact_memory";
    let ask = json!({ "compact_memory": "test-1" });
    let more = json!({ "compact_memory": "test-1", "drop_caches": "/etc/passwd" });
    let ended = feed(covered, &frames(&[ask.clone(), more]));
    assert_eq!(ended.responses[0].outcome, Outcome::Done);
    assert_eq!(ended.responses[0].id, Some("test-1".parse().unwrap()));
    assert_eq!(failure(&ended.responses[1]).0, Kind::Input);
    assert_eq!(ended.status, 0);
    // Without them nothing is made there.
    let ended = feed("mount -t tmpfs vm /proc/sys/vm", &frames(&[ask]));
    assert_eq!(failure(&ended.responses[0]).0, Kind::HostState);
    assert!(failure(&ended.responses[0]).1.contains("/proc/sys/vm/drop_caches"));
}

/// Runs `causeway` with these words on a host that `prepare` has changed.
fn causeway(prepare: &str, words: &str) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_causeway");
    let out = on_a_host(&format!("{prepare}\n{program} {words} --root {PROGRAM}\n")).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

#[test]
fn doctor_names_rules_of_others_that_drop_frames_of_guests() {
    assert_eq!(causeway("", "doctor"), (Some(0), String::new()));
    assert_eq!(causeway("", "net reconcile"), (Some(0), String::new()));
    let drops = "nft 'add table inet mine; add chain inet mine f { type filter hook forward priority 0; policy drop; }'";
    let (code, text) = causeway(drops, "doctor");
    assert_eq!(code, Some(1), "{text}");
    let named = "chain f of table inet mine (forward) drops what none of its rules accepts";
    assert!(text.contains(named), "{text}");
    let (code, text) = causeway(drops, "doctor --json");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, found["foreign_rules"].as_array().unwrap().len()), (Some(1), 1));
}
