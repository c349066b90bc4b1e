//! The slots of a file datastore, built and run as the stock datastore process runs them: our wrapper in the slot, an id,
//! a document on standard input (contract TM 3).

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use causeway_suite::programs::program;

#[path = "datastore/stage.rs"]
mod stage;
use stage::{SECRET, Stage, tool};

#[test]
fn an_image_lives_and_goes() {
    let stage = Stage::new();
    let upload = stage.upload("os 1'\"$(x).qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", &upload, "40M"]);
    let path = format!("<PATH>{upload}</PATH>");
    let stat = stage.document(7, &path, "").replace("<ID>7</ID>", "");
    assert_eq!(stage.done("datastore/fs/stat", "12345", &stat), "40\n");
    let printed = stage.done("datastore/fs/cp", "7", &stage.document(7, &path, ""));
    let (source, format) = printed.trim_end().rsplit_once(' ').unwrap();
    assert_eq!((source.len(), format), (stage.datastores().len() + 3 + 32, "qcow2"));
    assert!(source.starts_with(&format!("{}/1/", stage.datastores())), "{source}");
    tool("qemu-img", &["check", "-q", "-f", "qcow2", source]);
    let image =
        format!("<SOURCE>{source}</SOURCE><PATH>{source}</PATH><FORMAT>qcow2</FORMAT><SIZE>40</SIZE>");
    let clone = stage.done("datastore/fs/clone", "8", &stage.document(8, &image, "<DRIVER>raw</DRIVER>"));
    let (copy, format) = clone.trim_end().rsplit_once(' ').unwrap();
    assert_eq!((format, fs::metadata(copy).unwrap().len()), ("raw", 40 << 20));
    let info = stage.done("datastore/fs/export", "7", &stage.document(7, &image, ""));
    assert!(info.starts_with(&format!("<IMPORT_INFO><IMPORT_SOURCE>{source}<")), "{info}");
    for verb in ["snap_delete", "snap_flatten"] {
        let target = format!("{image}<TARGET_SNAPSHOT>0</TARGET_SNAPSHOT>");
        assert_eq!(stage.done(&format!("datastore/fs/{verb}"), "7", &stage.document(7, &target, "")), "");
    }
    let (code, why) = stage.failure(
        "datastore/fs/snap_revert",
        "7",
        &stage.document(7, &format!("{image}<TARGET_SNAPSHOT>3</TARGET_SNAPSHOT>"), ""),
    );
    assert_eq!(code, 3);
    assert!(why.ends_with("there is no snapshot 3 of it"), "{why}");
    for _ in 0..2 {
        assert_eq!(stage.done("datastore/fs/rm", "7", &stage.document(7, &image, "")), "");
        assert!(!PathBuf::from(source).exists() && PathBuf::from(copy).exists());
    }
    let blank = "<FORMAT>qcow2</FORMAT><SIZE>10</SIZE>";
    let printed = stage.done("datastore/fs/mkfs", "9", &stage.document(9, blank, ""));
    assert!(tool("qemu-img", &["info", "-f", "qcow2", printed.trim_end()]).contains("10 MiB"));
    let save = stage.document(10, "<FORMAT>save_as</FORMAT><SIZE>10</SIZE>", "");
    let printed = stage.done("datastore/fs/mkfs", "10", &save);
    assert!(!PathBuf::from(printed.trim_end()).exists());
    let usage = stage.done("datastore/fs/monitor", "1", &stage.document(1, "", ""));
    let names: Vec<&str> = usage.lines().map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(names, ["USED_MB", "TOTAL_MB", "FREE_MB"]);
    assert_eq!(stage.ear.asked(), [], "all that is needed is in the document");
}

