//! Decisions to plan otherwise than the stock driver: a row of `DIFFERENCES.md` each.

use causeway_core::plan::{OnFailure, Work};

use super::data::{document, of, planned, settings, step, step_names, with};

/// VMM 7 B1.
#[test]
fn a_network_that_cannot_be_cleaned_is_a_warning_once_the_guest_has_ended() {
    for (name, verb) in [
        ("k-qcow2-04-undeploy-resume.shutdown", "shutdown"),
        ("k-qcow2-05-poweroff-soft-hard-resume.cancel", "cancel"),
        ("k-qcow2-02-suspend-resume.save", "save"),
    ] {
        let plan = of(name);
        assert_eq!(step_names(&plan), [verb, "clean:ovswitch_vxlan"], "{name}");
        assert_eq!(plan.steps[0].on_failure, OnFailure::Stop, "{name}: the guest's end itself must not fail");
        assert_eq!(plan.steps[1].on_failure, OnFailure::Warn, "{name}");
    }
}

/// VMM 7 B5.
#[test]
fn a_move_to_the_same_host_leaves_the_guests_network_alone() {
    let document = document("k-qcow2-06-migrate-live.migrate");
    let same = with(&document, "<MIGR_HOST>node2<", "<MIGR_HOST>node1<");
    let plan = planned("MIGRATE", &same, &settings()).unwrap();
    assert_eq!(step_names(&plan), ["tm_premigrate", "migrate", "tm_postmigrate"]);
    let steps = plan.steps.iter().flat_map(|s| std::iter::once(s).chain(&s.undo));
    let network = |work: &Work| matches!(work, Work::Slot { slot, .. } if slot.family() == "vnm");
    assert_eq!(steps.filter(|s| network(&s.work)).count(), 0);
    assert_eq!(step(&plan, "migrate").goal, None, "where a guest is does not tell on which datastore");
}

/// VMM 7 B10.
#[test]
fn a_clean_up_that_fails_does_not_unmake_a_backup() {
    let plan = of("k-vmm-12-backup-running-and-poweroff-restore.backup");
    let failures: Vec<_> = plan.steps.iter().map(|s| (s.name.as_str(), s.on_failure)).collect();
    assert_eq!(
        failures,
        [
            ("tm_prebackup_live", OnFailure::Stop),
            ("backup", OnFailure::Stop),
            ("tm_postbackup_live", OnFailure::Warn)
        ]
    );
}
