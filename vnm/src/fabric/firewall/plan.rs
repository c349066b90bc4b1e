//! From what is there to what must be there, in one batch. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use causeway_core::names::{LinkName, Mac};
use sha2::{Digest, Sha256};

use super::change::{Chain, Change, Command, Element, Family, Hook, Key, Map};
use super::fence::{Fence, Owner, in_chain, out_chain};
use super::groups::{self, Way};
use super::nft::FirewallError;
use super::observed::{Label, Observed};
use super::skeleton::{self, Built, ZONES};
use super::spoofing::{self, Rule};

/// Bytes of a rule's digest: enough that nobody finds two rules with the same one.
const DIGEST: usize = 10;

/// A chain as it must be.
struct Wanted {
    chain: Chain,
    hook: Option<Hook>,
    rules: Vec<(Label, Rule)>,
}

/// The batch after which `fences` stand, and of `taps` nothing else does; none where it is so.
///
/// `taps` are all devices of the VM's NICs, with a guard or without one: whatever bears their names is replaced, whoever's it was.
/// `observed` must have been read with a [`super::Scope`] of the same.
///
/// # Errors
/// [`FirewallError::NoZone`] when there are more bridges with groups than numbers for their connections;
/// [`FirewallError::Name`] for a device that can't be named to `nft`.
pub fn difference(
    fences: &[Fence],
    taps: &BTreeSet<LinkName>,
    observed: &Observed,
) -> Result<Option<Change>, FirewallError> {
    fences.iter().flat_map(|fence| [&fence.guard.tap, &fence.bridge]).try_for_each(plain)?;
    let own: BTreeSet<&LinkName> = taps.iter().chain(fences.iter().map(|fence| &fence.guard.tap)).collect();
    // A guard that keeps nothing away is none.
    let fences: Vec<&Fence> = fences.iter().filter(|fence| !fence.guard.is_open()).collect();
    let mut elements: BTreeSet<Element> = fences.iter().flat_map(|fence| elements(fence)).collect();
    let mut stale: BTreeSet<Element> = stale(&elements, &own, observed);
    let after = |map| observed.elements.difference(&stale).chain(&elements).filter(move |e| e.map == map);

    let needed = after(Map::From).next().is_some();
    let used: BTreeSet<String> = after(Map::Outbound)
        .filter_map(|element| element.comment.parse::<Owner>().ok())
        .map(|owner| owner.bridge.to_string())
        .collect();

    let mut zone_chains: Vec<Wanted> = Vec::new();
    for (bridge, zone) in zones(&fences, observed)? {
        let of_bridge = || fences.iter().filter(|fence| fence.bridge == bridge);
        let hosts: BTreeSet<Mac> = of_bridge().flat_map(|fence| fence.hosts.iter().copied()).collect();
        let comment = format!("bridge {bridge}");
        let chain = skeleton::zone_chain(zone);
        let key = Key::Device(bridge.to_string());
        elements.insert(Element {
            map: Map::Bridges,
            key,
            chain: chain.name.clone(),
            comment: comment.clone(),
        });
        zone_chains.push(labelled(chain, None, skeleton::zone_rules(zone, &hosts), &comment, None));
    }
    // Where no guest leaves, each bridge keeps those that it has.
    let bridges = observed.elements.iter().filter(|e| e.map == Map::Bridges && !observed.others_unread);
    for element in bridges {
        if !matches!(&element.key, Key::Device(bridge) if used.contains(bridge)) {
            stale.insert(element.clone());
        }
    }
    let own_chains: Vec<Arc<[Wanted]>> = fences.iter().map(|fence| known_chains(fence)).collect();
    let shared = SHARED.iter().filter(|_| needed);
    let wanted = shared.chain(&zone_chains).chain(own_chains.iter().flat_map(|chains| chains.iter()));
    let wanted: Vec<&Wanted> = wanted.collect();

    let mut change = batch(&wanted, &elements, &stale, &own, observed);
    if !needed {
        // Where somebody else has put something into our table, that stays, and with it what it may lead to.
        let alone = |family: Family| !observed.shared.contains(&family);
        change.commands.retain(|command| command.family().is_some_and(|family| !alone(family)));
        let tables = observed.tables.iter().copied().filter(|family| alone(*family));
        change.commands.extend(tables.map(Command::DeleteTable));
    }
    Ok((!change.commands.is_empty()).then(|| named(change, &fences, &own, &elements, &stale, observed)))
}

/// The batch after which nothing of `taps` stands; none where it is so.
pub fn removal(taps: &BTreeSet<LinkName>, observed: &Observed) -> Option<Change> {
    // Nothing needs a number.
    difference(&[], taps, observed).ok().flatten()
}

/// That a name means nothing but itself to the firewall.
///
/// # Errors
/// [`FirewallError::Name`].
pub fn plain(name: &LinkName) -> Result<(), FirewallError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.as_str().chars().all(plain) {
        true => Ok(()),
        false => Err(FirewallError::Name { name: name.clone() }),
    }
}

