//! What the destination must hold, and whether it does: arithmetic only, on figures others collected.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};
use crate::path::{self, Overlay};

const MIB: f64 = (1u32 << 20) as f64;
/// What QEMU takes beside the guest's RAM: its own heap and threads, each vCPU, and video memory.
const QEMU_FIXED: f64 = 256.0 * MIB;
const QEMU_PER_VCPU: f64 = 16.0 * MIB;
const QEMU_VIDEO: f64 = 16.0 * MIB;
/// A thin image grows while it is copied.
const THIN_GROWTH: f64 = 1.1;

/// What the guest asks of a host. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// RAM, bytes.
    pub ram_bytes: f64,
    /// vCPUs.
    pub vcpus: u32,
    /// The MTU the guest's interfaces are set to, bytes.
    pub guest_mtu: u32,
    /// Size of the huge pages its RAM lies in, bytes; 0: ordinary pages.
    #[serde(default)]
    pub hugepage_size: f64,
    /// Do both hosts see its disks?
    #[serde(default = "yes")]
    pub shared_storage: bool,
    /// Are its disks thin?
    #[serde(default = "yes")]
    pub thin: bool,
    /// Allocated bytes of its disks; needed when storage is not shared.
    #[serde(default)]
    pub disk_alloc: f64,
    /// Virtual size of its disks, bytes; needed when storage is not shared.
    #[serde(default)]
    pub disk_virtual: f64,
    /// CPU features it was started with.
    #[serde(default)]
    pub cpu_flags: Vec<String>,
    /// Versioned machine type; empty: not known.
    #[serde(default)]
    pub machine_type: String,
}

/// What the destination has. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    /// RAM, bytes.
    pub total_ram: f64,
    /// RAM that is promised already, bytes.
    pub used_ram: f64,
    /// How often RAM may be promised.
    #[serde(default = "once")]
    pub ram_alloc_ratio: f64,
    /// Free huge pages by their size in bytes.
    #[serde(default)]
    pub hugepages_free: BTreeMap<String, f64>,
    /// Cores.
    pub vcpus: f64,
    /// vCPUs that are promised already.
    pub vcpus_used: f64,
    /// How often a core may be promised.
    #[serde(default = "once")]
    pub cpu_alloc_ratio: f64,
    /// Free storage, bytes.
    #[serde(default)]
    pub disk_free: f64,
    /// MTU of the network below the overlay, bytes.
    pub underlay_mtu: u32,
    /// The overlay guests' networks are in.
    #[serde(default)]
    pub overlay: Overlay,
    /// Is the guest's network number free, or the guest's own, over there?
    #[serde(default = "yes")]
    pub vni_free: bool,
    /// CPU features of the host.
    #[serde(default)]
    pub cpu_flags: Vec<String>,
    /// Machine types its hypervisor knows; absent: not asked.
    #[serde(default)]
    pub machine_types: Option<Vec<String>>,
    /// RAM left in the project's quota, bytes; absent: no quota.
    #[serde(default)]
    pub quota_ram_bytes: Option<f64>,
    /// vCPUs left in the project's quota; absent: no quota.
    #[serde(default)]
    pub quota_vcpus: Option<f64>,
}

fn yes() -> bool {
    true
}

fn once() -> f64 {
    1.0
}

/// A check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Check {
    /// The host lacks CPU features the guest was started with.
    CpuFlags,
    /// Not enough free storage.
    Disk,
    /// Enough for what is allocated, not for what the disks may grow to: a warning.
    DiskOvercommitWarn,
    /// Not enough free huge pages.
    Hugepages,
    /// The hypervisor does not know the machine type.
    MachineType,
    /// The guest's packets do not fit through the network.
    Mtu,
    /// The project's quota has not enough RAM left.
    QuotaRamBytes,
    /// The project's quota has not enough vCPUs left.
    QuotaVcpus,
    /// Not enough RAM.
    Ram,
    /// Not enough vCPUs left to promise.
    Vcpu,
    /// The guest has more vCPUs than the host has cores.
    VcpuWiderThanHost,
    /// The guest's network number is taken.
    Vni,
}

impl Check {
    /// Its name, as reported.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::CpuFlags => "CPU_FLAGS",
            Self::Disk => "DISK",
            Self::DiskOvercommitWarn => "DISK_OVERCOMMIT_WARN",
            Self::Hugepages => "HUGEPAGES",
            Self::MachineType => "MACHINE_TYPE",
            Self::Mtu => "MTU",
            Self::QuotaRamBytes => "QUOTA_RAM_BYTES",
            Self::QuotaVcpus => "QUOTA_VCPUS",
            Self::Ram => "RAM",
            Self::Vcpu => "VCPU",
            Self::VcpuWiderThanHost => "VCPU_WIDER_THAN_HOST",
            Self::Vni => "VNI",
        }
    }

    /// Does it only warn?
    #[must_use]
    pub fn is_warning(self) -> bool {
        self == Self::DiskOvercommitWarn
    }
}

