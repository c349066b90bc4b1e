//! A VM's directory to another host, beside `tar --sparse | ssh` of the same directory in the same run, through a real
//! sshd on loopback; and what packing costs, from which the threshold of `pays` comes.
//!
//! `CAUSEWAY_BENCH_MIB` sets how much data each directory has (256). Both sides end with the data on the disk.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_core::names::HostName;
use causeway_tm::carry::{Carry, Courier, End, Manner, Part, Spot, carry, serve};
use causeway_tm::host::Worker;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const MIB: u64 = 1 << 20;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [word, locks] if !word.starts_with('-') => {
            let end = if word == End::Source.word() { End::Source } else { End::Destination };
            let deadline = Instant::now();
            let (locks, qemu_img) = (Path::new(locks), Path::new("qemu-img"));
            let worker = Worker { qemu_img, ..Worker::new(locks, deadline) };
            serve(end, std::io::stdin(), std::io::stdout(), &worker)?;
            let status = fs::read_to_string("/proc/self/status")?;
            let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
            return Ok(fs::write(locks.with_extension("peak"), peak)?);
        }
        // `cargo test --benches` calls it so.
        [word] if word == "--test" => return Ok(()),
        _ => {}
    }
    let bench = Bench::new()?;
    println!(
        "{:24} {:>9} {:>9} {:>9} {:>7} {:>7}",
        "directory", "tar|ssh", "plain", "packed", "plain", "packed"
    );
    println!("{:24} {:>9} {:>9} {:>9} {:>7} {:>7}", "", "s", "s", "s", "/tar", "/tar");
    for (name, kind) in [
        ("text", Kind::Mixed(0)),
        ("half noise", Kind::Mixed(50)),
        ("noise", Kind::Mixed(100)),
        ("written zeros", Kind::Zeros),
        ("pieces in 10 GiB of hole", Kind::Pieces),
    ] {
        bench.compare(name, kind)?;
    }
    bench.ours(true, End::Destination)?;
    for (end, file) in [(End::Source, "locks1.peak"), (End::Destination, "locks2.peak")] {
        println!("most memory of the end that is to {}: {}", end.word(), fs::read_to_string(bench.at(file))?);
    }
    packing();
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    /// Blocks of text and of noise, so many of a hundred.
    Mixed(u64),
    Zeros,
    Pieces,
}

/// Noise that no codec makes smaller; the same in every run.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
}

/// A MiB of which so many of a hundred blocks are noise.
fn block(seed: u64, noisy: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for at in 0..256 {
        let seed = seed * 256 + at;
        if (seed * 61) % 100 < noisy {
            bytes.extend(noise(seed).take(4096));
        } else {
            let mut text = Vec::new();
            for line in 0..64 {
                let number = seed.wrapping_mul(2_654_435_761).wrapping_add(line * 7919) % 100_000;
                text.extend(
                    format!(
                        "Nov 21 12:{:02}:07 node1 guest[{number}]: request {line} done in {} ms\n",
                        seed % 60,
                        number % 97
                    )
                    .bytes(),
                );
            }
            bytes.extend(text.into_iter().take(4096));
            bytes.resize((usize::try_from(at).unwrap_or(0) + 1) * 4096, b'.');
        }
    }
    bytes
}

