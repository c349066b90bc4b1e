//! Numbers and documents that nobody should send: the answer is an answer or an error, and it comes soon.

use causeway_predict::estimate::{Bandwidth, Dirty, Facts, estimate};
use causeway_predict::guest::{Class, Memory};
use causeway_predict::precopy::{self, Rates};
use causeway_predict::tuning::Tuning;
use causeway_predict::vectors;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Numbers at and beyond the edges of every range.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        prop::sample::select(vec![
            0.0,
            -0.0,
            -1.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            f64::MAX,
            1e-300,
            1e300,
            1e18,
            1e15,
            1e9,
            1.0,
            0.5,
            99.9,
        ]),
        any::<f64>(),
        (-20.0..20.0_f64).prop_map(f64::exp2),
    ]
}

fn known_answers() -> Vec<Value> {
    let file: Value =
        serde_json::from_slice(include_bytes!("data/predictor-vectors.json")).unwrap_or_default();
    file.get("vectors").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Replace the `place`-th number, text or list inside a value.
fn replace(value: &mut Value, place: &mut usize, with: &Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, place, with)),
        Value::Array(items) if *place > 0 => {
            *place -= 1;
            items.iter_mut().for_each(|item| replace(item, place, with));
        }
        other => {
            if *place == 0 {
                *other = with.clone();
            }
            *place = place.wrapping_sub(1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_loop_answers_whatever_it_is_given(n in prop::collection::vec(any_number(), 14)) {
        let class = Class { working_set: n[0], touch_rate: n[1], pattern: Default::default(), cpu_share: n[2] };
        let memory = Memory { ram_bytes: n[3], zero_frac: n[4], classes: vec![class] };
        let rates = Rates { run_rate: n[5], switch_rate: n[6], rtt_s: n[7], slow_start_s: n[8], capped: false };
        let tuning = Tuning {
            downtime_limit_s: n[9],
            sync_s_per_gib: n[10],
            quantum_s: n[11],
            horizon_s: n[12],
            xbzrle_ratio: n[13],
            ..Tuning::default()
        };
        if let Ok(outcome) = precopy::simulate(&memory, &rates, &tuning) {
            prop_assert!(!outcome.total_s.is_nan() && !outcome.wire_bytes.is_nan());
        }
    }

    #[test]
    fn an_estimate_answers_whatever_it_is_given(n in prop::collection::vec(any_number(), 7)) {
        let class = Class { working_set: n[0], touch_rate: n[1], pattern: Default::default(), cpu_share: 0.5 };
        let bandwidth = Bandwidth::Measured { rate: n[2], cap: Some(n[3]), rtt_s: n[4] };
        let mut facts = Facts::new(n[5], Dirty::Classes(vec![class]), bandwidth);
        facts.nonzero_bytes = n[6];
        if let Ok(answer) = estimate(&facts) {
            prop_assert!(!answer.time_s.median.is_nan() && !answer.bytes.high.is_nan());
        }
    }

    #[test]
    fn a_known_answer_with_one_value_replaced_is_judged_and_nothing_breaks(
        which in 0_usize..1000,
        place in 0_usize..60,
        number in any_number(),
        kind in 0_u8..4,
    ) {
        let mut vectors = known_answers();
        prop_assume!(!vectors.is_empty());
        let mut vector = vectors.swap_remove(which % vectors.len());
        let with = match kind {
            0 => Value::Null,
            1 => json!("text"),
            2 => json!([[[]]]),
            _ => json!(number),
        };
        let mut place = place;
        replace(&mut vector["in"], &mut place, &with);
        let report = vectors::run(json!({ "vectors": [vector] }).to_string().as_bytes());
        prop_assert!(report.is_ok_and(|report| report.total == 1));
    }

    #[test]
    fn bytes_that_are_no_file_of_vectors_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(vectors::run(&bytes).is_err());
    }
}

#[test]
fn a_file_nested_too_deeply_is_an_error() {
    let deep = format!("{{\"vectors\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(vectors::run(deep.as_bytes()).is_err());
}

#[test]
fn a_loop_made_to_last_ends() {
    // A writer exactly as fast as the path and nothing to slow it: passes of ever the same tiny length.
    let class = Class { working_set: 1e9, touch_rate: 1e8, pattern: dirty_sweep(), cpu_share: 0.0 };
    let memory = Memory { ram_bytes: 2e9, zero_frac: 0.0, classes: vec![class] };
    let rates = Rates { run_rate: 1e8, switch_rate: 1e8, rtt_s: 0.0, slow_start_s: 0.0, capped: false };
    for downtime_limit_s in [0.0, 1e-12, 0.001, 0.3] {
        let tuning = Tuning { downtime_limit_s, sync_s_per_gib: 0.0, horizon_s: 1e9, ..Tuning::default() };
        precopy::simulate(&memory, &rates, &tuning).unwrap();
    }
}

fn dirty_sweep() -> causeway_predict::dirty::Pattern {
    causeway_predict::dirty::Pattern::Sweep
}

#[test]
fn a_misspelt_fact_is_an_error_and_not_a_default() {
    let good = r#"{"ram_bytes":1e9,"nonzero_bytes":5e8,"dirty":{"classes":[]},
                   "bandwidth":{"measured":{"rate":1e8,"cap":null,"rtt_s":0.001}}"#;
    assert!(serde_json::from_str::<Facts>(&format!("{good}}}")).is_ok());
    for wrong in [r#""uncertanty":{}"#, r#""uncertainty":{"rate":1}"#, r#""correction":{"tme":1}"#] {
        let error = serde_json::from_str::<Facts>(&format!("{good},{wrong}}}")).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{wrong}: {error}");
    }
}
