//! Bad input to the built driver process: every text of the recorded requests is poisoned in turn, every element taken
//! away in turn, and the document itself spoilt. The answer is a failure that names what is wrong, with no script called;
//! or, where the text is nobody's but its owner's, plain success with the text handed on as it is. Nothing in it is ever
//! executed.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::collections::BTreeSet;

use causeway_suite::front_end::{Answer, Call, FrontEnd};
use causeway_suite::oned::{Oned, Reply};
use causeway_suite::recorded::{Payload, scenarios};
use causeway_suite::request::Request;
use causeway_suite::xml::{Element, Leaf, Node};

const KVM: &str = "-t 15 -r 0 kvm -p";

struct Stage {
    front_end: FrontEnd,
    oned: Oned,
}

impl Stage {
    fn new() -> Stage {
        let front_end = FrontEnd::new().unwrap();
        front_end.answer("vmm/kvm/deploy", &Answer::says("one-0\n")).unwrap();
        front_end.answer("vmm/kvm/snapshot_create", &Answer::says("snap-0\n")).unwrap();
        front_end.answer("datastore/rsync/backup", &Answer::says("id 1 raw\n")).unwrap();
        let mut oned = Oned::start(&front_end.driver("causeway-vmm", KVM).unwrap()).unwrap();
        oned.init().unwrap();
        Stage { front_end, oned }
    }

    /// Sends a request and returns its reply and the calls it led to.
    fn ask(&mut self, action: &str, vm: u32, document: &str) -> (Reply, Vec<Call>) {
        self.front_end.forget().unwrap();
        let reply = self.oned.ask(action, vm, document).unwrap();
        (reply, self.front_end.calls().unwrap())
    }

    /// The recorded requests, one of each kind of document, for this front-end.
    fn requests(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for scenario in scenarios().unwrap() {
            for exchange in scenario.exchanges.iter().filter(|e| matches!(e.payload, Payload::Whole(_))) {
                let request = Request::of(exchange).unwrap();
                requests.push(request.map(|text| self.front_end.localized(text)).unwrap());
            }
        }
        requests
    }

    fn canary(&self) -> String {
        self.front_end.root().join("canary").display().to_string()
    }

    /// Nothing of what was sent has been executed, and the driver still serves.
    fn finish(mut self) {
        let found = std::fs::read_dir(self.front_end.root()).unwrap();
        let canaries: Vec<_> = found
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("canary"))
            .collect();
        assert!(canaries.is_empty(), "{canaries:?}");
        let reboot = Request::recorded("k-vmm-01", "REBOOT").unwrap();
        assert!(self.ask("REBOOT", reboot.vm, &reboot.render()).0.is_success());
        // One reply each, however many there were.
        self.oned.is_square().unwrap();
        self.oned.finalize().unwrap();
    }
}

/// What a template's owner may try; `canary` is the beginning of files that must not come to be.
fn poisons(canary: &str) -> Vec<(&'static str, String)> {
    vec![
        ("quotes", format!("'; touch {canary}1; '\"; touch {canary}2; \"")),
        ("substitution", format!("$(touch {canary}3)`touch {canary}4`${{IFS}}")),
        ("here-document", format!("x\nEOT\ntouch {canary}5\ncat << 'EOT'\n")),
        ("markup", "]]><![CDATA[</VM><!ENTITY>&amp;&lt;".to_owned()),
        ("option", "-oProxyCommand=touch".to_owned()),
        ("way out", "../../../../../../tmp/../etc/passwd".to_owned()),
        ("number", "-99999999999999999999999".to_owned()),
    ]
}

/// The leaf of `leaves` that a failure is about: the one whose path it names, without the marks that tell one of several
/// NICs or disks from the others.
fn named<'a>(leaves: &'a [Leaf], reply: &Reply, poison: &str) -> Option<&'a Leaf> {
    // In a mark the poison stands too, on one line as everything in a reply.
    let poison: Vec<&str> = poison.split_whitespace().collect();
    let payload = reply.payload.replace(&poison.join(" "), "").replace("VMM_DRIVER_ACTION_DATA/", "");
    let mut text = String::new();
    let mut marked = false;
    for character in payload.chars() {
        match character {
            '[' => marked = true,
            ']' => marked = false,
            other if !marked => text.push(other),
            _ => {}
        }
    }
    // `VM/ID` is also the end of no other path, but `HOST` is a part of many words.
    let is_named = |leaf: &&Leaf| {
        text.match_indices(&leaf.path).any(|(at, path)| {
            let beside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '/');
            beside(text[..at].chars().next_back()) && beside(text[at + path.len()..].chars().next())
        })
    };
    leaves.iter().filter(is_named).max_by_key(|leaf| leaf.path.len())
}

