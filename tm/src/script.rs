//! Transfer scripts: the files that `TRANSFER` names (contract TM 1.3).
//!
//! A line is `<ACTION>[.<suffix>] <tm> <argument>...`, split on blanks without quoting; empty lines and lines that
//! begin with `#` say nothing. The lines run in order and the first failure ends the script.

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::NameError;
use causeway_core::plan::Slot;

/// Longest script, bytes. oned writes a line of some 150 bytes for each disk.
pub const SCRIPT_LIMIT: usize = 1 << 20;

/// Most words of a line; a CONTEXT line has one for each file.
pub const WORD_LIMIT: usize = 4096;

/// A script that is none; nothing of it was run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// Longer than [`SCRIPT_LIMIT`].
    #[error("a transfer script of {bytes} bytes; at most {SCRIPT_LIMIT} are read")]
    Long {
        /// Its length.
        bytes: usize,
    },
    /// A line that is no text.
    #[error("line {line}: not UTF-8, or with a NUL character")]
    Encoding {
        /// Counted from 1.
        line: usize,
    },
    /// A line with more than [`WORD_LIMIT`] words.
    #[error("line {line}: more than {WORD_LIMIT} words")]
    Words {
        /// Counted from 1.
        line: usize,
    },
    /// A line without a transfer manager.
    #[error("line {line}: {action:?} is followed by no transfer manager")]
    Bare {
        /// Counted from 1.
        line: usize,
        /// Its only word, cut to a printable length.
        action: String,
    },
    /// An action or a transfer manager that could leave the directory of the remotes.
    #[error("line {line}, word {word}")]
    Word {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        word: usize,
        /// What is wrong with it.
        source: NameError,
    },
}

impl From<ScriptError> for Failure {
    fn from(error: ScriptError) -> Failure {
        Failure::from_chain(Kind::Input, &error)
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Counted from 1.
    pub line: usize,
    /// The slot it names, its action in lower case. Where no executable of that name exists, the one of
    /// [`Slot::without_suffix`] serves.
    pub slot: Slot,
    /// What follows.
    pub argv: Vec<String>,
}

/// Reads a script.
///
/// # Errors
/// [`ScriptError`], with the line and the word that is wrong.
pub fn parse(bytes: &[u8]) -> Result<Vec<Command>, ScriptError> {
    if bytes.len() > SCRIPT_LIMIT {
        return Err(ScriptError::Long { bytes: bytes.len() });
    }
    let lines = bytes.split(|&b| b == b'\n').enumerate();
    lines.filter_map(|(index, line)| command(index + 1, line).transpose()).collect()
}

fn command(line: usize, bytes: &[u8]) -> Result<Option<Command>, ScriptError> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let text = text.ok_or(ScriptError::Encoding { line })?.trim_ascii();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let words: Vec<&str> = text.split_ascii_whitespace().take(WORD_LIMIT + 1).collect();
    if words.len() > WORD_LIMIT {
        return Err(ScriptError::Words { line });
    }
    let [action, tm, argv @ ..] = words.as_slice() else {
        let action = text.chars().take(80).collect();
        return Err(ScriptError::Bare { line, action });
    };
    let wrong = |word| move |source| ScriptError::Word { line, word, source };
    // Each word on its own first, so that the error names the right one.
    Slot::new("tm", tm, "clone").map_err(wrong(2))?;
    let slot = Slot::new("tm", tm, &action.to_ascii_lowercase()).map_err(wrong(1))?;
    Ok(Some(Command { line, slot, argv: argv.iter().map(|&word| word.to_owned()).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The recorded scripts of one VM's life (prolog with two disks, epilog, a suffixed prolog), and oddities that the
    /// stock reader takes.
    #[test]
    fn the_recorded_lines() {
        let script = b"\n# made by hand\n\
            CLONE qcow2 vm:/var/lib/one/datastores/1/0123456789abcdef3 node1:/var/lib/one//datastores/102/0/disk.0 0 103\n\
            \tMKSWAP  shared 32 node1:/d/100/2/disk.1 2 100  \r\n\
            CLONE.ssh qcow2 vm:/a/1/b node1:/var/lib/one//datastores/104/25/disk.0 25 103\n\
            RESTORE qcow2 node1:/var/lib/one//datastores/102/4 4 19 -1 -1 ";
        let commands = parse(script).unwrap();
        let shapes: Vec<(usize, String, usize)> =
            commands.iter().map(|c| (c.line, c.slot.to_string(), c.argv.len())).collect();
        assert_eq!(
            shapes,
            [
                (3, "tm/qcow2/clone".to_owned(), 4),
                (4, "tm/shared/mkswap".to_owned(), 4),
                (5, "tm/qcow2/clone.ssh".to_owned(), 4),
                (6, "tm/qcow2/restore".to_owned(), 5),
            ]
        );
        assert_eq!(commands[0].argv[3], "103");
    }

    #[test]
    fn an_error_names_the_line_and_the_word() {
        let text = |script: &[u8]| Failure::from(parse(script).unwrap_err()).text;
        assert_eq!(text(b"\nDELETE"), "line 2: \"DELETE\" is followed by no transfer manager");
        assert!(text(b"DELETE ../bin x").starts_with("line 1, word 2: slot part \"../bin\" is not"));
        assert!(text(b"A/B qcow2 x").starts_with("line 1, word 1: slot part \"a/b\" is not"));
        assert_eq!(text(b"DELETE qcow2 a\nDELETE \xff b"), "line 2: not UTF-8, or with a NUL character");
        assert!(text(&vec![b'#'; SCRIPT_LIMIT + 1]).contains("1048577 bytes"));
        let long = format!("CONTEXT shared{}", " /a".repeat(WORD_LIMIT));
        assert_eq!(text(long.as_bytes()), "line 1: more than 4096 words");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn words_come_back_as_they_were(
            lines in proptest::collection::vec(("[A-Z_]{1,12}(\\.[a-z]{1,5})?", "[a-z0-9]{1,8}",
                proptest::collection::vec("[!-~]{1,20}", 0..6)), 0..8),
            blank in "[ \t]{1,3}",
        ) {
            let mut script = String::new();
            for (action, tm, argv) in &lines {
                let words = [vec![action.clone(), tm.clone()], argv.clone()].concat();
                script.push_str(&words.join(&blank));
                script.push('\n');
            }
            let commands = parse(script.as_bytes()).unwrap();
            prop_assert_eq!(commands.len(), lines.len());
            for (index, (command, (action, tm, argv))) in commands.iter().zip(&lines).enumerate() {
                prop_assert_eq!(command.line, index + 1);
                prop_assert_eq!(command.slot.verb(), action.to_ascii_lowercase());
                prop_assert_eq!(command.slot.driver(), tm);
                prop_assert_eq!(&command.argv, argv);
            }
        }
    }
}
