//! Two clusters at once: one VM with a disk in each, pools and volumes of the same names in both, driven by one process of
//! the transfer manager. Each disk's calls reach its own cluster, with its own user and key, and nothing in the other.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_suite::transfers::{Stage, TM, ok};
use causeway_suite::volumes::Cluster;

/// A second cluster, for as long as this value lives.
struct Second {
    lab: PathBuf,
    port: u16,
}

impl Second {
    fn start(first: &Cluster) -> (Second, Cluster) {
        let lab = first.conf.parent().unwrap();
        let name = format!("{}-second", lab.file_name().unwrap().to_str().unwrap());
        // The first one listens at this one and the next.
        let text = fs::read_to_string(&first.conf).unwrap();
        let port = text.split("v2:").nth(1).and_then(|rest| rest.split([':', ',']).nth(1)).unwrap();
        let second = Second { lab: lab.with_file_name(name), port: port.parse::<u16>().unwrap() + 4 };
        assert!(second.ceph_sh("start"), "{}", second.lab.display());
        // A user that the first one does not know, with another key.
        let conf = second.lab.join("ceph.conf");
        let caps = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
        let made = causeway_suite::transfers::tool(
            "ceph",
            &[&["--conf", conf.to_str().unwrap(), "auth", "get-or-create-key", "client.two"], &caps[..]]
                .concat(),
        );
        fs::write(second.lab.join("two.key"), made).unwrap();
        (second, Cluster { conf, user: "two".to_owned() })
    }

    fn ceph_sh(&self, verb: &str) -> bool {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/ceph.sh");
        let mut run = Command::new(script);
        run.arg(verb).env("CEPH_LAB", &self.lab).env("PORT", self.port.to_string());
        run.output().unwrap().status.success()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.ceph_sh("stop");
    }
}

