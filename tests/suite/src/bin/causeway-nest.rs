//! `causeway-nest oned|tied PROGRAM ARGUMENT...`: becomes PROGRAM, which ends with the thread that started this.
//!
//! With `oned` in the state in which oned leaves the driver processes that it starts (contract VMM 1.1): nearly all
//! signals blocked, descriptor 2 closed, descriptors of its own leaked. With `tied` in an ordinary one.
//!
//! A program of its own, since `std::process` resets the signal mask of what it starts.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd;

const USAGE: &str = "usage: causeway-nest oned|tied PROGRAM ARGUMENT...";

/// How many descriptors are leaked.
const LEAKED: usize = 5;

fn main() -> ExitCode {
    match become_driver() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("causeway-nest: {error}");
            ExitCode::from(127)
        }
    }
}

fn become_driver() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let words: Result<Vec<CString>, _> =
        std::env::args_os().skip(1).map(|word| CString::new(word.into_vec())).collect();
    let words = words?;
    let [kind, command @ ..] = words.as_slice() else { return Err(USAGE.into()) };
    let program = command.first().ok_or(USAGE)?;
    // Not oned's doing: a test that is killed must leave nothing behind.
    prctl::set_pdeathsig(Some(Signal::SIGKILL))?;
    match kind.to_bytes() {
        b"oned" => make_hostile()?,
        b"tied" => {}
        _ => return Err(USAGE.into()),
    }
    Ok(unistd::execv(program, command)?)
}

fn make_hostile() -> Result<(), Box<dyn std::error::Error>> {
    let null = File::open("/dev/null")?;
    for _ in 0..LEAKED {
        // A duplicate stays open across exec, unlike what `File` opens.
        let _ = unistd::dup(&null)?.into_raw_fd();
    }
    SigSet::all().thread_set_mask()?;
    Ok(unistd::close(2)?)
}
