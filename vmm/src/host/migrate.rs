//! `vmm/kvm/migrate`: sends a running guest to another host (contract VMM 3.4).
//!
//! Promise: success means that libvirt saw the guest run at the destination. After a failure nothing is destroyed here:
//! where the guest is, is asked of both hosts by whoever called (contract VMM 7, D2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::Envelope;
use causeway_core::names::{DeployId, HostName};
use causeway_core::reach::wire::{Done, Severity};
use causeway_domain::{AutoConverge, Drive, Hypervisor, JobPhase, JobStats, MigrateRequest};

use super::snapshots::{give_back_or_tell, put_aside};
use super::{Call, Settings, failure, sighting};
use causeway_core::outcome::Sighting;

/// How often the VM's log is told how far the migration is.
const TELL: Duration = Duration::from_secs(10);

/// How often libvirt is asked about the job, and how soon a cancel is passed on.
const WATCH: Duration = Duration::from_millis(100);

/// A block job that is about to end refuses a migration: it is tried again so much later, `VIRSH_TRIES` times in all.
const BLOCK_JOB_PAUSE: Duration = Duration::from_secs(5);

/// `migrate DEPLOY_ID DESTINATION SOURCE VMID SOURCE`, the envelope on standard input.
pub(super) fn migrate(call: &Call<'_>) -> Result<Done, Failure> {
    let id = call.deploy_id(0)?;
    let destination = call.host(1)?;
    let source = call.host(2)?;
    let envelope = Envelope::parse(call.stdin).map_err(|e| Failure::new(Kind::Input, e))?;
    let request = request(call.settings, &destination, &source, &envelope)?;
    match sighting(call.hypervisor, &id) {
        Sighting::Running | Sighting::Paused => {}
        Sighting::Absent => {
            // A repeat of a move that has been made, or a guest that ended: only the destination can tell.
            let text = format!("{id} is not on {source}");
            return Err(Failure::new(Kind::HostState, text));
        }
        Sighting::Migrating => {
            return Err(Failure::new(Kind::HostState, format!("{id} is being migrated already")));
        }
        Sighting::Unreachable(why) => return Err(Failure::new(Kind::Unreachable, why)),
        other => return Err(Failure::new(Kind::HostState, format!("{id} is {other:?} on {source}"))),
    }
    match call.machine.peer(&request.destination) {
        None => tried(call, &id, &request, BLOCK_JOB_PAUSE)?,
        Some(peer) => alone(call, &id, &request, peer, &envelope)?,
    }
    call.compact_memory(call.settings.kvmrc.cleanup_memory_on_stop);
    Ok(Done::quiet())
}

/// The whole move of a verb that no plan is around: what a plan has `depart`, `stay` and `arrive` for is done here.
fn alone(
    call: &Call<'_>,
    id: &DeployId,
    request: &MigrateRequest,
    peer: Result<Arc<dyn Hypervisor>, Failure>,
    envelope: &Envelope,
) -> Result<(), Failure> {
    let missing = || Failure::new(Kind::Input, "the request has no DISK_TARGET_PATH");
    let directory = envelope.disk_target_path.as_ref().ok_or_else(missing)?;
    let moved = put_aside(call, id, directory).and_then(|_| tried(call, id, request, BLOCK_JOB_PAUSE));
    // Given back wherever the guest is now.
    let place = match (&moved, &peer) {
        (Err(_), _) => call.hypervisor,
        (Ok(()), Ok(peer)) => peer.as_ref(),
        // libvirtd reaches the other one with a key that is root's.
        (Ok(()), Err(why)) => {
            (call.log)(Severity::Warning, &format!("snapshots and clock are left as they are: {why}"));
            return Ok(());
        }
    };
    if let Ok(Some(domain)) = place.lookup(id) {
        give_back_or_tell(call, place, &domain, directory);
        if moved.is_ok() && call.settings.effective(&envelope.vm.features).sync_time {
            // Once: whoever started this process waits for its end.
            let _ = place.sync_time(id);
        }
    }
    moved
}

/// Migrates, and again after `pause` while a block job stands in the way.
pub(super) fn tried(
    call: &Call<'_>,
    id: &DeployId,
    request: &MigrateRequest,
    pause: Duration,
) -> Result<(), Failure> {
    let mut left = call.settings.kvmrc.virsh_tries;
    loop {
        left = left.saturating_sub(1);
        match watched(call, id, request) {
            Err(failure) if failure.text.contains("active block job") && left > 0 => {
                (call.log)(Severity::Warning, &format!("{failure}; trying again"));
                call.pause(pause)?;
            }
            result => return result,
        }
    }
}

