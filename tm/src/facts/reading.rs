//! Attributes of a document as checked values; an absent one is none, and never a default.

use causeway_core::document::tree::Element;

use crate::error::TmError;

/// A YES or NO.
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
        Some(text) if text.eq_ignore_ascii_case("yes") => Ok(Some(true)),
        Some(text) if text.eq_ignore_ascii_case("no") => Ok(Some(false)),
        Some(value) => Err(wrong(attribute, object, value, "YES or NO")),
    }
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
