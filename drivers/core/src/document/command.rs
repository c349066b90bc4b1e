//! Transfer manager commands: the lines of `TM_COMMAND` and of a transfer script (contracts VMM 2.5, TM 1.3, 1.4).

use std::fmt;

use super::reading::DocumentError;
use super::words::DriverName;

/// One command: `CLONE.ssh qcow2 fe:/src node1:/vm/disk.0 42 100`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmCommand {
    verb: DriverName,
    /// The transfer manager, a directory below the remotes.
    pub tm: DriverName,
    /// What follows, split on blanks; the form knows no quoting.
    pub args: Vec<String>,
}

impl TmCommand {
    /// Reads one line.
    ///
    /// # Errors
    /// [`DocumentError::Malformed`] if verb or transfer manager are missing or could leave the remotes' directory.
    pub fn parse(line: &str, path: &str) -> Result<Self, DocumentError> {
        let bad = |accepted: &str| DocumentError::malformed(path.to_owned(), line, accepted);
        let mut words = line.split_ascii_whitespace();
        let mut name = |what: &'static str| {
            let word = words.next().unwrap_or_default();
            word.parse::<DriverName>().map_err(|_| bad(what))
        };
        let verb = name("a line that begins with a verb of letters, digits and '_.-'")?;
        let tm = name("a line whose second word is a transfer manager's name")?;
        if line.contains('\0') {
            return Err(bad("a line without NUL characters"));
        }
        Ok(TmCommand { verb, tm, args: words.map(str::to_owned).collect() })
    }

    /// Reads every line of a script; empty lines and comments (`#`) are skipped.
    ///
    /// # Errors
    /// As [`TmCommand::parse`]; `path` names the script or the element in the error.
    pub fn parse_all(script: &str, path: &str) -> Result<Vec<Self>, DocumentError> {
        script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| TmCommand::parse(line, path))
            .collect()
    }

    /// The verb as it came, with its suffix: `CLONE.ssh`.
    pub fn verb(&self) -> &str {
        self.verb.as_str()
    }

    /// The verb without its suffix: `CLONE`.
    pub fn action(&self) -> &str {
        self.verb().split_once('.').map_or(self.verb(), |(verb, _)| verb)
    }

    /// The suffix, the transfer manager of the system datastore: `ssh`.
    pub fn suffix(&self) -> Option<&str> {
        self.verb().split_once('.').map(|(_, suffix)| suffix)
    }

    /// The same command with another verb: `PREMIGRATE` out of `MIGRATE`, the suffix kept.
    ///
    /// # Errors
    /// [`DocumentError::Malformed`] if `action` is not a verb.
    pub fn with_action(&self, action: &str) -> Result<Self, DocumentError> {
        let verb = match self.suffix() {
            Some(suffix) => format!("{action}.{suffix}"),
            None => action.to_owned(),
        };
        let verb = verb.parse().map_err(|_| DocumentError::malformed("verb".into(), action, "a verb"))?;
        Ok(TmCommand { verb, ..self.clone() })
    }

    /// The action's file name below the transfer manager's directory: the verb in lower case.
    pub fn file_name(&self) -> String {
        self.verb().to_ascii_lowercase()
    }
}

/// The line, with single blanks.
impl fmt::Display for TmCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.tm)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_of_the_contract() {
        let line = "CLONE.ssh qcow2 fe:/images/a node1:/var/lib/one//datastores/104/0/disk.0 0 103";
        let clone = TmCommand::parse(line, "TM_COMMAND").unwrap();
        assert_eq!((clone.action(), clone.suffix()), ("CLONE", Some("ssh")));
        assert_eq!(clone.file_name(), "clone.ssh");
        assert_eq!(clone.tm, "qcow2");
        assert_eq!(clone.args.len(), 4);
        assert_eq!(clone.to_string(), line);

        let migrate = TmCommand::parse("MIGRATE  qcow2 n1 n2\t/d/0 0 100 ", "x").unwrap();
        let pre = migrate.with_action("PREMIGRATE").unwrap();
        assert_eq!(pre.to_string(), "PREMIGRATE qcow2 n1 n2 /d/0 0 100");
        let live = clone.with_action("SNAP_CREATE_LIVE").unwrap();
        assert_eq!(live.verb(), "SNAP_CREATE_LIVE.ssh");
    }

    #[test]
    fn a_script_is_its_lines_without_comments() {
        let script = "\n# a comment\nDELETE qcow2 h:/d/disk.0 1 103\n\nDELETE qcow2 h:/d 1 100\n";
        assert_eq!(TmCommand::parse_all(script, "script").unwrap().len(), 2);
        assert_eq!(TmCommand::parse_all("\n", "script").unwrap(), []);
    }

    #[test]
    fn no_command_leaves_the_remotes() {
        for line in [
            "DELETE",
            "../DELETE qcow2 x",
            "DELETE ../../bin x",
            "DELETE .. x",
            "DELETE a/b x",
            "-x qcow2",
            "DELETE $(x) y",
            "DELETE qcow2 a\0b",
        ] {
            let error = TmCommand::parse(line, "TM_COMMAND").unwrap_err();
            assert!(error.to_string().starts_with("TM_COMMAND is "), "{error}");
        }
    }
}
