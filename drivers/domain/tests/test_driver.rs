//! The real side against libvirt's own in-memory hypervisor, `test:///default`.
//!
//! All tests share that one world (libvirt keeps one per process), so each has domains of its own.

use std::time::Duration;

use causeway_core::answer::Kind;
use causeway_core::document::{Bandwidth, Bandwidths};
use causeway_core::names::{DeployId, VmId};
use causeway_domain::disk::JobEnd;
use causeway_domain::{
    Cause, Code, Deadlines, Drive, Hypervisor, Libvirt, MigrateRequest, PauseReason, State, XmlView,
};

fn world() -> Libvirt {
    match Libvirt::connect("test:///default") {
        Ok(libvirt) => libvirt,
        Err(error) => panic!("{error}: {}", error.cause),
    }
}

fn xml(vm: u32) -> String {
    format!(
        "<domain type='test'><name>one-{vm}</name>\
         <uuid>6e1f0f2a-0000-4000-8000-{vm:012}</uuid><memory unit='MiB'>8</memory><vcpu>1</vcpu>\
         <os><type>hvm</type></os>\
         <metadata><one:vm xmlns:one='http://opennebula.org/xmlns/libvirt/1.0'>\
         <one:system_datastore><![CDATA[/var/lib/one//datastores/0/{vm}]]></one:system_datastore>\
         </one:vm></metadata></domain>"
    )
}

fn one(vm: u32) -> DeployId {
    DeployId::of_vm(VmId(vm))
}

#[test]
fn a_domain_lives_and_vanishes() {
    let host = world();
    assert_eq!(host.lookup(&one(1)).unwrap(), None);
    let created = host.create(&xml(1)).unwrap();
    assert_eq!(created.name, "one-1");
    assert_eq!(created.state, State::Running);
    assert!(!created.persistent && created.id.is_some());

    let by_uuid = DeployId::from(created.uuid);
    assert_eq!(host.lookup(&by_uuid).unwrap().unwrap(), created);
    assert_eq!(host.lookup(&one(1)).unwrap().unwrap(), created);
    assert!(host.list().unwrap().contains(&created));

    host.destroy(&by_uuid).unwrap();
    assert_eq!(host.lookup(&one(1)).unwrap(), None, "transient");
    assert!(!host.list().unwrap().contains(&created));
}

#[test]
fn the_states_follow_the_calls() {
    let host = world();
    host.create(&xml(2)).unwrap();
    let state = || host.lookup(&one(2)).unwrap().unwrap().state;
    host.suspend(&one(2)).unwrap();
    assert_eq!(state(), State::Paused(PauseReason::User));
    host.resume(&one(2)).unwrap();
    assert_eq!(state(), State::Running);
    host.shutdown(&one(2)).unwrap();
    assert_eq!(host.lookup(&one(2)).unwrap(), None);
}

#[test]
fn absence_is_an_answer_and_has_its_own_code() {
    let host = world();
    let gone = one(404);
    assert_eq!(host.lookup(&gone).unwrap(), None);
    let by_uuid: DeployId = "6e1f0f2a-0000-4000-8000-000000000404".parse().unwrap();
    assert_eq!(host.lookup(&by_uuid).unwrap(), None);
    for error in [
        host.destroy(&gone).unwrap_err(),
        host.shutdown(&gone).unwrap_err(),
        host.xml(&gone, XmlView::Live).unwrap_err(),
        host.job(&gone).unwrap_err(),
        host.abort_job(&gone).unwrap_err(),
    ] {
        assert!(error.is_absent(), "{error}: {:?}", error.cause);
        assert!(!error.is_unknown());
    }
}

#[test]
fn a_libvirt_that_is_not_there_is_never_absence() {
    let nowhere = Libvirt::connect("qemu+unix:///system?socket=/nonexistent/libvirt-sock");
    let error = nowhere.unwrap_err();
    assert!(error.is_unknown() && !error.is_absent());
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(Libvirt::connect("test:///def\0ault").is_err());
}

#[test]
fn broken_xml_is_the_callers_fault() {
    let host = world();
    for broken in ["", "<domain", "<network/>", "<domain type='test'/>"] {
        let error = host.create(broken).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{broken:?}: {:?}", error.cause);
    }
    let zero = host.create("<domain>\0</domain>").unwrap_err();
    assert!(matches!(zero.cause, Cause::Input(_)));
}

#[test]
fn a_second_domain_of_the_same_name_is_refused_and_harms_nobody() {
    let host = world();
    let first = host.create(&xml(3)).unwrap();
    assert!(host.create(&xml(3)).is_err());
    assert_eq!(host.lookup(&one(3)).unwrap().unwrap(), first);
    host.destroy(&one(3)).unwrap();
}

