//! Typed parameters to [`JobStats`].

use std::ffi::{CStr, c_int};

use virt::sys;

use crate::ffi::Value;
use crate::job::{JobOperation, JobPhase, JobStats};

/// What libvirt's job type and parameters say.
pub(super) fn job_stats(kind: c_int, params: Vec<(String, Value)>) -> JobStats {
    let mut stats = JobStats { phase: phase(kind), ..JobStats::default() };
    for (name, value) in params {
        match value {
            Value::Unsigned(number) => {
                if let Some(slot) = number_slot(&mut stats, &name) {
                    *slot = Some(number);
                }
            }
            Value::Int(number) if is(&name, sys::VIR_DOMAIN_JOB_OPERATION) => {
                stats.operation = operation(number);
            }
            Value::Int(number) if is(&name, sys::VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE) => {
                stats.auto_converge_throttle = Some(number);
            }
            Value::Bool(good) if is(&name, sys::VIR_DOMAIN_JOB_SUCCESS) => {
                stats.success = Some(good);
            }
            Value::Text(text) if is(&name, sys::VIR_DOMAIN_JOB_ERRMSG) => {
                stats.errmsg = Some(text);
            }
            // A figure of a newer libvirt.
            _ => {}
        }
    }
    stats
}

fn is(name: &str, known: &CStr) -> bool {
    name.as_bytes() == known.to_bytes()
}

fn number_slot<'s>(stats: &'s mut JobStats, name: &str) -> Option<&'s mut Option<u64>> {
    let slots = [
        (sys::VIR_DOMAIN_JOB_TIME_ELAPSED, &mut stats.time_elapsed_ms),
        (sys::VIR_DOMAIN_JOB_TIME_ELAPSED_NET, &mut stats.time_elapsed_net_ms),
        (sys::VIR_DOMAIN_JOB_TIME_REMAINING, &mut stats.time_remaining_ms),
        (sys::VIR_DOMAIN_JOB_DOWNTIME, &mut stats.downtime_ms),
        (sys::VIR_DOMAIN_JOB_DOWNTIME_NET, &mut stats.downtime_net_ms),
        (sys::VIR_DOMAIN_JOB_SETUP_TIME, &mut stats.setup_time_ms),
        (sys::VIR_DOMAIN_JOB_DATA_TOTAL, &mut stats.data_total),
        (sys::VIR_DOMAIN_JOB_DATA_PROCESSED, &mut stats.data_processed),
        (sys::VIR_DOMAIN_JOB_DATA_REMAINING, &mut stats.data_remaining),
        (sys::VIR_DOMAIN_JOB_MEMORY_TOTAL, &mut stats.memory_total),
        (sys::VIR_DOMAIN_JOB_MEMORY_PROCESSED, &mut stats.memory_processed),
        (sys::VIR_DOMAIN_JOB_MEMORY_REMAINING, &mut stats.memory_remaining),
        (sys::VIR_DOMAIN_JOB_MEMORY_CONSTANT, &mut stats.memory_constant),
        (sys::VIR_DOMAIN_JOB_MEMORY_NORMAL, &mut stats.memory_normal),
        (sys::VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES, &mut stats.memory_normal_bytes),
        (sys::VIR_DOMAIN_JOB_MEMORY_BPS, &mut stats.memory_bps),
        (sys::VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE, &mut stats.memory_dirty_rate),
        (sys::VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, &mut stats.memory_page_size),
        (sys::VIR_DOMAIN_JOB_MEMORY_ITERATION, &mut stats.memory_iteration),
        (sys::VIR_DOMAIN_JOB_MEMORY_POSTCOPY_REQS, &mut stats.memory_postcopy_requests),
        (sys::VIR_DOMAIN_JOB_DISK_TOTAL, &mut stats.disk_total),
        (sys::VIR_DOMAIN_JOB_DISK_PROCESSED, &mut stats.disk_processed),
        (sys::VIR_DOMAIN_JOB_DISK_REMAINING, &mut stats.disk_remaining),
        (sys::VIR_DOMAIN_JOB_DISK_BPS, &mut stats.disk_bps),
        (sys::VIR_DOMAIN_JOB_COMPRESSION_CACHE, &mut stats.compression_cache),
        (sys::VIR_DOMAIN_JOB_COMPRESSION_BYTES, &mut stats.compression_bytes),
        (sys::VIR_DOMAIN_JOB_COMPRESSION_PAGES, &mut stats.compression_pages),
        (sys::VIR_DOMAIN_JOB_COMPRESSION_CACHE_MISSES, &mut stats.compression_cache_misses),
        (sys::VIR_DOMAIN_JOB_COMPRESSION_OVERFLOW, &mut stats.compression_overflow),
        (sys::VIR_DOMAIN_JOB_VFIO_DATA_TRANSFERRED, &mut stats.vfio_data_transferred),
    ];
    let found = slots.into_iter().find(|(known, _)| is(name, known));
    found.map(|(_, slot)| slot)
}

fn phase(kind: c_int) -> JobPhase {
    match u32::try_from(kind) {
        Ok(sys::VIR_DOMAIN_JOB_BOUNDED) => JobPhase::Bounded,
        Ok(sys::VIR_DOMAIN_JOB_UNBOUNDED) => JobPhase::Unbounded,
        Ok(sys::VIR_DOMAIN_JOB_COMPLETED) => JobPhase::Completed,
        Ok(sys::VIR_DOMAIN_JOB_FAILED) => JobPhase::Failed,
        Ok(sys::VIR_DOMAIN_JOB_CANCELLED) => JobPhase::Cancelled,
        _ => JobPhase::None,
    }
}

fn operation(number: i32) -> JobOperation {
    match u32::try_from(number) {
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_START) => JobOperation::Start,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_SAVE) => JobOperation::Save,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_RESTORE) => JobOperation::Restore,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN) => JobOperation::MigrationIn,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT) => JobOperation::MigrationOut,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT) => JobOperation::Snapshot,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT) => JobOperation::SnapshotRevert,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_DUMP) => JobOperation::Dump,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_BACKUP) => JobOperation::Backup,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE) => JobOperation::SnapshotDelete,
        _ => JobOperation::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_find_their_fields() {
        let params = vec![
            ("downtime".to_owned(), Value::Unsigned(53)),
            ("memory_dirty_rate".to_owned(), Value::Unsigned(2000)),
            ("auto_converge_throttle".to_owned(), Value::Int(20)),
            ("operation".to_owned(), Value::Int(5)),
            ("success".to_owned(), Value::Bool(true)),
            ("of_the_future".to_owned(), Value::Unsigned(1)),
        ];
        let stats = job_stats(3, params);
        let expected = JobStats {
            phase: JobPhase::Completed,
            operation: JobOperation::MigrationOut,
            downtime_ms: Some(53),
            memory_dirty_rate: Some(2000),
            auto_converge_throttle: Some(20),
            success: Some(true),
            ..JobStats::default()
        };
        assert_eq!(stats, expected);
    }

    #[test]
    fn no_job_is_no_figures() {
        assert_eq!(job_stats(0, vec![]), JobStats::default());
        assert!(!job_stats(0, vec![]).is_running());
        assert!(job_stats(2, vec![]).is_running());
    }
}
