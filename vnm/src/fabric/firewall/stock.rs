//! What the stock driver has left of a VM: its chains in the tables of `iptables` (contract VNM 4.5), as `iptables-nft` makes them.
//!
//! Its sets (`ipset`) stay: no table of `nft` names them any more, and they let nothing pass. Chains of `iptables-legacy` are not seen.

use std::collections::BTreeMap;

use causeway_core::names::VmId;

use super::change::{Chain, Change, Command, Family, STOCK_TABLE};
use super::nft::{FirewallError, Nft};

/// The chains from which the stock driver leads to those of a NIC.
const LEAD: [&str; 3] = ["opennebula", "FORWARD", "INPUT"];

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// The chains of the VM's NICs, and how many rules they have.
    pub chains: BTreeMap<Chain, usize>,
    /// The rules that lead to them, by chain and number.
    pub jumps: Vec<(Chain, u64)>,
}

impl Stock {
    /// The batch that removes all of it; none where nothing is there.
    pub fn removal(&self) -> Option<Change> {
        let jumps = self.jumps.iter().cloned();
        let mut commands: Vec<Command> =
            jumps.map(|(chain, handle)| Command::DeleteStockRule { chain, handle }).collect();
        for (chain, rules) in &self.chains {
            if *rules > 0 {
                commands.push(Command::FlushStock(chain.clone()));
            }
            commands.push(Command::DeleteStockChain(chain.clone()));
        }
        (!commands.is_empty()).then(|| Change { commands, ..Change::default() })
    }
}

impl Nft {
    /// What the stock driver has left of those NICs of a VM.
    ///
    /// # Errors
    /// [`FirewallError::Netlink`]. No such table or chain is none.
    pub fn stock(&mut self, vm: VmId, nics: impl IntoIterator<Item = u32>) -> Result<Stock, FirewallError> {
        let names: Vec<String> =
            nics.into_iter().flat_map(|nic| ["i", "o"].map(|way| format!("one-{vm}-{nic}-{way}"))).collect();
        let kernel = self.kernel()?;
        let mut out = Stock::default();
        for family in [Family::Ip, Family::Ip6] {
            for name in &names {
                if let Some(rules) = kernel.rules(family, STOCK_TABLE, name)? {
                    out.chains.insert(Chain { family, name: name.clone() }, rules.len());
                }
            }
            if !out.chains.keys().any(|chain| chain.family == family) {
                continue;
            }
            for lead in LEAD {
                for rule in kernel.rules(family, STOCK_TABLE, lead)?.unwrap_or_default() {
                    if rule.leads_to.iter().any(|target| names.contains(target)) {
                        out.jumps.push((Chain { family, name: lead.to_owned() }, rule.handle));
                    }
                }
            }
        }
        Ok(out)
    }
}
