//! Which system calls have to do with files, what they do to them, and to which.

use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use nix::libc::{self, c_long, user_regs_struct};
use nix::unistd::Pid;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Does {
    /// Opens a file or a directory to read it.
    Opens,
    /// Reads.
    Reads,
    /// Changes something, and may need room for that: it makes a name, writes, grows a file.
    Fills,
    /// Changes something that is there: it removes, sets permissions.
    Changes,
    /// Brings to the disk what was written.
    Syncs,
    /// Says something to another process.
    Sends,
}

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemCall {
    /// As the kernel names it.
    pub name: &'static str,
    /// What it does.
    pub does: Does,
    /// To what: the name that was given or, for an open file, the one that it was opened by. Without `.` and `..`, links
    /// in it as they are; of a socket, what the kernel calls it.
    pub path: PathBuf,
    /// The other name of two (`rename`).
    pub other: Option<PathBuf>,
}

/// Where a call says what it is about: the numbers of its arguments.
#[derive(Clone, Copy)]
enum About {
    /// An open file.
    Open(usize),
    /// A socket.
    Socket(usize),
    /// A path from where the process is.
    Here(usize),
    /// A path from an open directory.
    At(usize, usize),
    /// Two paths from where the process is; the second is the one that is made.
    Two(usize, usize),
    /// Two paths from open directories.
    TwoAt([usize; 4]),
}

use About::{At, Here, Open, Socket, Two, TwoAt};
use Does::{Changes, Fills, Opens, Reads, Sends, Syncs};

/// `open` and its like stand here as readers; their flags say more.
const CALLS: &[(c_long, &str, Does, About)] = &[
    (libc::SYS_open, "open", Opens, Here(0)),
    (libc::SYS_creat, "creat", Fills, Here(0)),
    (libc::SYS_openat, "openat", Opens, At(0, 1)),
    (libc::SYS_openat2, "openat2", Opens, At(0, 1)),
    (libc::SYS_read, "read", Reads, Open(0)),
    (libc::SYS_pread64, "pread64", Reads, Open(0)),
    (libc::SYS_readv, "readv", Reads, Open(0)),
    (libc::SYS_preadv, "preadv", Reads, Open(0)),
    (libc::SYS_preadv2, "preadv2", Reads, Open(0)),
    (libc::SYS_getdents64, "getdents64", Reads, Open(0)),
    (libc::SYS_write, "write", Fills, Open(0)),
    (libc::SYS_pwrite64, "pwrite64", Fills, Open(0)),
    (libc::SYS_writev, "writev", Fills, Open(0)),
    (libc::SYS_pwritev, "pwritev", Fills, Open(0)),
    (libc::SYS_pwritev2, "pwritev2", Fills, Open(0)),
    (libc::SYS_sendfile, "sendfile", Fills, Open(0)),
    (libc::SYS_splice, "splice", Fills, Open(2)),
    (libc::SYS_copy_file_range, "copy_file_range", Fills, Open(2)),
    (libc::SYS_fallocate, "fallocate", Fills, Open(0)),
    (libc::SYS_ftruncate, "ftruncate", Fills, Open(0)),
    (libc::SYS_truncate, "truncate", Fills, Here(0)),
    (libc::SYS_mkdir, "mkdir", Fills, Here(0)),
    (libc::SYS_mkdirat, "mkdirat", Fills, At(0, 1)),
    (libc::SYS_mknodat, "mknodat", Fills, At(0, 1)),
    (libc::SYS_symlink, "symlink", Fills, Here(1)),
    (libc::SYS_symlinkat, "symlinkat", Fills, At(1, 2)),
    (libc::SYS_link, "link", Fills, Two(0, 1)),
    (libc::SYS_linkat, "linkat", Fills, TwoAt([0, 1, 2, 3])),
    (libc::SYS_rename, "rename", Fills, Two(0, 1)),
    (libc::SYS_renameat, "renameat", Fills, TwoAt([0, 1, 2, 3])),
    (libc::SYS_renameat2, "renameat2", Fills, TwoAt([0, 1, 2, 3])),
    (libc::SYS_unlink, "unlink", Changes, Here(0)),
    (libc::SYS_unlinkat, "unlinkat", Changes, At(0, 1)),
    (libc::SYS_rmdir, "rmdir", Changes, Here(0)),
    (libc::SYS_chmod, "chmod", Changes, Here(0)),
    (libc::SYS_fchmod, "fchmod", Changes, Open(0)),
    (libc::SYS_fchmodat, "fchmodat", Changes, At(0, 1)),
    (libc::SYS_fchown, "fchown", Changes, Open(0)),
    (libc::SYS_fchownat, "fchownat", Changes, At(0, 1)),
    (libc::SYS_utimensat, "utimensat", Changes, At(0, 1)),
    (libc::SYS_setxattr, "setxattr", Changes, Here(0)),
    (libc::SYS_fsetxattr, "fsetxattr", Changes, Open(0)),
    (libc::SYS_fsync, "fsync", Syncs, Open(0)),
    (libc::SYS_fdatasync, "fdatasync", Syncs, Open(0)),
    (libc::SYS_syncfs, "syncfs", Syncs, Open(0)),
    (libc::SYS_sendmsg, "sendmsg", Sends, Socket(0)),
];

