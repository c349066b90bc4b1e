//! A namespace with a `mount.nfs` and an `/etc` of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Datastores, tool};

/// What the shell does in the namespace; `$1` is the test's directory. The tools of `/usr/sbin` are there by links, so that
/// one more can stand among them; `sed` renames a file over `/etc/fstab`, so `/etc` is a copy.
pub const SETUP: &str = r##"chmod 755 "$1" && mkdir "$1/sbin.real" "$1/sbin" "$1/exports" && cp -a /etc "$1/etc" &&
mount --bind "$1/etc" /etc && echo '# of the test' >/etc/fstab &&
mount --bind /usr/sbin "$1/sbin.real" && ln -s "$1"/sbin.real/* "$1/sbin/" && rm -f "$1/sbin/mount.nfs" &&
cat >"$1/sbin/mount.nfs" <<'SCRIPT' &&
#!/bin/sh
at=$(cat /etc/stage)
echo "$*" >>"$at/asked"
case $(cat "$at/way") in
  hang) sleep 600 & echo $! >"$at/hung"; wait ;;
  lie) exit 0 ;;
esac
case "$(cat "$at/way") $1" in
  "refuse "*-100) echo 'mount.nfs: access denied by server' >&2; exit 32 ;;
esac
export=$at/exports/${1##*/}
mkdir -p "$export"
mountpoint -q "$export" || /usr/bin/mount -i -t tmpfs "$1" "$export" || exit
exec /usr/bin/mount --bind "$export" "$2"
SCRIPT
chmod 755 "$1/sbin/mount.nfs" && mount --bind "$1/sbin" /usr/sbin && echo "$1" >/etc/stage && echo serve >"$1/way" &&
: >"$1/asked""##;

pub struct Stage {
    name: String,
    dir: PathBuf,
    pub stores: Datastores,
}

impl Stage {
    /// Datastores of their own, in the namespace's directory.
    pub fn new(name: &str) -> Self {
        let dir = PathBuf::from(std::env::var("CAUSEWAY_TEST_DIR").unwrap());
        let stores = Datastores::below(&made(&dir.join(name)));
        Stage { name: name.to_owned(), dir, stores }
    }

    /// What a datastore's attributes say.
    pub fn share(&self, id: u32) -> String {
        format!("nas:/{}-{id}", self.name)
    }

    pub fn mount(&self, id: u32, kept: bool) -> Value {
        json!({"datastore": self.stores.text(&id.to_string()), "share": self.share(id), "options": "rw,noatime", "kept": kept})
    }

    pub fn mounted(&self, mounts: &[Value], automounted: Option<&[u32]>, call: Value) -> Value {
        let mut order = json!({"mounts": mounts, "call": call});
        if let Some(automounted) = automounted {
            order["automounted"] = json!(automounted);
        }
        json!({ "mounted": order })
    }

    /// In the image's datastore and the VM's.
    pub fn both(&self, call: Value) -> Value {
        self.mounted(&[self.mount(1, true), self.mount(100, true)], None, call)
    }

    fn export(&self, id: u32) -> PathBuf {
        self.dir.join(format!("exports/{}-{id}", self.name))
    }

    /// Puts a file where the server has it.
    pub fn serve(&self, id: u32, name: &str, bytes: &[u8]) {
        let export = made(&self.export(id));
        tool("mount", &["-i", "-t", "tmpfs", &self.share(id), export.to_str().unwrap()]);
        std::fs::write(export.join(name), bytes).unwrap();
    }

    /// A file as the server has it.
    pub fn served(&self, id: u32, name: &str) -> std::io::Result<Vec<u8>> {
        let path = self.export(id).join(name);
        if path.is_dir() { Ok(Vec::new()) } else { std::fs::read(path) }
    }

    /// How the server answers from now on.
    pub fn server(&self, way: &str) {
        std::fs::write(self.dir.join("way"), way).unwrap();
    }

    /// How often the server was asked for anything.
    pub fn asked(&self) -> usize {
        std::fs::read_to_string(self.dir.join("asked")).unwrap().lines().count()
    }

    /// The process that hangs.
    pub fn hung(&self) -> String {
        std::fs::read_to_string(self.dir.join("hung")).unwrap().trim().to_owned()
    }

    pub fn done(&self, call: &Value) {
        self.stores.perform(call, &[]).unwrap();
    }

    pub fn fails(&self, call: &Value) -> String {
        self.stores.perform(call, &[]).unwrap_err().text
    }

    /// The datastores at which something is mounted, once each.
    pub fn mounts(&self) -> Vec<u32> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = table.lines().map(|line| line.split(' ').nth(4).unwrap());
        let mut ids: Vec<u32> = at
            .filter_map(|path| Path::new(path).strip_prefix(&self.stores.root).ok()?.to_str()?.parse().ok())
            .collect();
        ids.sort_unstable();
        ids
    }

    pub fn unmount(&self, id: u32) {
        while self.mounts().contains(&id) {
            tool("umount", &[&self.stores.text(&id.to_string())]);
        }
    }

    /// A datastore's line, as the stock driver would write it.
    pub fn line(&self, id: u32) -> String {
        format!("{} {} nfs rw,noatime 0 0", self.share(id), self.stores.text(&id.to_string()))
    }

    /// How many lines of it there are.
    pub fn lines(&self, id: u32) -> usize {
        fstab().iter().filter(|line| **line == self.line(id)).count()
    }
}

fn made(path: &Path) -> PathBuf {
    std::fs::create_dir_all(path).unwrap();
    path.to_owned()
}

pub fn fstab() -> Vec<String> {
    std::fs::read_to_string("/etc/fstab").unwrap().lines().map(str::to_owned).collect()
}

pub fn add_to_fstab(line: &str) {
    std::fs::write("/etc/fstab", format!("{}\n{line}\n", fstab().join("\n"))).unwrap();
}

/// Waits until a process is no more.
pub fn gone(pid: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Killed, and at most not yet collected.
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < until, "{stat}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Has a user without rights perform a call, where sudo's rules are those of the stock package (`ONE_NFS`); what it wrote
/// down.
pub fn as_nobody(on: &Stage, call: &Value) -> Vec<u8> {
    let base = on.stores.root.parent().unwrap();
    if !base.join("exe").exists() {
        let rules = "Defaults !lecture, timestampdir=/etc/sudo\nnobody ALL=(ALL) NOPASSWD: /usr/bin/mount, /usr/bin/umount, \
                     /usr/bin/sed -i -f /proc/self/fd/0 /etc/fstab\n";
        std::fs::write("/etc/sudoers", rules).unwrap();
        // Where it was built nobody may look.
        std::fs::copy(std::env::current_exe().unwrap(), base.join("exe")).unwrap();
        for id in ["1", "100"] {
            std::fs::remove_dir(on.stores.path(id)).unwrap();
        }
    }
    tool("chown", &["-R", "nobody", base.to_str().unwrap()]);
    let mut child = Command::new("setpriv");
    child.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(base.join("exe"));
    let answer = crate::common::kill::tell(&mut child, &on.stores, call, None);
    child.env_remove("CAUSEWAY_TEST_POINT");
    child.stderr(std::process::Stdio::inherit());
    assert!(child.status().unwrap().success());
    std::fs::read(answer).unwrap()
}
