//! The tools that a person would type, with next to nothing to do: what a fork of each costs before it works.

use std::process::Command;
use std::time::{Duration, Instant};

use super::case::Standing;
use super::site::{Site, feed, ip};
use super::vm::Kind;

/// What each takes, in milliseconds.
///
/// # Errors
/// One of them fails.
pub fn measure(repeat: u32, standing: Standing) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let _site = Site::new(Kind::Ovswitch)?;
    ip("link add one-1-0 type veth peer name g-1-0\nlink set one-1-0 up\nlink set g-1-0 up\n")?;
    let flow =
        |number: u32| format!("add cookie=7,table=9,priority={number},tcp,tp_dst={number},actions=drop\n");
    let flows: String = (1..=10).map(flow).collect();
    let vsctl = |words: &[&str]| feed(Command::new("ovs-vsctl").args(words), b"");
    let middle = |work: &dyn Fn() -> anyhow::Result<()>| -> anyhow::Result<f64> {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..repeat {
            let begun = Instant::now();
            work()?;
            times.push(begun.elapsed());
        }
        Ok(standing.of(&times))
    };
    Ok(vec![
        ("true", middle(&|| feed(&mut Command::new("true"), b""))?),
        ("sudo -n true", middle(&|| feed(Command::new("sudo").args(["-n", "true"]), b""))?),
        (
            "ip -batch, a bridge made and removed",
            middle(&|| ip("link add br9 type bridge\nlink set br9 up\nlink del br9\n"))?,
        ),
        ("nft -f, nothing", middle(&|| feed(Command::new("nft").args(["-f", "-"]), b""))?),
        (
            "ovs-vsctl, a port added and removed (two runs)",
            middle(&|| {
                vsctl(&[
                    "add-port",
                    "br0",
                    "one-1-0",
                    "--",
                    "set",
                    "Interface",
                    "one-1-0",
                    "ofport_request=77",
                ])?;
                vsctl(&["del-port", "br0", "one-1-0"])
            })?,
        ),
        (
            "ovs-ofctl --bundle, ten flows",
            middle(&|| {
                let words = ["-O", "OpenFlow14", "--bundle", "add-flows", "br0", "-"];
                feed(Command::new("ovs-ofctl").args(words), flows.as_bytes())
            })?,
        ),
    ])
}
