//! Plays a recorded exchange to a driver process of ours and tells how ours differs from the recorded one: in the
//! scripts called and their order, in their arguments and standard input, in the reply.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::error::SuiteError;
use crate::front_end::{self, FrontEnd};
use crate::oned::{Oned, Reply};
use crate::recorded::{self, Call, Exchange, Form, Payload, Scenario, Stdin};
use crate::request::Request;
use crate::xml::Element;

/// What a replay found out.
#[derive(Debug)]
pub struct Replayed {
    /// What differs.
    pub differences: Vec<Difference>,
    /// How many calls had exactly the arguments that were recorded in this scenario.
    pub exact_argv: usize,
    /// How many calls had the standard input that was recorded, byte for byte.
    pub exact_stdin: usize,
    /// What our driver process answered.
    pub reply: Reply,
    /// What our driver process called.
    pub calls: Vec<front_end::Call>,
    /// The names of the steps that our driver process reported, in order, without their network driver.
    pub steps: Vec<String>,
}

/// One difference from the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Other scripts, or another order.
    Calls {
        /// What was recorded.
        recorded: Vec<String>,
        /// What ours called.
        ours: Vec<String>,
    },
    /// Arguments of a shape that was never recorded.
    Argv {
        /// The slot.
        slot: String,
        /// What ours were.
        ours: Vec<String>,
    },
    /// An argument that is the whole request in base64, and has other bytes than oned sent.
    Document {
        /// The slot.
        slot: String,
        /// Whether it says the same as what oned sent.
        same: bool,
    },
    /// Another standard input.
    Stdin {
        /// The slot.
        slot: String,
        /// How it differs.
        how: String,
    },
    /// Another reply.
    Reply {
        /// What was recorded: status and payload.
        recorded: (String, String),
        /// What ours was.
        ours: (String, String),
    },
}

/// The stage of a replay: a front-end and a driver process on it.
pub struct Stage<'a> {
    /// The front-end.
    pub front_end: &'a FrontEnd,
    /// The driver process.
    pub oned: &'a mut Oned,
    /// Every recorded call.
    pub calls: &'a [Call],
}

