//! Calls: what each script of the stock driver was given, in the form of `actions/*.txt`.

use super::{data, files, read};
use crate::error::SuiteError;

/// How bytes are written on a script's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// Base64 on one line.
    Base64,
    /// Base64 in lines of 60 characters.
    Base64Lines,
}

/// A script's standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stdin {
    /// Its end at once.
    Empty,
    /// A document.
    Document {
        /// How many bytes in all.
        bytes: usize,
        /// How they are written.
        form: Form,
        /// The document's root element.
        root: String,
        /// Whether a line feed comes last.
        line_feed: bool,
        /// The bytes themselves, where they are those of this very call.
        exact: Option<Vec<u8>>,
    },
}

/// What the recording stub answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// One shape of call of one script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where the script lay: `/var/tmp/one/vmm/kvm/deploy` on a host, `/var/lib/one/remotes/tm/qcow2/context` on the
    /// front-end.
    pub program: String,
    /// The first scenario with a call of this shape.
    pub scenario: String,
    /// Its arguments. One that is the whole request in base64 ends with `...` and its length.
    pub argv: Vec<String>,
    /// Its standard input.
    pub stdin: Stdin,
    /// The stub's answer.
    pub answer: Answered,
}

/// The shapes in which the recorded scripts were called, by the virtual machine driver and by the transfer manager's: a
/// script does not see who calls it.
///
/// # Errors
/// A file can't be read or is malformed.
pub fn calls() -> Result<Vec<Call>, SuiteError> {
    let mut calls = Vec::new();
    for path in files("actions", "txt")? {
        let name = path.display().to_string();
        let mut reader = Reader { file: name, program: String::new(), call: None };
        for line in read(&path)?.lines() {
            calls.extend(reader.line(line)?);
        }
    }
    Ok(calls)
}

struct Reader {
    file: String,
    program: String,
    call: Option<Call>,
}

impl Reader {
    /// Takes a line; returns the call that it completes.
    fn line(&mut self, line: &str) -> Result<Option<Call>, SuiteError> {
        if let Some((program, _)) = line.split_once("   (called ") {
            self.program = program.to_owned();
            return Ok(None);
        }
        let Some((key, value)) = line.trim_start().split_once(' ') else { return Ok(None) };
        let value = value.trim_start();
        match key {
            "scenario" => {
                self.call = Some(Call {
                    program: self.program.clone(),
                    scenario: value.to_owned(),
                    argv: Vec::new(),
                    stdin: Stdin::Empty,
                    answer: Answered { code: 0, stdout: String::new(), stderr: String::new() },
                });
            }
            "argv" => {
                let argv = self.argv(value)?;
                self.open(|call| call.argv = argv);
            }
            "stdin" => {
                let stdin = self.stdin(value)?;
                self.open(|call| call.stdin = stdin);
            }
            "answer" => {
                let answer = self.answer(value)?;
                self.open(|call| call.answer = answer);
                return Ok(self.call.take());
            }
            _ => {}
        }
        Ok(None)
    }

    fn open(&mut self, change: impl FnOnce(&mut Call)) {
        if let Some(call) = &mut self.call {
            change(call);
        }
    }

    fn wrong(&self, what: &str) -> SuiteError {
        SuiteError::recording(&self.file, format!("{}: {what}", self.program))
    }

    fn argv(&self, text: &str) -> Result<Vec<String>, SuiteError> {
        serde_json::from_str(text).map_err(|e| self.wrong(&format!("argv: {e}")))
    }

    /// `8163 bytes, plain, root element <X>, ends with newline; sample: stdin/vmm_kvm_attach_disk.plain.txt`.
    fn stdin(&self, text: &str) -> Result<Stdin, SuiteError> {
        if text.starts_with("empty") {
            return Ok(Stdin::Empty);
        }
        let wrong = || self.wrong(&format!("stdin: {text}"));
        let (facts, sample) = text.split_once("; sample: ").ok_or_else(wrong)?;
        let mut facts = facts.split(", ");
        let mut next = || facts.next().ok_or_else(wrong);
        let bytes = next()?.strip_suffix(" bytes").and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        let form = match next()? {
            "plain" => Form::Plain,
            "base64 on one line" => Form::Base64,
            "base64 in lines of 60" => Form::Base64Lines,
            _ => return Err(wrong()),
        };
        let root =
            next()?.strip_prefix("root element <").and_then(|r| r.strip_suffix('>')).ok_or_else(wrong)?;
        let line_feed = next()? == "ends with newline";
        let path = data().join("actions").join(sample);
        // One sample serves several shapes: it is of this call only if it has this call's length.
        let exact = std::fs::read(&path).ok().filter(|sample| sample.len() == bytes);
        Ok(Stdin::Document { bytes, form, root: root.to_owned(), line_feed, exact })
    }

    /// `rc=1 stdout="" stderr="ERROR: Could not migrate\n"`.
    fn answer(&self, text: &str) -> Result<Answered, SuiteError> {
        let wrong = || self.wrong(&format!("answer: {text}"));
        let rest = text.strip_prefix("rc=").ok_or_else(wrong)?;
        let (code, rest) = rest.split_once(" stdout=").ok_or_else(wrong)?;
        let (stdout, stderr) = rest.split_once(" stderr=").unwrap_or((rest, "\"\""));
        let quoted = |text: &str| serde_json::from_str::<String>(text).map_err(|_| wrong());
        Ok(Answered {
            code: code.parse().map_err(|_| wrong())?,
            stdout: quoted(stdout)?,
            stderr: quoted(stderr)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_input_and_answer() {
        let calls = calls().unwrap();
        let find = |program: &str, scenario: &str| {
            calls.iter().find(|c| c.program.ends_with(program) && c.scenario.starts_with(scenario)).unwrap()
        };
        let migrate = find("vmm/kvm/migrate", "k-qcow2-06");
        assert_eq!(migrate.argv, ["6e1f0f2a-0000-4000-8000-000000926517", "node2", "node1", "0", "node1"]);
        let Stdin::Document { bytes: 6906, form: Form::Plain, root, line_feed: true, exact: Some(_) } =
            &migrate.stdin
        else {
            panic!("{:?}", migrate.stdin)
        };
        assert_eq!(root, "VMM_DRIVER_ACTION_DATA");
        let deploy = find("vmm/kvm/deploy", "k-fail-01");
        assert_eq!(deploy.answer.code, 1);
        assert_eq!(deploy.answer.stderr, "ERROR: Could not create domain\nsome plain stderr line\n");
        assert!(matches!(
            find("vnm/ovswitch_vxlan/update_nic", "k-vmm-02").stdin,
            Stdin::Document { form: Form::Base64Lines, exact: Some(_), .. }
        ));
    }
}
