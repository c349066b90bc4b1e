//! Forged frames, really sent, on a bridge of Linux and on Open vSwitch: the same pass by a guard on both.

#![cfg(test)]

mod common;

use common::bridged::{Bridged, FILTERS, apply};
use common::forged::{assert_kept_back, heard, servers};
use common::guests::{GROUP, Guests, desired, guard, hear_each_other, rule};

#[test]
fn forged_frames_do_not_pass_a_bridge_of_linux() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    assert_kept_back(a, b, || drop(apply(&[&net.fence(a, FILTERS, "")])));
    assert!(a.ping(b.six) && b.ping(a.six) && a.tcp(b, 80) && b.tcp6(a, 80));
}

#[test]
fn forged_frames_do_not_pass_open_vswitch() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [a, b] = [&net.all[0], &net.all[1]];
    hear_each_other(a, b);
    assert_kept_back(a, b, || drop(net.bring(&desired(a, guard(a, FILTERS, "")))));
    assert!(a.ping(b.six) && b.ping(a.six) && a.tcp(b, 80) && b.tcp6(a, 80));
}

/// Contract VNM 4.3 and 4.5: the filters of the stock drivers let a guest be a server; its groups say whether it may.
#[test]
fn groups_say_who_may_be_a_server_on_a_bridge_of_linux() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    apply(&[&net.fence(a, FILTERS, "")]);
    assert_eq!(heard(a, b, &servers(a)), [true, true]);
    apply(&[&net.fence(a, &format!("{FILTERS}{GROUP}"), &rule("OUTBOUND", "TCP", ""))]);
    assert_eq!(heard(a, b, &servers(a)), [false, false]);
}

#[test]
fn groups_say_who_may_be_a_server_on_open_vswitch() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [a, b] = [&net.all[0], &net.all[1]];
    hear_each_other(a, b);
    net.bring(&desired(a, guard(a, FILTERS, "")));
    assert_eq!(heard(a, b, &servers(a)), [true, true]);
    net.bring(&desired(a, guard(a, &format!("{FILTERS}{GROUP}"), &rule("OUTBOUND", "TCP", ""))));
    assert_eq!(heard(a, b, &servers(a)), [false, false]);
}