/// Recorded requests that together have every path that any of them has.
fn covering(requests: &[Request]) -> Vec<&Request> {
    let mut seen = BTreeSet::new();
    let mut chosen = Vec::new();
    for request in requests {
        let paths: Vec<String> = request.document.leaves().into_iter().map(|leaf| leaf.path).collect();
        let news = paths.iter().filter(|path| !seen.contains(*path)).count();
        if news > 0 {
            seen.extend(paths);
            chosen.push(request);
        }
    }
    chosen
}

fn poisoned(request: &Request, leaves: &[Leaf], poison: &str) -> Element {
    let mut document = request.document.clone();
    for leaf in leaves {
        document.at(leaf).unwrap().set_text(poison);
    }
    document
}

/// Poisons all of `leaves` at once, then all but the one that the refusal names, and so on until the request is taken.
/// Returns those that were refused; the others have been handed on.
fn sift(stage: &mut Stage, request: &Request, mut leaves: Vec<Leaf>, poison: &str) -> Vec<Leaf> {
    let mut refused = Vec::new();
    loop {
        let document = poisoned(request, &leaves, poison);
        let (reply, calls) = stage.ask(&request.action, request.vm, &document.render());
        if reply.is_success() {
            handed_on(&document, &calls);
            return refused;
        }
        let slots: Vec<&str> = calls.iter().map(|call| call.slot.as_str()).collect();
        assert_eq!(slots, [""; 0], "{} was refused only after these: {}", request.action, reply.payload);
        let Some(leaf) = named(&leaves, &reply, poison).cloned() else {
            let poison = poison.get(..80).unwrap_or(poison);
            panic!("{} with {poison:?}: no text of it is named in {}", request.action, reply.payload)
        };
        leaves.retain(|other| other.path != leaf.path);
        refused.push(leaf);
    }
}

/// Every script that was given the request was given every text of it as it came.
fn handed_on(document: &Element, calls: &[Call]) {
    let texts = |element: &Element| -> Vec<(String, String)> {
        element.leaves().into_iter().map(|leaf| (leaf.path, leaf.text)).collect()
    };
    for call in calls.iter().filter(|call| call.stdin.starts_with(b"<VMM_DRIVER_ACTION_DATA>")) {
        let given = Element::parse(String::from_utf8_lossy(&call.stdin).trim_end()).unwrap();
        assert_eq!(texts(&given), texts(document), "{}", call.slot);
    }
}

#[test]
fn every_text_of_every_request_is_refused_by_name_or_handed_on() {
    let mut stage = Stage::new();
    let requests = stage.requests();
    let mut refused = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for request in covering(&requests) {
        request.write_deployment().unwrap();
        let leaves = request.document.leaves();
        paths.extend(leaves.iter().map(|leaf| leaf.path.clone()));
        for (_, poison) in poisons(&stage.canary()) {
            let found = sift(&mut stage, request, leaves.clone(), &poison);
            refused.extend(found.into_iter().map(|leaf| leaf.path));
        }
    }
    println!("{} texts, of which are checked: {refused:?}", paths.len());
    assert!(paths.len() > 250 && refused.len() > 60, "{} and {}", paths.len(), refused.len());
    stage.finish();
}

#[test]
fn values_of_128_kib_are_refused_by_name_or_handed_on() {
    let mut stage = Stage::new();
    let requests = stage.requests();
    let long = "x".repeat(128 << 10);
    // One action with the document on standard input, one with side files; and one with all of it as an argument.
    for (scenario, action) in [("k-qcow2-02", "SAVE"), ("k-qcow2-01", "DEPLOY")] {
        let request = Request::recorded(scenario, action).unwrap();
        let request = requests.iter().find(|r| r.action == action && r.vm == request.vm).unwrap();
        request.write_deployment().unwrap();
        for leaves in request.document.leaves().chunks(8) {
            sift(&mut stage, request, leaves.to_vec(), &long);
        }
    }
    // An argument above 128 KiB can't be given to any program (contract VMM 7, H1).
    let mut attach = requests.iter().find(|r| r.action == "ATTACHDISK").unwrap().clone();
    attach.set("VM/NAME", &long).unwrap();
    let (reply, calls) = stage.ask("ATTACHDISK", attach.vm, &attach.render());
    assert!(!reply.is_success() && reply.payload.contains("attach_disk"), "{reply:?}");
    assert!(calls.iter().any(|call| call.slot.ends_with("/delete")), "the disk stays");
    stage.finish();
}

