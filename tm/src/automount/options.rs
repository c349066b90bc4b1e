//! `NFS_AUTO_OPTS`: a list of words that `mount` is given as root, so only known ones are taken.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest list, bytes.
const LIMIT: usize = 1024;

/// Words that stand alone (nfs(5), mount(8)).
const PLAIN: &[&str] = &[
    "_netdev",
    "ac",
    "acl",
    "async",
    "atime",
    "auto",
    "cto",
    "defaults",
    "diratime",
    "dirsync",
    "exec",
    "fg",
    "fsc",
    "hard",
    "intr",
    "lazytime",
    "lock",
    "migration",
    "mand",
    "noac",
    "noacl",
    "noatime",
    "nocto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "nofsc",
    "nointr",
    "nolazytime",
    "nolock",
    "nomand",
    "nomigration",
    "nordirplus",
    "norelatime",
    "noresvport",
    "nosharecache",
    "nosoftreval",
    "nosuid",
    "notrunkdiscovery",
    "nouser",
    "rdirplus",
    "rdma",
    "relatime",
    "resvport",
    "rw",
    "sharecache",
    "soft",
    "softerr",
    "softreval",
    "strictatime",
    "sync",
    "tcp",
    "trunkdiscovery",
    "udp",
];

/// Words that have a value.
const VALUED: &[&str] = &[
    "acdirmax",
    "acdirmin",
    "acregmax",
    "acregmin",
    "actimeo",
    "clientaddr",
    "context",
    "defcontext",
    "fscontext",
    "fsc",
    "local_lock",
    "lookupcache",
    "max_connect",
    "minorversion",
    "mounthost",
    "mountport",
    "mountproto",
    "mountvers",
    "namlen",
    "nconnect",
    "nfsvers",
    "port",
    "proto",
    "rdirplus",
    "retrans",
    "retry",
    "rootcontext",
    "rsize",
    "sec",
    "timeo",
    "vers",
    "write",
    "wsize",
    "x-systemd.after",
    "x-systemd.mount-timeout",
    "x-systemd.requires",
    "xprtsec",
];

/// Words that are known, and not taken, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("bg", "with it mount returns before anything is mounted"),
    ("noauto", "a restart of the host would not bring the mount back"),
    ("ro", "images and disks are written there"),
    ("remount", "nothing is to be mounted with it"),
    ("bind", "nothing of a server is mounted with it"),
    ("rbind", "nothing of a server is mounted with it"),
    ("move", "nothing of a server is mounted with it"),
    ("loop", "nothing of a server is mounted with it"),
    ("user", "everybody could unmount the datastore"),
    ("users", "everybody could unmount the datastore"),
    ("owner", "others than root could unmount the datastore"),
    ("group", "others than root could unmount the datastore"),
    ("suid", "what users bring into a datastore must not run as root"),
    ("dev", "what users bring into a datastore must be no device"),
    ("x-systemd.automount", "the datastore would be mounted later, by somebody else"),
];

/// Options of a mount, each a known word with a plain value; or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountOptions(String);

/// What a list of options must be to be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A known word that is not taken.
    #[error("options without {word}: {why}")]
    Refused {
        /// The word.
        word: &'static str,
        /// Why.
        why: &'static str,
    },
    /// An option that is not known to us.
    #[error("options of nfs(5) and mount(8) with commas between them: {0:?} is none that is taken")]
    Unknown(String),
    /// A list of no form.
    #[error("at most 1024 bytes of options with single commas between them")]
    Form,
}

impl MountOptions {
    /// Whether none is set.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MountOptions {
    type Err = Unfit;
    fn from_str(text: &str) -> Result<Self, Unfit> {
        if text.is_empty() {
            return Ok(MountOptions::default());
        }
        if text.len() > LIMIT {
            return Err(Unfit::Form);
        }
        text.split(',').try_for_each(one)?;
        Ok(MountOptions(text.to_owned()))
    }
}

fn one(option: &str) -> Result<(), Unfit> {
    if option.is_empty() {
        return Err(Unfit::Form);
    }
    let (word, value) = option.split_once('=').map_or((option, None), |(word, value)| (word, Some(value)));
    if let Some((word, why)) = REFUSED.iter().find(|(refused, _)| *refused == word) {
        return Err(Unfit::Refused { word, why });
    }
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
    let known = match value {
        None => PLAIN.contains(&word),
        Some(value) => VALUED.contains(&word) && !value.is_empty() && value.bytes().all(plain),
    };
    known.then_some(()).ok_or_else(|| Unfit::Unknown(option.chars().take(64).collect()))
}

impl TryFrom<String> for MountOptions {
    type Error = Unfit;
    fn try_from(text: String) -> Result<Self, Unfit> {
        text.parse()
    }
}

impl From<MountOptions> for String {
    fn from(value: MountOptions) -> String {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_known_words_are_taken() {
        for text in ["", "defaults", "rw,hard,vers=4.2,nconnect=8,_netdev", "soft,timeo=100,sec=krb5p,nofail"]
        {
            assert_eq!(text.parse::<MountOptions>().unwrap().to_string(), text);
        }
        for (text, says) in [
            ("hard,bg", "options without bg: with it mount returns before"),
            ("bind", "options without bind"),
            ("users", "options without users: everybody"),
            ("hard,", "at most 1024 bytes"),
            (",", "at most 1024 bytes"),
            ("hard, soft", "options of nfs(5) and mount(8) with commas between them: \" soft\" is none"),
            ("vers", "options of nfs(5)"),
            ("vers=", "options of nfs(5)"),
            ("hard=1", "options of nfs(5)"),
            ("vers=4 0 0", "options of nfs(5)"),
            ("vers=4\nh:/x /etc nfs", "options of nfs(5)"),
            ("vers=\\", "options of nfs(5)"),
            ("helper=x", "options of nfs(5)"),
            ("context=\"a,b\"", "options of nfs(5)"),
        ] {
            let error = text.parse::<MountOptions>().unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
        assert_eq!(["hard"; 300].join(",").parse::<MountOptions>(), Err(Unfit::Form));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_one_word_of_a_table(text in "((rw|vers|context|sec|bg)(=\\PC{0,6})?,?){0,4}") {
            if let Ok(options) = text.parse::<MountOptions>() {
                let free = |c: char| c.is_whitespace() || c.is_control() || "\\'\"#$`".contains(c);
                prop_assert!(!options.to_string().chars().any(free));
            }
        }
    }
}
