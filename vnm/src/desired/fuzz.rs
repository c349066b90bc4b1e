//! `OpenNebulaNetwork.conf` under attack: what it comes to for a NIC is refused by name, or within the bounds of what is set.

use causeway_core::document::VmDocument;
use causeway_core::settings::NetworkConf;

use super::{BridgeOption, Settings};

#[test]
fn fuzz_settings() {
    let nic = |driver: &str| {
        let text = format!(
            "<VM><ID>1</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>{driver}</VN_MAD></NIC></TEMPLATE></VM>"
        );
        VmDocument::parse(text.as_bytes()).unwrap().nics.remove(0)
    };
    let nics = ["fw", "802.1Q", "vxlan", "ovswitch"].map(nic);
    crate::seeded::fuzz("network", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(conf) = NetworkConf::parse("OpenNebulaNetwork.conf", &text) else { return };
        let settings = Settings::from(&conf);
        for nic in &nics {
            let effective = match settings.effective(nic) {
                Ok(effective) => effective,
                Err(refusal) => return assert!(!refusal.to_string().contains('\n'), "{refusal}"),
            };
            let mtu = 68..=65_535;
            assert!(
                mtu.contains(&effective.mtu) && mtu.contains(&effective.vlan_mtu) && effective.link.port > 0
            );
            for (option, value) in &effective.bridge {
                let (_, name, low, high) = BridgeOption::TABLE.iter().find(|row| row.0 == *option).unwrap();
                assert!((low..=high).contains(&value) && !name.starts_with("nf_call"), "{name} {value}");
            }
            // Nothing of it could be read as an option, or as more than one word.
            for (column, value) in &effective.switch {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
                assert!(column.bytes().chain(value.bytes()).all(plain), "{column}={value}");
            }
        }
    });
}
