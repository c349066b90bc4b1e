//! Runs a program with all that it starts, and decides over each system call that has to do with files: it passes, fails
//! with an error of our choice, or is the last thing that the program does. What it sends through a socket is seen, too: of
//! a tool that changes nothing but a server's data these are its changes.
//!
//! This is how faults are made where the kernel would have none to offer at that moment: a disk that is full from the
//! hundredth write on, a device that fails at one `fsync`. The call itself is not done then; to the program it looks as
//! if the kernel had refused it. Works by `ptrace`, on x86-64 only: registers are named there.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

mod calls;

pub use calls::{Does, SystemCall};

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Pass,
    /// It is not done, and says that.
    Fail(i32),
    /// It is not done, and the program is killed with all that it has started.
    Kill,
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with that status.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
}

/// A command line for [`run`]; arguments, environment and streams are to be added.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    // It waits until it is looked at.
    command.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(program).process_group(0);
    command
}

/// Runs a command that [`command`] made, until it and all that it started have ended. `judge` is asked about every call that
/// has to do with files, in the order in which they begin.
///
/// # Errors
/// If the program can't be started or looked at.
pub fn run(command: &mut Command, judge: &mut dyn FnMut(&SystemCall) -> Fate) -> io::Result<Ended> {
    let child = command.spawn()?;
    let leader = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    waitpid(leader, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options)?;
    kill(leader, Signal::SIGCONT)?;
    let mut tracer = Tracer { leader, inside: BTreeMap::new(), judge };
    tracer.until_the_end()
}

struct Tracer<'a> {
    leader: Pid,
    /// The threads that are in a call, with what it is to say if it is not done.
    inside: BTreeMap<Pid, Option<i32>>,
    judge: &'a mut dyn FnMut(&SystemCall) -> Fate,
}

impl Tracer<'_> {
    fn until_the_end(&mut self) -> io::Result<Ended> {
        let mut ended = None;
        // Other threads of this process may have children of their own.
        let whose = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(whose)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => ended = Some(Ended::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    ended = Some(Ended::Killed(signal));
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => gone_is_gone(self.at_call(pid))?,
                Ok(WaitStatus::PtraceEvent(pid, ..)) => gone_is_gone(ptrace::syscall(pid, None))?,
                Ok(WaitStatus::Stopped(pid, signal)) => gone_is_gone(ptrace::syscall(pid, signal))?,
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    let _ = self.inside.remove(&pid);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => {
                    return ended.ok_or_else(|| io::Error::other("lost sight of the program"));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// A thread stands before or behind a call.
    fn at_call(&mut self, thread: Pid) -> nix::Result<()> {
        let mut registers = ptrace::getregs(thread)?;
        if let Some(error) = self.inside.remove(&thread) {
            if let Some(error) = error {
                registers.rax = says(error);
                ptrace::setregs(thread, registers)?;
            }
            return ptrace::syscall(thread, None);
        }
        // So it is before every call. A thread may be seen for the first time behind one.
        if registers.rax == says(libc::ENOSYS) {
            let fate = SystemCall::of(thread, &registers).map_or(Fate::Pass, |call| (self.judge)(&call));
            let error = match fate {
                Fate::Pass => None,
                Fate::Fail(error) => {
                    // No call has this number.
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(thread, registers)?;
                    Some(error)
                }
                Fate::Kill => return kill(Pid::from_raw(-self.leader.as_raw()), Signal::SIGKILL),
            };
            self.inside.insert(thread, error);
        }
        ptrace::syscall(thread, None)
    }
}

/// What a call that failed has for its result.
fn says(error: i32) -> u64 {
    i64::from(-error).cast_unsigned()
}

/// A thread that was killed meanwhile can't be told anything; its end comes next.
fn gone_is_gone(done: nix::Result<()>) -> io::Result<()> {
    match done {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests;
