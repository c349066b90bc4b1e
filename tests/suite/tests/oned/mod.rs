//! What every road under a real oned begins and ends with: OpenNebula and our programs installed, two hosts, a system
//! datastore and one of images; and afterwards nothing of ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_suite::lab::cloud::{Cloud, text};
use causeway_suite::lab::{FRONT_END, HOSTS, Lab, Standing};
use causeway_suite::xml::Element;

/// A first monitoring copies OpenNebula's remotes and starts a dozen interpreters.
const MONITORING: Duration = Duration::from_secs(240);
pub const SOON: Duration = Duration::from_secs(120);

/// oned's states of an image and of a host.
pub const READY: &str = "1";
pub const MONITORED: &str = "2";

/// The lab's QEMU has no firmware for network cards, and needs none.
pub const NO_ROM: &str = "<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='virtio-net-pci.romfile='/>\
    </qemu:commandline>";

/// A move takes long enough for something to happen in it (MiB a second); and libvirt can't see that the lab's hosts
/// share their datastores.
const SLOWLY: &str =
    "echo 'MIGRATE_OPTIONS=\"--bandwidth 12 --unsafe\"' >>/var/lib/one/remotes/etc/vmm/kvm/kvmrc";

/// The machines, with OpenNebula and our programs on them.
pub struct Installed {
    pub lab: Standing,
    /// What stood where our programs are now, on each of them.
    before: Vec<String>,
}

impl Installed {
    /// As an admin would, hosts first.
    pub fn new() -> Installed {
        Installed::on(Standing::bare().unwrap(), &["eth0"], "")
    }

    /// On these machines, whose hosts lend guests' networks these devices. The script sets up what else the admin of the
    /// front-end wants.
    pub fn on(lab: Standing, uplinks: &[&str], wanted: &str) -> Installed {
        let built =
            std::env::var_os("STOCK_BUILT").unwrap_or_else(|| panic!("tests/run oned sets STOCK_BUILT"));
        lab.install_stock(Path::new(&built)).unwrap();
        for script in [SLOWLY, wanted] {
            lab.script(FRONT_END, script, &[]).unwrap();
        }
        let before = places().iter().map(|place| lab.installed(place).unwrap()).collect();
        let from = programs();
        let from = from.to_str().unwrap();
        for host in HOSTS {
            let uplinks: Vec<&str> = uplinks.iter().flat_map(|uplink| ["--uplink", *uplink]).collect();
            lab.install_sh(host, &[&["host", "--from", from], &uplinks[..]].concat()).unwrap();
        }
        let said = lab.install_sh(FRONT_END, &["frontend", "--from", from]).unwrap();
        assert!(
            !said.lines().any(|line| line.starts_with("keep")),
            "a stock file was not known as stock: {said}"
        );
        Installed { lab, before }
    }

    /// Takes our programs away: every machine is as it was.
    pub fn end(self) {
        for (place, before) in places().iter().zip(self.before) {
            let said = self.lab.install_sh(place, &["uninstall"]).unwrap();
            assert!(!said.contains("was changed after"), "{said}");
            same(place, &before, &self.lab.installed(place).unwrap());
        }
        self.lab.stop().unwrap();
    }
}

fn places() -> Vec<&'static str> {
    [&[FRONT_END], HOSTS.as_slice()].concat()
}

fn programs() -> PathBuf {
    causeway_suite::programs::program("causeway-vmm").unwrap().parent().unwrap().to_owned()
}

/// Two listings of the same places.
fn same(place: &str, before: &str, after: &str) {
    let lost = before.lines().filter(|line| !after.lines().any(|other| other == *line));
    let found = after.lines().filter(|line| !before.lines().any(|other| other == *line));
    let difference: Vec<String> =
        lost.map(|line| format!("- {line}")).chain(found.map(|line| format!("+ {line}"))).collect();
    assert!(difference.is_empty(), "{place} is not as it was:\n{}", difference.join("\n"));
}

/// Waits until oned has a thing in this state.
pub fn is_in_state(cloud: &Cloud<'_>, command: &str, thing: &str, state: &str) {
    cloud.wait_for((command, thing, MONITORING), |document| text(document, "STATE") == state).unwrap();
}

/// Makes both hosts known to oned.
pub fn has_hosts(cloud: &Cloud<'_>) {
    for host in HOSTS {
        cloud.ask(&["onehost", "create", host, "-i", "qemu", "-v", "qemu"]).unwrap();
    }
}

/// Waits until both are monitored, and does the last of what `install.sh` tells an admin to do.
pub fn hosts_are_ready(cloud: &Cloud<'_>) {
    for host in HOSTS {
        is_in_state(cloud, "onehost", host, MONITORED);
    }
    cloud.ask(&["onehost", "sync", "--force"]).unwrap();
}

/// A system datastore and one of images, of that driver and with what each wants besides, monitored.
pub fn has_datastores(cloud: &Cloud<'_>, driver: &str, more: [&str; 2]) -> (u32, u32) {
    let [system, images] = more;
    let system = format!("NAME={driver}-system\nTYPE=SYSTEM_DS\nTM_MAD={driver}\n{system}");
    let images =
        format!("NAME={driver}-images\nTYPE=IMAGE_DS\nTM_MAD={driver}\nSAFE_DIRS=/var/tmp\n{images}");
    let made = [system, images].map(|template| cloud.create("onedatastore", &template, &[]).unwrap());
    for datastore in made {
        let measured = |document: &Element| text(document, "FREE_MB") != "0";
        cloud.wait_for(("onedatastore", &datastore.to_string(), SOON), measured).unwrap();
    }
    (made[0], made[1])
}

/// Makes an image out of a template, and waits until it can be used.
pub fn has_image(cloud: &Cloud<'_>, template: &str, datastore: u32) -> u32 {
    let image = cloud.create("oneimage", template, &["-d", &datastore.to_string()]).unwrap();
    is_in_state(cloud, "oneimage", &image.to_string(), READY);
    image
}

/// The network of the lab's guest.
pub fn has_network(cloud: &Cloud<'_>) -> u32 {
    use causeway_suite::lab::guest::{ADDRESS, VNI};
    let network = format!(
        "NAME=net\nVN_MAD=vxlan\nPHYDEV=eth0\nVLAN_ID={VNI}\nMTU=1450\n
        AR=[ TYPE=IP4, IP={ADDRESS}, MAC=02:00:0a:09:00:0b, SIZE=1 ]\n"
    );
    cloud.create("onevnet", &network, &[]).unwrap()
}

/// The template's part that is the lab's guest: its kernel, its network, and what its QEMU needs.
pub fn template_of(lab: &Lab, network: u32) -> String {
    let vm = causeway_suite::lab::guest::virtual_machine(lab.directory(), 24, 1500);
    format!(
        "CPU=0.1\nVCPU=1\nMEMORY=128\nCONTEXT=[ NETWORK=\"YES\", TARGET=\"hda\" ]\n
        OS=[ ARCH=\"x86_64\", MACHINE=\"pc\", KERNEL=\"{}\", INITRD=\"{}\", KERNEL_CMD=\"{}\" ]\n
        NIC=[ NETWORK_ID={network}, MODEL=\"virtio\" ]\nRAW=[ TYPE=\"kvm\", VALIDATE=\"NO\", DATA=\"{NO_ROM}\" ]\n",
        vm.kernel.display(),
        vm.initrd.display(),
        vm.cmdline,
    )
}
