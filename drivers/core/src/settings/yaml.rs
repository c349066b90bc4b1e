//! YAML within limits: the one place that knows the YAML crate.
//!
//! `serde-saphyr` was taken because it has budgets for depth, nodes and aliases built in and no unsafe code of its own;
//! `serde_yaml` is archived, and its forks wrap a translated C library. The file is written by `oneadmin` and read by a
//! program that may have more rights.

use serde_json::Value;
use serde_saphyr::{budget, options};

use super::error::SettingsError;

/// Bytes of a file.
const SIZE: usize = 64 << 10;

/// Reads a document of at most 64 KiB, 8 levels, 10 000 nodes and 16 aliases.
///
/// # Errors
/// [`SettingsError::File`] for anything that is not YAML or beyond these limits, and for a key that stands twice.
pub(super) fn parse(file: &str, text: &str) -> Result<Value, SettingsError> {
    if text.len() > SIZE {
        return Err(SettingsError::file(file, format_args!("larger than {SIZE} bytes")));
    }
    let options = options! {
        budget: budget! {
            max_depth: 8,
            flow_nesting_limit: 8,
            max_nodes: 10_000,
            max_events: 40_000,
            max_aliases: 16,
            max_anchors: 16,
            max_documents: 1,
            max_merge_keys: 0,
        },
        with_snippet: false,
    };
    if text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|error| SettingsError::file(file, error))
}
