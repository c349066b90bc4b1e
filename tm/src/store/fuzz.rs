//! A disk's directory of layers under attack: whoever can write there leads nobody to a file that is neither a layer nor
//! of an image's datastore.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::layers::{Base, Layers};
use crate::chain::Chain;
use crate::host::Kept;
use crate::place::{VmFile, plain};

/// A qcow2 header with the name of a backing file.
fn header(backing: &str) -> Vec<u8> {
    let mut bytes = [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 104]].concat();
    if !backing.is_empty() {
        bytes[8..16].copy_from_slice(&112_u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(backing.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(backing.as_bytes());
    }
    bytes
}

/// Makes what the lines of an input say: where the disk leads in the first one, then entries of its directory, each a
/// name, what it is, and a text. `@` is the directory of all datastores.
fn make(root: &Path, input: &str) {
    for dir in ["0/7/disk.0.snap", "1/other.snap", "outside"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("1/abc"), header("")).unwrap();
    fs::write(root.join("1/raw"), [0; 512]).unwrap();
    fs::write(root.join("1/leads-out"), header("../outside/secret")).unwrap();
    fs::write(root.join("1/other.snap/3"), header("../abc")).unwrap();
    fs::write(root.join("outside/secret"), header("")).unwrap();
    symlink("../outside/secret", root.join("1/link")).unwrap();
    let input = input.replace('@', root.to_str().unwrap());
    let mut lines = input.lines().filter(|line| !line.contains('\0'));
    let snap = root.join("0/7/disk.0.snap");
    let _ = symlink(lines.next().unwrap_or_default(), root.join("0/7/disk.0"));
    for line in lines.take(12) {
        let mut words = line.splitn(3, ' ');
        let (name, kind, text) = (words.next(), words.next(), words.next().unwrap_or_default());
        let Some(name) = name.filter(|name| !name.contains('/') && !matches!(*name, "" | "." | "..")) else {
            continue;
        };
        let _ = match kind {
            Some("layer") => fs::write(snap.join(name), header(text)),
            Some("link") => symlink(text, snap.join(name)),
            Some("directory") => fs::create_dir(snap.join(name)),
            _ => fs::write(snap.join(name), text),
        };
    }
}

#[test]
fn fuzz_layers() {
    crate::seeded::fuzz("layers", |bytes| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        make(&root, &String::from_utf8_lossy(bytes));
        let disk: VmFile = root.join("0/7/disk.0").to_str().unwrap().parse().unwrap();
        let layers = match Layers::read(&disk, &Kept::Beside) {
            Ok(layers) => layers,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        let count = layers.all().count();
        assert!(layers.get(layers.active()).is_some());
        for (number, layer) in layers.all() {
            match &layer.base {
                Base::Nothing => {}
                Base::Layer(below) => assert!(layers.get(*below).is_some() && count > 1),
                Base::File { name, .. } => {
                    let real = fs::canonicalize(plain(&name.parse().unwrap())).unwrap();
                    assert!(real.starts_with(root.join("1")), "{number} stands on {name}");
                }
            }
            let file = layers.open(number).unwrap();
            assert!(file.metadata().unwrap().is_file());
            // Down to the last one, and no further.
            let (mut at, mut depth) = (number, 0);
            while let Some(Base::Layer(below)) = layers.get(at).map(|layer| &layer.base) {
                (at, depth) = (*below, depth + 1);
                assert!(depth < count);
            }
        }
        let chain = layers.describe();
        let told = serde_json::to_string(&chain).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&told).unwrap(), chain);
        for (id, place) in layers.moved() {
            assert_eq!(layers.of_snapshot(id), Some(place).filter(|place| layers.get(*place).is_some()));
        }
    });
}
