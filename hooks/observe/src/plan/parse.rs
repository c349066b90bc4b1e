//! From the text of a plan file to a checked [`Plan`].

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use causeway_core::names::{DeployId, HostName, LinkName, Mac};

use super::section::Section;
use super::{
    Address, Argv, CapturePlan, Drive, Guest, Leg, MAX_BYTES, OnFailure, Place, Plan, PlanError, ProbeKind,
    ProbePlan, UdpAnswers, argv,
};

const MAX_PROBES: usize = 16;
const MAX_LEGS: usize = 1_000;
const MAX_MOVES: u32 = 10_000;
/// Questions that a run may keep in memory; about 60 bytes each.
const MAX_SAMPLES: u128 = 20_000_000;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

const HOST: &str = "a host name or address";

pub fn plan(text: &str) -> Result<Plan, PlanError> {
    if text.len() > MAX_BYTES {
        return Err(PlanError::TooLarge { limit: MAX_BYTES });
    }
    let table = text.parse::<toml::Table>().map_err(|error| PlanError::Syntax { source: Box::new(error) })?;
    let mut top = Section::new("", table);
    let plan = Plan {
        guest: guest(&mut top)?,
        moves: legs(&mut top)?,
        drive: drive(&mut top)?,
        repetitions: top.number("repetitions", 1..=MAX_MOVES)?.unwrap_or(1),
        settle_before: top.span_or("settle_before", SECOND, Duration::ZERO..=10 * MINUTE)?,
        settle_after: top.span_or("settle_after", 2 * SECOND, 100 * MS..=10 * MINUTE)?,
        answer_deadline: top.span_or("answer_deadline", 10 * SECOND, 100 * MS..=10 * MINUTE)?,
        move_deadline: top.span_or("move_deadline", 2 * MINUTE, 100 * MS..=DAY)?,
        deadline: top.span_or("deadline", 60 * MINUTE, SECOND..=DAY)?,
        on_failure: on_failure(&mut top)?,
        probes: probes(&mut top)?,
        capture: capture(&mut top)?,
        output: output(&mut top)?,
    };
    top.finish()?;
    check_moves(&plan)?;
    check_size(&plan)?;
    check_capture(&plan)?;
    Ok(plan)
}

fn guest(top: &mut Section) -> Result<Guest, PlanError> {
    let accepted = "a section with deploy_id, address or both";
    let mut section = top.section("guest")?.ok_or_else(|| top.missing("guest", accepted))?;
    let guest = Guest {
        deploy_id: section
            .parsed("deploy_id", "a UUID or one-<VM id>", |text| text.parse::<DeployId>().ok())?,
        address: section.parsed(
            "address",
            "an IPv4 or IPv6 address; a link-local one with its device, such as \"fe80::1%eth0\"",
            address,
        )?,
    };
    if guest.deploy_id.is_none() && guest.address.is_none() {
        return Err(top.missing("guest.address", "the guest's address, unless deploy_id is there"));
    }
    section.finish()?;
    Ok(guest)
}

fn address(text: &str) -> Option<Address> {
    let link_local = |ip: &Ipv6Addr| ip.segments().first().is_some_and(|s| s & 0xffc0 == 0xfe80);
    match text.split_once('%') {
        Some((ip, device)) => {
            let ip = ip.parse::<Ipv6Addr>().ok().filter(link_local)?;
            Some(Address { ip: ip.into(), device: Some(device.parse::<LinkName>().ok()?) })
        }
        None => match text.parse::<IpAddr>().ok()? {
            IpAddr::V6(ip) if link_local(&ip) => None,
            ip if ip.is_unspecified() || ip.is_multicast() => None,
            ip => Some(ip.into()),
        },
    }
}

fn legs(top: &mut Section) -> Result<Vec<Leg>, PlanError> {
    let mut legs = Vec::new();
    for mut section in top.sections("moves", MAX_LEGS)? {
        let mut host = |key| {
            section
                .parsed(key, HOST, |text| text.parse::<HostName>().ok())?
                .ok_or_else(|| section.missing(key, HOST))
        };
        let leg = Leg { from: host("from")?, to: host("to")? };
        if leg.from == leg.to {
            return Err(section.bad("to", &leg.to, "another host than from"));
        }
        section.finish()?;
        legs.push(leg);
    }
    Ok(legs)
}

