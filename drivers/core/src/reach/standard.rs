//! The standard streams of a process that speaks with another one.
//!
//! `tokio::io::stdin` and `stdout` hand every read and write to a thread, which costs more than a small message does.
//! A pipe or a socket can be waited for instead. Only those: what makes them so is a flag that all share who have the
//! stream open, and a terminal or a file is shared with whoever started us.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, fstat};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// Standard input, as this process was given it.
///
/// # Errors
/// It is closed, or no runtime runs here.
pub fn input() -> io::Result<Box<dyn AsyncRead + Unpin>> {
    let stream = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(match kind(&stream)? {
        FileType::Fifo => Box::new(pipe::Receiver::from_owned_fd(stream)?),
        FileType::Socket => Box::new(socket(stream)?),
        _ => Box::new(tokio::io::stdin()),
    })
}

/// Standard output, as this process was given it.
///
/// # Errors
/// As [`input`].
pub fn output() -> io::Result<Box<dyn AsyncWrite + Unpin>> {
    let stream = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(match kind(&stream)? {
        FileType::Fifo => Box::new(pipe::Sender::from_owned_fd(stream)?),
        FileType::Socket => Box::new(socket(stream)?),
        _ => Box::new(tokio::io::stdout()),
    })
}

fn kind(stream: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(stream)?.st_mode))
}

fn socket(stream: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
