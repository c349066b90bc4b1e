//! How long a plain image takes to become a VM's disk, beside `cp` of the same file in the same run: 10 GiB with 1 GiB of
//! data in 64 pieces (`COPY_GIB`, `COPY_DATA_MIB`), cold cache, in turns, the best of three (`COPY_ROUNDS`); and how much
//! memory it takes. Ours writes the copy out before it gives it its name; so does `cp` here.
//!
//! Everything lies below `TMPDIR`, which wants room for two copies of the data. The cache is dropped as root only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use causeway_tm::host::{Call, Worker, perform};

const MIB: u64 = 1 << 20;
const PIECES: u64 = 64;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    // A process of its own for each copy of ours: its peak of memory is that of one copy.
    if let [_, word, root] = words.as_slice()
        && word == "ours"
    {
        return ours(Path::new(root));
    }
    // `cargo test --benches` only wants to see that it starts.
    if words.iter().any(|word| word == "--test") {
        return Ok(());
    }
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(default)
    };
    let (size, data) = (number("COPY_GIB", 10) * 1024 * MIB, number("COPY_DATA_MIB", 1024) * MIB);
    let dir = tempfile::tempdir()?;
    for below in ["datastores/1", "datastores/0/7"] {
        std::fs::create_dir_all(dir.path().join(below))?;
    }
    let image = dir.path().join("datastores/1/abc");
    make(&image, size, data)?;
    println!("{} GiB with {} MiB of data, below {}", size >> 30, data >> 20, dir.path().display());
    let (mut best_cp, mut best_ours) = (Duration::MAX, Duration::MAX);
    for round in 1..=number("COPY_ROUNDS", 3) {
        let cp = timed(|| copy_by_cp(&image, &dir.path().join("by-cp")))?;
        let mut peak = String::new();
        let own = timed(|| {
            peak = copy_by_ours(dir.path())?;
            Ok(())
        })?;
        println!(
            "round {round}: cp and fsync {:.2} s, ours {:.2} s, peak {peak}",
            cp.as_secs_f64(),
            own.as_secs_f64()
        );
        (best_cp, best_ours) = (best_cp.min(cp), best_ours.min(own));
        std::fs::remove_file(dir.path().join("by-cp"))?;
    }
    println!("best: ours is {:.2} of cp and fsync", best_ours.as_secs_f64() / best_cp.as_secs_f64());
    Ok(())
}

fn make(path: &Path, size: u64, data: u64) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(size)?;
    let mut block = vec![0; 1 << 20];
    let mut state = 1_u64;
    for piece in 0..PIECES {
        for step in 0..(data / PIECES) / MIB {
            // Bytes that nothing could take for zeros, nor compress.
            for word in block.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            file.write_all_at(&block, piece * (size / PIECES) + step * MIB)?;
        }
    }
    file.sync_all()
}

fn timed(copy: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    rustix::fs::sync();
    // Only root may; for anybody else both sides read from memory.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    let start = Instant::now();
    copy()?;
    Ok(start.elapsed())
}

fn copy_by_cp(from: &Path, to: &Path) -> io::Result<()> {
    let run = Command::new("cp").args(["--sparse=always", "--reflink=never"]).args([from, to]).status()?;
    if !run.success() {
        return Err(io::Error::other(run.to_string()));
    }
    File::open(to)?.sync_all()
}

fn copy_by_ours(root: &Path) -> io::Result<String> {
    let run = Command::new(std::env::current_exe()?).arg("ours").arg(root).output()?;
    if !run.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&run.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&run.stdout).trim().to_owned())
}

fn ours(root: &Path) -> io::Result<()> {
    let at = |below: &str| root.join("datastores").join(below);
    let call = serde_json::json!({"clone_image": {
        "image": at("1/abc"), "file": at("0/7/disk.0"), "copy": "flat", "grown_mb": null, "sparse": true
    }});
    let call: Call = serde_json::from_value(call).map_err(io::Error::other)?;
    let locks: PathBuf = root.join("locks");
    let deadline = Instant::now() + Duration::from_secs(3600);
    let worker = Worker::new(&locks, deadline);
    perform(&call, &[], &worker).map_err(io::Error::other)?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?");
    println!("{}", peak.trim());
    Ok(())
}