impl Stage<'_> {
    /// Plays one exchange of a scenario.
    ///
    /// # Errors
    /// The stage fails: no reply, a breach of the protocol.
    pub fn play(&mut self, scenario: &Scenario, index: usize) -> Result<Replayed, SuiteError> {
        let none = || SuiteError::recording(&scenario.name, format!("no exchange {index}"));
        let exchange = scenario.exchanges.get(index).ok_or_else(none)?;
        let missing =
            || SuiteError::recording(&exchange.scenario, format!("no reply to {}", exchange.action));
        let recorded = exchange.reply.clone().ok_or_else(missing)?;
        let request = Request::of(exchange)?.map(|text| self.front_end.localized(text))?;
        request.write_deployment()?;
        self.prepare(exchange, &recorded)?;
        self.front_end.forget()?;
        let before = self.oned.log().len();
        let reply = self.oned.ask(&request.action, request.vm, &request.render())?;
        self.oned.is_square()?;
        let steps = self.oned.log().iter().skip(before).filter_map(|line| step_of(&line.text)).collect();
        let calls = self.front_end.calls()?;

        let mut differences = Vec::new();
        let wanted = recorded_slots(exchange, &request)?;
        let ours: Vec<String> = calls.iter().map(|call| call.slot.clone()).collect();
        if wanted != ours {
            differences.push(Difference::Calls { recorded: wanted, ours });
        }
        let earlier = slots_before(scenario, index)?;
        let (mut exact_argv, mut exact_stdin) = (0, 0);
        for call in &calls {
            differences.extend(call.argv.iter().filter_map(|word| compare_document(&request, call, word)));
            // A sample of standard input is that of the scenario's first call of a script.
            let first = matches!(exchange.payload, Payload::Whole(_)) && !earlier.contains(&call.slot);
            let Comparison { argv, stdin, difference } = self.compare(exchange, call, first);
            exact_argv += usize::from(argv);
            exact_stdin += usize::from(stdin);
            differences.extend(difference);
        }
        let said = (reply.status.clone(), reply.payload.clone());
        if said != recorded {
            differences.push(Difference::Reply { recorded, ours: said });
        }
        Ok(Replayed { differences, exact_argv, exact_stdin, reply, calls, steps })
    }

    /// Has the stand-ins answer as the recording stubs did.
    fn prepare(&self, exchange: &Exchange, reply: &(String, String)) -> Result<(), SuiteError> {
        let printed = front_end::Answer::says(&format!("{}\n", reply.1));
        let prints = match exchange.action.as_str() {
            "DEPLOY" => Some("vmm/kvm/deploy"),
            "SNAPSHOTCREATE" => Some("vmm/kvm/snapshot_create"),
            "BACKUP" => Some("datastore/rsync/backup"),
            _ => None,
        };
        if let Some(slot) = prints {
            let said = match (reply.0.as_str(), self.guest_of(exchange)) {
                ("SUCCESS", _) => printed,
                // It failed later: the recorded `deploy` had printed the guest's id all the same.
                (_, Some(id)) => front_end::Answer::says(&format!("{id}\n")),
                (_, None) => front_end::Answer::default(),
            };
            self.front_end.answer(slot, &said)?;
        }
        for words in &exchange.prepared {
            let Some((slot, code)) = refusal(words) else { continue };
            let is_it = |call: &&Call| {
                call.program.ends_with(slot) && call.scenario == exchange.scenario && call.answer.code == code
            };
            let answer = match self.calls.iter().find(is_it).map(|call| &call.answer) {
                Some(said) => front_end::Answer::fails(said.code, &said.stderr).and_says(&said.stdout),
                None => front_end::Answer::fails(code, "ERROR: stub refused\n"),
            };
            self.front_end.answer_once(slot, &answer)?;
        }
        Ok(())
    }

    /// The id that the recorded guest of a failed DEPLOY had.
    fn guest_of(&self, exchange: &Exchange) -> Option<String> {
        let post = |call: &&Call| call.scenario == exchange.scenario && call.program.ends_with("/post");
        self.calls.iter().find(post)?.argv.first().cloned()
    }

    fn compare(&self, exchange: &Exchange, call: &front_end::Call, first: bool) -> Comparison {
        let program = self.front_end.recorded_form(&call.program);
        let argv: Vec<String> = call.argv.iter().map(|word| self.word(word)).collect();
        let of_program = || self.calls.iter().filter(|known| known.program == program);
        let exact = of_program().find(|known| known.scenario == exchange.scenario && known.argv == argv);
        let shape = shape(&argv);
        let known = exact.or_else(|| of_program().find(|known| self::shape(&known.argv) == shape));
        let Some(known) = known else {
            let difference = Difference::Argv { slot: call.slot.clone(), ours: argv };
            return Comparison { argv: false, stdin: false, difference: Some(difference) };
        };
        let unknown_domain = call.slot == "vmm/kvm/deploy" && exchange.deployment.is_none();
        let same_call = exact.is_some() && first && !unknown_domain;
        match self.compare_stdin(&known.stdin, &call.stdin, same_call) {
            Ok(stdin) => Comparison { argv: exact.is_some(), stdin, difference: None },
            Err(how) => {
                let difference = Difference::Stdin { slot: call.slot.clone(), how };
                Comparison { argv: exact.is_some(), stdin: false, difference: Some(difference) }
            }
        }
    }

    /// An argument as it would have been recorded.
    fn word(&self, word: &str) -> String {
        match document_in(word) {
            None => self.front_end.recorded_form(word),
            Some(document) => {
                let encoded = BASE64_STANDARD.encode(self.front_end.recorded_form(&document));
                let (length, head) = (encoded.len(), encoded.get(..60).unwrap_or_default());
                let what = "base64 of the VMM_DRIVER_ACTION_DATA message that oned sent";
                format!("{head}...({length} characters, {what})")
            }
        }
    }

    /// Whether our standard input is the recorded one byte for byte, where that can be told; else whether it is of the
    /// recorded kind.
    fn compare_stdin(&self, known: &Stdin, ours: &[u8], same_call: bool) -> Result<bool, String> {
        let Stdin::Document { bytes, form, root, line_feed, exact } = known else {
            return match ours.len() {
                0 => Ok(true),
                length => Err(format!("{length} bytes instead of none")),
            };
        };
        let text = String::from_utf8(ours.to_vec()).map_err(|e| e.to_string())?;
        if text.ends_with('\n') != *line_feed {
            return Err(format!("ends with a line feed: {}, recorded: {line_feed}", !line_feed));
        }
        let body = text.strip_suffix('\n').unwrap_or(&text);
        let document = decoded(body, *form)?;
        if !document.starts_with(&format!("<{root}>")) && !document.starts_with(&format!("<{root} ")) {
            return Err(format!("the root is not <{root}>: {:?}", document.get(..40)));
        }
        if !same_call {
            return Ok(false);
        }
        let document = self.front_end.recorded_form(&document);
        let tail = if *line_feed { "\n" } else { "" };
        let body = encoded(&document, *form);
        match exact {
            Some(sample) if *sample == format!("{body}{tail}").into_bytes() => Ok(true),
            Some(sample) => Err(first_difference(&String::from_utf8_lossy(sample), &format!("{body}{tail}"))),
            // A sample of another call of this kind is kept: only the length is known.
            None if body.len() + tail.len() == *bytes => Ok(true),
            None => Err(format!("{} bytes, recorded: {bytes}", body.len() + tail.len())),
        }
    }
}

