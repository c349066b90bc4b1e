//! Domain XML against deployment files that OpenNebula 7.4 wrote, and against hostile text.

use causeway_domain::domain_xml::{
    DEPTH_LIMIT, ELEMENT_LIMIT, SIZE_LIMIT, Source, XmlError, facts, is_disk_link, metadata, rewrite_sources,
    snapshot_name, snapshot_of,
};
use proptest::prelude::*;

const DEPLOYMENT: &str = include_str!("data/deployment-qcow2.xml");
const RESUMED: &str = include_str!("data/deployment-resume.xml");

#[test]
fn a_recorded_deployment_file_gives_its_facts() {
    let facts = facts(DEPLOYMENT).unwrap();
    assert_eq!((facts.kind.as_str(), facts.name.as_str()), ("kvm", "one-0"));
    let uuid = facts.uuid.unwrap().to_string();
    assert_eq!(uuid, "0a9740f1-4d50-4438-a1af-70d224786bbe");
    assert_eq!((facts.memory, facts.vcpus), (128 << 20, 2));
    assert_eq!(facts.machine.as_deref(), Some("q35"));
    assert_eq!(facts.emulator.as_deref(), Some("/usr/bin/qemu-kvm-one"));
    assert!(facts.acpi && !facts.emulated_tpm && facts.nvram.is_none());

    let disks: Vec<_> =
        facts.disks.iter().map(|d| (d.target.as_str(), d.device.as_str(), d.readonly)).collect();
    assert_eq!(disks, [("vda", "disk", false), ("sda", "cdrom", true)]);
    let first = &facts.disks[0];
    let path = "/var/lib/one//datastores/102/0/disk.0".to_owned();
    assert_eq!(first.source, Source::File(path));
    assert_eq!(first.format.as_deref(), Some("qcow2"));
    assert_eq!(first.cache.as_deref(), Some("none"));

    let nic = &facts.interfaces[0];
    assert_eq!(nic.mac.unwrap().to_string(), "02:00:0a:0a:00:0a");
    assert_eq!(nic.target.as_ref().unwrap().as_str(), "one-0-0");
    assert_eq!(nic.bridge.as_ref().unwrap().as_str(), "ovsvx0");
    assert_eq!(nic.virtualport.as_deref(), Some("openvswitch"));

    let metadata = facts.metadata.unwrap();
    let directory = metadata.system_datastore.unwrap();
    assert_eq!(directory.as_str(), "/var/lib/one//datastores/102/0");
    assert_eq!(metadata.name.as_deref(), Some("vm-qcow2"));
    assert_eq!(metadata.opennebula_version.as_deref(), Some("7.4.0"));
}

#[test]
fn metadata_come_alone_from_libvirt() {
    let alone =
        "<vm>\n  <system_datastore><![CDATA[/var/lib/one//datastores/0/7]]></system_datastore>\n</vm>\n";
    let path = metadata(alone).unwrap().system_datastore.unwrap();
    assert_eq!(path.as_str(), "/var/lib/one//datastores/0/7");
    let bad = "<vm><system_datastore>/a/../b</system_datastore></vm>";
    assert!(matches!(metadata(bad), Err(XmlError::Value { .. })));
}

#[test]
fn somebody_elses_metadata_are_not_ours() {
    let xml = "<domain><name>d</name><memory>1</memory><metadata>\
        <one:vm xmlns:one='http://example.org/'><one:system_datastore>/x/y</one:system_datastore></one:vm>\
        <vm><system_datastore>/x/z</system_datastore></vm></metadata></domain>";
    assert_eq!(facts(xml).unwrap().metadata, None);
    let outer = "<domain xmlns:one='http://opennebula.org/xmlns/libvirt/1.0'><name>d</name>\
        <memory>1</memory><metadata><one:vm><one:name>n</one:name></one:vm></metadata></domain>";
    assert!(facts(outer).unwrap().metadata.is_some());
}

