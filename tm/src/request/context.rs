//! The files of a context image, as words of a script.

use causeway_core::names::{DiskPath, NameError};

use super::args::Args;
use crate::error::TmError;
use crate::place::FileName;

/// One source of a context image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContextSource {
    pub path: DiskPath,
    pub name: FileName,
}

impl Args<'_> {
    /// The files of a context: `/path` or `/path:'name inside'`. The line was split on blanks without regard to the
    /// quotes (contract TM 1.3, 5), so a quoted name is put together again.
    pub(super) fn sources(&self, words: &[String]) -> Result<Vec<ContextSource>, TmError> {
        let mut sources = Vec::new();
        let mut words = words.iter().enumerate().map(|(index, word)| (index + 1, word));
        while let Some((position, word)) = words.next() {
            if word.is_empty() {
                continue;
            }
            let mut text = word.clone();
            if text.contains(":'") {
                while text.matches('\'').count() < 2 {
                    let Some((_, more)) = words.next() else {
                        let error = NameError::new("context file", &text, "PATH:'NAME' with a closing quote");
                        return Err(self.wrong(position, error));
                    };
                    text.push(' ');
                    text.push_str(more);
                }
            }
            let source = self.context_source(position, &text)?;
            // Stock leaves out one of the two without a word.
            let other = sources.iter().find(|other: &&ContextSource| other.name == source.name);
            if let Some(other) = other.filter(|other| other.path != source.path) {
                let (one, other) = (other.path.clone(), source.path);
                return Err(TmError::OneName { slot: self.slot.to_string(), one, other, name: source.name });
            }
            sources.push(source);
        }
        Ok(sources)
    }

    fn context_source(&self, position: usize, text: &str) -> Result<ContextSource, TmError> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric())) {
            let what = format!("{}: downloading {text} into a context image is not built", self.slot);
            return Err(TmError::NotYet(what));
        }
        let (path, name) = match text.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (text, None),
        };
        let path: DiskPath = self.read(position, path)?;
        let name = match name {
            Some(name) => name.strip_prefix('\'').and_then(|n| n.strip_suffix('\'')).unwrap_or(name),
            None => path.as_str().trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
        };
        Ok(ContextSource { name: self.read(position, name)?, path })
    }
}
