//! Which host of `BRIDGE_LIST` does the work (contract TM 3.2).

use std::collections::BTreeMap;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document;
use causeway_core::names::HostName;

/// `STATE` of a host that is not to be worked on: error, disabled, the same while it is monitored, offline.
const AWAY: [u32; 4] = [3, 4, 7, 8];

/// What oned knows of its hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(BTreeMap<String, u32>);

impl Hosts {
    /// Reads a `HOST_POOL`, as `one.hostpool.info` returns it.
    ///
    /// # Errors
    /// A document that is none, or a host without a state.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::new(Kind::Input, format!("the pool of hosts: {why}"));
        let root = document::parse(bytes).map_err(|e| wrong(&e.to_string()))?;
        if root.name() != "HOST_POOL" {
            return Err(wrong("its root is not HOST_POOL"));
        }
        let host = |host: &std::sync::Arc<document::tree::Element>| {
            let state = host.value("STATE").and_then(|text| text.parse().ok());
            Some((host.value("NAME")?, state?))
        };
        let hosts =
            root.named("HOST").map(|element| host(element).ok_or_else(|| wrong("a host without a state")));
        hosts.collect::<Result<_, _>>().map(Hosts)
    }

    /// Whether a host can be worked on. One that oned does not have is the admin's own, and is taken as it is.
    fn is_up(&self, host: &HostName) -> bool {
        self.0.get(host.as_str()).is_none_or(|state| !AWAY.contains(state))
    }
}

/// The host of the list at `turn`, counted over those that are up.
///
/// # Errors
/// None of them is up.
pub fn choose<'a>(list: &'a [HostName], hosts: &Hosts, turn: u32) -> Result<&'a HostName, Failure> {
    let up: Vec<&HostName> = list.iter().filter(|host| hosts.is_up(host)).collect();
    let count = u32::try_from(up.len()).unwrap_or(u32::MAX);
    let at = turn.checked_rem(count).and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| up.get(at)).copied().ok_or_else(|| {
        let names: Vec<&str> = list.iter().map(HostName::as_str).collect();
        Failure::new(Kind::HostState, format!("no host of BRIDGE_LIST is up: {}", names.join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hosts(states: &[(&str, u32)]) -> Hosts {
        let one = |(name, state): &(&str, u32)| {
            format!("<HOST><ID>0</ID><NAME>{name}</NAME><STATE>{state}</STATE></HOST>")
        };
        let all: String = states.iter().map(one).collect();
        Hosts::parse(format!("<HOST_POOL>{all}</HOST_POOL>").as_bytes()).unwrap()
    }

    fn names(list: &str) -> Vec<HostName> {
        list.split(' ').map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn hosts_take_turns_and_those_that_are_away_are_passed_over() {
        let list = names("h0 h1 h2 mine");
        let states = hosts(&[("h0", 2), ("h1", 3), ("h2", 1)]);
        let turns: Vec<&str> = (0..4).map(|n| choose(&list, &states, n).unwrap().as_str()).collect();
        assert_eq!(turns, ["h0", "h2", "mine", "h0"]);
        for away in AWAY {
            let failure = choose(&names("h0"), &hosts(&[("h0", away)]), 7).unwrap_err();
            assert_eq!(failure.text, "no host of BRIDGE_LIST is up: h0");
        }
        assert!(choose(&[], &Hosts::default(), 0).is_err());
    }

    #[test]
    fn a_pool_that_says_too_little_is_an_error() {
        for text in ["", "<VM/>", "<HOST_POOL><HOST><NAME>h</NAME></HOST></HOST_POOL>"] {
            assert!(Hosts::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Hosts::parse(b"<HOST_POOL/>").unwrap(), Hosts::default());
    }

    proptest! {
        #[test]
        fn whoever_is_chosen_is_of_the_list_and_up(
            states in proptest::collection::vec(0_u32..9, 0..6), turn: u32,
        ) {
            let named: Vec<String> = (0..states.len()).map(|n| format!("h{n}")).collect();
            let pairs: Vec<(&str, u32)> = named.iter().map(String::as_str).zip(states.iter().copied()).collect();
            let list: Vec<HostName> = named.iter().map(|name| name.parse().unwrap()).collect();
            let chosen = choose(&list, &hosts(&pairs), turn);
            let any = states.iter().any(|state| !AWAY.contains(state));
            prop_assert_eq!(chosen.is_ok(), any);
            if let Ok(host) = chosen {
                let at = list.iter().position(|name| name == host).unwrap();
                prop_assert!(!AWAY.contains(&states[at]));
            }
        }
    }
}
