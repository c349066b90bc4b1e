//! A call that is killed or disturbed, with what is there before it, and what must be true whenever it is cut off.

use std::cell::RefCell;
use std::path::Path;

use causeway_core::answer::Failure;
use serde_json::Value;

use super::kill::ended;
use super::{Picture, Seen, Stage};

/// One call, and the volumes before it.
pub struct Case {
    pub name: &'static str,
    pub prepare: fn(&Stage),
    pub call: fn(&Stage) -> Value,
    pub keeps: Keeps,
}

/// What a call that is cut off must not cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// What a VM's disk held, and its snapshots; the image is not touched.
    Disk,
    /// The image, which is not touched: the disk begins anew.
    Untouched,
    /// What the guest wrote, which is in its file until the image has it.
    Written,
    /// What an image held, and its snapshots, unless it is to go.
    Image,
}

impl Case {
    /// Panics if what a call leaves that was cut off is not as it should be: what is there, what was, what is to be.
    pub fn judge(&self, at: &str, left: &Picture, before: &Picture, after: &Picture) {
        let cut = Cut { name: self.name, at, left, before, after };
        cut.nothing_else();
        match self.keeps {
            Keeps::Disk => {
                cut.untouched("one-5");
                cut.held("one-5-7-0");
            }
            Keeps::Untouched => cut.untouched("one-5"),
            Keeps::Written => cut.written(),
            Keeps::Image => cut.held("one-5"),
        }
    }
}

/// A call that nobody disturbs: what it passes, and what is there before and after it.
pub struct Known<'a> {
    pub case: &'a Case,
    pub passed: Vec<&'static str>,
    pub before: Picture,
    pub after: Picture,
}

impl<'a> Known<'a> {
    /// Performs it; and where it was performed.
    pub fn learn(conf: &Path, case: &'a Case, user: &str) -> (Self, Stage) {
        let on = Stage::new(conf).before(case, user);
        let before = on.picture();
        let passed = RefCell::new(Vec::new());
        let came = on.act(&(case.call)(&on), &|point| passed.borrow_mut().push(point));
        came.unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
        let after = ended(&on);
        (Known { case, passed: passed.into_inner(), before, after }, on)
    }
}

/// A call that was cut off: what it left, what was there before it, what is there after it.
struct Cut<'a> {
    name: &'a str,
    at: &'a str,
    left: &'a Picture,
    before: &'a Picture,
    after: &'a Picture,
}

impl Cut<'_> {
    fn context(&self) -> String {
        format!("{} at {}: {:#?}", self.name, self.at, self.left)
    }

    /// Under every name there is what was there before or is to be there in the end.
    fn nothing_else(&self) {
        let volumes = ["one-5", "one-5-7-0", "one-5-new", "one-5-saved", "one-5-7-0.new.00000013"];
        let files = ["file disk.0", "file backup/disk.0.0", "file backup/disk.0.1"];
        for name in volumes.into_iter().chain(files) {
            let Some(found) = self.left.get(name) else { continue };
            let same = |other: Option<&Seen>| other.is_some_and(|other| other.content == found.content);
            assert!(same(self.before.get(name)) || same(self.after.get(name)), "{name}: {}", self.context());
        }
    }

    fn untouched(&self, volume: &str) {
        assert_eq!(self.left[volume].content, self.before[volume].content, "{}", self.context());
    }

    /// What a volume held is held by somebody until another has its place, and so is each snapshot but one that is being
    /// removed.
    fn held(&self, volume: &str) {
        let (Some(was), Some(will)) = (self.before.get(volume), self.after.get(volume)) else { return };
        let held = self.left.values().any(|seen| seen.content == was.content);
        let replaced = self.left.get(volume) == Some(will);
        assert!(held || replaced, "{}", self.context());
        for (id, _, content) in self.before.values().flat_map(|seen| &seen.snapshots) {
            let there = |of: &Picture| {
                of.values().flat_map(|seen| &seen.snapshots).any(|s| (&s.0, &s.2) == (id, content))
            };
            assert!(there(self.left) || !there(self.after), "snapshot {id}: {}", self.context());
        }
    }

    fn written(&self) {
        let is = |name: &str, then: &Picture| {
            self.left.get(name).is_some_and(|seen| seen.content == then[name].content)
        };
        assert!(is("one-5", self.after) || is("file disk.0", self.before), "{}", self.context());
    }
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
    pub fn before(mut self, case: &Case, user: &str) -> Self {
        user.clone_into(&mut self.user);
        (case.prepare)(&self);
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
