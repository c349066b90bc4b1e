//! Points at which a test may hold a resident, or the front-end's own steps, to kill something there.
//!
//! Off unless the program is started with a directory of breakpoints. A file `<step>.before` or `<step>.after` in it
//! holds the exchange at that point: it is renamed to `<step>.<point>.reached`, and the exchange goes on when that file
//! has gone. `<step>.during` is only renamed, when the step begins.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How often a held exchange looks whether it may go on.
const LOOK: Duration = Duration::from_millis(10);

/// The directory, if any.
#[derive(Debug, Clone, Default)]
pub struct Breakpoints(Option<PathBuf>);

impl Breakpoints {
    /// Those in `directory`; none without one.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Breakpoints(directory)
    }

    /// Those in the directory that the environment names.
    pub fn from_environment() -> Self {
        Breakpoints(std::env::var_os("CAUSEWAY_BREAKPOINTS").map(PathBuf::from))
    }

    /// Passes a point, held there if a file says so.
    pub async fn pass(&self, step: &str, point: &str) {
        let Some(reached) = self.reach(step, point) else { return };
        while reached.exists() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Notes that a step has begun.
    pub fn begin(&self, step: &str) {
        self.reach(step, "during");
    }

    fn reach(&self, step: &str, point: &str) -> Option<PathBuf> {
        let directory = self.0.as_ref()?;
        let armed = directory.join(format!("{step}.{point}"));
        let reached = directory.join(format!("{step}.{point}.reached"));
        fs::rename(armed, &reached).ok()?;
        Some(reached)
    }
}
