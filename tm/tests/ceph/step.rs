//! A call that is killed or disturbed, whichever table it is from.

use causeway_core::answer::Failure;
use serde_json::Value;

use super::{Picture, Stage};

/// One call, with what is there before it.
pub trait Step: Sync {
    fn name(&self) -> &'static str;
    fn prepare(&self, on: &Stage);
    fn call(&self, on: &Stage) -> Value;
    /// Panics if what a call leaves that was cut off is not as it should be: what is there, what was, what is to be.
    fn judge(&self, at: &str, left: &Picture, before: &Picture, after: &Picture);
}

/// Only those whose names hold one of the words in a variable, which stand between bars, if it is set: what is being worked
/// on, or is left to do of a long run.
pub fn chosen<T>(variable: &str, mut all: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
    if let Ok(words) = std::env::var(variable) {
        all.retain(|one| words.split('|').any(|words| name(one).contains(words)));
    }
    all
}

impl Stage {
    /// A stage as a call finds it.
    pub fn before(mut self, step: &(impl Step + ?Sized), user: &str) -> Self {
        user.clone_into(&mut self.user);
        step.prepare(&self);
        self
    }

    /// Keeps what is to be sent with a call.
    pub fn to_send(&self, bytes: &[u8]) {
        std::fs::write(self.dir().join("sent"), bytes).unwrap();
    }

    /// Performs a call, with what is to be sent with it; its first point is its beginning.
    pub fn act(&self, call: &Value, between: &dyn Fn(&'static str)) -> Result<String, Failure> {
        between("begun");
        if call["datastore"]["volume"]["work"].get("import").is_none() {
            return self.perform_at(call, between);
        }
        let sent = std::fs::read(self.dir().join("sent")).unwrap();
        self.receive(call, &sent, between)
    }
}
