//! What an admin's program does: each command is one module, with its own arguments.

pub mod doctor;
pub mod measure;
pub mod net;
pub mod plan;
pub mod predict;
pub mod survey;

use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;

/// The largest file that a command reads.
const FILE_LIMIT: u64 = 64 << 20;

/// The bytes of a file; `-` is standard input.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let named = || format!("cannot read {}", path.display());
    if path == Path::new("-") {
        io::stdin().lock().take(FILE_LIMIT).read_to_end(&mut bytes).with_context(named)?;
    } else {
        std::fs::File::open(path)
            .with_context(named)?
            .take(FILE_LIMIT)
            .read_to_end(&mut bytes)
            .with_context(named)?;
    }
    Ok(bytes)
}

/// A JSON file.
fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    serde_json::from_slice(&read(path)?)
        .with_context(|| format!("{} is not of the expected form", path.display()))
}

/// Prints a value as JSON.
fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