struct Comparison {
    argv: bool,
    stdin: bool,
    difference: Option<Difference>,
}

/// The document that an argument is, in base64.
fn document_in(word: &str) -> Option<String> {
    let long = Some(word).filter(|word| word.len() > 1000)?;
    String::from_utf8(BASE64_STANDARD.decode(long).ok()?).ok()
}

fn compare_document(request: &Request, call: &front_end::Call, word: &str) -> Option<Difference> {
    let document = document_in(word)?;
    let texts = |root: &Element| -> Vec<(String, String)> {
        root.leaves().into_iter().map(|leaf| (leaf.path, leaf.text)).collect()
    };
    let same = Element::parse(&document).is_ok_and(|root| texts(&root) == texts(&request.document));
    let slot = call.slot.clone();
    (document != request.render()).then_some(Difference::Document { slot, same })
}

/// `next call of vmm/kvm/deploy ends with rc=1` and its sisters.
fn refusal(words: &str) -> Option<(&str, i32)> {
    let (slot, rest) = words.strip_prefix("next call of ")?.split_once(' ')?;
    let code = rest.strip_prefix("ends with rc=")?.split(' ').next()?;
    Some((slot, code.parse().ok()?))
}

/// The step that a log line of ours tells of.
fn step_of(text: &str) -> Option<String> {
    let (step, rest) = text.split_once(": ")?;
    let told = rest.starts_with("done on ") || rest.starts_with("failed on ");
    told.then(|| step.split([':', '#']).next().unwrap_or(step).to_owned())
}

/// The slots that the stock driver called, in order: what it logged, translated by what the request says.
fn recorded_slots(exchange: &Exchange, request: &Request) -> Result<Vec<String>, SuiteError> {
    let mut slots = Vec::new();
    let mut deletes = 0;
    for (step, ok) in exchange.steps() {
        match step.as_str() {
            "mkdir" | "vm.xml" | "ds.xml" => {}
            "pre" | "post" | "clean" | "update_sg" | "update_nic" => {
                for driver in network_drivers(request) {
                    slots.push(format!("vnm/{driver}/{step}"));
                    if !ok {
                        break;
                    }
                }
            }
            "backup" | "backup_cancel" => slots.push(format!("datastore/rsync/{step}")),
            "prebackup" | "prebackup_live" | "postbackup" | "postbackup_live" => {
                slots.push(format!("tm/qcow2/{step}"));
            }
            _ => match step.strip_prefix("tm_") {
                None => slots.push(format!("vmm/kvm/{}", stock_script(&step))),
                Some(verb) => {
                    slots.push(transfer_slot(request, verb, deletes)?);
                    deletes += usize::from(verb == "delete");
                }
            },
        }
    }
    if slots.is_empty() {
        // Steps outside of the shared stream are not logged (contract VMM 2.3, own ssh calls).
        slots.push(format!("vmm/kvm/{}", stock_script(&exchange.action)));
    }
    Ok(slots)
}

/// The slots that the exchanges of a scenario before this one called.
fn slots_before(scenario: &Scenario, index: usize) -> Result<Vec<String>, SuiteError> {
    let mut slots = Vec::new();
    for exchange in scenario.exchanges.iter().take(index).filter(|e| e.payload != Payload::None) {
        slots.extend(recorded_slots(exchange, &Request::of(exchange)?)?);
    }
    Ok(slots)
}

/// The script of a VMM step, by the name that the stock driver logs.
fn stock_script(step: &str) -> String {
    let name = step.to_ascii_lowercase();
    match name.strip_prefix("snapshot") {
        Some(verb) if !verb.starts_with('_') => format!("snapshot_{verb}"),
        _ => name,
    }
}