/// Requests of `ioctl` that share the bytes of one file with another.
const FICLONE: u64 = 0x4004_9409;

impl SystemCall {
    /// The call that a thread is about to make, if it has to do with files.
    pub(super) fn of(thread: Pid, registers: &user_regs_struct) -> Option<SystemCall> {
        let number = c_long::try_from(registers.orig_rax).ok()?;
        let args = Args {
            thread,
            values: [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9],
        };
        if number == libc::SYS_ioctl {
            let shares = args.value(1)? == FICLONE;
            return shares.then(|| args.call("ioctl(FICLONE)", Fills, Open(0))).flatten();
        }
        let (_, name, does, about) = *CALLS.iter().find(|(of, ..)| *of == number)?;
        let flags = match number {
            libc::SYS_open => args.value(1)?,
            libc::SYS_openat => args.value(2)?,
            libc::SYS_openat2 => u64::from_ne_bytes(args.memory(args.value(2)?, 8)?.try_into().ok()?),
            _ => return args.call(name, does, about),
        };
        let mut call = args.call(name, does, about)?;
        let has = |flag: i32| flags & u64::from(flag.unsigned_abs()) != 0;
        if has(libc::O_CREAT) || has(libc::O_TRUNC) || has(libc::O_WRONLY) || has(libc::O_RDWR) {
            call.does = Fills;
            // What is there already takes no room to be opened.
            if !has(libc::O_TRUNC) && call.path.symlink_metadata().is_ok() {
                call.does = Changes;
            }
        }
        Some(call)
    }

    /// Whether it is about something below a directory.
    pub fn below(&self, dir: &Path) -> bool {
        self.path.starts_with(dir) || self.other.as_ref().is_some_and(|other| other.starts_with(dir))
    }

    /// Whether it makes a difference to what lies on the disk.
    pub fn changes(&self) -> bool {
        matches!(self.does, Fills | Changes)
    }
}

struct Args {
    thread: Pid,
    values: [u64; 6],
}

impl Args {
    fn value(&self, number: usize) -> Option<u64> {
        self.values.get(number).copied()
    }

    fn call(&self, name: &'static str, does: Does, about: About) -> Option<SystemCall> {
        let (path, other) = match about {
            Open(file) => (self.open(file)?, None),
            Socket(file) => (self.link(file)?, None),
            // `utimensat` and its like may be about the open file itself.
            At(dir, name) if self.value(name)? == 0 => (self.open(dir)?, None),
            Here(name) => (self.here()?.join(self.text(name)?), None),
            At(dir, name) => (self.at(dir, name)?, None),
            Two(from, to) => (self.here()?.join(self.text(to)?), Some(self.here()?.join(self.text(from)?))),
            TwoAt([from_dir, from, to_dir, to]) => (self.at(to_dir, to)?, Some(self.at(from_dir, from)?)),
        };
        Some(SystemCall { name, does, path: plain(&path), other: other.map(|path| plain(&path)) })
    }

    /// The name that an open file was opened by; none for a pipe or a socket.
    fn open(&self, number: usize) -> Option<PathBuf> {
        self.link(number).filter(|path| path.is_absolute())
    }

    /// What the kernel calls an open file, a pipe or a socket.
    fn link(&self, number: usize) -> Option<PathBuf> {
        let file = i32::try_from(self.value(number)? & 0xffff_ffff).ok()?;
        std::fs::read_link(format!("/proc/{}/fd/{file}", self.thread)).ok()
    }

    fn here(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/cwd", self.thread)).ok()
    }

    fn at(&self, dir: usize, name: usize) -> Option<PathBuf> {
        let name = self.text(name)?;
        if name.is_absolute() {
            return Some(name);
        }
        // `AT_FDCWD` is no open file.
        let dir = self.open(dir).or_else(|| self.here())?;
        Some(dir.join(name))
    }

    fn memory(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut bytes = vec![0; length];
        let read = memory.read_at(&mut bytes, at).ok()?;
        bytes.truncate(read);
        Some(bytes)
    }

    fn text(&self, number: usize) -> Option<PathBuf> {
        let at = self.value(number)?;
        // It may end with its page.
        let mut bytes = self.memory(at, 4096)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        bytes.truncate(end);
        Some(std::ffi::OsString::from_vec(bytes).into())
    }
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}
