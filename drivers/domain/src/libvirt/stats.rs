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
    Some(match name {
        "time_elapsed" => &mut stats.time_elapsed_ms,
        "time_elapsed_net" => &mut stats.time_elapsed_net_ms,
        "time_remaining" => &mut stats.time_remaining_ms,
        "downtime" => &mut stats.downtime_ms,
        "downtime_net" => &mut stats.downtime_net_ms,
        "setup_time" => &mut stats.setup_time_ms,
        "data_total" => &mut stats.data_total,
        "data_processed" => &mut stats.data_processed,
        "data_remaining" => &mut stats.data_remaining,
        "memory_total" => &mut stats.memory_total,
        "memory_processed" => &mut stats.memory_processed,
        "memory_remaining" => &mut stats.memory_remaining,
        "memory_constant" => &mut stats.memory_constant,
        "memory_normal" => &mut stats.memory_normal,
        "memory_normal_bytes" => &mut stats.memory_normal_bytes,
        "memory_bps" => &mut stats.memory_bps,
        "memory_dirty_rate" => &mut stats.memory_dirty_rate,
        "memory_page_size" => &mut stats.memory_page_size,
        "memory_iteration" => &mut stats.memory_iteration,
        "memory_postcopy_requests" => &mut stats.memory_postcopy_requests,
        "disk_total" => &mut stats.disk_total,
        "disk_processed" => &mut stats.disk_processed,
        "disk_remaining" => &mut stats.disk_remaining,
        "disk_bps" => &mut stats.disk_bps,
        "compression_cache" => &mut stats.compression_cache,
        "compression_bytes" => &mut stats.compression_bytes,
        "compression_pages" => &mut stats.compression_pages,
        "compression_cache_misses" => &mut stats.compression_cache_misses,
        "compression_overflow" => &mut stats.compression_overflow,
        "vfio_data_transferred" => &mut stats.vfio_data_transferred,
        _ => return None,
    })
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
    fn every_number_of_the_header_has_its_field() {
        let names = [
            sys::VIR_DOMAIN_JOB_TIME_ELAPSED,
            sys::VIR_DOMAIN_JOB_TIME_ELAPSED_NET,
            sys::VIR_DOMAIN_JOB_TIME_REMAINING,
            sys::VIR_DOMAIN_JOB_DOWNTIME,
            sys::VIR_DOMAIN_JOB_DOWNTIME_NET,
            sys::VIR_DOMAIN_JOB_SETUP_TIME,
            sys::VIR_DOMAIN_JOB_DATA_TOTAL,
            sys::VIR_DOMAIN_JOB_DATA_PROCESSED,
            sys::VIR_DOMAIN_JOB_DATA_REMAINING,
            sys::VIR_DOMAIN_JOB_MEMORY_TOTAL,
            sys::VIR_DOMAIN_JOB_MEMORY_PROCESSED,
            sys::VIR_DOMAIN_JOB_MEMORY_REMAINING,
            sys::VIR_DOMAIN_JOB_MEMORY_CONSTANT,
            sys::VIR_DOMAIN_JOB_MEMORY_NORMAL,
            sys::VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES,
            sys::VIR_DOMAIN_JOB_MEMORY_BPS,
            sys::VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE,
            sys::VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE,
            sys::VIR_DOMAIN_JOB_MEMORY_ITERATION,
            sys::VIR_DOMAIN_JOB_MEMORY_POSTCOPY_REQS,
            sys::VIR_DOMAIN_JOB_DISK_TOTAL,
            sys::VIR_DOMAIN_JOB_DISK_PROCESSED,
            sys::VIR_DOMAIN_JOB_DISK_REMAINING,
            sys::VIR_DOMAIN_JOB_DISK_BPS,
            sys::VIR_DOMAIN_JOB_COMPRESSION_CACHE,
            sys::VIR_DOMAIN_JOB_COMPRESSION_BYTES,
            sys::VIR_DOMAIN_JOB_COMPRESSION_PAGES,
            sys::VIR_DOMAIN_JOB_COMPRESSION_CACHE_MISSES,
            sys::VIR_DOMAIN_JOB_COMPRESSION_OVERFLOW,
            sys::VIR_DOMAIN_JOB_VFIO_DATA_TRANSFERRED,
        ];
        let mut stats = JobStats::default();
        for (value, name) in (0..).zip(names) {
            let slot = number_slot(&mut stats, name.to_str().unwrap());
            let slot = slot.unwrap_or_else(|| panic!("{name:?}"));
            assert_eq!(slot.replace(value), None, "{name:?} shares a field");
        }
    }

    #[test]
    fn no_job_is_no_figures() {
        assert_eq!(job_stats(0, vec![]), JobStats::default());
        assert!(!job_stats(0, vec![]).is_running());
        assert!(job_stats(2, vec![]).is_running());
    }
}
