//! What a privileged program does before it listens: it leaves behind what its starter may have left around it.

use std::io::{self, IsTerminal};

/// Makes the process a clean one: no file descriptor but the three standard ones, files for root alone, no directory
/// that it keeps busy. The environment is not read at all; the one child that is ever started, `nft`, is started by its full path with an
/// environment of its own.
///
/// # Errors
/// The process is not root's, or a person has started it: standard input is a terminal.
pub fn enter() -> io::Result<()> {
    if io::stdin().is_terminal() {
        return Err(io::Error::other("standard input is a terminal"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(io::Error::other("not started as root"));
    }
    close_stray()?;
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    rustix::process::chdir("/")?;
    Ok(())
}

/// Closes what was inherited. Nothing of ours is open yet, so nobody else holds one of these numbers.
fn close_stray() -> io::Result<()> {
    let mut stray: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        stray.extend(number.filter(|fd: &i32| *fd > 2));
    }
    for fd in stray {
        // The directory that was read is among them, and closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}
