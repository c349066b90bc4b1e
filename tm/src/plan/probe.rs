//! Whether two hosts see one directory: a mark that one leaves and the other finds (contract TM 2.2, `mv`).
//!
//! ```text
//!  destination: remove an old mark ── source: leave one ── destination: find it ── source: remove it
//! ```
//!
//! A mark that an earlier action left on the destination would say of two directories that they are one; so it goes first.

use causeway_core::names::HostName;
use causeway_core::plan::Slot;

use super::{Transfer, step};
use crate::error::TmError;
use crate::host::{Call, ProbeOrder};
use crate::place::VmDir;
use crate::settings::TmSettings;

/// Steps that succeed only where nothing has to be moved.
pub(super) fn shared(
    slot: &Slot,
    dir: &VmDir,
    from: &HostName,
    to: &HostName,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let verb = slot.verb().split('.').next().unwrap_or_default();
    let probe = |name: &str, host: &HostName, order: ProbeOrder| {
        let call = Call::Probe { dir: dir.clone(), order };
        step(format!("{verb}:{name}"), host.clone(), &call, settings, false)
    };
    let forget = probe("forget mark", from, ProbeOrder::Forget)?;
    let leave = probe("leave mark", from, ProbeOrder::Leave)?;
    let steps = vec![
        probe("remove old mark", to, ProbeOrder::Forget)?,
        leave.undone_by(vec![probe("undo mark", from, ProbeOrder::Forget)?]),
        probe("find mark", to, ProbeOrder::Find)?,
        // What is left does no harm: the next one removes it.
        forget.ignored(),
    ];
    Ok(Transfer { steps, ..Transfer::default() })
}
