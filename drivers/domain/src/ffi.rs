//! The only unsafe code of the project: the libvirt calls that the `virt` crate lacks, or wraps so that they break.
//!
//! `virt` 0.4.3 has no binding for aborting a job, starting post-copy and reading the downtime limit; its job
//! statistics build a vector from a null pointer when there is no job, and its migration calls leak every string and
//! do not know all parameters. Of disks it knows no job and no copy, and of the guest's agent no freeze.
//!
//! Shared invariants, on which each block leans:
//! * a `Domain` or `Connect` that can be borrowed holds a reference on a live libvirt object, and `as_ptr` gives that
//!   object for as long as the borrow lasts;
//! * libvirt copies or only reads what it is passed, and keeps no pointer into our memory after the call;
//! * errors are per thread: `last_error` belongs to the call made just before on the same thread;
//! * [`initialize`] came before every other call. Without it libvirt stores its per-thread error under a key that
//!   belongs to another library, and the process dies when the thread ends (seen with libvirt 9.0). `Domain` and
//!   `Connect` exist only after it, [`TypedParams::new`] sees to it.
#![allow(unsafe_code)] // The one module for it, see above.

use std::ffi::{CStr, CString, c_int, c_uint, c_ulong, c_ulonglong};
use std::ptr;
use std::sync::Once;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

/// Prepares the library, once per process (`virInitialize`), and stops it from printing errors by itself.
pub(crate) fn initialize() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: has no preconditions. If it fails, opening a connection fails with the same error.
        unsafe { sys::virInitialize() };
        virt::error::clear_error_callback();
    });
}

/// A typed parameter's value; those of types that nobody here reads are left out when reading.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// `VIR_TYPED_PARAM_INT`.
    Int(i32),
    /// `VIR_TYPED_PARAM_ULLONG` and `VIR_TYPED_PARAM_UINT`.
    Unsigned(u64),
    /// `VIR_TYPED_PARAM_BOOLEAN`.
    Bool(bool),
    /// `VIR_TYPED_PARAM_STRING`.
    Text(String),
}

/// An array of typed parameters in libvirt's memory.
///
/// Invariant: `params` is null and `count` 0, or `params` points to `count` initialised parameters that libvirt
/// allocated and that are owned here alone.
pub(crate) struct TypedParams {
    params: sys::virTypedParameterPtr,
    count: c_int,
    capacity: c_int,
}

impl TypedParams {
    /// An empty array.
    pub fn new() -> Self {
        initialize();
        TypedParams { params: ptr::null_mut(), count: 0, capacity: 0 }
    }

    /// Adds a number of type `int`.
    pub fn add_int(&mut self, name: &CStr, value: c_int) -> Result<(), Error> {
        // SAFETY: the three pointers are to our own fields, which hold the invariant before and, by libvirt's
        // contract, after the call; `name` is a C string that libvirt copies.
        let done = unsafe {
            sys::virTypedParamsAddInt(
                &mut self.params,
                &mut self.count,
                &mut self.capacity,
                name.as_ptr(),
                value,
            )
        };
        check(done)
    }

    /// Adds a number of type `unsigned int`.
    pub fn add_uint(&mut self, name: &CStr, value: c_uint) -> Result<(), Error> {
        // SAFETY: as in `add_int`.
        let done = unsafe {
            sys::virTypedParamsAddUInt(
                &mut self.params,
                &mut self.count,
                &mut self.capacity,
                name.as_ptr(),
                value,
            )
        };
        check(done)
    }

    /// Adds a number of type `unsigned long long`.
    pub fn add_unsigned(&mut self, name: &CStr, value: c_ulonglong) -> Result<(), Error> {
        // SAFETY: as in `add_int`.
        let done = unsafe {
            sys::virTypedParamsAddULLong(
                &mut self.params,
                &mut self.count,
                &mut self.capacity,
                name.as_ptr(),
                value,
            )
        };
        check(done)
    }

    /// Adds a string.
    pub fn add_text(&mut self, name: &CStr, value: &CStr) -> Result<(), Error> {
        // SAFETY: as in `add_int`; `value` too is a C string that libvirt copies.
        let done = unsafe {
            sys::virTypedParamsAddString(
                &mut self.params,
                &mut self.count,
                &mut self.capacity,
                name.as_ptr(),
                value.as_ptr(),
            )
        };
        check(done)
    }

    /// Names and values, without those of other types.
    pub fn read(&self) -> Vec<(String, Value)> {
        let count = usize::try_from(self.count).unwrap_or(0);
        if self.params.is_null() || count == 0 {
            return Vec::new();
        }
        // SAFETY: by the type's invariant `params` points to `count` initialised elements, which nobody changes while
        // `self` is borrowed.
        let params = unsafe { std::slice::from_raw_parts(self.params, count) };
        params.iter().filter_map(read_param).collect()
    }
}

