//! The model against the project's known answers.

use causeway_predict::vectors;

#[test]
fn every_known_answer_is_met() {
    let report = vectors::run(include_bytes!("data/predictor-vectors.json")).unwrap();
    assert!(report.total >= 41 && report.is_ok(), "{report}");
}
