//! Whether, and by which tables, the connections of bridged frames can be known on this host.

use std::path::Path;

use serde_json::{Value, json};

use super::change::Family;
use super::expr::{drop, in_state, set_connection_mark, set_zone};
use super::nft::{FirewallError, Nft};

/// There while the kernel can hand frames of bridges to IP, in every network namespace.
const HANDS_TO_IP: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Looks whether guards with groups can be kept here: by marks, with frames that are handed to IP.
///
/// # Errors
/// [`FirewallError::NoTracking`] with what helps.
pub fn require(nft: &mut Nft) -> Result<(), FirewallError> {
    let lack = |lack: &str| Err(FirewallError::NoTracking { lack: lack.to_owned() });
    if !Path::new(HANDS_TO_IP).exists() {
        return lack(
            "the kernel does not hand frames of bridges to IP; load its module br_netfilter, now and at each start",
        );
    }
    if !nft.would_take(&tracked(Family::Inet))? {
        return lack(
            "the kernel takes no rules by the state of a connection; load its modules nf_tables, nft_ct and nf_conntrack",
        );
    }
    Ok(())
}

/// A batch that only a kernel takes which tracks connections in that family.
fn tracked(family: Family) -> Value {
    const NAME: &str = "causeway-probe";
    let rule = json!({
        "family": family, "table": NAME, "chain": NAME,
        "expr": [set_zone(1), in_state(&["invalid"]), set_connection_mark(1, 1), drop()],
    });
    json!({"nftables": [
        {"add": {"table": {"family": family, "name": NAME}}},
        {"add": {"chain": {"family": family, "table": NAME, "name": NAME}}},
        {"add": {"rule": rule}},
    ]})
}