/// What libvirt is asked for: who drives, and what the VM's template and the admin tuned.
pub(super) fn request(
    settings: &Settings,
    destination: &HostName,
    source: &HostName,
    envelope: &Envelope,
) -> Result<MigrateRequest, Failure> {
    let not_built = |what: &str| Err(Failure::new(Kind::NotBuilt, format!("{what} is not built yet")));
    if destination == source {
        return not_built("a live change of datastore on one host");
    }
    if envelope.datastore.as_ref().is_none_or(|d| !d.shared) {
        return not_built("live migration from a system datastore that is not SHARED=YES");
    }
    let protocol = match settings.drive {
        Drive::PeerToPeer => "qemu+tls",
        Drive::Client => settings.kvmrc.qemu_protocol.as_str(),
    };
    let uri = uri(protocol, destination);
    let deadline = settings.causeway.deadlines.migrate.duration();
    let mut request = MigrateRequest::new(settings.drive, uri, deadline);
    request.tls = settings.drive == Drive::PeerToPeer;
    let effective = settings.effective(&envelope.vm.features);
    apply_options(&mut request, &effective.migrate_options)?;
    let converge = effective.auto_converge;
    request.auto_converge =
        converge.map(|tuning| AutoConverge { initial: Some(tuning.initial), increment: tuning.increment });
    if effective.compressed {
        request.xbzrle_cache = Some(0);
    }
    request.check().map_err(|why| Failure::new(Kind::Input, format!("migration options: {why}")))?;
    Ok(request)
}

/// The destination's libvirt. There is nobody whom ssh could ask for a password: it must fail, not wait.
fn uri(protocol: &str, host: &HostName) -> String {
    let host = if host.as_str().contains(':') { format!("[{host}]") } else { host.to_string() };
    let no_tty = if protocol.ends_with("+ssh") { "?no_tty=1" } else { "" };
    format!("{protocol}://{host}/system{no_tty}")
}

/// `MIGRATE_OPTIONS` of `kvmrc`: the options of `virsh migrate` that an admin may set for all migrations.
fn apply_options(request: &mut MigrateRequest, options: &[String]) -> Result<(), Failure> {
    let mut words = options.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let (name, inline) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        let mut number = || -> Result<u32, Failure> {
            let value = inline.or_else(|| words.next()).unwrap_or_default();
            value.parse().map_err(|_| {
                Failure::new(
                    Kind::Input,
                    format!("MIGRATE_OPTIONS: {name} needs a whole number, not {value:?}"),
                )
            })
        };
        match name {
            "--live" if inline.is_none() => {}
            "--bandwidth" => request.bandwidth_mib = Some(number()?),
            "--unsafe" if inline.is_none() => request.allow_unsafe = true,
            "--parallel" if inline.is_none() => request.parallel = request.parallel.or(Some(0)),
            "--parallel-connections" => {
                let count = number()?;
                let count = u8::try_from(count).map_err(|_| {
                    Failure::new(Kind::Input, format!("MIGRATE_OPTIONS: {name} {count} is above 255"))
                })?;
                request.parallel = Some(count);
            }
            _ => {
                let accepted = "--live, --bandwidth, --auto-converge, --compressed, --unsafe, --parallel, \
                                --parallel-connections";
                let text = format!("MIGRATE_OPTIONS: {word:?} is not one of {accepted}");
                return Err(Failure::new(Kind::Input, text));
            }
        }
    }
    Ok(())
}

/// Migrates while a second thread watches the job: it tells the log how far it is, and passes a cancel on.
fn watched(call: &Call<'_>, id: &DeployId, request: &MigrateRequest) -> Result<(), Failure> {
    let over = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(call, id, &over));
        let result = call.hypervisor.migrate(id, request);
        over.store(true, Ordering::Relaxed);
        // A watcher that panicked has nothing more to say.
        let _ = watcher.join();
        result
    });
    // After a failure the guest is here, and so are the figures of a job that did not come to its end.
    if result.is_ok()
        && let Ok(stats) = call.hypervisor.completed_job(id)
    {
        (call.log)(Severity::Info, &summary(&stats));
    }
    match result {
        Ok(()) => Ok(()),
        // Where libvirt's word is missing the job may go on.
        Err(e) if call.is_cancelled() && !e.is_unknown() => {
            Err(Failure::new(Kind::Cancelled, "cancelled; the job was aborted"))
        }
        Err(e) => Err(failure(&e)),
    }
}

fn watch(call: &Call<'_>, id: &DeployId, over: &AtomicBool) {
    let mut told = Instant::now();
    let mut aborted = false;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(WATCH);
        if call.cancelled.load(Ordering::Relaxed) && !aborted {
            // Refused while the job is only beginning: asked for again at the next look.
            aborted = call.hypervisor.abort_job(id).is_ok();
        }
        if told.elapsed() < TELL {
            continue;
        }
        told = Instant::now();
        if let Ok(stats) = call.hypervisor.job(id)
            && stats.phase != JobPhase::None
        {
            (call.log)(Severity::Info, &progress(&stats));
        }
    }
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |b| (b >> 20).to_string())
}

fn progress(stats: &JobStats) -> String {
    format!(
        "migrating: {} MiB left of {} MiB, {} MiB/s, iteration {}",
        mib(stats.memory_remaining),
        mib(stats.memory_total),
        mib(stats.memory_bps),
        stats.memory_iteration.map_or_else(|| "?".to_owned(), |n| n.to_string()),
    )
}

fn summary(stats: &JobStats) -> String {
    let ms = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |v| v.to_string());
    format!(
        "migrated: {} ms in all, {} ms switch-over time, {} MiB sent",
        ms(stats.time_elapsed_ms),
        ms(stats.downtime_ms),
        mib(stats.memory_processed),
    )
}
