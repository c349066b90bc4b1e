//! Which setting counts, where several places have one.
//!
//! The order is that of nearness: the stock file of the machine, our own file, the VM itself. Each overrides the ones
//! before it, and only where it says something.

use std::time::Duration;

use super::causeway::Causeway;
use super::kvmrc::Kvmrc;
use crate::document::{AutoConverge, Features};

/// The value that counts: the VM's, else ours, else the rc file's.
pub fn layered<T>(rc: Option<T>, ours: Option<T>, vm: Option<T>) -> Option<T> {
    vm.or(ours).or(rc)
}

/// What counts for one action on one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// How long the guest may take to stop.
    pub shutdown_timeout: Duration,
    /// Then stop it at once.
    pub force_destroy: bool,
    /// Set the guest's clock after a restore or a migration.
    pub sync_time: bool,
    /// Slow a guest down that dirties memory too fast; `None` leaves it alone.
    pub auto_converge: Option<AutoConverge>,
    /// Compress memory on its way.
    pub compressed: bool,
    /// The words of `MIGRATE_OPTIONS` that none of the above stands for.
    pub migrate_options: Vec<String>,
}

/// What libvirt begins with, and adds, if nothing is said (QEMU's own defaults).
const AUTO_CONVERGE: AutoConverge = AutoConverge { initial: 20, increment: Some(10) };

impl Effective {
    /// Lays the three places over one another.
    pub fn of(rc: &Kvmrc, ours: &Causeway, vm: &Features) -> Self {
        let options = &rc.migrate_options;
        let has = |word: &str| options.iter().any(|option| option == word);
        let rc_converge = has("--auto-converge").then_some(AUTO_CONVERGE);
        let rc_compressed = has("--compressed").then_some(true);
        // "No" cannot be said by the VM: an absent attribute and NO are one to the stock driver.
        let vm_compressed = vm.migrate_compressed.then_some(true);
        let kvm = &ours.kvm;
        let shutdown = kvm.shutdown_timeout.map(super::causeway::Seconds::duration);
        Effective {
            shutdown_timeout: layered(None, shutdown, None).unwrap_or(rc.shutdown_timeout),
            force_destroy: layered(Some(rc.force_destroy), kvm.force_destroy, None).unwrap_or(false),
            sync_time: layered(Some(rc.sync_time), kvm.sync_time, None).unwrap_or(false),
            auto_converge: layered(rc_converge, kvm.auto_converge, vm.migrate_auto_converge),
            compressed: layered(rc_compressed, kvm.compressed, vm_compressed).unwrap_or(false),
            migrate_options: options
                .iter()
                .filter(|word| !matches!(word.as_str(), "--auto-converge" | "--compressed"))
                .cloned()
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ShellRc;

    #[test]
    fn the_nearer_place_counts_where_it_says_something() {
        let places = [None, Some("place")];
        for rc in places.map(|p| p.map(|_| "rc")) {
            for ours in places.map(|p| p.map(|_| "ours")) {
                for vm in places.map(|p| p.map(|_| "vm")) {
                    let expected = match (rc, ours, vm) {
                        (_, _, Some(vm)) => Some(vm),
                        (_, Some(ours), None) => Some(ours),
                        (rc, None, None) => rc,
                    };
                    assert_eq!(layered(rc, ours, vm), expected);
                }
            }
        }
    }

    #[test]
    fn a_migration_is_tuned_by_the_nearest_place() {
        let text = "MIGRATE_OPTIONS='--auto-converge --unsafe'\nSHUTDOWN_TIMEOUT=30\nFORCE_DESTROY=yes\n";
        let rc = Kvmrc::read(&ShellRc::parse("kvmrc", text)).unwrap();
        let plain = Effective::of(&rc, &Causeway::default(), &Features::default());
        assert_eq!(plain.auto_converge, Some(AUTO_CONVERGE));
        assert_eq!((plain.shutdown_timeout, plain.force_destroy), (Duration::from_secs(30), true));
        assert_eq!((plain.compressed, plain.migrate_options), (false, vec!["--unsafe".to_owned()]));

        let ours = "[kvm]\nauto_converge = \"40\"\nshutdown_timeout = 5\nforce_destroy = false\n";
        let ours = Causeway::parse("causeway.toml", ours).unwrap();
        let tuned = Effective::of(&rc, &ours, &Features::default());
        assert_eq!(tuned.auto_converge.unwrap().initial, 40);
        assert_eq!((tuned.shutdown_timeout, tuned.force_destroy), (Duration::from_secs(5), false));

        let own = AutoConverge { initial: 60, increment: None };
        let vm = Features { migrate_auto_converge: Some(own), migrate_compressed: true };
        let nearest = Effective::of(&rc, &ours, &vm);
        assert_eq!((nearest.auto_converge, nearest.compressed), (Some(own), true));
    }
}
