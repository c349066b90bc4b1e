//! Fail closed: a NIC whose protection we cannot enforce is refused before anything is prepared for it.
//!
//! Security groups and spoofing filters are not built for this driver yet. What needs neither is a NIC whose groups let
//! everything pass both ways and that asks for no filter.

use causeway_core::document::{Direction, Nic, Protocol, SecurityGroupRule, VmDocument};

use super::refusal::Refusal;

const GROUPS: &str =
    "accepted are groups with a rule ALL for INBOUND and one for OUTBOUND, as group 0 has them";
const FILTERS: &str = "accepted is NO";

/// Refuses `nic` if it, or one of its aliases, asks for a protection.
///
/// # Errors
/// [`Refusal::NotBuilt`].
pub fn check(nic: &Nic, vm: &VmDocument) -> Result<(), Refusal> {
    filters(nic)?;
    vm.aliases.iter().filter(|alias| alias.parent_id == Some(nic.nic_id)).try_for_each(filters)?;
    // No group at all is group 0, which lets everything pass (contract VNM 4.5).
    let open = |direction| {
        nic.security_groups.is_empty()
            || vm.security_group_rules.iter().any(|rule| admits_all(rule, nic, direction))
    };
    if open(Direction::Inbound) && open(Direction::Outbound) {
        return Ok(());
    }
    let groups: Vec<String> = nic.security_groups.iter().map(u32::to_string).collect();
    Err(Refusal::NotBuilt {
        nic: nic.nic_id,
        attribute: "SECURITY_GROUPS",
        asked: format!("filtering by the rules of {}", groups.join(",")),
        accepted: GROUPS,
    })
}

fn filters(nic: &Nic) -> Result<(), Refusal> {
    let attribute = match (nic.filter_mac_spoofing, nic.filter_ip_spoofing) {
        (true, _) => "FILTER_MAC_SPOOFING",
        (_, true) => "FILTER_IP_SPOOFING",
        _ => return Ok(()),
    };
    Err(Refusal::NotBuilt { nic: nic.nic_id, attribute, asked: "YES".to_owned(), accepted: FILTERS })
}

/// Whether this rule alone lets everything pass in that direction. Rules only add to what passes, so one is enough.
fn admits_all(rule: &SecurityGroupRule, nic: &Nic, direction: Direction) -> bool {
    nic.security_groups.contains(&rule.security_group_id)
        && rule.direction == direction
        && rule.protocol == Protocol::All
        && rule.range.is_none()
        && rule.icmp_type.is_none()
        && rule.icmpv6_type.is_none()
        && rule.ip.is_none()
        && rule.ip6.is_empty()
        && rule.size.is_none()
        && rule.mac.is_none()
        && rule.network_id.is_none()
        && rule.ar_id.is_none()
        && rule.ar_type.is_none()
}
