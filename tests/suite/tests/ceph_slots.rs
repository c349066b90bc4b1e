//! The slots of a Ceph datastore, built and run as the stock datastore process runs them, on a real cluster: our wrapper in
//! the slot, a document on standard input, ssh to a host of `BRIDGE_LIST`, and there the tool `rbd`.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

#[path = "datastore/stage.rs"]
mod stage;
use stage::{Stage, tool};

struct Cluster {
    conf: PathBuf,
    /// The first of the numbers that this run gives to images.
    first: u32,
}

impl Cluster {
    fn rbd(&self, words: &str) -> String {
        let mut rbd = Command::new("rbd");
        rbd.arg("--conf")
            .arg(&self.conf)
            .args(["--id", "one", "--keyfile"])
            .arg(self.conf.with_file_name("one.key"));
        let run = rbd.args(words.split(' ')).output().unwrap();
        assert!(run.status.success(), "rbd {words}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    }

    /// What the datastore says of it.
    fn template(&self) -> String {
        let (conf, key) = (self.conf.display(), self.conf.with_file_name("one.key"));
        format!(
            "<BRIDGE_LIST>node1 node2</BRIDGE_LIST><POOL_NAME>one</POOL_NAME><CEPH_USER>one</CEPH_USER>\
             <CEPH_KEY>{}</CEPH_KEY><CEPH_CONF>{conf}</CEPH_CONF>",
            key.display()
        )
    }
}

#[test]
fn an_image_lives_and_goes_in_a_cluster() {
    let Some(conf) = std::env::var_os("CAUSEWAY_TEST_CEPH").map(PathBuf::from) else {
        println!("skipped: CAUSEWAY_TEST_CEPH names no cluster; `tests/run ceph` starts one");
        return;
    };
    let cluster = Cluster { conf, first: 4_000_000 + std::process::id() % 40_000 * 10 };
    let stage = Stage::new();
    let template = cluster.template();
    let id = |n: u32| (cluster.first + n).to_string();
    let run = |verb: &str, n: u32, image: &str| {
        let document = stage.document(cluster.first + n, image, &template);
        stage.done(&format!("datastore/ceph/{verb}"), &id(n), &document)
    };
    let up = "<HOST_POOL><HOST><ID>1</ID><NAME>node1</NAME><STATE>2</STATE></HOST>\
              <HOST><ID>2</ID><NAME>node2</NAME><STATE>4</STATE></HOST></HOST_POOL>";
    stage.ear.tell("one.hostpool.info", u32::MAX, up);
    // A packed image with a promised sum, which is that of the file.
    let upload = stage.upload("os 1'\"$(x).raw");
    fs::write(&upload, [vec![0; 3 << 20], vec![0x5a; 1 << 20]].concat()).unwrap();
    let content = tool("md5sum", &[&upload]).trim_start_matches('\\')[..32].to_owned();
    tool("xz", &["-f", &upload]);
    let upload = format!("{upload}.xz");
    let sum = tool("md5sum", &[&upload]).trim_start_matches('\\')[..32].to_owned();
    let path = format!("<PATH>{upload}</PATH><TEMPLATE><MD5>{sum}</MD5></TEMPLATE>");
    let source = format!("one/one-{}", id(1));
    assert_eq!(run("cp", 1, &path), format!("{source} raw\n"));
    assert!(cluster.rbd(&format!("info --format json {source}")).contains("\"size\":4194304"));
    let image = format!("<SOURCE>{source}</SOURCE><PATH>{source}</PATH><FORMAT>raw</FORMAT><SIZE>4</SIZE>");
    let info = run("export", 1, &image);
    assert!(info.contains(&format!("<IMPORT_SOURCE>rbd://node1/{source}?CEPH_USER=one&amp;")), "{info}");
    assert!(info.contains(&format!("<MD5>{content}</MD5>")), "{info}");
    assert_eq!(run("clone", 2, &image), format!("one/one-{} raw\n", id(2)));
    assert_eq!(run("mkfs", 3, "<FORMAT>raw</FORMAT><SIZE>3</SIZE>"), format!("one/one-{}\n", id(3)));
    assert_eq!(run("mkfs", 4, "<FORMAT>save_as</FORMAT><SIZE>3</SIZE>"), format!("one/one-{}\n", id(4)));
    cluster.rbd(&format!("snap create --no-progress {source}@0"));
    cluster.rbd(&format!("snap protect {source}@0"));
    let target = format!("{image}<TARGET_SNAPSHOT>0</TARGET_SNAPSHOT>");
    for verb in ["snap_revert", "snap_flatten"] {
        assert_eq!(run(verb, 1, &target), "");
    }
    assert_eq!(run("snap_delete", 1, &target), "");
    let usage = stage.done("datastore/ceph/monitor", "1", &stage.document(1, "", &template));
    let names: Vec<&str> = usage.lines().map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(names, ["USED_MB", "TOTAL_MB", "FREE_MB"]);
    for n in 1..=3 {
        for _ in 0..2 {
            assert_eq!(run("rm", n, &format!("<SOURCE>one/one-{}</SOURCE>", id(n))), "");
        }
    }
    let left = cluster.rbd("ls one");
    let left: Vec<&str> =
        left.lines().filter(|name| (1..=4).any(|n| name.starts_with(&format!("one-{}", id(n))))).collect();
    assert!(left.is_empty(), "{left:?}");
    // W48, W50: what fails says what and where, and neither a command line nor a key.
    let wrong =
        stage.document(cluster.first + 1, &image, &template.replace("<POOL_NAME>one<", "<POOL_NAME>none<"));
    let (code, why) = stage.failure("datastore/ceph/rm", &id(1), &wrong);
    assert!(code == 2 && why.contains("a volume of pool none"), "{code} {why}");
    let (code, why) =
        stage.failure("datastore/ceph/export", &id(1), &stage.document(cluster.first + 1, &image, &template));
    assert!(code == 3 && why.ends_with(&format!("there is no volume {source}")), "{code} {why}");
}
