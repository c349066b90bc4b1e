//! Images of a cluster as plain files on a host's own disk (`.ssh`), and back, on a real cluster; and what is done to a
//! disk that is open.

#![cfg(test)]

mod ceph;

use std::process::{Child, Command, Stdio};

use ceph::{Stage, cluster};

/// Somebody who has a volume open.
struct Guest(Child);

impl Guest {
    fn opens(on: &Stage, volume: &str) -> Self {
        let conf = cluster().unwrap();
        let mut guest = Command::new("rbd");
        guest.arg("--conf").arg(&conf).args(["--id", "one", "--keyfile"]).arg(conf.with_file_name("one.key"));
        guest.args(["watch", volume]).stdin(Stdio::piped()).stdout(Stdio::null());
        let guest = Guest(guest.spawn().unwrap());
        let watchers = || on.json(&format!("status {volume}"))["watchers"].as_array().unwrap().len();
        assert!((0..50).any(|_| watchers() == 1));
        guest
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_copy_of_an_image_is_a_plain_file() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    on.done(on.fetch(false, Some(6)));
    let picture = on.picture();
    assert_eq!(picture["file disk.0"].content, "aaaa..");
    assert_eq!(picture["one-5"].snapshots, [("snap".to_owned(), true, "aaaa".to_owned())]);
    assert_eq!(std::fs::read_to_string(on.vm_dir().with_file_name(".monitor")).unwrap(), "ssh\n");
    // Zeros of the volume take no room.
    on.import(&format!("{}0", on.source()), "a.................");
    use std::os::unix::fs::MetadataExt;
    assert!(on.file().metadata().unwrap().blocks() < 10 << 10);
    let failure = on.failure(on.fetch(false, Some(3)));
    assert!(failure.text.contains("more than the 3145728 bytes"), "{failure}");
    assert_eq!(on.picture()["file disk.0"].content, "aaaa..");
    // While there are clones, nobody is given the image itself.
    on.done(on.clone(None));
    assert!(on.failure(on.fetch(true, None)).text.contains("@snap is still needed by"));
    on.done(on.remove(&on.disk(), false));
    on.done(on.fetch(true, None));
    assert!(on.picture()["one-5"].snapshots.is_empty());
    assert_eq!(on.picture()["file disk.0"].content, "aaaa");
}

#[test]
fn what_the_guest_wrote_takes_the_image_s_place() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    for byte in [b'b', b'c'] {
        on.done(on.fetch(true, None));
        on.write_file(byte);
        std::fs::File::options().write(true).open(on.file()).unwrap().set_len(5 << 20).unwrap();
        on.done(on.take_back());
        let content = format!("{}aaa.", char::from(byte));
        assert_eq!(
            on.picture().into_iter().map(|(name, seen)| (name, seen.content)).collect::<Vec<_>>(),
            [("one-5".to_owned(), content)]
        );
        // A retry of the script: the disk is gone, and the image says that it was made of it.
        on.done(on.take_back());
    }
    // A disk that was lost is no disk that came back.
    on.done(on.fetch(true, None));
    std::fs::remove_file(on.file()).unwrap();
    let failure = on.failure(on.take_back());
    assert!(failure.text.contains("it is not there, and one/one-"), "{failure}");
    assert_eq!(on.content(&on.source()), "caaa.");
}

/// oned counts the image's snapshots, whoever has the image now.
#[test]
fn an_image_s_snapshots_stay() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    for (id, byte) in [(0, b'b'), (1, b'c')] {
        on.write(&on.source(), byte);
        on.done(on.of_image("create", id));
    }
    on.done(on.fetch(true, None));
    on.write_file(b'd');
    on.done(on.take_back());
    let picture = on.picture();
    assert_eq!(picture["one-5"].content, "daaa");
    let held: Vec<&str> = picture["one-5-0:1"].snapshots.iter().map(|snapshot| snapshot.2.as_str()).collect();
    assert_eq!(held, ["baaa", "caaa"]);
    on.done(on.of_image("revert", 0));
    assert_eq!(on.content(&on.source()), "baaa");
    on.done(on.of_image("delete", 1));
}

#[test]
fn data_stay_in_the_pool_where_they_were() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.rbd(&format!("create --size 4M --data-pool data {}", on.source()));
    on.done(on.fetch(true, None));
    on.write_file(b'b');
    on.done(on.take_back());
    let seen = &on.picture()["one-5"];
    assert_eq!((seen.content.as_str(), seen.data_pool.as_deref()), ("b...", Some("data")));
}

#[test]
fn what_is_no_plain_file_or_is_open_is_not_taken_back() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.lent();
    let before = on.picture();
    {
        let _guest = Guest::opens(&on, &on.source());
        let wait = std::time::Duration::from_secs(6);
        let failure = on.perform_within(&on.take_back(), wait, &|_| {}).unwrap_err();
        assert!(failure.text.contains("is open at "), "{failure}");
    }
    assert_eq!(on.picture(), before);
    let elsewhere = on.dir().join("elsewhere");
    std::fs::rename(on.file(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, on.file()).unwrap();
    for call in [on.take_back(), on.save_file(false)] {
        let failure = on.failure(call);
        assert!(failure.text.contains("it is a link to"), "{failure}");
    }
    assert_eq!(on.content(&on.source()), "aaaa");
}

#[test]
fn an_image_is_made_of_a_file_and_of_the_copy_of_a_running_guest_s() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.lent();
    let saved = format!("{}-saved", on.source());
    on.done(on.save_file(false));
    on.done(on.save_file(false));
    assert_eq!(on.content(&saved), "waaa");
    on.rbd(&format!("rm --no-progress {saved}"));
    on.import(&saved, "zz");
    assert!(on.failure(on.save_file(false)).text.contains("is there already"));
    on.rbd(&format!("rm --no-progress {saved}"));
    // As the hypervisor leaves it.
    let copy = on.vm_dir().join(".causeway-tmp.disk.0.live");
    std::fs::copy(on.file(), &copy).unwrap();
    on.write_file(b'x');
    on.done(on.save_file(true));
    assert_eq!(on.content(&saved), "waaa");
    assert!(!copy.exists());
    on.done(on.save_file(true));
}

/// What a call left that was killed and never run again.
#[test]
fn strays_are_removed_after_days_and_not_before() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.lent();
    let old = |n: u32| format!("one/one-{}99.causeway-tmp.1-{n}-0", on.image);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let young = format!("one/one-{}99.causeway-tmp.1-{now:x}-0", on.image);
    let odd = format!("one/one-{}99.causeway-tmp.mine", on.image);
    for volume in [&old(1), &old(2), &young, &odd] {
        on.import(volume, "aa");
    }
    let guest = Guest::opens(&on, &old(2));
    on.done(on.save_file(false));
    let there = |volume: &str| {
        on.json("ls one").as_array().unwrap().iter().any(|name| name.as_str() == Some(&volume[4..]))
    };
    assert!(!there(&old(1)) && there(&old(2)) && there(&young) && there(&odd));
    drop(guest);
    for volume in [&young, &odd] {
        on.rbd(&format!("rm --no-progress {volume}"));
    }
}

#[test]
fn a_disk_that_is_open_gets_its_snapshot() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.snapshots();
    let _guest = Guest::opens(&on, &on.disk());
    on.done(on.live_snapshot(5));
    on.done(on.live_snapshot(5));
    let snapshots = on.picture()["one-5-7-0"].snapshots.clone();
    assert_eq!(snapshots.last(), Some(&("5".to_owned(), true, "daaa".to_owned())));
    on.done(on.snapshot("delete", 5));
}
