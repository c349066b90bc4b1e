//! What somebody with a VM may have left in its directory, and what an upload may hold: links out of the datastores at every
//! name, layers that stand on files outside, headers that lie. The places come from what a call's case has prepared.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use causeway_testing::tracer::{self, Does, Fate};
use serde_json::Value;

use super::{Datastores, Kept, kill, picture, tool};

/// Beside the root of the datastores, with nothing that any call may read or change.
struct Outside {
    dir: PathBuf,
}

impl Outside {
    fn beside(on: &Datastores) -> Self {
        let dir = on.root.parent().unwrap().join("outside");
        std::fs::create_dir_all(dir.join("dir")).unwrap();
        std::fs::write(dir.join("file"), b"somebody's secret").unwrap();
        tool("qemu-img", &["create", "-q", "-f", "qcow2", dir.join("image").to_str().unwrap(), "4M"]);
        for name in ["0", "1", "2", "disk.0", "file"] {
            std::fs::write(dir.join("dir").join(name), b"somebody's data").unwrap();
        }
        Outside { dir }
    }
}

/// One thing that is not as it should be.
#[derive(Debug)]
enum Plant {
    /// A link out of the datastores, instead of what was there.
    Link(PathBuf, &'static str),
    /// A layer, or an image, that stands on a file outside.
    Stands(PathBuf, &'static str),
    /// Bytes of another format than oned believes: an image that stands on a file outside, or nothing of an image.
    Lies(PathBuf),
}

/// All that can be planted among the files that are there, but for the datastores themselves, which may be links.
fn plants(on: &Datastores) -> Vec<Plant> {
    let mut plants = Vec::new();
    for (path, text) in picture(&on.root) {
        if path.components().count() < 2 || path.starts_with("101") {
            continue;
        }
        let target = if text.starts_with("directory") { "dir" } else { "file" };
        plants.push(Plant::Link(path.clone(), target));
        if text.starts_with("file") {
            plants.push(Plant::Link(path.clone(), "image"));
            let is_qcow2 = std::fs::read(on.root.join(&path)).unwrap().starts_with(b"QFI\xfb");
            if is_qcow2 {
                plants.extend(["file", "image"].map(|target| Plant::Stands(path.clone(), target)));
            }
            plants.push(Plant::Lies(path));
        }
    }
    plants
}

fn plant(on: &Datastores, outside: &Outside, plant: &Plant) {
    let target = |name: &str| outside.dir.join(name).display().to_string();
    match plant {
        Plant::Link(path, name) => {
            let path = on.root.join(path);
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
            symlink(target(name), path).unwrap();
        }
        Plant::Stands(path, name) => {
            let format = if *name == "image" { "qcow2" } else { "raw" };
            let path = on.root.join(path);
            let layer = path.to_str().unwrap();
            let to = target(name);
            tool("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", format, "-b", &to, layer]);
        }
        Plant::Lies(path) => {
            let path = on.root.join(path);
            let was_qcow2 = std::fs::read(&path).unwrap().starts_with(b"QFI\xfb");
            std::fs::remove_file(&path).unwrap();
            if was_qcow2 {
                std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
            } else {
                let to = target("image");
                let words =
                    ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &to, path.to_str().unwrap(), "4M"];
                tool("qemu-img", &words);
            }
        }
    }
}

/// Performs a call on datastores in which every one of the plants, or a share of them, was planted: nothing outside is read,
/// made or changed, by its tools neither. How many there were.
pub fn campaign(
    name: &str,
    on: &Datastores,
    call: &dyn Fn(&Datastores) -> Value,
    input: Option<&str>,
    takes: &dyn Fn(usize) -> bool,
) -> usize {
    let outside = Outside::beside(on);
    let kept = Kept::of(on.dirs());
    let before = picture(&outside.dir);
    let mut tried = 0;
    for (number, planted) in plants(on).iter().enumerate().filter(|(number, _)| takes(*number)) {
        kept.restore();
        plant(on, &outside, planted);
        // Put together before: it may look at files.
        let (mut child, answer) = kill::watched(on, &call(on), input);
        let _ = std::fs::remove_file(&answer);
        let mut touched = Vec::new();
        tracer::run(&mut child, &mut |call| {
            // The kernel tells where an open file lies; a name may be refused before it leads anywhere.
            let touches = call.does != Does::Opens && call.below(&outside.dir);
            if touches {
                touched.push(format!("{} {}", call.name, call.path.display()));
            }
            Fate::Pass
        })
        .unwrap();
        assert_eq!(touched, [""; 0], "{name}, {number}: {planted:?}");
        assert_eq!(picture(&outside.dir), before, "{name}, {number}: {planted:?}");
        // It did what it was asked, or said that it won't.
        let came: Result<(), causeway_core::answer::Failure> =
            serde_json::from_slice(&std::fs::read(&answer).unwrap()).unwrap();
        if let Err(failure) = came {
            assert!(!failure.text.contains("somebody's"), "{name}: {failure}");
        }
        tried += 1;
    }
    tried
}
