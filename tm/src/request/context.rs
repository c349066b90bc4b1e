//! The files of a context image, as words of a script.

use causeway_core::names::{DiskPath, NameError};

use super::args::Args;
use crate::address::WebAddress;
use crate::error::TmError;
use crate::place::FileName;
use crate::plan::Source;

/// One source of a context image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContextSource {
    pub from: Source,
    pub name: FileName,
}

impl Args<'_> {
    /// The files of a context: `/path`, `/path:'name inside'` or an address. The line was split on blanks without regard to the
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
            sources.push(self.context_source(position, &text)?);
        }
        Ok(sources)
    }

    fn context_source(&self, position: usize, text: &str) -> Result<ContextSource, TmError> {
        if text.contains("://") {
            let address: WebAddress = self.read(position, text)?;
            let name = address.file_name().map_err(|error| self.wrong(position, error))?;
            return Ok(ContextSource { name, from: Source::Address(address) });
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
        Ok(ContextSource { name: self.read(position, name)?, from: Source::File(path) })
    }
}