/// The elements of a NIC; none of one that keeps nothing away.
pub(super) fn elements(fence: &Fence) -> Vec<Element> {
    if fence.guard.is_open() {
        return Vec::new();
    }
    let element = |map: Map, key, chain| Element { map, key, chain, comment: fence.owner().to_string() };
    let tap = || Key::Device(fence.guard.tap.to_string());
    let mut out = vec![
        element(Map::From, tap(), fence.out_chain()),
        element(Map::Direct, tap(), skeleton::DIRECT.to_owned()),
    ];
    if fence.guard.is_stateful() {
        out.push(element(Map::To, tap(), fence.in_chain()));
        out.push(element(Map::Outbound, Key::Mark(spoofing::mark_from(fence)), fence.out_chain()));
        out.push(element(Map::Inbound, Key::Mark(spoofing::mark_to(fence)), fence.in_chain()));
    }
    out
}

/// The chains of NICs that were worked out last, the newest first: `post` looks whether there is what `pre` has made just before.
static LATEST: Mutex<VecDeque<(Fence, Arc<[Wanted]>)>> = Mutex::new(VecDeque::new());

/// How many are kept.
const KEPT: usize = 64;
/// Of no more rules than that: longer ones would fill the memory.
const SHORT: usize = 256;

/// The chains of a NIC, from those or worked out.
fn known_chains(fence: &Fence) -> Arc<[Wanted]> {
    let latest = || LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, chains)) = latest().iter().find(|(known, _)| known == fence) {
        return Arc::clone(chains);
    }
    let chains: Arc<[Wanted]> = chains(fence).into();
    if chains.iter().map(|wanted| wanted.rules.len()).sum::<usize>() > SHORT {
        return chains;
    }
    let mut latest = latest();
    latest.push_front((fence.clone(), Arc::clone(&chains)));
    latest.truncate(KEPT);
    chains
}

/// The chains of a NIC.
fn chains(fence: &Fence) -> Vec<Wanted> {
    let whose = format!("VM {} NIC {}", fence.vm, fence.guard.nic);
    let deploy = fence.deploy.as_ref().map(|deploy| deploy.as_str().to_owned());
    let chain = |family, name, rules| labelled(Chain { family, name }, None, rules, &whose, deploy.clone());
    let mut out = vec![chain(Family::Bridge, fence.out_chain(), spoofing::outgoing(fence))];
    if fence.guard.is_stateful() {
        out.push(chain(Family::Bridge, fence.in_chain(), spoofing::incoming(fence)));
        let outbound = groups::rules(Way::Out, &fence.guard.outbound, fence.number);
        out.push(chain(Family::Inet, fence.out_chain(), outbound));
        let inbound = groups::rules(Way::In, &fence.guard.inbound, fence.number);
        out.push(chain(Family::Inet, fence.in_chain(), inbound));
    }
    out
}

/// What all guards share; it is the same for every action.
static SHARED: LazyLock<Vec<Wanted>> = LazyLock::new(|| {
    let shared = |built: Built| labelled(built.chain, built.hook, built.rules, "all guards", None);
    [Family::Bridge, Family::Inet].into_iter().flat_map(skeleton::chains).map(shared).collect()
});

/// The chains that all guards share.
pub(super) fn shared_chains() -> impl Iterator<Item = &'static Chain> {
    SHARED.iter().map(|wanted| &wanted.chain)
}

fn labelled(
    chain: Chain,
    hook: Option<Hook>,
    rules: Vec<Rule>,
    whose: &str,
    deploy: Option<String>,
) -> Wanted {
    let label = |rule: &Rule| Label { whose: whose.to_owned(), deploy: deploy.clone(), digest: digest(rule) };
    Wanted { chain, hook, rules: rules.into_iter().map(|rule| (label(&rule), rule)).collect() }
}

fn digest(rule: &Rule) -> String {
    // Statements are maps with names: there is nothing in them that can't be written.
    let hash = Sha256::digest(serde_json::to_vec(rule).unwrap_or_default());
    hash.iter().take(DIGEST).map(|byte| format!("{byte:02x}")).collect()
}

/// What must go: whatever is of those devices, or has a key that is wanted otherwise.
fn stale(wanted: &BTreeSet<Element>, own: &BTreeSet<&LinkName>, observed: &Observed) -> BTreeSet<Element> {
    let names: BTreeSet<String> = own.iter().flat_map(|tap| [in_chain(tap), out_chain(tap)]).collect();
    let keys: BTreeSet<(Map, &Key)> = wanted.iter().map(|element| (element.map, &element.key)).collect();
    let devices: BTreeSet<&str> = own.iter().map(|tap| tap.as_str()).collect();
    let device = |key: &Key| matches!(key, Key::Device(name) if devices.contains(name.as_str()));
    let of_nics = observed.elements.iter().filter(|element| element.map != Map::Bridges);
    of_nics
        .filter(|element| {
            names.contains(&element.chain)
                || device(&element.key)
                || keys.contains(&(element.map, &element.key))
        })
        .filter(|element| !wanted.contains(element))
        .cloned()
        .collect()
}