fn read_param(param: &sys::virTypedParameter) -> Option<(String, Value)> {
    // SAFETY: libvirt ends every name within its 80 bytes with a zero byte.
    let name = unsafe { CStr::from_ptr(param.field.as_ptr()) };
    let kind = c_uint::try_from(param.type_).ok()?;
    // SAFETY: `type_` says which member of the union libvirt has set; a string is null or a C string that lives as
    // long as the parameter.
    let value = unsafe {
        match kind {
            sys::VIR_TYPED_PARAM_INT => Value::Int(param.value.i),
            sys::VIR_TYPED_PARAM_UINT => Value::Unsigned(u64::from(param.value.ui)),
            sys::VIR_TYPED_PARAM_ULLONG => Value::Unsigned(param.value.ul),
            sys::VIR_TYPED_PARAM_BOOLEAN => Value::Bool(param.value.b != 0),
            sys::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                Value::Text(CStr::from_ptr(param.value.s).to_string_lossy().into_owned())
            }
            _ => return None,
        }
    };
    Some((name.to_string_lossy().into_owned(), value))
}

impl Drop for TypedParams {
    fn drop(&mut self) {
        // SAFETY: by the type's invariant the array is libvirt's and owned here alone; null with 0 is allowed.
        unsafe { sys::virTypedParamsFree(self.params, self.count) };
    }
}

fn check(returned: c_int) -> Result<(), Error> {
    match returned {
        0.. => Ok(()),
        _ => Err(Error::last_error()),
    }
}

/// Aborts the domain's running job (`virDomainAbortJob`).
pub(crate) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: `domain` is live for the call.
    check(unsafe { sys::virDomainAbortJob(domain.as_ptr()) })
}

/// Switches a running migration to post-copy (`virDomainMigrateStartPostCopy`).
pub(crate) fn start_post_copy(domain: &Domain) -> Result<(), Error> {
    // SAFETY: `domain` is live for the call; no flags are defined.
    check(unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) })
}

/// The longest pause of a migration in milliseconds (`virDomainMigrateGetMaxDowntime`).
pub(crate) fn max_downtime(domain: &Domain) -> Result<u64, Error> {
    let mut milliseconds: c_ulonglong = 0;
    // SAFETY: `domain` is live for the call, and the second argument points to a variable of the right type.
    check(unsafe { sys::virDomainMigrateGetMaxDowntime(domain.as_ptr(), &mut milliseconds, 0) })?;
    Ok(milliseconds)
}

/// The job's type and figures (`virDomainGetJobStats`).
pub(crate) fn job_stats(domain: &Domain, flags: c_uint) -> Result<(c_int, TypedParams), Error> {
    let mut kind: c_int = 0;
    let mut stats = TypedParams::new();
    // SAFETY: `domain` is live for the call; the pointers are to variables of the right types. On success libvirt
    // stores an array that the caller owns, or null with 0 if there is no job; on failure it leaves both alone. So the
    // invariant of `TypedParams` holds in either case.
    let done = unsafe {
        sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut stats.params, &mut stats.count, flags)
    };
    check(done)?;
    Ok((kind, stats))
}

/// Migrates with both connections in this process (`virDomainMigrate3`).
pub(crate) fn migrate(
    domain: &Domain,
    destination: &Connect,
    params: &TypedParams,
    flags: c_uint,
) -> Result<(), Error> {
    let count = c_uint::try_from(params.count).unwrap_or(0);
    // SAFETY: domain and connection are live for the call; `params` points to `count` parameters, which libvirt only
    // reads in spite of its missing `const`.
    let arrived =
        unsafe { sys::virDomainMigrate3(domain.as_ptr(), destination.as_ptr(), params.params, count, flags) };
    if arrived.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: a domain that the call returns is a new reference that belongs to the caller.
    drop(unsafe { Domain::from_ptr(arrived) });
    Ok(())
}

/// Lets the source's libvirtd migrate by itself (`virDomainMigrateToURI3`).
pub(crate) fn migrate_to_uri(
    domain: &Domain,
    destination: &CString,
    params: &TypedParams,
    flags: c_uint,
) -> Result<(), Error> {
    let count = c_uint::try_from(params.count).unwrap_or(0);
    // SAFETY: as in `migrate`; `destination` is a C string that libvirt only reads.
    check(unsafe {
        sys::virDomainMigrateToURI3(domain.as_ptr(), destination.as_ptr(), params.params, count, flags)
    })
}

