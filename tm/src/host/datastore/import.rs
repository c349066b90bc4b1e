//! `cp`: an image made of what a user names. It gets its name when it is whole (W30): what was fetched, unpacked and
//! converted lies under temporary names until then, and a script that failed half-way leaves nothing (W7, W32).

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use causeway_core::locks::Mode;
use causeway_core::names::DiskPath;
use md5::{Digest, Md5};
use rustix::fs::{CWD, OFlags, openat};
use sha1::Sha1;

use super::super::{copy_data, while_copying};
use super::remote::Remote;
use super::upload::{self, Upload};
use super::{
    Checksum, Dirs, During, Fetch, Home, Origin, StorageError, Stored, Temporary, Tool, Worker, convert,
    lock, publish, ready,
};
use crate::pace::Paced;
use crate::place::{FileName, Image};

/// What `qemu-img check` says of an image that is whole and has space that nothing refers to.
pub(in crate::host) const LEAKS: i32 = 3;
/// Bytes that are written, or left out, at once.
const GRAIN: usize = 64 << 10;

/// What a stream brings, for messages: whoever sends it knows what it is.
const SENT: &str = "what was sent";

/// Makes the image; what it prints is its format.
pub(super) fn import(
    image: &Image,
    origin: &Origin,
    format: Option<Stored>,
    opened: bool,
    sparse: bool,
    stream: Option<&mut dyn Read>,
    worker: &Worker<'_>,
) -> Result<String, StorageError> {
    // Before anything is made: what must not be read leaves no trace.
    let file = match origin {
        Origin::File { path, dirs, .. } => Some(named(path, dirs)?),
        Origin::Address { .. } | Origin::Stream { .. } | Origin::Host { .. } => None,
    };
    let _locks = lock::images(worker, &[(image, Mode::Exclusive)])?;
    let folder = ready(image, worker)?;
    let made = folder.temporary(image.name());
    let copy = made.create(0o666)?;
    worker.at("file made");
    match (origin, stream) {
        (Origin::Stream { checksum, unpacked }, Some(mut stream)) => {
            arrive(&mut stream, checksum.as_ref(), &copy, &made, sparse)?;
            if *unpacked && upload::is_packed(&copy, &asked(origin))? {
                let why = "it is an archive, and one with a promised sum can't be unpacked on the way to a host: \
                           take the sum away, or unpack it first";
                return Err(StorageError::Upload { path: asked(origin), why: why.to_owned() });
            }
        }
        (Origin::Host { ssh, image: from, stored }, _) => {
            let mut remote = Remote::open(ssh, from, *stored, worker)?;
            if let Err(error) = arrive(remote.bytes(), None, &copy, &made, sparse) {
                return Err(remote.why(error));
            }
        }
        _ => take(origin, file.as_ref(), &copy, &made, (&folder, image.name()), (sparse, worker))?,
    }
    copy.sync_all().during("write out", made.path())?;
    worker.at("data written");
    let length = copy.metadata().during("look at", made.path())?.len();
    if length == 0 {
        return Err(StorageError::Upload { path: asked(origin), why: "it is empty".to_owned() });
    }
    let found = if opened { upload::kind(&copy, &asked(origin))? } else { Upload::Plain };
    if matches!(found, Upload::Qcow2(_)) && !upload::is_encrypted(&copy, &asked(origin))? {
        // What is missing at the end of a file would be read as zeros.
        let mut tool = Tool::qemu_img("check", &asked(origin));
        // Space that nothing refers to does no harm.
        tool.allow(LEAKS).args(["-f", "qcow2"]).arg(made.path()).run(worker)?;
        worker.at("image checked");
    }
    let (name, size) = match &found {
        Upload::Qcow2(header) if header.size == 0 => {
            let why = "it is a disk of 0 bytes".to_owned();
            return Err(StorageError::Upload { path: asked(origin), why });
        }
        Upload::Qcow2(header) => ("qcow2", header.size),
        Upload::Other(name) => (*name, length),
        Upload::Plain => ("raw", length),
    };
    // An encrypted disk stays what it is, as with the stock script: what is in it is not ours to read.
    let luks = upload::is_luks(&copy, &asked(origin))?;
    let wanted = format.filter(|wanted| wanted.as_str() != name && !luks);
    let Some(wanted) = wanted else {
        publish(made, image, &folder, worker)?;
        return Ok(name.to_owned());
    };
    if matches!(found, Upload::Qcow2(_)) && upload::is_encrypted(&copy, &made.path())? {
        let why = format!(
            "its content is encrypted, and {} can't be made of it without its key: say CONVERT=NO in the datastore, or \
             upload a raw LUKS image (`qemu-img convert -O luks`)",
            wanted.as_str()
        );
        return Err(StorageError::Upload { path: asked(origin), why });
    }
    let converted = folder.temporary(image.name());
    let size = if matches!(found, Upload::Other(_)) { 0 } else { size };
    convert_to((&made.path(), name), size, (&converted, wanted), sparse, worker)?;
    publish(converted, image, &folder, worker)?;
    Ok(wanted.as_str().to_owned())
}

