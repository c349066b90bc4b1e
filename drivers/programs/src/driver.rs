//! The front-end's side: the processes that oned starts.
//!
//! ```text
//! stdin ─ lines ─> request ─ turns ─> plan ─ engine ─> places: the hosts' residents, the front-end's scripts
//!                     │ per VM in order,                         │
//!                     │ per host bounded                         │
//! stdout <──────── out <── one reply each, and the VM's log <────┘
//! ```

pub mod adopt;
pub mod config;
pub mod expand;
pub mod front;
pub mod guard;
pub mod oned;
pub mod out;
pub mod places;
pub mod serve;
pub mod tm;
pub mod transfer;
pub mod turns;
pub mod vmm;
