//! Attributes of a document as checked values; an absent one is none, and never a default.

use causeway_core::document::tree::Element;

use crate::error::TmError;

/// A flag.
///
/// # Errors
/// Any other value.
pub(super) fn flag(
    element: &Element,
    name: &str,
    object: &str,
    attribute: &str,
) -> Result<Option<bool>, TmError> {
    match element.value(name) {
        None => Ok(None),
        Some(text) => truth(&text).map(Some).ok_or_else(|| wrong(attribute, object, text, TRUTHS)),
    }
}

/// What a flag may say, for messages.
pub(crate) const TRUTHS: &str = "YES or NO, TRUE or FALSE";

/// What a flag says. The stock scripts take anything else for a no (contract TM 1.5).
pub(crate) fn truth(text: &str) -> Option<bool> {
    let is_one_of = |words: [&str; 2]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_one_of(["yes", "true"]) { Some(true) } else { is_one_of(["no", "false"]).then_some(false) }
}

/// A number.
///
/// # Errors
/// A value that is none.
pub(super) fn number(
    element: &Element,
    name: &str,
    object: &str,
    attribute: &str,
) -> Result<Option<u32>, TmError> {
    let Some(value) = element.value(name) else { return Ok(None) };
    let number = value.parse().ok().filter(|_| value.bytes().all(|b| b.is_ascii_digit()));
    number.map(Some).ok_or_else(|| wrong(attribute, object, value, "a number"))
}

fn wrong(attribute: &str, object: &str, value: String, accepted: &'static str) -> TmError {
    TmError::Attribute {
        attribute: attribute.to_owned(),
        object: object.to_owned(),
        value,
        accepted: accepted.into(),
    }
}
