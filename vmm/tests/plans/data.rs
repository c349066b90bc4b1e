//! The recorded requests, and plans made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_core::answer::Failure;
use causeway_core::document::{Envelope, TmCommand};
use causeway_core::plan::{Arg, Place, Plan, Slot, Step, Work};
use causeway_core::settings::{ShellRc, VmmExecrc};
use causeway_vmm::plan::{Deadlines, Drive, Settings, plan};

/// How long a transfer of these plans may take.
pub const TRANSFER: Duration = Duration::from_secs(7);

pub fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data")
}

/// The names of all requests: `SCENARIO.ACTION`, some with `-2` after it.
pub fn names() -> Vec<String> {
    let files = fs::read_dir(recorded().join("requests")).unwrap();
    let mut names: Vec<String> =
        files.map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// `BACKUP` of `k-vmm-12-backup-running.backup-2`.
pub fn action(name: &str) -> String {
    let (_, action) = name.rsplit_once('.').unwrap();
    action.split('-').next().unwrap().to_ascii_uppercase()
}

pub fn document(name: &str) -> String {
    fs::read_to_string(recorded().join("requests").join(format!("{name}.xml"))).unwrap()
}

/// The deployment file of `k-qcow2-01-create-deploy`: what its `deploy` read, but for the last line feed.
pub fn deployment() -> Vec<u8> {
    let mut bytes = fs::read(recorded().join("actions/stdin/vmm_kvm_deploy.plain.txt")).unwrap();
    assert_eq!(bytes.pop(), Some(b'\n'));
    bytes
}

/// As shipped.
pub fn settings() -> Settings {
    Settings {
        hypervisor: "kvm".to_owned(),
        local: BTreeMap::new(),
        delegate: vec!["migrate".to_owned()],
        retries: 0,
        execrc: VmmExecrc::read(&ShellRc::parse("vmm_execrc", "")).unwrap(),
        deadlines: Deadlines::default(),
        drive: Drive::Libvirtd,
    }
}

/// One step for each command: the script of that name on the front-end.
pub fn transfer(command: &TmCommand, input: Option<&str>) -> Result<Vec<Step>, Failure> {
    let slot = Slot::new("tm", command.tm.as_str(), &command.file_name()).unwrap();
    let argv = command.args.iter().map(|word| word.as_str().into()).collect();
    let work = Work::Slot { slot, argv, input: input.map(str::to_owned) };
    Ok(vec![Step::new(format!("tm_{}", command.file_name()), Place::FrontEnd, work, TRANSFER)])
}

/// The plan of a document.
pub fn planned(action: &str, document: &str, settings: &Settings) -> Result<Plan, Failure> {
    let envelope = Envelope::parse(document.as_bytes()).unwrap_or_else(|e| panic!("{action}: {e}"));
    plan(action, &envelope, Some(&deployment()), settings, &transfer)
}

/// The plan of a recorded request.
pub fn of(name: &str) -> Plan {
    planned(&action(name), &document(name), &settings()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The document with one text in another's place, which must be there.
pub fn with(document: &str, from: &str, to: &str) -> String {
    assert!(document.contains(from), "{from}");
    document.replace(from, to)
}

/// The document with an element of the envelope emptied: the first one of that name.
pub fn without(document: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let start = document.find(&open).unwrap_or_else(|| panic!("{element}"));
    let end = start + document[start..].find(&close).unwrap() + close.len();
    format!("{}<{element}/>{}", &document[..start], &document[end..])
}

pub fn step<'a>(plan: &'a Plan, name: &str) -> &'a Step {
    plan.steps.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name} in\n{}", plan.render()))
}

pub fn step_names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|s| s.name.as_str()).collect()
}

pub fn undo_names(step: &Step) -> Vec<&str> {
    step.undo.iter().map(|s| s.name.as_str()).collect()
}

/// The arguments of a step that calls a slot, as the slot would see them; an earlier step's output as `<NAME>`.
pub fn argv(step: &Step) -> Vec<String> {
    let Work::Slot { argv, .. } = &step.work else { panic!("{} calls no slot", step.name) };
    let text = |arg: &Arg| match arg {
        Arg::Text(text) => text.clone(),
        Arg::Output(name) => format!("<{name}>"),
    };
    argv.iter().map(text).collect()
}

/// What a step reads.
pub fn stdin<'a>(plan: &'a Plan, step: &Step) -> &'a [u8] {
    let names = causeway_core::plan::inputs_of(step);
    assert_eq!(names.len(), 1, "{}", step.name);
    &plan.inputs[names[0]].0
}
