//! The driver process on the lab's front-end, from oned's side: started as oned starts it, killed and started again, and
//! able to ask oned back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::far::Far;
use super::{FRONT_END, LIBEXEC, Lab, LabError, breakpoints, quoted};
use crate::oned::{Nest, Oned, Reply};
use crate::request::Request;

/// The `qemu` entry of oned's configuration as it is shipped.
const ARGUMENTS: &str = "-t 15 -r 0 kvm";

/// Longest wait for a reply: a lost session is noticed after half a minute, and a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

/// oned's state of a VM (`LCM_STATE`) that waits for nothing.
const RUNNING: &str = "3";

/// oned on the front-end, and its driver process.
pub struct Driver<'a> {
    lab: &'a Lab,
    nest: Nest,
    oned: Option<Oned>,
    api: Far,
}

impl<'a> Driver<'a> {
    /// Starts the process. It can ask back for what [`restart`](Driver::restart) lets it know.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(lab: &'a Lab) -> Result<Driver<'a>, LabError> {
        lab.write(FRONT_END, "/var/lib/one/.one/one_auth", "oneadmin:secret\n")?;
        let api = Far::start(&lab.network_namespace(FRONT_END))?;
        let nest = nest(lab, api.endpoint())?;
        let oned = begin(&nest)?;
        Ok(Driver { lab, nest, oned: Some(oned), api })
    }

    /// The player.
    ///
    /// # Errors
    /// The process was killed and not started again.
    pub fn oned(&mut self) -> Result<&mut Oned, LabError> {
        self.oned.as_mut().ok_or_else(|| LabError::Promise("there is no driver process".to_owned()))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The process does not take it.
    pub fn send(&mut self, request: &Request) -> Result<(), LabError> {
        Ok(self.oned()?.send(&request.action, request.vm, &request.render())?)
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// None comes.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, LabError> {
        self.send(request)?;
        self.reply(request)
    }

    /// The reply to a request, waited for.
    ///
    /// # Errors
    /// None comes.
    pub fn reply(&mut self, request: &Request) -> Result<Reply, LabError> {
        Ok(self.oned()?.reply(&request.action, request.vm)?)
    }

    /// As [`ask`](Driver::ask), with success as the only answer.
    ///
    /// # Errors
    /// None comes, or a failure.
    pub fn succeed(&mut self, request: &Request) -> Result<Reply, LabError> {
        let reply = self.ask(request)?;
        if !reply.is_success() {
            return LabError::promise(format!("{} FAILURE {}", reply.action, reply.payload));
        }
        Ok(reply)
    }

    /// Kills the process with SIGKILL while `request` is in flight; returns the reply if it was given before.
    ///
    /// # Errors
    /// It had ended already.
    pub fn kill(&mut self, request: &Request) -> Result<Option<Reply>, LabError> {
        let Some(oned) = self.oned.take() else { return LabError::promise("there is no driver process") };
        let replies = oned.kill()?;
        Ok(replies.into_iter().find(|reply| reply.action == request.action && reply.vm == request.vm))
    }

    /// Starts the process again, as oned does at once. Where nothing was `heard`, oned still waits for the answer to
    /// `request` and says so when it is asked.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, request: &Request, heard: bool) -> Result<(), LabError> {
        let mut request = request.clone();
        if heard {
            request.set("VM/LCM_STATE", RUNNING)?;
        }
        let part = |name: &str| request.document.find(name).map(|element| element.render());
        let datastore = request.text("DATASTORE/ID").parse().unwrap_or_default();
        self.api.know_vm(request.vm, &part("VM").unwrap_or_default());
        self.api.know_datastore(datastore, &part("DATASTORE").unwrap_or_default());
        let mut oned = begin(&self.nest)?;
        if !heard {
            oned.owe(&request.action, request.vm);
        }
        self.oned = Some(oned);
        Ok(())
    }

    /// Ends the process and starts another, with these settings of ours.
    ///
    /// # Errors
    /// It does not end or does not start, or broke the protocol.
    pub fn configure(&mut self, settings: &str) -> Result<(), LabError> {
        self.finalize()?;
        self.lab.write_as_root(FRONT_END, "/etc/one/causeway.toml", settings)?;
        self.oned = Some(begin(&self.nest)?);
        Ok(())
    }

    /// Ends the process.
    ///
    /// # Errors
    /// It does not end, broke the protocol, or owes a reply.
    pub fn finalize(&mut self) -> Result<(), LabError> {
        if let Some(mut oned) = self.oned.take() {
            oned.is_square()?;
            let ended = oned.finalize()?;
            if !ended.replies.is_empty() {
                return LabError::promise(format!("replies that nobody took: {:?}", ended.replies));
            }
        }
        Ok(())
    }

    /// The plan of a request, as `causeway plan --json` prints it on the front-end.
    ///
    /// # Errors
    /// The request can't be planned.
    pub fn plan(&self, request: &Request) -> Result<causeway_core::plan::Plan, LabError> {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let line =
            format!("{}  {} {}\n", request.action, request.vm, BASE64_STANDARD.encode(request.render()));
        let program = format!("{LIBEXEC}/causeway");
        let arguments = format!("--arguments={ARGUMENTS}");
        let words = ["one", FRONT_END, &program, "plan", "--json", &arguments, "-"];
        let json = self.lab.run_with(&words, &line)?;
        serde_json::from_str(&json).map_err(|e| LabError::Promise(format!("the plan is no plan: {e}")))
    }
}

fn begin(nest: &Nest) -> Result<Oned, LabError> {
    let mut oned = Oned::start(nest)?.with_patience(PATIENCE);
    oned.init()?;
    Ok(oned)
}

/// The way into the front-end, as an executable that oned can start.
fn nest(lab: &Lab, endpoint: &str) -> Result<Nest, LabError> {
    let environment =
        [format!("ONE_XMLRPC={endpoint}"), format!("CAUSEWAY_BREAKPOINTS={}", breakpoints::DIRECTORY)];
    let program = format!("{LIBEXEC}/causeway-vmm");
    let words = lab.words(&["one", FRONT_END, "env", &environment.join("\n"), &program]);
    let quoted: Vec<String> = words.iter().flat_map(|word| word.split('\n')).map(quoted).collect();
    let script = lab.directory().join("libexec/driver.sh");
    let failed = || LabError::io(script.display().to_string());
    fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", quoted.join(" "))).map_err(failed())?;
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).map_err(failed())?;
    Ok(Nest::new(&script, ARGUMENTS, lab.directory()))
}
