//! `mv.ssh` of a VM's directory through the real processes and a real sshd: from host to host, from and to the
//! front-end, cut off in the middle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway_suite::programs::program;
use causeway_suite::transfers::{Stage, TM, ok, put};

/// The hosts with a state of their own each, as if they were several machines, and our settings.
fn apart(stage: &Stage) {
    let root = stage.front_end.root();
    let (state, settings) = (root.join("state"), stage.front_end.etc().join("causeway.toml"));
    for name in ["causeway-host", "causeway-disks"] {
        let text = format!(
            "#!/bin/sh\nset -e\nat=$(echo \"$SSH_CONNECTION\" | cut -d' ' -f3)\n\
             CAUSEWAY_STATE={}-$at CAUSEWAY_SETTINGS={} exec {} \"$@\"\n",
            state.display(),
            settings.display(),
            program(name).unwrap().display()
        );
        put(&root.join("libexec").join(name), &text);
    }
    put(
        &stage.front_end.var().join("remotes/tm/qcow2/mv.ssh"),
        &format!(
            "#!/bin/sh\nexec {} slot tm/qcow2/mv.ssh \"$@\"\n",
            program("causeway-tm").unwrap().display()
        ),
    );
    fs::create_dir_all(stage.datastores("101")).unwrap();
}

fn furnish(stage: &Stage, mebibytes: u32) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = PathBuf::from(stage.datastores("100/7"));
    fs::create_dir_all(dir.join("disk.0.snap")).unwrap();
    let disk = File::create(dir.join("disk.0.snap/0")).unwrap();
    let noise: Vec<u8> =
        (0..1 << 20_u32).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 15).to_le_bytes()[0]).collect();
    for at in 0..u64::from(mebibytes) {
        let mut piece = noise.clone();
        piece.splice(..8, at.to_be_bytes());
        disk.write_all_at(&piece, at << 20).unwrap();
    }
    disk.set_len(1 << 30).unwrap();
    symlink("disk.0.snap/0", dir.join("disk.0")).unwrap();
    fs::write(dir.join("vm.xml"), "<VM/>").unwrap();
    content(&dir)
}

/// Files with what they begin with, links with where they lead.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        let kind = path.symlink_metadata().unwrap();
        if kind.is_symlink() {
            found.insert(name, path.read_link().unwrap().into_os_string().into_encoded_bytes());
        } else if kind.is_dir() {
            found.extend(content(&path).into_iter().map(|(inner, bytes)| (name.join(inner), bytes)));
        } else {
            let mut bytes = vec![0; usize::try_from(kind.len().min(96 << 20)).unwrap()];
            File::open(&path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
            bytes.extend(kind.len().to_be_bytes());
            found.insert(name, bytes);
        }
    }
    found
}

/// Bytes of the disk that are at the destination, not in their place yet.
fn arrived(stage: &Stage) -> u64 {
    let entries = fs::read_dir(stage.datastores("101")).unwrap().map(|entry| entry.unwrap().path());
    let half = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(".carry-"));
    half.map(|dir| dir.join("disk.0.snap/0").metadata().map_or(0, |found| found.len())).max().unwrap_or(0)
}

fn line(stage: &Stage, from: (&str, &str), to: (&str, &str)) -> String {
    let place = |(host, dir): (&str, &str)| format!("{host}:{}", stage.datastores(dir));
    format!("MV.ssh qcow2 {} {} 7 {}\n", place(from), place(to), to.1.split('/').next().unwrap())
}

