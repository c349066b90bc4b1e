//! What the privileged side is told under attack: by the unprivileged one, and by the operator's list.

use std::path::Path;

use causeway_core::document::VmDocument;

use super::frame;
use super::uplinks::parse;
use super::wire::{CompactMemory, Inspect, Reconcile, Request};
use crate::desired::{Driver, Facts, desired};

#[test]
fn fuzz_list_of_devices() {
    crate::seeded::fuzz("uplinks", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match parse(Path::new("uplinks"), &text) {
            Ok(names) => {
                assert!(names.len() <= text.lines().count());
                assert!(names.iter().all(|name| text.contains(name.as_str())));
                let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
                assert_eq!(parse(Path::new("uplinks"), &lines).ok(), Some(names));
            }
            Err(error) => assert!(error.to_string().starts_with("uplinks line "), "{error}"),
        }
    });
}

#[test]
fn fuzz_requests() {
    crate::seeded::fuzz("root", |bytes| {
        let mut stream = bytes;
        while let Ok(Some(body)) = frame::read(&mut stream) {
            let kinds = [
                frame::decode::<CompactMemory>(&body).is_ok(),
                frame::decode::<Reconcile>(&body).is_ok(),
                frame::decode::<Inspect>(&body).is_ok(),
                frame::decode::<Request>(&body).is_ok(),
            ];
            assert!(kinds.iter().filter(|understood| **understood).count() <= 1, "one thing is asked for");
            let Ok(request) = frame::decode::<Request>(&body) else { continue };
            let again = frame::encode(&request).unwrap();
            assert_eq!(frame::decode::<Request>(again.get(4..).unwrap_or_default()).unwrap(), request);
            let Ok((Ok(vm), Ok(driver))) = request
                .document()
                .map(|document| (VmDocument::parse(&document), Driver::try_from(&request.driver)))
            else {
                continue;
            };
            let Ok(answer) = desired(driver, &vm, &request.settings, &Facts::default()) else { continue };
            // No document leads to a device of another VM, or into one.
            for port in &answer.desired.ports {
                assert_eq!(port.tap.as_str(), format!("one-{}-{}", vm.id, port.nic));
                assert!(!crate::desired::port::is_tap_name(&port.bridge));
            }
        }
    });
}
