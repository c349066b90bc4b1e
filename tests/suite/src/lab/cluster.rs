//! A Ceph cluster in the lab's fabric (`tests/lab/ceph.sh`), which the hosts reach as they would a real one: over their
//! cables, with a user's key, which their libvirt has for their guests.

use std::fs;
use std::process::{Command, Stdio};

use super::{HOSTS, Lab, LabError};
use crate::request::guest::Access;

/// The fabric's address.
const ADDRESS: &str = "10.77.0.254";
const PORT: &str = "3300";
const USER: &str = "one";
/// Where hosts have the user's key.
const KEY: &str = "/etc/ceph/one.key";
/// By what their libvirt knows the key.
const SECRET: &str = "00000000-0000-4000-9000-00000000ce94";

/// What a host of such a cluster has: its configuration, and the user's key, twice.
const HOST: &str = "
set -eu
umask 077
mkdir -m 755 -p /etc/ceph
cat >/etc/ceph/one.key
chown oneadmin /etc/ceph/one.key
install -m 644 \"$1\" /etc/ceph/ceph.conf
printf '<secret><uuid>%s</uuid><usage type=\"ceph\"><name>client.one</name></usage></secret>' \"$2\" >/run/secret.xml
virsh -q secret-define /run/secret.xml
virsh -q secret-set-value \"$2\" --file /etc/ceph/one.key
rm /run/secret.xml
";

/// The cluster. Ends when dropped.
#[derive(Debug)]
pub struct Cluster<'a> {
    lab: &'a Lab,
}

impl<'a> Cluster<'a> {
    /// Starts it, and makes the hosts know it.
    ///
    /// # Errors
    /// It does not start; what its daemons said is in the text.
    pub fn start(lab: &'a Lab) -> Result<Cluster<'a>, LabError> {
        let cluster = Cluster { lab };
        cluster.run("start")?;
        let file = lab.directory().join("ceph/one.key");
        let key = fs::read_to_string(&file).map_err(LabError::io(file.display().to_string()))?;
        let conf = lab.directory().join("ceph/ceph.conf").display().to_string();
        for host in HOSTS {
            lab.run_with(&["exec", host, "sh", "-c", HOST, "sh", &conf, SECRET], &key)?;
        }
        Ok(cluster)
    }

    /// How it is reached.
    pub fn access(&self) -> Access {
        Access {
            monitor: format!("{ADDRESS}:{PORT}"),
            user: USER.to_owned(),
            key: KEY.to_owned(),
            secret: SECRET.to_owned(),
        }
    }

    /// What the tool `rbd` with these words says on a host, run by `oneadmin`.
    ///
    /// # Errors
    /// It fails.
    pub fn rbd(&self, host: &str, words: &str) -> Result<String, LabError> {
        Ok(String::from_utf8_lossy(&self.output(host, words)?).into_owned())
    }

    /// The bytes of a volume or of a snapshot.
    ///
    /// # Errors
    /// It can't be read.
    pub fn bytes(&self, host: &str, volume: &str) -> Result<Vec<u8>, LabError> {
        self.output(host, &format!("export --no-progress {volume} -"))
    }

    /// Writes the first MiB of a volume that nobody has open, all of one byte, as a guest would.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, host: &str, volume: &str, byte: u8) -> Result<(), LabError> {
        let size: u64 = 1 << 20;
        let mut diff = b"rbd diff v1\nw".to_vec();
        diff.extend(0_u64.to_le_bytes());
        diff.extend(size.to_le_bytes());
        diff.extend(std::iter::repeat_n(byte, 1 << 20));
        diff.push(b'e');
        let text = String::from_utf8(diff).map_err(|_| LabError::Promise(format!("{byte} is no ASCII")))?;
        let words =
            ["one", host, "rbd", "--id", USER, "--keyfile", KEY, "import-diff", "--no-progress", "-", volume];
        self.lab.run_with(&words, &text).map(drop)
    }

    fn output(&self, host: &str, words: &str) -> Result<Vec<u8>, LabError> {
        let access = ["one", host, "rbd", "--id", USER, "--keyfile", KEY];
        let words: Vec<&str> = access.into_iter().chain(words.split(' ')).collect();
        let mut command = self.lab.command(&words);
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(LabError::io(format!("lab.sh {}", words.join(" "))))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LabError::Command { words: words.join(" "), said });
        }
        Ok(output.stdout)
    }

    fn run(&self, verb: &str) -> Result<(), LabError> {
        let script = self.lab.script.with_file_name("ceph.sh");
        let mut command = Command::new(&script);
        command.arg(verb).env("CEPH_LAB", self.lab.directory().join("ceph"));
        command.env("ADDRESS", ADDRESS).env("PORT", PORT).env("NETNS", format!("{}fab", self.lab.prefix));
        let output = command.stdin(Stdio::null()).output().map_err(LabError::io("tests/lab/ceph.sh"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        LabError::promise(format!("ceph.sh {verb}: {}", String::from_utf8_lossy(&said).trim()))
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        // Whatever is left of it the lab tells when it stops.
        let _ = self.run("stop");
    }
}