#[test]
fn a_directory_goes_to_another_host_over_a_session_of_its_own() {
    // Host to host, stopped to the front-end, resumed from it.
    for (from, to) in [("node1", "node2"), ("node1", "localhost"), ("localhost", "node2")] {
        let stage = Stage::new();
        apart(&stage);
        stage.vm7("qcow2", 9);
        let before = furnish(&stage, 3);
        let mut oned = stage.driver(TM);
        let script = line(&stage, (from, "100/7"), (to, "101/7"));
        assert_eq!(stage.transfer(&mut oned, 7, &script), ok(), "{from} {to}");
        let there = PathBuf::from(stage.datastores("101/7"));
        assert_eq!(content(&there), before);
        assert!(there.join("disk.0").metadata().unwrap().blocks() * 512 < 5 << 20);
        assert!(!Path::new(&stage.datastores("100/7")).exists());
        let told = oned.log().iter().find(|line| line.text.contains("of data moved in"));
        assert_eq!(told.unwrap().vm, 7, "{:?}", oned.log());
        // A retry of oned's admin finds it done.
        assert_eq!(stage.transfer(&mut oned, 7, &script), ok());
        // Both hosts are one machine here: this is one directory.
        let same = line(&stage, (from, "101/7"), (to, "101/7"));
        assert_eq!(stage.transfer(&mut oned, 7, &same), ok());
        assert_eq!(content(&there), before);
        assert!(oned.log().iter().any(|line| line.text.contains("one directory")), "{:?}", oned.log());
        // A disk by itself is moved by nobody, and nothing moves while the source can't be asked.
        let (old, new) = (stage.datastores("101/7/disk.0"), stage.datastores("100/7/disk.0"));
        let disk = format!("MV.ssh qcow2 {from}:{old} {to}:{new} 7 1\n");
        assert_eq!(stage.transfer(&mut oned, 7, &disk), ok());
        stage.vm7("qcow2", 60);
        let unknown = line(&stage, (from, "101/7"), (to, "100/7"));
        assert_eq!(stage.transfer(&mut oned, 7, &unknown), ok());
        assert_eq!(content(&there), before);
        assert_eq!(stage.slots(), [""; 0], "a stand-in was called");
        oned.is_square().unwrap();
        oned.finalize().unwrap();
    }
}

/// The link is cut in the middle: oned is told, the VM's bytes are where they were, and the retry goes on from there.
#[test]
fn a_cut_link_costs_no_byte_and_little_time() {
    let mut stage = Stage::new();
    apart(&stage);
    // Slow, so that there is a middle.
    stage.front_end.configure("[carry]\nbandwidth = 16\npacked = false\n[deadlines]\nconnect = 2").unwrap();
    stage.vm7("qcow2", 9);
    let before = furnish(&stage, 64);
    let mut oned = stage.driver(TM);
    let script = line(&stage, ("localhost", "100/7"), ("node2", "101/7"));
    stage.send(&mut oned, 7, &script);
    let limit = Instant::now() + Duration::from_secs(60);
    while arrived(&stage) < 34 << 20 {
        assert!(Instant::now() < limit, "it does not come to its middle");
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.front_end.cut_ssh();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(content(Path::new(&stage.datastores("100/7"))), before);
    stage.front_end.mend_ssh().unwrap();
    let reply = oned.reply("TRANSFER", 7).unwrap();
    assert_eq!((reply.status.as_str(), reply.payload.as_str()), ("SUCCESS", "-"));
    assert_eq!(content(Path::new(&stage.datastores("101/7"))), before);
    assert!(!Path::new(&stage.datastores("100/7")).exists());
    let said = |text: &str| oned.log().iter().any(|line| line.text.contains(text));
    assert!(said("trying again") && said("has some of it"), "{:?}", oned.log());
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

/// A cancel ends all of it, on both hosts, and the next try of that VM finds nobody at work.
#[test]
fn a_cancel_ends_both_ends() {
    let stage = Stage::new();
    apart(&stage);
    stage.front_end.configure("[carry]\nbandwidth = 4\npacked = false").unwrap();
    stage.vm7("qcow2", 9);
    let before = furnish(&stage, 64);
    let mut oned = stage.driver(TM);
    let script = line(&stage, ("node1", "100/7"), ("node2", "101/7"));
    stage.send(&mut oned, 7, &script);
    // Programs of this test that move a directory: the word is theirs, the state is below this test's root.
    let root = stage.front_end.root().display().to_string();
    let movers = || {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let of = |path: &PathBuf, file: &str| fs::read(path.join(file)).unwrap_or_default();
        let has = |bytes: &[u8], text: &str| String::from_utf8_lossy(bytes).contains(text);
        processes
            .filter(|path| has(&of(path, "cmdline"), "carry\0receive") && has(&of(path, "environ"), &root))
            .count()
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let limit = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < limit, "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // Before that a file of the sender's may lie in the source, by which it is told whether both ends see one directory.
    wait("nothing arrives", &|| arrived(&stage) > 0);
    assert!(movers() > 0);
    oned.cancel(7).unwrap();
    wait("the receiver lives on", &|| movers() == 0);
    assert_eq!(content(Path::new(&stage.datastores("100/7"))), before);
    assert!(!Path::new(&stage.datastores("101/7")).exists());
    oned.finalize().unwrap();
}
