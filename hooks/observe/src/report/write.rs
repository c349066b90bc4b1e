//! Putting the files of a report in their places.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Report, csv, page};
use crate::measure::Error;

/// Makes the output directory and proves that files can be made in it, before anything moves.
pub(crate) fn prepare(directory: &Path) -> Result<(), Error> {
    let failed = |source| Error::Output { path: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(failed)?;
    let place = beside(directory, "report.html");
    create(&place).map_err(failed)?;
    fs::remove_file(&place).map_err(failed)
}

/// Writes every file of `report` into its plan's output directory; gives their paths.
///
/// # Errors
/// [`Error::Output`] with the file that could not be written, [`Error::Draw`] if a plot could not be drawn.
pub fn write(report: &Report) -> Result<Vec<PathBuf>, Error> {
    let page = page(report)?;
    let directory = &report.plan.output;
    let put = |name: &str, fill: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
        let path = directory.join(name);
        match replace(directory, name, fill) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::Output { path, source }),
        }
    };
    Ok(vec![
        put("samples.csv", &|out| csv::samples(report, out))?,
        put("moves.csv", &|out| csv::moves(report, out))?,
        put("summary.csv", &|out| csv::summary(report, out))?,
        put("report.html", &|out| out.write_all(page.as_bytes()))?,
    ])
}

/// A name in the same directory, so that the rename stays within one file system.
fn beside(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}.{}.new", std::process::id()))
}

fn create(path: &Path) -> io::Result<File> {
    // A left-over of a killed run with our process id; `create_new` below would stumble over it.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

fn replace(directory: &Path, name: &str, fill: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let temporary = beside(directory, name);
    let result = create(&temporary).and_then(|file| {
        let mut out = BufWriter::new(file);
        fill(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, directory.join(name))
    });
    if result.is_err() {
        // The first error is the one to tell; what is left lies under a name that nobody reads.
        let _ = fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), "a.csv", &|out| out.write_all(b"old")).unwrap();
        let broken = replace(dir.path(), "a.csv", &|out| {
            out.write_all(b"half of the ne")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(broken.is_err());
        assert_eq!(fs::read(dir.path().join("a.csv")).unwrap(), b"old");
        replace(dir.path(), "a.csv", &|out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(dir.path().join("a.csv")).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_found_out_early() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(prepare(&file), Err(Error::Output { .. })));
        assert!(matches!(prepare(&file.join("below")), Err(Error::Output { .. })));
        prepare(&dir.path().join("a/b")).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 0);
    }
}