/// Converts; of a format whose header we don't read, the size is QEMU's word.
fn convert_to(
    from: (&Path, &str),
    size: u64,
    to: (&Temporary<'_>, Stored),
    sparse: bool,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    if size > 0 {
        return convert(from, size, to, sparse, worker);
    }
    let path = to.0.path();
    let mut tool = Tool::convert(from, &path, worker)?;
    tool.args(["-O", to.1.as_str()]).arg(from.0).arg(&path).run(worker)?;
    worker.at("converted");
    let file = File::options().read(true).write(true).open(&path).during("open", &path)?;
    file.sync_all().during("write out", &path)
}

/// What was asked for, for messages. Not the address: it may hold a password.
fn asked(origin: &Origin) -> PathBuf {
    match origin {
        Origin::File { path, .. } => path.path(),
        Origin::Host { image, .. } => image.path(),
        Origin::Address { .. } => "what was downloaded".into(),
        Origin::Stream { .. } => SENT.into(),
    }
}

/// Opens a file that a user names, if it may be read. What is looked at is where the open file lies: nobody can
/// exchange a link in between.
pub(super) fn named(path: &DiskPath, dirs: &Dirs) -> Result<File, StorageError> {
    use std::os::fd::AsFd;
    // A FIFO would otherwise be waited for, and a terminal taken over.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = path.path();
    let file = openat(CWD, &path, flags, rustix::fs::Mode::empty());
    let file = File::from(
        file.map_err(|source| StorageError::Source { path: path.clone(), source: source.into() })?,
    );
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let real = std::fs::read_link(link).during("look at", &path)?;
    if !dirs.allow(&real) {
        return Err(StorageError::Restricted { path });
    }
    if !file.metadata().during("look at", &path)?.is_file() {
        return Err(StorageError::NotAFile { path });
    }
    Ok(file)
}

/// Brings the bytes into the new file.
fn take(
    origin: &Origin,
    file: Option<&File>,
    copy: &File,
    made: &Temporary<'_>,
    (folder, name): (&Home, &FileName),
    (sparse, worker): (bool, &Worker<'_>),
) -> Result<(), StorageError> {
    match (origin, file) {
        (Origin::File { path, unpack, checksum, .. }, Some(file)) => {
            if let Some(by) = unpack
                && upload::is_packed(file, &path.path())?
            {
                // The sum is that of the archive.
                checksum.iter().try_for_each(|wanted| compare(wanted, file, &path.path()))?;
                return fetch(by, &descriptor(file), copy, made, sparse, worker);
            }
            let length = file.metadata().during("look at", path.path())?.len();
            copy_data((&path.path(), file), copy, length, worker)
                .map_err(while_copying(path.path(), made.path()))?;
            // That of the copy: what was read and what was written are then one.
            checksum.iter().try_for_each(|wanted| compare(wanted, copy, &path.path()))
        }
        (Origin::Address { fetch: by, checksum: None }, _) => {
            fetch(by, by.address.as_deref().unwrap_or_default(), copy, made, sparse, worker)
        }
        (Origin::Address { fetch: by, checksum: Some(wanted) }, _) => {
            // Fetched first as it is, and unpacked when its sum is known: the script itself compares with a file in the
            // directory for temporary ones, under a name that anybody can foresee.
            let plain = Fetch { decompress: false, ..by.clone() };
            fetch(&plain, by.address.as_deref().unwrap_or_default(), copy, made, sparse, worker)?;
            worker.at("downloaded");
            compare(wanted, copy, &asked(origin))?;
            if !by.decompress || !upload::is_packed(copy, &asked(origin))? {
                return Ok(());
            }
            let archive = folder.temporary(name);
            let packed = archive.create(0o600)?;
            let length = copy.metadata().during("look at", made.path())?.len();
            copy_data((&made.path(), copy), &packed, length, worker)
                .map_err(while_copying(made.path(), archive.path()))?;
            copy.set_len(0).during("empty", made.path())?;
            worker.at("archive aside");
            fetch(by, &descriptor(&packed), copy, made, sparse, worker)
        }
        (Origin::File { .. } | Origin::Stream { .. } | Origin::Host { .. }, _) => {
            Err(StorageError::NotAFile { path: asked(origin) })
        }
    }
}

/// Brings in what another machine sends.
fn arrive(
    stream: &mut dyn Read,
    checksum: Option<&Checksum>,
    copy: &File,
    made: &Temporary<'_>,
    sparse: bool,
) -> Result<(), StorageError> {
    let length = pour(stream, copy, sparse).during("receive", made.path())?;
    copy.set_len(length).during("grow", made.path())?;
    checksum.map_or(Ok(()), |wanted| compare(wanted, copy, Path::new(SENT)))
}

/// A name of an open file that nobody can exchange, without any sign that a shell knows.
pub(super) fn descriptor(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// Has the stock script fetch something, and writes what it prints. It ends well only if all of its commands did.
fn fetch(
    by: &Fetch,
    address: &str,
    copy: &File,
    made: &Temporary<'_>,
    sparse: bool,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let tool = script(by, address, by.decompress);
    let rate = worker.copying.bytes_per_second;
    let written = tool.stream(worker, |pipe| pour(&mut Paced::new(pipe, rate), copy, sparse))?;
    let length = written.during("write", made.path())?;
    copy.set_len(length).during("grow", made.path())?;
    let found = copy.metadata().during("look at", made.path())?.len();
    if found == length {
        return Ok(());
    }
    let why = format!("{found} of {length} bytes");
    Err(StorageError::Incomplete { path: made.path(), why })
}

/// A call of the stock script that prints what it fetches.
pub(super) fn script(by: &Fetch, address: &str, decompress: bool) -> Tool {
    // Of an address no more is told than where it stands: it may hold a password.
    let what = by.what.as_deref().unwrap_or("PATH");
    let mut tool = Tool::named("downloader.sh", &by.program, Path::new(what));
    if !decompress {
        tool.arg("--nodecomp");
    }
    if let Some(limit) = &by.limit {
        tool.args(["--limit", limit]);
    }
    tool.args(["--", address, "-"]);
    tool
}

/// Writes a stream into a new file; what is zero is left out. How many bytes came.
pub(crate) fn pour(pipe: &mut (impl Read + ?Sized), into: &File, sparse: bool) -> std::io::Result<u64> {
    let mut buffer = vec![0; GRAIN];
    let mut at: u64 = 0;
    loop {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match pipe.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let grain = buffer.get(..filled).unwrap_or_default();
        if grain.is_empty() {
            return Ok(at);
        }
        if !sparse || grain.iter().any(|&byte| byte != 0) {
            into.write_all_at(grain, at)?;
        }
        at += u64::try_from(filled).unwrap_or(0);
    }
}

/// Compares a file's bytes with every sum that was promised.
pub(crate) fn compare(wanted: &Checksum, file: &File, path: &Path) -> Result<(), StorageError> {
    let Checksum { md5, sha1 } = wanted;
    let of = |name: &str, wanted: &Option<String>, sum: fn(&File) -> std::io::Result<String>| {
        let Some(wanted) = wanted else { return Ok(()) };
        let found = sum(file).during("read", path)?;
        if found == *wanted {
            return Ok(());
        }
        let why = format!("its bytes add up to {found} ({name}), and {wanted} was promised");
        Err(StorageError::Upload { path: path.to_owned(), why })
    };
    of("MD5", md5, sum_of::<Md5>)?;
    of("SHA1", sha1, sum_of::<Sha1>)
}

/// The sum of a file's bytes, in hexadecimal digits.
pub(super) fn sum_of<D: Digest>(file: &File) -> std::io::Result<String> {
    let mut sum = D::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            return Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        sum.update(buffer.get(..count).unwrap_or_default());
        at += u64::try_from(count).unwrap_or(0);
    }
}
