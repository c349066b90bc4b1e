//! `deploy`.

use causeway_core::reach::wire::Done;
use causeway_domain::fake::Lie;
use causeway_domain::{Cause, Code, State, XmlView};

use super::*;

const ARGV: [&str; 4] = ["/var/lib/one//datastores/102/0/deployment.0", "node1", "0", "node1"];

fn deploy(bench: &Bench, xml: &str) -> Result<Done, Failure> {
    bench.run("deploy", &ARGV, xml.as_bytes())
}

#[test]
fn a_guest_starts_and_its_file_is_kept() {
    let bench = Bench::new();
    let answer = deploy(&bench, &domain("")).unwrap();
    assert_eq!((answer.output.as_str(), answer.effect), (UUID, Effect::Made));
    assert_eq!(bench.host.truth(&id()).unwrap().state, State::Running);
    let stored = FileCall::Store { path: ARGV[0].parse().unwrap(), text: domain("") };
    assert_eq!(bench.file_calls(), [stored]);
}

/// Contract VMM 7, C16.
#[test]
fn a_guest_that_runs_is_taken_over_as_it_is() {
    let bench = Bench::with_guest();
    let before = bench.host.truth(&id());
    let answer = deploy(&bench, &domain("")).unwrap();
    assert_eq!((answer.output.as_str(), answer.effect), (UUID, Effect::Already));
    assert_eq!(bench.host.truth(&id()), before);
    assert_eq!(bench.host.operations(), [Operation::Lookup]);
    assert!(bench.file_calls().is_empty(), "its files are those it runs on");
    assert!(bench.lines()[0].contains("one-0 runs here already"), "{:?}", bench.lines());
}

/// Contract VMM 7, C16.
#[test]
fn another_guest_of_the_same_name_is_never_touched() {
    let bench = Bench::new();
    let other = domain("").replace(UUID, "11111111-0000-4000-8000-000000000000");
    bench.host.create(&other).unwrap();
    let before = bench.host.list().unwrap();
    refused(deploy(&bench, &domain("")), Kind::HostState, "11111111-0000-4000-8000-000000000000");
    // What DEPLOY is undone by asks for the guest by its own UUID.
    done(bench.run("cancel", &[UUID, "node1", "0", "node1"], b""), Effect::Already);
    assert_eq!(bench.host.list().unwrap(), before);
    assert!(bench.file_calls().is_empty());
}

#[test]
fn a_definition_in_the_way_is_named_with_the_command_that_removes_it() {
    let bench = Bench::with_guest();
    bench.host.set_persistent(&id());
    bench.host.kill(&id());
    refused(deploy(&bench, &domain("")), Kind::HostState, "`virsh undefine one-0`");
}

#[test]
fn a_file_that_is_not_this_vms_is_refused_before_anything_is_done() {
    let bench = Bench::new();
    let stranger = domain("").replace("one-0", "one-1");
    refused(deploy(&bench, &stranger), Kind::Input, "its name is \"one-1\", and VM 0 is called one-0");
    for broken in ["", "<domain", "<network/>", "<!DOCTYPE x []><domain/>", "<domain><name>one-0</name>"] {
        refused(deploy(&bench, broken), Kind::Input, "deployment file: ");
    }
    refused(bench.run("deploy", &ARGV, b"\xff"), Kind::Input, "not UTF-8");
    assert_eq!(bench.host.operations(), []);
    assert!(bench.file_calls().is_empty());
}

