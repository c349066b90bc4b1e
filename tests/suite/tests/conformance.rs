//! Every recorded transfer script of `qcow2` and `shared`, run for real by the transfer manager's process: what lies in the
//! datastores afterwards, line for line as the contract says (TM 2.1, *Exact result* and *Layouts*). What a script needs
//! to be there, the lines that oned sent before it have made. What is not built is in the list as a failure, so that it
//! can't begin to work unnoticed.
//!
//! The list is `conformance/trees.txt`: paths below `DATASTORE_LOCATION`, kinds, permissions, where links lead, and of
//! qcow2 files the size that a guest sees and the file below.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use causeway_testing::golden;

use causeway_suite::transfers::{Recorded, Stage, TM, recorded, tool};

/// A line of a script.
struct Line {
    verb: String,
    driver: String,
    words: Vec<String>,
}

impl Line {
    fn of(text: &str) -> Line {
        let mut words = text.split_whitespace().map(str::to_owned);
        let (verb, driver) = (words.next().unwrap(), words.next().unwrap());
        Line { verb, driver, words: words.collect() }
    }

    fn suffix(&self) -> &str {
        self.verb.find('.').map_or("", |dot| &self.verb[dot..])
    }

    fn is(&self, verb: &str) -> bool {
        self.verb.split('.').next() == Some(verb)
    }

    /// The number of the disk that it is about, and its place.
    fn disk(&self) -> Option<(u32, &str)> {
        let word = self.words.iter().find(|word| word.contains("/disk."))?;
        Some((word.rsplit_once("/disk.")?.1.parse().ok()?, word))
    }
}

/// What the contract calls the disks of the recordings: images of `shared` are plain bytes, those of `qcow2` layers.
fn format(driver: &str) -> &'static str {
    if driver == "qcow2" { "qcow2" } else { "raw" }
}

/// Every image that a line names, where oned has it.
fn images(lines: &[Line]) -> BTreeSet<String> {
    let words = lines.iter().filter(|line| !line.is("CPDS")).flat_map(|line| &line.words);
    let paths =
        words.filter_map(|word| word.split_once(":/").map_or(word.strip_prefix('/'), |(_, path)| Some(path)));
    paths.filter_map(|path| path.strip_prefix("var/lib/one/datastores/1/")).map(str::to_owned).collect()
}

/// The lines that oned has sent before: they make the disks that these are about.
fn before(lines: &[Line], default: &str, vm: u32) -> Vec<String> {
    let mut made = BTreeSet::new();
    let mut script = Vec::new();
    for line in lines {
        let Some((number, place)) = line.disk() else { continue };
        let gives = ["CLONE", "LN", "MKIMAGE", "MKSWAP"].iter().any(|verb| line.is(verb));
        if !made.insert(number) || gives {
            continue;
        }
        let (driver, dot) = (&line.driver, line.suffix());
        let dot = if line.is("DELETE") || line.is("RESIZE") { "" } else { dot };
        let image = |name: &str| format!("vm:/var/lib/one/datastores/1/{name}");
        script.push(
            match line.words.iter().find_map(|word| word.strip_prefix("/var/lib/one/datastores/1/")) {
                Some(name) if line.is("MVDS") => format!("LN{dot} {driver} {} {place} {vm} 1", image(name)),
                _ => format!("CLONE{dot} {driver} {} {place} {vm} 1", image(default)),
            },
        );
        let snapshots = match line.verb.split('.').next().unwrap() {
            "SNAP_DELETE" | "SNAP_CREATE" | "SNAP_REVERT" => 2,
            _ => 0,
        };
        script.extend((0..snapshots).map(|id| format!("SNAP_CREATE{dot} {driver} {place} {id} {vm} 1")));
    }
    script
}

/// What oned says of the VM: its disks as the scripts' lines tell them.
fn tell(stage: &Stage, lines: &[Line], vm: u32) {
    let mut disks = BTreeMap::new();
    for line in lines {
        let Some((number, _)) = line.disk() else { continue };
        let source = line.words.iter().find_map(|word| {
            word.contains("datastores/1/")
                .then(|| word.split_once(':').map_or(word.as_str(), |(_, path)| path))
        });
        let persistent = line.is("LN") || line.is("MVDS");
        let entry = disks.entry(number).or_insert((line.driver.clone(), None, false));
        entry.1 = source.filter(|_| !line.is("CPDS")).map(str::to_owned).or(entry.1.take());
        entry.2 |= persistent;
    }
    let disks: String = disks
        .iter()
        .map(|(number, (driver, source, persistent))| {
            let image = source.as_deref().unwrap_or("/var/lib/one/datastores/1/default");
            let image = stage.front_end.localized(image);
            let clone = if *persistent { "NO" } else { "YES" };
            format!(
                "<DISK><DISK_ID>{number}</DISK_ID><TM_MAD>{driver}</TM_MAD><FORMAT>{}</FORMAT><CLONE>{clone}</CLONE>\
                 <SOURCE>{image}</SOURCE><SIZE>16</SIZE><ORIGINAL_SIZE>16</ORIGINAL_SIZE></DISK>",
                format(driver)
            )
        })
        .collect();
    let document = format!(
        "<VM><ID>{vm}</ID><STATE>8</STATE><LCM_STATE>0</LCM_STATE><TEMPLATE>{disks}</TEMPLATE><HISTORY_RECORDS>\
         <HISTORY><SEQ>0</SEQ><DS_ID>102</DS_ID></HISTORY></HISTORY_RECORDS></VM>"
    );
    stage.ear.tell("one.vm.info", vm, &document);
    for id in [1, 100, 101, 102, 103, 104, 111] {
        let datastore = format!("<DATASTORE><ID>{id}</ID><TEMPLATE/></DATASTORE>");
        stage.ear.tell("one.datastore.info", id, &datastore);
    }
}

