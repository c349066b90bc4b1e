//! What comes to a datastore from elsewhere, under attack: the stream of an image, and what a server says of one.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use super::deliver::{FRAME, Frames, Order, frame, receive, write_frame};
use super::{DatastoreCall, Exported, Origin, Stored, Worker, measure};

/// A stream that is to become an image: it does if it has an end and is one, and nothing else is ever written.
#[test]
fn fuzz_streams() {
    crate::seeded::fuzz("stream", |bytes| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("datastores");
        fs::create_dir_all(root.join("1")).unwrap();
        let image = root.join("1/abc").to_str().unwrap().parse().unwrap();
        let origin = Origin::Stream { checksum: None, unpacked: true };
        let call = DatastoreCall::Import { image, origin, format: None, opened: true, sparse: true };
        let order = Order { call, deadline_ms: 60_000 };
        let mut stream = Vec::new();
        write_frame(&mut stream, &serde_json::to_vec(&order).unwrap()).unwrap();
        stream.extend(bytes);
        let locks = dir.path().join("locks");
        let deadline = Instant::now() + Duration::from_secs(60);
        let worker = Worker { qemu_img: Path::new("/nonexistent"), ..Worker::new(&locks, deadline) };
        let received = receive(stream.as_slice(), &worker);
        let mut content = Vec::new();
        let whole = Frames::new(bytes).read_to_end(&mut content).is_ok();
        let image = fs::read(root.join("1/abc")).ok();
        assert_eq!(image.is_some(), received.is_ok());
        assert!(image.is_none_or(|image| whole && image == content));
        let mut names: Vec<_> =
            fs::read_dir(root.join("1")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.retain(|name| name != "abc" && name != ".causeway");
        assert!(names.is_empty(), "{names:?}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    });
}

/// The first frame, and answers.
#[test]
fn fuzz_orders() {
    crate::seeded::fuzz("stream", |mut bytes| {
        while let Ok(read) = frame(&mut bytes) {
            assert!(read.len() <= FRAME);
            if let Ok(order) = serde_json::from_slice::<Order>(&read) {
                // What was understood is said the same again.
                let again = serde_json::to_vec(&order).unwrap();
                assert_eq!(serde_json::from_slice::<Order>(&again).unwrap().call, order.call);
            }
            let _ = serde_json::from_slice::<Result<String, causeway_core::answer::Failure>>(&read);
            let _ = serde_json::from_slice::<Exported>(&read);
            let _ = serde_json::from_slice::<Stored>(&read);
        }
    });
}

#[test]
fn fuzz_headers_of_servers() {
    crate::seeded::fuzz("headers", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(size) = measure::size(&text) {
            assert!(size > 0 && text.contains(&size.to_string()));
        }
    });
}