/// The slot of a transfer step: `verb` is the command's, but for the two ends of a disk's attachment.
fn transfer_slot(request: &Request, verb: &str, index: usize) -> Result<String, SuiteError> {
    let element =
        if verb == "detach" && request.action == "ATTACHDISK" { "TM_COMMAND_ROLLBACK" } else { "TM_COMMAND" };
    let mut lines = request.text(element).lines().filter(|line| !line.trim().is_empty());
    let line = lines.nth(index).unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    let (Some(command), Some(driver)) = (words.next(), words.next()) else {
        return Err(SuiteError::recording(&request.action, format!("no command for {verb} in {element}")));
    };
    let command = command.to_ascii_lowercase();
    let (plain, suffix) = command.split_once('.').map_or((command.as_str(), None), |(c, s)| (c, Some(s)));
    let verb = if verb == "attach" || verb == "detach" { plain } else { verb };
    // The stand-ins fill the slots that the stock release has: a suffix without a script of its own is dropped.
    let slot = |verb: &str| format!("tm/{driver}/{verb}");
    Ok(match suffix {
        Some("ssh") => slot(&format!("{verb}.ssh")),
        _ => slot(verb),
    })
}

/// The distinct network drivers of a request's VM, in document order.
fn network_drivers(request: &Request) -> Vec<String> {
    let Some(template) = request.document.find("VM/TEMPLATE") else { return Vec::new() };
    let mut drivers = Vec::new();
    for name in ["NIC", "NIC_ALIAS", "PCI"] {
        for nic in template.children().filter(|child| child.name == name) {
            let driver = nic.find("VN_MAD").map(|element| element.text());
            drivers.extend(driver.filter(|driver| !drivers.contains(driver)));
        }
    }
    drivers
}

/// Arguments with everything replaced that differs from call to call: numbers, ids, hosts, the request itself.
fn shape(argv: &[String]) -> Vec<String> {
    argv.iter()
        .map(|word| {
            if word.contains(" characters, base64 of ") {
                return "<request>".to_owned();
            }
            if is_uuid(word) {
                return "<guest>".to_owned();
            }
            let mut shape = String::new();
            for part in word.split(':') {
                if !shape.is_empty() {
                    shape.push(':');
                }
                let host = ["node1", "node2", "localhost"].contains(&part);
                if host {
                    shape.push_str("<host>");
                    continue;
                }
                let mut digits = false;
                for character in part.chars() {
                    if !character.is_ascii_digit() {
                        shape.push(character);
                    } else if !digits {
                        shape.push('#');
                    }
                    digits = character.is_ascii_digit();
                }
            }
            shape
        })
        .collect()
}

fn is_uuid(word: &str) -> bool {
    let groups: Vec<usize> = word.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && word.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

fn decoded(body: &str, form: Form) -> Result<String, String> {
    let joined = match form {
        Form::Plain => return Ok(body.to_owned()),
        Form::Base64 if body.contains('\n') => return Err("base64 in lines instead of one".to_owned()),
        Form::Base64 => body.to_owned(),
        Form::Base64Lines if body.lines().any(|line| line.len() > 60) => {
            return Err("base64 lines of more than 60 characters".to_owned());
        }
        Form::Base64Lines => body.split('\n').collect(),
    };
    let bytes = BASE64_STANDARD.decode(joined).map_err(|e| format!("not base64: {e}"))?;
    String::from_utf8(bytes).map_err(|e| e.to_string())
}

fn encoded(document: &str, form: Form) -> String {
    let whole = BASE64_STANDARD.encode(document);
    match form {
        Form::Plain => document.to_owned(),
        Form::Base64 => whole,
        Form::Base64Lines => {
            let mut lines = String::new();
            for (index, character) in whole.chars().enumerate() {
                if index > 0 && index % 60 == 0 {
                    lines.push('\n');
                }
                lines.push(character);
            }
            lines + "\n"
        }
    }
}

fn first_difference(recorded: &str, ours: &str) -> String {
    let same = recorded.bytes().zip(ours.bytes()).take_while(|(a, b)| a == b).count();
    let around =
        |text: &str| text.get(same.saturating_sub(40)..(same + 40).min(text.len())).unwrap_or("").to_owned();
    format!("from byte {same} on; recorded {:?}, ours {:?}", around(recorded), around(ours))
}

/// The recorded calls, and a driver process that is ready: what most replays begin with.
///
/// # Errors
/// The recordings can't be read, or the driver does not start.
pub fn stage_of(front_end: &FrontEnd, arguments: &str) -> Result<(Vec<Call>, Oned), SuiteError> {
    let mut oned =
        Oned::start(&front_end.driver("causeway-vmm", arguments)?)?.with_patience(Duration::from_secs(90));
    oned.init()?;
    Ok((recorded::calls()?, oned))
}
