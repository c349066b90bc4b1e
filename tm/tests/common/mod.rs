//! A root of datastores in a temporary directory, calls on it, and a picture of what they leave.
#![allow(dead_code, reason = "each test file uses its own part of this")]

#[cfg(target_arch = "x86_64")]
pub mod fault;
pub mod forms;
#[cfg(target_arch = "x86_64")]
pub mod hostile;
pub mod images;
pub mod kill;
pub mod opened;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use causeway_core::answer::Failure;
use causeway_tm::host::{Call, Worker, perform};
use serde_json::{Value, json};

pub const MIB: u64 = 1 << 20;

/// The datastores of one host: image datastore 1, system datastore 100, and the lock files.
pub struct Datastores {
    _dir: Option<tempfile::TempDir>,
    other: std::sync::OnceLock<tempfile::TempDir>,
    pub root: PathBuf,
    pub locks: PathBuf,
}

/// A copy of directories as they were.
pub struct Kept {
    copy: tempfile::TempDir,
    dirs: Vec<PathBuf>,
}

impl Kept {
    pub fn of(dirs: Vec<PathBuf>) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for (number, dir) in dirs.iter().enumerate().filter(|(_, dir)| dir.exists()) {
            let to = copy.path().join(number.to_string());
            tool("cp", &["-a", dir.to_str().unwrap(), to.to_str().unwrap()]);
        }
        Kept { copy, dirs }
    }

    /// Puts everything back.
    pub fn restore(&self) {
        for (number, dir) in self.dirs.iter().enumerate() {
            let _ = std::fs::remove_dir_all(dir);
            let from = self.copy.path().join(number.to_string());
            if from.exists() {
                tool("cp", &["-a", from.to_str().unwrap(), dir.to_str().unwrap()]);
            }
        }
    }
}

