//! What is measured: one line of a transfer script each, and what a person would type for the same.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::vm::{IMAGES, SIZE, SYSTEM, VOLUMES, Vm};

/// One action.
pub struct Action {
    /// In tables.
    pub name: &'static str,
    /// The line of a transfer script.
    pub line: fn(&Vm<'_>) -> String,
    /// The commands that do the same by hand, if any are needed: what no driver can save.
    pub by_hand: fn(&Vm<'_>) -> Vec<Vec<String>>,
    /// Whether oned sends it in a transfer script; else the virtual machine manager calls its slot.
    pub scripted: bool,
    /// Whether it needs the cluster.
    pub ceph: bool,
}

impl Action {
    /// The slot and its arguments.
    pub fn slot(&self, vm: &Vm<'_>) -> (String, Vec<String>) {
        let line = (self.line)(vm);
        let mut words = line.split(' ').map(str::to_owned);
        let (verb, driver) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        (format!("tm/{driver}/{}", verb.to_lowercase()), words.collect())
    }

    /// Its standard input (contract TM 1.4).
    pub fn stdin(&self, vm: &Vm<'_>) -> Vec<u8> {
        if self.scripted {
            Vec::new()
        } else {
            BASE64_STANDARD.encode(Vm { cluster: None, ..*vm }.document()).into_bytes()
        }
    }
}

/// In the order of a VM's life.
pub const ACTIONS: [Action; 12] = [
    Action {
        name: "clone, qcow2",
        line: |vm| format!("CLONE qcow2 fe:{} node1:{} {} {IMAGES}", vm.image("layered"), vm.disk(0), vm.id),
        by_hand: |vm| vec![layer(&vm.image("layered"))],
        scripted: true,
        ceph: false,
    },
    Action {
        name: "clone, raw of 64 MiB, 16 of data",
        line: |vm| format!("CLONE qcow2 fe:{} node1:{} {} {IMAGES}", vm.image("plain"), vm.disk(1), vm.id),
        by_hand: |vm| {
            vec![
                words(&["cp", "--reflink=never", &vm.image("plain"), "by-hand"]),
                words(&["sync", "by-hand"]),
            ]
        },
        scripted: true,
        ceph: false,
    },
    Action {
        name: "ln",
        line: |vm| format!("LN qcow2 fe:{} node1:{} {} {IMAGES}", vm.image("kept"), vm.disk(2), vm.id),
        by_hand: |_| Vec::new(),
        scripted: true,
        ceph: false,
    },
    Action {
        name: "mkimage, qcow2",
        line: |vm| format!("MKIMAGE qcow2 {SIZE} qcow2 node1:{} {} {SYSTEM}", vm.disk(3), vm.id),
        by_hand: |_| vec![words(&["qemu-img", "create", "-q", "-f", "qcow2", "by-hand", "64M"])],
        scripted: true,
        ceph: false,
    },
    Action {
        name: "context",
        line: |vm| {
            let script = vm.site.var().join(format!("vms/{}/context.sh", vm.id));
            format!("CONTEXT qcow2 {} node1:{} {} {SYSTEM}", script.display(), vm.disk(4), vm.id)
        },
        by_hand: |_| Vec::new(),
        scripted: true,
        ceph: false,
    },
    Action {
        name: "snap_create, qcow2",
        line: |vm| format!("SNAP_CREATE qcow2 node1:{} 0 {} {IMAGES}", vm.disk(0), vm.id),
        by_hand: |vm| vec![layer(&vm.image("layered"))],
        scripted: true,
        ceph: false,
    },
    Action {
        name: "premigrate",
        line: |vm| format!("PREMIGRATE qcow2 node1 node2 {} {} {SYSTEM}", vm.home(), vm.id),
        by_hand: |_| Vec::new(),
        scripted: false,
        ceph: false,
    },
    Action {
        name: "clone, Ceph",
        line: |vm| format!("CLONE ceph fe:{} node1:{} {} {VOLUMES}", source(vm), vm.disk(5), vm.id),
        by_hand: |vm| {
            rbd(vm, &[&["clone", &format!("{}@snap", source(vm)), &format!("{}-by-hand", source(vm))]])
        },
        scripted: true,
        ceph: true,
    },
    Action {
        name: "snap_create, Ceph",
        line: |vm| format!("SNAP_CREATE ceph node1:{} 0 {} {VOLUMES}", vm.disk(5), vm.id),
        by_hand: |vm| {
            let snapshot = format!("{}-by-hand@0", source(vm));
            rbd(vm, &[&["snap", "create", "--no-progress", &snapshot], &["snap", "protect", &snapshot]])
        },
        scripted: true,
        ceph: true,
    },
    Action {
        name: "delete of a disk, Ceph",
        line: |vm| format!("DELETE ceph node1:{} {} {VOLUMES}", vm.disk(5), vm.id),
        by_hand: |vm| {
            let volume = format!("{}-by-hand", source(vm));
            let snapshot = format!("{volume}@0");
            rbd(
                vm,
                &[
                    &["snap", "unprotect", &snapshot],
                    &["snap", "rm", "--no-progress", &snapshot],
                    &["rm", "--no-progress", &volume],
                ],
            )
        },
        scripted: true,
        ceph: true,
    },
    Action {
        name: "delete of a disk",
        line: |vm| format!("DELETE qcow2 node1:{} {} {IMAGES}", vm.disk(0), vm.id),
        by_hand: |_| Vec::new(),
        scripted: true,
        ceph: false,
    },
    Action {
        name: "delete of the directory",
        line: |vm| format!("DELETE qcow2 node1:{} {} {SYSTEM}", vm.home(), vm.id),
        by_hand: |_| Vec::new(),
        scripted: true,
        ceph: false,
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn layer(image: &str) -> Vec<String> {
    words(&["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, "by-hand"])
}

fn source(vm: &Vm<'_>) -> String {
    vm.cluster.map_or_else(String::new, super::Cluster::source)
}

/// Calls of `rbd` on the cluster, with the VM's number in the names that are made by hand.
fn rbd(vm: &Vm<'_>, calls: &[&[&str]]) -> Vec<Vec<String>> {
    let Some(cluster) = vm.cluster else { return Vec::new() };
    let call = |call: &&[&str]| {
        let mut command = vec!["rbd".to_owned()];
        command.extend(cluster.access());
        command.extend(call.iter().map(|word| word.replace("by-hand", &format!("by-hand-{}", vm.id))));
        command
    };
    calls.iter().map(call).collect()
}