#[test]
fn a_failure_is_one_line_and_leaves_nothing() {
    let stage = Stage::new();
    let path = |path: &str| stage.document(7, &format!("<PATH>{path}</PATH>"), "");
    fs::write(stage.front_end.root().join("key"), "x").unwrap();
    std::os::unix::fs::symlink(stage.front_end.root().join("key"), stage.upload("link")).unwrap();
    tool(
        "qemu-img",
        &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", &stage.upload("lies"), "1M"],
    );
    stage.downloader(
        "#!/bin/sh\necho half\necho 'curl: (6) no such host' >&2\necho 'Error copying' >&2\nexit 255\n",
    );
    for (named, code, says) in [
        (stage.upload("link"), 2, "RESTRICTED_DIRS"),
        ("/etc/passwd".to_owned(), 2, "RESTRICTED_DIRS"),
        (stage.front_end.var().join(".one/one_auth").display().to_string(), 2, "RESTRICTED_DIRS"),
        (stage.upload("lies"), 2, "stands on another file, /etc/passwd"),
        (stage.upload("gone"), 2, "No such file"),
        ("../x".to_owned(), 2, "PATH of the image is \"../x\", not an absolute path"),
        ("http://h/x".to_owned(), 4, "curl: (6) no such host; Error copying"),
        ("s3://bucket/x".to_owned(), 2, "not an app of an S3 marketplace"),
    ] {
        let (found, why) = stage.failure("datastore/fs/cp", "7", &path(&named));
        assert!(found == code && why.contains(says), "{named}: {found} {why}");
    }
    assert_eq!(stage.failure("datastore/fs/cp", "8", &path("/x")).0, 2);
    assert_eq!(stage.failure("datastore/fs/cp", "7", "<VM/>").0, 2);
    let left: Vec<_> = fs::read_dir(stage.front_end.var().join("datastores/1")).unwrap().collect();
    assert!(left.len() <= 1, "{left:?}");
    // A dry run prints the one step, and does nothing.
    let document = stage.document(7, &format!("<SOURCE>{}/1/abc</SOURCE>", stage.datastores()), "");
    fs::write(stage.stored("abc"), "x").unwrap();
    let file = stage.front_end.root().join("document");
    fs::write(&file, causeway_core::document::encode(document.as_bytes())).unwrap();
    let mut dry = Command::new(program("causeway-tm").unwrap());
    dry.args(["slot", "--dry-run", "datastore/fs/rm", "7"]).env("ONE_LOCATION", stage.front_end.location());
    let output = dry.stdin(fs::File::open(&file).unwrap()).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with("datastore/fs/rm 7\n  rm:7 @ front-end: transfer {"), "{printed}");
    assert!(stage.stored("abc").exists());
    let dry =
        Command::new(program("causeway-tm").unwrap()).args(["slot", "--dry-run", "datastore/fs/cp"]).output();
    assert_eq!(dry.unwrap().status.code(), Some(2));
}

/// W48: a document as large as oned makes them, of which nobody's arguments and environment hold anything.
#[test]
fn a_large_document_with_secrets_is_nobodys_argument() {
    let stage = Stage::new();
    let script = "#!/bin/bash\nset +e\ncat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' \
                  >\"$(dirname \"$0\")/seen\"\necho data\n";
    stage.downloader(script);
    let large = format!("<IMAGES>{}</IMAGES>", "<ID>7</ID>".repeat(30_000));
    let document = stage.document(7, "<PATH>http://h/x</PATH>", &large);
    assert!(document.len() > 300_000);
    let printed = stage.done("datastore/fs/cp", "7", &document);
    assert!(printed.ends_with(" raw\n"), "{printed}");
    let seen = fs::read(stage.front_end.var().join("remotes/datastore/seen")).unwrap();
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("http://h/x") && !seen.contains(SECRET));
    assert!(!seen.contains(&causeway_core::document::encode(document.as_bytes())[..100]));
    // Nor are the keys of a store that an app comes from.
    let store = format!(
        "<MARKETPLACE><TEMPLATE><ACCESS_KEY_ID>AKIA</ACCESS_KEY_ID><AWS>no</AWS><ENDPOINT>http://s3.h</ENDPOINT>\
         <REGION>eu</REGION><SECRET_ACCESS_KEY>{SECRET}</SECRET_ACCESS_KEY></TEMPLATE></MARKETPLACE></DS_DRIVER"
    );
    let document = stage.document(8, "<PATH>s3://apps/marketapp-7</PATH>", "").replace("</DS_DRIVER", &store);
    let printed = stage.done("datastore/fs/cp", "8", &document);
    assert!(printed.ends_with(" raw\n"), "{printed}");
    let seen = fs::read(stage.front_end.var().join("remotes/datastore/seen")).unwrap();
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("http://s3.h/apps/marketapp-7?X-Amz-") && !seen.contains(SECRET));
}