#[test]
fn linked_disks_are_named_by_what_they_lead_to() {
    let mut bench = Bench::new();
    let at = |n: u32| format!("/var/lib/one//datastores/102/0/disk.{n}");
    let target = "/var/lib/one/datastores/1/image&quot;.snap/0".replace("&quot;", "\"");
    bench.directory.links = [(at(0), target.clone())].into();
    let disk = |path: &str, dev: &str| {
        format!("<disk type='file' device='disk'><source file='{path}'/><target dev='{dev}'/></disk>")
    };
    let devices =
        format!("<devices>{}{}{}</devices>", disk(&at(0), "vda"), disk(&at(2), "vdb"), disk("/srv/x", "vdc"));
    deploy(&bench, &domain(&devices)).unwrap();
    let asked = FileCall::Links { paths: vec![at(0), at(2)] };
    assert_eq!(bench.file_calls()[1..], [asked], "only disks of the VM directory");
    let live = bench.host.xml(&id(), XmlView::Live).unwrap();
    let sources: Vec<_> =
        causeway_domain::domain_xml::facts(&live).unwrap().disks.into_iter().map(|d| d.source).collect();
    let file = |path: &str| causeway_domain::domain_xml::Source::File(path.to_owned());
    assert_eq!(sources, [file(&target), file(&at(2)), file("/srv/x")]);
    let FileCall::Store { text, .. } = &bench.file_calls()[0] else { panic!("nothing was stored") };
    assert!(text.contains(&at(0)), "the file is kept as oned wrote it");
}

/// Contract VMM 7, F1: the file is asked for only where it is absent, whatever the formats.
#[test]
fn firmware_variables_are_made_out_of_their_template() {
    let path = "/var/lib/one//datastores/102/0/one-0_VARS.fd";
    let shipped = "/usr/share/OVMF/OVMF_VARS.fd";
    for (nvram, template, format) in [
        (format!("<nvram>{path}</nvram>"), shipped, "raw"),
        (format!("<nvram template='/t.fd'>{path}</nvram>"), "/t.fd", "raw"),
        (format!("<nvram template='/t.fd' format='qcow2'>{path}</nvram>"), "/t.fd", "qcow2"),
    ] {
        let bench = Bench::new();
        deploy(&bench, &domain(&format!("<os>{nvram}</os>"))).unwrap();
        let (path, format) = (path.parse().unwrap(), format.to_owned());
        let made = FileCall::Firmware { path, template: template.into(), format };
        assert_eq!(bench.file_calls()[1..], [made]);
    }
    for (nvram, part) in [
        ("<nvram format='vmdk'>/a/b</nvram>", "os/nvram format \"vmdk\" is neither raw nor qcow2"),
        ("<nvram>../b</nvram>", "os/nvram: "),
    ] {
        let bench = Bench::new();
        refused(deploy(&bench, &domain(&format!("<os>{nvram}</os>"))), Kind::Input, part);
        assert_eq!(bench.count(Operation::Create), 0);
    }
}

#[test]
fn nothing_starts_where_the_files_cannot_be_written_or_libvirt_cannot_be_asked() {
    let mut bench = Bench::new();
    bench.directory.broken = true;
    refused(deploy(&bench, &domain("")), Kind::HostState, "read-only");
    assert_eq!(bench.count(Operation::Create), 0);
    let bench = Bench::new();
    bench.host.set_unreachable(true);
    refused(deploy(&bench, &domain("")), Kind::Unreachable, "cannot reach libvirt");
    assert!(bench.file_calls().is_empty());
}

#[test]
fn a_deploy_that_is_cancelled_before_libvirt_is_asked_starts_nothing() {
    let mut bench = Bench::new();
    bench.directory.cancels = Some(bench.cancelled);
    refused(deploy(&bench, &domain("")), Kind::Cancelled, "cancelled before libvirt was asked");
    assert_eq!(bench.host.truth(&id()), None);
}

#[test]
fn what_libvirt_says_of_a_start_is_the_answer() {
    let bench = Bench::new();
    let cause = Cause::libvirt(Code::Other, "cannot access storage file");
    bench.host.lie(Operation::Create, 1, Lie::Instead(cause));
    refused(deploy(&bench, &domain("")), Kind::Refused, "create one-0: cannot access storage file");
    // A repeat after a lost answer finds what the first one has started.
    bench.host.lie(Operation::Create, 2, Lie::After(Cause::unreachable()));
    refused(deploy(&bench, &domain("")), Kind::Unreachable, "create one-0");
    done(deploy(&bench, &domain("")), Effect::Already);
}