/// Sets parameters of a running domain's interface (`virDomainSetInterfaceParameters`).
pub(crate) fn set_interface_parameters(
    domain: &Domain,
    device: &CStr,
    params: &TypedParams,
) -> Result<(), Error> {
    let live = sys::VIR_DOMAIN_AFFECT_LIVE;
    // SAFETY: `domain` is live for the call; `device` is a C string and `params` points to `count` parameters, both of
    // which libvirt only reads.
    check(unsafe {
        sys::virDomainSetInterfaceParameters(
            domain.as_ptr(),
            device.as_ptr(),
            params.params,
            params.count,
            live,
        )
    })
}

/// Writes a layer of a disk's chain into one below it (`virDomainBlockCommit`), at most `bandwidth` bytes per second.
pub(crate) fn block_commit(
    domain: &Domain,
    disk: &CStr,
    base: &CStr,
    top: &CStr,
    bandwidth: c_ulong,
    flags: c_uint,
) -> Result<(), Error> {
    let flags = flags | sys::VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES;
    // SAFETY: `domain` is live for the call; the three texts are C strings that libvirt only reads.
    check(unsafe {
        sys::virDomainBlockCommit(
            domain.as_ptr(),
            disk.as_ptr(),
            base.as_ptr(),
            top.as_ptr(),
            bandwidth,
            flags,
        )
    })
}

/// Reads a disk's chain into its active layer, down to `base` or all of it (`virDomainBlockRebase`).
pub(crate) fn block_pull(
    domain: &Domain,
    disk: &CStr,
    base: Option<&CStr>,
    bandwidth: c_ulong,
    flags: c_uint,
) -> Result<(), Error> {
    let flags = flags | sys::VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES;
    let base = base.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: `domain` is live for the call; `disk` is a C string that libvirt only reads, and so is `base`, for which
    // null is allowed.
    check(unsafe { sys::virDomainBlockRebase(domain.as_ptr(), disk.as_ptr(), base, bandwidth, flags) })
}

/// Copies a disk to where `destination`, a `<disk>`, says (`virDomainBlockCopy`).
pub(crate) fn block_copy(
    domain: &Domain,
    disk: &CStr,
    destination: &CStr,
    params: &TypedParams,
    flags: c_uint,
) -> Result<(), Error> {
    // SAFETY: `domain` is live for the call; the texts are C strings, and `params` points to `count` parameters, all of
    // which libvirt only reads in spite of a missing `const`.
    check(unsafe {
        sys::virDomainBlockCopy(
            domain.as_ptr(),
            disk.as_ptr(),
            destination.as_ptr(),
            params.params,
            params.count,
            flags,
        )
    })
}

/// The job of a disk (`virDomainGetBlockJobInfo`): its type, bytes per second, how far it is and where it ends.
pub(crate) fn block_job(domain: &Domain, disk: &CStr) -> Result<Option<(c_int, u64, u64, u64)>, Error> {
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    let flags = sys::VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES;
    // SAFETY: `domain` is live for the call, `disk` is a C string that libvirt only reads, and `info` a variable of the
    // right type.
    let found = unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &mut info, flags) };
    check(found)?;
    Ok((found > 0).then_some((info.type_, info.bandwidth, info.cur, info.end)))
}

/// Ends the job of a disk and waits for its end (`virDomainBlockJobAbort`).
pub(crate) fn block_job_abort(domain: &Domain, disk: &CStr, flags: c_uint) -> Result<(), Error> {
    // SAFETY: `domain` is live for the call, and `disk` is a C string that libvirt only reads.
    check(unsafe { sys::virDomainBlockJobAbort(domain.as_ptr(), disk.as_ptr(), flags) })
}

/// How many seconds libvirt waits for the guest's agent (`virDomainAgentSetResponseTimeout`); negative numbers are its
/// special values.
pub(crate) fn agent_timeout(domain: &Domain, seconds: c_int) -> Result<(), Error> {
    // SAFETY: `domain` is live for the call; no flags are defined.
    check(unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) })
}

/// Has all file systems of the guest frozen (`virDomainFSFreeze`); returns how many were.
pub(crate) fn freeze(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: `domain` is live for the call; no list of mount points, null with 0, means all; no flags are defined.
    counted(unsafe { sys::virDomainFSFreeze(domain.as_ptr(), ptr::null_mut(), 0, 0) })
}

/// Has all file systems of the guest thawed (`virDomainFSThaw`); returns how many were.
pub(crate) fn thaw(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: as in `freeze`.
    counted(unsafe { sys::virDomainFSThaw(domain.as_ptr(), ptr::null_mut(), 0, 0) })
}

fn counted(returned: c_int) -> Result<u32, Error> {
    u32::try_from(returned).map_err(|_| Error::last_error())
}

