//! Slots of the transfer manager by themselves, on the front-end, as the stock driver processes start them: with a
//! stand-in for oned's interface to be asked.

use super::far::Far;
use super::{FRONT_END, LIBEXEC, Lab, LabError};

/// The front-end's slots.
pub struct Slots<'a> {
    lab: &'a Lab,
    far: Far,
}

impl<'a> Slots<'a> {
    /// With an oned that knows nothing yet.
    ///
    /// # Errors
    /// The front-end's network can't be entered.
    pub fn start(lab: &'a Lab) -> Result<Slots<'a>, LabError> {
        lab.write(FRONT_END, "/var/lib/one/.one/one_auth", "oneadmin:secret\n")?;
        Ok(Slots { lab, far: Far::start(&lab.network_namespace(FRONT_END))? })
    }

    /// Lets oned know a VM by this document.
    pub fn know_vm(&self, id: u32, document: &str) {
        self.far.know_vm(id, document);
    }

    /// Lets oned know a datastore by this document.
    pub fn know_datastore(&self, id: u32, document: &str) {
        self.far.know_datastore(id, document);
    }

    /// Lets oned know these hosts, which it can reach.
    pub fn know_hosts(&self, names: &[&str]) {
        let host = |name: &&str| format!("<HOST><NAME>{name}</NAME><STATE>2</STATE></HOST>");
        let hosts: String = names.iter().map(host).collect();
        self.far.know_hosts(&format!("<HOST_POOL>{hosts}</HOST_POOL>"));
    }

    /// Lets oned know an image by this document.
    pub fn know_image(&self, id: u32, document: &str) {
        self.far.know_image(id, document);
    }

    /// Runs one: its name and its arguments.
    ///
    /// # Errors
    /// It fails; its words are told.
    pub fn run(&self, words: &[&str]) -> Result<String, LabError> {
        self.run_with(words, "")
    }

    /// As [`run`](Slots::run), with this on standard input.
    ///
    /// # Errors
    /// It fails; its words are told.
    pub fn run_with(&self, words: &[&str], input: &str) -> Result<String, LabError> {
        let oned = format!("ONE_XMLRPC={}", self.far.endpoint());
        let program = format!("{LIBEXEC}/causeway-tm");
        self.lab.run_with(&[&["one", FRONT_END, "env", &oned, &program, "slot"], words].concat(), input)
    }
}
