//! `:tproxy:` of `OpenNebulaNetwork.conf` (contract VNM 4.11): services that guests are to reach at 169.254.16.9 in their own
//! network. They are not built; whoever has set them is told for which NICs they are missing.

use causeway_core::document::{Nic, VmDocument};
use causeway_core::settings::TproxyService;

use crate::desired::Driver;

/// A line for each of the driver's NICs that the stock driver would have made the services for. Those of Open vSwitch have none
/// with the stock driver either.
pub fn missing(driver: Driver, vm: &VmDocument, services: &[TproxyService]) -> Vec<String> {
    if driver.is_switch() {
        return Vec::new();
    }
    let line = |nic: &Nic| {
        let ports: Vec<String> = services
            .iter()
            .filter(|service| is_for(service, nic))
            .map(|service| service.service_port.to_string())
            .collect();
        let named = nic.network.as_deref().unwrap_or_default();
        (!ports.is_empty()).then(|| {
            format!(
                "NIC {}: network {named} has no services at 169.254.16.9, ports {}: :tproxy: of OpenNebulaNetwork.conf is not \
                 built in this version of causeway",
                nic.nic_id,
                ports.join(" ")
            )
        })
    };
    driver.selected(vm).into_iter().filter_map(line).collect()
}

/// Networks are meant by name or by number; without any, all are.
fn is_for(service: &TproxyService, nic: &Nic) -> bool {
    let Some(networks) = service.networks.as_ref().filter(|networks| !networks.is_empty()) else {
        return true;
    };
    let number = nic.network_id.map(|id| id.to_string());
    networks.iter().any(|network| Some(network) == nic.network.as_ref() || Some(network) == number.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nic_without_its_services_is_named() {
        let nic = |id: u32, driver: &str, network: &str| {
            format!(
                "<NIC><NIC_ID>{id}</NIC_ID><NETWORK>{network}</NETWORK><NETWORK_ID>{id}</NETWORK_ID>\
                 <VN_MAD>{driver}</VN_MAD></NIC>"
            )
        };
        let nics = [nic(0, "fw", "front"), nic(1, "fw", "back"), nic(2, "ovswitch", "front")].concat();
        let vm = format!("<VM><ID>7</ID><TEMPLATE>{nics}</TEMPLATE></VM>");
        let vm = VmDocument::parse(vm.as_bytes()).unwrap();
        let service = |port, networks: Option<&[&str]>| TproxyService {
            service_port: port,
            remote_addr: "10.0.0.1".to_owned(),
            remote_port: port,
            networks: networks.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        };
        let told = |services: &[TproxyService]| missing(Driver::Fw, &vm, services);
        let services =
            [service(5030, Some(&["front"])), service(80, Some(&["1"])), service(81, Some(&["0"]))];
        let lines = told(&services);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("NIC 0: network front has no services at 169.254.16.9, ports 5030 81:"));
        assert!(lines[1].starts_with("NIC 1: network back has no services at 169.254.16.9, ports 80:"));
        assert_eq!(told(&[service(1, None)]).len(), 2);
        assert_eq!(told(&[service(1, Some(&[]))]).len(), 2);
        assert_eq!(told(&[service(1, Some(&["elsewhere"]))]), [""; 0]);
        assert_eq!(told(&[]), [""; 0]);
        assert_eq!(missing(Driver::OvSwitch, &vm, &[service(1, None)]), [""; 0]);
    }
}
