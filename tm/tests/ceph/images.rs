//! Calls on images, as `datastore/ceph` makes them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use causeway_core::answer::Failure;
use causeway_tm::host::Worker;
use serde_json::{Value, json};

use super::Stage;

/// When all images of these tests were registered.
pub const REGISTERED: u64 = 1_795_195_882;

impl Stage {
    /// `one/one-5-new`: called so that a picture has it.
    pub fn new_image(&self) -> String {
        format!("{}-new", self.source())
    }

    pub fn staging(&self) -> PathBuf {
        let dir = self.dir().join("staging");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn image_call(&self, image: &str, work: Value) -> Value {
        json!({"datastore": {"volume": {"cluster": self.cluster_words(), "image": image, "work": work}}})
    }

    /// `cp` of what a stream brings.
    pub fn image_import(&self, checksum: Value, unpack: bool, data_pool: Option<&str>) -> Value {
        let origin = json!({"stream": {"checksum": checksum, "unpacked": false}});
        let mut work =
            json!({"origin": origin, "unpack": unpack, "staging": self.staging(), "registered": REGISTERED});
        if let Some(pool) = data_pool {
            work["data_pool"] = json!(pool);
        }
        self.image_call(&self.new_image(), json!({"import": work}))
    }

    pub fn image_copy(&self) -> Value {
        let work = json!({"copy": {"original": self.source(), "registered": REGISTERED}});
        self.image_call(&self.new_image(), work)
    }

    pub fn image_make(&self, size_mb: u64, blank: Value) -> Value {
        let work = json!({"make": {
            "size_mb": size_mb, "blank": blank, "staging": self.staging(), "registered": REGISTERED, "data_pool": "data"
        }});
        self.image_call(&self.new_image(), work)
    }

    pub fn image_remove(&self, image: &str, trash: bool, registered: Option<u64>) -> Value {
        let mut work = json!({"remove": {"trash": trash}});
        if let Some(registered) = registered {
            work["remove"]["registered"] = json!(registered);
        }
        self.image_call(image, work)
    }

    pub fn image_sum(&self) -> Value {
        self.image_call(&self.source(), json!("sum"))
    }

    pub fn image_snapshot(&self, order: &str, id: u32) -> Value {
        self.image_call(&self.source(), json!({"snapshot": {"order": order, "id": id}}))
    }

    /// An image that is a persistent VM's disk: its volumes as after two reverts.
    pub fn image_family(&self) {
        self.image();
        let image = self.source();
        let snapshot = |id: u32| {
            self.rbd(&format!("snap create --no-progress {image}@{id}"));
            self.rbd(&format!("snap protect {image}@{id}"));
        };
        for (id, byte) in [(0, b'b'), (1, b'c')] {
            self.write(&image, byte);
            snapshot(id);
        }
        self.rbd(&format!("rename {image} {image}-0:1"));
        self.rbd(&format!("clone {image}-0:1@0 {image}"));
        self.write(&image, b'e');
        snapshot(2);
        self.write(&image, b'f');
    }

    /// Performs a call on an image with what is sent to it.
    pub fn receive(
        &self,
        call: &Value,
        sent: &[u8],
        between: &dyn Fn(&'static str),
    ) -> Result<String, Failure> {
        let order = json!({"call": call["datastore"], "deadline_ms": 120_000}).to_string();
        let mut stream = Vec::new();
        let end: &[u8] = &[];
        for frame in std::iter::once(order.as_bytes()).chain(sent.chunks(60_000)).chain([end]) {
            stream.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
            stream.extend(frame);
        }
        let locks = self.dir().join("locks");
        let worker = Worker { between, ..Worker::new(&locks, Instant::now()) };
        causeway_tm::host::receive(stream.as_slice(), &worker)
    }

    /// Nothing lies where uploads are prepared.
    pub fn nothing_staged(&self) {
        let left: Vec<_> = std::fs::read_dir(self.staging()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// An upload of four MiB as it would be shown of a volume, `aaaa`.
    pub fn upload() -> Vec<u8> {
        let mut bytes = vec![0; 4 << 20];
        for mib in bytes.chunks_mut(1 << 20) {
            mib[..4096].fill(b'a');
        }
        bytes
    }

    /// What a tool makes of a file with these bytes; `{}` is the file, `{}.out` what it makes.
    pub fn made_by(&self, bytes: &[u8], tool: &str) -> Vec<u8> {
        let file = self.dir().join("made");
        let out = self.dir().join("made.out");
        std::fs::write(&file, bytes).unwrap();
        let words = tool.replace("{}", &file.display().to_string());
        let words: Vec<&str> = words.split(' ').collect();
        let run = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(run.status.success(), "{tool}: {}", String::from_utf8_lossy(&run.stderr));
        let made = if out.exists() { std::fs::read(&out).unwrap() } else { run.stdout };
        let _ = std::fs::remove_file(out);
        std::fs::remove_file(file).unwrap();
        made
    }

    /// What the stock downloader brings of a backup of image `one-5`: `aaaa`, then `baaa`, packed.
    pub fn backup(&self) -> Vec<u8> {
        self.image();
        let image = self.source();
        let parts = self.dir().join("parts");
        std::fs::create_dir_all(&parts).unwrap();
        let part = |name: &str| parts.join(name).display().to_string();
        self.rbd(&format!("snap create --no-progress {image}@one_backup_0"));
        self.rbd(&format!("snap protect {image}@one_backup_0"));
        self.rbd(&format!("export --no-progress --export-format 2 {image} {}", part("disk.3.rbd2")));
        self.write(&image, b'b');
        self.rbd(&format!("snap create --no-progress {image}@one_backup_1"));
        let diff = part("disk.3.1.rbdiff");
        self.rbd(&format!("export-diff --no-progress --from-snap one_backup_0 {image}@one_backup_1 {diff}"));
        self.rbd(&format!("snap unprotect {image}@one_backup_0"));
        self.rbd(&format!("snap purge --no-progress {image}"));
        self.rbd(&format!("rm --no-progress {image}"));
        let mut tar = Command::new("tar");
        tar.args(["-zc", "-C"]).arg(&parts).args(["disk.3.rbd2", "disk.3.1.rbdiff"]);
        tar.output().unwrap().stdout
    }
}
