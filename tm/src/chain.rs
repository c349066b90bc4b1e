//! The layers of a disk, as they were read on its host: what a plan for a running guest's disk is made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a layer stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beneath {
    /// Nothing.
    Nothing,
    /// Another layer.
    Layer(u32),
    /// A file of an image's datastore.
    File(String),
}

/// A disk that is a chain of qcow2 files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The directory of the layers.
    pub directory: String,
    /// The layer that the disk leads to.
    pub active: u32,
    /// What each layer stands on.
    pub layers: BTreeMap<u32, Beneath>,
    /// Snapshots that are in another layer than that of their number.
    pub moved: BTreeMap<u32, u32>,
}

/// The layer in which snapshot `id` is, if it is not known to have gone: once another one has moved into the layer of its
/// number, it has.
pub(crate) fn place(moved: &BTreeMap<u32, u32>, id: u32) -> Option<u32> {
    match moved.get(&id) {
        Some(place) => Some(*place),
        None => moved.values().all(|place| *place != id).then_some(id),
    }
}

impl Chain {
    /// The layer that holds snapshot `id`, if there is one.
    pub fn of_snapshot(&self, id: u32) -> Option<u32> {
        place(&self.moved, id).filter(|place| self.layers.contains_key(place))
    }

    /// The layers that stand on this one.
    pub fn above(&self, number: u32) -> Vec<u32> {
        let stands = |(above, base): (&u32, &Beneath)| (*base == Beneath::Layer(number)).then_some(*above);
        self.layers.iter().filter_map(stands).collect()
    }

    /// Whether the active layer stands on this one, or on one that does.
    pub fn is_below_active(&self, number: u32) -> bool {
        let mut at = self.active;
        // No longer than there are layers: what was read has no circles, but it has travelled since.
        for _ in 0..self.layers.len() {
            match self.layers.get(&at) {
                Some(Beneath::Layer(below)) if *below == number => return true,
                Some(Beneath::Layer(below)) => at = *below,
                _ => return false,
            }
        }
        false
    }

    /// A layer's path.
    pub fn path(&self, number: u32) -> String {
        format!("{}/{number}", self.directory)
    }
}