/// What must be there before the guest may come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Claim {
    /// Ordinary RAM, bytes: from the first second, as both hosts hold the guest until the end.
    pub host_ram: f64,
    /// vCPUs.
    pub vcpus: u32,
    /// Huge pages.
    pub hugepages: f64,
    /// Storage, bytes.
    pub disk: f64,
}

/// A failed check with its figures: it passes when `has` becomes `wants`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Failure {
    /// Which check.
    pub check: Check,
    /// What the destination has, in the check's own unit (bytes, pages, vCPUs, features); 0 and 1 stand
    /// for no and yes.
    pub has: f64,
    /// What it would have to have.
    pub wants: f64,
}

/// The answer of the pre-flight arithmetic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What to reserve.
    pub need: Claim,
    /// The names of all failed checks, in alphabetical order, warnings included.
    pub fails: Vec<Check>,
    /// Did nothing but warnings fail?
    pub ok: bool,
    /// The largest MTU guests can use over there, bytes.
    pub inner_mtu: i64,
    /// The failed checks with their figures, in the order of `fails`.
    pub failures: Vec<Failure>,
    /// CPU features the host lacks, in alphabetical order.
    pub missing_flags: Vec<String>,
}

/// Work out what `guest` needs and whether `host` has it.
///
/// # Errors
/// [`Error::OutOfRange`] names the first number that makes no sense.
pub fn check(guest: &Needs, host: &Destination) -> Result<Report, Error> {
    check_ranges(guest, host)?;
    let mut failed = Failures::default();
    let need = Claim {
        host_ram: claim_ram(guest, host, &mut failed),
        vcpus: guest.vcpus,
        hugepages: hugepages(guest),
        disk: claim_disk(guest, host, &mut failed),
    };
    check_vcpus(guest, host, &mut failed);
    let inner_mtu = check_network(guest, host, &mut failed);
    let missing_flags = check_machine(guest, host, &mut failed);
    if let Some(quota) = host.quota_ram_bytes {
        failed.unless(quota >= guest.ram_bytes, Check::QuotaRamBytes, quota, guest.ram_bytes);
    }
    if let Some(quota) = host.quota_vcpus {
        let wants = f64::from(guest.vcpus);
        failed.unless(quota >= wants, Check::QuotaVcpus, quota, wants);
    }
    let mut failures = failed.0;
    failures.sort_by_key(|failure| failure.check.code());
    Ok(Report {
        need,
        fails: failures.iter().map(|failure| failure.check).collect(),
        ok: failures.iter().all(|failure| failure.check.is_warning()),
        inner_mtu,
        failures,
        missing_flags,
    })
}

/// Collects the checks that fail.
#[derive(Debug, Default)]
struct Failures(Vec<Failure>);

impl Failures {
    fn unless(&mut self, passes: bool, check: Check, has: f64, wants: f64) {
        if !passes {
            self.0.push(Failure { check, has, wants });
        }
    }
}

fn check_ranges(guest: &Needs, host: &Destination) -> Result<(), Error> {
    error::bytes("vm.ram_bytes", guest.ram_bytes)?;
    error::bytes("vm.hugepage_size", guest.hugepage_size)?;
    error::bytes("vm.disk_alloc", guest.disk_alloc)?;
    error::bytes("vm.disk_virtual", guest.disk_virtual)?;
    error::bytes("dest.total_ram", host.total_ram)?;
    error::bytes("dest.used_ram", host.used_ram)?;
    error::bytes("dest.disk_free", host.disk_free)?;
    error::limit("dest.vcpus", host.vcpus)?;
    error::limit("dest.vcpus_used", host.vcpus_used)?;
    error::factor("dest.ram_alloc_ratio", host.ram_alloc_ratio)?;
    error::factor("dest.cpu_alloc_ratio", host.cpu_alloc_ratio)
}

fn hugepages(guest: &Needs) -> f64 {
    if guest.hugepage_size > 0.0 { (guest.ram_bytes / guest.hugepage_size).ceil() } else { 0.0 }
}

fn claim_ram(guest: &Needs, host: &Destination, failed: &mut Failures) -> f64 {
    let overhead = QEMU_FIXED + QEMU_PER_VCPU * f64::from(guest.vcpus) + QEMU_VIDEO;
    let mut host_ram = guest.ram_bytes + overhead;
    if guest.hugepage_size > 0.0 {
        // The guest's RAM lies in huge pages; only the hypervisor's own memory is ordinary.
        host_ram = overhead;
        let wants = hugepages(guest);
        let size = format!("{:.0}", guest.hugepage_size);
        let has = host.hugepages_free.get(&size).copied().unwrap_or(0.0);
        failed.unless(has >= wants, Check::Hugepages, has, wants);
    }
    let left = host.total_ram * host.ram_alloc_ratio - host.used_ram;
    failed.unless(host_ram <= left, Check::Ram, left, host_ram);
    host_ram
}

