//! How long the guest was silent in each move, kept for the table that puts two fabrics side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use causeway_observe::report::{Report, readable};
use serde::{Deserialize, Serialize};

/// The file in the output directory.
const FILE: &str = "silence.json";

/// The row for what the network adds to the time that the guest stands still.
const NETWORK: &str = "the network's share";

/// The silences of all moves by what heard them, in microseconds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Silences(BTreeMap<String, Vec<u64>>);

impl Silences {
    /// Takes a watched move in.
    pub fn note(&mut self, report: &Report) {
        for result in &report.moves {
            for (probe, watch) in report.probes.iter().zip(&result.watches) {
                self.add(&probe.plan.name, watch.silence.length());
            }
            if let Some(Ok(share)) = &result.network {
                self.add(NETWORK, share.share());
            }
        }
    }

    fn add(&mut self, name: &str, silence: Duration) {
        let micros = u64::try_from(silence.as_micros()).unwrap_or(u64::MAX);
        self.0.entry(name.to_owned()).or_default().push(micros);
    }

    /// Leaves them in `directory`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let path = directory.join(FILE);
        fs::create_dir_all(directory)?;
        fs::write(&path, serde_json::to_vec(self)?).with_context(|| path.display().to_string())
    }

    /// Finds them in `directory`.
    ///
    /// # Errors
    /// They are not there.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(FILE);
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }
}

/// Prints the median and the worst of each, one column for each fabric.
pub fn print(columns: &[(&str, Silences)]) {
    let names: BTreeSet<&String> = columns.iter().flat_map(|(_, s)| s.0.keys()).collect();
    let head: String = columns.iter().map(|(fabric, _)| format!(" | {fabric:<34}")).collect();
    println!("   {:<20}{head}", "median, worst of");
    for name in names {
        let cells = columns.iter().map(|(_, silences)| {
            let mut micros = silences.0.get(name).cloned().unwrap_or_default();
            micros.sort_unstable();
            let cell = match (micros.get(micros.len() / 2), micros.last()) {
                (Some(median), Some(worst)) => {
                    let [median, worst] = [*median, *worst].map(|us| readable(Duration::from_micros(us)));
                    format!("{median}, {worst} of {} moves", micros.len())
                }
                _ => "not told".to_owned(),
            };
            format!(" | {cell:<34}")
        });
        println!("   {name:<20}{}", cells.collect::<String>());
    }
}
