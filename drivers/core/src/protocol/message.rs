//! What a line from oned says (contract VMM 1.3, TM 1.2).

use std::borrow::Cow;

use super::action::Action;
use super::lines::Line;
use crate::document::{Base64Error, decode};
use crate::names::{DiskPath, NameError, VmId};

/// One message from oned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `INIT`: say hello within ten seconds.
    Init,
    /// `FINALIZE`: the pipes close next.
    Finalize,
    /// A request; exactly one reply is owed.
    Request(Request),
    /// `DRIVER_CANCEL`: the running or queued request of that VM is to be given up, and not to be answered.
    DriverCancel(VmId),
    /// A line that is none of these. With action and VM it is owed a FAILURE, otherwise a line in our log.
    Malformed(Malformed),
}

/// A request: what, for which VM, and the payload as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub action: Action,
    /// For which VM; the reply carries it.
    pub vm: VmId,
    payload: Vec<u8>,
}

/// A line that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("request of oned not understood: {reason}")]
pub struct Malformed {
    /// The action, if it could be read.
    pub action: Option<Action>,
    /// The VM, if it could be read.
    pub vm: Option<VmId>,
    /// What is wrong.
    pub reason: Reason,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The first word is none.
    #[error("{0}")]
    Action(NameError),
    /// No VM id, or none that is a number.
    #[error("no VM id after the action")]
    NoVm,
    /// Nothing after the VM id.
    #[error("no payload after the VM id")]
    NoPayload,
    /// Longer than we read.
    #[error("the line has {0} bytes, more than are accepted")]
    TooLong(u64),
}

impl Message {
    /// Reads a line; `None` if it is blank. Blanks may be repeated, and may be tabs.
    ///
    /// oned leaves the status field of a request empty, so the id usually stands second; a status word in front of it
    /// is skipped.
    pub fn parse(line: &Line) -> Option<Message> {
        let (bytes, too_long) = match line {
            Line::Whole(bytes) => (bytes, None),
            Line::TooLong { head, length } => (head, Some(Reason::TooLong(*length))),
        };
        let (first, rest) = field(bytes);
        if first.is_empty() && too_long.is_none() {
            return None;
        }
        match first {
            b"INIT" => return Some(Message::Init),
            b"FINALIZE" => return Some(Message::Finalize),
            _ => {}
        }
        let (vm, payload) = vm_and_rest(rest);
        if first == b"DRIVER_CANCEL"
            && let Some(vm) = vm
        {
            return Some(Message::DriverCancel(vm));
        }
        let action = String::from_utf8_lossy(first).parse::<Action>();
        let (action, reason) = match action {
            Ok(action) => (Some(action), None),
            Err(error) => (None, Some(Reason::Action(error))),
        };
        let reason = too_long
            .or(reason)
            .or_else(|| vm.is_none().then_some(Reason::NoVm))
            .or_else(|| payload.is_empty().then_some(Reason::NoPayload));
        Some(match (action, vm, reason) {
            (Some(action), Some(vm), None) => {
                Message::Request(Request { action, vm, payload: payload.to_vec() })
            }
            (action, vm, reason) => {
                Message::Malformed(Malformed { action, vm, reason: reason.unwrap_or(Reason::NoVm) })
            }
        })
    }
}

impl Request {
    /// A request as oned would send it, for tests and tools.
    pub fn new(action: Action, vm: VmId, payload: impl Into<Vec<u8>>) -> Self {
        Request { action, vm, payload: payload.into() }
    }

    /// The payload as it came: base64 for the virtual machine manager, a path for the transfer manager.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The document that a virtual machine manager's request carries.
    ///
    /// # Errors
    /// [`Base64Error`] if the payload is not base64.
    pub fn document(&self) -> Result<Vec<u8>, Base64Error> {
        decode(&self.payload)
    }

    /// The transfer script that a TRANSFER names.
    ///
    /// # Errors
    /// [`NameError`] if the payload is not an absolute path.
    pub fn script(&self) -> Result<DiskPath, NameError> {
        self.text().parse()
    }

    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.payload)
    }
}

/// Shows how long the payload is, not what it says: it carries secrets.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of VM {} with {} bytes", self.action, self.vm, self.payload.len())
    }
}

/// The id and what follows it, with or without a status word in front.
fn vm_and_rest(rest: &[u8]) -> (Option<VmId>, &[u8]) {
    let id = |bytes| std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<VmId>().ok());
    let (second, after) = field(rest);
    if let Some(vm) = id(second) {
        return (Some(vm), after);
    }
    let (third, after) = field(after);
    match id(third) {
        Some(vm) => (Some(vm), after),
        None => (None, &[]),
    }
}