#[test]
fn two_clusters_with_the_same_names_are_not_mixed_up() {
    let Some(one) = Cluster::given() else { return };
    let (_second, two) = Second::start(&one);
    let clusters = [one, two];
    let number = 6_000_000 + std::process::id() % 40_000;
    let image = format!("one/one-{number}");
    let stage = Stage::new();
    fs::create_dir_all(stage.datastores("100")).unwrap();
    for (cluster, byte) in clusters.iter().zip([b'A', b'B']) {
        cluster.volume(&image, 4, byte);
    }
    // In each cluster somebody else has the volume's name that the VM's disk has in the other one.
    for (cluster, other) in clusters.iter().zip([1, 0]) {
        cluster.volume(&format!("{image}-7-{other}"), 2, b'x');
    }
    let disk = |id: usize, cluster: &Cluster| {
        format!(
            "<DISK><DISK_ID>{id}</DISK_ID><TM_MAD>ceph</TM_MAD><TYPE>RBD</TYPE><DISK_TYPE>RBD</DISK_TYPE>\
             <FORMAT>raw</FORMAT><CLONE>YES</CLONE><SOURCE>{image}</SOURCE><SIZE>4</SIZE>\
             <ORIGINAL_SIZE>4</ORIGINAL_SIZE>{}</DISK>",
            cluster.attributes()
        )
    };
    let disks: String = clusters.iter().enumerate().map(|(id, cluster)| disk(id, cluster)).collect();
    let document = format!(
        "<VM><ID>7</ID><STATE>8</STATE><LCM_STATE>0</LCM_STATE><TEMPLATE>{disks}</TEMPLATE><HISTORY_RECORDS>\
         <HISTORY><SEQ>0</SEQ><HOSTNAME>node1</HOSTNAME><DS_ID>100</DS_ID></HISTORY></HISTORY_RECORDS></VM>"
    );
    stage.ear.tell("one.vm.info", 7, &document);
    for (id, access) in
        [(100, String::new()), (101, clusters[0].attributes()), (102, clusters[1].attributes())]
    {
        let datastore = format!("<DATASTORE><ID>{id}</ID><TEMPLATE>{access}</TEMPLATE></DATASTORE>");
        stage.ear.tell("one.datastore.info", id, &datastore);
    }
    stage.ear.tell("one.hostpool.info", u32::MAX, "<HOST_POOL></HOST_POOL>");
    // What is not built would be taken for somebody else's.
    fs::remove_dir_all(stage.front_end.var().join("remotes/tm/ceph")).unwrap();
    fs::create_dir_all(stage.front_end.var().join("remotes/tm/ceph")).unwrap();
    let mut oned = stage.driver(TM);
    let place = |id: usize| format!("node1:{}", stage.datastores(&format!("100/7/disk.{id}")));
    let mut both = |line: &dyn Fn(usize) -> String| {
        let script: String = (0..2).map(|id| line(id) + "\n").collect();
        assert_eq!(stage.transfer(&mut oned, 7, &script), ok(), "{script}");
    };
    let tree = |cluster: &Cluster| {
        let plain =
            |name: &str| name.strip_prefix(&format!("one-{number}")).map(|rest| format!("one-5{rest}"));
        cluster.tree(&plain)
    };
    let expected = |mine: usize, volumes: &[&str]| {
        let other = format!("    one-5-7-{}  2 MiB", 1 - mine);
        let volumes =
            volumes.iter().map(|line| format!("    {}", line.replace("DISK", &format!("one-5-7-{mine}"))));
        let mut all: Vec<String> = volumes.chain([other]).collect();
        all.sort();
        all
    };
    let check = |volumes: &[&str]| {
        for (mine, cluster) in clusters.iter().enumerate() {
            assert_eq!(tree(cluster), expected(mine, volumes), "{}", cluster.conf.display());
        }
    };

    both(&|id| format!("CLONE ceph fe:{image} {} 7 {}", place(id), 101 + id));
    let base = ["one-5  4 MiB", "one-5@snap, protected, below DISK"];
    check(&[&base[..], &["DISK  4 MiB upon one-5@snap"]].concat());
    both(&|id| format!("SNAP_CREATE ceph {} 0 7 {}", place(id), 101 + id));
    both(&|id| format!("RESIZE ceph {} {} 7 {}", place(id), 6, 101 + id));
    check(&[&base[..], &["DISK  6 MiB upon one-5@snap", "DISK@0, protected"]].concat());
    // The same name for both, and two images.
    both(&|id| format!("CPDS ceph {} {image}1 -1 7 {}", place(id), 101 + id));
    for (id, (cluster, byte)) in clusters.iter().zip(['A', 'B']).enumerate() {
        for volume in
            [image.clone(), format!("{image}1"), format!("{image}-7-{id}"), format!("{image}-7-{id}@0")]
        {
            assert_eq!(cluster.first(&volume), byte, "{volume} in {}", cluster.conf.display());
        }
        assert_eq!(cluster.first(&format!("{image}-7-{}", 1 - id)), 'x');
        cluster.rbd(&format!("rm --no-progress {image}1"));
    }
    both(&|id| format!("SNAP_REVERT ceph {} 0 7 {}", place(id), 101 + id));
    let reverted =
        ["DISK  4 MiB upon DISK-0@0", "DISK-0  6 MiB upon one-5@snap", "DISK-0@0, protected, below DISK"];
    check(&[&["one-5  4 MiB", "one-5@snap, protected, below DISK-0"][..], &reverted].concat());
    both(&|id| format!("DELETE ceph {} 7 {}", place(id), 101 + id));
    check(&["one-5  4 MiB", "one-5@snap, protected"]);
    // With the other one's key nobody is let in, and nothing is taken for absent.
    let [first, second] = &clusters;
    let key = |cluster: &Cluster| format!("<CEPH_KEY>{}<", cluster.key().display());
    let mixed = document.replace(&key(second), &key(first));
    stage.ear.tell("one.vm.info", 7, &mixed);
    let (status, reason) = stage.transfer(&mut oned, 7, &format!("DELETE ceph {} 7 102\n", place(1)));
    assert_eq!(status, "FAILURE", "{reason}");
    assert!(reason.contains("Permission denied"), "{reason}");
    oned.finalize().unwrap();
}