/// Everything below the datastores but the marks that show that one is mounted.
fn tree(stage: &Stage) -> Vec<String> {
    let root = PathBuf::from(stage.datastores(""));
    let (mut lines, mut left) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with(".causeway") {
                continue;
            }
            let found = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            let text = if found.is_symlink() {
                format!("-> {}", stage.front_end.recorded_form(path.read_link().unwrap().to_str().unwrap()))
            } else if found.is_dir() {
                left.push(path);
                format!("{:o} directory", found.mode() & 0o7777)
            } else {
                format!("{:o} {}", found.mode() & 0o7777, file(stage, &path))
            };
            lines.push(format!("    {name}  {text}"));
        }
    }
    lines.sort();
    lines
}

fn file(stage: &Stage, path: &Path) -> String {
    let first = fs::read(path).unwrap();
    if !first.starts_with(b"QFI\xfb") {
        let kind = match first.get(4086..4096) {
            Some(b"SWAPSPACE2") => "swap",
            _ => "raw",
        };
        return format!("{kind}, {} bytes", first.len());
    }
    let info = tool("qemu-img", &["info", "-U", "-f", "qcow2", "--output=json", path.to_str().unwrap()]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let mut text = format!("qcow2, {} bytes", info.get("virtual-size").unwrap());
    let named = |key: &str| info.get(key).and_then(serde_json::Value::as_str);
    if let Some(backing) = named("backing-filename") {
        let backing = stage.front_end.recorded_form(backing);
        text += &format!(" upon {backing} ({})", named("backing-filename-format").unwrap_or("?"));
    }
    text
}

/// Runs one script where it can be run; what is there afterwards.
fn run(script: &Recorded) -> Vec<String> {
    let stage = Stage::new();
    let remotes = stage.front_end.var().join("remotes/tm");
    for driver in ["qcow2", "shared"] {
        let _ = fs::remove_dir_all(remotes.join(driver));
        fs::create_dir_all(remotes.join(driver)).unwrap();
    }
    for id in [1, 100, 102, 104, 111] {
        fs::create_dir_all(stage.datastores(&id.to_string())).unwrap();
    }
    let lines: Vec<Line> = script.lines.iter().map(|line| Line::of(line)).collect();
    for name in images(&lines).iter().map(String::as_str).chain(["default"]) {
        stage.image(name, format(&lines.first().unwrap().driver));
    }
    let images = |stage: &Stage| {
        let read = |entry: fs::DirEntry| {
            entry.path().is_file().then(|| (entry.path(), fs::read(entry.path()).unwrap()))
        };
        let all = fs::read_dir(stage.datastores("1")).unwrap();
        all.filter_map(|entry| read(entry.unwrap())).collect::<BTreeMap<_, _>>()
    };
    let originals = images(&stage);
    tell(&stage, &lines, script.vm);
    let mut oned = stage.driver(TM);
    let mut said = Vec::new();
    for (kind, lines) in [("before", before(&lines, "default", script.vm)), ("line", script.lines.clone())] {
        // Line by line: the first one that is not built must not hide the others.
        for line in lines {
            let (status, reason) =
                stage.transfer(&mut oned, script.vm, &(stage.front_end.localized(&line) + "\n"));
            let reason = stage.front_end.recorded_form(&reason);
            said.push(format!("  {kind} {}", line.trim_end()));
            if status != "SUCCESS" {
                said.push(format!("    {status}: {reason}"));
            }
        }
    }
    said.extend(tree(&stage));
    let now = images(&stage);
    assert!(
        originals.iter().all(|(path, bytes)| now.get(path) == Some(bytes)),
        "{}: an image was changed",
        script.name
    );
    oned.is_square().unwrap();
    oned.finalize().unwrap();
    said
}

fn told(scripts: &[Recorded]) -> String {
    let mut text = String::new();
    for script in scripts {
        text += &format!("{} {}\n", script.name, script.path);
        text.extend(run(script).into_iter().map(|line| line + "\n"));
    }
    text
}

#[test]
fn every_recorded_script_leaves_what_the_contract_says() {
    // Volumes need a cluster, and other drivers are other people's. What was told to fail when it was recorded does not.
    let ours = |line: &String| ["qcow2", "shared"].contains(&Line::of(line).driver.as_str());
    let mut scripts = recorded();
    scripts.iter_mut().for_each(|script| script.lines.retain(ours));
    scripts.retain(|script| !script.lines.is_empty());
    assert!(scripts.len() > 30, "{}", scripts.len());
    // Most of a script is waiting for processes.
    let shares: Vec<String> = std::thread::scope(|scope| {
        let share = scripts.len().div_ceil(4);
        let running: Vec<_> = scripts.chunks(share).map(|share| scope.spawn(move || told(share))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let text = shares.concat();
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/trees.txt"), &text);
}
