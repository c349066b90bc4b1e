//! Images with snapshots, and calls about them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Datastores, tool};

/// What the tests of a datastore add to its datastores.
pub trait Images {
    /// Image `abc` with the snapshots 0 and 1, as stock leaves it: each layer has a byte pattern of its own.
    fn chained_image(&self);
    /// A path beside the root of the datastores.
    fn beside(&self, name: &str) -> PathBuf;
    fn import(&self, origin: Value, format: Value) -> Value;
    fn copy(&self, stored: &str, format: &str) -> Value;
    fn export(&self, stored: &str) -> Value;
    fn remove(&self) -> Value;
    fn image_snapshot(&self, chain: bool, order: &str, id: u32) -> Value;
}

impl Images for Datastores {
    fn chained_image(&self) {
        self.qcow2_image();
        std::fs::create_dir(self.path("1/abc.snap")).unwrap();
        symlink(self.path("1/abc"), self.path("1/abc.snap/0")).unwrap();
        symlink(".", self.path("1/abc.snap/abc.snap")).unwrap();
        for (layer, byte, at) in [(1, "0x11", "4M"), (2, "0x22", "5M")] {
            let (path, below) =
                (format!("1/abc.snap/{layer}"), self.text(&format!("1/abc.snap/{}", layer - 1)));
            self.qcow2(&path, "16M", Some(("qcow2", &below)));
            let write = format!("write -q -P {byte} {at} 64k");
            tool("qemu-io", &["-f", "qcow2", "-c", &write, &self.text(&path)]);
        }
    }

    fn beside(&self, name: &str) -> PathBuf {
        let root = self.root.parent().unwrap();
        if name.is_empty() { root.to_owned() } else { root.join(name) }
    }

    fn import(&self, origin: Value, format: Value) -> Value {
        json!({"datastore": {"import": {
            "image": self.text("1/new"), "origin": origin, "format": format, "opened": true, "sparse": true
        }}})
    }

    fn copy(&self, stored: &str, format: &str) -> Value {
        json!({"datastore": {"copy": {
            "original": self.text("1/abc"), "stored": stored, "image": self.text("1/new"), "format": format, "sparse": true
        }}})
    }

    fn export(&self, stored: &str) -> Value {
        json!({"datastore": {"export": {"image": self.text("1/abc"), "stored": stored}}})
    }

    fn remove(&self) -> Value {
        json!({"datastore": {"remove": {"image": self.text("1/abc")}}})
    }

    fn image_snapshot(&self, chain: bool, order: &str, id: u32) -> Value {
        json!({"datastore": {"snapshot": {"image": self.text("1/abc"), "chain": chain, "order": order, "id": id}}})
    }
}

/// The bytes that a guest would see.
pub fn raw_of(path: &Path, format: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    tool(
        "qemu-img",
        &["convert", "-U", "-f", format, "-O", "raw", path.to_str().unwrap(), raw.to_str().unwrap()],
    );
    std::fs::read(raw).unwrap()
}

/// A stand-in for stock's script, beside the datastores: it writes down its words, unpacks files, and has an answer for
/// some addresses.
pub fn downloader(on: &Datastores) -> PathBuf {
    let path = on.beside("downloader.sh");
    let text = "#!/bin/bash\nset -o pipefail\nprintf '%s\\n' \"$@\" >\"$(dirname \"$0\")/words\"\n\
        while [ \"$1\" != -- ]; do shift; done\n\
        case $2 in\n\
        /proc/*) gunzip -c \"$2\" ;;\n\
        http://served/*) cat \"$(dirname \"$0\")/served\" ;;\n\
        http://fails/*) echo half; echo 'curl: (22) 404' >&2; echo 'Error copying' >&2; exit 255 ;;\n\
        http://empty/*) ;;\n\
        http://big/*) head -c 20000000 /dev/urandom ;;\n\
        *) echo \"from $2\" ;;\n\
        esac\n";
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}