#[test]
fn every_kind_of_source_is_told_apart() {
    let xml = "<domain><name>d</name><memory unit='GiB'>2</memory><os><nvram template='/t' \
        format='qcow2'>/var/lib/one/x_VARS.fd</nvram></os><devices>\
        <disk type='block'><source dev='/dev/vg/lv'/><target dev='vdb'/><shareable/></disk>\
        <disk type='network'><source protocol='rbd' name='one/one-3'/><target dev='vdc'/></disk>\
        <disk type='file' device='cdrom'><target dev='hdc'/><readonly/></disk>\
        <disk type='nvme'><source type='pci'/><target dev='vdd'/></disk>\
        <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm><hostdev/>\
        <interface type='bridge'><mac address='02:00:0a:09:00:01'/></interface></devices></domain>";
    let facts = facts(xml).unwrap();
    let sources: Vec<_> = facts.disks.iter().map(|d| d.source.clone()).collect();
    let network = Source::Network { protocol: "rbd".into(), name: "one/one-3".into() };
    let expected = [Source::Block("/dev/vg/lv".into()), network, Source::Empty, Source::Other("nvme".into())];
    assert_eq!(sources, expected);
    assert!(facts.disks[0].shareable && facts.emulated_tpm);
    assert_eq!((facts.memory, facts.hostdevs), (2 << 30, 1));
    let nvram = facts.nvram.unwrap();
    assert_eq!(nvram.path, "/var/lib/one/x_VARS.fd");
    assert_eq!(nvram.format.as_deref(), Some("qcow2"));
    assert_eq!(facts.interfaces[0].target, None);
}

#[test]
fn malformed_values_are_named() {
    let with = |inner: &str| format!("<domain><name>d</name><memory>1</memory>{inner}</domain>");
    for (inner, named) in [
        ("<uuid>no</uuid>", "uuid"),
        ("<vcpu>many</vcpu>", "vcpu"),
        ("<devices><interface><mac address='zz'/></interface></devices>", "mac address"),
        ("<devices><interface><source bridge='a/b'/></interface></devices>", "bridge"),
    ] {
        match facts(&with(inner)) {
            Err(XmlError::Value { what, .. }) => assert_eq!(what, named),
            other => panic!("{inner}: {other:?}"),
        }
    }
    let huge = "<domain><name>d</name><memory unit='TiB'>99999999999</memory></domain>";
    assert!(matches!(facts(huge), Err(XmlError::Value { .. })));
    assert_eq!(facts("<domain><memory>1</memory></domain>"), Err(XmlError::Missing("name")));
    assert_eq!(facts("<network/>"), Err(XmlError::NotADomain("network".into())));
}

#[test]
fn hostile_documents_are_refused() {
    let bomb = "<!DOCTYPE d [<!ENTITY a 'x'><!ENTITY b '&a;&a;'>]><domain>&b;</domain>";
    assert!(matches!(facts(bomb), Err(XmlError::Forbidden { .. })));
    let entity = "<domain><name>&xxe;</name></domain>";
    assert!(matches!(facts(entity), Err(XmlError::Forbidden { .. })));
    let deep = "<domain>".repeat(DEPTH_LIMIT + 1);
    assert!(matches!(facts(&deep), Err(XmlError::TooMuch { what: "levels", .. })));
    let wide = format!("<domain>{}</domain>", "<a/>".repeat(ELEMENT_LIMIT));
    assert!(matches!(facts(&wide), Err(XmlError::TooMuch { what: "elements", .. })));
    let many: String = (0..300_000).map(|n| format!(" a{n}=''")).collect();
    assert!(matches!(facts(&format!("<domain{many}/>")), Err(XmlError::TooMuch { what: "attributes", .. })));
    let long = format!("<domain>{}</domain>", " ".repeat(SIZE_LIMIT));
    assert!(matches!(facts(&long), Err(XmlError::TooMuch { .. })));
    for broken in [
        "",
        " ",
        "text",
        "<domain>",
        "</domain>",
        "<domain></name>",
        "<domain/><domain/>",
        "<domain a='1' a='2'/>",
        "<domain a=1/>",
        "<domain/>tail",
        "<domain><title>a & b</title></domain>",
        "<domain>&#0;</domain>",
        "<domain>&#xd800;</domain>",
    ] {
        assert!(matches!(facts(broken), Err(XmlError::Malformed { .. })), "{broken:?}: {:?}", facts(broken));
    }
}

#[test]
fn links_are_replaced_and_nothing_else_changes() {
    let target = "/var/lib/one/datastores/1/it's & \"so\" <on>";
    let written = rewrite_sources(DEPLOYMENT, |path| {
        (is_disk_link(path) && path.ends_with("disk.0")).then(|| target.to_owned())
    })
    .unwrap();
    let again = facts(&written).unwrap();
    assert_eq!(again.disks[0].source, Source::File(target.to_owned()));
    let escaped = "/var/lib/one/datastores/1/it&apos;s &amp; &quot;so&quot; &lt;on&gt;";
    let back = written.replace(escaped, "/var/lib/one//datastores/102/0/disk.0");
    assert_eq!(back, DEPLOYMENT, "all other bytes are as oned wrote them");
    assert!(rewrite_sources(DEPLOYMENT, |_| Some("a\nb".into())).is_err());
}

