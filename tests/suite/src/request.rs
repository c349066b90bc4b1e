//! Requests as oned sends them: recorded ones, with words of them changed, and such made for a guest of the lab.

use std::path::Path;

use crate::error::SuiteError;
use crate::recorded::{Exchange, Payload, Scenario, scenarios};
use crate::xml::{Element, XmlError};

pub mod guest;

pub use guest::Guest;

/// oned's `LCM_STATE` of a VM without a guest whose backup is made; with a guest it is 69, which calls the live verbs.
const BACKUP_POWEROFF: &str = "70";

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The action.
    pub action: String,
    /// The VM.
    pub vm: u32,
    /// The document.
    pub document: Element,
    /// What the deployment file holds that the document names, where it names one.
    pub deployment: Option<String>,
}

impl Request {
    /// The first recorded request of `action` in the scenario whose name begins so.
    ///
    /// # Errors
    /// There is none.
    pub fn recorded(scenario: &str, action: &str) -> Result<Request, SuiteError> {
        Request::of(Scenario::named(scenario)?.first(action)?)
    }

    /// The request of a recorded exchange. Where its payload was left out of the recording, another request of the same
    /// action, changed to the VM and the elements that were recorded.
    ///
    /// # Errors
    /// No request of that action was recorded whole.
    pub fn of(exchange: &Exchange) -> Result<Request, SuiteError> {
        let mut request = match &exchange.payload {
            Payload::Whole(text) => Request::whole(exchange, text)?,
            Payload::Fields(_) => Request::like(exchange)?,
            Payload::None => {
                return Err(SuiteError::recording(
                    &exchange.scenario,
                    format!("{} has no payload", exchange.action),
                ));
            }
        };
        request.deployment = match (&exchange.deployment, request.text("REMOTE_DEPLOYMENT_FILE")) {
            (Some(text), _) => Some(text.clone()),
            (None, "") => None,
            (None, remote) => Some(another_deployment(exchange.vm, remote)?),
        };
        Ok(request)
    }

    fn whole(exchange: &Exchange, text: &str) -> Result<Request, SuiteError> {
        let document = parsed(&exchange.scenario, text)?;
        Ok(Request { action: exchange.action.clone(), vm: exchange.vm, document, deployment: None })
    }

    fn like(exchange: &Exchange) -> Result<Request, SuiteError> {
        let all = scenarios()?;
        let first_step = |e: &Exchange| e.steps().into_iter().next().map(|(name, _)| name);
        let same = |e: &&Exchange| e.action == exchange.action && matches!(e.payload, Payload::Whole(_));
        // A CLEANUP without a guest begins with another step than one with a guest.
        let alike = |e: &&Exchange| first_step(e) == first_step(exchange);
        // Those whose payloads were left out are of one NIC and of this kind of datastore.
        let usual = |e: &&Exchange| {
            e.scenario.starts_with("k-qcow2-")
                || e.scenario.starts_with("k-vmm-") && !e.scenario.starts_with("k-vmm-02")
        };
        let candidates = || all.iter().flat_map(|s| &s.exchanges).filter(same);
        let close = || candidates().filter(alike);
        let model = close().find(usual).or_else(|| close().next()).or_else(|| candidates().next());
        let none =
            || SuiteError::recording(&exchange.scenario, format!("no {} to model on", exchange.action));
        let model = model.ok_or_else(none)?;
        let Payload::Whole(text) = &model.payload else { return Err(none()) };
        let mut request = Request::whole(exchange, text)?;
        let old_directory = format!("/{}/", model.vm);
        request.set("VM/ID", &exchange.vm.to_string())?;
        for name in ["MIGR_HOST", "CHECKPOINT_FILE", "TM_COMMAND", "DISK_TARGET_PATH", "HOST"] {
            request.set(name, exchange.field(name).unwrap_or_default())?;
        }
        for name in ["LOCAL_DEPLOYMENT_FILE", "REMOTE_DEPLOYMENT_FILE"] {
            let path = request.text(name).replace(&old_directory, &format!("/{}/", exchange.vm));
            request.set(name, &path)?;
        }
        let host = match exchange.field("MIGR_HOST") {
            Some(destination) if exchange.action == "MIGRATE" => destination.to_owned(),
            _ => request.text("HOST").to_owned(),
        };
        request.set("VM/HISTORY_RECORDS/HISTORY/HOSTNAME", &host)?;
        if exchange.action == "BACKUP" && first_step(exchange).is_some_and(|step| step == "prebackup") {
            request.set("VM/LCM_STATE", BACKUP_POWEROFF)?;
        }
        Ok(request)
    }

