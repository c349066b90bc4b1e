//! The verbs against libvirt's own in-memory hypervisor, `test:///default`.

// clippy.toml allows unwrapping in tests, but takes only `#[test]` functions for tests, not what they call.
#![expect(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use causeway_core::answer::Failure;
use causeway_core::names::DeployId;
use causeway_core::outcome::Sighting;
use causeway_core::reach::wire::{Done, Effect};
use causeway_core::settings::{Causeway, Kvmrc};
use causeway_domain::{Drive, Hypervisor, Libvirt};
use causeway_vmm::host::{
    Call, FileAnswer, FileCall, Files, Helper, Later, Machine, Settings, run, sighting,
};

struct NoFiles;

impl Files for NoFiles {
    fn call(&self, call: FileCall) -> Result<FileAnswer, Failure> {
        if let FileCall::Snapshots { .. } = call {
            return Ok(FileAnswer::Snapshots { saved: Vec::new(), current: None });
        }
        Ok(FileAnswer::Done)
    }
}

struct NoMachine;

impl Machine for NoMachine {
    fn compact_memory(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn help(&self, _: &Helper) -> Result<(), Failure> {
        Ok(())
    }

    fn later(&self, _: Later) {}

    fn peer(&self, _: &str) -> Option<Result<Arc<dyn Hypervisor>, Failure>> {
        None
    }
}

fn verb(libvirt: &Libvirt, verb: &str, argv: &[&str], stdin: &str) -> Result<Done, Failure> {
    let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
    let settings =
        Settings { kvmrc: Kvmrc::shipped().unwrap(), causeway: Causeway::default(), drive: Drive::Client };
    let call = Call {
        argv: &argv,
        stdin: stdin.as_bytes(),
        hypervisor: libvirt,
        files: &NoFiles,
        machine: &NoMachine,
        settings: &settings,
        cancelled: &AtomicBool::new(false),
        log: &|_, _| {},
    };
    run(verb, &call)
}

#[test]
fn a_guest_is_started_and_ended_again_and_again() {
    let libvirt = Libvirt::connect("test:///default").unwrap();
    let uuid = "6e1f0f2a-0000-4000-8000-000000000031";
    let id: DeployId = uuid.parse().unwrap();
    let xml = format!(
        "<domain type='test'><name>one-31</name><uuid>{uuid}</uuid><memory unit='MiB'>8</memory>\
         <os><type>hvm</type></os></domain>"
    );
    let deploy = ["/var/lib/one//datastores/0/31/deployment.0", "node1", "31", "node1"];
    let end = [uuid, "node1", "31", "node1"];
    for way in ["cancel", "shutdown", "cancel"] {
        let started = verb(&libvirt, "deploy", &deploy, &xml).unwrap();
        assert_eq!((started.output.as_str(), started.effect), (uuid, Effect::Made));
        assert_eq!(sighting(&libvirt, &id), Sighting::Running);
        let again = verb(&libvirt, "deploy", &deploy, &xml).unwrap();
        assert_eq!((again.output.as_str(), again.effect), (uuid, Effect::Already));

        assert_eq!(verb(&libvirt, way, &end, "").unwrap().effect, Effect::Made);
        assert_eq!(sighting(&libvirt, &id), Sighting::Absent);
        assert_eq!(verb(&libvirt, way, &end, "").unwrap().effect, Effect::Already);
    }
}

/// Contract VMM 7, C4.
#[test]
fn a_domain_with_a_definition_is_ended_and_its_definition_goes() {
    // The test driver's own domain; no other test touches it.
    let libvirt = Libvirt::connect("test:///default").unwrap();
    let stock = "6695eb01-f6a4-8304-79aa-97f2502e193f";
    let id: DeployId = stock.parse().unwrap();
    assert!(libvirt.lookup(&id).unwrap().unwrap().persistent);
    assert_eq!(verb(&libvirt, "cancel", &[stock, "node1", "0", "node1"], "").unwrap().effect, Effect::Made);
    assert_eq!(sighting(&libvirt, &id), Sighting::Absent);
}