/// The first field and, without blanks at either end, what follows it.
fn field(bytes: &[u8]) -> (&[u8], &[u8]) {
    let bytes = bytes.trim_ascii();
    let end = bytes.iter().position(u8::is_ascii_whitespace);
    let (first, rest) = bytes.split_at_checked(end.unwrap_or(bytes.len())).unwrap_or((bytes, &[]));
    (first, rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &[u8]) -> Option<Message> {
        Message::parse(&Line::Whole(line.to_vec()))
    }

    fn request(action: Action, vm: u32, payload: &[u8]) -> Option<Message> {
        Some(Message::Request(Request::new(action, VmId(vm), payload)))
    }

    #[test]
    fn the_lines_of_the_contract() {
        assert_eq!(parse(b"INIT"), Some(Message::Init));
        assert_eq!(parse(b"FINALIZE"), Some(Message::Finalize));
        assert_eq!(parse(b"DEPLOY  42 PFZN"), request(Action::Deploy, 42, b"PFZN"));
        assert_eq!(parse(b"DRIVER_CANCEL  42 "), Some(Message::DriverCancel(VmId(42))));
        let transfer = parse(b"TRANSFER  3 /var/lib/one/vms/3/transfer.0.prolog");
        let Some(Message::Request(transfer)) = transfer else { panic!("{transfer:?}") };
        assert_eq!(transfer.script().unwrap().as_str(), "/var/lib/one/vms/3/transfer.0.prolog");
    }

    #[test]
    fn odd_spacing_is_taken() {
        for line in [&b"DEPLOY 42 PFZN"[..], b"  DEPLOY \t  42\tPFZN \r", b"DEPLOY - 42 PFZN"] {
            assert_eq!(parse(line), request(Action::Deploy, 42, b"PFZN"), "{line:?}");
        }
        assert_eq!(parse(b"INIT \r"), Some(Message::Init));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b" \t\r"), None);
    }

    #[test]
    fn what_can_be_recovered_is() {
        let malformed = |line: &[u8]| match parse(line) {
            Some(Message::Malformed(malformed)) => malformed,
            other => panic!("{other:?}"),
        };
        let no_payload = malformed(b"DEPLOY  42 ");
        assert_eq!((no_payload.action, no_payload.vm), (Some(Action::Deploy), Some(VmId(42))));
        assert_eq!(no_payload.reason, Reason::NoPayload);
        let no_vm = malformed(b"DEPLOY  x y");
        assert_eq!((no_vm.action, no_vm.vm, no_vm.reason), (Some(Action::Deploy), None, Reason::NoVm));
        assert_eq!(malformed(b"DEPLOY").reason, Reason::NoVm);
        let garbage = malformed(b"\xff\xfe\x00 42 x");
        assert_eq!((garbage.action, garbage.vm), (None, Some(VmId(42))));
        assert_eq!(malformed(b"DRIVER_CANCEL").reason, Reason::NoVm);
        // An unknown action is a request all the same: its sender waits for an answer.
        assert!(matches!(parse(b"POLL  42 -"), Some(Message::Request(r)) if r.action.as_str() == "POLL"));
    }

    #[test]
    fn a_line_that_is_too_long_is_still_answerable() {
        let line = Line::TooLong { head: b"MIGRATE  42".to_vec(), length: 9_000_000 };
        let Some(Message::Malformed(malformed)) = Message::parse(&line) else { panic!() };
        assert_eq!((malformed.action, malformed.vm), (Some(Action::Migrate), Some(VmId(42))));
        assert_eq!(malformed.reason, Reason::TooLong(9_000_000));
        let headless = Line::TooLong { head: Vec::new(), length: 9_000_000 };
        assert!(matches!(Message::parse(&headless), Some(Message::Malformed(_))));
    }

    #[test]
    fn payloads_are_decoded_but_never_shown() {
        let request = Request::new(Action::Deploy, VmId(1), "PFZN\n TD4=".as_bytes());
        assert_eq!(request.document().unwrap(), b"<VML>");
        assert!(!format!("{request:?}").contains("PFZN"));
        assert!(Request::new(Action::Deploy, VmId(1), "P*").document().is_err());
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(line: Vec<u8>) {
            let blank = line.trim_ascii().is_empty();
            prop_assert_eq!(parse(&line).is_none(), blank);
        }

        #[test]
        fn requests_come_back(index in 0..Action::ALL.len(), vm: u32, payload in "[A-Za-z0-9+/]{1,80}=?") {
            let action = Action::ALL[index].clone();
            let line = format!("{action}  {vm} {payload}");
            prop_assert_eq!(parse(line.as_bytes()), request(action, vm, payload.as_bytes()));
        }
    }
}
