//! Moves a VM's directory to a host that does not see it (`mv.ssh`, contract TM 2.1), over one ssh session of its own.
//!
//! Promises:
//! - **No byte is lost.** The receiver builds the copy beside, under a temporary name, brings it to the disk, compares
//!   every segment and every file with the hash that the sender took of it, and only then gives it its name, which
//!   nothing may have. The word of its origin lies in it until the sender's directory has gone, first from its name,
//!   then from the disk.
//! - **Killed anywhere, at either end, or cut off, and run again, it comes to the same end**, from where it was: the
//!   receiver proves by hashes what it has.
//! - **Nothing moves where both hosts see one directory**: the receiver looks for a file of a random name that the sender
//!   has just made.
//! - **Nothing is written outside of the VM's directory**: what travels are names of single entries, relative to
//!   directories that are open.
//!
//! ```text
//!  sender                                     receiver
//!     ── source: probe, or nothing there ──────▶
//!     ◀──── destination: same, nothing, our copy, other ──
//!
//!  same:      done                            nothing
//!  other:     refuse
//!  our copy:  set aside, remove ── removed ──▶ remove the word of the origin, done
//!  nothing:   tree ──────────────────────────▶ make or find the half-made copy
//!     ◀──────────────────────── begin ──
//!     ── directories, links, files in segments ▶ write, compare
//!     ── end ──────────────────────────────────▶ to the disk, rename
//!     ◀─────────────────────── placed ──
//!             set aside, remove ── removed ──▶ remove the word of the origin, done
//! ```
//!
//! A guest that moves while it runs needs its directory at both ends for a while. Then the move is made in parts
//! ([`Part`]): after `placed` the sender says `kept`, and the word of the origin stays until the last part.
//!
//! Either end may be where the step runs; it starts the other one as a child, which is an ssh client in real life.
//! Memory is a few buffers of a MiB, the names of one directory, and 33 bytes for each 16 MiB of the file that is gone on
//! with.

mod drive;
mod error;
pub mod frame;
mod grains;
mod order;
mod pack;
mod receive;
mod send;
mod tree;
mod walk;
mod wire;

pub use drive::{Courier, PAUSES, carry, serve};
pub use error::CarryError;
pub use order::{Carry, End, Manner, Part, Spot, turn_to};
pub use pack::pays;

/// How a move ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The directory is at the destination, and nowhere else.
    Moved,
    /// A copy of it is at the destination, too.
    Copied,
    /// The copy that was at the destination is gone, or there was none.
    Dropped,
    /// Both hosts see the same directory.
    Same,
}

/// What an end tells of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// A tree begins.
    Begins {
        /// About how many bytes of data it has.
        bytes: u64,
        /// Some of it is at the destination.
        resumed: bool,
    },
    /// So many bytes are at the destination.
    Done(u64),
    /// All of it went out.
    Sent {
        /// Bytes of data.
        bytes: u64,
        /// Bytes that went over the connection, in this try.
        wire: u64,
    },
}

/// Who is told.
type Note<'n> = dyn FnMut(Told) + 'n;
