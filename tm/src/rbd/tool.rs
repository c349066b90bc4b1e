//! One call of `rbd`: an argument vector, the cluster by options, JSON where something is read, an end at the deadline.
//!
//! `rbd` ends with the `errno` of what went wrong, and with the same one, ENOENT, for a volume that is not there and for
//! a pool that is not: absence is therefore never read from one exit code, but from a pool that could be listed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ChildStdout;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use causeway_core::names::DiskPath;

use super::cluster::Cluster;
use super::error::{RbdError, code};
use super::model::{Info, Snapshot};
use super::name::{PoolName, SnapshotName, UserName, Volume};
use super::usage::{Pools, Rooms};
use crate::host::{StorageError, Tool, Worker, without_log};

/// Most that is read of an answer, bytes: the list of a pool with a million volumes.
const ANSWER_LIMIT: u64 = 64 << 20;
/// How long a cluster may take to let us in, in seconds. Without it `rbd` tries for five minutes.
const MOUNT_TIMEOUT: &str = "--client-mount-timeout=30";
/// How long a client that died without a word goes on holding what it had open (`osd_client_watch_timeout` is 30 s), and
/// somewhat more.
const WATCH: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(500);
/// How `rbd` ends where a user may not do what was asked.
const NOT_PERMITTED: &str = "(1) Operation not permitted";
/// What it says where it was not let in.
const NOT_CONNECTED: &str = "couldn't connect to the cluster";

/// What `rbd children` says of a clone.
#[derive(Deserialize)]
pub(super) struct Child {
    pool: String,
    image: String,
    #[serde(default)]
    trash: bool,
}

impl std::fmt::Display for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}{}", self.pool, self.image, if self.trash { " (in the trash)" } else { "" })
    }
}

/// Who has a volume open.
#[derive(Deserialize)]
struct Watcher {
    address: String,
}

/// `rbd status`.
#[derive(Deserialize)]
pub(super) struct Status {
    watchers: Vec<Watcher>,
}

/// The tool, for one cluster.
pub(crate) struct Rbd<'a> {
    cluster: &'a Cluster,
    worker: &'a Worker<'a>,
    pub(super) program: &'a Path,
}

impl<'a> Rbd<'a> {
    pub(crate) fn new(cluster: &'a Cluster, worker: &'a Worker<'a>) -> Self {
        Rbd { cluster, worker, program: Path::new("rbd") }
    }

    /// The worker that it serves.
    pub(crate) fn worker(&self) -> &'a Worker<'a> {
        self.worker
    }

    /// Runs one verb; what it printed.
    pub(super) fn call(&self, verb: &[&str], on: &str, args: &[&str]) -> Result<Vec<u8>, StorageError> {
        let name = format!("rbd {}", verb.join(" "));
        self.run(self.program, &name, on, [verb, args].concat().as_slice())
    }

    /// What the tool prints, handed to `read` as it comes.
    pub(super) fn stream<T: Send>(
        &self,
        verb: &str,
        on: &str,
        args: &[&str],
        read: impl FnOnce(ChildStdout) -> std::io::Result<T> + Send,
    ) -> Result<std::io::Result<T>, StorageError> {
        let mut tool = self.tool(self.program, &format!("rbd {verb}"), on);
        tool.arg(verb).args(args).stream(self.worker, read)
    }

    /// The tool, with the words that name the cluster.
    pub(super) fn tool(&self, program: &Path, name: &str, on: &str) -> Tool {
        let mut tool = Tool::named(name, program, Path::new(on));
        let Cluster { conf, user, key } = self.cluster;
        for (option, value) in [
            ("--conf", conf.as_ref().map(DiskPath::as_str)),
            ("--id", user.as_ref().map(UserName::as_str)),
            ("--keyfile", key.as_ref().map(DiskPath::as_str)),
        ] {
            if let Some(value) = value {
                tool.args([option, value]);
            }
        }
        tool.arg(MOUNT_TIMEOUT);
        tool
    }

