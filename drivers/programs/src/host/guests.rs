//! The limits of guests' interfaces, for the network slots: their door to libvirt.

use std::sync::Arc;

use causeway_core::answer::Failure;
use causeway_core::document::Bandwidths;
use causeway_core::names::DeployId;
use causeway_domain::{DomainError, Hypervisor};
use causeway_vnm::bandwidth::{self, Interface};

/// libvirt's guests; it is reached when one is asked for.
pub(super) struct Guests<C> {
    /// Gives the client.
    pub connect: C,
}

impl<C: Fn() -> Result<Arc<dyn Hypervisor>, DomainError>> bandwidth::Guests for Guests<C> {
    fn interfaces(&self, guest: &DeployId) -> Result<Option<Vec<Interface>>, Failure> {
        let told = (self.connect)().and_then(|libvirt| libvirt.bandwidths(guest));
        let found = match told {
            Err(error) if error.is_absent() => return Ok(None),
            other => other.map_err(failure)?,
        };
        let interface = |it: causeway_domain::domain_xml::InterfaceBandwidths| Interface {
            target: it.target,
            mac: it.mac,
            limits: it.limits,
        };
        Ok(Some(found.into_iter().map(interface).collect()))
    }

    fn limit(&self, guest: &DeployId, device: &str, limits: &Bandwidths) -> Result<(), Failure> {
        let libvirt = (self.connect)().map_err(failure)?;
        libvirt.set_bandwidths(guest, device, limits).map_err(failure)
    }
}

fn failure(error: DomainError) -> Failure {
    Failure::from_chain(error.kind(), &error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::answer::Kind;
    use causeway_core::document::Bandwidth;
    use causeway_domain::fake::{Fake, Lie};
    use causeway_domain::{Cause, Operation};
    use causeway_vnm::bandwidth::Guests as _;

    #[test]
    fn a_guest_that_is_absent_and_a_libvirt_that_is_silent_are_two_answers() {
        let fake = Arc::new(Fake::new("node1"));
        let libvirt: Arc<dyn Hypervisor> = Arc::clone(&fake) as _;
        let guests = Guests { connect: || Ok(Arc::clone(&libvirt)) };
        let id: DeployId = "one-7".parse().unwrap();
        assert_eq!(guests.interfaces(&id).unwrap(), None);
        let nic = "<interface type='vhostuser'><mac address='02:00:00:00:00:07'/></interface>\
                   <interface type='bridge'><target dev='one-7-1'/><bandwidth><inbound average='5'/></bandwidth></interface>";
        let xml = format!(
            "<domain type='kvm'><name>one-7</name><memory>1</memory><devices>{nic}</devices></domain>"
        );
        libvirt.create(&xml).unwrap();
        let found = guests.interfaces(&id).unwrap().unwrap();
        assert_eq!(
            (&found[0].target, found[0].mac.unwrap().to_string().as_str()),
            (&None, "02:00:00:00:00:07")
        );
        assert_eq!(found[1].limits.inbound.average, Some(5));
        let outbound = Bandwidth { average: Some(9), ..Bandwidth::default() };
        let limits = Bandwidths { outbound, ..Bandwidths::default() };
        guests.limit(&id, "one-7-1", &limits).unwrap();
        assert_eq!(guests.interfaces(&id).unwrap().unwrap()[1].limits, limits);
        assert_eq!(guests.limit(&id, "one-7-9", &limits).unwrap_err().kind, Kind::Input);

        fake.lie(Operation::Bandwidths, 4, Lie::Instead(Cause::Silent(std::time::Duration::from_secs(15))));
        let silent = guests.interfaces(&id).unwrap_err();
        assert!(silent.text.contains("read the limits of the interfaces of one-7"), "{silent}");
        let nobody =
            Guests { connect: || Err(DomainError::new(Operation::Connect, "x", Cause::unreachable())) };
        assert_eq!(nobody.interfaces(&id).unwrap_err().kind, Kind::Unreachable);
        assert_eq!(nobody.limit(&id, "one-7-1", &limits).unwrap_err().kind, Kind::Unreachable);
    }
}
