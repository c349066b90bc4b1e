//! A root that looks like a front-end's, runs of `install.sh` below it, and runs that are killed on the way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::{DATASTORE_SLOTS, ONED, ONED_CONF, REMOTES, TM_SLOTS, guest_slots};

/// A root with OpenNebula in it, and built programs to install.
pub struct Machine {
    directory: TempDir,
}

impl Machine {
    pub fn new() -> Machine {
        let machine = Machine { directory: tempfile::tempdir().unwrap() };
        for name in [
            "causeway-vmm",
            "causeway-host",
            "causeway-disks",
            "causeway-net",
            "causeway-root",
            "causeway",
            "causeway-tm",
        ] {
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
        let files = DATASTORE_SLOTS.map(|verb| format!("datastore/fs/{verb}"));
        let all = guest_slots().chain(tm).chain(files);
        for slot in all.filter(|slot| slot != "tm/qcow2/context") {
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

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn built(&self) -> PathBuf {
        self.directory.path().join("built")
    }

    pub fn write_at(&self, path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    pub fn write(&self, path: &str, text: &str, mode: u32) {
        self.write_at(&self.root().join(path), text, mode);
    }

    /// A file that the package database vouches for.
    pub fn stock(&self, path: &str, text: &str) {
        self.write(path, text, 0o755);
        let sum = Command::new("md5sum").arg(path).current_dir(self.root()).output().unwrap();
        let sums = self.root().join("var/lib/dpkg/info/opennebula.md5sums");
        fs::create_dir_all(sums.parent().unwrap()).unwrap();
        let known = fs::read_to_string(&sums).unwrap_or_default();
        fs::write(&sums, known + &String::from_utf8(sum.stdout).unwrap()).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install.sh");
        let mut command = Command::new(script);
        command.args(words).arg("--root").arg(self.root());
        if words.first() != Some(&"uninstall") {
            command.arg("--from").arg(self.built());
        }
        command
    }

    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(!output.status.success(), "{words:?} {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn run(&self, words: &[&str]) -> String {
        succeeded(words, self.command(words).output().unwrap())
    }

    pub fn install_all(&self) {
        self.run(&["host", "--uplink", "eth0", "--uplink", "bond0.5"]);
        self.run(&["frontend"]);
    }

    /// Everything below the root.
    pub fn tree(&self) -> BTreeMap<PathBuf, Entry> {
        let mut tree = BTreeMap::new();
        walk(&self.root(), &mut tree);
        tree
    }

    pub fn kill(&self) -> Kill<'_> {
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
pub struct Entry {
    pub mode: u32,
    pub owners: (u32, u32),
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

pub fn inodes(tree: &BTreeMap<PathBuf, Entry>) -> Vec<u64> {
    tree.values().map(|entry| entry.inode.0).collect()
}

/// Runs that are killed on the way.
pub struct Kill<'a> {
    machine: &'a Machine,
    hook: PathBuf,
    count: PathBuf,
}

impl Kill<'_> {
    pub fn output(&self, words: &[&str], at: usize) -> Output {
        let mut command = self.machine.command(words);
        command.env("BASH_ENV", &self.hook).env("KILL_AT", at.to_string()).env("KILL_COUNT", &self.count);
        command.process_group(0).output().unwrap()
    }

    /// How many commands a whole run has.
    pub fn steps(&self, words: &[&str]) -> usize {
        succeeded(words, self.output(words, 0));
        fs::read_to_string(&self.count).unwrap().trim().parse().unwrap()
    }

    /// Whether it was killed, and not done before.
    pub fn at(&self, words: &[&str], step: usize) {
        let output = self.output(words, step);
        assert_eq!(output.status.signal(), Some(9), "step {step}: {output:?}");
    }
}
