//! The edit that a deploy makes: a disk that is a link is opened by its target.

use std::path::Path;

use super::XmlError;
use super::tree::{Element, parse};

/// Whether the path has the name that OpenNebula gives disks that may be links: `.../disk.<number>` (contract VMM 3.3).
pub fn is_disk_link(path: &str) -> bool {
    let name = Path::new(path).file_name().and_then(|n| n.to_str());
    let number = name.and_then(|n| n.strip_prefix("disk."));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Replaces the source path of file-backed disks where `replace` gives another one; all other bytes stay as they are.
///
/// Backing files, firmware and anything else that carries a `file` attribute are not touched.
///
/// # Errors
/// As [`facts`](super::facts); or a replacement has a character that XML cannot carry.
pub fn rewrite_sources(
    xml: &str,
    mut replace: impl FnMut(&str) -> Option<String>,
) -> Result<String, XmlError> {
    let root = parse(xml)?;
    let mut output = String::with_capacity(xml.len());
    let mut copied = 0;
    for disk in root.grandchildren("devices", "disk") {
        let Some(source) = file_source(disk) else {
            continue;
        };
        let Some(path) = replace(&source.value) else {
            continue;
        };
        output.push_str(xml.get(copied..source.span.start).unwrap_or_default());
        escape(&path, &mut output)?;
        copied = source.span.end;
    }
    output.push_str(xml.get(copied..).unwrap_or_default());
    Ok(output)
}

fn file_source<'e, 'a>(disk: &'e Element<'a>) -> Option<&'e super::tree::Attribute<'a>> {
    let file_backed = disk.value("type").is_none_or(|t| t == "file");
    disk.child("source").filter(|_| file_backed).and_then(|s| s.attribute("file"))
}

/// `text` as it fits between either kind of quotes of an attribute.
///
/// # Errors
/// It has a control character, which XML cannot carry.
pub fn escaped(text: &str) -> Result<String, XmlError> {
    let mut output = String::with_capacity(text.len());
    escape(text, &mut output)?;
    Ok(output)
}

/// Writes `text` so that it fits between either kind of quotes.
fn escape(text: &str, output: &mut String) -> Result<(), XmlError> {
    for c in text.chars() {
        match c {
            '&' => output.push_str("&amp;"),
            '<' => output.push_str("&lt;"),
            '>' => output.push_str("&gt;"),
            '"' => output.push_str("&quot;"),
            '\'' => output.push_str("&apos;"),
            c if c.is_control() => {
                return Err(XmlError::Value {
                    what: "disk source",
                    value: text.to_owned(),
                    accepted: "a path without control characters",
                });
            }
            c => output.push(c),
        }
    }
    Ok(())
}