fn drive(top: &mut Section) -> Result<Drive, PlanError> {
    let command = command(top, "command")?;
    let watch = top.span("watch", 100 * MS..=DAY)?;
    match (command, watch) {
        (Some(argv), None) => Ok(Drive::Command(argv)),
        (None, Some(time)) => Ok(Drive::Watch(time)),
        (None, None) => Ok(Drive::Caller),
        (Some(_), Some(_)) => Err(PlanError::Conflict {
            key: "watch".to_owned(),
            other: "command".to_owned(),
            why: "either the command moves the guest or somebody else does",
        }),
    }
}

fn command(section: &mut Section, key: &'static str) -> Result<Option<Argv>, PlanError> {
    let Some(list) = section.texts(key)? else {
        return Ok(None);
    };
    match Argv::parse(&list) {
        Some(argv) => Ok(Some(argv)),
        None => Err(section.bad(key, format!("{list:?}"), argv::ACCEPTED)),
    }
}

fn on_failure(top: &mut Section) -> Result<OnFailure, PlanError> {
    let read = |text: &str| match text {
        "stop" => Some(OnFailure::Stop),
        "continue" => Some(OnFailure::Continue),
        _ => None,
    };
    let value = top.parsed("on_failure", "\"stop\" or \"continue\"", read)?;
    Ok(value.unwrap_or(OnFailure::Stop))
}

fn output(top: &mut Section) -> Result<PathBuf, PlanError> {
    let read = |text: &str| {
        let ok = !text.is_empty() && text.len() < 4096 && !text.chars().any(char::is_control);
        ok.then(|| PathBuf::from(text))
    };
    let accepted = "a directory's path without control characters";
    let value = top.parsed("output", accepted, read)?;
    Ok(value.unwrap_or_else(|| PathBuf::from("measurement")))
}

fn probes(top: &mut Section) -> Result<Vec<ProbePlan>, PlanError> {
    let mut probes: Vec<ProbePlan> = Vec::new();
    for mut section in top.sections("probe", MAX_PROBES)? {
        let probe = probe(&mut section)?;
        if probes.iter().any(|other| other.name == probe.name) {
            return Err(section.bad("name", &probe.name, "a name that no other probe has"));
        }
        section.finish()?;
        probes.push(probe);
    }
    if probes.is_empty() {
        probes.push(ProbePlan { name: "icmp".to_owned(), interval: 5 * MS, kind: ProbeKind::Icmp });
    }
    Ok(probes)
}

fn probe(section: &mut Section) -> Result<ProbePlan, PlanError> {
    let accepted = "\"icmp\", \"udp\" or \"tcp\"";
    let known = |text: &str| ["icmp", "udp", "tcp"].into_iter().find(|k| *k == text);
    let word = section.parsed("kind", accepted, known)?.ok_or_else(|| section.missing("kind", accepted))?;
    let (kind, default_name) = match word {
        "icmp" => (ProbeKind::Icmp, "icmp".to_owned()),
        "udp" => {
            let port = port(section)?;
            let answers = udp_answers(section)?;
            (ProbeKind::Udp { port, answers }, format!("udp-{port}"))
        }
        _ => {
            let port = port(section)?;
            (ProbeKind::Tcp { port }, format!("tcp-{port}"))
        }
    };
    let plain = |text: &str| {
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        ((1..=32).contains(&text.len()) && text.bytes().all(word)).then(|| text.to_owned())
    };
    let name = section.parsed("name", "1 to 32 letters, digits, '.', '-' and '_'", plain)?;
    Ok(ProbePlan {
        name: name.unwrap_or(default_name),
        interval: section.span_or("interval", 5 * MS, MS..=SECOND)?,
        kind,
    })
}

fn port(section: &mut Section) -> Result<u16, PlanError> {
    let number = section
        .number("port", 1..=u32::from(u16::MAX))?
        .ok_or_else(|| section.missing("port", "the guest's port, 1 to 65535"))?;
    u16::try_from(number).map_err(|_| section.bad("port", number, "a port, 1 to 65535"))
}

fn udp_answers(section: &mut Section) -> Result<UdpAnswers, PlanError> {
    let known = |text: &str| ["echo", "any"].into_iter().find(|k| *k == text);
    if section.parsed("answers", "\"echo\" or \"any\"", known)? != Some("any") {
        return Ok(UdpAnswers::Echo);
    }
    let accepted = "the 1 to 1200 bytes of text that the guest's service answers";
    let fits = |text: &str| (1..=1200).contains(&text.len()).then(|| text.to_owned());
    let payload =
        section.parsed("payload", accepted, fits)?.ok_or_else(|| section.missing("payload", accepted))?;
    let sources = section.number("sources", 1..=256)?.unwrap_or(64);
    let sources = u16::try_from(sources)
        .map_err(|_| section.bad("sources", sources, "a whole number from 1 to 256"))?;
    Ok(UdpAnswers::Any { payload, sources })
}