    pub(super) fn run(
        &self,
        program: &Path,
        name: &str,
        on: &str,
        words: &[&str],
    ) -> Result<Vec<u8>, StorageError> {
        let ended = self.tool(program, name, on).args(words).output(self.worker, ANSWER_LIMIT)?;
        if ended.status.success() {
            return Ok(ended.out);
        }
        let own = without_log(&ended.err);
        let said = own.lines().map(str::trim).rfind(|line| !line.is_empty());
        // Of one that crashed the last line is nobody's words.
        let said = said.filter(|_| ended.status.code().is_some());
        let said =
            said.map_or_else(|| ended.status.to_string(), |line| line.trim_start_matches("rbd: ").to_owned());
        let (tool, on, code) = (name.to_owned(), on.to_owned(), ended.status.code());
        let refused = match code {
            Some(code::EACCES) => true,
            // Of a key that is none it says "invalid argument"; 1 is also what other tools end with.
            Some(code::EPERM) => said.contains(NOT_PERMITTED),
            Some(code::EINVAL) => ended.err.contains(NOT_CONNECTED),
            _ => false,
        };
        match refused {
            true => Err(RbdError::Access { tool, on, said, who: self.cluster.who() }.into()),
            false => Err(RbdError::Tool { tool, on, code, said }.into()),
        }
    }

    /// Runs a verb that changes nothing: if it crashes, which version 16 does once in a while, once more.
    fn look(&self, verb: &[&str], on: &str, args: &[&str]) -> Result<Vec<u8>, StorageError> {
        match self.call(verb, on, args) {
            Err(StorageError::Rbd(RbdError::Tool { code: None, .. })) => self.call(verb, on, args),
            other => other,
        }
    }

    fn ask<T: DeserializeOwned>(&self, verb: &[&str], on: &str, args: &[&str]) -> Result<T, StorageError> {
        let answer = self.look(verb, on, &[&["--format", "json"], args].concat())?;
        self.read(&format!("rbd {}", verb.join(" ")), on, &answer)
    }

    fn read<T: DeserializeOwned>(&self, tool: &str, on: &str, answer: &[u8]) -> Result<T, StorageError> {
        serde_json::from_slice(answer).map_err(|e| {
            RbdError::Answer { tool: tool.to_owned(), on: on.to_owned(), why: e.to_string() }.into()
        })
    }

    /// The names of all volumes of a pool. That it answers proves the pool.
    pub(crate) fn names(&self, pool: &PoolName) -> Result<Vec<String>, StorageError> {
        self.ask(&["ls"], pool.as_str(), &[pool.as_str()]).map_err(|error| match error {
            StorageError::Rbd(RbdError::Tool { said, code: Some(code::ENOENT), .. }) => {
                RbdError::Pool { pool: pool.clone(), said }.into()
            }
            other => other,
        })
    }

    /// How full the cluster's pools are.
    pub(super) fn pools(&self) -> Result<Pools, StorageError> {
        let (tool, on) = ("ceph df", "the cluster");
        let answer = self.run(Path::new("ceph"), tool, on, &["df", "detail", "--format", "json"])?;
        self.read(tool, on, &answer)
    }

    /// How much room each volume of a pool takes; `words` are more options of the tool.
    pub(super) fn rooms(&self, pool: &PoolName, words: &[&str]) -> Result<Rooms, StorageError> {
        self.ask(&["du"], pool.as_str(), &[words, &["--pool", pool.as_str()]].concat())
    }

    pub(crate) fn info(&self, volume: &Volume) -> Result<Info, StorageError> {
        self.info_at(&volume.to_string())
    }

    /// What a volume was when one of its snapshots was made.
    pub(super) fn info_at(&self, on: &str) -> Result<Info, StorageError> {
        self.ask(&["info"], on, &[on])
    }

    pub(crate) fn snapshots(&self, volume: &Volume) -> Result<Vec<Snapshot>, StorageError> {
        let on = volume.to_string();
        self.ask(&["snap", "ls"], &on, &[&on])
    }

    /// What was made from a snapshot, in the trash too: `pool/name`.
    pub(crate) fn clones(
        &self,
        volume: &Volume,
        snapshot: &SnapshotName,
    ) -> Result<Vec<String>, StorageError> {
        let on = format!("{volume}@{snapshot}");
        let children: Vec<Child> = self.ask(&["children"], &on, &["--all", &on])?;
        Ok(children.iter().map(Child::to_string).collect())
    }

    /// The addresses at which a volume is open.
    pub(crate) fn watchers(&self, volume: &Volume) -> Result<Vec<String>, StorageError> {
        let on = volume.to_string();
        let status: Status = self.ask(&["status"], &on, &[&on])?;
        Ok(status.watchers.into_iter().map(|watcher| watcher.address).collect())
    }

    /// Waits until nobody has a volume open, for as long as a dead client may seem to live.
    pub(crate) fn idle(&self, volume: &Volume) -> Result<(), StorageError> {
        self.patiently(|| {
            let at = self.watchers(volume)?;
            if at.is_empty() {
                return Ok(());
            }
            Err(RbdError::InUse { volume: volume.clone(), at: at.join(", ") }.into())
        })
    }