#[test]
fn metadata_and_xml_can_be_read_back() {
    let host = world();
    host.create(&xml(4)).unwrap();
    let metadata = host.metadata(&one(4)).unwrap().unwrap();
    let path = metadata.system_datastore.unwrap();
    assert_eq!(path.as_str(), "/var/lib/one//datastores/0/4");

    let live = host.xml(&one(4), XmlView::Live).unwrap();
    let facts = causeway_domain::domain_xml::facts(&live).unwrap();
    assert_eq!(facts.name, "one-4");
    assert_eq!(facts.memory, 8 << 20);
    assert_eq!(facts.metadata.unwrap().system_datastore.unwrap(), path);
    host.xml(&one(4), XmlView::Migratable).unwrap();
    host.destroy(&one(4)).unwrap();

    let bare = xml(5);
    let (head, _) = bare.split_once("<metadata>").unwrap();
    host.create(&format!("{head}</domain>")).unwrap();
    assert_eq!(host.metadata(&one(5)).unwrap(), None);
    host.destroy(&one(5)).unwrap();
}

#[test]
fn a_persistent_domain_is_told_apart_and_can_be_forgotten() {
    // The test driver's own domain; no other test touches it.
    let host = world();
    let stock: DeployId = "6695eb01-f6a4-8304-79aa-97f2502e193f".parse().unwrap();
    let found = host.lookup(&stock).unwrap().unwrap();
    assert!(found.persistent);
    host.undefine(&stock).unwrap();
    let now = host.lookup(&stock).unwrap().unwrap();
    assert!(!now.persistent, "it runs on as a transient domain");
    assert_eq!(now.state, State::Running);
}

#[test]
fn the_host_has_figures() {
    let host = world();
    let facts = host.host().unwrap();
    assert_eq!(facts.hypervisor, "TEST");
    assert!(facts.cpus > 0 && facts.memory > 0 && !facts.hostname.is_empty());
    assert!(host.capabilities().unwrap().contains("<capabilities>"));
}

#[test]
fn what_the_driver_cannot_do_is_refused_not_hung() {
    let host = world();
    host.create(&xml(6)).unwrap();
    let deadline = Duration::from_secs(5);
    let request = MigrateRequest::new(Drive::Client, "test:///default", deadline);
    let unsupported = [
        host.migrate(&one(6), &request).unwrap_err(),
        host.max_downtime(&one(6)).unwrap_err(),
        host.abort_job(&one(6)).unwrap_err(),
    ];
    for error in unsupported {
        assert_eq!(error.kind(), Kind::Refused, "{error}: {:?}", error.cause);
    }
    let monitor = serde_json::json!({"execute": "query-status"});
    assert!(host.monitor(&one(6), &monitor).is_err());
    assert!(host.lookup(&one(6)).unwrap().is_some());
    host.destroy(&one(6)).unwrap();
}

#[test]
fn a_request_that_cannot_be_is_refused_before_libvirt_sees_it() {
    let host = world();
    let deadline = Duration::from_secs(5);
    let mut request = MigrateRequest::new(Drive::Client, "test:///default", deadline);
    request.tunnelled = true;
    let error = host.migrate(&one(7), &request).unwrap_err();
    assert_eq!(error.kind(), Kind::Input, "not even looked up");
}

#[test]
fn a_silent_daemon_costs_the_deadline_and_then_nothing_is_known() {
    // A socket that accepts and never speaks: what a stopped libvirtd looks like.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("libvirt-sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let deadlines = Deadlines { call: Duration::from_millis(300), ..Deadlines::default() };
    let uri = format!("qemu+unix:///system?socket={}", path.display());
    let error = Libvirt::connect_with(&uri, deadlines).unwrap_err();
    assert_eq!(error.cause, Cause::Silent(deadlines.call));
    assert!(error.is_unknown());
    drop(listener);
}

#[test]
fn many_threads_share_one_connection() {
    let host = world();
    std::thread::scope(|scope| {
        for vm in 100..132 {
            let host = &host;
            scope.spawn(move || {
                let created = host.create(&xml(vm)).unwrap();
                assert_eq!(host.lookup(&one(vm)).unwrap().unwrap(), created);
                host.destroy(&one(vm)).unwrap();
                let again = host.destroy(&one(vm)).unwrap_err();
                assert_eq!(again.code(), Some(Code::NoDomain));
            });
        }
    });
}

/// Contract VMM 3.4, steps 1 and 6: what libvirt keeps of snapshots is put aside and given back.
#[test]
fn snapshots_are_forgotten_and_given_back() {
    let host = world();
    let uuid = host.create(&xml(40)).unwrap().uuid;
    let id = one(40);
    assert_eq!(host.snapshots(&id).unwrap(), []);
    let domain = host.xml(&id, XmlView::Live).unwrap();
    let snapshot = |name: &str, parent: &str| {
        format!(
            "<domainsnapshot><name>{name}</name>{parent}<state>running</state>\
             <creationTime>1795195897</creationTime>{domain}</domainsnapshot>"
        )
    };
    let parent = "<parent><name>snap-0</name></parent>";
    host.redefine_snapshot(&id, &snapshot("snap-0", ""), false).unwrap();
    host.redefine_snapshot(&id, &snapshot("snap-1", parent), true).unwrap();
    let known = host.snapshots(&id).unwrap();
    let told: Vec<_> = known.iter().map(|s| (s.name.as_str(), s.current)).collect();
    assert_eq!(told, [("snap-0", false), ("snap-1", true)], "each after its parent");

    // The test driver forgets no snapshot without deleting it, and says so; it forgets them with the domain.
    assert!(host.forget_snapshot(&id, "snap-1").unwrap_err().cause.to_string().contains("unsupported flags"));
    host.destroy(&id).unwrap();
    host.create(&xml(40)).unwrap();
    assert_eq!(host.snapshots(&id).unwrap(), []);
    for snapshot in &known {
        host.redefine_snapshot(&id, &snapshot.xml, snapshot.current).unwrap();
    }
    let told = host.snapshots(&id).unwrap();
    assert_eq!(told.iter().map(|s| s.current).collect::<Vec<_>>(), [false, true]);

    // Another domain's is refused, and so is nonsense.
    let stranger = snapshot("snap-2", "").replace(&uuid.to_string(), "11111111-0000-4000-8000-000000000000");
    assert!(host.redefine_snapshot(&id, &stranger, false).is_err());
    assert!(host.redefine_snapshot(&id, "<domainsnapshot", false).is_err());
    assert!(host.forget_snapshot(&id, "snap-9").is_err());
    assert!(host.snapshots(&one(41)).unwrap_err().is_absent());
    host.destroy(&id).unwrap();
}

