//! Numbers that may be infinite, in JSON.
//!
//! JSON has no infinity and the common serialiser writes `null` for it, which reads as "unknown". A
//! migration that never ends is known not to end: it is written `"inf"`, as known-answer files do.

use serde::Serializer;

/// Write a number, infinity as `"inf"`.
pub(crate) fn serialize<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
    if *value == f64::INFINITY { out.serialize_str("inf") } else { out.serialize_f64(*value) }
}