#[test]
fn what_takes_a_vm_away_is_not_stopped_by_its_template() {
    let mut stage = Stage::new();
    for (scenario, action) in [("k-qcow2-04", "SHUTDOWN"), ("k-qcow2-05", "CANCEL"), ("k-fail-19", "CLEANUP")]
    {
        let mut request = Request::recorded(scenario, action).unwrap();
        for attribute in ["NIC/MAC", "NIC/VLAN_ID", "DISK/SIZE", "CONTEXT/TARGET", "VCPU"] {
            request.set(&format!("VM/TEMPLATE/{attribute}"), "$(reboot)").unwrap();
        }
        let (reply, calls) = stage.ask(action, request.vm, &request.render());
        assert!(reply.is_success(), "{reply:?}");
        assert!(calls.iter().any(|call| call.slot.ends_with("/clean")), "{action}");
        for name in ["MAC", "VLAN_ID", "SIZE", "TARGET", "VCPU"] {
            let told = |line: &causeway_suite::oned::Log| line.severity == 'W' && line.text.contains(name);
            assert!(stage.oned.log().iter().any(told), "{action}: {name} is not in the log");
        }
        // Who the guest is must be right all the same.
        for identity in ["HOST", "DEPLOY_ID", "VM/ID", "VM/HISTORY_RECORDS/HISTORY/HOSTNAME"] {
            let mut request = request.clone();
            request.set(identity, "$(reboot)").unwrap();
            let (reply, calls) = stage.ask(action, request.vm, &request.render());
            assert!(!reply.is_success() && calls.is_empty(), "{action} with a bad {identity}: {reply:?}");
        }
    }
    stage.finish();
}

#[test]
fn every_element_may_be_missing() {
    let mut stage = Stage::new();
    let requests = stage.requests();
    for action in ["DEPLOY", "CLEANUP", "ATTACHNIC"] {
        let request = requests.iter().find(|r| r.action == action).unwrap();
        request.write_deployment().unwrap();
        let mut needed = Vec::new();
        for path in structure(&request.document) {
            let mut document = request.document.clone();
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let parent = if parent.is_empty() { &mut document } else { document.find_mut(parent).unwrap() };
            parent.nodes.retain(|node| !matches!(node, Node::Element(child) if child.name == name));
            let (reply, calls) = stage.ask(action, request.vm, &document.render());
            if !reply.is_success() {
                let said = reply.payload.contains(name) || reply.payload.contains("needs ");
                assert!(said, "{action} without {path}: {}", reply.payload);
                assert!(calls.is_empty(), "{action} without {path} was refused only after {}", calls[0].slot);
                needed.push(path);
            }
        }
        println!("{action} needs {needed:?}");
        assert!(
            needed.contains(&"HOST".to_owned()) && needed.contains(&"VM/ID".to_owned()),
            "{action}: {needed:?}"
        );
    }
    stage.finish();
}

/// What only oned and people read of a VM and a datastore.
const OF_NO_USE: [&str; 15] = [
    "UID",
    "GID",
    "UNAME",
    "GNAME",
    "PERMISSIONS",
    "LAST_POLL",
    "RESCHED",
    "STIME",
    "ETIME",
    "MONITORING",
    "SCHED_ACTIONS",
    "CLUSTERS",
    "IMAGES",
    "FREE_MB",
    "USED_MB",
];

/// The paths of two levels of elements, and those of the NICs' and disks' own.
fn structure(document: &Element) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for child in document.children() {
        paths.insert(child.name.clone());
        let of_use =
            |below: &&Element| !below.name.starts_with("PREV_") && !OF_NO_USE.contains(&below.name.as_str());
        paths.extend(child.children().filter(of_use).map(|below| format!("{}/{}", child.name, below.name)));
    }
    let is_device =
        |path: &str| path.starts_with("VM/TEMPLATE/NIC/") || path.starts_with("VM/TEMPLATE/DISK/");
    paths.extend(document.leaves().into_iter().map(|leaf| leaf.path).filter(|path| is_device(path)));
    paths
}

