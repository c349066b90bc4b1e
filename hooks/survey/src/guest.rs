//! What a guest is, as far as the model and the checks before a move ask.

use std::time::Duration;

use causeway_core::names::DeployId;
use causeway_domain::{Cause, DomainError, Hypervisor, Operation, Version, XmlView, dirty, domain_xml};
use serde::{Deserialize, Serialize};

use crate::nonzero::{self, Nonzero};

/// Facts about one running guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// Bytes that the hypervisor's process occupies.
    pub resident_bytes: Option<u64>,
    /// Bytes of RAM that are not zero.
    pub nonzero: Nonzero,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Machine type, with its version.
    pub machine: Option<String>,
    /// The QEMU that runs it.
    pub emulator: Version,
    /// The pause that a migration may cost at its end, as set now.
    pub max_downtime: Duration,
    /// Host devices passed through: most cannot migrate.
    pub hostdevs: usize,
}

/// Reads the facts, and looks at `pages` of the guest's memory (0: none, then only a bound is known).
///
/// # Errors
/// The guest is absent or not running, its XML is unreadable, or libvirt cannot be asked. A QEMU that does not show the
/// guest's memory is no error.
pub fn guest_facts(host: &dyn Hypervisor, id: &DeployId, pages: u32) -> Result<GuestFacts, DomainError> {
    let xml = host.xml(id, XmlView::Live)?;
    let facts = domain_xml::facts(&xml)
        .map_err(|e| DomainError::new(Operation::Xml, id, Cause::Answer(e.to_string())))?;
    let resident_bytes = host.memory(id)?.rss;
    let bound = Nonzero::bound(facts.memory, resident_bytes);
    let nonzero = if pages == 0 {
        bound
    } else {
        match nonzero::sample(host, id, facts.memory, pages) {
            Ok(found) => found,
            Err(error) if error.is_unknown() || error.is_absent() => return Err(error),
            Err(error) => {
                tracing::warn!(vm = %id, %error, cause = %error.cause, "only a bound of the guest's non-zero memory is known");
                bound
            }
        }
    };
    Ok(GuestFacts {
        ram_bytes: facts.memory,
        resident_bytes,
        nonzero,
        vcpus: facts.vcpus,
        machine: facts.machine,
        emulator: dirty::emulator_version(host, id)?,
        max_downtime: host.max_downtime(id)?,
        hostdevs: facts.hostdevs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nonzero::Source;
    use causeway_domain::MemoryStats;
    use causeway_domain::fake::Fake;
    use serde_json::json;

    #[test]
    fn a_guest_that_hides_its_memory_gets_a_bound() {
        let host = Fake::new("node1");
        host.create(
            "<domain type='kvm'><name>one-7</name><memory unit='MiB'>128</memory><vcpu>2</vcpu>\
             <os><type machine='pc-q35-7.2'>hvm</type></os></domain>",
        )
        .unwrap();
        let id = "one-7".parse().unwrap();
        let memory = MemoryStats { rss: Some(90 << 20), ..MemoryStats::default() };
        host.set_memory(&id, memory);
        let version = json!({"qemu": {"major": 7, "minor": 2, "micro": 22}});
        host.queue_monitor("query-version", version);
        let facts = guest_facts(&host, &id, 512).unwrap();
        assert_eq!((facts.ram_bytes, facts.vcpus), (128 << 20, 2));
        assert_eq!(facts.nonzero.source, Source::Resident);
        assert_eq!(facts.nonzero.bytes, f64::from(90 << 20));
        assert_eq!(facts.machine.as_deref(), Some("pc-q35-7.2"));
        assert_eq!(facts.emulator.to_string(), "7.2.22");
        assert_eq!(facts.max_downtime, Duration::from_millis(300));
        host.set_unreachable(true);
        assert!(guest_facts(&host, &id, 0).unwrap_err().is_unknown());
    }
}
