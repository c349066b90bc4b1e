//! The network's share of a silence.
//!
//! A guest that moves is silent while QEMU hands it over, and for as long afterwards as the network still looks for it
//! in the old place. The first is the hypervisor's business, the second the network's. From frames **sent by the guest**
//! (its address is their source), captured in three places on one clock:
//!
//! ```text
//! source tap       ──●──●──●                                   last frame
//! destination tap                         ●──●──●              first frame
//! observer         ───●──●──●                    ●──●──●       first frame that came from the destination
//!                          │◄── switch ──►│
//!                          │◄──── whole ────────►│
//!                                         │◄─────►│ share = whole − switch
//! ```
//!
//! The observer's first frame is the first one seen at or after the destination tap's first: what it sees earlier left
//! the source tap, and nothing can be seen before it was sent. (A frame from the source still on its way at that moment
//! would pass for the first one from the destination; that needs a path slower than the switch, which takes
//! milliseconds at least.)
//!
//! Two things about taps. A broadcast of the guest, its announcement above all, also leaves by the tap of the host where
//! the guest is not: the captures must hold only what comes *in* by a tap. And QEMU's announcement comes in by the
//! destination tap with the guest's address, so it counts as the guest's first frame, which is right: from then on the
//! network could know.

use std::time::Duration;

/// A capture's stamp: nanoseconds since 1970 on the capturing machine's wall clock.
pub type Stamp = u64;

/// The silence of one move, split between the hypervisor and the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkShare {
    /// The last frame on the source tap.
    pub last_at_source: Stamp,
    /// The first frame on the destination tap.
    pub first_at_destination: Stamp,
    /// The first frame from the destination that the observer saw.
    pub first_at_observer: Stamp,
}

impl NetworkShare {
    /// Last source-tap frame to first destination-tap frame: the guest did not send.
    pub fn switch(&self) -> Duration {
        Duration::from_nanos(self.first_at_destination.saturating_sub(self.last_at_source))
    }

    /// Last source-tap frame to first frame at the observer.
    pub fn whole(&self) -> Duration {
        Duration::from_nanos(self.first_at_observer.saturating_sub(self.last_at_source))
    }

    /// What is left when the switch is taken from the whole: the guest sent and was not heard.
    pub fn share(&self) -> Duration {
        self.whole().saturating_sub(self.switch())
    }
}

/// Why no share can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// The guest sent nothing through the source tap while it was captured.
    #[error("no frame from the guest on the source tap")]
    NothingAtSource,
    /// The guest sent nothing through the destination tap while it was captured.
    #[error("no frame from the guest on the destination tap")]
    NothingAtDestination,
    /// The taps contradict each other: a capture holds what leaves by the tap as well (the guest's own broadcasts come
    /// by there from the other host), or there are two clocks, or two guests with one address.
    #[error(
        "the source tap still saw the guest {overlap:?} after the destination tap first did: a capture of more than \
         what comes in (tcpdump -Q in), two clocks, or two guests"
    )]
    Overlap {
        /// By how much the two overlap.
        overlap: Duration,
    },
    /// Nothing from the destination reached the observer before the capture ended.
    #[error("no frame from the guest at the observer after the first one on the destination tap")]
    NothingAtObserver,
}

/// Splits one move's silence. The lists hold the stamps of frames sent by the guest, in any order, of one move only.
///
/// # Errors
/// If a list lacks the frame that is asked of it, or the taps contradict each other; never a made-up number.
pub fn network_share(
    source: &[Stamp],
    destination: &[Stamp],
    observer: &[Stamp],
) -> Result<NetworkShare, ShareError> {
    let last = *source.iter().max().ok_or(ShareError::NothingAtSource)?;
    let first = *destination.iter().min().ok_or(ShareError::NothingAtDestination)?;
    if last > first {
        return Err(ShareError::Overlap { overlap: Duration::from_nanos(last - first) });
    }
    let heard = observer.iter().filter(|stamp| **stamp >= first).min();
    Ok(NetworkShare {
        last_at_source: last,
        first_at_destination: first,
        first_at_observer: *heard.ok_or(ShareError::NothingAtObserver)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_drawn_case_has_a_known_answer() {
        let share = network_share(&[10, 20, 30], &[130, 140], &[12, 22, 32, 137, 142]).unwrap();
        assert_eq!(share.switch(), Duration::from_nanos(100));
        assert_eq!(share.whole(), Duration::from_nanos(107));
        assert_eq!(share.share(), Duration::from_nanos(7));
    }

    #[test]
    fn a_frame_still_on_its_way_from_the_source_is_not_the_first_from_the_destination() {
        // 32 is the source's last frame arriving; taking it would give a share of minus 98.
        let share = network_share(&[30], &[130], &[32, 150]).unwrap();
        assert_eq!(share.first_at_observer, 150);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(network_share(&[], &[1], &[1]), Err(ShareError::NothingAtSource));
        assert_eq!(network_share(&[1], &[], &[1]), Err(ShareError::NothingAtDestination));
        assert_eq!(network_share(&[1], &[5], &[2, 3]), Err(ShareError::NothingAtObserver));
        let overlap = Duration::from_nanos(4);
        assert_eq!(network_share(&[1, 9], &[5], &[6]), Err(ShareError::Overlap { overlap }));
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_parts_add_up(
            source in prop::collection::vec(0u64..1_000, 1..20),
            destination in prop::collection::vec(1_000u64..2_000, 1..20),
            observer in prop::collection::vec(0u64..4_000, 1..40),
        ) {
            let reversed = |list: &[u64]| list.iter().rev().copied().collect::<Vec<_>>();
            let split = network_share(&source, &destination, &observer);
            prop_assert_eq!(split, network_share(&reversed(&source), &reversed(&destination), &reversed(&observer)));
            if let Ok(split) = split {
                prop_assert_eq!(split.switch() + split.share(), split.whole());
                prop_assert!(split.first_at_observer >= split.first_at_destination);
                prop_assert!(observer.contains(&split.first_at_observer));
            } else {
                prop_assert_eq!(split, Err(ShareError::NothingAtObserver));
            }
        }
    }
}
