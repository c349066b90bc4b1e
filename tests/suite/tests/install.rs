//! `install.sh` below a directory that looks like a front-end's root: what it puts there, what it leaves alone, and that
//! `uninstall` brings back the former tree after any history, a kill at any command included.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use causeway_core::reach::slots::{Standing, standing};

#[path = "install/machine.rs"]
mod machine;
use machine::{Entry, Machine, inodes};

const REMOTES: &str = "var/lib/one/remotes";
const ONED_CONF: &str = "etc/one/oned.conf";

/// As 7.4 ships its entries, with what an admin may have added.
const ONED: &str = r#"LOG = [ SYSTEM = "file", DEBUG_LEVEL = 3 ]
#VM_MAD = [ NAME = "kvm", EXECUTABLE = "one_vmm_exec" ]

VM_MAD = [
    NAME           = "kvm",   # NAME = "not this one" ]
    SUNSTONE_NAME  = "KVM",
    EXECUTABLE     = "one_vmm_exec",
    ARGUMENTS      = "-t 15 -r 0 kvm -p",
    IMPORTED_VMS_ACTIONS = "terminate, hold,
        EXECUTABLE = one_vmm_exec, ]"
]
VM_MAD = [ NAME="qemu", EXECUTABLE="/usr/lib/one/mads/one_vmm_exec", ARGUMENTS="-t 15 -r 0 kvm" ]
VM_MAD = [
    NAME       = "lxc",
    EXECUTABLE = "one_vmm_exec" ]
TM_MAD = [ EXECUTABLE = "one_tm", ARGUMENTS = "-t 15 -d dummy,shared,qcow2" ]
"#;

const VMM_SLOTS: [&str; 4] = ["deploy", "shutdown", "cancel", "migrate"];
const NETWORKS: [&str; 6] = ["bridge", "fw", "802.1Q", "vxlan", "ovswitch", "ovswitch_vxlan"];
const NETWORK_SLOTS: [&str; 5] = ["pre", "post", "clean", "update_sg", "update_nic"];
const TM_SLOTS: [&str; 27] = [
    "ln.ssh",
    "mv.ssh",
    "mvds.ssh",
    "clone",
    "ln",
    "mv",
    "mvds",
    "cpds",
    "delete",
    "mkimage",
    "mkswap",
    "resize",
    "context",
    "snap_create",
    "snap_create_live",
    "snap_delete",
    "snap_revert",
    "premigrate",
    "postmigrate",
    "failmigrate",
    "monitor",
    "clone.ssh",
    "cpds.ssh",
    "snap_create.ssh",
    "snap_create_live.ssh",
    "snap_delete.ssh",
    "snap_revert.ssh",
];
const DATASTORE_SLOTS: [&str; 10] =
    ["cp", "clone", "rm", "mkfs", "stat", "monitor", "snap_delete", "snap_revert", "snap_flatten", "export"];

/// The slots of guests and their networks.
fn guest_slots() -> impl Iterator<Item = String> {
    let networks = NETWORKS.map(|driver| NETWORK_SLOTS.map(|verb| format!("vnm/{driver}/{verb}")));
    VMM_SLOTS.map(|verb| format!("vmm/kvm/{verb}")).into_iter().chain(networks.into_iter().flatten())
}

/// So many points of a run, spread evenly from its second look at things, which changes them, to its last command.
fn points(steps: usize, count: usize) -> impl Iterator<Item = usize> {
    let first = steps / 3;
    (0..count).map(move |n| first + (steps - first) * n / (count - 1))
}