impl Datastores {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut made = Self::below(dir.path());
        made._dir = Some(dir);
        made
    }

    /// In a directory that somebody else keeps.
    pub fn below(dir: &Path) -> Self {
        let on = Self::at(dir);
        for id in ["1", "100", "101"] {
            std::fs::create_dir_all(on.path(id)).unwrap();
        }
        on
    }

    /// That are there already.
    pub fn at(dir: &Path) -> Self {
        // As the kernel names it: a temporary directory may be reached through a link.
        let dir = dir.canonicalize().unwrap();
        let (root, locks) = (dir.join("datastores"), dir.join("locks"));
        Datastores { _dir: None, other: Default::default(), root, locks }
    }

    /// Where everything of these datastores lies.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let other = self.other.get().map(|dir| dir.path().to_owned());
        [self.root.clone(), self.locks.clone()].into_iter().chain(other).collect()
    }

    /// Puts datastore 101 into another file system, as a mount would.
    pub fn mount_101(&self) {
        let other = self.other.get_or_init(|| tempfile::tempdir_in("/dev/shm").unwrap());
        std::fs::remove_dir(self.path("101")).unwrap();
        std::os::unix::fs::symlink(other.path(), self.path("101")).unwrap();
    }

    /// [`picture`] of all datastores, in whatever file system they lie.
    pub fn picture(&self) -> BTreeMap<PathBuf, String> {
        let mut seen = picture(&self.root);
        let there = self.path("101");
        if there.is_symlink() {
            seen.insert("101".into(), "directory 755".to_owned());
            seen.extend(picture(&there).into_iter().map(|(path, text)| (Path::new("101").join(path), text)));
        }
        seen
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    pub fn text(&self, below: &str) -> String {
        self.path(below).to_str().unwrap().to_owned()
    }

    pub fn vm_dir(&self) -> PathBuf {
        let dir = self.path("100/7");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub fn perform(&self, call: &Value, inputs: &[Vec<u8>]) -> Result<String, Failure> {
        self.perform_at(call, inputs, &|_| {})
    }

    pub fn perform_at(
        &self,
        call: &Value,
        inputs: &[Vec<u8>],
        between: &dyn Fn(&'static str),
    ) -> Result<String, Failure> {
        let call: Call = serde_json::from_value(call.clone()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        perform(&call, inputs, &Worker { between, ..Worker::new(&self.locks, deadline) })
    }

    /// Performs a call that must succeed, and leaves no lock and nothing half-made.
    pub fn done(&self, call: &Value) {
        self.perform(call, &[]).unwrap();
        self.nothing_half_made();
    }

    pub fn nothing_half_made(&self) {
        let left: Vec<PathBuf> = self.picture().into_keys().filter(|p| half_made(p)).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    pub fn failure(&self, call: &Value) -> Failure {
        let failure = self.perform(call, &[]).unwrap_err();
        self.nothing_half_made();
        failure
    }

    pub fn clone(&self, copy: Value, name: &str, grown_mb: Option<u64>, sparse: bool) -> Value {
        json!({"clone_image": {
            "image": self.text("1/abc"), "file": self.text(&format!("100/7/{name}")),
            "copy": copy, "grown_mb": grown_mb, "sparse": sparse
        }})
    }

    pub fn flat(&self) -> Value {
        self.clone(json!("flat"), "disk.0", None, true)
    }

    pub fn overlay(&self) -> Value {
        self.clone(json!({"overlay": {}}), "disk.0", None, true)
    }

    pub fn link(&self, layout: &str) -> Value {
        json!({"link_image": {"image": self.text("1/abc"), "file": self.text("100/7/disk.0"), "layout": layout}})
    }

    pub fn delete(&self, file: &str) -> Value {
        json!({"delete_file": {"file": self.text(&format!("100/7/{file}"))}})
    }

    pub fn delete_dir(&self) -> Value {
        json!({"delete_dir": {"dir": self.text("100/7")}})
    }

    pub fn context(&self, names: &[&str]) -> Value {
        json!({"build_context": {"file": self.text("100/7/disk.1"), "names": names}})
    }

    /// `order` of snapshot `id` of disk 0, which is the VM's own copy or the image `1/abc` itself.
    pub fn snapshot(&self, order: &str, id: u32, chain: bool, persistent: bool) -> Value {
        let kept = if persistent { json!({"with_image": self.text("1/abc")}) } else { json!("beside") };
        json!({"snapshot": {
            "file": self.text("100/7/disk.0"), "kept": kept, "chain": chain, "order": order, "id": id
        }})
    }

    pub fn save(&self, qcow2: bool, persistent: bool, snapshot: Option<u32>, image: &str) -> Value {
        let kept = if persistent { json!({"with_image": self.text("1/abc")}) } else { json!("beside") };
        json!({"save_disk": {
            "file": self.text("100/7/disk.0"), "kept": kept, "qcow2": qcow2, "snapshot": snapshot,
            "image": self.text(image)
        }})
    }

    /// A part of what is done while a guest has disk 0 open, which is the VM's own copy.
    pub fn live(&self, part: Value) -> Value {
        json!({"live": {"file": self.text("100/7/disk.0"), "kept": "beside", "part": part}})
    }

    pub fn done_live(&self, part: Value) {
        self.perform(&self.live(part), &[]).unwrap();
    }

    /// `ln.ssh`.
    pub fn lend(&self, layout: &str) -> Value {
        json!({"lend_image": {"image": self.text("1/abc"), "file": self.text("100/7/disk.0"), "layout": layout}})
    }

    /// `mvds.ssh`.
    pub fn take_back(&self, layout: &str) -> Value {
        json!({"take_back": {"image": self.text("1/abc"), "file": self.text("100/7/disk.0"), "layout": layout}})
    }

    pub fn give_back(&self) -> Value {
        json!({"give_back": {"file": self.text("100/7/disk.0"), "image": self.text("1/abc")}})
    }

    /// A part of a backup of VM 7, in its directory or below another one.
    pub fn backup(&self, part: &str, base: Option<&str>, more: Value) -> Value {
        let mut place = json!({"dir": self.text("100/7")});
        if let Some(base) = base {
            place["base"] = json!(base);
        }
        let mut call = json!({ part: more });
        call[part]["place"] = place;
        json!({ "backup": call })
    }

    /// Disk 0 into the backup; `extent` is `"full"`, `"first"` or `{"since": 0}`.
    pub fn back_up(&self, qcow2: bool, persistent: bool, extent: Value) -> Value {
        self.backup("disk", None, json!({ "disk": self.backup_disk(qcow2, persistent, extent) }))
    }

    pub fn backup_disk(&self, qcow2: bool, persistent: bool, extent: Value) -> Value {
        let kept = if persistent { json!({"with_image": self.text("1/abc")}) } else { json!("beside") };
        json!({"file": self.text("100/7/disk.0"), "kept": kept, "qcow2": qcow2, "extent": extent})
    }

    pub fn begin_backup(&self) {
        let begin = self.backup("begin", None, json!({"tpm": false}));
        self.perform(&begin, &[b"PFZNLz4=\n".to_vec()]).unwrap();
        self.nothing_half_made();
    }

    /// Disk 0 out of a backup, or the TPM's state.
    pub fn restored(&self, qcow2: bool, persistent: bool, size_mb: u64) -> Value {
        let kept = if persistent { json!({"with_image": self.text("1/abc")}) } else { json!("beside") };
        json!({"disk": {"file": self.text("100/7/disk.0"), "kept": kept, "qcow2": qcow2, "size_mb": size_mb}})
    }

    /// Sends a file to be staged, in frames of some size, as the front-end does; a stream may be cut.
    pub fn stage(&self, staged: &Value, from: &Path, cut: bool) -> Result<String, Failure> {
        self.stage_at(staged, from, cut, &|_| {})
    }

    pub fn stage_at(
        &self,
        staged: &Value,
        from: &Path,
        cut: bool,
        between: &dyn Fn(&'static str),
    ) -> Result<String, Failure> {
        let origin = json!({"stream": {"checksum": null, "unpacked": false}});
        let order = json!({"call": {"stage": {"staged": staged, "origin": origin}}, "deadline_ms": 60_000});
        let mut stream = Vec::new();
        let mut frame = |bytes: &[u8]| {
            stream.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            stream.extend(bytes);
        };
        frame(order.to_string().as_bytes());
        let bytes = std::fs::read(from).unwrap();
        bytes.chunks(50_000).for_each(&mut frame);
        if !cut {
            frame(&[]);
        }
        let worker = Worker { between, ..Worker::new(&self.locks, Instant::now()) };
        causeway_tm::host::receive(stream.as_slice(), &worker)
    }

    pub fn resize(&self, qcow2: bool, persistent: bool, size_mb: u64, sparse: bool) -> Value {
        let kept = if persistent { json!({"with_image": self.text("1/abc")}) } else { json!("beside") };
        json!({"resize": {
            "file": self.text("100/7/disk.0"), "kept": kept, "qcow2": qcow2, "size_mb": size_mb, "sparse": sparse
        }})
    }

    pub fn move_dir(&self, to: &str) -> Value {
        json!({"move_dir": {"from": self.text("100/7"), "to": self.text(to)}})
    }

    pub fn make(&self, qcow2: bool, blank: Value) -> Value {
        json!({"make_image": {
            "file": self.text("100/7/disk.0"), "size_mb": 16, "qcow2": qcow2, "blank": blank
        }})
    }

    /// Makes a raw image.
    pub fn raw(&self, below: &str) -> Value {
        std::fs::write(self.path(below), vec![0; 1 << 20]).unwrap();
        json!(null)
    }

    /// Makes a qcow2 image.
    pub fn chain_image(&self) -> Value {
        self.qcow2("1/abc", "4M", None);
        json!(null)
    }

    /// Performs those calls that are some.
    pub fn done_after(&self, calls: &[Value]) {
        calls.iter().filter(|call| !call.is_null()).for_each(|call| self.done(call));
    }

    /// A guest writes a byte all over 64 KiB of its disk.
    pub fn guest_writes(&self, format: &str, disk: &str, at: u64, byte: u8) {
        let write = format!("write -q -P {byte} {} 64k", at * 65536);
        // As QEMU opens it: by the name in the VM's directory.
        tool("qemu-io", &["-f", format, "-c", &write, &self.text(disk)]);
    }

    /// What a guest reads at the same places: one byte each.
    pub fn guest_reads(&self, format: &str, disk: &str, places: u64) -> Vec<u8> {
        let raw = self.root.parent().unwrap().join("read");
        let (disk, raw) = (self.text(disk), raw.to_str().unwrap().to_owned());
        tool("qemu-img", &["convert", "-U", "-f", format, "-O", "raw", &disk, &raw]);
        let bytes = std::fs::read(&raw).unwrap();
        (0..places).map(|place| bytes[usize::try_from(place * 65536).unwrap()]).collect()
    }

    /// A raw image with data at its beginning, a hole, and data near its end.
    pub fn raw_image(&self) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(self.path("1/abc")).unwrap();
        file.set_len(5 * MIB).unwrap();
        file.write_all_at(&[0xa5; 70_000], 0).unwrap();
        file.write_all_at(b"the end", 5 * MIB - 7).unwrap();
        std::fs::read(self.path("1/abc")).unwrap()
    }

    pub fn qcow2_image(&self) {
        self.qcow2("1/abc", "16M", None);
        tool("qemu-io", &["-f", "qcow2", "-c", "write -q -P 0xa5 1M 2M", &self.text("1/abc")]);
    }

    pub fn qcow2(&self, below: &str, size: &str, backing: Option<(&str, &str)>) {
        let path = self.text(below);
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if let Some((format, backing)) = backing {
            args.extend(["-u", "-F", format, "-b", backing]);
        }
        args.extend([&path, size]);
        tool("qemu-img", &args);
    }

    pub fn target(&self, below: &str) -> String {
        std::fs::read_link(self.path(below)).unwrap().to_str().unwrap().to_owned()
    }
}

/// Runs a tool that must succeed; its standard output.
pub fn tool(program: &str, args: &[&str]) -> String {
    let run = Command::new(program).args(args).env("LC_ALL", "C").output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(run.stdout).unwrap()
}

/// What `qemu-img` says of every file of a chain, from the top.
pub fn chain(path: &Path) -> Vec<Value> {
    let text = tool("qemu-img", &["info", "-U", "--backing-chain", "--output=json", path.to_str().unwrap()]);
    serde_json::from_str(&text).unwrap()
}

pub fn half_made(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(".causeway-tmp"))
}

/// Everything below a directory: kind, permissions, link text, bytes.
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let found = path.symlink_metadata().unwrap();
            let mode = found.permissions().mode() & 0o7777;
            let text = if found.is_symlink() {
                format!("-> {}", path.read_link().unwrap().display())
            } else if found.is_dir() {
                left.push(path.clone());
                format!("directory {mode:o}")
            } else if found.is_file() {
                format!("file {mode:o} {} {:x}", found.len(), sum(&std::fs::read(&path).unwrap()))
            } else {
                format!("special {mode:o}")
            };
            seen.insert(path.strip_prefix(root).unwrap().to_owned(), text);
        }
    }
    seen
}