struct Bench {
    dir: tempfile::TempDir,
    daemon: Child,
    mib: u64,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Bench {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let here = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            ran(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &here(key)]))?;
        }
        fs::copy(here("user.pub"), here("authorized"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n",
            here("host"),
            here("authorized")
        );
        fs::write(here("sshd_config"), server)?;
        let client = format!(
            "Host h1 h2\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n  LogLevel ERROR\n  BatchMode yes\n",
            here("user")
        );
        fs::write(here("ssh_config"), client)?;
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-f", &here("sshd_config")]).stderr(Stdio::null());
        let daemon = sshd.spawn()?;
        let limit = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > limit {
                return Err("sshd does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mib = std::env::var("CAUSEWAY_BENCH_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(256);
        Ok(Bench { dir, daemon, mib })
    }

    fn at(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Makes the directory anew.
    fn make(&self, kind: Kind) -> Result<()> {
        for gone in ["h1", "h2", "tar"] {
            let _ = fs::remove_dir_all(self.at(gone));
        }
        fs::create_dir_all(self.at("h1/100/7"))?;
        fs::create_dir_all(self.at("h2/100"))?;
        fs::create_dir_all(self.at("tar"))?;
        let file = File::create(self.at("h1/100/7/disk.0"))?;
        for index in 0..self.mib {
            match kind {
                Kind::Mixed(noisy) => file.write_all_at(&block(index, noisy), index * MIB)?,
                Kind::Zeros => file.write_all_at(&vec![0; 1 << 20], index * MIB)?,
                Kind::Pieces => {
                    for piece in 0..16_u64 {
                        let place = (index * 16 + piece).wrapping_mul(7919) % (10 * 1024 * 16);
                        let bytes: Vec<u8> = block(index, 50).into_iter().take(65536).collect();
                        file.write_all_at(&bytes, place * 65536)?;
                    }
                }
            }
        }
        if matches!(kind, Kind::Pieces) {
            file.set_len(10 << 30)?;
        }
        Ok(file.sync_all()?)
    }

    fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.at("ssh_config")).arg("h2");
        ssh
    }

    /// As the stock script does it; and then to the disk, as ours is.
    fn tar(&self) -> Result<f64> {
        let begun = Instant::now();
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(self.at("h1/100")).args(["--sparse", "-cf", "-", "7"]).stdout(Stdio::piped());
        let mut tar = tar.spawn()?;
        let out = tar.stdout.take().ok_or("no pipe")?;
        let there = self.at("tar");
        let command = format!("tar -C {0} -xf - && sync -f {0}", there.display());
        ran(self.ssh().arg(command).stdin(out))?;
        tar.wait()?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn ours(&self, packed: bool, runs_at: End) -> Result<f64> {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let here = |end| self.at(if end == End::Source { "locks1" } else { "locks2" });
        let locks = here(runs_at);
        let worker = Worker::new(&locks, deadline);
        let far = format!(
            "exec {} {} {}",
            std::env::current_exe()?.display(),
            runs_at.other().word(),
            here(runs_at.other()).display()
        );
        let reach = |_: &HostName, _: End| {
            let mut ssh = self.ssh();
            ssh.arg(&far);
            ssh
        };
        let spot = |host: &str, dir: &str| -> Result<Spot> {
            Ok(Spot { host: host.parse()?, dir: self.at(dir).display().to_string().parse()? })
        };
        let manner = Manner { packed, ..Manner::default() };
        let (from, to) = (spot("h1", "h1/100/7")?, spot("h2", "h2/100/7")?);
        let order = Carry { from, to, runs_at, manner, part: Part::Move, local: false };
        let courier = Courier { worker: &worker, reach: &reach, log: &|_, _| {}, pauses: &[] };
        let begun = Instant::now();
        carry(&order, &courier)?;
        let took = begun.elapsed().as_secs_f64();
        // Back, for the next one.
        fs::rename(self.at("h2/100/7"), self.at("h1/100/7"))?;
        Ok(took)
    }

    /// The best of three, in turns, so that a busy machine and what the one before left to be written meet all alike.
    fn compare(&self, name: &str, kind: Kind) -> Result<()> {
        self.make(kind)?;
        let mut best = [f64::MAX; 3];
        for turn in 0..9 {
            let who = (turn + turn / 3) % 3;
            let took = match who {
                0 => self.tar()?,
                1 => self.ours(false, End::Source)?,
                _ => self.ours(true, End::Source)?,
            };
            best.iter_mut().skip(who).take(1).for_each(|best| *best = best.min(took));
            let _ = fs::remove_dir_all(self.at("tar/7"));
        }
        let [tar, plain, packed] = best;
        println!("{name:24} {tar:9.2} {plain:9.2} {packed:9.2} {:7.2} {:7.2}", plain / tar, packed / tar);
        Ok(())
    }
}

fn ran(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// What packing a run costs and saves: nanoseconds a byte of what is packed.
fn packing() {
    println!("\n{:12} {:>9} {:>9} {:>9}", "noise, %", "packed, %", "pack", "unpack");
    for noisy in [0, 25, 50, 75, 88, 94, 100] {
        let blocks: Vec<Vec<u8>> = (0..32).map(|index| block(index, noisy)).collect();
        let total = blocks.iter().map(Vec::len).sum::<usize>();
        let mut packed = Vec::new();
        let (mut pack, mut unpack) = (f64::MAX, f64::MAX);
        for _ in 0..3 {
            let begun = Instant::now();
            packed = blocks.iter().map(|block| lz4_flex::block::compress(block)).collect();
            pack = pack.min(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            let mut out = vec![0; 1 << 20];
            for block in &packed {
                assert!(lz4_flex::block::decompress_into(block, &mut out).is_ok());
            }
            unpack = unpack.min(begun.elapsed().as_secs_f64());
        }
        let smaller = packed.iter().map(Vec::len).sum::<usize>();
        let each = |seconds: f64| seconds * 1e9 / total as f64;
        println!(
            "{noisy:12} {:9.1} {:9.2} {:9.2}",
            smaller as f64 * 100.0 / total as f64,
            each(pack),
            each(unpack)
        );
    }
}
