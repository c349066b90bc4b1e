//! Who may know whom, and the few rules of shape that no compiler checks.
//!
//! A new crate fails these tests until it has a line in [`ROOMS`]: that line is the decision where it stands.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_suite::programs::program;
use serde_json::Value;

/// Who plans and does things of one kind. Families never use each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Spoken by everyone, knows nobody.
    Core,
    /// libvirt, and nobody else's business.
    Libvirt,
    Vmm,
    Tm,
    Vnm,
    Hooks,
    /// The programs: where families meet.
    Programs,
    /// What only tests use.
    Tests,
}

use Family::{Core, Hooks, Libvirt, Programs, Tests, Tm, Vmm, Vnm};

/// One crate: its family, and which of our crates it may use.
type Room = (&'static str, Family, &'static [&'static str]);

#[rustfmt::skip]
const ROOMS: &[Room] = &[
    ("causeway-core",     Core,     &[]),
    ("causeway-domain",   Libvirt,  &["causeway-core"]),
    ("causeway-vmm",      Vmm,      &["causeway-core", "causeway-domain"]),
    ("causeway-tm",       Tm,       &["causeway-core"]),
    ("causeway-vnm",      Vnm,      &["causeway-core"]),
    // The hooks are one family in several crates: within it, facts are gathered in the model's own terms.
    ("causeway-predict",  Hooks,    &[]),
    ("causeway-survey",   Hooks,    &["causeway-core", "causeway-domain", "causeway-predict"]),
    ("causeway-observe",  Hooks,    &["causeway-core"]),
    ("causeway-programs", Programs, EVERYTHING),
    ("causeway-testing",  Tests,    &["causeway-core"]),
    ("causeway-suite",    Tests,    EVERYTHING),
    ("causeway-bench",    Tests,    EVERYTHING),
    ("causeway-demo",     Tests,    EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "causeway-core",
    "causeway-domain",
    "causeway-vmm",
    "causeway-tm",
    "causeway-vnm",
    "causeway-predict",
    "causeway-survey",
    "causeway-observe",
    "causeway-programs",
    "causeway-suite",
];

/// What only tests may use, whoever's they are.
const FOR_TESTS: &str = "causeway-testing";

/// Other people's crates that only some of ours may use, and why.
#[rustfmt::skip]
const GUARDED: &[(&str, &[&str])] = &[
    // Everybody else asks libvirt through the trait, so that a fake can stand in.
    ("virt",      &["causeway-domain"]),
    ("virt-sys",  &["causeway-domain"]),
    // oned's documents are read in one place, with one set of limits.
    ("quick-xml", &["causeway-core", "causeway-domain"]),
];

/// All that the model is made of: it must give the same answer in every program and on every machine.
const ARITHMETIC: &[&str] = &["serde", "serde_json", "thiserror"];

/// Where `unsafe` may be written: the calls of libvirt that its binding lacks.
const FFI: &str = "drivers/domain/src/ffi.rs";

/// The longest source file, in lines.
const LONGEST: usize = 500;

struct Crate {
    name: String,
    manifest: PathBuf,
    /// Names of what it depends on, and whether only its tests do.
    uses: Vec<(String, bool)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn crates() -> Vec<Crate> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let told = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    told["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| Crate {
            name: text(package, "name"),
            manifest: text(package, "manifest_path").into(),
            uses: package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .map(|dependency| (text(dependency, "name"), text(dependency, "kind") == "dev"))
                .collect(),
        })
        .collect()
}

fn is_ours(name: &str) -> bool {
    name.starts_with("causeway-")
}

/// The files that git knows and that are there, with one of those endings; paths from the root.
fn tracked(endings: &[&str]) -> BTreeMap<String, String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let wanted = names.split('\0').filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
    let files =
        wanted.filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)));
    files.collect()
}

/// Fails with everything that was found, not only with the first.
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "\n  {}\n", found.join("\n  "));
}

