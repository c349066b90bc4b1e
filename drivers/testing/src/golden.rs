//! Texts that are compared with a file next to the test.

use std::fs;
use std::path::Path;

/// Set to accept what the tests produce as the new golden files.
pub const ACCEPT: &str = "CAUSEWAY_ACCEPT";

/// Compares `text` with the golden file at `path`.
///
/// # Panics
/// They differ, with the first line that does; or there is no such file. With [`ACCEPT`] in the environment the file is
/// written instead.
pub fn compare(path: &Path, text: &str) {
    if std::env::var_os(ACCEPT).is_some() {
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text));
        return written.unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }
    let golden =
        fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e} ({ACCEPT}=1 makes it)", path.display()));
    if let Some((number, golden, text)) = difference(&golden, text) {
        panic!("{}:{number}\n  golden: {golden}\n     now: {text}\n({ACCEPT}=1 accepts it)", path.display());
    }
}

/// The first line that differs, by its number from 1.
fn difference<'a>(golden: &'a str, text: &'a str) -> Option<(usize, &'a str, &'a str)> {
    if golden == text {
        return None;
    }
    let end = "(end of text)";
    let (mut left, mut right) = (golden.lines(), text.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => return Some((number, "(the last line feed differs)", end)),
            (golden, text) if golden != text => {
                return Some((number, golden.unwrap_or(end), text.unwrap_or(end)));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_shown() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(difference("a\nb\n", "a\nc\n"), Some((2, "b", "c")));
        assert_eq!(difference("a\n", "a\nb\n"), Some((2, "(end of text)", "b")));
        assert!(difference("a\n", "a").is_some());
    }
}