#[test]
fn wrappers_programs_and_settings_are_where_the_drivers_look() {
    let machine = Machine::new();
    machine.install_all();
    let root = machine.root();
    let remotes = root.join(REMOTES);
    let images = ["fs", "ceph"].map(|store| DATASTORE_SLOTS.map(|verb| format!("datastore/{store}/{verb}")));
    let transfers = TM_SLOTS.map(|verb| format!("tm/qcow2/{verb}"));
    let networks = NETWORKS.map(|driver| NETWORK_SLOTS.map(|verb| format!("vnm/{driver}/{verb}")));
    let guests =
        VMM_SLOTS.map(|verb| format!("vmm/kvm/{verb}")).into_iter().chain(networks.into_iter().flatten());
    for slot in guests.chain(transfers).chain(images.into_iter().flatten()) {
        assert_eq!(standing(&remotes, &slot.parse().unwrap()), Standing::Ours, "{slot}");
    }
    assert_eq!(machine.read(&format!("{REMOTES}/tm/common/context")), "#!/bin/bash\n# stock context\n");
    let edited = ONED
        .replacen(
            "    EXECUTABLE     = \"one_vmm_exec\"",
            "    EXECUTABLE     = \"/usr/libexec/causeway/causeway-vmm\"",
            1,
        )
        .replacen("/usr/lib/one/mads/one_vmm_exec", "/usr/libexec/causeway/causeway-vmm", 1)
        .replacen("\"one_tm\"", "\"/usr/libexec/causeway/causeway-tm\"", 1);
    assert_eq!(machine.read(ONED_CONF), edited);
    let sudo = "oneadmin ALL=(root) NOPASSWD: /usr/libexec/causeway/causeway-root \"\"\n";
    assert!(machine.read("etc/sudoers.d/causeway").ends_with(sudo));
    let uplinks = machine.read("etc/causeway/uplinks");
    let names: Vec<&str> = uplinks.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(names, ["eth0", "bond0.5"]);

    let tree = machine.tree();
    for (path, mode, owners) in [
        ("usr/libexec/causeway/causeway-root", 0o100_755, (0, 0)),
        ("usr/libexec/causeway", 0o40_755, (0, 0)),
        ("etc/sudoers.d/causeway", 0o100_440, (0, 0)),
        ("etc/causeway/uplinks", 0o100_644, (0, 0)),
        (ONED_CONF, 0o100_640, (0, 0)),
        // Sticky, and root's: the user may use it, and can't exchange root's directory in it.
        ("var/lib/causeway", 0o41_770, (0, 9870)),
        ("var/lib/causeway/network", 0o40_700, (0, 0)),
        ("var/lib/one/causeway", 0o40_700, (9869, 9870)),
        ("var/lib/one/remotes/vmm/kvm/deploy", 0o100_755, (9869, 9870)),
    ] {
        let entry = &tree[&root.join(path)];
        assert_eq!(entry.mode, mode, "{path} {:o}", entry.mode);
        if nix::unistd::geteuid().is_root() {
            assert_eq!(entry.owners, owners, "{path}");
        }
    }
}

#[test]
fn without_a_transfer_manager_the_stock_one_stays() {
    let machine = Machine::new();
    fs::remove_file(machine.built().join("causeway-tm")).unwrap();
    let before = machine.read(&format!("{REMOTES}/tm/qcow2/clone"));
    machine.run(&["frontend"]);
    assert_eq!(machine.read(&format!("{REMOTES}/tm/qcow2/clone")), before);
    assert!(machine.read(ONED_CONF).contains("TM_MAD = [ EXECUTABLE = \"one_tm\","));
}

#[test]
fn a_second_run_changes_nothing_and_uninstall_brings_the_former_tree_back() {
    let machine = Machine::new();
    let before = machine.tree();
    for words in [&["frontend", "--dry-run"][..], &["host", "--dry-run"], &["uninstall"]] {
        machine.run(words);
        assert_eq!(machine.tree(), before, "{words:?}");
    }
    machine.install_all();
    let installed = machine.tree();
    machine.install_all();
    assert_eq!(machine.tree(), installed);
    assert_eq!(inodes(&machine.tree()), inodes(&installed));
    machine.run(&["uninstall", "--dry-run"]);
    assert_eq!(machine.tree(), installed);
    machine.run(&["uninstall"]);
    assert_eq!(machine.tree(), before);
}

#[test]
fn somebody_elses_slot_stays_until_it_is_named() {
    let machine = Machine::new();
    let (slot, text) =
        ("vmm/kvm/migrate", "#!/bin/bash\n# stock, with the admin's own line\nlogger moving\n");
    machine.write(&format!("{REMOTES}/{slot}"), text, 0o750);
    let before = machine.tree();
    let said = machine.run(&["frontend"]);
    assert!(said.contains("vmm/kvm/migrate: neither stock nor ours"), "{said}");
    assert_eq!(machine.read(&format!("{REMOTES}/{slot}")), text);
    machine.run(&["frontend", "--replace", slot]);
    assert_eq!(standing(&machine.root().join(REMOTES), &slot.parse().unwrap()), Standing::Ours);
    machine.run(&["uninstall"]);
    assert_eq!(machine.tree(), before);
}

