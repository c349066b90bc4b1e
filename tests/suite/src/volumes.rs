//! A real cluster, and the volumes of a pool of it as text.

#![expect(clippy::unwrap_used, reason = "only tests call this, and what goes wrong here ends them")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A cluster that `tests/lab/ceph.sh` started, and a user of it.
#[derive(Clone)]
pub struct Cluster {
    /// Its configuration.
    pub conf: PathBuf,
    /// The user, of whom the configuration has a key file beside it.
    pub user: String,
}

impl Cluster {
    /// The one that `tests/run ceph` starts.
    pub fn given() -> Option<Cluster> {
        let conf = std::env::var_os("CAUSEWAY_TEST_CEPH").map(PathBuf::from);
        if conf.is_none() {
            println!("skipped: CAUSEWAY_TEST_CEPH names no cluster; `tests/run ceph` starts one");
        }
        conf.map(|conf| Cluster { conf, user: "one".to_owned() })
    }

    /// The file of the user's key.
    pub fn key(&self) -> PathBuf {
        self.conf.with_file_name(format!("{}.key", self.user))
    }

    /// What a datastore, and a disk of it, say of the cluster.
    pub fn attributes(&self) -> String {
        format!(
            "<CEPH_CONF>{}</CEPH_CONF><CEPH_USER>{}</CEPH_USER><CEPH_KEY>{}</CEPH_KEY><POOL_NAME>one</POOL_NAME>",
            self.conf.display(),
            self.user,
            self.key().display()
        )
    }

    fn tool(&self) -> Command {
        let mut rbd = Command::new("rbd");
        rbd.arg("--conf").arg(&self.conf).args(["--id", &self.user, "--keyfile"]).arg(self.key());
        rbd
    }

    /// What `rbd` prints, asked with these words; it must succeed.
    pub fn rbd(&self, words: &str) -> String {
        self.rbd_with(&[], words)
    }

    /// The same with something on its standard input.
    pub fn rbd_with(&self, input: &[u8], words: &str) -> String {
        let mut rbd = self.tool();
        rbd.args(words.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = rbd.spawn().unwrap();
        // It reads all of it before it says much.
        drop(child.stdin.take().unwrap().write_all(input));
        let ran = child.wait_with_output().unwrap();
        assert!(ran.status.success(), "rbd {words}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// What it prints as JSON.
    pub fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.rbd(&format!("--format json {words}"))).unwrap()
    }

    /// A volume with that byte in its first block.
    pub fn volume(&self, name: &str, size_mb: usize, byte: u8) {
        let mut content = vec![0; size_mb << 20];
        content.iter_mut().take(4096).for_each(|at| *at = byte);
        self.rbd_with(&content, &format!("import --no-progress - {name}"));
    }

    /// The first byte of a volume or a snapshot.
    pub fn first(&self, name: &str) -> char {
        let ran = self.tool().args(["export", "--no-progress", name, "-"]).output().unwrap();
        assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
        char::from(*ran.stdout.first().unwrap())
    }

    /// Volumes of the pool of which `whose` says a name, with what is to be called so: size, what they stand on, snapshots,
    /// what stands on those.
    pub fn tree(&self, whose: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
        let text = |of: &Value, key: &str| of[key].as_str().unwrap().to_owned();
        let called = |image: &str| whose(image).unwrap_or_else(|| image.to_owned());
        let parent = |of: &Value| {
            let parent = of.get("parent").filter(|_| of.get("snapshot").is_none())?;
            Some(format!("{}@{}", called(&text(parent, "image")), text(parent, "snapshot")))
        };
        // All of it in one call: volumes, and behind each its snapshots.
        let list = self.json("ls --long one");
        let all = list.as_array().unwrap();
        let line = |one: &Value| {
            let name = whose(&text(one, "image"))?;
            let Some(snapshot) = one.get("snapshot").and_then(Value::as_str) else {
                let upon = parent(one).map_or_else(String::new, |parent| format!(" upon {parent}"));
                return Some(format!("    {name}  {} MiB{upon}", one["size"].as_u64().unwrap() >> 20));
            };
            let name = format!("{name}@{snapshot}");
            let stands = |other: &&Value| parent(other).is_some_and(|parent| parent == name);
            let mut below: Vec<String> =
                all.iter().filter(stands).map(|other| called(&text(other, "image"))).collect();
            below.sort();
            let below =
                if below.is_empty() { String::new() } else { format!(", below {}", below.join(", ")) };
            let protected = if one["protected"] == "true" { ", protected" } else { "" };
            Some(format!("    {name}{protected}{below}"))
        };
        let mut lines: Vec<String> = all.iter().filter_map(line).collect();
        lines.sort();
        lines
    }
}

/// Files below a directory: kind, permissions, size.
pub fn files(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let (mut lines, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            // That marks a datastore that is mounted.
            if path.ends_with(".causeway") {
                continue;
            }
            let found = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let mode = found.mode() & 0o7777;
            lines.push(match found.is_dir() {
                true => format!("    {name}  {mode:o} directory"),
                false => format!("    {name}  {mode:o} {} bytes", found.len()),
            });
            if found.is_dir() {
                left.push(path);
            }
        }
    }
    lines.sort();
    lines
}
