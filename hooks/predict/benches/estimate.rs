//! How long one prediction takes: 64 points and the central run, from facts to intervals.
//!
//! Run with `cargo bench -p causeway-predict`.

use std::hint::black_box;

use causeway_predict::dirty::Pattern;
use causeway_predict::estimate::{Bandwidth, Dirty, Facts, estimate};
use causeway_predict::guest::Class;
use criterion::{Criterion, criterion_group, criterion_main};

const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

fn writer(working_set: f64, touch_rate: f64) -> Class {
    Class { working_set, touch_rate, pattern: Pattern::Uniform, cpu_share: 0.9 }
}

fn guest(ram_gib: f64, classes: Vec<Class>, rate: f64) -> Facts {
    let ram_bytes = ram_gib * GIB;
    let bandwidth = Bandwidth::Measured { rate, cap: None, rtt_s: 0.0005 };
    Facts { nonzero_bytes: 0.7 * ram_bytes, ..Facts::new(ram_bytes, Dirty::Classes(classes), bandwidth) }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("estimate");
    let mut case = |name: &str, facts: &Facts| {
        group.bench_function(name, |b| b.iter(|| estimate(black_box(facts))));
    };
    case("small guest, 1 s", &guest(0.5, vec![writer(64.0 * MIB, 8e6)], 500e6));
    case("8 GiB over 1 Gb/s, 60 s", &guest(8.0, vec![writer(512.0 * MIB, 30e6)], 117e6));
    case("256 GiB over 1 Gb/s, 30 min", &guest(256.0, vec![writer(4096.0 * MIB, 30e6)], 117e6));
    let hot_and_warm = vec![writer(16.0 * MIB, 100e6), writer(512.0 * MIB, 5e6)];
    case("hot and warm, never ends, 1 h", &guest(4.0, hot_and_warm, 24e6));
    case("on the edge", &guest(8.0, vec![writer(1024.0 * MIB, 105e6)], 117e6));
    let mut throttled = guest(8.0, vec![writer(2048.0 * MIB, 200e6)], 117e6);
    throttled.tuning.auto_converge = true;
    case("auto-converge, 3 min", &throttled);
    let mut postcopy = guest(8.0, vec![writer(2048.0 * MIB, 200e6)], 117e6);
    postcopy.postcopy_after_s = Some(60.0);
    case("post-copy after 1 min", &postcopy);
    group.finish();
}

criterion_group!(estimates, benches);
criterion_main!(estimates);
