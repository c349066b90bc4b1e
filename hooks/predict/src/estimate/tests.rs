use super::*;
use crate::dirty::Pattern;
use crate::dirty::Sample;
use crate::guest::Class;
use crate::path::Bound;
use crate::tuning::Tuning;

fn facts(working_set: f64, touch_rate: f64) -> Facts {
    let class = Class { working_set, touch_rate, pattern: Pattern::Uniform, cpu_share: 0.0 };
    let path = Bandwidth::Measured { rate: 117e6, cap: None, rtt_s: 0.0005 };
    Facts::new(4e9, Dirty::Classes(vec![class]), path)
}

#[test]
fn exact_inputs_give_a_point_at_the_central_value() {
    let facts = Facts { uncertainty: Uncertainty::NONE, ..facts(100e6, 10e6) };
    let answer = estimate(&facts).unwrap();
    assert_eq!(answer.p_converge, 1.0);
    let total_s = answer.central.outcome.total_s;
    for value in [answer.time_s.low, answer.time_s.median, answer.time_s.high] {
        assert!((value / total_s - 1.0).abs() < 1e-9, "{value} {total_s}");
    }
    assert!(answer.downtime_s.relative_width() < 1e-9);
}

#[test]
fn the_interval_is_as_wide_as_its_only_cause() {
    let only_bandwidth = Uncertainty { bandwidth_cv: 0.1, ..Uncertainty::NONE };
    let idle = Facts { dirty: Dirty::Classes(vec![]), uncertainty: only_bandwidth, ..facts(0.0, 0.0) };
    let time = estimate(&idle).unwrap().time_s;
    // exp(1.645 × 0.0998): the time of an idle guest is its size over the rate.
    assert!((time.high / time.median - 1.178).abs() < 0.02, "{time:?}");
    assert!((time.median / time.low - 1.178).abs() < 0.02, "{time:?}");
}

#[test]
fn a_busy_host_widens_the_downtime_only() {
    let jittery = Uncertainty { pause_sd_s: 0.02, ..Uncertainty::NONE };
    let answer = estimate(&Facts { uncertainty: jittery, ..facts(100e6, 10e6) }).unwrap();
    assert!(answer.downtime_s.high - answer.downtime_s.low > 0.03);
    assert!(answer.time_s.relative_width() < 0.01);
    assert_eq!(answer.bytes.low, answer.bytes.high);
}

#[test]
fn a_guest_near_the_edge_converges_with_a_chance_and_a_hopeless_one_without() {
    let at = |touch_rate: f64| {
        let mut facts = facts(1e9, touch_rate);
        facts.tuning.horizon_s = 300.0;
        estimate(&facts).unwrap()
    };
    let (edge, hopeless) = (at(105e6), at(900e6));
    assert!(edge.p_converge > 0.1 && edge.p_converge < 0.9, "{}", edge.p_converge);
    assert_eq!((hopeless.p_converge, hopeless.converges), (0.0, false));
    assert_eq!(hopeless.time_s.low, f64::INFINITY);
    assert_eq!(
        (edge.time_s.relative_width(), hopeless.time_s.relative_width()),
        (f64::INFINITY, f64::INFINITY)
    );
    let written = serde_json::to_string(&hopeless.time_s).unwrap();
    assert_eq!(written, r#"{"median":"inf","low":"inf","high":"inf"}"#);
}

#[test]
fn samples_and_the_class_behind_them_give_the_same_answer() {
    let known = facts(200e6, 30e6);
    let class = Class { working_set: 200e6, touch_rate: 30e6, pattern: Pattern::Uniform, cpu_share: 0.0 };
    let samples = [1.0, 2.0, 5.0].map(|t| Sample { interval_s: t, dirtied: class.dirtied(t) });
    let sampled = Facts { dirty: Dirty::Samples(samples.to_vec()), ..known.clone() };
    let (a, b) = (estimate(&known).unwrap(), estimate(&sampled).unwrap());
    assert!((a.time_s.median / b.time_s.median - 1.0).abs() < 1e-3);
}

#[test]
fn the_correction_moves_the_intervals_and_not_the_model() {
    let mut corrected = facts(100e6, 10e6);
    corrected.correction = Correction { time: 1.2, downtime: 2.0, bytes: 1.0 };
    let (plain, corrected) = (estimate(&facts(100e6, 10e6)).unwrap(), estimate(&corrected).unwrap());
    assert!((corrected.time_s.median / plain.time_s.median - 1.2).abs() < 1e-9);
    assert!((corrected.downtime_s.high / plain.downtime_s.high - 2.0).abs() < 1e-9);
    assert_eq!(corrected.central, plain.central);
}

#[test]
fn a_measured_cap_is_exact_and_ends_with_the_running_phase() {
    let mut capped =
        Facts { uncertainty: Uncertainty { bandwidth_cv: 0.2, ..Uncertainty::NONE }, ..facts(0.0, 0.0) };
    capped.bandwidth = Bandwidth::Measured { rate: 1e9, cap: Some(50e6), rtt_s: 0.0 };
    let answer = estimate(&capped).unwrap();
    assert!(answer.time_s.relative_width() < 0.01, "{:?}", answer.time_s);
    assert_eq!(answer.central.binding, Bound::MaxBandwidth);
    assert!(answer.downtime_s.high < 0.1);
}

#[test]
fn an_estimate_is_written_with_its_intervals() {
    let written = serde_json::to_value(estimate(&facts(100e6, 10e6)).unwrap()).unwrap();
    let time = &written["time_s"];
    assert!(
        time["low"].as_f64() < time["median"].as_f64() && time["median"].as_f64() < time["high"].as_f64()
    );
    assert_eq!((written["converges"].as_bool(), written["central"]["why"].as_str()), (Some(true), Some("")));
}

#[test]
fn facts_are_read_with_defaults_for_what_they_leave_out() {
    let read: Facts = serde_json::from_str(
        r#"{"ram_bytes": 4e9, "nonzero_bytes": 1e9, "dirty": {"samples": [[1.0, 1e6], [5.0, 4e6]]},
            "bandwidth": {"measured": {"rate": 1e8, "cap": null, "rtt_s": 0.001}}}"#,
    )
    .unwrap();
    assert_eq!((read.tuning.clone(), read.uncertainty), (Tuning::default(), Uncertainty::default()));
    assert!(estimate(&read).unwrap().converges);
}
