//! What libvirt says under attack: within bounds it is refused or understood, and an edit changes what it is to change and
//! no other byte.

use causeway_domain::disk::{Names, Spelling};
use causeway_domain::domain_xml::{
    SIZE_LIMIT, Source, backup_files, bandwidths, chains, escaped, facts, is_disk_link, metadata,
    rewrite_sources, snapshot_name, snapshot_of,
};
use uuid::Uuid;

#[path = "../../../tests/fuzz/seeded.rs"]
mod seeded;

#[test]
fn fuzz_domains() {
    seeded::fuzz("libvirt", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        assert!(text.len() <= SIZE_LIMIT);
        let _ = metadata(&text);
        for interface in bandwidths(&text).unwrap_or_default() {
            assert_eq!(interface.limits.in_force().in_force(), interface.limits.in_force());
        }
        let known = facts(&text);
        // What nothing is to be replaced of stays as it is.
        if let Ok(same) = rewrite_sources(&text, |_| None) {
            assert_eq!(same, text);
        }
        let mut paths = Vec::new();
        let rewritten = rewrite_sources(&text, |path| {
            paths.push(path.to_owned());
            is_disk_link(path).then(|| "/x & 'y'".to_owned())
        });
        if let (Ok(before), Ok(rewritten)) = (known, rewritten) {
            let after = facts(&rewritten).unwrap_or_else(|error| panic!("{error} in {rewritten}"));
            assert_eq!(after.disks.len(), before.disks.len());
            for (old, new) in before.disks.iter().zip(&after.disks) {
                match &old.source {
                    Source::File(path) if paths.contains(path) && is_disk_link(path) => {
                        assert_eq!(new.source, Source::File("/x & 'y'".to_owned()));
                    }
                    other => assert_eq!(new.source, *other),
                }
            }
        }
    });
}

#[test]
fn fuzz_chains_and_backups() {
    seeded::fuzz("libvirt", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        for chain in chains(&text).unwrap_or_default() {
            assert!(!chain.target.is_empty());
            let files = chain.files(&Spelling);
            assert_eq!(files.len(), chain.layers.len());
            for (at, layer) in chain.layers.iter().enumerate() {
                let Some(path) = layer.path() else { continue };
                // A name is its own, and finds a layer that has it, this one or an earlier.
                let name = Spelling.name(path);
                assert_eq!(Spelling.name(&name), name);
                assert!(chain.position(path, &Spelling).is_some_and(|found| found <= at));
            }
        }
        let _ = backup_files(&text);
        let uuid = Uuid::from_u128(7);
        if let Ok(name) = snapshot_name(&text) {
            let moved = snapshot_of(&text, uuid).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(snapshot_name(&moved).as_ref(), Ok(&name));
            assert_eq!(snapshot_of(&moved, uuid), Ok(moved));
            if let Ok(escaped) = escaped(&name) {
                assert!(!escaped.contains(['<', '>', '"', '\'']));
            }
        }
    });
}
