//! A migration: who connects to whom, the deadline, the abort.

use std::ffi::{CStr, CString};
use std::time::Duration;

use causeway_core::names::DeployId;
use virt::connect::Connect;
use virt::sys;

use super::{Libvirt, c_string, describe, flatten, link};
use crate::calls::{self, NoAnswer};
use crate::error::{Cause, Code, DomainError, Operation};
use crate::ffi::{self, TypedParams};
use crate::hypervisor::Hypervisor;
use crate::migrate::{Disks, Drive, MigrateRequest};

impl Libvirt {
    /// See [`Hypervisor::migrate`].
    pub(super) fn run_migration(&self, id: &DeployId, request: &MigrateRequest) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::Migrate, id, cause);
        request.check().map_err(|e| fail(Cause::Input(e)))?;
        self.check_hanging().map_err(fail)?;
        let params = Params::of(request).map_err(fail)?;
        let destination = c_string("destination", &request.destination).map_err(fail)?;
        let work = {
            let (uri, link) = (self.uri.clone(), self.link());
            let shared = self.shares_one_connection();
            let (id, drive, flags) = (id.clone(), request.drive, request.flags());
            move || {
                let own = match shared {
                    true => link.connection(&uri)?,
                    false => link::open(&uri)?.into(),
                };
                let (answer, peer) = start(&own, &id, drive, &destination, &params, flags);
                // An answer must not wait for two goodbyes.
                calls::leave(move || drop((own, peer)));
                answer
            }
        };
        let pending = self.calls.start(work).map_err(|_| fail(Cause::Lost))?;
        let pending = match pending.wait(request.deadline) {
            Ok(answer) => return flatten(answer, request.deadline).map_err(fail),
            Err(pending) => pending,
        };
        tracing::warn!(vm = %id, deadline_ms = request.deadline.as_millis(), "migration is too slow, aborting it");
        if let Err(error) = self.abort_job(id) {
            tracing::warn!(vm = %id, %error, cause = %error.cause, "the abort failed");
        }
        let answer = match pending.wait(self.deadlines.abort) {
            Ok(answer) => answer,
            Err(pending) => pending.abandon(),
        };
        after_abort(answer, request.deadline, self.deadlines.abort).map_err(fail)
    }
}

/// What a migration's answer means once it was told to abort. It may have ended well in that very moment.
fn after_abort(
    answer: Result<Result<(), Cause>, NoAnswer>,
    deadline: Duration,
    grace: Duration,
) -> Result<(), Cause> {
    match flatten(answer, deadline + grace) {
        Err(Cause::Libvirt { code: Code::Aborted, .. }) => Err(Cause::Deadline(deadline)),
        other => other,
    }
}

type Peer = Option<link::Connection>;

fn start(
    source: &Connect,
    id: &DeployId,
    drive: Drive,
    destination: &CString,
    params: &Params,
    flags: u32,
) -> (Result<(), Cause>, Peer) {
    let found = describe::find(source, id).and_then(|domain| Ok((domain, params.to_libvirt()?)));
    let (domain, params) = match found {
        Ok(found) => found,
        Err(cause) => return (Err(cause), None),
    };
    match drive {
        Drive::PeerToPeer => {
            let answer = ffi::migrate_to_uri(&domain, destination, &params, flags);
            (answer.map_err(Cause::from), None)
        }
        Drive::Client => match link::open(&destination.to_string_lossy()) {
            Ok(peer) => {
                let answer = ffi::migrate(&domain, &peer, &params, flags);
                (answer.map_err(Cause::from), Some(peer))
            }
            Err(cause) => (Err(cause), None),
        },
    }
}

