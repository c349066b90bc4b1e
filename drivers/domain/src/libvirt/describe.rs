//! Finding a domain and saying what it is.

use causeway_core::names::DeployId;
use virt::connect::Connect;
use virt::domain::Domain as Handle;
use virt::sys;

use crate::domain::{Domain, State};
use crate::error::{Cause, Code};
use crate::host::{HostFacts, MemoryStats, Version};

/// The handle of a domain; [`Code::NoDomain`] if libvirt says that there is none.
pub(super) fn find(connection: &Connect, id: &DeployId) -> Result<Handle, Cause> {
    let found = match id.uuid() {
        Some(_) => Handle::lookup_by_uuid_string(connection, id.as_str()),
        None => Handle::lookup_by_name(connection, id.as_str()),
    };
    Ok(found?)
}

/// The domain as it is now, `None` if it is gone.
pub(super) fn lookup(connection: &Connect, id: &DeployId) -> Result<Option<Domain>, Cause> {
    let found = find(connection, id).and_then(|handle| {
        let persistent = handle.is_persistent()?;
        describe(&handle, persistent)
    });
    unless_gone(found)
}

/// All active domains; one that goes away meanwhile is left out.
pub(super) fn list(connection: &Connect) -> Result<Vec<Domain>, Cause> {
    let kinds =
        [(sys::VIR_CONNECT_LIST_DOMAINS_TRANSIENT, false), (sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT, true)];
    let mut domains = Vec::new();
    for (kind, persistent) in kinds {
        // One list per kind: asking each domain whether it is persistent would double the exchanges.
        let flags = sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE | kind;
        for handle in connection.list_all_domains(flags)? {
            domains.extend(unless_gone(describe(&handle, persistent))?);
        }
    }
    domains.retain(|d| d.state.is_active());
    Ok(domains)
}

/// What a handle stands for.
pub(super) fn describe(handle: &Handle, persistent: bool) -> Result<Domain, Cause> {
    let (state, reason) = handle.get_state()?;
    Ok(Domain {
        uuid: handle.get_uuid()?,
        name: handle.get_name()?,
        id: handle.get_id(),
        state: State::from_libvirt(state, reason),
        persistent,
    })
}

fn unless_gone<T>(answer: Result<T, Cause>) -> Result<Option<T>, Cause> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Cause::Libvirt { code: Code::NoDomain, .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Figures of the host.
pub(super) fn host(connection: &Connect) -> Result<HostFacts, Cause> {
    let node = connection.get_node_info()?;
    Ok(HostFacts {
        hostname: connection.get_hostname()?,
        hypervisor: connection.get_type()?,
        hypervisor_version: Version::from_libvirt(connection.get_hyp_version()?),
        libvirt_version: Version::from_libvirt(connection.get_lib_version()?),
        cpu_model: node.model,
        cpus: node.cpus,
        max_vcpus: connection.get_max_vcpus(None)?,
        memory: node.memory.saturating_mul(1024),
        memory_free: connection.get_free_memory()?,
    })
}

/// A domain's memory figures; libvirt gives KiB.
pub(super) fn memory(handle: &Handle) -> Result<MemoryStats, Cause> {
    let mut stats = MemoryStats::default();
    for stat in handle.memory_stats(0)? {
        let slot = match stat.tag {
            sys::VIR_DOMAIN_MEMORY_STAT_RSS => &mut stats.rss,
            sys::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON => &mut stats.balloon,
            sys::VIR_DOMAIN_MEMORY_STAT_AVAILABLE => &mut stats.available,
            sys::VIR_DOMAIN_MEMORY_STAT_UNUSED => &mut stats.unused,
            sys::VIR_DOMAIN_MEMORY_STAT_USABLE => &mut stats.usable,
            sys::VIR_DOMAIN_MEMORY_STAT_DISK_CACHES => &mut stats.disk_caches,
            _ => continue,
        };
        *slot = Some(stat.val.saturating_mul(1024));
    }
    Ok(stats)
}
