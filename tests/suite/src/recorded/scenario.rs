//! Scenarios: what an operator did, and what oned and its virtual machine drivers said to each other.

use std::path::Path;

use super::{data, files, read, stem};
use crate::error::SuiteError;

/// One recorded scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its file's name, such as `k-qcow2-01-create-deploy`.
    pub name: String,
    /// Its requests, in order.
    pub exchanges: Vec<Exchange>,
}

/// A request's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Recorded whole: the document.
    Whole(String),
    /// Only a few elements of it were recorded: their names and content as they stand in the document.
    Fields(Vec<(String, String)>),
    /// oned sent none: DRIVER_CANCEL.
    None,
}

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The scenario.
    pub scenario: String,
    /// `kvm` or `qemu`: which of oned's entries the driver process belonged to.
    pub driver: String,
    /// The action.
    pub action: String,
    /// The VM.
    pub vm: u32,
    /// What oned sent.
    pub payload: Payload,
    /// The deployment file that the request names, where its content was recorded.
    pub deployment: Option<String>,
    /// The driver's log lines for the VM, up to the reply: severity and text.
    pub log: Vec<(char, String)>,
    /// The reply: its status and its payload. None where none came.
    pub reply: Option<(String, String)>,
    /// What was asked of the recording stubs before: the operator's words.
    pub prepared: Vec<String>,
}

impl Exchange {
    /// The steps that the stock driver reported, in order, by names of our own plans' kind: `tm_context`, `pre`, `mkdir`,
    /// `vm.xml`; and whether each succeeded.
    ///
    /// The stock driver tells of a failed step only after its clean-up; here it stands where it ran.
    pub fn steps(&self) -> Vec<(String, bool)> {
        let mut steps = Vec::new();
        let mut failed_at = None;
        for (_, text) in &self.log {
            if text.starts_with("Command execution fail") {
                failed_at.get_or_insert(steps.len());
            }
            if let Some(name) = operation(text, "Successfully execute ") {
                steps.push((name, true));
            } else if let Some(name) = operation(text, "Failed to execute ") {
                let at = failed_at.take().unwrap_or(steps.len());
                steps.insert(at, (name, false));
            }
        }
        steps
    }

    /// An element of the payload, as it stands in the document.
    pub fn field(&self, name: &str) -> Option<&str> {
        match &self.payload {
            Payload::Fields(fields) => {
                fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
            }
            Payload::Whole(_) | Payload::None => None,
        }
    }
}

/// The step that a log line of the stock driver is about.
fn operation(text: &str, outcome: &str) -> Option<String> {
    let (_, operation) = text.strip_prefix(outcome)?.split_once(" driver operation: ")?;
    let operation = operation.strip_suffix('.').unwrap_or(operation);
    Some(match operation {
        "/bin/mkdir -p" => "mkdir".to_owned(),
        other => match other.strip_prefix("/bin/cat - >").and_then(|path| path.rsplit_once('/')) {
            Some((_, file)) => file.to_owned(),
            None => other.to_owned(),
        },
    })
}

/// Every recorded scenario.
///
/// # Errors
/// A file can't be read or is malformed.
pub fn scenarios() -> Result<Vec<Scenario>, SuiteError> {
    files("scenarios", "txt")?.iter().map(|path| Scenario::read(path)).collect()
}

impl Scenario {
    /// The scenario of that name; the beginning of the name is enough.
    ///
    /// # Errors
    /// There is none, or it is malformed.
    pub fn named(name: &str) -> Result<Scenario, SuiteError> {
        let paths = files("scenarios", "txt")?;
        let path = paths.iter().find(|path| stem(path).starts_with(name));
        Scenario::read(path.ok_or_else(|| SuiteError::recording(name, "no such scenario"))?)
    }

    /// The only exchange of `action`, or the first of several.
    ///
    /// # Errors
    /// There is none.
    pub fn first(&self, action: &str) -> Result<&Exchange, SuiteError> {
        let found = self.exchanges.iter().find(|exchange| exchange.action == action);
        found.ok_or_else(|| SuiteError::recording(&self.name, format!("no {action}")))
    }

    fn read(path: &Path) -> Result<Scenario, SuiteError> {
        let mut reader = Reader { name: stem(path), exchanges: Vec::new(), prepared: Vec::new(), file: None };
        for line in read(path)?.lines() {
            reader.line(line)?;
        }
        Ok(Scenario { name: reader.name, exchanges: reader.exchanges })
    }
}

struct Reader {
    name: String,
    exchanges: Vec<Exchange>,
    prepared: Vec<String>,
    /// The deployment file whose content is being read.
    file: Option<String>,
}

impl Reader {
    /// `TIME DRIVER DIRECTION TEXT`.
    fn line(&mut self, line: &str) -> Result<(), SuiteError> {
        let mut fields = line.splitn(3, ' ');
        let (Some(_), Some(driver), Some(rest)) = (fields.next(), fields.next(), fields.next()) else {
            return Ok(());
        };
        let rest = rest.trim_start();
        let text =
            |prefix: &str| rest.strip_prefix(prefix).map(|text| text.strip_prefix(' ').unwrap_or(text));
        if let Some(text) = text("##") {
            if let Some(stub) = text.trim_start().strip_prefix("stub: ") {
                self.prepared.push(stub.to_owned());
            }
            return Ok(());
        }
        let driver = driver.strip_prefix("vmm-").unwrap_or(driver).to_owned();
        if let Some(text) = text("oned->driver") {
            return self.request(driver, text);
        }
        if let Some(text) = text("driver->oned") {
            self.answer(&driver, text);
        } else if let Some(text) = text("-- file") {
            self.file_line(text.trim_start());
        }
        Ok(())
    }