#[test]
fn every_crate_has_its_room() {
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|(name, ..)| *name).collect();
    let crates = crates();
    let standing: BTreeSet<&str> = crates.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(rooms, standing, "left: ROOMS, right: the workspace");
}

#[test]
fn nobody_knows_more_than_its_room_allows() {
    let mut found = Vec::new();
    for room in crates() {
        let Some((_, family, may_use)) = ROOMS.iter().find(|(name, ..)| *name == room.name) else { continue };
        for (used, by_tests) in room.uses.iter().filter(|(used, _)| is_ours(used)) {
            let allowed = if used == FOR_TESTS {
                *by_tests || *family == Tests
            } else {
                may_use.contains(&used.as_str())
            };
            if !allowed {
                found.push(format!("{} uses {used}", room.name));
            }
        }
    }
    none(found);
}

/// The table above is itself held to the rule: a family uses itself, libvirt's crate and the core.
#[test]
fn families_never_use_each_other() {
    let family = |wanted: &str| ROOMS.iter().find(|(name, ..)| *name == wanted).map(|(_, family, _)| *family);
    let mut found = Vec::new();
    for (name, of, may_use) in ROOMS {
        if matches!(of, Programs | Tests) {
            continue;
        }
        for used in *may_use {
            let used_family = family(used).unwrap();
            if used_family != *of && !matches!(used_family, Core | Libvirt) {
                found.push(format!("{name} ({of:?}) may use {used} ({used_family:?})"));
            }
        }
    }
    none(found);
}

#[test]
fn what_is_guarded_stays_in_its_room() {
    let mut found = Vec::new();
    for room in crates() {
        for (guarded, rooms) in GUARDED {
            let uses = room.uses.iter().any(|(used, _)| used == guarded);
            if uses && !rooms.contains(&room.name.as_str()) {
                found.push(format!("{} uses {guarded}", room.name));
            }
        }
        if room.name == "causeway-predict" {
            let more =
                room.uses.iter().filter(|(used, by_tests)| !by_tests && !ARITHMETIC.contains(&used.as_str()));
            found.extend(more.map(|(used, _)| format!("the model uses {used}")));
        }
    }
    none(found);
}

#[test]
fn every_crate_inherits_the_lints() {
    let inherits = |text: &str| {
        let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[lints]");
        lines.next().is_some() && lines.next() == Some("workspace = true")
    };
    let manifests = crates().into_iter().map(|c| c.manifest);
    none(
        manifests
            .filter(|path| !inherits(&fs::read_to_string(path).unwrap()))
            .map(|path| format!("{} has lints of its own", path.display()))
            .collect(),
    );
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let lints = [
        "warnings",
        "unsafe_code",
        "missing_docs",
        "unwrap_used",
        "expect_used",
        "indexing_slicing",
        "todo",
        "unimplemented",
        "dbg_macro",
        "await_holding_lock",
        "cast_possible_truncation",
        "cast_sign_loss",
    ];
    let allowed = |lint: &&&str| !workspace.contains(&format!("\n{lint} = \"deny\"\n"));
    none(lints.iter().filter(allowed).map(|lint| format!("{lint} is not denied")).collect());
}

#[test]
fn unsafe_is_written_in_one_file() {
    let mut found = Vec::new();
    for (path, text) in tracked(&[".rs"]) {
        let code = without_text(&text);
        for (number, line) in (1..).zip(code.lines()).filter(|_| path != FFI) {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            // The second word switches the lint off.
            if words.any(|word| word == "unsafe" || word == "unsafe_code") {
                found.push(format!("{path}:{number}"));
            }
        }
    }
    none(found);
}

