//! Somebody who has an image open, as a guest has.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::Datastores;

/// It is closed with this value.
pub struct Opened {
    child: Child,
    input: Option<ChildStdin>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.input.take();
        self.child.wait().unwrap();
    }
}

impl Datastores {
    /// Opens it with QEMU, locks and all.
    pub fn opened(&self, format: &str, below: &str) -> Opened {
        self.open_with(&["-f", format], below)
    }

    /// As a guest has a CD-ROM open.
    pub fn read_only(&self, below: &str) -> Opened {
        self.open_with(&["-r", "-f", "raw"], below)
    }

    fn open_with(&self, words: &[&str], below: &str) -> Opened {
        let mut user = Command::new("qemu-io");
        user.args(words).arg(self.text(below)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = user.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"length\n").unwrap();
        // It answers once it has the image.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        Opened { child, input: Some(input) }
    }
}