fn sum(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*blake3::hash(bytes).as_bytes().first_chunk().unwrap())
}

pub fn blocks(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

/// Runs one `#[ignore]`d test of this program in a mount namespace of its own, in which `dir` is a tmpfs of that size.
pub fn inside_tmpfs(test: &str, dir: &Path, size: &str) {
    inside(test, dir, &format!("mount -t tmpfs -o size={size} tmpfs \"$1\""));
}

/// The same in a file system whose files can share data. Needs root.
pub fn inside_xfs(test: &str, dir: &Path) {
    let image = dir.with_extension("xfs");
    let make =
        "truncate -s 2G \"$1.xfs\" && mkfs.xfs -q -m reflink=1 \"$1.xfs\" && mount -o loop \"$1.xfs\" \"$1\"";
    inside(test, dir, make);
    std::fs::remove_file(image).unwrap();
}

/// Runs an ignored test in a mount namespace, once the shell has done `mount`, in which `$1` is the directory. Needs root.
pub fn inside(test: &str, dir: &Path, mount: &str) {
    let script = format!("{mount} && exec \"$2\" --exact \"$3\" --ignored --nocapture");
    let namespaces = if rustix::process::getuid().is_root() { "-m" } else { "-rm" };
    let run = Command::new("unshare")
        .args([namespaces, "sh", "-c", &script, "sh"])
        .arg(dir)
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("CAUSEWAY_TEST_DIR", dir)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && out.contains("1 passed"),
        "{out}\n{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
