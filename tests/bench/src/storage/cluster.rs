//! A Ceph cluster that `tests/lab/ceph.sh` started, and an image on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The cluster of a configuration file, with the key of user `one` beside it.
pub struct Cluster {
    conf: PathBuf,
    image: String,
}

impl Cluster {
    /// With an image of 64 MiB, 16 of them data, and the snapshot that its clones stand on.
    ///
    /// # Errors
    /// The cluster refuses it.
    pub fn open(conf: &Path, data: &Path) -> anyhow::Result<Cluster> {
        let conf = conf.canonicalize().with_context(|| conf.display().to_string())?;
        let image = format!("one/one-{}", std::process::id());
        let cluster = Cluster { conf, image };
        let data = data.to_str().context("the image's path")?;
        cluster.rbd(&["import", "--no-progress", data, &cluster.image])?;
        let snapshot = format!("{}@snap", cluster.image);
        cluster.rbd(&["snap", "create", "--no-progress", &snapshot])?;
        cluster.rbd(&["snap", "protect", &snapshot])?;
        Ok(cluster)
    }

    /// `SOURCE` of the image.
    pub fn source(&self) -> String {
        self.image.clone()
    }

    /// Attributes of a disk and of a datastore that name the cluster.
    pub fn attributes(&self) -> String {
        format!(
            "<POOL_NAME>one</POOL_NAME><CEPH_USER>one</CEPH_USER><CEPH_CONF>{}</CEPH_CONF><CEPH_KEY>{}</CEPH_KEY>",
            self.conf.display(),
            self.key()
        )
    }

    /// Options of `rbd` that name the cluster.
    pub fn access(&self) -> Vec<String> {
        let conf = self.conf.display().to_string();
        ["--conf", &conf, "--id", "one", "--keyfile", &self.key()].map(str::to_owned).to_vec()
    }

    fn key(&self) -> String {
        self.conf.with_file_name("one.key").display().to_string()
    }

    fn rbd(&self, words: &[&str]) -> anyhow::Result<()> {
        let run = Command::new("rbd").args(self.access()).args(words).output()?;
        if !run.status.success() {
            bail!("rbd {words:?}: {}", String::from_utf8_lossy(&run.stderr));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A cluster of the benchmark's own is taken down with all that is in it; of another one, these two.
        let snapshot = format!("{}@snap", self.image);
        for words in [
            ["snap", "unprotect", &snapshot],
            ["snap", "rm", &snapshot],
            ["rm", "--no-progress", &self.image],
        ] {
            let _ = self.rbd(&words);
        }
    }
}
