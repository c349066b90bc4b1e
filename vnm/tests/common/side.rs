//! A program that plays the privileged side: its frames are files that it prints.

use std::path::PathBuf;

use causeway_vnm::root::{Hello, Outcome, Response, frame};

pub struct Side {
    pub dir: tempfile::TempDir,
}

impl Side {
    /// With a frame `hello`, and `done` for the request `test-1`.
    pub fn new() -> Self {
        let side = Side { dir: tempfile::tempdir().unwrap() };
        side.frame("hello", &Hello::ours());
        side.frame("done", &response(Some("test-1")));
        side
    }

    pub fn frame<T: serde::Serialize>(&self, name: &str, value: &T) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, frame::encode(value).unwrap()).unwrap();
        path
    }

    /// Starts it: a shell in its directory.
    pub fn argv(&self, script: &str) -> Vec<String> {
        let script = format!("cd {} && {script}", self.dir.path().display());
        ["sh".to_owned(), "-c".to_owned(), script].to_vec()
    }
}

pub fn response(id: Option<&str>) -> Response {
    Response {
        id: id.map(|id| id.parse().unwrap()),
        outcome: Outcome::Done,
        changes: Vec::new(),
        reserved: false,
        services: false,
        notes: vec!["a note".to_owned()],
        micros: 1,
        seen: None,
        connections: None,
        arrivals: Vec::new(),
    }
}
