//! Where a guest is, judged from what each host says of it.
//!
//! "Absent" and "unreachable" are two sightings, and only the first proves anything. The judge is pure: it decides from
//! sightings, the engine acts on its verdict, and the same judge serves a failed migration, a lost answer and the
//! adoption of an action after a restart.

use serde::{Deserialize, Serialize};

use crate::plan::Order;

/// What one host says of one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sighting {
    /// libvirt answered: no such domain.
    Absent,
    /// Its processors run.
    Running,
    /// Its processors run, and it is being sent to another host.
    Migrating,
    /// It stands still for a reason that no migration gave: its owner or an I/O error paused it. It lives here.
    Paused,
    /// It stands still at the end of a migration's sending side: it may run again only if it runs nowhere else.
    PausedByMigration,
    /// It is an incoming copy that has not been started.
    Incoming,
    /// libvirt holds the domain, but its guest has ended (shut off, crashed): nothing of it runs here.
    Ended,
    /// The host or its libvirt did not answer; the text says how.
    Unreachable(String),
}

impl Sighting {
    /// Whether this host has been proved not to run the guest.
    fn proves_absence(&self) -> bool {
        matches!(self, Sighting::Absent | Sighting::Ended)
    }

    /// Whether the guest lives here.
    fn lives(&self) -> bool {
        matches!(self, Sighting::Running | Sighting::Migrating | Sighting::Paused)
    }
}

/// Where a guest is after a migration was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It lives on the source. The orders bring both hosts to rest; none means there is nothing to do.
    Source(Orders),
    /// It lives on the destination.
    Destination(Orders),
    /// It is on its way: ask again until it has arrived or the move has ended.
    Moving,
    /// It was proved to run nowhere: it died, or its host's memory is gone.
    Nowhere,
    /// Not proved; ask again.
    Unknown(String),
}

/// What is to be done on each host once the guest's place is proved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// On the source.
    pub source: Option<Order>,
    /// On the destination.
    pub destination: Option<Order>,
}

/// Judges a migration from both hosts' words.
///
/// The source is resumed only when the destination was asked and has no running copy. A guest that runs on both cannot
/// be told apart from a lie; it is [`Unknown`](Verdict::Unknown), never a reason to kill one.
pub fn judge_migration(source: &Sighting, destination: &Sighting) -> Verdict {
    use Sighting::{Absent, Ended, Incoming, Migrating, PausedByMigration, Running, Unreachable};
    let nothing = Orders::default();
    let discard_incoming = Orders { destination: Some(Order::Discard), ..nothing };
    let discard_source = Orders { source: Some(Order::Discard), ..nothing };
    let resume = |destination| Orders { source: Some(Order::Resume), destination };
    match (source, destination) {
        (s, d) if s.lives() && d.lives() => {
            Verdict::Unknown("the guest is seen running on both hosts".to_owned())
        }
        (Migrating, _) => Verdict::Moving,
        (s, Incoming) if s.lives() => Verdict::Source(discard_incoming),
        (s, Absent | Ended) if s.lives() => Verdict::Source(nothing),
        // It runs on the source, so the destination cannot run it: QEMU lets go of one before it starts the other.
        (Running, Unreachable(_)) => Verdict::Source(nothing),
        (PausedByMigration, d) if d.lives() => Verdict::Destination(discard_source),
        (PausedByMigration, Absent | Ended) => Verdict::Source(resume(None)),
        (PausedByMigration, Incoming) => {
            Verdict::Unknown("the switch-over is not finished on either host".to_owned())
        }
        (s, d) if s.proves_absence() && d.lives() => Verdict::Destination(nothing),
        // The source has let go: what came in is all there is of the guest.
        (Absent | Ended, Incoming | PausedByMigration) => {
            Verdict::Destination(Orders { destination: Some(Order::Resume), ..nothing })
        }
        (s, d) if s.proves_absence() && d.proves_absence() => Verdict::Nowhere,
        // It runs on the destination: whatever the source says later, it is not the guest's place.
        (Unreachable(_), Running) => Verdict::Destination(nothing),
        (Unreachable(why), _) | (_, Unreachable(why)) => Verdict::Unknown(why.clone()),
        (s, d) => Verdict::Unknown(format!("the source says {s:?}, the destination {d:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Sighting> {
        use Sighting::*;
        vec![Absent, Running, Paused, PausedByMigration, Incoming, Ended, Unreachable("no route".to_owned())]
    }

    /// The promises that matter, over every pair of sightings.
    #[test]
    fn no_pair_of_sightings_costs_a_guest() {
        for source in all() {
            for destination in all() {
                let verdict = judge_migration(&source, &destination);
                let pair = format!("{source:?} / {destination:?}: {verdict:?}");
                let (Verdict::Source(orders) | Verdict::Destination(orders)) = &verdict else {
                    continue;
                };
                if orders.source == Some(Order::Resume) {
                    assert!(destination.proves_absence(), "resumed with the destination unproved: {pair}");
                    assert_eq!(source, Sighting::PausedByMigration, "{pair}");
                }
                if orders.source == Some(Order::Discard) {
                    assert!(destination.lives() && !source.lives(), "destroyed the only copy: {pair}");
                }
                if orders.destination == Some(Order::Discard) {
                    assert!(source.lives() && !destination.lives(), "destroyed the only copy: {pair}");
                }
                if orders.destination == Some(Order::Resume) {
                    assert!(source.proves_absence(), "ran twice: {pair}");
                }
            }
        }
    }

    #[test]
    fn silence_of_a_host_is_not_absence() {
        let silent = Sighting::Unreachable("timed out".to_owned());
        for other in [Sighting::Absent, Sighting::Ended, Sighting::PausedByMigration, Sighting::Incoming] {
            assert!(matches!(judge_migration(&other, &silent), Verdict::Unknown(_)), "{other:?}");
        }
        assert!(matches!(judge_migration(&silent, &Sighting::Incoming), Verdict::Unknown(_)));
        assert!(matches!(judge_migration(&silent, &silent), Verdict::Unknown(_)));
        assert_eq!(judge_migration(&Sighting::Absent, &Sighting::Absent), Verdict::Nowhere);
    }
}
