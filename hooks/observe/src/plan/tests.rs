use super::*;
use proptest::prelude::*;

const FULL: &str = r#"
output = "results"
command = ["mover", "--deploy-id={deploy_id}", "{from}", "{to}"]
repetitions = 3
settle_before = "500ms"
settle_after = "1.5s"
answer_deadline = "20s"
move_deadline = "3min"
deadline = "30min"
on_failure = "continue"

[guest]
deploy_id = "one-12"
address = "10.9.0.11"

[[moves]]
from = "h1"
to = "h2"
[[moves]]
from = "h2"
to = "h1"

[[probe]]
kind = "icmp"
interval = "1ms"
[[probe]]
kind = "udp"
port = 7007
answers = "any"
payload = "get"
sources = 128
[[probe]]
kind = "udp"
name = "echo"
port = 7
[[probe]]
kind = "tcp"
port = 7

[capture]
mac = "02:00:0a:09:00:0b"
observer = ["tcpdump", "-w", "-"]
[[capture.host]]
name = "h1"
command = ["tcpdump", "-i", "one-12-0", "-w", "-"]
[[capture.host]]
name = "h2"
command = ["tcpdump", "-i", "one-12-0", "-w", "-"]
"#;

fn refused(text: &str) -> String {
    Plan::parse(text).unwrap_err().to_string()
}

/// The smallest plan with `line` at its top.
fn with(line: &str) -> String {
    format!("{line}\n[guest]\naddress = \"10.9.0.11\"\n")
}

#[test]
fn a_full_plan_is_read() {
    let plan = Plan::parse(FULL).unwrap();
    assert_eq!(plan.guest.to_string(), "one-12 at 10.9.0.11");
    assert_eq!(plan.total_moves(), 6);
    assert_eq!(plan.leg(2).unwrap().from.as_str(), "h2");
    assert_eq!(plan.leg(3), plan.leg(1));
    assert_eq!(plan.leg(0), None);
    assert_eq!(plan.settle_after, Duration::from_millis(1_500));
    assert_eq!(plan.on_failure, OnFailure::Continue);
    let names: Vec<_> = plan.probes.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["icmp", "udp-7007", "echo", "tcp-7"]);
    assert_eq!(plan.probes[0].interval, Duration::from_millis(1));
    let any = UdpAnswers::Any { payload: "get".to_owned(), sources: 128 };
    assert_eq!(plan.probes[1].kind, ProbeKind::Udp { port: 7007, answers: any });
    let Drive::Command(argv) = &plan.drive else { panic!("a command was given") };
    let filled = argv.fill(|place| plan.place(place, 4));
    assert_eq!(filled, ["mover", "--deploy-id=one-12", "h2", "h1"]);
    let capture = plan.capture.as_ref().unwrap();
    assert!(capture.host(&"h2".parse().unwrap()).is_some());
    assert!(capture.host(&"h3".parse().unwrap()).is_none());
}

#[test]
fn the_smallest_plan_has_the_documented_defaults() {
    let plan = Plan::parse(&with("")).unwrap();
    assert_eq!(plan.drive, Drive::Caller);
    assert_eq!(plan.total_moves(), 1);
    assert_eq!(plan.leg(1), None);
    assert_eq!(plan.output, Path::new("measurement"));
    assert_eq!(plan.settle_before, Duration::from_secs(1));
    assert_eq!(plan.settle_after, Duration::from_secs(2));
    assert_eq!(plan.answer_deadline, Duration::from_secs(10));
    assert_eq!(plan.move_deadline, Duration::from_secs(120));
    assert_eq!(plan.deadline, Duration::from_secs(3_600));
    assert_eq!(plan.on_failure, OnFailure::Stop);
    assert_eq!(plan.capture, None);
    let probe =
        ProbePlan { name: "icmp".to_owned(), interval: Duration::from_millis(5), kind: ProbeKind::Icmp };
    assert_eq!(plan.probes, [probe]);
    let watch = Plan::parse(&with("watch = \"30s\"")).unwrap();
    assert_eq!(watch.drive, Drive::Watch(Duration::from_secs(30)));
}

