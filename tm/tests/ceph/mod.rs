//! Volumes on the real cluster that `tests/lab/ceph.sh` starts, calls on them, and a picture of what they leave.
//!
//! Every test takes image numbers that no other one has, so that all can use one cluster at once.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use causeway_core::answer::Failure;
use causeway_tm::host::{Call, Worker, perform};
use serde_json::{Value, json};

pub mod campaign;
pub mod case;
pub mod cases;
mod content;
pub mod faults;
pub mod image_cases;
pub mod images;
pub mod kill;
pub mod pool;

use content::{files, half_made, letters};
pub use content::{qemu_img, read_qcow2};

pub const MIB: u64 = 1 << 20;

/// The cluster, if there is one. `tests/run ceph` starts one and sets the variable.
pub fn cluster() -> Option<PathBuf> {
    let conf = std::env::var_os("CAUSEWAY_TEST_CEPH").map(PathBuf::from);
    if conf.is_none() {
        println!("skipped: CAUSEWAY_TEST_CEPH names no cluster; `tests/run ceph` starts one");
    }
    conf
}

/// An image and the VM that has disk 0 from it.
pub struct Stage {
    conf: PathBuf,
    _dir: Option<tempfile::TempDir>,
    dir: PathBuf,
    pub image: u32,
    /// As whom calls are made; the key is beside the configuration.
    pub user: String,
}

/// One volume, as it is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// MiB.
    pub size: u64,
    pub parent: Option<String>,
    pub data_pool: Option<String>,
    /// Name, protected, the first byte of each MiB.
    pub snapshots: Vec<(String, bool, String)>,
    pub content: String,
}

pub type Picture = BTreeMap<String, Seen>;

impl Stage {
    pub fn new(conf: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        // Numbers of other processes' tests are others, too.
        let image = (std::process::id() % 4000) * 1000 + NEXT.fetch_add(1, Ordering::Relaxed) + 1000;
        let mut stage = Stage::at(conf, dir.path(), image);
        stage._dir = Some(dir);
        stage
    }

