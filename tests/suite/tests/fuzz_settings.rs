//! Settings files under attack: each is refused or read, within bounds, and what is read can be relied upon.

use causeway_core::document::{Features, NetworkOverrides};
use causeway_core::settings::{Causeway, Effective, Kvmrc, NetworkConf, OneConfig, ShellRc, VmmExecrc};

#[path = "../../fuzz/seeded.rs"]
mod seeded;

#[test]
fn fuzz_shell_files() {
    seeded::fuzz("kvmrc", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let rc = ShellRc::parse("kvmrc", &text);
        for (key, value) in rc.values() {
            let name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            assert!(!key.is_empty() && key.bytes().all(name), "{key:?}");
            // Written in the one way that needs no thought, it is read as the same value.
            let quoted = format!("export {key}='{}'\n", value.replace('\'', "'\\''"));
            assert_eq!(ShellRc::parse("kvmrc", &quoted).get(key), Ok(Some(value)));
        }
        if let Ok(kvmrc) = Kvmrc::read(&rc) {
            let effective = Effective::of(&kvmrc, &Causeway::default(), &Features::default());
            assert_eq!(effective.shutdown_timeout, kvmrc.shutdown_timeout);
            assert!(!kvmrc.libvirt_uri.contains(char::is_whitespace));
        }
        if let Ok(execrc) = VmmExecrc::read(&rc) {
            // Words are compared whole: none has a blank in it.
            assert!(!execrc.is_local("elastic post", "clean"));
        }
        if let Ok(config) = OneConfig::parse("config", &text) {
            assert!(config.scripts_remote_dir.as_str().starts_with('/'));
        }
    });
}

#[test]
fn fuzz_network_files() {
    seeded::fuzz("network", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match NetworkConf::parse("OpenNebulaNetwork.conf", &text) {
            Ok(conf) => {
                assert!((68..=65535).contains(&conf.vlan_mtu) && (68..=65535).contains(&conf.vxlan_mtu));
                assert_eq!(conf.for_network(&NetworkOverrides::default()).as_ref(), Ok(&conf));
            }
            Err(error) => assert!(error.to_string().starts_with("OpenNebulaNetwork.conf: ")),
        }
    });
}

#[test]
fn fuzz_our_own_file() {
    seeded::fuzz("causeway", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match Causeway::parse("causeway.toml", &text) {
            Ok(settings) => {
                assert!(settings.libexec_dir.is_absolute());
                assert!(!settings.deadlines.vnm.duration().is_zero());
            }
            Err(error) => {
                let shown = error.to_string();
                assert!(shown.starts_with("causeway.toml: ") && !shown.contains('\n'), "{shown:?}");
            }
        }
    });
}