/// The parameters of a request, checked; they become libvirt's own array on the thread that uses it.
#[derive(Debug, Default, PartialEq)]
struct Params {
    texts: Vec<(&'static CStr, CString)>,
    ints: Vec<(&'static CStr, i32)>,
    numbers: Vec<(&'static CStr, u64)>,
}

impl Params {
    fn of(request: &MigrateRequest) -> Result<Self, Cause> {
        let mut params = Params::default();
        let texts = [
            (sys::VIR_MIGRATE_PARAM_URI, &request.migrate_uri),
            (sys::VIR_MIGRATE_PARAM_LISTEN_ADDRESS, &request.listen_address),
            (sys::VIR_MIGRATE_PARAM_TLS_DESTINATION, &request.tls_destination),
            (sys::VIR_MIGRATE_PARAM_DEST_XML, &request.dest_xml),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                params.text(name, text)?;
            }
        }
        if let Disks::Copy(disks) | Disks::CopyTopLayer(disks) = &request.disks {
            for disk in disks {
                params.text(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, disk)?;
            }
        }
        if request.xbzrle_cache.is_some() {
            params.text(sys::VIR_MIGRATE_PARAM_COMPRESSION, "xbzrle")?;
        }
        let converge = request.auto_converge.unwrap_or_default();
        let ints = [
            (sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, converge.initial),
            (sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, converge.increment),
            (sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, request.parallel.filter(|n| *n > 0)),
        ];
        for (name, number) in ints {
            params.ints.extend(number.map(|n| (name, i32::from(n))));
        }
        let numbers = [
            (sys::VIR_MIGRATE_PARAM_BANDWIDTH, request.bandwidth_mib.map(u64::from)),
            (sys::VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY, request.bandwidth_postcopy_mib.map(u64::from)),
            (sys::VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE, request.xbzrle_cache.filter(|n| *n > 0)),
        ];
        for (name, number) in numbers {
            params.numbers.extend(number.map(|n| (name, n)));
        }
        Ok(params)
    }

    fn text(&mut self, name: &'static CStr, text: &str) -> Result<(), Cause> {
        let value = c_string(&name.to_string_lossy(), text)?;
        self.texts.push((name, value));
        Ok(())
    }

    fn to_libvirt(&self) -> Result<TypedParams, Cause> {
        let mut params = TypedParams::new();
        for (name, text) in &self.texts {
            params.add_text(name, text)?;
        }
        for (name, number) in &self.ints {
            params.add_int(name, *number)?;
        }
        for (name, number) in &self.numbers {
            params.add_unsigned(name, *number)?;
        }
        Ok(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::Value;
    use crate::migrate::AutoConverge;

    fn plain() -> MigrateRequest {
        let deadline = Duration::from_secs(60);
        MigrateRequest::new(Drive::PeerToPeer, "qemu+tls://h2/system", deadline)
    }

    #[test]
    fn a_plain_request_leaves_everything_to_libvirt() {
        assert_eq!(Params::of(&plain()).unwrap(), Params::default());
    }

    #[test]
    fn every_setting_becomes_a_parameter() {
        let request = MigrateRequest {
            migrate_uri: Some("tcp://10.77.0.2".into()),
            bandwidth_mib: Some(40),
            auto_converge: Some(AutoConverge { initial: Some(50), increment: None }),
            parallel: Some(0),
            disks: Disks::Copy(vec!["vda".into(), "vdb".into()]),
            ..plain()
        };
        let text = |t: &str| Value::Text(t.to_owned());
        let expected = [
            ("migrate_uri", text("tcp://10.77.0.2")),
            ("migrate_disks", text("vda")),
            ("migrate_disks", text("vdb")),
            ("auto_converge.initial", Value::Int(50)),
            ("bandwidth", Value::Unsigned(40)),
        ];
        let read = Params::of(&request).unwrap().to_libvirt().unwrap().read();
        let read: Vec<_> = read.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn a_zero_byte_is_refused_by_name() {
        let request = MigrateRequest { migrate_uri: Some("tcp://h\0".into()), ..plain() };
        let cause = Params::of(&request).unwrap_err();
        assert_eq!(cause, Cause::Input("migrate_uri holds a zero byte".into()));
    }

    #[test]
    fn an_abort_that_came_too_late_is_a_success() {
        let (deadline, grace) = (Duration::from_secs(1), Duration::from_secs(2));
        let after = |answer| after_abort(answer, deadline, grace);
        assert_eq!(after(Ok(Ok(()))), Ok(()));
        let aborted = Cause::libvirt(Code::Aborted, "canceled by client");
        assert_eq!(after(Ok(Err(aborted))), Err(Cause::Deadline(deadline)));
        let silent = Err(Cause::Silent(deadline + grace));
        assert_eq!(after(Err(NoAnswer::Late)), silent);
    }
}
