//! The lines of an fstab by which a restart brings our mounts back, and the words for `sed` that change them: that is the one
//! way that sudo's rules leave (contract TM 2.1).
//!
//! A line of ours has the form of the stock driver's, `HOST:PATH DIRECTORY nfs OPTIONS 0 0` with single blanks, so that
//! either takes the other's for its own. Any other line is an admin's and is never changed.

use super::table::unescaped;
use super::{MountOptions, Share};
use crate::place::DatastoreDir;

/// What is to become of an fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Nothing: our line is there.
    Ours,
    /// Nothing: an admin's line of another form mounts the same.
    Admins,
    /// These words for `sed`.
    Sed(String),
}

/// A line of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    directory: String,
    share: Share,
    options: MountOptions,
}

impl Line {
    /// For that mount.
    ///
    /// # Errors
    /// A directory with signs in its name that `sed` or an fstab takes for something else.
    pub(crate) fn of(
        datastore: &DatastoreDir,
        share: &Share,
        options: &MountOptions,
    ) -> Result<Self, String> {
        Ok(Line { directory: plain(datastore)?, share: share.clone(), options: options.clone() })
    }

    /// As it stands in the file.
    pub(crate) fn text(&self) -> String {
        let options = if self.options.is_none() { "defaults".to_owned() } else { self.options.to_string() };
        format!("{} {} nfs {options} 0 0", escaped(&self.share.to_string()), self.directory)
    }
}

/// A datastore's directory, of signs that mean themselves wherever they stand.
fn plain(datastore: &DatastoreDir) -> Result<String, String> {
    let directory = datastore.to_string();
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
    if directory.bytes().all(ok) {
        return Ok(directory);
    }
    Err("NFS_AUTO_ENABLE takes a DATASTORE_LOCATION of letters, digits, '/', '.', '_' and '-' only"
        .to_owned())
}

/// Signs that would end a field, or begin a comment.
fn escaped(field: &str) -> String {
    let one = |c: char| match c {
        ' ' => "\\040".to_owned(),
        '\\' => "\\134".to_owned(),
        '#' => "\\043".to_owned(),
        c => c.to_string(),
    };
    field.chars().map(one).collect()
}

/// Who wrote a line about a directory.
#[derive(Debug, PartialEq, Eq)]
enum Writer {
    /// We, or the stock driver.
    Us,
    /// An admin, who mounts this there.
    Admin { source: String },
}

fn about(line: &str, directory: &str) -> Option<Writer> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let ours = line.split_once(' ').and_then(|(source, rest)| {
        let rest = rest.strip_prefix(directory)?.strip_prefix(" nfs ")?;
        (!source.is_empty() && !source.contains('\t') && !rest.is_empty()).then_some(Writer::Us)
    });
    ours.or_else(|| {
        let mut fields = line.split_ascii_whitespace().map(unescaped);
        let (source, at) = (fields.next()?, fields.next()?);
        let parts = |path: &str| {
            path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        (parts(&at) == parts(directory)).then_some(Writer::Admin { source })
    })
}

/// What finds our lines about a directory.
fn pattern(directory: &str) -> String {
    format!("\\|^[^#[:blank:]][^[:blank:]]* {} nfs .|", directory.replace('.', "\\."))
}

/// What is to be done so that an fstab has this line.
///
/// # Errors
/// An admin's line mounts something else there.
pub(crate) fn kept(fstab: &str, line: &Line) -> Result<Edit, String> {
    let wanted = line.text();
    let mut found = false;
    for text in fstab.lines() {
        match about(text, &line.directory) {
            Some(Writer::Admin { source })
                if source.parse::<Share>().is_ok_and(|share| share.is(&line.share)) =>
            {
                return Ok(Edit::Admins);
            }
            Some(Writer::Admin { source }) => {
                return Err(format!(
                    "/etc/fstab has another line for it, with {source}, which is not {}: remove the line, or set \
                     NFS_AUTO_ENABLE to NO",
                    line.share
                ));
            }
            Some(Writer::Us) if text == wanted => return Ok(Edit::Ours),
            Some(Writer::Us) => found = true,
            None => {}
        }
    }
    // sed takes one backslash for itself.
    let wanted = wanted.replace('\\', "\\\\");
    Ok(Edit::Sed(match found {
        true => format!("{} c\\\n{wanted}\n", pattern(&line.directory)),
        false => format!("$ a\\\n{wanted}\n"),
    }))
}

