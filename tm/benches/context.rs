//! How long a context image takes, from the call to its place in the VM's directory. It is in the way of every DEPLOY.

use std::time::{Duration, Instant};

use causeway_tm::host::{Call, Worker, perform};
use criterion::{Criterion, criterion_group, criterion_main};

fn context(criterion: &mut Criterion) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let (datastores, locks) = (dir.path().join("datastores"), dir.path().join("locks"));
    if std::fs::create_dir_all(&datastores).is_err() {
        return;
    }
    let call = serde_json::json!({"build_context": {
        "file": format!("{}/0/7/disk.1", datastores.display()), "names": ["context.sh"]
    }});
    let Ok(call) = serde_json::from_value::<Call>(call) else { return };
    let inputs = [vec![b'x'; 2000]];
    criterion.bench_function("context of 2 kB", |bencher| {
        bencher.iter(|| {
            let deadline = Instant::now() + Duration::from_secs(10);
            let worker = Worker::new(&locks, deadline);
            assert!(perform(&call, &inputs, &worker).is_ok());
        });
    });
}

criterion_group!(benches, context);
criterion_main!(benches);