/// A lint is switched off with a reason: in the attribute, behind it, or in a comment above it.
#[test]
fn every_exception_has_its_reason() {
    let mut found = Vec::new();
    for (path, text) in tracked(&[".rs"]) {
        let code = without_text(&text);
        let lines: Vec<(&str, &str)> = text.lines().zip(code.lines()).collect();
        let mut above = "";
        for (number, (line, code)) in lines.iter().enumerate() {
            let excepts =
                ["#[allow(", "#![allow(", "#[expect(", "#![expect("].iter().any(|word| code.contains(word));
            let end = lines[number..].iter().position(|(_, code)| code.contains(']')).unwrap_or_default();
            let reason = lines[number..=number + end].iter().any(|(line, _)| line.contains("reason = "));
            let comment = |line: &str| line.contains("// ") && !line.trim_start().starts_with("///");
            if excepts && !reason && !comment(line) && !comment(above) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
            above = line;
        }
    }
    none(found);
}

#[test]
fn no_source_file_is_too_long() {
    let files = tracked(&[".rs", ".sh"]);
    assert!(files.len() > 50, "git lists the sources");
    let lengths = files.iter().map(|(path, text)| (path, text.lines().count()));
    none(
        lengths
            .filter(|(_, lines)| *lines > LONGEST)
            .map(|(path, lines)| format!("{path}: {lines} lines"))
            .collect(),
    );
}

/// The source with its comments, strings and characters blanked out, line by line as it was.
fn without_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = match text_length(rest, code.chars().last()) {
            0 => {
                code.push(first);
                first.len_utf8()
            }
            length => {
                code.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
                length
            }
        };
        rest = &rest[length..];
    }
    code
}

/// How many bytes at the beginning of `rest` are a comment or a literal; none if it begins with code.
fn text_length(rest: &str, before: Option<char>) -> usize {
    let to = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return to("*/", 2);
    }
    let raw = rest.strip_prefix("br").or(rest.strip_prefix('r')).filter(|_| !in_word);
    if let Some(raw) = raw {
        let marks = raw.len() - raw.trim_start_matches('#').len();
        if raw[marks..].starts_with('"') {
            return to(&format!("\"{}", "#".repeat(marks)), rest.len() - raw.len() + marks + 1);
        }
    }
    match rest.as_bytes() {
        [b'"', ..] => quoted(rest, '"'),
        // A character; what begins like one and has no end nearby is a lifetime.
        [b'\'', b'\\', ..] => quoted(rest, '\''),
        [b'\'', ..] => {
            let mut characters = rest.char_indices().skip(1);
            let closed = characters.nth(1).filter(|(_, c)| *c == '\'');
            closed.map_or(0, |(at, _)| at + 1)
        }
        _ => 0,
    }
}

/// The length of a literal between two `quote`s, the second of them unescaped.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            end if end == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// libvirt brings fifty libraries, which take longer to load than most work on disks: for each storage slot, and for each
/// child that is started in the place of one that was killed. The same goes for each network slot.
#[test]
fn what_works_on_disks_or_networks_is_not_linked_to_libvirt() {
    let libraries = |name: &str| {
        let listed = Command::new("ldd").arg(program(name).unwrap()).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        String::from_utf8(listed.stdout).unwrap()
    };
    assert!(libraries("causeway-host").contains("libvirt.so"));
    for light in ["causeway-disks", "causeway-net"] {
        assert!(!libraries(light).contains("libvirt"), "{light}");
    }
}

#[test]
fn only_code_is_searched() {
    let source = r##"fn a<'x>(t: &'x str) { /* unsafe */ let c = '"'; let d = '\''; b"unsafe\""; r#"a "unsafe" b"#; // unsafe
let r = 1; "two
lines unsafe" }"##;
    let code = without_text(source);
    assert_eq!(code.lines().count(), source.lines().count());
    assert!(!code.contains("unsafe"), "{code}");
    for kept in ["fn a<'x>(t: &'x str) {", "let c =", "let d =", "let r = 1;", "}"] {
        assert!(code.contains(kept), "{kept:?} is not in {code}");
    }
    assert!(without_text("let x = \"a\"; unsafe { f() }").contains("unsafe {"));
}
