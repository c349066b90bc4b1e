//! Whether oned still waits for a script's end: what the script's name says, against the state of its VM.

use causeway_core::document::VmDocument;
use causeway_core::plan::Recall;

/// `SEQ` of the history record that a script belongs to: `transfer.<SEQ>.<what for>` (contract TM 1.3).
pub fn sequence(path: &str) -> Option<u32> {
    parts(path)?.0.parse().ok()
}

fn parts(path: &str) -> Option<(&str, &str)> {
    path.rsplit('/').next()?.strip_prefix("transfer.")?.split_once('.')
}

/// Whether the VM is in a state that ends with the script's answer, on the same history record.
pub fn waits(vm: &VmDocument, recall: &Recall) -> bool {
    let same = recall.sequence.is_some() && vm.history.seq == recall.sequence;
    let (Some(state), Some((_, purpose))) = (vm.lcm_state, parts(&recall.request)) else { return false };
    same && states(purpose).contains(&state)
}

/// The LCM states in which oned waits for a script of that name (contract TM 1.3, 4).
fn states(purpose: &str) -> &'static [u32] {
    match purpose {
        // PROLOG
        "prolog" => &[1],
        // PROLOG_MIGRATE, and the same of a VM that is powered off, suspended, unknown
        "migrate" => &[8, 43, 45, 60],
        // PROLOG_RESUME, PROLOG_UNDEPLOY
        "resume" => &[9, 31],
        // HOTPLUG_PROLOG_POWEROFF
        "prolog_attach" => &[33],
        // EPILOG
        "epilog" => &[11],
        // EPILOG_STOP, EPILOG_UNDEPLOY
        "stop" => &[10, 30],
        // CLEANUP_RESUBMIT, CLEANUP_DELETE
        "delete" | "delete_prev" | "delete_both" => &[15, 23],
        // HOTPLUG_EPILOG_POWEROFF
        "epilog_detach" => &[34],
        // HOTPLUG_SAVEAS, and the same of a VM that is powered off, suspended, undeployed, stopped
        "disk_saveas" => &[26, 27, 28, 67, 68],
        // DISK_SNAPSHOT*: created, reverted to, deleted; powered off, suspended, running
        "disk_snapshot" => &[51, 52, 53, 54, 55, 56, 57, 59],
        // DISK_RESIZE, and the same of a VM that is powered off, undeployed
        "disk_resize" => &[62, 63, 64],
        // RESTORE
        "restore" => &[71],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(state: u32, sequence: u32) -> VmDocument {
        let xml = format!(
            "<VM><ID>7</ID><STATE>3</STATE><LCM_STATE>{state}</LCM_STATE><TEMPLATE/><HISTORY_RECORDS><HISTORY>\
             <SEQ>{sequence}</SEQ><DS_ID>102</DS_ID></HISTORY></HISTORY_RECORDS></VM>"
        );
        VmDocument::parse(xml.as_bytes()).unwrap()
    }

    fn recall(path: &str) -> Recall {
        Recall { request: path.to_owned(), datastore: None, sequence: sequence(path) }
    }

    #[test]
    fn only_the_state_and_the_record_of_the_script_wait() {
        let prolog = recall("/var/lib/one/vms/7/transfer.3.prolog");
        assert_eq!(prolog.sequence, Some(3));
        assert!(waits(&vm(1, 3), &prolog));
        assert!(!waits(&vm(2, 3), &prolog), "it boots already");
        assert!(!waits(&vm(39, 3), &prolog), "it has failed for its admin");
        assert!(!waits(&vm(1, 4), &prolog), "another record has begun");
        assert!(waits(&vm(45, 0), &recall("/x/transfer.0.migrate")));
        assert!(!waits(&vm(1, 0), &recall("/x/transfer.0.unheard_of")));
        assert!(!waits(&vm(1, 0), &recall("/x/prolog")));
    }

    #[test]
    fn every_name_that_oned_gives_has_a_state_of_its_own() {
        let names = "prolog migrate resume prolog_attach epilog stop delete delete_prev delete_both epilog_detach \
            disk_saveas disk_snapshot disk_resize restore";
        let mut all: Vec<u32> = Vec::new();
        for name in names.split_whitespace().filter(|name| !name.starts_with("delete_")) {
            assert!(!states(name).is_empty(), "{name}");
            all.extend(states(name));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a state that two scripts end");
    }
}
