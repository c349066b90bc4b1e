//! A disk's chain of files, as the live domain has it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::domain_xml::Source;

/// One file, device or volume of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What it is, as libvirt spells it: a file named relatively by the one above it comes out with the directories of
    /// all names above, `disk.0.snap/disk.0.snap/1`.
    pub source: Source,
    /// `qcow2`, `raw`, ...
    pub format: Option<String>,
    /// libvirt's number for it while the domain runs.
    pub index: Option<u32>,
}

impl Layer {
    /// The path of a file or block device.
    pub fn path(&self) -> Option<&str> {
        match &self.source {
            Source::File(path) | Source::Block(path) => Some(path),
            Source::Network { .. } | Source::Empty | Source::Other(_) => None,
        }
    }

    /// What libvirt takes for it as the base or the top of a job: `vda[3]`, which can't be mistaken, or else the path.
    pub fn name(&self, target: &str) -> Option<String> {
        match self.index {
            Some(index) => Some(format!("{target}[{index}]")),
            None => self.path().map(str::to_owned),
        }
    }
}

/// The other file of a copy, or of a commit of the active layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Which of them.
    pub kind: MirrorKind,
    /// What is written.
    pub source: Source,
    /// Whether it has caught up with the disk.
    pub ready: bool,
}

/// What a mirror is for (`mirror/@job`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorKind {
    /// A copy.
    Copy,
    /// A commit of the active layer.
    ActiveCommit,
}

/// A disk of a live domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the guest: `vda`.
    pub target: String,
    /// The file that the guest writes, then what lies below it, in order. Empty for an empty drive.
    pub layers: Vec<Layer>,
    /// The job that writes to another file too.
    pub mirror: Option<Mirror>,
}

impl Chain {
    /// The layer that the guest writes.
    pub fn active(&self) -> Option<&Layer> {
        self.layers.first()
    }

    /// How deep a file lies in the chain, 0 for the active layer.
    pub fn position(&self, file: &str, names: &dyn Names) -> Option<usize> {
        let wanted = names.name(file);
        self.layers.iter().position(|layer| layer.path().is_some_and(|path| names.name(path) == wanted))
    }

    /// The chain's files under their own names.
    pub fn files(&self, names: &dyn Names) -> Vec<String> {
        let name = |layer: &Layer| match (&layer.source, layer.path()) {
            (_, Some(path)) => names.name(path),
            (Source::Network { protocol, name }, None) => format!("{protocol}:{name}"),
            (other, None) => format!("{other:?}"),
        };
        self.layers.iter().map(name).collect()
    }
}

/// Says by which name a file is known. One file has many spellings: through links, and through the links to themselves
/// in OpenNebula's snapshot directories (contract TM 2.2).
pub trait Names {
    /// The same name for each spelling of one file, and another for each other file.
    fn name(&self, path: &str) -> String;
}

/// Names by spelling alone, without a look at any file system: doubled slashes and single dots go, and a directory
/// `x.snap` within itself is itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spelling;

impl Names for Spelling {
    fn name(&self, path: &str) -> String {
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
            let again = part.ends_with(".snap") && parts.last() == Some(&part);
            if !again {
                parts.push(part);
            }
        }
        format!("/{}", parts.join("/"))
    }
}

/// Names that somebody else looks up, each path once: what a path led to when it was first seen in a chain stays its
/// name, though the file be deleted later.
pub struct Remembered<F> {
    look: F,
    known: RefCell<BTreeMap<String, String>>,
}

impl<F: Fn(&str) -> Option<String>> Remembered<F> {
    /// Names found by `look`; the spelling decides where it finds nothing.
    pub fn new(look: F) -> Self {
        Remembered { look, known: RefCell::default() }
    }
}

impl<F: Fn(&str) -> Option<String>> Names for Remembered<F> {
    fn name(&self, path: &str) -> String {
        let plain = Spelling.name(path);
        if let Some(name) = self.known.borrow().get(&plain) {
            return name.clone();
        }
        let name = (self.look)(&plain).unwrap_or_else(|| plain.clone());
        self.known.borrow_mut().insert(plain, name.clone());
        name
    }
}
