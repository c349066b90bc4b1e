//! Shell-style settings files (`kvmrc`, `vmm_execrc`, `tmrc`, `defaultrc`) read without a shell.
//!
//! The stock programs source these files, so an administrator may have written anything a shell takes. What is read here
//! is the part that says the same to everybody: assignments, `export`, quotes, escapes, comments, continued lines.
//! Nothing is ever expanded or run. Where only a shell could say what a line means, the line is refused: an error for
//! a setting that we use, a warning for any other.

use std::collections::BTreeMap;

use super::error::SettingsError;

/// The assignments of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellRc {
    file: String,
    values: BTreeMap<String, String>,
    refused: Vec<SettingsError>,
}

impl ShellRc {
    /// Reads the text of `file`, whose name is for messages only. Never fails as a whole: see [`get`](ShellRc::get)
    /// and [`refused`](ShellRc::refused).
    pub fn parse(file: &str, text: &str) -> Self {
        let rc = ShellRc { file: file.to_owned(), values: BTreeMap::new(), refused: Vec::new() };
        Scanner { rest: text, line: 1, rc }.run()
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The value of a setting; the last assignment counts, as in a shell.
    ///
    /// # Errors
    /// The refusal, if any line that would set `key` had to be refused: which assignment counts is then unknown.
    pub fn get(&self, key: &str) -> Result<Option<&str>, SettingsError> {
        let of_key =
            |error: &&SettingsError| matches!(error, SettingsError::Line { key: Some(k), .. } if k == key);
        match self.refused.iter().find(of_key) {
            Some(error) => Err(error.clone()),
            None => Ok(self.values.get(key).map(String::as_str)),
        }
    }

    /// Every assignment that could be read.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Every line that was refused, to be logged as warnings.
    pub fn refused(&self) -> &[SettingsError] {
        &self.refused
    }
}

/// Where the reading stands.
struct Scanner<'a> {
    rest: &'a str,
    line: usize,
    rc: ShellRc,
}

impl Scanner<'_> {
    fn run(mut self) -> ShellRc {
        while self.skip_blank() {
            let line = self.line;
            let mut key = None;
            if let Err(reason) = self.statement(&mut key) {
                let file = self.rc.file.clone();
                self.rc.refused.push(SettingsError::Line { file, line, key, reason: reason.to_owned() });
                self.skip_line();
            }
        }
        self.rc
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    /// Goes to the next statement; false at the end of the file.
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.peek() {
                None => return false,
                Some('#') => self.skip_line(),
                Some(c) if c.is_ascii_whitespace() || c == ';' => {
                    self.take();
                }
                Some(_) => return true,
            }
        }
    }

    fn skip_line(&mut self) {
        while let Some(c) = self.take() {
            if c == '\n' {
                break;
            }
        }
    }

    /// Reads `NAME=value`, `export NAME=value ...` or `export NAME`. `key` is set as soon as it is known.
    fn statement(&mut self, key: &mut Option<String>) -> Result<(), &'static str> {
        let exported = self.rest.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
        if let Some(rest) = exported {
            self.rest = rest;
        }
        loop {
            self.skip_spaces();
            if self.at_end() {
                return Ok(());
            }
            *key = None;
            let name = self.name().ok_or("not an assignment; only NAME=value is read, no shell is run")?;
            *key = Some(name.clone());
            match self.peek() {
                Some('=') => {
                    self.take();
                    let value = self.value()?;
                    self.skip_spaces();
                    if exported.is_none() && !self.at_end() {
                        return Err("something follows the value; quote it if it belongs to it");
                    }
                    self.rc.values.insert(name, value);
                }
                // `export NAME` alone only marks it.
                _ if exported.is_some() && self.is_word_end() => {}
                _ => return Err("not an assignment; only NAME=value is read, no shell is run"),
            }
            if exported.is_none() {
                return Ok(());
            }
        }
    }

    fn skip_spaces(&mut self) {
        loop {
            if let Some(rest) = self.rest.strip_prefix("\\\n") {
                self.rest = rest;
                self.line += 1;
            } else if matches!(self.peek(), Some(' ' | '\t' | '\r')) {
                self.take();
            } else {
                return;
            }
        }
    }

    /// Whether the statement ends here.
    fn at_end(&self) -> bool {
        matches!(self.peek(), None | Some('\n' | ';' | '#'))
    }

    fn is_word_end(&self) -> bool {
        self.peek().is_none_or(|c| c.is_ascii_whitespace() || c == ';')
    }

    fn name(&mut self) -> Option<String> {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !inner(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at_checked(end)?;
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.rest = rest;
        Some(name.to_owned())
    }

    /// Reads a value up to the blank or line end after it.
    fn value(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        if self.peek() == Some('~') {
            return Err("'~' would be expanded; write the directory");
        }
        while !self.is_word_end() {
            match self.take() {
                Some('\'') => self.single_quoted(&mut value)?,
                Some('"') => self.double_quoted(&mut value)?,
                Some('\\') => match self.take() {
                    Some('\n') | None => {}
                    Some(c) => value.push(c),
                },
                Some(c @ ('$' | '`')) => return Err(expansion(c)),
                Some('(' | ')') => return Err("arrays are not read"),
                Some('&' | '|' | '<' | '>') => return Err("a shell's operator outside of quotes"),
                Some(c) => value.push(c),
                None => break,
            }
        }
        Ok(value)
    }

    fn single_quoted(&mut self, value: &mut String) -> Result<(), &'static str> {
        loop {
            match self.take() {
                Some('\'') => return Ok(()),
                Some(c) => value.push(c),
                None => return Err("a quote that is never closed"),
            }
        }
    }

    fn double_quoted(&mut self, value: &mut String) -> Result<(), &'static str> {
        let mut refused = None;
        loop {
            match self.take() {
                // The quote is read to its end even if it is refused: what follows it is not inside of it.
                Some('"') => return refused.map_or(Ok(()), Err),
                Some(c @ ('$' | '`')) => refused = Some(expansion(c)),
                Some('\\') => match self.take() {
                    Some('\n') => {}
                    Some(c @ ('\\' | '"' | '$' | '`')) => value.push(c),
                    Some(c) => value.extend(['\\', c]),
                    None => return Err("a quote that is never closed"),
                },
                Some(c) => value.push(c),
                None => return Err("a quote that is never closed"),
            }
        }
    }
}

