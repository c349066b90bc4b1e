//! The document of a datastore's action under attack: it is refused or understood, and what is understood names nothing
//! outside of the datastores' root, nor a host or an address that could be taken for something else.

use causeway_core::document::encode;
use causeway_core::plan::{Place, Slot, Work};
use causeway_tm::TmSettings;
use causeway_tm::datastore::{Front, Hosts, Monitord, Request, choose};
use serde_json::Value;

#[path = "../../fuzz/seeded.rs"]
mod seeded;

const VERBS: [&str; 10] =
    ["cp", "clone", "rm", "mkfs", "stat", "monitor", "snap_delete", "snap_revert", "snap_flatten", "export"];

#[test]
fn fuzz_datastore_documents() {
    let front = Front {
        downloader: "/stock/downloader.sh".into(),
        restricted: vec!["/var/lib/one".into()],
        ssh: vec!["ssh".into()],
        receiver: "receive".into(),
        sender: "send".into(),
        now: 1_369_353_600,
    };
    let settings = TmSettings::default();
    let slots = VERBS
        .iter()
        .flat_map(|verb| ["fs", "ceph"].map(|store| Slot::new("datastore", store, verb)))
        .chain([Slot::new("tm", "qcow2", "monitor")]);
    let slots: Vec<Slot> = slots.map(|slot| slot.unwrap_or_else(|error| panic!("{error}"))).collect();
    seeded::fuzz("datastore", |bytes| {
        let stdin = encode(bytes);
        for (slot, id) in
            slots.iter().flat_map(|slot| [(slot, "34"), (slot, "4"), (slot, "0"), (slot, "102")])
        {
            let request = match Request::read(slot, &[id.to_owned()], stdin.as_bytes()) {
                Ok(request) => request,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    continue;
                }
            };
            let host = request.bridges().first();
            let Ok(transfer) = request.steps(host, request.sources().first(), &front, &settings) else {
                continue;
            };
            for step in &transfer.steps {
                if let Place::Host(host) = &step.place {
                    assert!(!host.as_str().starts_with('-'));
                }
                let Work::Transfer { call, .. } = &step.work else { panic!("{step:?}") };
                check(call, "");
            }
            // An answer is whole lines, whatever a worker prints.
            if let Ok(answer) = request.answer("raw", host, &settings) {
                assert!(answer.stdout.is_empty() || answer.stdout.ends_with('\n'), "{answer:?}");
            }
        }
        let _ = Request::read(slots.first().unwrap_or_else(|| panic!("no slots")), &["34".to_owned()], bytes);
        if let Ok(hosts) = Hosts::parse(bytes) {
            assert!(choose(&[], &hosts, 7).is_err());
        }
        let _ = Monitord::parse(&String::from_utf8_lossy(bytes));
    });
}

/// Looks at every text of a call.
fn check(value: &Value, key: &str) {
    match value {
        Value::String(text) => match key {
            "image" | "original" if !text.starts_with('/') => {
                // A volume.
                let names: Vec<&str> = text.split('/').collect();
                assert!(names.len() == 2 && names.iter().all(|name| !name.is_empty()), "{text:?}");
                assert!(!text.starts_with('-') && !text.contains("/-") && !text.contains('@'), "{text:?}");
                assert!(!text.contains(char::is_control), "{text:?}");
            }
            "user" | "pool" | "data_pool" => assert!(!text.starts_with('-'), "{text:?}"),
            "conf" | "key" | "staging" => assert!(text.starts_with('/'), "{text:?}"),
            "image" | "original" | "datastore" => {
                assert!(text.starts_with('/') && !text.split('/').any(|part| part == ".."), "{text:?}");
                assert!(!text.contains(char::is_control), "{text:?}");
            }
            "address" => {
                let (scheme, rest) = text.split_once("://").unwrap_or_else(|| panic!("{text:?}"));
                assert!(!rest.starts_with('-') && !scheme.is_empty(), "{text:?}");
                assert!(
                    !text.contains(|c: char| c.is_whitespace() || "'\"`\\<>|{}^".contains(c)),
                    "{text:?}"
                );
            }
            "md5" | "sha1" => assert!(text.bytes().all(|b| b.is_ascii_hexdigit()), "{text:?}"),
            "limit" => assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text:?}"),
            _ => {}
        },
        Value::Array(values) => values.iter().for_each(|value| check(value, key)),
        Value::Object(values) => values.iter().for_each(|(key, value)| check(value, key)),
        _ => {}
    }
}
