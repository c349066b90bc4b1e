//! The names that people are told: those that half-made things are to have, never the ones that they have until then.

use std::path::{Path, PathBuf};

use crate::place::TEMPORARY;

/// What a path will be called once what is half-made in it has its name: for people, who never see the other one.
pub(crate) fn named_at_last(path: &Path) -> PathBuf {
    path.to_str().map_or_else(|| path.to_owned(), |text| told_at_last(text).into())
}

/// A text with such names in it, as people are to read it.
pub(crate) fn told_at_last(text: &str) -> String {
    let (mut told, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once(TEMPORARY) {
        told.push_str(before);
        // Within a name it follows that of a volume.
        let alone = told.is_empty() || told.ends_with(|sign: char| "/'\" ".contains(sign));
        let Some((name, left)) =
            (if alone { half_made(after) } else { serial(after).map(|left| ("", left)) })
        else {
            told.push_str(TEMPORARY);
            rest = after;
            continue;
        };
        told.push_str(name);
        // A directory that is to hold a disk's layers.
        if left.strip_prefix('/').is_some_and(|below| below.starts_with(|sign: char| sign.is_ascii_digit())) {
            told.push_str(".snap");
        }
        rest = left;
    }
    told + rest
}

/// What stands before the end of a half-made file's name, and what follows it.
fn half_made(after: &str) -> Option<(&str, &str)> {
    let end = after.find('/').unwrap_or(after.len());
    let dots = after.get(..end)?.match_indices('.').map(|(at, _)| at);
    let split = |at: usize| Some((after.get(..at)?, after.get(at + 1..)?));
    let mut found = dots.filter_map(split).filter_map(|(name, ending)| {
        let fixed =
            || ending.strip_prefix("restored").filter(|left| !left.starts_with(char::is_alphanumeric));
        Some((name, serial(ending).or_else(fixed)?))
    });
    found.next().map(|(name, left)| (name.strip_suffix(".fetched").unwrap_or(name), left))
}

/// What follows three numbers that no other name has: `29329-2b00b9bd-0`.
fn serial(text: &str) -> Option<&str> {
    let end = text.find(|sign: char| !sign.is_ascii_hexdigit() && sign != '-').unwrap_or(text.len());
    let (numbers, left) = text.split_at_checked(end)?;
    let whole = numbers.split('-').count() == 3 && numbers.split('-').all(|number| !number.is_empty());
    (whole && !left.starts_with(char::is_alphanumeric)).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_of_last_names() {
        for (path, told) in [
            ("/ds/0/7/.causeway-tmp.disk.3.29329-2b00b9bd-0", "/ds/0/7/disk.3"),
            ("/ds/0/7/.causeway-tmp.disk.0.12-ff-3/0", "/ds/0/7/disk.0.snap/0"),
            ("/ds/0/.causeway-tmp.7.12-ff-3/disk.0", "/ds/0/7/disk.0"),
            ("/ds/0/7/.causeway-tmp.disk.0.fetched.12-ff-3", "/ds/0/7/disk.0"),
            ("/ds/0/7/.causeway-tmp.disk.0.restored", "/ds/0/7/disk.0"),
            ("/ds/0/7/.causeway-tmp.disk.0", "/ds/0/7/.causeway-tmp.disk.0"),
            ("/ds/0/7/disk.0", "/ds/0/7/disk.0"),
        ] {
            assert_eq!(named_at_last(Path::new(path)), Path::new(told));
        }
        for (text, told) in [
            ("rbd create of one/one-31.causeway-tmp.1f-2b00b9bd-0: no", "rbd create of one/one-31: no"),
            (
                "cannot copy /a to /b/.causeway-tmp.my disk.1-2-3: No space",
                "cannot copy /a to /b/my disk: No space",
            ),
            ("open '/b/.causeway-tmp.disk.0.1-2-3'.", "open '/b/disk.0'."),
            ("one-5.causeway-tmp.x is there", "one-5.causeway-tmp.x is there"),
        ] {
            assert_eq!(told_at_last(text), told);
        }
    }
}