fn expansion(c: char) -> &'static str {
    match c {
        '`' => "a command in backticks; nothing is run, write the value",
        _ => "'$' would be expanded; nothing is, write the value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rc(text: &str) -> ShellRc {
        ShellRc::parse("kvmrc", text)
    }

    fn value(text: &str) -> String {
        let rc = rc(text);
        assert_eq!(rc.refused(), [], "{text:?}");
        rc.get("K").unwrap().unwrap_or_else(|| panic!("{text:?}")).to_owned()
    }

    #[test]
    fn assignments_as_a_shell_reads_them() {
        for (text, expected) in [
            ("K=v", "v"),
            ("export K=v\n", "v"),
            ("  export\tK=v  # why\r\n", "v"),
            ("K=", ""),
            ("K=a#b", "a#b"),
            ("K='a $b `c` \"d\" \\'", "a $b `c` \"d\" \\"),
            ("K=\"a \\$b \\\"c\\\" \\d 'e'\"", "a $b \"c\" \\d 'e'"),
            ("K=a\\ b\"c d\"'e f'", "a bc de f"),
            ("K=\"one \\\ntwo\nthree\"", "one two\nthree"),
            ("K=a\\\nb", "ab"),
            ("K=1\nK=2", "2"),
            ("# K=1\nK=2 # K=3", "2"),
            ("export A=1 K=v B=\"2\"", "v"),
            ("K=qemu:///system", "qemu:///system"),
            ("K=1; L=2", "1"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
        assert_eq!(rc("export K").get("K"), Ok(None));
        assert_eq!(rc("").get("K"), Ok(None));
    }

    #[test]
    fn what_needs_a_shell_is_refused_by_line_and_name() {
        for (text, line) in [
            ("K=$HOME/x", 1),
            ("\n\nK=\"${A:-b}\"", 3),
            ("A=1\nK=`date`", 2),
            ("K=$(date)", 1),
            ("K=(a b)", 1),
            ("K=~/x", 1),
            ("K=a>b", 1),
            ("K=a b", 1),
            ("K='a", 1),
            ("K=\"a\nb", 1),
        ] {
            match rc(text).get("K") {
                Err(SettingsError::Line { file, line: found, key, .. }) => {
                    assert_eq!(
                        (file.as_str(), found, key.as_deref()),
                        ("kvmrc", line, Some("K")),
                        "{text:?}"
                    );
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_rest_of_the_file_is_kept() {
        let rc = rc("if [ -f /x ]; then\nA=$B\nfi\nK=v\nC=\"$(x)\nstill inside\" \nD=1\n");
        assert_eq!(rc.get("K"), Ok(Some("v")));
        assert_eq!(rc.get("D"), Ok(Some("1")));
        assert!(rc.get("A").is_err() && rc.get("C").is_err());
        // A setting that is set well once and badly once is not known.
        assert!(ShellRc::parse("f", "K=1\nK=$X\n").get("K").is_err());
        let shown: Vec<String> = rc.refused().iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 4, "{shown:?}");
        assert!(shown[1].starts_with("kvmrc, line 2: '$' would be expanded"), "{shown:?}");
    }

    proptest! {
        #[test]
        fn no_file_is_too_odd(text: String) {
            let rc = rc(&text);
            prop_assert!(rc.values().all(|(key, _)| !key.is_empty()));
        }

        #[test]
        fn single_quotes_carry_anything(value in "[^'\r\0]*") {
            let text = format!("export K='{value}'\nL=1\n");
            let rc = rc(&text);
            prop_assert_eq!(rc.get("K"), Ok(Some(value.as_str())));
            prop_assert_eq!(rc.get("L"), Ok(Some("1")));
        }
    }
}
