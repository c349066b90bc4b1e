//! A backup within the limits of its datastore: what the programs that copy are really started with.
//!
//! `systemctl` and `systemd-run` are recorded here: a machine that builds need not have been booted by systemd.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::plan::Input;
use causeway_core::protocol::Severity;
use causeway_core::reach::worker::Workers;
use causeway_core::settings::Causeway;
use causeway_programs::host::files::{Reply, Request};
use causeway_programs::storage::Transfer;
use serde_json::{Value, json};

/// Records how it is started, and does it.
const QEMU_IMG: &str = "nice >\"$RECORD/nice\"; ionice >\"$RECORD/ionice\"; echo $$ >\"$RECORD/pid\"\n\
    PATH=${PATH#*:} exec qemu-img \"$@\"";
const SYSTEMCTL: &str = "printf '%s\\n' \"$XDG_RUNTIME_DIR\" \"$@\" >\"$RECORD/systemctl\"";
const SYSTEMD_RUN: &str = "printf '%s\\n' \"$@\" >\"$RECORD/systemd-run\"\n\
    while [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"";

struct Stage {
    dir: tempfile::TempDir,
    said: RefCell<Vec<String>>,
}

impl Stage {
    fn new(programs: &[(&str, &str)]) -> Self {
        let stage = Stage { dir: tempfile::tempdir().unwrap(), said: RefCell::default() };
        fs::create_dir_all(stage.path("bin")).unwrap();
        for (name, text) in programs {
            let path = stage.path("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir_all(stage.path("ds/102/4")).unwrap();
        fs::write(stage.path("ds/102/4/disk.0"), vec![7; 1 << 20]).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn recorded(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default().trim().to_owned()
    }

    /// Backs the disk up as a worker of a host does.
    fn back_up(&self, limits: &Value, deadline: Duration) -> Result<String, Failure> {
        let directory = self.path("ds/102/4").display().to_string();
        let place = json!({"dir": directory});
        let begin = json!({"backup": {"begin": {"place": place, "tpm": false}}});
        let disk = json!({"file": format!("{directory}/disk.0"), "kept": "beside", "qcow2": false, "extent": "full"});
        let copy = json!({"backup": {"disk": {"place": place, "disk": disk}}});
        let copy = json!({"confined": {"limits": limits, "disk": directory, "call": copy}});
        self.perform(begin, vec![Input::new(*b"<VM/>")], Duration::from_secs(60))?;
        self.perform(copy, Vec::new(), deadline)
    }

    fn perform(&self, call: Value, inputs: Vec<Input>, deadline: Duration) -> Result<String, Failure> {
        let path = format!("PATH={}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let record = format!("RECORD={}", self.dir.path().display());
        let state = self.path("state").display().to_string();
        let words =
            ["env", &path, &record, "XDG_RUNTIME_DIR=/run/user/7", env!("CARGO_BIN_EXE_causeway-disks")];
        let words = words.into_iter().chain(["worker", "--state", &state]).map(Into::into).collect();
        let workers = Workers::new(words, 1);
        let request = Request::Transfer(Transfer::new(call, inputs, deadline, &Causeway::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let hear =
            |severity: Severity, text: &str| self.said.borrow_mut().push(format!("{severity:?} {text}"));
        match runtime.block_on(workers.call_and_listen::<_, Reply>(&request, deadline, hear))? {
            Reply::Done(output) => Ok(output),
            other => panic!("{other:?}"),
        }
    }

    fn has_backup(&self) -> bool {
        self.path("ds/102/4/backup/disk.0.0").metadata().is_ok_and(|found| found.len() > 1 << 20)
    }
}

/// How nice this process is.
fn nice() -> i32 {
    let said = std::process::Command::new("nice").output().unwrap().stdout;
    String::from_utf8(said).unwrap().trim().parse().unwrap()
}

const LONG: Duration = Duration::from_secs(120);

#[test]
fn who_copies_comes_after_others() {
    let stage = Stage::new(&[("qemu-img", QEMU_IMG)]);
    stage.back_up(&json!({"datastore": 110, "driver": "RSYNC", "nice": 3, "ionice": 6}), LONG).unwrap();
    assert!(stage.has_backup());
    assert_eq!(stage.recorded("nice"), (nice() + 3).min(19).to_string());
    assert_eq!(stage.recorded("ionice"), "best-effort: prio 6");
    assert!(stage.said.borrow().is_empty(), "{:?}", stage.said);
}

#[test]
fn all_backups_of_a_datastore_share_a_slice() {
    let stage = Stage::new(&[("qemu-img", QEMU_IMG), ("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)]);
    let limits = json!({"datastore": 110, "driver": "RSYNC", "cpu_percent": 50, "memory_mb": 512, "nice": 2});
    stage.back_up(&limits, LONG).unwrap();
    assert!(stage.has_backup());
    let told = stage.recorded("systemctl");
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told[..5], ["/run/user/7", "--user", "set-property", "--runtime", "backup.110.slice"]);
    assert_eq!(told[5..], ["CPUQuota=50%", "MemoryMax=512M", "IOReadIOPSMax=", "IOWriteIOPSMax="]);
    let started = stage.recorded("systemd-run").replace('\n', " ");
    let words = "--user --scope --quiet --collect --slice=backup.110.slice -- nice -n 2 ";
    assert!(started.starts_with(words) && started.contains("causeway-disks confined --state "), "{started}");
    assert_eq!(stage.recorded("nice"), (nice() + 2).min(19).to_string());
}

#[test]
fn a_limit_that_a_host_cannot_keep_is_told_and_the_backup_is_made() {
    let silent = "echo 'Failed to connect to bus: No medium found' >&2; exit 1";
    let stage = Stage::new(&[("qemu-img", QEMU_IMG), ("systemctl", silent)]);
    let limits = json!({"datastore": 110, "driver": "RSYNC", "cpu_percent": 50, "ionice": 7});
    stage.back_up(&limits, LONG).unwrap();
    assert!(stage.has_backup());
    assert_eq!(stage.recorded("ionice"), "best-effort: prio 7");
    let said = stage.said.borrow().concat();
    assert!(
        said.starts_with("Warning RSYNC_CPU_QUOTA of datastore 110 can't be kept on this host: systemctl "),
        "{said}"
    );
    assert!(said.contains("No medium found") && said.contains("enable-linger"), "{said}");
}

#[test]
fn what_keeps_it_from_starting_is_the_reason() {
    let stage = Stage::new(&[("systemctl", "exit 0"), ("systemd-run", "echo 'no such slice' >&2; exit 1")]);
    let failure =
        stage.back_up(&json!({"datastore": 1, "driver": "RSYNC", "memory_mb": 9}), LONG).unwrap_err();
    assert_eq!((failure.kind, failure.text.as_str()), (Kind::HostState, "file worker: no such slice"));
    assert!(!stage.has_backup());
}

/// Whoever ends a worker ends what it started, and a later try is not in its way.
#[test]
fn its_end_is_that_of_all_that_it_started() {
    let held = QEMU_IMG.split('\n').next().unwrap();
    let stage = Stage::new(&[("qemu-img", &format!("{held}\nexec sleep 600"))]);
    let limits = json!({"datastore": 110, "driver": "RSYNC", "nice": 1});
    let failure = stage.back_up(&limits, Duration::from_secs(3)).unwrap_err();
    assert!(matches!(failure.kind, Kind::Timeout), "{failure}");
    let process = Path::new("/proc").join(stage.recorded("pid"));
    let until = Instant::now() + Duration::from_secs(20);
    while process.join("exe").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!process.join("exe").exists(), "{}", process.display());
    assert!(!stage.has_backup());
    fs::remove_file(stage.path("bin/qemu-img")).unwrap();
    stage.back_up(&limits, LONG).unwrap();
    assert!(stage.has_backup());
}
