//! What looking at and changing guards costs, beside `nft` with nothing to do. Run by hand:
//! `cargo test --release -p causeway-vnm --test fenced_cost -- --ignored --nocapture`.

#![cfg(test)]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use causeway_core::names::{LinkName, Mac};
use causeway_vnm::fabric::firewall::{Change, Fence, Observed, Scope, difference, removal};
use common::bridged::{FILTERS, GROUP, enter, fence, nft, rule};

/// Ten rules, and the filters; `port` tells one from another.
fn guarded(vm: u32, port: u32) -> Fence {
    let mut rules: Vec<String> = (0..6)
        .map(|i| {
            rule(
                "INBOUND",
                "TCP",
                &format!("<RANGE>{},{}:{}</RANGE>", port + i, 2000 + i * 10, 2005 + i * 10),
            )
        })
        .collect();
    rules.push(rule("INBOUND", "UDP", "<IP>10.1.0.0</IP><SIZE>256</SIZE>"));
    rules.push(rule("INBOUND", "ICMP", ""));
    rules.push(rule("INBOUND", "ICMPV6", ""));
    rules.push(rule("OUTBOUND", "ALL", ""));
    let addresses = format!("<IP>10.0.{}.{}</IP><IP6>fd00::{vm:x}</IP6>", vm / 256, vm % 256);
    let [_, _, high, low] = vm.to_be_bytes();
    let mac = Mac([2, 0, 10, 0, high, low]);
    let fence = fence(vm, mac, &format!("{GROUP}{FILTERS}"), &rules.concat(), &addresses);
    Fence { bridge: format!("br{}", vm % 10).parse().unwrap(), ..fence }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let out = work();
    (out, begin.elapsed())
}

/// The middle of eleven, each when the kernel has cleared away what the one before has replaced.
fn median(mut one: impl FnMut(u32) -> Duration) -> Duration {
    let mut rested = |i| {
        std::thread::sleep(Duration::from_millis(100));
        one(i)
    };
    let mut all: Vec<Duration> = (0..11).map(&mut rested).collect();
    all.sort();
    all[5]
}

fn look(fence: &Fence) -> Observed {
    nft().observe(&Scope::of([fence], &BTreeSet::new())).unwrap()
}

fn to(fence: &Fence) -> Change {
    difference(std::slice::from_ref(fence), &BTreeSet::new(), &look(fence)).unwrap().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn cost() {
    for nics in [1, 100, 1000] {
        enter();
        let fences: Vec<Fence> = (1..=nics).map(|vm| guarded(vm, 22)).collect();
        let (all, planned) =
            timed(|| difference(&fences, &BTreeSet::new(), &Observed::default()).unwrap().unwrap());
        let ((), applied) = timed(|| nft().apply(&all).unwrap());
        let looked = median(|_| timed(|| look(&fences[0])).1);
        let (whole, looked_at_all) = timed(|| nft().observe(&Scope::of(&fences, &BTreeSet::new())).unwrap());
        let (none, compared) = timed(|| difference(&fences, &BTreeSet::new(), &whole).unwrap());
        assert_eq!(none, None);
        let nothing = Change::default();
        let floor = median(|_| timed(|| nft().apply(&nothing).unwrap()).1);
        let one_rule = median(|i| {
            let change = to(&guarded(1, 3000 + i * 100));
            timed(|| nft().apply(&change).unwrap()).1
        });
        let taps: BTreeSet<LinkName> = ["one-2000-0".parse().unwrap()].into();
        let mut gone = Vec::new();
        let one_more = median(|i| {
            let change = to(&guarded(2000, 3000 + i));
            let cost = timed(|| nft().apply(&change).unwrap()).1;
            std::thread::sleep(Duration::from_millis(100));
            let leave = removal(&taps, &nft().observe(&Scope::of(&[], &taps)).unwrap()).unwrap();
            gone.push(timed(|| nft().apply(&leave).unwrap()).1);
            cost
        });
        gone.sort();
        println!(
            "{nics} NICs: plan all {planned:.1?}, apply all {applied:.1?}, look at one {looked:.1?}, look at all \
             {looked_at_all:.1?}, compare all {compared:.1?}; nft with nothing {floor:.1?}, one rule {one_rule:.1?}, one NIC \
             more {one_more:.1?}, one NIC less {:.1?}",
            gone[5]
        );
    }
}
