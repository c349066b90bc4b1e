//! What of ours is in the kernel, as far as it was looked at.
//!
//! A rule is known again by its comment, in which a digest stands for what it says. What a rule says is written in one way by us, in
//! another by the kernel, and in a third by each version of `nft`; none of them changes a rule without removing it.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

use super::change::{Chain, Element, Family, Key, Map};
use super::fence::{Fence, Owner, in_chain, out_chain};
use super::skeleton;

/// What is looked at, besides what all guards share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Devices of guests.
    pub taps: BTreeSet<LinkName>,
    /// Bridges.
    pub bridges: BTreeSet<LinkName>,
}

impl Scope {
    /// What must be known to apply these, and to take away what else bears the names of `taps`.
    pub fn of<'a>(fences: impl IntoIterator<Item = &'a Fence>, taps: &BTreeSet<LinkName>) -> Self {
        let mut scope = Scope { taps: taps.clone(), bridges: BTreeSet::new() };
        for fence in fences {
            scope.taps.insert(fence.guard.tap.clone());
            scope.bridges.insert(fence.bridge.clone());
        }
        scope
    }

    /// The chains that are looked at by name.
    pub(super) fn chains(&self) -> BTreeSet<Chain> {
        let mut out = BTreeSet::new();
        for family in [Family::Bridge, Family::Inet] {
            out.extend(skeleton::chains(family).into_iter().map(|built| built.chain));
            for name in self.taps.iter().flat_map(|tap| [in_chain(tap), out_chain(tap)]) {
                out.insert(Chain { family, name });
            }
        }
        out
    }
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The tables.
    pub tables: BTreeSet<Family>,
    /// The chains that were looked at and are there, with the comments of their rules in order.
    pub chains: BTreeMap<Chain, Vec<String>>,
    /// All elements of our maps.
    pub elements: BTreeSet<Element>,
    /// Families whose table holds something that somebody else has put there; looked for where the last guard may go.
    pub shared: BTreeSet<Family>,
}

impl Observed {
    /// Every guarded device of the host, and whose it is as far as that can be read.
    pub fn owners(&self) -> BTreeMap<String, Option<Owner>> {
        let from = self.elements.iter().filter(|element| element.map == Map::From);
        from.filter_map(|element| match &element.key {
            Key::Device(tap) => Some((tap.clone(), element.comment.parse().ok())),
            Key::Mark(_) => None,
        })
        .collect()
    }

    /// The chains of bridges, with their zones.
    pub(super) fn zones(&self) -> BTreeMap<String, u16> {
        let bridges = self.elements.iter().filter(|element| element.map == Map::Bridges);
        bridges
            .filter_map(|element| match &element.key {
                Key::Device(bridge) => Some((bridge.clone(), skeleton::zone_of(&element.chain)?)),
                Key::Mark(_) => None,
            })
            .collect()
    }
}

/// What a rule of ours is known again by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    /// Whose it is, up to the guest.
    pub whose: String,
    /// The guest, where it is known.
    pub deploy: Option<String>,
    /// What it says, in short.
    pub digest: String,
}

const DEPLOY: &str = " deploy ";
const DIGEST: &str = " #";

impl Label {
    /// As the kernel keeps it.
    pub fn text(&self) -> String {
        let deploy = self.deploy.as_ref().map(|deploy| format!("{DEPLOY}{deploy}")).unwrap_or_default();
        format!("{}{deploy}{DIGEST}{}", self.whose, self.digest)
    }

    /// Whether a rule with that comment is this one. Of whichever guest, where ours is not known.
    pub fn is(&self, comment: &str) -> bool {
        if self.deploy.is_some() {
            return comment == self.text();
        }
        let Some((whose, digest)) = comment.split_once(DIGEST) else { return false };
        let whose = whose.split_once(DEPLOY).map_or(whose, |(whose, _)| whose);
        whose == self.whose && digest == self.digest
    }
}