/// What takes our lines about a datastore out of an fstab; none where there are none.
///
/// # Errors
/// As [`Line::of`].
pub(crate) fn dropped(fstab: &str, datastore: &DatastoreDir) -> Result<Option<String>, String> {
    let directory = plain(datastore)?;
    let ours = fstab.lines().any(|line| about(line, &directory) == Some(Writer::Us));
    Ok(ours.then(|| format!("{} d\n", pattern(&directory))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn dir(text: &str) -> DatastoreDir {
        text.parse().unwrap()
    }

    fn line(path: &str, options: &str) -> Line {
        let share = format!("nas:{path}").parse().unwrap();
        Line::of(&dir("/var/lib/one/datastores/101"), &share, &options.parse().unwrap()).unwrap()
    }

    /// What the system's own sed makes of it.
    fn edited(fstab: &str, script: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (file, words) = (dir.path().join("fstab"), dir.path().join("words"));
        std::fs::write(&file, fstab).unwrap();
        std::fs::write(&words, script).unwrap();
        let done =
            Command::new("sed").args(["-i", "-f"]).args([&words, &file]).env("LC_ALL", "C").output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        std::fs::read_to_string(file).unwrap()
    }

    fn script(edit: Result<Edit, String>) -> String {
        match edit {
            Ok(Edit::Sed(script)) => script,
            other => panic!("{other:?}"),
        }
    }

    const OTHERS: &str = "# one\nUUID=a / ext4 errors=remount-ro 0 1\n\n#nas:/x /var/lib/one/datastores/101 nfs rw 0 0\n\
                          nas:/y /var/lib/one/datastores/1010 nfs rw 0 0\nnas:/z /var/lib/one/datastoresx101 nfs rw 0 0\n";
    const OURS: &str = "nas:/export /var/lib/one/datastores/101 nfs hard 0 0";

    #[test]
    fn a_line_comes_changes_and_goes_and_all_others_stay() {
        let first = edited(OTHERS, &script(kept(OTHERS, &line("/export", "hard"))));
        assert_eq!(first, format!("{OTHERS}{OURS}\n"));
        assert_eq!(kept(&first, &line("/export", "hard")), Ok(Edit::Ours));
        let changed = edited(&first, &script(kept(&first, &line("/other", ""))));
        assert_eq!(changed, format!("{OTHERS}nas:/other /var/lib/one/datastores/101 nfs defaults 0 0\n"));
        let gone = dropped(&changed, &dir("/var/lib/one/datastores/101")).unwrap().unwrap();
        assert_eq!(edited(&changed, &gone), OTHERS);
        assert_eq!(dropped(OTHERS, &dir("/var/lib/one/datastores/101")), Ok(None));
        // A last line without its end.
        let open = OTHERS.trim_end();
        assert_eq!(edited(open, &script(kept(open, &line("/export", "hard")))), format!("{OTHERS}{OURS}\n"));
    }

    #[test]
    fn an_admins_line_is_left_alone() {
        for same in [
            "nas:/export\t/var/lib/one/datastores/101 nfs4 ro 0 0",
            "NAS:/export/  /var/lib/one//datastores/101/ nfs4 x",
        ] {
            assert_eq!(
                kept(&format!("{OTHERS}{same}\n"), &line("/export", "hard")),
                Ok(Edit::Admins),
                "{same}"
            );
        }
        for (other, says) in [
            (
                "/dev/sdb1 /var/lib/one/datastores/101 xfs defaults 0 0",
                "with /dev/sdb1, which is not nas:/export",
            ),
            ("nas:/export2 /var/lib/one/datastores/101 nfs4 x 0 0", "with nas:/export2"),
        ] {
            let why = kept(&format!("{OTHERS}{OURS}\n{other}\n"), &line("/export2x", "hard")).unwrap_err();
            let again = kept(&format!("{other}\n"), &line("/export", "hard")).unwrap_err();
            assert!(why.contains("/etc/fstab has another line") && again.contains(says), "{why} {again}");
            assert_eq!(dropped(other, &dir("/var/lib/one/datastores/101")), Ok(None));
        }
        let odd = Line::of(&dir("/var/lib/o|ne/101"), &"h:/a".parse().unwrap(), &"".parse().unwrap());
        assert!(odd.unwrap_err().contains("DATASTORE_LOCATION"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
        /// Whatever the path of a share is: one line more, which says it, and not a byte else.
        #[test]
        fn no_share_writes_any_other_line(path in "/[ -~]{0,12}|/\\PC{0,8}") {
            if let Ok(share) = format!("nas:{path}").parse::<Share>() {
                let line = Line::of(&dir("/var/lib/one/datastores/101"), &share, &"".parse().unwrap()).unwrap();
                for before in [OTHERS.to_owned(), format!("{OTHERS}{OURS}\n")] {
                    let after = edited(&before, &script(kept(&before, &line)));
                    prop_assert_eq!(&after, &format!("{OTHERS}{}\n", line.text()));
                    prop_assert_eq!(kept(&after, &line), Ok(Edit::Ours));
                    let source = after.lines().last().unwrap().split(' ').next().map(unescaped).unwrap();
                    prop_assert!(source.parse::<Share>().unwrap().is(&share));
                }
            }
        }
    }
}