    fn request(&mut self, driver: String, text: &str) -> Result<(), SuiteError> {
        // The status field is empty: two blanks.
        let malformed = || SuiteError::recording(&self.name, format!("not a request: {text}"));
        let (action, rest) = text.split_once("  ").ok_or_else(malformed)?;
        let (vm, payload) = rest.split_once(' ').unwrap_or((rest, ""));
        let vm = vm.parse().map_err(|_| malformed())?;
        let payload = match payload.strip_prefix("{payload ").and_then(|text| text.strip_suffix('}')) {
            None => Payload::None,
            Some(words) => match words.strip_prefix("in ") {
                Some(file) => Payload::Whole(read(&data().join(file))?),
                None => Payload::Fields(fields(words)),
            },
        };
        self.exchanges.push(Exchange {
            scenario: self.name.clone(),
            driver,
            action: action.to_owned(),
            vm,
            payload,
            deployment: None,
            log: Vec::new(),
            reply: None,
            prepared: std::mem::take(&mut self.prepared),
        });
        Ok(())
    }

    fn answer(&mut self, driver: &str, text: &str) {
        let mut words = text.splitn(4, ' ');
        let (Some(kind), Some(status), Some(vm)) = (words.next(), words.next(), words.next()) else { return };
        let payload = words.next().unwrap_or_default();
        let Ok(vm) = vm.parse::<u32>() else { return };
        let open =
            self.exchanges.iter_mut().filter(|e| e.driver == driver && e.vm == vm && e.reply.is_none());
        if kind == "LOG" {
            // Lines don't say which request they are of; the last one that is open is at work.
            if let Some(exchange) = open.last() {
                exchange.log.push((status.chars().next().unwrap_or('I'), payload.to_owned()));
            }
        } else if let Some(exchange) = open.into_iter().find(|e| e.action == kind) {
            exchange.reply = Some((status.to_owned(), payload.to_owned()));
        }
    }

    fn file_line(&mut self, text: &str) {
        if let Some(name) = text.strip_prefix("BEGIN ") {
            self.file = (!name.contains(' ')).then(String::new);
        } else if text.starts_with("END ") {
            if let (Some(content), Some(exchange)) = (self.file.take(), self.exchanges.last_mut()) {
                exchange.deployment = Some(content);
            }
        } else if let (Some(content), Some(line)) = (&mut self.file, text.strip_prefix("| ")) {
            content.push_str(line);
            content.push('\n');
        }
    }
}

/// The elements in `left out, 9436 base64 characters; HOST="node1" TM_COMMAND="..."`.
fn fields(words: &str) -> Vec<(String, String)> {
    let Some((_, mut rest)) = words.split_once("; ") else { return Vec::new() };
    let mut found = Vec::new();
    while let Some((name, after)) = rest.split_once("=\"") {
        // A value ends at the quote before the next name or the end; TM commands hold none.
        let Some((value, after)) = after.split_once('"') else { break };
        let value = value.replace("\\n", "\n");
        let value = value.strip_prefix("<![CDATA[").and_then(|v| v.strip_suffix("]]>")).unwrap_or(&value);
        found.push((name.trim().to_owned(), value.to_owned()));
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recordings_hold_every_action() {
        let all: Vec<Exchange> = scenarios().unwrap().into_iter().flat_map(|s| s.exchanges).collect();
        let whole: Vec<&Exchange> = all.iter().filter(|e| matches!(e.payload, Payload::Whole(_))).collect();
        assert_eq!(whole.len(), 41);
        let mut actions: Vec<&str> = whole.iter().map(|e| e.action.as_str()).collect();
        actions.sort_unstable();
        actions.dedup();
        assert_eq!(actions.len(), 26, "{actions:?}");
        for exchange in whole {
            assert!(exchange.reply.is_some(), "{} {}", exchange.scenario, exchange.action);
        }
    }

    #[test]
    fn steps_stand_where_they_ran() {
        let deploy = Scenario::named("k-qcow2-01").unwrap().first("DEPLOY").unwrap().clone();
        let names: Vec<String> = deploy.steps().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["tm_context", "pre", "mkdir", "vm.xml", "ds.xml", "deploy", "post"]);
        assert!(deploy.deployment.unwrap().starts_with("<domain type='kvm'"));

        let scenario = Scenario::named("k-fail-03").unwrap();
        let failed = scenario.exchanges.iter().find(|e| e.reply.as_ref().unwrap().0 == "FAILURE").unwrap();
        let last: Vec<(String, bool)> = failed.steps().into_iter().skip(6).collect();
        let step = |name: &str, ok| (name.to_owned(), ok);
        assert_eq!(last, [step("post", false), step("cancel", true), step("clean", true)]);
        assert_eq!(failed.field("HOST"), Some("node1"));
        let command =
            "CONTEXT qcow2 /var/lib/one/vms/6/context.sh node1:/var/lib/one//datastores/102/6/disk.1 6 102\n";
        assert_eq!(failed.field("TM_COMMAND"), Some(command));
        assert_eq!(failed.prepared, ["next call of vnm/ovswitch_vxlan/post ends with rc=1"]);
    }
}