#[test]
fn only_the_disks_own_source_is_replaced() {
    let xml = "<domain><devices><disk type='file'><backingStore type='file'><source file='/b/disk.0'/></backingStore>\
        <source startupPolicy='optional' file = \"/d/disk.0\"/></disk>\
        <disk type='block'><source dev='/d/disk.1'/></disk>\
        <serial type='file'><source path='/d/disk.2' file='/d/disk.3'/></serial></devices></domain>";
    let written = rewrite_sources(xml, |_| Some("/new".into())).unwrap();
    assert_eq!(written, xml.replace("\"/d/disk.0\"", "\"/new\""));
}

#[test]
fn the_names_of_links_are_those_of_the_contract() {
    for path in ["/v/disk.0", "/v/disk.12", "disk.3"] {
        assert!(is_disk_link(path), "{path}");
    }
    for path in ["/v/disk.", "/v/disk.0.snap", "/v/disk.a", "/v/xdisk.0", "/v/disk.0/x", ""] {
        assert!(!is_disk_link(path), "{path}");
    }
}

#[test]
fn a_file_that_was_written_for_a_resume_reads_the_same() {
    assert_eq!(facts(RESUMED).unwrap().disks, facts(DEPLOYMENT).unwrap().disks);
    assert_eq!(rewrite_sources(RESUMED, |_| None).unwrap(), RESUMED);
}

proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "\\PC{0,200}") {
        let _ = facts(&text);
        let _ = metadata(&text);
    }

    #[test]
    fn a_damaged_deployment_gets_an_answer(at in 0..DEPLOYMENT.len(), with in "[<>&'\"/a\\[\\]!-]{0,3}", cut in 0..40usize) {
        let end = (at + cut).min(DEPLOYMENT.len());
        let mut text = DEPLOYMENT.to_owned();
        text.replace_range(at..end, &with);
        if facts(&text).is_ok() {
            prop_assert_eq!(rewrite_sources(&text, |_| None).unwrap(), text);
        }
    }

    #[test]
    fn any_path_survives_the_way_through_the_xml(path in "/[^\\p{Cc}]{1,60}") {
        let written = rewrite_sources(DEPLOYMENT, |_| Some(path.clone())).unwrap();
        for disk in facts(&written).unwrap().disks {
            prop_assert_eq!(disk.source, Source::File(path.clone()));
        }
    }
}

const SNAPSHOT: &str = "<domainsnapshot>\n  <name>snap-0</name>\n  <domain type='kvm'>\n    <name>one-7</name>\n    \
    <uuid>6e1f0f2a-0000-4000-8000-000000000001</uuid>\n    <title>&lt;uuid&gt;</title>\n  </domain>\n  \
    <inactiveDomain><uuid> 6e1f0f2a-0000-4000-8000-000000000001 </uuid></inactiveDomain>\n  \
    <cookie><cpu><uuid>not ours</uuid></cpu></cookie>\n</domainsnapshot>\n";

#[test]
fn a_snapshot_becomes_that_of_the_domain_and_nothing_else_changes() {
    let uuid = "11111111-0000-4000-8000-000000000000".parse().unwrap();
    let ours = snapshot_of(SNAPSHOT, uuid).unwrap();
    let old = "6e1f0f2a-0000-4000-8000-000000000001";
    assert_eq!(ours, SNAPSHOT.replace(&format!(" {old} "), old).replace(old, &uuid.to_string()));
    assert_eq!(snapshot_name(&ours).unwrap(), "snap-0");
    for (xml, part) in [
        ("<domain><name>one-7</name></domain>", "not <domainsnapshot>"),
        ("<domainsnapshot><name> </name></domainsnapshot>", "name is missing"),
        ("<domainsnapshot><name>x", "inside an element"),
        ("<!DOCTYPE x []><domainsnapshot/>", "document type"),
    ] {
        let error = snapshot_name(xml).unwrap_err().to_string();
        assert!(error.contains(part), "{xml}: {error}");
    }
    // None to replace: libvirt says what it thinks of it.
    let bare = "<domainsnapshot><name>a</name><domain><uuid/></domain></domainsnapshot>";
    assert_eq!(snapshot_of(bare, uuid).unwrap(), bare);
}