#[test]
fn spoilt_documents_are_refused_and_cost_nobody_else() {
    let mut stage = Stage::new();
    let reboot = Request::recorded("k-vmm-01", "REBOOT").unwrap();
    let whole = reboot.render();
    let inside = |text: &str| whole.replacen("<VM>", &format!("<VM>{text}"), 1);
    let entities: String = (1..20).map(|i| format!("<!ENTITY e{i} \"&e{0};&e{0};&e{0};\">", i - 1)).collect();
    let documents = [
        ("nothing", String::new()),
        ("blanks", " \n ".to_owned()),
        ("no document", "VMM_DRIVER_ACTION_DATA".to_owned()),
        ("another root", whole.replace("VMM_DRIVER_ACTION_DATA", "DS_DRIVER_ACTION_DATA")),
        ("a cut end", whole[..whole.len() - 10].to_owned()),
        ("a cut middle", whole[..whole.len() / 2].to_owned()),
        ("two roots", format!("{whole}{whole}")),
        ("a hundred thousand levels", inside(&"<A>".repeat(100_000))),
        ("closed levels", inside(&format!("{}{}", "<A>".repeat(50_000), "</A>".repeat(50_000)))),
        ("entities", format!("<!DOCTYPE x [<!ENTITY e0 \"lol\">{entities}]>{}", inside("<A>&e19;</A>"))),
        (
            "an outer entity",
            format!("<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>{}", inside("<A>&e;</A>")),
        ),
        ("an unknown entity", inside("<A>&nobody;</A>")),
        ("crossed tags", inside("<A><B></A></B>")),
        ("a CDATA section without end", inside("<A><![CDATA[x</A>")),
        ("an attribute a million times", inside(&format!("<A {}/>", "a='1' ".repeat(100_000)))),
        ("a NUL", inside("<A>\0</A>")),
        ("a name of a megabyte", inside(&format!("<{0}></{0}>", "N".repeat(1 << 20)))),
    ];
    for (what, document) in &documents {
        let (reply, calls) = stage.ask("REBOOT", reboot.vm, document);
        // Some of it an indulgent reader may take: then the right thing happened.
        if reply.is_success() {
            assert_eq!(calls.len(), 1, "{what}");
        } else {
            assert!(calls.is_empty(), "{what}: {reply:?}");
            assert!(reply.payload.len() < 4096, "{what}: {} bytes", reply.payload.len());
        }
        let refused = ["a NUL", "a name of a megabyte", "an attribute a million times", "closed levels"];
        assert!(!reply.is_success() || refused.contains(what), "{what} was taken");
        assert!(!reply.payload.contains("root:"), "{what}: a file of ours was read");
    }
    // Bytes that are no text.
    for bytes in [
        &b"\xff\xfe<VMM_DRIVER_ACTION_DATA/>"[..],
        &b"<VMM_DRIVER_ACTION_DATA>\x80</VMM_DRIVER_ACTION_DATA>"[..],
    ] {
        stage
            .oned
            .send_payload(
                "REBOOT",
                reboot.vm,
                &base64::prelude::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes),
            )
            .unwrap();
        assert!(!stage.oned.reply("REBOOT", reboot.vm).unwrap().is_success());
    }
    let peak = stage.oned.peak_memory().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
    stage.finish();
}

#[test]
fn a_guest_command_is_an_argument_and_no_shells() {
    let mut stage = Stage::new();
    let exec = Request::recorded("k-vmm-09", "EXEC").unwrap();
    // Holders of the exec right run commands in the guest, and nowhere else (contract VMM 7, G2).
    for (what, poison) in poisons(&stage.canary()) {
        let mut exec = exec.clone();
        for attribute in ["COMMAND", "STDIN"] {
            exec.set(&format!("VM/TEMPLATE/QEMU_GA_EXEC/{attribute}"), &poison).unwrap();
        }
        let (reply, calls) = stage.ask("EXEC", exec.vm, &exec.render());
        assert!(reply.is_success(), "{what}: {reply:?}");
        // But for a line feed at the very end.
        let poison = poison.trim_end();
        assert_eq!(calls[0].argv, ["3", "node1", poison, poison], "{what}");
    }
    stage.finish();
}

#[test]
fn a_start_script_with_a_here_document_is_written_as_it_is() {
    let mut stage = Stage::new();
    let canary = stage.canary();
    let requests = stage.requests();
    let deploy = requests.iter().find(|r| r.action == "DEPLOY" && r.vm == 0).unwrap();
    // Stock feeds the document through a here-document that ends at such a line (contract VMM 7, G1).
    let script = format!("#!/bin/sh\ncat > /etc/motd << 'EOT'\nhello\nEOT\ntouch {canary}\n");
    let mut deploy = deploy.clone();
    let key = deploy.element("VM/TEMPLATE/CONTEXT/SSH_PUBLIC_KEY").unwrap();
    key.name = "START_SCRIPT".to_owned();
    key.set_text(&script);
    // The deployment file goes the same way.
    deploy.deployment = deploy.deployment.map(|text| text.replace("<title>", "<title>\nEOT\ntouch canary\n"));
    deploy.write_deployment().unwrap();
    let (reply, calls) = stage.ask("DEPLOY", deploy.vm, &deploy.render());
    assert!(reply.is_success(), "{reply:?}");
    let written = std::fs::read_to_string(stage.front_end.var().join("datastores/102/0/vm.xml")).unwrap();
    let written = Element::parse(written.trim_end()).unwrap();
    assert_eq!(written.find("TEMPLATE/CONTEXT/START_SCRIPT").unwrap().text(), script);
    let given = calls.iter().find(|call| call.slot == "vmm/kvm/deploy").unwrap();
    assert_eq!(String::from_utf8_lossy(&given.stdin), format!("{}\n", deploy.deployment.unwrap()));
    stage.finish();
}