fn capture(top: &mut Section) -> Result<Option<CapturePlan>, PlanError> {
    let Some(mut section) = top.section("capture")? else {
        return Ok(None);
    };
    let mac = "six pairs of hexadecimal digits with colons between";
    let capture = CapturePlan {
        mac: section
            .parsed("mac", mac, |text| text.parse::<Mac>().ok())?
            .ok_or_else(|| section.missing("mac", mac))?,
        observer: command(&mut section, "observer")?
            .ok_or_else(|| section.missing("observer", argv::ACCEPTED))?,
        hosts: {
            let mut hosts: Vec<(HostName, Argv)> = Vec::new();
            for mut host in section.sections("host", MAX_LEGS)? {
                let name = host
                    .parsed("name", HOST, |text| text.parse::<HostName>().ok())?
                    .ok_or_else(|| host.missing("name", HOST))?;
                let argv =
                    command(&mut host, "command")?.ok_or_else(|| host.missing("command", argv::ACCEPTED))?;
                if hosts.iter().any(|(other, _)| *other == name) {
                    return Err(host.bad("name", &name, "a host that is not in the list yet"));
                }
                host.finish()?;
                hosts.push((name, argv));
            }
            hosts
        },
    };
    section.finish()?;
    Ok(Some(capture))
}

/// A place in a command must have something to stand for.
fn check_moves(plan: &Plan) -> Result<(), PlanError> {
    let known = |place: Place| match place {
        Place::From | Place::To => !plan.moves.is_empty(),
        Place::DeployId => plan.guest.deploy_id.is_some(),
        // A missing address is filled in by the caller before the run.
        Place::Address | Place::Move => true,
    };
    let main = match &plan.drive {
        Drive::Command(argv) => Some(("command", argv)),
        Drive::Watch(_) | Drive::Caller => None,
    };
    let captures = plan.capture.iter().flat_map(|capture| {
        let hosts = capture.hosts.iter().map(|(_, argv)| ("capture.host", argv));
        hosts.chain([("capture.observer", &capture.observer)])
    });
    for (key, argv) in main.into_iter().chain(captures) {
        if let Some(place) = argv.unknown_place(known) {
            return Err(PlanError::Bad {
                key: key.to_owned(),
                value: place.to_string(),
                accepted: "a place that this plan fills: {from} and {to} need [[moves]], {deploy_id} needs \
                           guest.deploy_id"
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// A run must fit into memory, and into a report that somebody can read.
fn check_size(plan: &Plan) -> Result<(), PlanError> {
    let bad =
        |key: &str, value: String, accepted: String| PlanError::Bad { key: key.to_owned(), value, accepted };
    if plan.total_moves() > MAX_MOVES {
        let accepted = format!("a number that makes at most {MAX_MOVES} moves in all");
        return Err(bad("repetitions", plan.repetitions.to_string(), accepted));
    }
    let questions = |probe: &ProbePlan| plan.deadline.as_nanos() / probe.interval.as_nanos().max(1);
    let samples: u128 = plan.probes.iter().map(questions).sum();
    if samples > MAX_SAMPLES {
        let accepted = format!(
            "short enough: with these intervals the probes would ask {samples} questions, at most {MAX_SAMPLES} are kept"
        );
        return Err(bad("deadline", super::span::print(plan.deadline), accepted));
    }
    Ok(())
}

/// A capture needs to know both taps of every move.
fn check_capture(plan: &Plan) -> Result<(), PlanError> {
    let Some(capture) = &plan.capture else {
        return Ok(());
    };
    let missing = |key: &str, accepted: String| PlanError::Missing { key: key.to_owned(), accepted };
    if plan.moves.is_empty() {
        let accepted = "a list of from and to, which a capture needs to know the taps";
        return Err(missing("moves", accepted.to_owned()));
    }
    for host in plan.moves.iter().flat_map(|leg| [&leg.from, &leg.to]) {
        if capture.host(host).is_none() {
            let accepted = format!("a section with the command that captures the guest's tap on {host}");
            return Err(missing("capture.host", accepted));
        }
    }
    Ok(())
}