/// A process that is told to end takes along what it started, and the next one finds nothing in its way.
#[test]
fn a_cancelled_download_ends_with_all_its_processes() {
    let stage = Stage::new();
    stage.downloader("#!/bin/bash\necho half\necho $$ >\"$(dirname \"$0\")/pid\"\nsleep 600\n");
    let document = stage.document(7, "<PATH>http://h/x</PATH>", "");
    let child = stage.start("datastore/fs/cp", "7", &document);
    let pid = stage.front_end.var().join("remotes/datastore/pid");
    let waited = Instant::now();
    while !fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')) {
        assert!(waited.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(20));
    }
    let script: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
        nix::sys::signal::SIGTERM,
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let gone =
        |pid: i32| !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let waited = Instant::now();
    while !gone(script) {
        assert!(waited.elapsed() < Duration::from_secs(10), "the script lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
    stage.downloader("#!/bin/sh\necho whole\n");
    stage.done("datastore/fs/cp", "7", &document);
    let left: Vec<String> = fs::read_dir(stage.front_end.var().join("datastores/1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(left.iter().all(|name| name.len() == 32 || name == ".causeway"), "{left:?}");
}

#[test]
fn a_host_of_the_list_does_it_and_none_is_taken_that_is_away() {
    let stage = Stage::new();
    let list = "<BRIDGE_LIST>node1 node2</BRIDGE_LIST>";
    let document = stage.document(9, "<FORMAT>raw</FORMAT><SIZE>3</SIZE>", list);
    // Without a word of oned nobody is known to be up.
    let (code, why) = stage.failure("datastore/fs/mkfs", "9", &document);
    assert!(code == 4 && why.starts_with("one.hostpool.info"), "{code} {why}");
    let pool = |one: u32, two: u32| {
        let host = |name: &str, state: u32| {
            format!("<HOST><ID>1</ID><NAME>{name}</NAME><STATE>{state}</STATE></HOST>")
        };
        let text = format!("<HOST_POOL>{}{}</HOST_POOL>", host("node1", one), host("node2", two));
        stage.ear.tell("one.hostpool.info", u32::MAX, &text);
    };
    pool(3, 8);
    let (code, why) = stage.failure("datastore/fs/mkfs", "9", &document);
    assert_eq!((code, why.as_str()), (3, "no host of BRIDGE_LIST is up: node1 node2"));
    pool(2, 4);
    let printed = stage.done("datastore/fs/mkfs", "9", &document);
    assert_eq!(fs::metadata(printed.trim_end()).unwrap().len(), 3 << 20);
    let image = format!("<SOURCE>{}</SOURCE><FORMAT>raw</FORMAT><SIZE>3</SIZE>", printed.trim_end());
    let info = stage.done("datastore/fs/export", "9", &stage.document(9, &image, list));
    assert!(info.starts_with("<IMPORT_INFO><IMPORT_SOURCE>ssh://node1:/"), "{info}");
    stage.done("datastore/fs/rm", "9", &stage.document(9, &image, list));
    assert!(!stage.stored(printed.trim_end().rsplit('/').next().unwrap()).exists());
    sends_an_image(&stage, list);
}

#[test]
fn a_datastore_that_is_mounted_by_whoever_uses_it_is_not_mounted_over_data() {
    let stage = Stage::new();
    let nfs = "<NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE><NFS_AUTO_HOST>127.0.0.1</NFS_AUTO_HOST>\
               <NFS_AUTO_PATH>/causeway-test</NFS_AUTO_PATH>";
    let document = stage.document(9, "<FORMAT>raw</FORMAT><SIZE>3</SIZE>", nfs);
    // What else is mounted so, oned knows alone.
    let (code, why) = stage.failure("datastore/fs/mkfs", "9", &document);
    assert!(code == 4 && why.starts_with("one.datastorepool.info"), "{code} {why}");
    stage.ear.tell("one.datastorepool.info", u32::MAX, "<DATASTORE_POOL/>");
    fs::write(stage.stored("somebodys"), b"data").unwrap();
    let (code, why) = stage.failure("datastore/fs/mkfs", "9", &document);
    assert!(
        code == 3 && why.contains("a mount would hide what lies in the directory, such as somebodys"),
        "{code} {why}"
    );
    assert_eq!(fs::read(stage.stored("somebodys")).unwrap(), b"data");
}

/// An image goes to the host in one stream, and becomes one there only if all of it came.
fn sends_an_image(stage: &Stage, list: &str) {
    let upload = stage.upload("big.img");
    let bytes = [vec![0; 3 << 20], vec![0x5a; 2 << 20]].concat();
    fs::write(&upload, &bytes).unwrap();
    let sum = tool("md5sum", &[&upload])[..32].to_owned();
    let image = |more: &str| format!("<PATH>{upload}</PATH><TEMPLATE><MD5>{more}</MD5></TEMPLATE>");
    let driver = format!("{list}<DRIVER>qcow2</DRIVER>");
    let printed = stage.done("datastore/fs/cp", "9", &stage.document(9, &image(&sum), list));
    let (source, format) = printed.trim_end().rsplit_once(' ').unwrap();
    assert!(format == "raw" && fs::read(source).unwrap() == bytes);
    fs::remove_file(source).unwrap();
    let printed = stage.done("datastore/fs/cp", "9", &stage.document(9, &image(&sum), &driver));
    assert!(printed.ends_with(" qcow2\n"), "{printed}");
    fs::remove_file(source).unwrap();
    let (code, why) =
        stage.failure("datastore/fs/cp", "9", &stage.document(9, &image(&"0".repeat(32)), list));
    assert!(code == 2 && why.contains("what was sent: its bytes add up to"), "{code} {why}");
    let address = stage.document(9, "<PATH>http://h/x</PATH>", list);
    stage.downloader("#!/bin/sh\nhead -c 300000 /dev/zero\necho 'Error copying' >&2\nexit 255\n");
    let (code, why) = stage.failure("datastore/fs/cp", "9", &address);
    assert!(code == 4 && why.contains("Error copying"), "{code} {why}");
    assert!(!PathBuf::from(source).exists());
    stage.downloader("#!/bin/sh\necho whole\n");
    stage.done("datastore/fs/cp", "9", &address);
    assert_eq!(fs::read(source).unwrap(), b"whole\n");
    // W32: an archive that nobody could unpack is no image.
    stage.downloader("#!/bin/sh\nprintf '\\037\\213\\010archive'\n");
    fs::write(&upload, b"\x1f\x8b\x08archive").unwrap();
    let sum = tool("md5sum", &[&upload])[..32].to_owned();
    let archive = format!("<PATH>http://h/x</PATH><TEMPLATE><MD5>{sum}</MD5></TEMPLATE>");
    let (code, why) = stage.failure("datastore/fs/cp", "9", &stage.document(9, &archive, list));
    assert!(code == 2 && why.contains("can't be unpacked on the way"), "{code} {why}");
    let gone = list.replace("node1 ", "nodown ");
    stage.ear.tell("one.hostpool.info", u32::MAX, "<HOST_POOL/>");
    let (code, why) =
        stage.failure("datastore/fs/cp", "8", &stage.document(8, "<PATH>http://h/x</PATH>", &gone));
    assert!(code == 6 && why.contains("nodown: ssh ended without an answer"), "{code} {why}");
    let left = fs::read_dir(stage.front_end.var().join("datastores/1")).unwrap();
    let left: Vec<String> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.starts_with(".causeway-tmp")), "{left:?}");
}

/// An image that another host has goes from there to the host that is to have its copy.
#[test]
fn an_image_is_cloned_from_one_host_to_another() {
    let stage = Stage::new();
    let host = |name: &str| format!("<HOST><ID>1</ID><NAME>{name}</NAME><STATE>2</STATE></HOST>");
    let up = format!("<HOST_POOL>{}{}</HOST_POOL>", host("node1"), host("node2"));
    stage.ear.tell("one.hostpool.info", u32::MAX, &up);
    let bytes = [vec![0; 3 << 20], vec![0x5a; 2 << 20]].concat();
    fs::write(stage.stored("abc"), &bytes).unwrap();
    let image = format!("<PATH>{}/1/abc</PATH><FORMAT>raw</FORMAT><SIZE>5</SIZE>", stage.datastores());
    let clone = |template: &str, image: &str| {
        let document = stage.document(9, image, template);
        let sources = "<SOURCE_BRIDGE_LIST>node2</SOURCE_BRIDGE_LIST></DS_DRIVER_ACTION_DATA>";
        document.replace("</DS_DRIVER_ACTION_DATA>", sources)
    };
    for (template, format) in [
        ("", "raw"),
        ("<BRIDGE_LIST>node1</BRIDGE_LIST><DRIVER>qcow2</DRIVER>", "qcow2"),
        ("<BRIDGE_LIST>node2</BRIDGE_LIST>", "raw"),
    ] {
        let printed = stage.done("datastore/fs/clone", "9", &clone(template, &image));
        let (source, found) = printed.trim_end().rsplit_once(' ').unwrap();
        assert_eq!(found, format);
        assert_eq!(
            tool(
                "qemu-img",
                &["compare", "-f", "raw", "-F", format, &stage.stored("abc").display().to_string(), source]
            )
            .trim(),
            "Images are identical."
        );
        fs::remove_file(source).unwrap();
    }
    // What that host can't send is no image, and the reason is its own.
    let gone = image.replace("/1/abc", "/1/gone");
    for template in ["", "<BRIDGE_LIST>node1</BRIDGE_LIST>"] {
        let (code, why) = stage.failure("datastore/fs/clone", "9", &clone(template, &gone));
        assert!(code == 4 && why.contains("node2: ") && why.contains("gone"), "{code} {why}");
    }
    // A receiver whose session was ended cleans up by itself, after us.
    let waited = Instant::now();
    loop {
        let left = fs::read_dir(stage.front_end.var().join("datastores/1")).unwrap();
        let mut left: Vec<String> =
            left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        if left == [".causeway", "abc"] {
            break;
        }
        assert!(waited.elapsed() < Duration::from_secs(10), "{left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// W52: oned learns how full the datastore is, and monitord how large disks and snapshots are.
#[test]
fn a_system_datastore_and_its_disks_are_told() {
    let stage = Stage::new();
    let monitord = UdpSocket::bind("127.0.0.1:0").unwrap();
    monitord.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = monitord.local_addr().unwrap().port();
    let conf = stage.front_end.etc().join("monitord.conf");
    fs::write(&conf, format!("NETWORK = [ ADDRESS = \"0.0.0.0\", PORT = {port}, PUBKEY = \"\" ]\n")).unwrap();
    let snap = stage.front_end.var().join("datastores/100/41/disk.12.snap");
    fs::create_dir_all(&snap).unwrap();
    fs::write(snap.join("10"), vec![1; 3 << 20]).unwrap();
    std::os::unix::fs::symlink("disk.12.snap/10", snap.parent().unwrap().join("disk.12")).unwrap();
    let document = |disks: u32| {
        format!(
            "<DS_DRIVER_ACTION_DATA><DATASTORE><ID>100</ID><BASE_PATH>{0}/100</BASE_PATH><TYPE>1</TYPE><TEMPLATE/></DATASTORE>\
             <DATASTORE_LOCATION>{0}</DATASTORE_LOCATION><MONITOR_VM_DISKS>{disks}</MONITOR_VM_DISKS></DS_DRIVER_ACTION_DATA>",
            stage.datastores()
        )
    };
    let printed = stage.done("tm/qcow2/monitor", "100", &document(1));
    assert!(
        printed.starts_with("USED_MB=") && printed.ends_with('\n') && printed.split(' ').count() == 3,
        "{printed}"
    );
    let mut datagram = vec![0; 65_536];
    let length = monitord.recv(&mut datagram).unwrap();
    let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
    let payload = text.strip_prefix("MONITOR_VM SUCCESS -1 0 ").unwrap();
    let unpacked = unpack(&causeway_core::document::decode(payload.as_bytes()).unwrap());
    let inner = unpacked.strip_prefix("VM=[ID=41, MONITOR=\"").unwrap().strip_suffix("\"]\n").unwrap();
    let inner = String::from_utf8(causeway_core::document::decode(inner.as_bytes()).unwrap()).unwrap();
    assert_eq!(inner, "DISK_SIZE=[ID=12,SIZE=3]\nSNAPSHOT_SIZE=[ID=10,DISK_ID=12,SIZE=3]\n");
    // When they are not wanted, nothing is sent; when they can't be, the datastore is told of all the same.
    monitord.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stage.done("tm/qcow2/monitor", "100", &document(0));
    let key = stage.front_end.etc().join("monitord.pub");
    let named = |port: u16| format!("NETWORK = [ PORT = {port}, PUBKEY = \"{}\" ]\n", key.display());
    fs::write(&conf, named(port)).unwrap();
    let output = stage.run("tm/qcow2/monitor", "100", &document(1));
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("WARN: monitord was not told of disks"), "{said}");
    assert!(said.contains(&format!("PUBKEY {}", key.display())), "{said}");
    assert!(monitord.recv(&mut datagram).is_err());
    // With the key, only monitord can read it.
    let own = stage.front_end.etc().join("monitord.key").display().to_string();
    tool("openssl", &["genrsa", "-out", &own, "2048"]);
    tool("openssl", &["rsa", "-in", &own, "-RSAPublicKey_out", "-out", &key.display().to_string()]);
    stage.done("tm/qcow2/monitor", "100", &document(1));
    let length = monitord.recv(&mut datagram).unwrap();
    let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
    let payload = text.strip_prefix("MONITOR_VM SUCCESS -1 0 ").unwrap();
    let sealed = inflated(&causeway_core::document::decode(payload.as_bytes()).unwrap());
    let block = stage.front_end.etc().join("block").display().to_string();
    fs::write(&block, sealed).unwrap();
    let read = tool("openssl", &["pkeyutl", "-decrypt", "-inkey", &own, "-in", &block]);
    assert!(read.starts_with("VM=[ID=41, MONITOR=\""), "{read}");
}

/// By Python, so that it is not our packer that says whether it packs right.
fn unpack(bytes: &[u8]) -> String {
    String::from_utf8(inflated(bytes)).unwrap()
}

fn inflated(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let script = "import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))";
    let mut python = Command::new("python3");
    let mut python =
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(bytes).unwrap();
    python.wait_with_output().unwrap().stdout
}
