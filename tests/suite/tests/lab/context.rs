//! A guest that mounts its context image and tells what is in it (`tests/lab/guest-init.sh`), against what it was given.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use causeway_suite::lab::{Lab, guest};
use causeway_suite::request::Guest;

/// What the guest says, on the hosts, outside of the VM's directory.
const CONSOLE: &str = "/var/lib/one/datastores/console";
/// The datastore of files, on the front-end.
const FILES: &str = "/var/lib/one/datastores/2";
/// Longest wait for a guest that is up already.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest name that Joliet has, in characters.
const JOLIET: usize = 64;

/// Names in the image, and bytes: several extents' worth, none, what fills a sector, and a name that Joliet must cut.
const GIVEN: [(&str, u32); 5] = [
    ("Start Script - Gr\u{f6}\u{df}er als 8.3.Sh", 300_001),
    ("empty", 0),
    ("one.sector", 2048),
    ("UPPER-and-lower.Tar.gz", 2049),
    ("A-Name-that-is-a-good-deal-longer-than-the-sixty-four-characters-of-Joliet.conf", 77),
];

/// Gives a VM that is to be deployed these files, and has its guest tell what it finds.
pub fn give(lab: &Lab, vm: &mut Guest) {
    vm.cmdline.push_str(" context=tell");
    vm.console = Some(CONSOLE.into());
    for (number, (name, bytes)) in GIVEN.into_iter().enumerate() {
        let path = format!("{FILES}/{number}");
        let make = "mkdir -p \"${1%/*}\" && head -c \"$2\" /dev/urandom >\"$1\"";
        lab.run(&["one", "fe", "sh", "-c", make, "sh", &path, &bytes.to_string()]).unwrap();
        vm.files.push((path.into(), name.to_owned()));
    }
}

/// The guest has found every file with the bytes that it has on the front-end, by its whole name of Rock Ridge and by that
/// of Joliet; each is there to be read and run.
pub fn was_read(lab: &Lab, vm: &Guest) {
    let script = format!("/var/lib/one/vms/{}/context.sh", vm.vm);
    let own = (script, "context.sh".to_owned());
    let files = vm.files.iter().map(|(path, name)| (path.display().to_string(), name.clone()));
    let files: Vec<(String, String)> = files.chain([own]).collect();
    let mut expected = BTreeSet::new();
    for (view, longest) in [("ro", usize::MAX), ("ro,norock", JOLIET)] {
        expected.insert(format!("CONTEXT {view} variable {}", guest::ADDRESS));
        for (path, name) in &files {
            let name: String = name.chars().take(longest).collect();
            let facts = lab.script("fe", "stat -c %s \"$1\"; sha256sum <\"$1\"", &[path]).unwrap();
            let mut facts = facts.split_whitespace();
            let (size, sum) = (facts.next().unwrap(), facts.next().unwrap());
            expected.insert(format!("CONTEXT {view} file 555 {size} {sum} {name}"));
        }
    }
    assert_eq!(told(lab), expected);
}

fn told(lab: &Lab) -> BTreeSet<String> {
    let console = lab.directory().join("datastores/console");
    let start = Instant::now();
    loop {
        let said = fs::read(&console).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("CONTEXT ")).collect();
        if let [lines @ .., "CONTEXT end"] = lines.as_slice() {
            return lines.iter().map(|line| (*line).to_owned()).collect();
        }
        assert!(start.elapsed() < PATIENCE, "the guest says nothing of its context: {said}");
        sleep(Duration::from_millis(100));
    }
}
