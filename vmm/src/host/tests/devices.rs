//! What a start, an end and a move ask of the machine: its memory, and the helpers of the stock release for virtual GPUs
//! and TPMs (contract VMM 3.3 and 3.5).

use causeway_domain::fake::Lie;
use causeway_domain::{Cause, Code};

use super::*;

const DIRECTORY: &str = "/var/lib/one//datastores/102/0";
const DEPLOY: [&str; 4] = ["/var/lib/one//datastores/102/0/deployment.0", "node1", "0", "node1"];
const END: [&str; 4] = [UUID, "node1", "0", "node1"];
const DEVICES: &str = "<devices><hostdev mode='subsystem' type='mdev'/>\
                       <tpm><backend type='emulator' version='2.0'/></tpm></devices>\
                       <metadata><one:vm xmlns:one='http://opennebula.org/xmlns/libvirt/1.0'>\
                       <one:system_datastore>/var/lib/one//datastores/102/0</one:system_datastore></one:vm></metadata>";

fn deploy(bench: &Bench, inner: &str) -> Result<Done, Failure> {
    bench.run("deploy", &DEPLOY, domain(inner).as_bytes())
}

fn gpus(verb: &str) -> String {
    format!("vgpu {verb} {DIRECTORY}/vm.xml")
}

fn tpm(verb: &str) -> String {
    format!("vtpm_setup {verb} {UUID} {DIRECTORY}")
}

#[test]
fn helpers_are_called_for_the_guests_that_need_them_before_they_start() {
    let mut bench = Bench::new();
    bench.directory.tpm = true;
    deploy(&bench, DEVICES).unwrap();
    assert_eq!(bench.asked(), [gpus("CREATE"), tpm("recover")]);
    // No state was kept: the TPM is a new one.
    let bench = Bench::new();
    deploy(&bench, DEVICES).unwrap();
    assert_eq!(bench.asked(), [gpus("CREATE")]);
    let bench = Bench::new();
    deploy(&bench, "").unwrap();
    assert_eq!(bench.asked(), [] as [&str; 0]);
    assert_eq!(bench.file_calls().len(), 1, "no TPM is looked for");
}

/// Contract VMM 7, B3.
#[test]
fn gpus_are_taken_away_where_the_guest_did_not_start_and_only_there() {
    let bench = Bench::new();
    bench.host.lie(Operation::Create, 1, Lie::Instead(Cause::libvirt(Code::Other, "no such mdev")));
    refused(deploy(&bench, DEVICES), Kind::Refused, "no such mdev");
    assert_eq!(bench.asked(), [gpus("CREATE"), gpus("DELETE")]);
    let bench = Bench::new();
    bench.host.lie(Operation::Create, 1, Lie::After(Cause::unreachable()));
    refused(deploy(&bench, DEVICES), Kind::Unreachable, "cannot reach libvirt");
    assert_eq!(bench.asked(), [gpus("CREATE")], "it may run");
}

#[test]
fn a_tpm_is_saved_while_its_guest_still_runs_and_gpus_go_after_it() {
    let bench = Bench::new();
    deploy(&bench, DEVICES).unwrap();
    done(bench.run("shutdown", &END, b""), Effect::Made);
    assert_eq!(bench.asked(), [gpus("CREATE"), tpm("backup"), gpus("DELETE")]);
    done(bench.run("shutdown", &END, b""), Effect::Already);
    assert_eq!(bench.asked().len(), 3);

    let bench = Bench::new();
    deploy(&bench, DEVICES).unwrap();
    done(bench.run("cancel", &END, b""), Effect::Made);
    assert_eq!(bench.asked(), [gpus("CREATE"), gpus("DELETE")]);

    // It goes on: so do its devices.
    let mut bench = Bench::new();
    bench.settings.kvmrc.force_destroy = false;
    deploy(&bench, DEVICES).unwrap();
    bench.host.ignore_shutdown(&id());
    refused(bench.run("shutdown", &END, b""), Kind::Timeout, "FORCE_DESTROY");
    assert_eq!(bench.asked(), [gpus("CREATE"), tpm("backup")]);
}

/// Contract VMM 3.1.
#[test]
fn the_hosts_memory_is_compacted_where_the_admin_wants_that() {
    let mut bench = Bench::new();
    bench.settings.kvmrc.cleanup_memory_on_start = true;
    deploy(&bench, DEVICES).unwrap();
    assert_eq!(bench.asked(), ["compact memory".to_owned(), gpus("CREATE")], "before the guest needs it");
    done(bench.run("cancel", &END, b""), Effect::Made);

    bench.settings.kvmrc.cleanup_memory_on_start = false;
    bench.settings.kvmrc.cleanup_memory_on_stop = true;
    deploy(&bench, "").unwrap();
    bench.machine.asked.lock().unwrap().clear();
    done(bench.run("shutdown", &END, b""), Effect::Made);
    assert_eq!(bench.asked(), ["compact memory"]);
    done(bench.run("shutdown", &END, b""), Effect::Already);
    assert_eq!(bench.asked().len(), 1, "nothing was given back");
}

#[test]
fn what_the_machine_cannot_do_is_told_and_fails_nothing() {
    let mut bench = Bench::new();
    bench.machine.broken = true;
    bench.directory.tpm = true;
    (bench.settings.kvmrc.cleanup_memory_on_start, bench.settings.kvmrc.cleanup_memory_on_stop) =
        (true, true);
    done(deploy(&bench, DEVICES), Effect::Made);
    done(bench.run("shutdown", &END, b""), Effect::Made);
    let told =
        |part: &str| bench.lines().iter().any(|line| line.contains(part) && line.contains("a password"));
    for part in
        ["memory was not compacted", "vgpu CREATE", "vtpm_setup recover", "vtpm_setup backup", "vgpu DELETE"]
    {
        assert!(told(part), "{part}: {:?}", bench.lines());
    }
}