    /// Tries again while something is open, for as long as a dead client may seem to live.
    pub(crate) fn patiently<T>(
        &self,
        attempt: impl Fn() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        // What comes after it takes its time, too.
        let left = self.worker.deadline.saturating_duration_since(Instant::now());
        let end = Instant::now() + WATCH.min(left / 2);
        loop {
            match attempt() {
                Err(StorageError::Rbd(error))
                    if matches!(error, RbdError::InUse { .. }) || error.is(code::EBUSY) =>
                {
                    if Instant::now() + PAUSE > end {
                        return Err(error.into());
                    }
                    sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    pub(crate) fn resize(&self, volume: &Volume, bytes: u64) -> Result<(), StorageError> {
        let (on, size) = (volume.to_string(), format!("{bytes}B"));
        self.call(&["resize"], &on, &["--no-progress", "--size", &size, &on]).map(drop)
    }

    /// As the tool does it; see [`Rbd::rename`].
    pub(super) fn rename_once(&self, from: &Volume, to: &Volume) -> Result<(), StorageError> {
        let (on, to) = (from.to_string(), to.to_string());
        self.call(&["rename"], &on, &[&on, &to]).map(drop)
    }

    pub(crate) fn flatten(&self, volume: &Volume) -> Result<(), StorageError> {
        let on = volume.to_string();
        self.call(&["flatten"], &on, &["--no-progress", &on]).map(drop)
    }

    /// Removes a volume without snapshots; one that has gone already is as good.
    pub(crate) fn remove(&self, volume: &Volume) -> Result<(), StorageError> {
        let on = volume.to_string();
        unless(code::ENOENT, self.call(&["rm"], &on, &["--no-progress", &on]))
    }

    pub(crate) fn trash(&self, volume: &Volume) -> Result<(), StorageError> {
        let on = volume.to_string();
        unless(code::ENOENT, self.call(&["trash", "mv"], &on, &[&on]))
    }

    /// Makes a snapshot; one of that name which is there already is as good.
    pub(crate) fn snap(&self, volume: &Volume, snapshot: &SnapshotName) -> Result<(), StorageError> {
        let on = format!("{volume}@{snapshot}");
        unless(code::EEXIST, self.call(&["snap", "create"], &on, &["--no-progress", &on]))
    }

    pub(crate) fn protect(&self, volume: &Volume, snapshot: &SnapshotName) -> Result<(), StorageError> {
        let on = format!("{volume}@{snapshot}");
        // This is how it says that somebody was first.
        unless(code::EBUSY, self.call(&["snap", "protect"], &on, &[&on]))
    }

    /// Lets a snapshot be removed; one that has gone already is as good.
    ///
    /// # Errors
    /// [`RbdError::Clones`] names what stands on it.
    pub(super) fn unprotect(&self, volume: &Volume, snapshot: &Snapshot) -> Result<(), StorageError> {
        let on = format!("{volume}@{}", snapshot.name);
        if snapshot.protected {
            let unprotected = self.call(&["snap", "unprotect"], &on, &[&on]);
            let unprotected = unless(code::EINVAL, unless(code::ENOENT, unprotected).map(|()| Vec::new()));
            unprotected.map_err(|error| match self.clones(volume, &snapshot.name) {
                Ok(clones) if !clones.is_empty() => {
                    RbdError::Clones { snapshot: on.clone(), clones: clones.join(", ") }.into()
                }
                _ => error,
            })?;
            self.worker.at("snapshot unprotected");
        }
        Ok(())
    }

    /// Removes a snapshot, protected or not; one that has gone already is as good.
    ///
    /// # Errors
    /// [`RbdError::Clones`] names what stands on it.
    pub(crate) fn unsnap(&self, volume: &Volume, snapshot: &Snapshot) -> Result<(), StorageError> {
        self.unprotect(volume, snapshot)?;
        let on = format!("{volume}@{}", snapshot.name);
        unless(code::ENOENT, self.call(&["snap", "rm"], &on, &["--no-progress", &on]))?;
        self.worker.at("snapshot removed");
        Ok(())
    }

    pub(crate) fn set_mark(&self, volume: &Volume, key: &str, value: &str) -> Result<(), StorageError> {
        let on = volume.to_string();
        self.call(&["image-meta", "set"], &on, &[&on, key, value]).map(drop)
    }

    /// Takes a mark away; one that is not there is as good.
    pub(super) fn unmark(&self, volume: &Volume, key: &str) -> Result<(), StorageError> {
        let on = volume.to_string();
        unless(code::ENOENT, self.call(&["image-meta", "remove"], &on, &[&on, key]))
    }

    /// What a volume is marked with; none if it is not.
    pub(crate) fn mark(&self, volume: &Volume, key: &str) -> Result<Option<String>, StorageError> {
        let on = volume.to_string();
        let answer = self.look(&["image-meta", "ls"], &on, &["--format", "json", &on])?;
        // Of a volume without any it says nothing at all.
        if answer.trim_ascii().is_empty() {
            return Ok(None);
        }
        let marks: BTreeMap<String, String> = self.read("rbd image-meta ls", &on, &answer)?;
        Ok(marks.get(key).cloned())
    }
}

/// Takes one way of failing for success.
fn unless(errno: i32, result: Result<Vec<u8>, StorageError>) -> Result<(), StorageError> {
    match result {
        Ok(_) => Ok(()),
        Err(StorageError::Rbd(error)) if error.is(errno) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fake `rbd` that runs these lines.
    fn with_fake<T>(lines: &str, wait: Duration, act: impl FnOnce(&Rbd<'_>) -> T) -> T {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("rbd");
        std::fs::write(&program, format!("#!/bin/sh\n{lines}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let worker = Worker::new(dir.path(), Instant::now() + wait);
        let cluster = Cluster {
            conf: Some("/etc/ceph/two.conf".parse().unwrap()),
            user: Some("one".parse().unwrap()),
            key: Some("/etc/ceph/one key".parse().unwrap()),
        };
        act(&Rbd { cluster: &cluster, worker: &worker, program: &program })
    }

    const LONG: Duration = Duration::from_secs(20);

    fn volume() -> Volume {
        "one/one-5".parse().unwrap()
    }

    fn kind(error: &StorageError) -> causeway_core::answer::Kind {
        error.kind()
    }

    #[test]
    fn the_cluster_is_named_by_options_and_a_key_by_its_file() {
        let said = "for word; do printf '<%s>' \"$word\" >&2; done; exit 1";
        let error =
            with_fake(said, LONG, |rbd| rbd.rename(&volume(), &volume().renamed(&[0, 1])).unwrap_err());
        assert_eq!(
            error.to_string(),
            "rbd rename of one/one-5: <--conf></etc/ceph/two.conf><--id><one><--keyfile></etc/ceph/one key>\
             <--client-mount-timeout=30><rename><one/one-5><one/one-5-0:1>"
        );
    }

    #[test]
    fn its_last_words_are_the_reason_and_its_exit_code_tells_what_is_absent() {
        let gone = "echo '2026 librbd: noise' >&2; echo 'rbd: error opening image: (2) No such file' >&2; echo >&2; exit 2";
        let error = with_fake(gone, LONG, |rbd| rbd.info(&volume()).unwrap_err());
        assert_eq!(error.to_string(), "rbd info of one/one-5: error opening image: (2) No such file");
        assert!(matches!(&error, StorageError::Rbd(e) if e.is(code::ENOENT)));
        // Its library's words may come later.
        let late = "echo 'rbd: copy failed: (1) Operation not permitted' >&2; \
             echo '2026-11-22T07:06:56.671+0000 7fd0 -1 librbd: header creation failed' >&2; exit 1";
        let refused = with_fake(late, LONG, |rbd| rbd.copy("one/x", &volume(), None).unwrap_err());
        assert!(matches!(&refused, StorageError::Rbd(RbdError::Access { .. })), "{refused}");
        let said =
            "rbd copy of one/one-5: copy failed: (1) Operation not permitted: the cluster was asked by ";
        assert!(refused.to_string().starts_with(said), "{refused}");
        // The same code of a pool is no absence of anything in it.
        let error = with_fake(gone, LONG, |rbd| rbd.names(volume().pool()).unwrap_err());
        assert!(error.to_string().starts_with("pool one can't be read"), "{error}");
        let away = with_fake("exit 110", LONG, |rbd| rbd.names(volume().pool()).unwrap_err());
        assert_eq!(kind(&away), causeway_core::answer::Kind::Unreachable);
        let signal = with_fake("kill -9 $$", LONG, |rbd| rbd.remove(&volume()).unwrap_err());
        assert!(signal.to_string().contains("signal: 9"), "{signal}");
        assert_eq!(kind(&signal), causeway_core::answer::Kind::Refused);
    }

    #[test]
    fn what_is_done_already_is_done_and_any_other_failure_is_one() {
        assert!(with_fake("exit 2", LONG, |rbd| rbd.remove(&volume())).is_ok());
        assert!(with_fake("exit 39", LONG, |rbd| rbd.remove(&volume())).is_err());
        assert!(with_fake("exit 17", LONG, |rbd| rbd.snap(&volume(), &SnapshotName::Base)).is_ok());
        assert!(with_fake("exit 16", LONG, |rbd| rbd.protect(&volume(), &SnapshotName::Base)).is_ok());
        for verb in ["unprotect", "rm"] {
            let failing = format!("case \"$*\" in *'snap {verb}'*) exit 5;; *children*) echo '[]';; esac");
            let snapshot = Snapshot { name: SnapshotName::Numbered(3), protected: true };
            // W10: the stock script goes on, and says that it was done.
            let error = with_fake(&failing, LONG, |rbd| rbd.unsnap(&volume(), &snapshot).unwrap_err());
            assert!(error.to_string().starts_with(&format!("rbd snap {verb} of one/one-5@3")), "{error}");
        }
    }

    #[test]
    fn what_stands_on_a_snapshot_is_named() {
        let children = "case \"$*\" in *unprotect*) exit 16;; \
             *children*) echo '[{\"pool\":\"one\",\"image\":\"a\"},{\"pool\":\"p\",\"image\":\"b\",\"trash\":true}]';; esac";
        let snapshot = Snapshot { name: SnapshotName::Base, protected: true };
        let error = with_fake(children, LONG, |rbd| rbd.unsnap(&volume(), &snapshot).unwrap_err());
        let said =
            "one/one-5@snap is still needed by one/a, p/b (in the trash): remove what is not used any more, ";
        assert!(error.to_string().starts_with(said), "{error}");
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        for answer in ["", "{}", "[{\"name\":\"0\"}]", "nothing", "[1, 2"] {
            let lines = format!("printf '%s' '{answer}'");
            let error = with_fake(&lines, LONG, |rbd| rbd.snapshots(&volume()).unwrap_err());
            assert!(
                error.to_string().starts_with("rbd snap ls of one/one-5 answered something else"),
                "{error}"
            );
        }
    }

    /// Seen in the midst of a campaign: `rbd snap ls` that ended by SIGABRT.
    #[test]
    fn a_look_that_crashes_is_taken_once_more_and_a_change_is_not() {
        let once = "[ -e \"$0.once\" ] && echo '[]' && exit; touch \"$0.once\"; kill -ABRT $$";
        assert_eq!(with_fake(once, LONG, |rbd| rbd.snapshots(&volume())).unwrap(), []);
        assert!(with_fake(once, LONG, |rbd| rbd.flatten(&volume())).is_err());
        let always = with_fake("kill -ABRT $$", LONG, |rbd| rbd.info(&volume()).unwrap_err());
        assert!(always.to_string().contains("signal: 6"), "{always}");
    }

    /// A tool that crashes is asked again, once with other words, and in the end the pool is told without its disks.
    #[test]
    fn a_pool_is_told_although_the_tool_crashes() {
        let du = r#"{"images":[{"name":"one-5-7-0","used_size":1048576}]}"#;
        for (lines, disks) in [
            (format!("case \"$*\" in *thread-count*) kill -SEGV $$;; *) echo '{du}';; esac"), 1),
            (format!("[ -e \"$0.once\" ] && echo '{du}' && exit; touch \"$0.once\"; kill -ABRT $$"), 1),
            ("kill -ABRT $$".to_owned(), 0),
        ] {
            let told =
                with_fake(&lines, LONG, |rbd| super::super::usage::disks(rbd, volume().pool()).unwrap());
            assert_eq!(told.matches("\"vm\":").count(), disks, "{lines}");
        }
    }

    #[test]
    fn a_volume_that_stays_open_is_in_use_and_a_silent_tool_is_killed() {
        let open = "echo '{\"watchers\":[{\"address\":\"10.0.0.1:0/77\",\"client\":1,\"cookie\":2}]}'";
        let error = with_fake(open, Duration::from_secs(2), |rbd| rbd.idle(&volume()).unwrap_err());
        assert_eq!(error.to_string(), "one/one-5 is open at 10.0.0.1:0/77: a guest or a tool uses it");
        let error =
            with_fake("exec sleep 600", Duration::from_millis(80), |rbd| rbd.info(&volume()).unwrap_err());
        assert!(matches!(error, StorageError::ToolDeadline { .. }), "{error:?}");
    }
}
