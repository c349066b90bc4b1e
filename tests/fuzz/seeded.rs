//! Runs a check over a corpus and over what becomes of it by small edits, for a bounded time.
//!
//! Every file of `tests/fuzz/<target>/` is tried as it is; then, for `CAUSEWAY_FUZZ_SECONDS` seconds (1 unless set),
//! edited copies of them and plain noise. The same targets run under a coverage-guided engine by `cargo bolero test`.
//! What only a crate itself can call has its target there, beside it; all of them are called `fuzz_...`.
//! An input that once failed belongs into the corpus.

// clippy.toml allows unwrapping in tests, but takes only `#[test]` functions for tests, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use bolero::TypeGenerator;

/// Pieces that mean something to one of the parsers.
const TOKENS: [&[u8]; 44] = [
    b"\n",
    b"\r\n",
    b"  ",
    b"\t",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"]]>",
    b"<![CDATA[",
    b"<!DOCTYPE",
    b"<!--",
    b"&amp;",
    b"&#x0;",
    b"&#65;",
    b"<VM>",
    b"</VM>",
    b"<TEMPLATE>",
    b"</TEMPLATE>",
    b"<NIC>",
    b"</NIC>",
    b"/>",
    b"INIT",
    b"DEPLOY  1 ",
    b"DRIVER_CANCEL  1 ",
    b"-1",
    b"99999999999999999999",
    b"../",
    b"$(x)",
    b"\"",
    b"'",
    b"*a",
    b"&a ",
    b"QFI\xfb",
    b"rbd diff v1\n",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x80\x00\x00\x00\x00\x00\x00\x00",
    b"18446744073709551615",
    b"null",
    b"[]",
    b"{}",
    b"/..",
    b".causeway-tmp.",
    b":",
];

/// One small change of an input.
#[derive(Debug, Clone, TypeGenerator)]
pub enum Edit {
    /// Overwrites a byte.
    Set(u16, u8),
    /// Puts something meaningful in.
    Token(u16, u8),
    /// Puts a few bytes in.
    Insert(u16, [u8; 3]),
    /// Takes some bytes out.
    Remove(u16, u8),
    /// Copies a stretch to another place.
    Copy(u16, u16, u8),
    /// Ends the input here.
    Cut(u16),
    /// Goes on with another seed from here.
    Splice(u16, u8),
}

/// An input: noise, or an edited seed.
#[derive(Debug, Clone, TypeGenerator)]
pub enum Input {
    /// Bytes of no origin.
    Noise(Vec<u8>),
    /// A seed, how many edits, and the edits: mostly few, since a document rarely survives many.
    Edited(u8, u8, Vec<Edit>),
}

/// A place within `length`, ends included.
fn place(at: u16, length: usize) -> usize {
    usize::from(at) * length / usize::from(u16::MAX)
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let length = bytes.len();
        match *self {
            Edit::Set(at, byte) => {
                if let Some(old) = bytes.get_mut(place(at, length)) {
                    *old = byte;
                }
            }
            Edit::Token(at, which) => {
                let token = TOKENS.get(usize::from(which) % TOKENS.len()).copied().unwrap_or_default();
                let at = place(at, length);
                bytes.splice(at..at, token.iter().copied());
            }
            Edit::Insert(at, new) => {
                let at = place(at, length);
                bytes.splice(at..at, new);
            }
            Edit::Remove(at, count) => {
                let at = place(at, length);
                bytes.drain(at..length.min(at + usize::from(count)));
            }
            Edit::Copy(from, to, count) => {
                let from = place(from, length);
                let piece: Vec<u8> = bytes.iter().skip(from).take(count.into()).copied().collect();
                let to = place(to, length);
                bytes.splice(to..to, piece);
            }
            Edit::Cut(at) => bytes.truncate(place(at, length)),
            Edit::Splice(at, seed) => {
                let at = place(at, length);
                bytes.truncate(at);
                let other = seeds.get(usize::from(seed) % seeds.len()).cloned().unwrap_or_default();
                bytes.extend(other.iter().skip(at));
            }
        }
    }
}

/// Runs `check` over everything described at the top.
pub fn fuzz(target: &str, check: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    // From whichever crate the target is of.
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("tests/fuzz"));
    let directory = above.map(|corpora| corpora.join(target)).find(|corpus| corpus.is_dir());
    let directory = directory.unwrap_or_else(|| panic!("there is no corpus tests/fuzz/{target}"));
    let mut seeds: Vec<(String, Vec<u8>)> = std::fs::read_dir(&directory)
        .expect("the corpus")
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} is empty", directory.display());
    for (name, seed) in &seeds {
        let outcome = std::panic::catch_unwind(|| check(seed));
        assert!(outcome.is_ok(), "{name} fails as it is");
    }
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, seed)| seed).collect();
    let seconds = std::env::var("CAUSEWAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    bolero::check!().with_type::<Input>().with_test_time(Duration::from_secs(seconds)).for_each(|input| {
        match input {
            Input::Noise(bytes) => check(bytes),
            Input::Edited(seed, few, edits) => {
                let mut bytes = seeds.get(usize::from(*seed) % seeds.len()).cloned().unwrap_or_default();
                let most = if *few < 240 { usize::from(*few % 4) } else { edits.len() };
                edits.iter().take(most).for_each(|edit| edit.apply(&mut bytes, &seeds));
                check(&bytes);
            }
        }
    });
}
