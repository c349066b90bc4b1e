//! What carries the guest's network: VXLAN, which our driver makes, or a bare bridge, which is there already and shows
//! what a move costs without us.

use causeway_suite::lab::Lab;
use causeway_suite::lab::guest::{OBSERVER, VNI};
use causeway_suite::request::Guest;
use clap::ValueEnum;

use crate::lab::{HOSTS, address};

/// The bridge that each host has before any guest comes.
const BARE: &str = "br0";

/// Who watches over a network that needs nothing done: OpenNebula's own driver for that, whose slots do nothing.
const NO_DRIVER: &str = "dummy";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fabric {
    /// `vxlan`: our driver's link and bridge on each host.
    Vxlan,
    /// `bridge`: the hosts' cables in bridges that stay.
    Bridge,
}

impl Fabric {
    /// Its name in tables and as an option's value.
    pub fn name(self) -> &'static str {
        match self {
            Fabric::Vxlan => "vxlan",
            Fabric::Bridge => "bridge",
        }
    }

    /// Gives the hosts what they have before a guest comes.
    ///
    /// # Errors
    /// A bridge can't be made.
    pub fn prepare(self, lab: &Lab) -> anyhow::Result<()> {
        if self == Fabric::Vxlan {
            return Ok(());
        }
        for host in HOSTS {
            let script = "ip link add \"$1\" address \"$(cat /sys/class/net/eth0/address)\" mtu 1600 \
                            type bridge forward_delay 0 mcast_snooping 0
                ip link set eth0 master \"$1\"
                ip addr del \"$2/24\" dev eth0
                ip addr add \"$2/24\" dev \"$1\"
                ip link set \"$1\" up";
            lab.script(host, &format!("set -e; {script}"), &[BARE, address(host)])?;
            for slot in ["pre", "post", "clean"] {
                let path = format!("/var/tmp/one/vnm/{NO_DRIVER}/{slot}");
                lab.write(host, &path, "#!/bin/sh\n")?;
                lab.run(&["one", host, "chmod", "755", &path])?;
            }
        }
        Ok(())
    }

    /// Puts the guest's interface on it.
    pub fn carry(self, guest: &mut Guest) {
        if let (Fabric::Bridge, Some(nic)) = (self, &mut guest.nic) {
            NO_DRIVER.clone_into(&mut nic.vn_mad);
            BARE.clone_into(&mut nic.bridge);
        }
    }

    /// Lets the observer in, outside of both hosts. Gives back the device it sees the guest's frames on.
    ///
    /// # Errors
    /// The device can't be made.
    pub fn observer(self, lab: &Lab) -> anyhow::Result<String> {
        Ok(match self {
            Fabric::Vxlan => lab.run(&["observer", &VNI.to_string(), OBSERVER])?.trim().to_owned(),
            Fabric::Bridge => {
                // The physical switch of the lab.
                let switch = "fab0";
                lab.run(&["exec", "fab", "ip", "addr", "add", OBSERVER, "dev", switch])?;
                switch.to_owned()
            }
        })
    }
}
