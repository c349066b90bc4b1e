//! `context`: the image with what a guest is told.

use std::collections::BTreeMap;

use causeway_core::names::HostName;
use causeway_core::plan::Work;

use super::{Transfer, step};
use crate::error::TmError;
use crate::host::Call;
use crate::place::VmFile;
use crate::request::ContextSource;
use crate::settings::TmSettings;

pub(super) fn context(
    sources: Vec<ContextSource>,
    host: HostName,
    file: VmFile,
    local: bool,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let step_name = format!("context:{}", file.name());
    let (mut names, mut read, mut inputs) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (index, source) in sources.into_iter().enumerate() {
        let input = format!("tm:context:{index}");
        inputs.insert(input.clone(), source.from);
        read.push(input);
        names.push(source.name);
    }
    let mut step = step(step_name, host, &Call::BuildContext { file, names, local }, settings, false)?;
    if let Work::Transfer { inputs, .. } = &mut step.work {
        *inputs = read;
    }
    Ok(Transfer { steps: vec![step], inputs })
}
