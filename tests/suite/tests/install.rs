//! `install.sh` below a directory that looks like a front-end's root: what it puts there, what it leaves alone, and that
//! `uninstall` brings back the former tree after any history, a kill at any command included.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use causeway_core::reach::slots::{Standing, standing};
use tempfile::TempDir;

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

const SLOTS: [&str; 7] = [
    "vmm/kvm/deploy",
    "vmm/kvm/shutdown",
    "vmm/kvm/cancel",
    "vmm/kvm/migrate",
    "vnm/vxlan/pre",
    "vnm/vxlan/post",
    "vnm/vxlan/clean",
];
const TM_SLOTS: [&str; 7] = ["clone", "ln", "delete", "context", "premigrate", "postmigrate", "failmigrate"];

/// A root with OpenNebula in it, and built programs to install.
struct Machine {
    directory: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine { directory: tempfile::tempdir().unwrap() };
        for name in ["causeway-vmm", "causeway-host", "causeway-root", "causeway", "causeway-tm"] {
            machine.write_at(&machine.built().join(name), &format!("#!/bin/sh\necho {name}\n"), 0o755);
        }
        machine.write(
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\noneadmin:x:9869:9870::/var/lib/one:/bin/sh\n",
            0o644,
        );
        machine.write(ONED_CONF, ONED, 0o640);
        machine.write("etc/sudoers.d/opennebula", "# stock\n", 0o440);
        fs::create_dir_all(machine.root().join("usr/bin")).unwrap();
        let tm = TM_SLOTS.map(|verb| format!("tm/qcow2/{verb}"));
        for slot in SLOTS.map(str::to_owned).iter().chain(&tm).filter(|slot| *slot != "tm/qcow2/context") {
            machine.stock(&format!("{REMOTES}/{slot}"), &format!("#!/bin/bash\n# stock {slot}\n"));
        }
        machine.stock(&format!("{REMOTES}/vmm/kvm/save"), "#!/bin/bash\n# stock save\n");
        machine.stock(&format!("{REMOTES}/tm/common/context"), "#!/bin/bash\n# stock context\n");
        let context = format!("{REMOTES}/tm/qcow2/context");
        symlink("../common/context", machine.root().join(&context)).unwrap();
        symlink("qcow2", machine.root().join(REMOTES).join("tm/shared")).unwrap();
        machine.write("var/lib/dpkg/info/opennebula.list", &format!("/{context}\n"), 0o644);
        machine
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn built(&self) -> PathBuf {
        self.directory.path().join("built")
    }

    fn write_at(&self, path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn write(&self, path: &str, text: &str, mode: u32) {
        self.write_at(&self.root().join(path), text, mode);
    }

    /// A file that the package database vouches for.
    fn stock(&self, path: &str, text: &str) {
        self.write(path, text, 0o755);
        let sum = Command::new("md5sum").arg(path).current_dir(self.root()).output().unwrap();
        let sums = self.root().join("var/lib/dpkg/info/opennebula.md5sums");
        fs::create_dir_all(sums.parent().unwrap()).unwrap();
        let known = fs::read_to_string(&sums).unwrap_or_default();
        fs::write(&sums, known + &String::from_utf8(sum.stdout).unwrap()).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn command(&self, words: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install.sh");
        let mut command = Command::new(script);
        command.args(words).arg("--root").arg(self.root());
        if words.first() != Some(&"uninstall") {
            command.arg("--from").arg(self.built());
        }
        command
    }

    fn refused(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(!output.status.success(), "{words:?} {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn run(&self, words: &[&str]) -> String {
        succeeded(words, self.command(words).output().unwrap())
    }

    fn install_all(&self) {
        self.run(&["host", "--uplink", "eth0", "--uplink", "bond0.5"]);
        self.run(&["frontend"]);
    }

    /// Everything below the root.
    fn tree(&self) -> BTreeMap<PathBuf, Entry> {
        let mut tree = BTreeMap::new();
        walk(&self.root(), &mut tree);
        tree
    }

    fn kill(&self) -> Kill<'_> {
        let hook = self.directory.path().join("kill.bash");
        // Every command of the script's own process counts; the group dies with it, as with the machine.
        let text = "__steps=0\nset -T\n\
            trap '[ \"$BASHPID\" != \"$$\" ] || [ \"$((++__steps))\" != \"$KILL_AT\" ] || kill -KILL 0' DEBUG\n\
            trap 'echo \"$__steps\" >\"$KILL_COUNT\"' EXIT\n";
        fs::write(&hook, text).unwrap();
        Kill { machine: self, hook, count: self.directory.path().join("count") }
    }
}

fn succeeded(words: &[&str], output: Output) -> String {
    assert!(output.status.success(), "{words:?} {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `uninstall` has to bring back, and what a second run must not touch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owners: (u32, u32),
    /// A file's bytes, a link's target, nothing of a directory.
    content: Vec<u8>,
    /// It was made anew if this changed.
    inode: Inode,
}

/// A number that two entries need not share.
#[derive(Debug, Clone, Eq)]
struct Inode(u64);

impl PartialEq for Inode {
    fn eq(&self, _: &Inode) -> bool {
        true
    }
}

fn walk(directory: &Path, tree: &mut BTreeMap<PathBuf, Entry>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let content = match found.file_type() {
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            kind if kind.is_file() => fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        let owners = (found.uid(), found.gid());
        tree.insert(path.clone(), Entry { mode: found.mode(), owners, content, inode: Inode(found.ino()) });
        if found.is_dir() {
            walk(&path, tree);
        }
    }
}

fn inodes(tree: &BTreeMap<PathBuf, Entry>) -> Vec<u64> {
    tree.values().map(|entry| entry.inode.0).collect()
}

/// Runs that are killed on the way.
struct Kill<'a> {
    machine: &'a Machine,
    hook: PathBuf,
    count: PathBuf,
}

impl Kill<'_> {
    fn output(&self, words: &[&str], at: usize) -> Output {
        let mut command = self.machine.command(words);
        command.env("BASH_ENV", &self.hook).env("KILL_AT", at.to_string()).env("KILL_COUNT", &self.count);
        command.process_group(0).output().unwrap()
    }

    /// How many commands a whole run has.
    fn steps(&self, words: &[&str]) -> usize {
        succeeded(words, self.output(words, 0));
        fs::read_to_string(&self.count).unwrap().trim().parse().unwrap()
    }

    /// Whether it was killed, and not done before.
    fn at(&self, words: &[&str], step: usize) {
        let output = self.output(words, step);
        assert_eq!(output.status.signal(), Some(9), "step {step}: {output:?}");
    }
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
    for slot in SLOTS.map(str::to_owned).into_iter().chain(TM_SLOTS.map(|verb| format!("tm/qcow2/{verb}"))) {
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