    /// With another text at the first place of that path below the root.
    ///
    /// # Errors
    /// The document has no such element.
    pub fn set(&mut self, path: &str, text: &str) -> Result<(), SuiteError> {
        self.element(path)?.set_text(text);
        Ok(())
    }

    /// With another guest: both elements that name it.
    ///
    /// # Errors
    /// The document has no such elements.
    pub fn set_deploy_id(&mut self, id: &str) -> Result<(), SuiteError> {
        self.set("DEPLOY_ID", id)?;
        self.set("VM/DEPLOY_ID", id)
    }

    /// The first element at that path below the root.
    ///
    /// # Errors
    /// There is none.
    pub fn element(&mut self, path: &str) -> Result<&mut Element, SuiteError> {
        let missing =
            SuiteError::recording(format!("{} {}", self.action, self.vm), format!("no element {path}"));
        self.document.find_mut(path).ok_or(missing)
    }

    /// The text at the first place of that path, where it is written in one piece; empty where there is none.
    pub fn text(&self, path: &str) -> &str {
        use crate::xml::Node;
        match self.document.find(path).map(|element| element.nodes.as_slice()) {
            Some([Node::Text(text) | Node::Cdata(text)]) => text,
            _ => "",
        }
    }

    /// The payload before it is encoded.
    pub fn render(&self) -> String {
        self.document.render()
    }

    /// Writes the deployment file where the document says that it is.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write_deployment(&self) -> Result<(), SuiteError> {
        let path = Path::new(self.text("LOCAL_DEPLOYMENT_FILE"));
        let (Some(text), Some(directory)) = (&self.deployment, path.parent()) else { return Ok(()) };
        let failed = |e| SuiteError::io(format!("write {}", path.display()))(e);
        std::fs::create_dir_all(directory).map_err(failed)?;
        std::fs::write(path, text).map_err(failed)
    }

    /// The same request with every text changed by `change`: for a front-end whose directories are elsewhere.
    ///
    /// # Errors
    /// The changed document is none any more.
    pub fn map(&self, change: impl Fn(&str) -> String) -> Result<Request, SuiteError> {
        Ok(Request {
            action: self.action.clone(),
            vm: self.vm,
            document: parsed("changed request", &change(&self.render()))?,
            deployment: self.deployment.as_deref().map(change),
        })
    }
}

fn parsed(what: &str, text: &str) -> Result<Element, SuiteError> {
    Element::parse(text).map_err(|e: XmlError| SuiteError::recording(what, e.to_string()))
}

/// A recorded deployment file, for another VM: `remote` is where its own lies on the host.
fn another_deployment(vm: u32, remote: &str) -> Result<String, SuiteError> {
    let model = Scenario::named("k-qcow2-01")?;
    let deploy = model.first("DEPLOY")?;
    let missing = || SuiteError::recording(&model.name, "no deployment file");
    let text = deploy.deployment.as_ref().ok_or_else(missing)?;
    let directory = remote.rsplit_once('/').map_or(remote, |(directory, _)| directory);
    Ok(text.replace("/var/lib/one//datastores/102/0", directory).replace("one-0", &format!("one-{vm}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_exchange_gives_a_request() {
        let mut seen = 0;
        for scenario in scenarios().unwrap() {
            for exchange in scenario.exchanges.iter().filter(|e| e.payload != Payload::None) {
                let request = Request::of(exchange).unwrap();
                assert_eq!(request.text("VM/ID"), exchange.vm.to_string(), "{}", scenario.name);
                if let Payload::Whole(text) = &exchange.payload {
                    assert_eq!(request.render(), *text);
                }
                assert_eq!(request.deployment.is_some(), exchange.action == "DEPLOY", "{}", scenario.name);
                seen += 1;
            }
        }
        assert!(seen > 80, "{seen}");
    }

    #[test]
    fn what_was_left_out_is_modelled_on_another() {
        let request = Request::recorded("k-fail-04", "MIGRATE").unwrap();
        let command = "MIGRATE qcow2 node1 node2 /var/lib/one//datastores/102/6 6 102\n";
        assert_eq!(request.text("TM_COMMAND"), command);
        assert_eq!((request.text("HOST"), request.text("MIGR_HOST")), ("node1", "node2"));
        assert_eq!(request.text("VM/HISTORY_RECORDS/HISTORY/HOSTNAME"), "node2");
        let deploy = Request::recorded("k-fail-01", "DEPLOY").unwrap();
        let remote = "/var/lib/one//datastores/102/6/deployment.0";
        assert_eq!(deploy.text("REMOTE_DEPLOYMENT_FILE"), remote);
        assert!(deploy.deployment.unwrap().contains("<name>one-6</name>"));
    }
}