#[test]
fn slots_that_are_to_be_kept_are() {
    let machine = Machine::new();
    machine.run(&["frontend", "--keep", "vnm/vxlan", "--keep", "vmm/kvm/migrate"]);
    for (slot, ours) in [("vnm/vxlan/pre", false), ("vmm/kvm/migrate", false), ("vmm/kvm/deploy", true)] {
        let standing = standing(&machine.root().join(REMOTES), &slot.parse().unwrap());
        assert_eq!(standing == Standing::Ours, ours, "{slot} {standing:?}");
    }
}

/// Of the one driver's slots, links to the other's: whichever is replaced first, the answer is the same.
#[test]
fn links_to_slots_of_another_driver_are_replaced_as_the_dry_run_says() {
    let machine = Machine::new();
    let tm = machine.root().join(REMOTES).join("tm");
    fs::remove_file(tm.join("shared")).unwrap();
    let mut list = String::new();
    for verb in TM_SLOTS {
        machine
            .stock(&format!("{REMOTES}/tm/shared/{verb}"), &format!("#!/bin/bash\n# stock shared {verb}\n"));
        fs::remove_file(tm.join("qcow2").join(verb)).unwrap();
        symlink(format!("../shared/{verb}"), tm.join("qcow2").join(verb)).unwrap();
        list += &format!("/{REMOTES}/tm/qcow2/{verb}\n");
    }
    machine.write("var/lib/dpkg/info/opennebula.list", &list, 0o644);
    // One whose target is the admin's own stays, and so does its target; one that leads nowhere too.
    machine.write(&format!("{REMOTES}/tm/shared/ln"), "#!/bin/bash\n# mine\n", 0o755);
    fs::remove_file(tm.join("shared/failmigrate")).unwrap();
    let (before, kill, all) = (machine.tree(), machine.kill(), 2 * TM_SLOTS.len());
    let ours = || {
        let slots =
            ["shared", "qcow2"].into_iter().flat_map(|driver| TM_SLOTS.map(|v| format!("tm/{driver}/{v}")));
        let is_ours =
            |slot: &String| standing(&machine.root().join(REMOTES), &slot.parse().unwrap()) == Standing::Ours;
        slots.filter(is_ours).count()
    };
    let lines = |said: &str| -> Vec<String> {
        let words = ["put ", "keep ", "link ", "make ", "edit "];
        let plain = said.lines().map(|line| line.trim_start_matches("would "));
        let told = plain.filter(|line| words.iter().any(|word| line.starts_with(word)));
        told.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let foretold = lines(&machine.run(&["frontend", "--dry-run"]));
    assert_eq!(foretold, lines(&machine.run(&["frontend"])));
    assert_eq!(foretold.iter().filter(|line| line.starts_with("keep tm/")).count(), 3, "{foretold:?}");
    // Three of them are not stock's.
    let taken = all - 3;
    assert_eq!(ours(), taken);
    machine.run(&["uninstall"]);
    assert_eq!(machine.tree(), before);

    let steps = kill.steps(&["frontend"]);
    machine.run(&["uninstall"]);
    for point in points(steps, 5).take(4) {
        kill.at(&["frontend"], point);
        machine.run(&["frontend"]);
        assert_eq!(ours(), taken, "killed at command {point} of {steps}");
        machine.run(&["uninstall"]);
        assert_eq!(machine.tree(), before);
    }
    // What only --replace could take was the admin's before, whatever stands there now.
    machine.run(&["frontend", "--replace", "tm/shared/ln"]);
    assert_eq!(ours(), taken + 1);
    machine.run(&["frontend"]);
    assert_eq!(ours(), taken + 1);
}

#[test]
fn what_it_does_not_know_is_refused_before_anything_is_changed() {
    let machine = Machine::new();
    machine.write("etc/sudoers.d/causeway", "oneadmin ALL=(root) NOPASSWD: ALL\n", 0o440);
    let before = machine.tree();
    let said = machine.refused(&["host"]);
    assert!(said.contains("--replace /etc/sudoers.d/causeway"), "{said}");
    assert!(machine.refused(&["host", "--uplink", "eth0/x"]).contains("no device's name"));
    assert_eq!(machine.tree(), before);

    for (text, says) in [
        (
            ONED.replace("= \"one_vmm_exec\",\n    ARG", "= one_vmm_exec,\n    ARG"),
            "line 4: VM_MAD kvm has not one",
        ),
        (ONED.replace("    ARG", "    EXECUTABLE = \"x\",\n    ARG"), "line 4: VM_MAD kvm has not one"),
        (
            ONED.replace("VM_MAD = [\n    NAME       = \"lxc\"", "VM_MAD =\n[ NAME = \"lxc\""),
            "line 13: not in the form",
        ),
        (ONED.split("\n]").next().unwrap().to_owned(), "line 4: VM_MAD entry that never ends"),
        ("PORT = 2633\n".to_owned(), "no VM_MAD entry with the name kvm or qemu"),
    ] {
        machine.write(ONED_CONF, &text, 0o640);
        let before = machine.tree();
        let said = machine.refused(&["frontend"]);
        assert!(said.contains(says), "{said}");
        assert_eq!(machine.tree(), before);
    }
}

#[test]
fn an_entry_that_another_program_serves_stays() {
    let machine = Machine::new();
    let text = ONED.replace("/usr/lib/one/mads/one_vmm_exec", "/opt/vendor/driver");
    machine.write(ONED_CONF, &text, 0o640);
    let output = machine.command(&["frontend"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("line 12: VM_MAD qemu is served by /opt/vendor/driver, which stays"), "{said}");
    assert!(machine.read(ONED_CONF).contains("\"/opt/vendor/driver\""));
    assert_eq!(machine.read(ONED_CONF).matches("causeway-vmm").count(), 1);
}

#[test]
fn a_configuration_without_a_last_newline_gets_none() {
    let machine = Machine::new();
    machine.write(ONED_CONF, ONED.trim_end(), 0o640);
    machine.run(&["frontend"]);
    assert!(machine.read(ONED_CONF).ends_with("-d dummy,shared,qcow2\" ]"));
    machine.write(ONED_CONF, &(machine.read(ONED_CONF) + "\r\n\nPORT = 2634"), 0o640);
    machine.run(&["uninstall"]);
    let plain = ONED.replacen("/usr/lib/one/mads/", "", 1);
    assert_eq!(machine.read(ONED_CONF), plain.trim_end().to_owned() + "\r\n\nPORT = 2634");
}

#[test]
fn what_was_edited_after_the_installation_outlives_it() {
    let machine = Machine::new();
    machine.install_all();
    let edited = machine.read(ONED_CONF) + "PORT = 2634\n";
    machine.write(ONED_CONF, &edited, 0o640);
    machine.write("etc/causeway/uplinks", "eth7\n", 0o644);
    machine.write("var/lib/causeway/turns/vm-7", "", 0o600);
    machine.run(&["host"]);
    assert_eq!(machine.read("etc/causeway/uplinks"), "eth7\n");
    assert!(machine.refused(&["host", "--uplink", "eth0"]).contains("has been edited"));
    for _ in 0..2 {
        let said = machine.run(&["uninstall"]);
        assert!(said.contains("/etc/causeway/uplinks: it was changed"), "{said}");
        let plain = ONED.replacen("/usr/lib/one/mads/", "", 1) + "PORT = 2634\n";
        assert_eq!(machine.read(ONED_CONF), plain);
        assert!(machine.root().join("var/lib/causeway/turns/vm-7").exists());
        assert!(!machine.root().join("usr/libexec").exists());
    }
}

/// Such a file was taken for the former state, and with it came the names of programs that were gone.
#[test]
fn an_entry_that_was_set_back_by_hand_names_no_deleted_program() {
    let machine = Machine::new();
    machine.run(&["frontend"]);
    let ours = "\"/usr/libexec/causeway/causeway-vmm\"";
    let edited = machine.read(ONED_CONF).replacen(ours, "\"one_vmm_exec\"", 1) + "PORT = 2634\n";
    machine.write(ONED_CONF, &edited, 0o640);
    machine.run(&["frontend"]);
    assert_eq!(machine.read(ONED_CONF).matches(ours).count(), 2);
    machine.run(&["uninstall"]);
    assert_eq!(machine.read(ONED_CONF), ONED.replacen("/usr/lib/one/mads/", "", 1) + "PORT = 2634\n");
    assert!(!machine.root().join("var/lib/causeway-install").exists());
}

#[test]
fn a_configuration_that_came_with_our_executables_names_no_deleted_program() {
    let machine = Machine::new();
    machine.run(&["frontend"]);
    let leaders = machine.read(ONED_CONF);
    let machine = Machine::new();
    machine.write(ONED_CONF, &leaders, 0o640);
    machine.run(&["frontend"]);
    assert_eq!(machine.read(ONED_CONF), leaders);
    machine.run(&["uninstall"]);
    assert_eq!(machine.read(ONED_CONF), ONED.replacen("/usr/lib/one/mads/", "", 1));
}

#[test]
fn the_state_before_a_package_upgrade_is_not_brought_back() {
    let machine = Machine::new();
    machine.run(&["frontend"]);
    // The package manager puts its newer script over our wrapper.
    machine.stock(&format!("{REMOTES}/vmm/kvm/deploy"), "#!/bin/bash\n# stock deploy, newer\n");
    machine.run(&["frontend"]);
    assert_eq!(standing(&machine.root().join(REMOTES), &"vmm/kvm/deploy".parse().unwrap()), Standing::Ours);
    machine.run(&["uninstall"]);
    assert_eq!(machine.read(&format!("{REMOTES}/vmm/kvm/deploy")), "#!/bin/bash\n# stock deploy, newer\n");
}

/// On every front-end that was ever in use our journal stays, and with it stayed the copies of all that was restored.
#[test]
fn what_the_drivers_collected_stays_and_nothing_else() {
    let machine = Machine::new();
    let before = machine.tree();
    machine.install_all();
    let (directory, journal) = ("var/lib/one/causeway", "var/lib/one/causeway/vmm.journal");
    machine.write(journal, "{}\n", 0o600);
    let said = machine.run(&["uninstall"]);
    assert!(said.contains("keep      /var/lib/one/causeway/: it is not empty"), "{said}");
    let after = machine.tree();
    let stayed: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert_eq!(stayed, [directory, journal].map(|path| machine.root().join(path)).iter().collect::<Vec<_>>());
    assert!(before.iter().all(|(path, entry)| after.get(path) == Some(entry)));
    // It is as it must be for the next installation.
    machine.install_all();
}

#[test]
fn killed_at_any_command_it_can_be_taken_away_or_finished() {
    let machine = Machine::new();
    let (before, kill) = (machine.tree(), machine.kill());
    let mut done = 0;
    for role in ["host", "frontend"] {
        let steps = kill.steps(&[role]);
        let installed = machine.tree();
        machine.run(&["uninstall"]);
        for (number, point) in points(steps, 9).enumerate() {
            kill.at(&[role], point);
            if number % 3 == 0 {
                machine.run(&[role]);
                assert!(same_but_for_ledger(&machine, &machine.tree(), &installed), "{role} {point}");
            }
            machine.run(&["uninstall"]);
            assert_eq!(machine.tree(), before, "{role} killed at command {point} of {steps}");
            done += 1;
        }
    }
    machine.install_all();
    let steps = kill.steps(&["uninstall"]);
    for point in points(steps, 6) {
        machine.install_all();
        kill.at(&["uninstall"], point);
        machine.run(&["uninstall"]);
        assert_eq!(machine.tree(), before, "uninstall killed at command {point} of {steps}");
        done += 1;
    }
    println!("{done} kills, the last role has {steps} commands");
}

/// The ledger of an installation in two attempts may say some things twice.
fn same_but_for_ledger(
    machine: &Machine,
    one: &BTreeMap<PathBuf, Entry>,
    other: &BTreeMap<PathBuf, Entry>,
) -> bool {
    let notes = machine.root().join("var/lib/causeway-install");
    let rest = |tree: &BTreeMap<PathBuf, Entry>| {
        tree.clone().into_iter().filter(|(path, _)| !path.starts_with(&notes)).collect::<Vec<_>>()
    };
    rest(one) == rest(other)
}