/// The zones of the bridges that need one: that which a bridge has, or else the first free one from where its name points to. The kernel
/// keeps connections for days after their guest has gone: a bridge should not come into those of another network.
fn zones(fences: &[&Fence], observed: &Observed) -> Result<BTreeMap<LinkName, u16>, FirewallError> {
    let there = observed.zones();
    let mut taken: BTreeSet<u16> = there.values().copied().collect();
    let mut out = BTreeMap::new();
    for fence in fences.iter().filter(|fence| fence.guard.is_stateful()) {
        if out.contains_key(&fence.bridge) {
            continue;
        }
        let zone = match there.get(fence.bridge.as_str()) {
            Some(zone) => *zone,
            None => {
                let free = from(&fence.bridge).find(|zone| !taken.contains(zone));
                free.ok_or_else(|| FirewallError::NoZone { bridge: fence.bridge.clone() })?
            }
        };
        taken.insert(zone);
        out.insert(fence.bridge.clone(), zone);
    }
    Ok(out)
}

/// Every zone, from one that depends on the bridge's name.
fn from(bridge: &LinkName) -> impl Iterator<Item = u16> {
    let digest = Sha256::digest(bridge.as_str());
    let first = digest.iter().take(2).fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    ZONES.cycle().skip(first % ZONES.len()).take(ZONES.len())
}

/// The commands, in an order in which each finds what it names.
fn batch(
    wanted: &[&Wanted],
    elements: &BTreeSet<Element>,
    stale: &BTreeSet<Element>,
    own: &BTreeSet<&LinkName>,
    observed: &Observed,
) -> Change {
    let differs: Vec<&Wanted> = wanted.iter().copied().filter(|wanted| !is_there(wanted, observed)).collect();
    let new: Vec<&Element> = elements.iter().filter(|element| !observed.elements.contains(element)).collect();

    let mut commands = Vec::new();
    let touched: BTreeSet<Family> = differs.iter().map(|wanted| wanted.chain.family).collect();
    for family in &touched {
        commands.push(Command::AddTable(*family));
        commands.extend(Map::ALL.into_iter().filter(|map| map.family() == *family).map(Command::AddMap));
    }
    commands.extend(differs.iter().map(|w| Command::AddChain(w.chain.clone(), w.hook.clone())));
    for Wanted { chain, rules, .. } in &differs {
        if observed.chains.get(chain).is_some_and(|there| !there.is_empty()) {
            commands.push(Command::Flush(chain.clone()));
        }
        commands.extend(rules.iter().map(|(label, rule)| Command::AddRule {
            chain: chain.clone(),
            comment: label.text(),
            expr: rule.clone(),
        }));
    }
    commands.extend(stale.iter().cloned().map(Command::DeleteElement));
    commands.extend(new.into_iter().cloned().map(Command::AddElement));

    let names = own.iter().flat_map(|tap| [in_chain(tap), out_chain(tap)]);
    let bridges =
        stale.iter().filter(|element| element.map == Map::Bridges).map(|element| element.chain.clone());
    let names: BTreeSet<String> = names.chain(bridges).collect();
    let needed: BTreeSet<&Chain> = wanted.iter().map(|wanted| &wanted.chain).collect();
    for (chain, rules) in &observed.chains {
        if names.contains(&chain.name) && !needed.contains(chain) {
            if !rules.is_empty() {
                commands.push(Command::Flush(chain.clone()));
            }
            commands.push(Command::DeleteChain(chain.clone()));
        }
    }
    Change { commands, ..Change::default() }
}

fn is_there(wanted: &Wanted, observed: &Observed) -> bool {
    let Some(there) = observed.chains.get(&wanted.chain) else { return false };
    let mut pairs = wanted.rules.iter().zip(there);
    there.len() == wanted.rules.len() && pairs.all(|((label, _), comment)| label.is(comment))
}

/// Says which devices a batch is about.
fn named(
    mut change: Change,
    fences: &[&Fence],
    own: &BTreeSet<&LinkName>,
    elements: &BTreeSet<Element>,
    stale: &BTreeSet<Element>,
    observed: &Observed,
) -> Change {
    let chains: BTreeSet<&str> = change
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::AddRule { chain, .. } | Command::Flush(chain) | Command::DeleteChain(chain) => {
                Some(chain.name.as_str())
            }
            _ => None,
        })
        .collect();
    let moves: BTreeSet<&str> =
        elements.difference(&observed.elements).chain(stale).map(|element| element.chain.as_str()).collect();
    let is_about = |tap: &LinkName| {
        [in_chain(tap), out_chain(tap)]
            .iter()
            .any(|name| chains.contains(name.as_str()) || moves.contains(name.as_str()))
    };
    let guarded: BTreeSet<&LinkName> = fences.iter().map(|fence| &fence.guard.tap).collect();
    let (guards, frees): (BTreeSet<LinkName>, BTreeSet<LinkName>) = own
        .iter()
        .filter(|tap| is_about(tap))
        .map(|tap| (*tap).clone())
        .partition(|tap| guarded.contains(tap));
    change.guards = guards;
    change.frees = frees;
    change
}