#[test]
fn the_plan_in_the_readme_is_read() {
    let readme = include_str!("../../../../README.md");
    let text = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let plan = Plan::parse(text).unwrap();
    assert_eq!(plan.drive, Drive::Watch(Duration::from_secs(120)));
    let names: Vec<_> = plan.probes.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["icmp", "udp-7007"]);
    // And with the line that is only shown.
    let lines = text.lines().filter(|line| !line.starts_with("watch"));
    let moving: Vec<_> = lines.map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    let plan = Plan::parse(&moving.join("\n")).unwrap();
    let Drive::Command(argv) = &plan.drive else { panic!("a command was given") };
    assert_eq!(argv.fill(|place| plan.place(place, 1)), ["/root/move", "h1", "h2"]);
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_the_accepted_form() {
    let probe = |line: &str| format!("{}[[probe]]\nkind = \"udp\"\nport = 7\n{line}\n", with(""));
    for (text, parts) in [
        (with("repetitions = 0"), ["repetitions = 0", "a whole number from 1 to 10000"]),
        (with("repetitions = \"3\""), ["repetitions = \"3\"", "a whole number"]),
        (with("settle_after = 2"), ["settle_after = 2", "a number with its unit"]),
        (with("settle_after = \"1h\""), ["settle_after = \"1h\"", "from 100ms to 10min"]),
        (with("command = \"virsh migrate\""), ["command = \"virsh migrate\"", "a list of texts"]),
        (with("command = [\"x\", \"{host}\"]"), ["{host}", "no places but {from}, {to}"]),
        (with("command = [\"x\", \"{to}\"]"), ["command = {to}", "need [[moves]]"]),
        (with("on_failure = \"retry\""), ["on_failure = \"retry\"", "\"stop\" or \"continue\""]),
        (with("output = \"a\\nb\""), ["output", "without control characters"]),
        (
            with("deadline = \"1440min\"\n[[probe]]\nkind=\"icmp\"\ninterval=\"1ms\"\n"),
            ["deadline", "at most 20000000"],
        ),
        (probe("interval = \"0.5ms\""), ["probe[1].interval = \"0.5ms\"", "from 1ms to 1s"]),
        (probe("answers = \"any\""), ["probe[1].payload is missing", "1 to 1200 bytes"]),
        (probe("answers = \"all\""), ["probe[1].answers = \"all\"", "\"echo\" or \"any\""]),
        (probe("payload = \"get\""), ["probe[1].payload means nothing here", "answers"]),
        (probe("name = \"<b>\""), ["probe[1].name = \"<b>\"", "letters, digits"]),
        (probe("[[probe]]\nkind = \"udp\"\nport = 7\n"), ["probe[2].name = udp-7", "no other probe"]),
        (probe("[[probe]]\nkind = \"tcp\"\n"), ["probe[2].port is missing", "1 to 65535"]),
        (probe("[[probe]]\nport = 1\n"), ["probe[2].kind is missing", "\"icmp\", \"udp\" or \"tcp\""]),
        (with("[[moves]]\nfrom = \"h1\"\nto = \"-h2\"\n"), ["moves[1].to = \"-h2\"", "a host name"]),
        (with("[[moves]]\nfrom = \"h1\"\nto = \"h1\"\n"), ["moves[1].to = h1", "another host"]),
        (with("repetition = 3"), ["repetition means nothing here", "repetitions"]),
        ("repetitions = 1".to_owned(), ["guest is missing", "deploy_id, address or both"]),
        ("[guest]\n".to_owned(), ["guest.address is missing", "unless deploy_id"]),
        ("guest = 3\n".to_owned(), ["guest = 3", "a section"]),
        ("[guest]\naddress = \"fe80::1\"".to_owned(), ["guest.address = \"fe80::1\"", "with its device"]),
        ("[guest]\naddress = \"h1\"".to_owned(), ["guest.address = \"h1\"", "an IPv4 or IPv6"]),
        ("[guest]\naddress = \"0.0.0.0\"".to_owned(), ["guest.address = \"0.0.0.0\"", "an IPv4"]),
        ("[guest]\ndeploy_id = \"$(id)\"".to_owned(), ["guest.deploy_id = \"$(id)\"", "one-<VM id>"]),
    ] {
        let error = refused(&text);
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}

#[test]
fn contradictions_are_refused() {
    let both = with("watch = \"30s\"\ncommand = [\"x\"]");
    assert!(refused(&both).contains("watch cannot stand beside command"));
    let no_tap = FULL.replace("name = \"h2\"", "name = \"h3\"");
    assert!(refused(&no_tap).contains("guest's tap on h2"));
    let capture = "[capture]\nmac = \"02:00:0a:09:00:0b\"\nobserver = [\"x\"]\n";
    assert!(refused(&format!("{}{capture}", with(""))).contains("moves is missing"));
}

#[test]
fn link_local_addresses_carry_their_device() {
    let plan = Plan::parse("[guest]\naddress = \"fe80::1%br-vm\"").unwrap();
    let address = plan.guest.address.unwrap();
    assert_eq!(address.to_string(), "fe80::1%br-vm");
    assert_eq!(address.device.unwrap().as_str(), "br-vm");
    refused("[guest]\naddress = \"10.0.0.1%br-vm\"");
    refused("[guest]\naddress = \"fd00::1%br-vm\"");
}

#[test]
fn size_and_text_are_checked_before_the_reader_sees_them() {
    let long = format!("{}# {}", with(""), "x".repeat(MAX_BYTES));
    assert!(matches!(Plan::parse(&long), Err(PlanError::TooLarge { .. })));
    assert!(matches!(Plan::parse("= 3"), Err(PlanError::Syntax { .. })));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan.toml");
    assert!(matches!(Plan::read(&path), Err(PlanError::Read { .. })));
    std::fs::write(&path, &long).unwrap();
    assert!(matches!(Plan::read(&path), Err(PlanError::TooLarge { .. })));
    std::fs::write(&path, b"a = \"\xff\"").unwrap();
    assert!(matches!(Plan::read(&path), Err(PlanError::NotText { at: 5 })));
    std::fs::write(&path, FULL).unwrap();
    assert_eq!(Plan::read(&path).unwrap(), Plan::parse(FULL).unwrap());
}

#[test]
fn a_long_value_does_not_fill_the_message() {
    let error = refused(&with(&format!("on_failure = \"{}\"", "y".repeat(5_000))));
    assert!(error.len() < 300, "{error}");
}

proptest! {
    /// Any text in any place of a good plan gives a plan or an error, and never a panic.
    #[test]
    fn no_text_breaks_the_reader(line in 0usize..45, noise in "[ -~\\n]{0,30}") {
        let mut lines: Vec<&str> = FULL.lines().collect();
        let at = line % lines.len();
        lines[at] = &noise;
        let _ = Plan::parse(&lines.join("\n"));
    }
}
