//! The stream of a moving directory under attack: nothing kills the reader, and nothing is written but in the VM's
//! directory, under a name that nobody takes for a whole one.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use causeway_tm::carry::frame::{Entry, Frame, HEAD, LIMIT, Say, VERSION, decode, head};
use causeway_tm::carry::{End, Manner, Part, Spot, serve};
use causeway_tm::host::Worker;

#[path = "../../fuzz/seeded.rs"]
mod seeded;

#[test]
fn fuzz_frames() {
    seeded::fuzz("carry", |stream| {
        let mut rest = stream;
        while let Some((begin, after)) = rest.split_first_chunk::<HEAD>() {
            let Ok((kind, length)) = head(*begin) else { return };
            assert!(length <= LIMIT);
            let Some((body, after)) = after.split_at_checked(length) else { return };
            rest = after;
            let Ok(frame) = decode(kind, body) else { continue };
            if let Frame::Entry(Entry::Enter { name, .. } | Entry::Link { name, .. })
            | Frame::File { name, .. } = &frame
            {
                let leads_out = name.is_empty() || *name == b"." || *name == b".." || name.contains(&b'/');
                assert!(!leads_out && !name.contains(&0), "{name:?}");
            }
            // Whatever was understood can be said again, and is understood the same.
            let mut again = Vec::new();
            assert_eq!(frame.encode(&mut again), Ok(()), "{frame:?}");
            assert_eq!(decode(kind, again.get(HEAD..).unwrap_or_default()), Ok(frame));
        }
    });
}

#[test]
fn fuzz_receiver() {
    seeded::fuzz("carry", |stream| {
        let Ok(dir) = tempfile::tempdir() else { return };
        let root = dir.path().join("datastores");
        let datastore = root.join("100");
        assert!(fs::create_dir_all(&datastore).is_ok() && fs::write(root.join("witness"), "").is_ok());
        let Ok(vm) = datastore.join("7").display().to_string().parse() else { return };
        let Ok(host) = "h1".parse() else { return };
        let spot = Spot { host, dir: vm };
        let mut said = Vec::new();
        let (version, manner) = (VERSION, Manner::default());
        for say in [
            Say::Open {
                version,
                from: spot.clone(),
                to: spot,
                manner,
                part: Part::Move,
                local: false,
                deadline_ms: 60_000,
            },
            Say::Source { probe: Some("none".to_owned()) },
            Say::Tree { fingerprint: "0123456789abcdef".repeat(2), mode: 0o755, bytes: 1 },
        ] {
            assert_eq!(Frame::Say(Box::new(say)).encode(&mut said), Ok(()));
        }
        said.extend(stream);
        let Ok((ours, theirs)) = UnixStream::pair() else { return };
        let writer = std::thread::spawn(move || {
            // Whoever has heard enough closes.
            let _ = (&ours).write_all(&said);
            let _ = ours.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut &ours, &mut std::io::sink());
        });
        let locks = dir.path().join("locks");
        let worker = Worker { qemu_img: Path::new("/nonexistent"), ..Worker::new(&locks, Instant::now()) };
        let served = serve(End::Destination, &theirs, &theirs, &worker);
        drop(theirs);
        assert!(writer.join().is_ok());
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&root), ["100", "witness"]);
        let whole = "7".to_owned();
        let beside = |name: &String| name == ".causeway" || name.starts_with(".causeway-tmp.7.carry-");
        let found = names(&datastore);
        // A whole tree may come out of it, by its own end alone.
        assert!(found.iter().all(|name| beside(name) || *name == whole), "{found:?} {served:?}");
    });
}