    /// One that somebody else made.
    pub fn at(conf: &Path, dir: &Path, image: u32) -> Self {
        // A child that is watched makes nothing of its own.
        if !dir.join("datastores").exists() {
            std::fs::create_dir_all(dir.join("datastores")).unwrap();
        }
        let dir = dir.canonicalize().unwrap();
        Stage { conf: conf.to_owned(), _dir: None, dir, image, user: "one".to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `one/one-5`.
    pub fn source(&self) -> String {
        format!("one/one-{}", self.image)
    }

    /// `one/one-5-7-0`.
    pub fn disk(&self) -> String {
        format!("{}-7-0", self.source())
    }

    /// The words that name the cluster, as user `one`.
    pub fn access(&self) -> [String; 6] {
        let beside = |name: &str| self.conf.with_file_name(name).display().to_string();
        let conf = self.conf.display().to_string();
        [
            "--conf".to_owned(),
            conf,
            "--id".to_owned(),
            "one".to_owned(),
            "--keyfile".to_owned(),
            beside("one.key"),
        ]
    }

    /// Somebody who has the disk open, as a guest would.
    pub fn guest(&self) -> std::process::Child {
        let mut guest = Command::new("rbd");
        // It watches until it is told to stop on its standard input.
        guest.args(self.access()).args(["watch", &self.disk()]).stdin(Stdio::piped()).stdout(Stdio::null());
        let guest = guest.spawn().unwrap();
        let watchers = || self.json(&format!("status {}", self.disk()))["watchers"].as_array().unwrap().len();
        assert!((0..50).any(|_| watchers() == 1));
        guest
    }

    pub fn rbd_with(&self, input: &[u8], words: &[&str]) -> Result<Vec<u8>, String> {
        let mut rbd = Command::new("rbd");
        rbd.args(self.access())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = rbd.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let written = std::thread::scope(|scope| {
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        });
        let said = String::from_utf8_lossy(&written.stderr).into_owned();
        if written.status.success() { Ok(written.stdout) } else { Err(said) }
    }

    pub fn rbd(&self, words: &str) -> Vec<u8> {
        let words: Vec<&str> = words.split(' ').collect();
        self.rbd_with(&[], &words).unwrap_or_else(|said| panic!("rbd {words:?}: {said}"))
    }

    pub fn json(&self, words: &str) -> Value {
        serde_json::from_slice(&self.rbd(&format!("--format json {words}"))).unwrap()
    }

    /// A volume with these bytes, one for the beginning of each MiB.
    pub fn import(&self, volume: &str, bytes: &str) {
        let mut content = vec![0; bytes.len() * 1024 * 1024];
        for (index, byte) in bytes.bytes().enumerate() {
            content[index * 1024 * 1024..][..4096].fill(byte);
        }
        self.rbd_with(&content, &["import", "--no-progress", "-", volume]).unwrap();
    }

    /// Writes a byte at the beginning of the volume's first MiB, as a guest would: by a difference.
    pub fn write(&self, volume: &str, byte: u8) {
        let mut diff = b"rbd diff v1\nw".to_vec();
        diff.extend(0_u64.to_le_bytes());
        diff.extend(4096_u64.to_le_bytes());
        diff.extend([byte; 4096]);
        diff.push(b'e');
        self.rbd_with(&diff, &["import-diff", "--no-progress", "-", volume]).unwrap();
    }

    /// The first byte of each MiB, dots for zeros; the rest must be what `import` and `write` leave.
    pub fn content(&self, volume: &str) -> String {
        if half_made(volume) {
            return String::new();
        }
        letters(volume, &self.rbd(&format!("export --no-progress {volume} -")))
    }

    /// The VM's disk as a file on its host's own disk.
    pub fn file(&self) -> PathBuf {
        self.vm_dir().join("disk.0")
    }

    /// A file of four MiB, as another call left it.
    pub fn lent(&self) {
        self.image();
        self.done(self.fetch(true, None));
        self.write_file(b'w');
    }

    /// As a guest would write into its first MiB.
    pub fn write_file(&self, byte: u8) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(self.file()).unwrap();
        file.write_all_at(&[byte; 4096], 0).unwrap();
    }

    /// An image of four MiB.
    pub fn image(&self) {
        self.import(&self.source(), "aaaa");
    }

    /// As the stock driver makes one.
    fn stock_snapshot(&self, snapshot: &str) {
        self.rbd(&format!("snap create --no-progress {snapshot}"));
        self.rbd(&format!("snap protect {snapshot}"));
    }

    /// That image and a disk from it, made as the stock driver makes them.
    pub fn cloned(&self) {
        self.image();
        self.stock_snapshot(&format!("{}@snap", self.source()));
        self.rbd(&format!("clone {0}@snap {0}-7-0", self.source()));
    }

    /// That disk with snapshots 0 (of `b`) and 1 (of `c`), `d` written since.
    pub fn snapshots(&self) {
        self.cloned();
        let disk = self.disk();
        for (id, byte) in [(0, b'b'), (1, b'c')] {
            self.write(&disk, byte);
            self.stock_snapshot(&format!("{disk}@{id}"));
        }
        self.write(&disk, b'd');
    }

    /// Three volumes as the stock driver leaves them: one with snapshots 0 and 1; one that was made from 0 and has 2; and
    /// the disk, which was made from 0, too.
    pub fn family(&self) {
        self.snapshots();
        let disk = self.disk();
        self.rbd(&format!("rename {disk} {disk}-0:1"));
        self.rbd(&format!("clone {disk}-0:1@0 {disk}"));
        self.write(&disk, b'e');
        self.stock_snapshot(&format!("{disk}@2"));
        self.rbd(&format!("rename {disk} {disk}-2"));
        self.rbd(&format!("clone {disk}-0:1@0 {disk}"));
        self.write(&disk, b'f');
    }

    /// All volumes of the image's family, without what the numbers of a run change.
    pub fn picture(&self) -> Picture {
        let names: Vec<String> = serde_json::from_value(self.json("ls one")).unwrap();
        let base = format!("one-{}", self.image);
        let plain = |text: &str| text.replacen(&base, "one-5", 1);
        let ours = names.iter().filter(|name| {
            name.strip_prefix(&base).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        let see = |name: &String| {
            self.see(&format!("one/{name}"), &plain).map_or_else(
                || (format!("{}, half removed", plain(name)), Seen::default()),
                |seen| (plain(name), seen),
            )
        };
        let mut seen: Picture = ours.map(see).collect();
        // Files beside them, and in a backup.
        for path in [self.vm_dir(), self.vm_dir().join("backup")].iter().flat_map(|dir| files(dir)) {
            let short = path.strip_prefix(self.vm_dir()).unwrap().to_str().unwrap();
            let name = format!("file {short}");
            // Written anew by each call, or none of its affair.
            if short.ends_with("vm.xml") || short.ends_with(".restored") {
                continue;
            }
            let bytes = match short.starts_with("backup/disk") {
                true => read_qcow2(&path),
                false => std::fs::read(&path).unwrap(),
            };
            let content = if half_made(short) { String::new() } else { letters(&name, &bytes) };
            let (parent, data_pool, snapshots) = (None, None, Vec::new());
            seen.insert(name, Seen { size: bytes.len() as u64 / MIB, parent, data_pool, snapshots, content });
        }
        seen
    }

    fn see(&self, volume: &str, plain: &dyn Fn(&str) -> String) -> Option<Seen> {
        let info = self.rbd_with(&[], &["--format", "json", "info", volume]);
        let info = match info {
            Err(said) if said.contains("(2) No such file") => return None,
            other => serde_json::from_slice::<Value>(&other.unwrap()).unwrap(),
        };
        let parent = info.get("parent").map(|parent| {
            format!("{}@{}", plain(parent["image"].as_str().unwrap()), parent["snapshot"].as_str().unwrap())
        });
        let list = self.json(&format!("snap ls {volume}"));
        let snapshot = |snapshot: &Value| {
            let name = snapshot["name"].as_str().unwrap().to_owned();
            let content = self.content(&format!("{volume}@{name}"));
            (name, snapshot["protected"] == "true", content)
        };
        Some(Seen {
            size: info["size"].as_u64().unwrap() / MIB,
            parent,
            data_pool: info.get("data_pool").map(|pool| pool.as_str().unwrap().to_owned()),
            snapshots: list.as_array().unwrap().iter().map(snapshot).collect(),
            content: self.content(volume),
        })
    }

    /// The cluster, as a call names it.
    fn cluster_words(&self) -> Value {
        let key = self.conf.with_file_name(format!("{}.key", self.user));
        json!({"conf": self.conf, "user": self.user, "key": key})
    }

    fn call(&self, work: Value) -> Value {
        json!({"rbd": {"cluster": self.cluster_words(), "vm": 7, "work": work}})
    }

    pub fn vm_dir(&self) -> PathBuf {
        self.dir.join("datastores/100/7")
    }

    pub fn clone(&self, grown_mb: Option<u64>) -> Value {
        self.call(json!({"clone": {"image": self.source(), "disk": self.disk(), "dir": self.vm_dir(), "grown_mb": grown_mb}}))
    }

    pub fn clone_into(&self, data_pool: &str) -> Value {
        self.call(json!({"clone": {"image": self.source(), "disk": self.disk(), "dir": self.vm_dir(), "data_pool": data_pool}}))
    }

    /// `clone.ssh`, or `ln.ssh` of a persistent image.
    pub fn fetch(&self, persistent: bool, grown_mb: Option<u64>) -> Value {
        let (image, file) = (self.source(), self.file());
        self.call(
            json!({"fetch": {"image": image, "file": file, "persistent": persistent, "grown_mb": grown_mb}}),
        )
    }

    /// `mvds.ssh`.
    pub fn take_back(&self) -> Value {
        self.call(json!({"take_back": {"image": self.source(), "file": self.file()}}))
    }

    /// `cpds.ssh`.
    pub fn save_file(&self, copied: bool) -> Value {
        let image = format!("{}-saved", self.source());
        self.call(json!({"save_file": {"file": self.file(), "image": image, "copied": copied}}))
    }

    pub fn link(&self) -> Value {
        self.call(json!({"link": {"image": self.source(), "dir": self.vm_dir()}}))
    }

    /// Its image is called as the next disk of another VM would be, so that a picture has it.
    pub fn save(&self, snapshot: Option<u32>) -> Value {
        let image = format!("{}-saved", self.source());
        self.call(json!({"save": {"disk": self.disk(), "snapshot": snapshot, "image": image}}))
    }

    pub fn remove(&self, volume: &str, trash: bool) -> Value {
        self.call(json!({"remove": {"volume": volume, "trash": trash}}))
    }

    pub fn make(&self, size_mb: u64, blank: Value) -> Value {
        let beside = self.vm_dir().join("disk.0");
        self.call(
            json!({"make": {"disk": self.disk(), "size_mb": size_mb, "blank": blank, "beside": beside}}),
        )
    }

    pub fn resize(&self, size_mb: u64) -> Value {
        self.call(json!({"resize": {"disk": self.disk(), "size_mb": size_mb}}))
    }

    pub fn snapshot(&self, order: &str, id: u32) -> Value {
        self.call(json!({"snapshot": {"disk": self.disk(), "order": order, "id": id}}))
    }

    /// While a guest has it open.
    pub fn live_snapshot(&self, id: u32) -> Value {
        self.call(json!({"snapshot": {"disk": self.disk(), "order": "create", "id": id, "running": true}}))
    }

    /// The same for the image itself, which is a persistent VM's disk.
    pub fn of_image(&self, order: &str, id: u32) -> Value {
        self.call(json!({"snapshot": {"disk": self.source(), "order": order, "id": id}}))
    }

    /// A part of a backup; `extent` is `"full"`, `"first"` or `{"since": 0}`.
    pub fn back_up(&self, extent: &Value, part: Value) -> Value {
        self.call(json!({"backup": {"disk": self.disk(), "extent": extent, "part": part}}))
    }

    /// The directory of a backup, made anew or taken away.
    pub fn backup_dir(&self, what: &str, visiting: bool) -> Value {
        let place = json!({"dir": self.vm_dir(), "visiting": visiting});
        let more =
            if what == "begin" { json!({"place": place, "tpm": false}) } else { json!({"place": place}) };
        json!({"backup": {what: more}})
    }

    pub fn copy_part(&self) -> Value {
        json!({"copy": {"place": {"dir": self.vm_dir()}, "file": self.file()}})
    }

    /// A whole `prebackup`, up to the copy; the guest runs if it writes `meanwhile`.
    pub fn backed_up(&self, extent: &Value, meanwhile: Option<u8>) {
        std::fs::create_dir_all(self.vm_dir()).unwrap();
        self.done(self.backup_dir("begin", false));
        self.done(self.back_up(extent, json!("ready")));
        self.done(self.back_up(extent, json!({"snapshot": {"running": meanwhile.is_some()}})));
        if let Some(byte) = meanwhile {
            self.write(&self.disk(), byte);
        }
        self.done(self.back_up(extent, self.copy_part()));
    }

    /// The name under which a fetched backup lies in the VM's directory.
    pub fn staged(&self) -> PathBuf {
        self.vm_dir().join(".causeway-tmp.disk.0.restored")
    }

    /// A backup with these bytes, fetched.
    pub fn fetched(&self, bytes: &str) {
        std::fs::create_dir_all(self.vm_dir()).unwrap();
        let mut content = vec![0; bytes.len() * 1024 * 1024];
        for (index, byte) in bytes.bytes().enumerate() {
            content[index * 1024 * 1024..][..4096].fill(byte);
        }
        let raw = self.dir.join("raw");
        std::fs::write(&raw, content).unwrap();
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap()], &self.staged());
    }

    /// A part of a restore from backup 19.
    pub fn restore(&self, part: Value) -> Value {
        self.call(json!({"restore": {"disk": self.disk(), "backup": 19, "part": part}}))
    }

    pub fn make_restored(&self, size_mb: u64, data_pool: Option<&str>) -> Value {
        self.restore(json!({"make": {"file": self.file(), "size_mb": size_mb, "data_pool": data_pool}}))
    }

    pub fn perform_within(
        &self,
        call: &Value,
        wait: Duration,
        between: &dyn Fn(&'static str),
    ) -> Result<String, Failure> {
        let call: Call = serde_json::from_value(call.clone()).unwrap();
        let deadline = Instant::now() + wait;
        let locks = self.dir.join("locks");
        perform(&call, &[], &Worker { between, ..Worker::new(&locks, deadline) })
    }

    pub fn perform_at(&self, call: &Value, between: &dyn Fn(&'static str)) -> Result<String, Failure> {
        self.perform_within(call, Duration::from_secs(120), between)
    }

    pub fn done(&self, call: Value) {
        self.perform_at(&call, &|_| {}).unwrap_or_else(|failure| panic!("{call}: {failure}"));
    }

    pub fn failure(&self, call: Value) -> Failure {
        self.perform_at(&call, &|_| {}).unwrap_err()
    }
}

/// Whether all is to be tried that there is, as `tests/run long` does.
pub fn long() -> bool {
    std::env::var_os("CAUSEWAY_TEST_LONG").is_some()
}

/// Some of a list, others in each run; all of it in the long form.
pub fn share<T>(all: &[T], count: usize) -> Vec<&T> {
    let count = if long() { all.len() } else { count };
    let first = if long() { 0 } else { std::process::id() as usize };
    (0..count).map(|number| &all[(first * count + number) % all.len()]).collect()
}

/// Runs tests of a list at once: most of an `rbd` call is waiting.
pub fn at_once<T: Sync>(all: &[T], act: impl Fn(&T) + Sync) {
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    act(one);
                }
            });
        }
    });
}