#[test]
fn disks_are_asked_for_by_their_targets() {
    let host = world();
    let disk =
        "<devices><disk type='file'><source file='/ds/0/9/disk.0'/><target dev='vda'/></disk></devices>";
    host.create(&xml(9).replace("</domain>", &format!("{disk}</domain>"))).unwrap();
    let chains = host.disks(&one(9)).unwrap();
    assert_eq!(chains[0].target, "vda");
    assert_eq!(chains[0].active().unwrap().path(), Some("/ds/0/9/disk.0"));
    // It knows of no jobs; what matters is that none of these is taken for a guest without a job.
    assert!(host.disk_job(&one(9), "vda").is_err());
    assert!(host.end_disk_job(&one(9), "vda", JobEnd::Abort).is_err());
    assert!(host.disks(&one(405)).unwrap_err().is_absent());
    assert!(host.disk_job(&one(405), "vda").unwrap_err().is_absent());
    assert!(host.freeze(&one(405), Duration::from_secs(1)).unwrap_err().is_absent());
    assert!(matches!(host.disk_job(&one(9), "v\0").unwrap_err().cause, Cause::Input(_)));
    host.destroy(&one(9)).unwrap();
}

#[test]
fn limits_of_an_interface_are_set_and_lifted_while_it_runs() {
    let host = world();
    let nic = |number: u32, bandwidth: &str| {
        format!(
            "<interface type='bridge'><source bridge='br0'/><mac address='02:00:00:00:10:{number:02x}'/>\
             <target dev='one-10-{number}'/>{bandwidth}</interface>"
        )
    };
    let at_boot =
        "<bandwidth><inbound average='1000' peak='500'/><outbound average='0' peak='7'/></bandwidth>";
    let devices = format!("<devices>{}{}</devices></domain>", nic(0, ""), nic(1, at_boot));
    host.create(&xml(10).replace("</domain>", &devices)).unwrap();
    let told = |index: usize| host.bandwidths(&one(10)).unwrap().remove(index);
    assert_eq!(told(0).limits, Bandwidths::default());
    assert_eq!(told(0).target.unwrap().as_str(), "one-10-0");
    let of = |average, peak, burst| Bandwidth { average, peak, burst };
    let booted = Bandwidths { inbound: of(Some(1000), Some(500), None), outbound: Bandwidth::default() };
    assert_eq!(told(1).limits, booted);

    let most = u64::from(u32::MAX);
    let limits = Bandwidths {
        inbound: of(Some(2000), Some(4000), Some(300)),
        outbound: of(Some(most), Some(most), Some(most)),
    };
    host.set_bandwidths(&one(10), "one-10-0", &limits).unwrap();
    assert_eq!(told(0).limits, limits);
    // By its address too; what is not named is not limited any more.
    let inbound = Bandwidths { inbound: limits.inbound, ..Bandwidths::default() };
    host.set_bandwidths(&one(10), "02:00:00:00:10:00", &inbound).unwrap();
    assert_eq!((told(0).limits, told(1).limits), (inbound, booted));
    host.set_bandwidths(&one(10), "one-10-0", &Bandwidths::default()).unwrap();
    assert_eq!(told(0).limits, Bandwidths::default());

    let refused = host.set_bandwidths(&one(10), "one-10-9", &limits).unwrap_err();
    assert!(refused.cause.to_string().contains("one-10-9"), "{}", refused.cause);
    let beyond = Bandwidths { inbound: of(Some(most + 1), None, None), ..limits };
    assert!(matches!(host.set_bandwidths(&one(10), "one-10-0", &beyond).unwrap_err().cause, Cause::Input(_)));
    assert!(matches!(host.set_bandwidths(&one(10), "\0", &limits).unwrap_err().cause, Cause::Input(_)));
    assert!(host.bandwidths(&one(406)).unwrap_err().is_absent());
    host.destroy(&one(10)).unwrap();
    assert!(host.set_bandwidths(&one(10), "one-10-0", &limits).unwrap_err().is_absent());
}