/// Begins a backup, and with it a checkpoint if there is XML of one (`virDomainBackupBegin`).
pub(crate) fn backup_begin(
    domain: &Domain,
    backup: &CStr,
    checkpoint: Option<&CStr>,
    flags: c_uint,
) -> Result<(), Error> {
    let checkpoint = checkpoint.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: `domain` is live for the call; the texts are C strings that libvirt only reads, and null is allowed for the
    // second.
    check(unsafe { sys::virDomainBackupBegin(domain.as_ptr(), backup.as_ptr(), checkpoint, flags) })
}

/// The XML of the backup that runs (`virDomainBackupGetXMLDesc`); none if none does.
pub(crate) fn backup_xml(domain: &Domain) -> Result<Option<String>, Error> {
    // SAFETY: `domain` is live for the call; no flags are defined.
    let text = unsafe { sys::virDomainBackupGetXMLDesc(domain.as_ptr(), 0) };
    if text.is_null() {
        let error = Error::last_error();
        return match error.code() {
            ErrorNumber::NoDomainBackup => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: the text is a C string that libvirt allocated and that is owned here alone.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    release_text(text);
    Ok(Some(owned))
}

/// Gives a text back that libvirt has allocated. It has no call for that alone, but frees what is in its parameters.
fn release_text(text: *mut std::ffi::c_char) {
    let mut param = sys::virTypedParameter {
        field: [0; 80],
        type_: c_int::try_from(sys::VIR_TYPED_PARAM_STRING).unwrap_or_default(),
        value: sys::_virTypedParameter__bindgen_ty_1 { s: text },
    };
    // SAFETY: one initialised parameter; its text is libvirt's, owned here alone, and not used afterwards.
    unsafe { sys::virTypedParamsClear(&mut param, 1) };
}

/// How many checkpoints the domain has (`virDomainListAllCheckpoints`).
pub(crate) fn count_checkpoints(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: `domain` is live for the call; null instead of a place for the list asks for their number alone.
    counted(unsafe { sys::virDomainListAllCheckpoints(domain.as_ptr(), ptr::null_mut(), 0) })
}

/// A checkpoint.
///
/// Invariant: a reference on a live libvirt object, owned here alone.
pub(crate) struct Checkpoint(sys::virDomainCheckpointPtr);

impl Checkpoint {
    /// Deletes it with its bitmaps (`virDomainCheckpointDelete`).
    pub fn delete(&self) -> Result<(), Error> {
        // SAFETY: the object is live, by the type's invariant.
        check(unsafe { sys::virDomainCheckpointDelete(self.0, 0) })
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: the reference is owned here alone, and not used afterwards.
        unsafe { sys::virDomainCheckpointFree(self.0) };
    }
}

/// The checkpoint of that name (`virDomainCheckpointLookupByName`); none if there is none.
pub(crate) fn find_checkpoint(domain: &Domain, name: &CStr) -> Result<Option<Checkpoint>, Error> {
    // SAFETY: `domain` is live for the call, and `name` is a C string that libvirt only reads.
    let found = unsafe { sys::virDomainCheckpointLookupByName(domain.as_ptr(), name.as_ptr(), 0) };
    if found.is_null() {
        let error = Error::last_error();
        return match error.code() {
            ErrorNumber::NoDomainCheckpoint => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(Checkpoint(found)))
}

/// Makes a checkpoint, or tells libvirt of one (`virDomainCheckpointCreateXML`).
pub(crate) fn create_checkpoint(domain: &Domain, xml: &CStr, flags: c_uint) -> Result<(), Error> {
    // SAFETY: `domain` is live for the call, and `xml` is a C string that libvirt only reads.
    let made = unsafe { sys::virDomainCheckpointCreateXML(domain.as_ptr(), xml.as_ptr(), flags) };
    if made.is_null() {
        return Err(Error::last_error());
    }
    // A new reference, which is given back.
    drop(Checkpoint(made));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_back_as_they_were_added() {
        let mut params = TypedParams::new();
        assert_eq!(params.read(), vec![]);
        params.add_int(c"number", -3).unwrap();
        params.add_unsigned(c"large", u64::MAX).unwrap();
        params.add_text(c"disk", c"vda").unwrap();
        params.add_text(c"disk", c"vdb").unwrap();
        let read = params.read();
        assert_eq!(read.first(), Some(&("number".into(), Value::Int(-3))));
        assert_eq!(read.get(1), Some(&("large".into(), Value::Unsigned(u64::MAX))));
        let disks: Vec<_> = read.iter().filter(|(n, _)| n == "disk").collect();
        assert_eq!(disks.len(), 2, "libvirt takes a name more than once");
    }

    #[test]
    fn a_name_that_is_too_long_is_an_error() {
        let name = CString::new("n".repeat(200)).unwrap();
        assert!(TypedParams::new().add_int(&name, 1).is_err());
    }
}
