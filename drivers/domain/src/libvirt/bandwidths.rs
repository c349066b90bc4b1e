//! The limits of a running domain's interfaces.

use causeway_core::document::{Bandwidth, Bandwidths};
use causeway_core::names::DeployId;
use virt::sys;

use super::{Libvirt, c_string};
use crate::domain_xml::{self, InterfaceBandwidths};
use crate::error::{Cause, DomainError, Operation};
use crate::ffi::{self, TypedParams};

impl Libvirt {
    /// See [`Hypervisor::bandwidths`](crate::Hypervisor::bandwidths).
    pub(super) fn read_bandwidths(&self, id: &DeployId) -> Result<Vec<InterfaceBandwidths>, DomainError> {
        self.read_domain(Operation::Bandwidths, id, |handle| {
            let xml = handle.get_xml_desc(0)?;
            domain_xml::bandwidths(&xml).map_err(|e| Cause::Answer(e.to_string()))
        })
    }

    /// See [`Hypervisor::set_bandwidths`](crate::Hypervisor::set_bandwidths).
    pub(super) fn write_bandwidths(
        &self,
        id: &DeployId,
        device: &str,
        limits: &Bandwidths,
    ) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::SetBandwidths, id, cause);
        let device = c_string("the device's name", device).map_err(fail)?;
        let limits = limits.in_force();
        let numbers = [numbers(&limits.inbound), numbers(&limits.outbound)];
        let [Some(inbound), Some(outbound)] = numbers else {
            return Err(fail(Cause::Input(format!("{limits}: more than {} is no limit", u32::MAX))));
        };
        self.change_domain(Operation::SetBandwidths, id, move |handle| {
            let mut params = TypedParams::new();
            // All of them: what is left out of one direction would be lost, and a direction left out would stay.
            for (name, value) in INBOUND.into_iter().zip(inbound).chain(OUTBOUND.into_iter().zip(outbound)) {
                params.add_uint(name, value)?;
            }
            Ok(ffi::set_interface_parameters(handle, &device, &params)?)
        })
    }
}

const INBOUND: [&std::ffi::CStr; 3] = [
    sys::VIR_DOMAIN_BANDWIDTH_IN_AVERAGE,
    sys::VIR_DOMAIN_BANDWIDTH_IN_PEAK,
    sys::VIR_DOMAIN_BANDWIDTH_IN_BURST,
];
const OUTBOUND: [&std::ffi::CStr; 3] = [
    sys::VIR_DOMAIN_BANDWIDTH_OUT_AVERAGE,
    sys::VIR_DOMAIN_BANDWIDTH_OUT_PEAK,
    sys::VIR_DOMAIN_BANDWIDTH_OUT_BURST,
];

/// Average, peak and burst as libvirt's call takes them, where zero is no limit.
fn numbers(limits: &Bandwidth) -> Option<[u32; 3]> {
    let number = |limit: Option<u64>| u32::try_from(limit.unwrap_or(0)).ok();
    Some([number(limits.average)?, number(limits.peak)?, number(limits.burst)?])
}