fn claim_disk(guest: &Needs, host: &Destination, failed: &mut Failures) -> f64 {
    if guest.shared_storage {
        return 0.0;
    }
    let wants = if guest.thin { (guest.disk_alloc * THIN_GROWTH).floor() } else { guest.disk_virtual };
    failed.unless(host.disk_free >= wants, Check::Disk, host.disk_free, wants);
    if guest.thin && host.disk_free >= wants {
        let all = guest.disk_virtual;
        failed.unless(host.disk_free >= all, Check::DiskOvercommitWarn, host.disk_free, all);
    }
    wants
}

fn check_vcpus(guest: &Needs, host: &Destination, failed: &mut Failures) {
    let wants = f64::from(guest.vcpus);
    let left = host.vcpus * host.cpu_alloc_ratio - host.vcpus_used;
    failed.unless(wants <= left, Check::Vcpu, left, wants);
    failed.unless(wants <= host.vcpus, Check::VcpuWiderThanHost, host.vcpus, wants);
}

fn check_network(guest: &Needs, host: &Destination, failed: &mut Failures) -> i64 {
    let inner_mtu = path::mtu_plan(host.underlay_mtu, host.overlay).inner_mtu;
    let wants = guest.guest_mtu.saturating_add(host.overlay.overhead_bytes());
    failed.unless(
        inner_mtu >= i64::from(guest.guest_mtu),
        Check::Mtu,
        f64::from(host.underlay_mtu),
        f64::from(wants),
    );
    failed.unless(!host.overlay.has_vni() || host.vni_free, Check::Vni, 0.0, 1.0);
    inner_mtu
}

fn check_machine(guest: &Needs, host: &Destination, failed: &mut Failures) -> Vec<String> {
    let wanted: BTreeSet<&String> = guest.cpu_flags.iter().collect();
    let known: BTreeSet<&String> = host.cpu_flags.iter().collect();
    let missing: Vec<String> = wanted.difference(&known).map(|flag| (*flag).clone()).collect();
    let count = |flags: usize| u32::try_from(flags).map_or(f64::INFINITY, f64::from);
    let has = count(wanted.len()) - count(missing.len());
    failed.unless(missing.is_empty(), Check::CpuFlags, has, count(wanted.len()));
    if let Some(types) = &host.machine_types {
        let fine = guest.machine_type.is_empty() || types.contains(&guest.machine_type);
        failed.unless(fine, Check::MachineType, 0.0, 1.0);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Needs {
        Needs {
            ram_bytes: 1024.0 * MIB,
            vcpus: 2,
            guest_mtu: 1500,
            hugepage_size: 0.0,
            shared_storage: true,
            thin: true,
            disk_alloc: 0.0,
            disk_virtual: 0.0,
            cpu_flags: vec![],
            machine_type: String::new(),
        }
    }

    fn host() -> Destination {
        Destination {
            total_ram: 4096.0 * MIB,
            used_ram: 0.0,
            ram_alloc_ratio: 1.0,
            hugepages_free: BTreeMap::new(),
            vcpus: 4.0,
            vcpus_used: 0.0,
            cpu_alloc_ratio: 1.0,
            disk_free: 0.0,
            underlay_mtu: 1500,
            overlay: Overlay::None,
            vni_free: true,
            cpu_flags: vec![],
            machine_types: None,
            quota_ram_bytes: None,
            quota_vcpus: None,
        }
    }

    #[test]
    fn what_fits_exactly_fits() {
        let need = check(&guest(), &host()).unwrap().need.host_ram;
        let at = |total_ram: f64| check(&guest(), &Destination { total_ram, ..host() }).unwrap();
        assert!(at(need).ok);
        let short = at(need - 1.0);
        assert_eq!(short.failures, [Failure { check: Check::Ram, has: need - 1.0, wants: need }]);
    }

    #[test]
    fn huge_pages_are_counted_by_size_and_leave_ordinary_ram_alone() {
        let guest = Needs { hugepage_size: 1024.0 * MIB, ram_bytes: 1025.0 * MIB, ..guest() };
        let with = |free: f64| {
            let hugepages_free = BTreeMap::from([("1073741824".to_owned(), free)]);
            check(&guest, &Destination { hugepages_free, total_ram: 400.0 * MIB, ..host() }).unwrap()
        };
        assert_eq!(with(1.0).fails, [Check::Hugepages]);
        assert!(with(2.0).ok);
    }

    #[test]
    fn every_failed_check_carries_the_number_that_would_pass_it() {
        let guest = Needs { vcpus: 8, guest_mtu: 1500, cpu_flags: vec!["avx2".into()], ..guest() };
        let host = Destination { overlay: Overlay::Vxlan, vni_free: false, quota_vcpus: Some(1.0), ..host() };
        let report = check(&guest, &host).unwrap();
        let wants: Vec<(Check, f64)> = report.failures.iter().map(|f| (f.check, f.wants)).collect();
        assert_eq!(
            wants,
            [
                (Check::CpuFlags, 1.0),
                (Check::Mtu, 1550.0),
                (Check::QuotaVcpus, 8.0),
                (Check::Vcpu, 8.0),
                (Check::VcpuWiderThanHost, 8.0),
                (Check::Vni, 1.0),
            ]
        );
        assert_eq!(report.missing_flags, ["avx2"]);
    }
}
