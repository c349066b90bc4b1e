//! Words of a template or an attacker in every place of every slot that is built: each is refused before anything is done, or
//! stays one word that leads nowhere else. The slots and their arguments come from the golden plans: a new one is covered
//! with its first plan.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::{Component, Path};

use causeway_core::names::VmId;
use causeway_core::plan::{Arg, Slot, Work};
use causeway_tm::facts::{DatastoreFacts, DiskFacts, Facts, Format, VmFacts};
use causeway_tm::{TmSettings, built, needs, steps};
use serde_json::Value;

/// What is put into a word, or in its place.
const HOSTILE: [&str; 22] = [
    "",
    " ",
    "a b",
    "a\tb",
    "a\nb",
    "\n",
    "'",
    "\"",
    "`id`",
    "$(id)",
    "; id;",
    "&& id",
    "| id",
    "> /tmp/x",
    "\\",
    "*",
    "-rf",
    "--help",
    "..",
    "../../../../etc/passwd",
    "/etc/passwd",
    "\u{7f}\u{0}",
];

/// The calls of the golden plans: a slot and an argument vector that it takes.
fn calls() -> Vec<(Slot, Vec<String>)> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut calls = Vec::new();
    for entry in std::fs::read_dir(golden).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines().filter(|line| line.starts_with("tm/")) {
            let mut words = line.split(' ').map(str::to_owned);
            let Ok(slot) = words.next().unwrap().parse::<Slot>() else { continue };
            let argv: Vec<String> = words.collect();
            if built(&slot) && needs(&slot, &argv).is_ok() {
                calls.push((slot, argv));
            }
        }
    }
    calls
}

/// What oned would say of any VM: three disks.
fn facts(vm: u32, format: &Format) -> Facts {
    let disk = |id| DiskFacts {
        tm_mad: Some("qcow2".to_owned()),
        source: Some("/var/lib/one//datastores/1/abc".to_owned()),
        clone: true,
        format: Some(format.clone()),
        size_mb: Some(1024),
        original_size_mb: Some(1024),
        ..DiskFacts::new(id)
    };
    let vm = VmFacts { lcm_state: Some(3), disks: (0..3).map(disk).collect(), ..VmFacts::new(VmId(vm)) };
    Facts {
        vm: Some(vm),
        datastores: (0..200).map(|id| (id, DatastoreFacts::default())).collect(),
        ..Facts::default()
    }
}

fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(all) => all.iter().for_each(|value| texts(value, found)),
        Value::Object(all) => all.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// Nothing in what a host is to do leads up, and no path is below another root than those that the good call had.
fn harmless(slot: &Slot, argv: &[String], roots: &BTreeSet<String>, facts: &Facts) -> Result<bool, String> {
    let Ok(transfer) = steps(slot, argv, b"", facts, &TmSettings::default()) else { return Ok(false) };
    for step in &transfer.steps {
        let mut found = Vec::new();
        match &step.work {
            Work::Transfer { call, .. } => texts(call, &mut found),
            Work::GuestDisk { order, .. } => texts(&serde_json::to_value(order).unwrap(), &mut found),
            // Handed on word by word, as it came.
            Work::Slot { argv: words, .. } => {
                let known: Vec<Arg> =
                    argv.iter().map(String::as_str).chain([slot.driver()]).map(Arg::from).collect();
                if let Some(word) = words.iter().find(|word| !known.contains(word)) {
                    return Err(format!("{word:?} was made of {argv:?}"));
                }
            }
            other => return Err(format!("{other:?}")),
        }
        for text in found {
            let path = Path::new(&text);
            let up = path.components().any(|part| part == Component::ParentDir);
            // The caller says where the datastores are; a datastore and what is in it are two components more.
            let told =
                |above: &Path| argv.iter().any(|word| plain(word).contains(above.to_str().unwrap_or("?")));
            let root = path.ancestors().nth(2).is_some_and(|above| above != Path::new("/") && told(above));
            let known = root || roots.iter().any(|root| text.starts_with(root.as_str()));
            let strange = path.is_absolute() && !known;
            if up || strange {
                return Err(format!("{text:?} in {}", step.name));
            }
        }
    }
    Ok(true)
}

/// With single slashes.
fn plain(word: &str) -> String {
    let parts: Vec<&str> = word.split('/').collect();
    let last = parts.len() - 1;
    let kept =
        |(at, part): (usize, &&str)| (at == 0 || at == last || !part.is_empty()).then(|| part.to_string());
    parts.iter().enumerate().filter_map(kept).collect::<Vec<_>>().join("/")
}

/// Where the good call's paths lie: below the datastores, and what settings name.
fn roots(slot: &Slot, argv: &[String], facts: &Facts) -> BTreeSet<String> {
    let mut found = Vec::new();
    let transfer = steps(slot, argv, b"", facts, &TmSettings::default());
    for step in transfer.iter().flat_map(|transfer| &transfer.steps) {
        match &step.work {
            Work::Transfer { call, .. } => texts(call, &mut found),
            Work::GuestDisk { order, .. } => texts(&serde_json::to_value(order).unwrap(), &mut found),
            _ => {}
        }
    }
    let root = |text: String| {
        let end = text.match_indices('/').nth(2).map_or(text.len(), |(at, _)| at);
        text.starts_with('/').then(|| text[..end].to_owned())
    };
    found.into_iter().filter_map(root).collect()
}

/// W47, W46.
#[test]
fn no_word_of_any_slot_is_more_than_a_word() {
    let (mut verbs, mut tried, mut planned) = (BTreeSet::new(), 0, 0);
    for (slot, argv) in calls() {
        verbs.insert(slot.to_string());
        for format in [Format::Raw, Format::Qcow2] {
            let vm = argv.iter().rev().find_map(|word| word.parse().ok()).unwrap_or(7);
            let vm = argv.get(argv.len().saturating_sub(2)).and_then(|word| word.parse().ok()).unwrap_or(vm);
            let facts = facts(vm, &format);
            let roots = roots(&slot, &argv, &facts);
            for position in 0..argv.len() {
                let word = &argv[position];
                for hostile in HOSTILE {
                    // Instead of a word, at either end, after the host's name, as a component of a path, as the last one.
                    let inside = word.replacen(":/", &format!(":{hostile}/"), 1);
                    let component = word.replace("//", &format!("/{hostile}/"));
                    let last =
                        word.rsplit_once('/').map_or(hostile.to_owned(), |(up, _)| format!("{up}/{hostile}"));
                    let forms = [hostile.to_owned(), format!("{word}{hostile}"), format!("{hostile}{word}")];
                    for form in forms.into_iter().chain([inside, component, last]) {
                        let mut argv = argv.clone();
                        argv[position] = form;
                        match harmless(&slot, &argv, &roots, &facts) {
                            Ok(accepted) => planned += usize::from(accepted),
                            Err(why) => panic!("{slot} {argv:?}: {why}"),
                        }
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(verbs.len() > 30 && tried > 10_000 && planned > 0, "{verbs:?}, {tried}, {planned}");
}
