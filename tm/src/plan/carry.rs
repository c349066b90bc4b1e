//! A VM's directory on its way between two hosts that need not see each other's.

use causeway_core::names::HostName;
use causeway_core::plan::{Place, Step};

use super::step;
use crate::carry::{Carry, End, Part, Spot};
use crate::error::TmError;
use crate::host::Call;
use crate::place::VmDir;
use crate::settings::TmSettings;

/// The step: the source's worker drives it, and reaches the destination with the agent that its session forwards. Where both
/// hosts see one directory, nothing moves.
pub(super) fn directory(
    from: (HostName, VmDir),
    to: (HostName, VmDir),
    local: bool,
    settings: &TmSettings,
) -> Result<Step, TmError> {
    part("mv".to_owned(), from, to, (Part::Move, local), settings)
}

/// One part of it, for a guest that moves while it runs.
pub(super) fn part(
    name: String,
    from: (HostName, VmDir),
    to: (HostName, VmDir),
    (part, local): (Part, bool),
    settings: &TmSettings,
) -> Result<Step, TmError> {
    let spot = |(host, dir)| Spot { host, dir };
    let (runs_at, manner) = (End::Source, settings.carry);
    let host = from.0.clone();
    let call = Call::CarryDir(Carry { from: spot(from), to: spot(to), runs_at, manner, part, local });
    let step = step(name, host.clone(), &call, settings, true)?;
    Ok(Step { place: Place::Delegated(host), ..step })
}
