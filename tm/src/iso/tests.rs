//! The image against programs that read such images, and against one that `genisoimage` makes of the same files.

use super::*;
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;

fn image(files: &[(&str, &[u8])], seconds: u64) -> Vec<u8> {
    let names: Vec<FileName> = files.iter().map(|(name, _)| name.parse().unwrap()).collect();
    let files = names.iter().zip(files).map(|(name, (_, content))| ContextFile { name, content }).collect();
    ContextImage { volume: "CONTEXT", files, seconds }.build().unwrap()
}

fn output(program: &str, args: &[&str], file: &Path) -> String {
    let run = Command::new(program).args(args).arg(file).env("TZ", "UTC").output().unwrap();
    assert!(run.status.success(), "{program}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// Names that a guest is given: plain, with blanks, beyond ASCII, longer than Joliet allows, and empty files.
fn odd_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("context.sh", b"ETH0_IP='10.0.0.1'\n".repeat(100)),
        ("init.sh", b"#!/bin/sh\n".to_vec()),
        ("File With Space.txt", b"hi".to_vec()),
        ("empty", Vec::new()),
        ("exactly-one-sector", vec![7; SECTOR]),
        ("\u{fc}n\u{ef}code", b"u".to_vec()),
        ("a-name-that-is-a-good-deal-longer-than-the-sixty-four-characters-of-joliet.conf", b"l".to_vec()),
    ]
}

#[test]
fn file_and_blkid_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.1");
    std::fs::write(&path, image(&[("context.sh", b"X='1'\n")], 1_700_000_000)).unwrap();
    assert!(output("file", &["-b"], &path).starts_with("ISO 9660 CD-ROM filesystem data 'CONTEXT'"));
    let id = output("blkid", &["-p", "-o", "export"], &path);
    for line in ["LABEL=CONTEXT", "TYPE=iso9660", "UUID=2023-11-14-22-13-20-00"] {
        assert!(id.lines().any(|have| have == line), "{line} in {id}");
    }
    let volume = output("isoinfo", &["-d", "-i"], &path);
    assert!(volume.contains("Joliet with UCS level 3 found"), "{volume}");
    assert!(volume.contains("Rock Ridge signatures version 1 found"), "{volume}");
}

/// Size and name of every file, as `isoinfo` lists them.
fn listing(view: &[&str], path: &Path) -> Vec<(String, String)> {
    let text = output("isoinfo", &[view, &["-l", "-i"]].concat(), path);
    let line = |line: &str| {
        let (before, name) = line.split_once("] ")?;
        let size = before.split_whitespace().nth(4)?;
        let name = name.trim();
        // The two ways to the root itself are named differently, or not at all, by different writers.
        (!before.starts_with('d')).then(|| (size.to_owned(), name.to_owned()))
    };
    let mut files: Vec<(String, String)> = text.lines().filter_map(line).collect();
    files.sort();
    files
}

#[test]
fn both_listings_are_those_of_genisoimage() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs, files) =
        (dir.path().join("ours"), dir.path().join("theirs"), dir.path().join("files"));
    std::fs::create_dir(&files).unwrap();
    let odd = odd_files();
    for (name, content) in &odd {
        std::fs::write(files.join(name), content).unwrap();
    }
    let named: Vec<(&str, &[u8])> = odd.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    std::fs::write(&ours, image(&named, 0)).unwrap();
    let made = Command::new("genisoimage")
        .args(["-quiet", "-input-charset", "utf-8", "-V", "CONTEXT", "-J", "-R", "-o"])
        .args([&theirs, &files])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(listing(&["-R"], &ours), listing(&["-R"], &theirs));
    assert_eq!(listing(&["-J"], &ours), listing(&["-J"], &theirs));
    for (name, content) in &odd {
        let read = Command::new("isoinfo").args(["-R", "-x", &format!("/{name}"), "-i"]).arg(&ours).output();
        assert!(read.unwrap().stdout == *content, "{name}");
    }
    // Long file names are cut, not lost.
    assert_eq!(listing(&["-J"], &ours).len(), odd.len());
}

#[test]
fn equal_contents_are_equal_images() {
    let odd = odd_files();
    let files: Vec<(&str, &[u8])> = odd.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    let first = image(&files, 1_700_000_000);
    // The writer's own clock goes on.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(first == image(&files, 1_700_000_000));
    assert!(first != image(&files, 1_700_000_001));
}

#[test]
fn it_is_no_larger_than_it_need_be() {
    let image = image(&[("context.sh", &[b'x'; 2000])], 0);
    assert!(image.len() <= 28 * SECTOR, "{} bytes", image.len());
    assert_eq!(image.len() % SECTOR, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any names and contents come back through the Rock Ridge names, by a reader that is not the writer.
    #[test]
    fn what_goes_in_comes_out(
        files in proptest::collection::btree_map("[ -.0-~\u{e9}\u{4e2d}]{1,40}", proptest::collection::vec(any::<u8>(), 0..5000), 0..60)
    ) {
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .filter(|(name, _)| name.parse::<FileName>().is_ok())
            .map(|(name, content)| (name.as_str(), content.as_slice()))
            .collect();
        let bytes = image(&files, 1_700_000_000);
        let read = rock_ridge(&bytes).unwrap();
        let mut wanted: Vec<(String, Vec<u8>)> =
            files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        wanted.sort();
        prop_assert_eq!(read, wanted);
    }
}

/// Names and contents of the root directory, read by the description of the format (ECMA-119, RRIP) alone.
fn rock_ridge(image: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let root = &image[16 * SECTOR + 156..];
    let extent = &image[number(root, 2) * SECTOR..][..number(root, 10)];
    let mut files = Vec::new();
    for sector in extent.chunks(SECTOR) {
        let mut rest = sector;
        while rest.first().is_some_and(|&length| length > 0) {
            let (record, after) = rest.split_at(usize::from(rest[0]));
            rest = after;
            if record[25] & 2 != 0 {
                continue;
            }
            let content = &image[number(record, 2) * SECTOR..][..number(record, 10)];
            let mut entries = record[(33 + usize::from(record[32])).next_multiple_of(2)..].to_vec();
            let mut name = String::new();
            while entries.len() >= 4 {
                let entry: Vec<u8> =
                    entries.drain(..usize::from(entries[2]).clamp(4, entries.len())).collect();
                match &entry[..2] {
                    b"NM" => name.push_str(std::str::from_utf8(&entry[5..]).ok()?),
                    b"CE" => {
                        let area = &image[number(&entry, 4) * SECTOR + number(&entry, 12)..];
                        entries.extend_from_slice(&area[..number(&entry, 20)]);
                    }
                    _ => {}
                }
            }
            files.push((name, content.to_vec()));
        }
    }
    files.sort();
    Some(files)
}
