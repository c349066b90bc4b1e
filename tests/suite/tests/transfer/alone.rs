//! A slot by itself, as the stock processes and people start it.

use std::path::Path;

use causeway_suite::transfers::{Stage, tool};

#[test]
fn a_slot_by_itself_does_the_same_for_the_stock_processes() {
    let stage = Stage::new();
    stage.vm7("qcow2", 1);
    let (image, disk) = (stage.image("abc", "qcow2"), stage.datastores("100/7/disk.0"));
    let (source, target) = (format!("vm:{image}"), format!("node1:{disk}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let clone = ["tm/qcow2/clone", &source, &target, "7", "1"];

    let dry = stage.slot(&[&["--dry-run"], &clone[..]].concat());
    let plan = text(&dry.stdout);
    assert!(dry.status.success() && plan.starts_with("tm/qcow2/clone 7\n  clone:disk.0 @ node1: "), "{plan}");
    assert!(!Path::new(&disk).exists());

    let run = stage.slot(&clone);
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert!(run.stdout.is_empty() && text(&run.stderr).starts_with("INFO: 7 clone:disk.0: done on node1"));
    tool("qemu-io", &["-f", "qcow2", "-c", "read -q -P 0xa5 1M 1M", &disk]);

    // The codes are those of the table in the answers' documentation; the reason comes unmarked, in one line.
    let code = |words: &[&str]| {
        let run = stage.slot(words);
        let said = text(&run.stderr);
        let plain =
            said.lines().filter(|line| !line.starts_with("ERROR: ") && !line.starts_with("INFO: ")).count();
        assert_eq!(plain, 1, "{said}");
        run.status.code().unwrap()
    };
    assert_eq!(code(&["tm/qcow2/clone", &source, &target, "7"]), 2);
    assert_eq!(code(&["tm/qcow2/clone", &source, &target, "8", "1"]), 2);
    assert_eq!(code(&["tm/lvm/restore", &target, "7", "1", "-1", "0"]), 8);
    assert_eq!(code(&["tm/qcow2/clone", &source, "nodown:/d/100/7/disk.0", "7", "1"]), 6);
    assert_eq!(code(&["tm/qcow2/clone", &format!("vm:{image}x"), &target, "7", "1"]), 3);

    let delete =
        stage.slot(&["tm/qcow2/delete", &format!("node1:{}", stage.datastores("100/7")), "7", "100"]);
    assert!(delete.status.success() && !Path::new(&stage.datastores("100/7")).exists());
    assert!(Path::new(&image).exists());
}

#[test]
fn a_slot_by_itself_goes_over_a_connection_that_is_open_already() {
    let mut stage = Stage::new();
    stage.vm7("qcow2", 1);
    let (image, disk) = (stage.image("abc", "qcow2"), stage.datastores("100/7/disk.0"));
    stage.front_end.open_master("node1").unwrap();
    // From now on there is no other way to a host.
    stage.front_end.close_ssh();
    let clone = |host: &str| {
        let (source, target) = (format!("vm:{image}"), format!("{host}:{disk}"));
        stage.slot(&["tm/qcow2/clone", &source, &target, "7", "1"])
    };
    let run = clone("node1");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    tool("qemu-io", &["-f", "qcow2", "-c", "read -q -P 0xa5 1M 1M", &disk]);
    assert_eq!(clone("node2").status.code(), Some(6));
}
