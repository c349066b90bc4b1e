use super::*;
use crate::dirty::Pattern;
use crate::guest::{Class, Memory};
use crate::migration::Migration;
use crate::path::Path;

fn request(working_set: f64, touch_rate: f64) -> Request {
    let class = Class { working_set, touch_rate, pattern: Pattern::Uniform, cpu_share: 0.9 };
    let memory = Memory { ram_bytes: 8e9, zero_frac: 0.3, classes: vec![class] };
    let path = Path { rtt_s: 0.001, ..Path::ethernet(125e6) };
    Request::new(Migration::new(memory, path), Policy::new(300.0, 0.5))
}

fn change(verdict: &Verdict, lever: Lever) -> Change {
    *verdict
        .changes
        .iter()
        .find(|c| c.lever == lever)
        .unwrap_or_else(|| panic!("no {lever:?} in {verdict:?}"))
}

#[test]
fn a_permission_says_how_close_it_was() {
    let easy = request(500e6, 20e6);
    let verdict = decide(&easy).unwrap();
    assert_eq!((verdict.decision, verdict.how), (Decision::Proceed, Some(How::PreCopy)));
    let deadline = change(&verdict, Lever::Deadline);
    assert!(deadline.at < 300.0 && deadline.to == Decision::Refuse, "{deadline:?}");
    // Above the number it is still permitted, at the number no longer.
    let with = |deadline_s: f64| {
        decide(&Request { policy: Policy { deadline_s, ..easy.policy.clone() }, ..easy.clone() })
            .unwrap()
            .decision
    };
    assert_eq!((with(deadline.at), with(deadline.at * 1.03)), (Decision::Refuse, Decision::Proceed));
}

#[test]
fn a_refusal_says_what_would_be_enough() {
    let hopeless = request(2e9, 250e6);
    let verdict = decide(&hopeless).unwrap();
    assert_eq!(
        (verdict.decision, verdict.reasons.as_slice()),
        (Decision::Refuse, &[Reason::NoConvergenceMemory][..])
    );
    let rate = change(&verdict, Lever::DirtyRate);
    let link = change(&verdict, Lever::Bandwidth);
    assert!(rate.at < 250e6 && link.at > 125e6);
    let slower = request(2e9, rate.at);
    assert_eq!(decide(&slower).unwrap().decision, Decision::Proceed);
    let mut faster = hopeless;
    faster.migration.path.link_rate = link.at;
    assert_eq!(decide(&faster).unwrap().decision, Decision::Proceed);
}

#[test]
fn a_deferral_says_until_when_and_what_would_let_it_go_now() {
    let mut waiting = request(536e6, 60e6);
    waiting.policy.allowed_share = 0.5;
    waiting.forecast = vec![Slot { offset_s: 120.0, link_factor: 1.0, dirty_factor: 0.2 }];
    let verdict = decide(&waiting).unwrap();
    assert_eq!((verdict.decision, verdict.until_s), (Decision::Defer, Some(120.0)));
    assert_eq!(change(&verdict, Lever::Start).at, 120.0);
    assert!(change(&verdict, Lever::AllowedShare).at > 0.5);
}

#[test]
fn a_condition_says_what_would_lift_it() {
    let mut shared = request(268e6, 10e6);
    shared.policy.allowed_share = 0.6;
    let verdict = decide(&shared).unwrap();
    assert_eq!((verdict.decision, verdict.how), (Decision::ProceedWith, Some(How::ThrottledBandwidth)));
    let share =
        verdict.changes.iter().find(|c| c.lever == Lever::AllowedShare && c.to == Decision::Proceed).unwrap();
    assert!((share.at - 1.0).abs() < 1e-9);
}

#[test]
fn a_refusal_for_several_reasons_says_what_is_needed_together() {
    let mut strict = request(500e6, 20e6);
    strict.policy.price_per_gb = 1.0;
    strict.policy.budget = Some(0.5);
    strict.policy.max_downtime_s = 0.01;
    strict.policy.deadline_s = 3.0;
    let verdict = decide(&strict).unwrap();
    assert_eq!(verdict.decision, Decision::Refuse);
    assert!(!verdict.changes.is_empty() && verdict.changes.iter().all(|c| !c.alone), "{:?}", verdict.changes);
    assert!(change(&verdict, Lever::Budget).at > 4.0);
}

#[test]
fn nonsense_is_named() {
    let mut nonsense = request(1e6, 1e6);
    nonsense.policy.deadline_s = f64::NAN;
    assert!(decide(&nonsense).unwrap_err().to_string().contains("deadline_s"));
}

#[test]
fn a_change_reads_as_a_sentence() {
    let change =
        Change { lever: Lever::Bandwidth, now: 125e6, at: 2.5e8, to: Decision::Proceed, alone: true };
    assert_eq!(change.to_string(), "link rate 2.500e8 bytes/s instead of 1.250e8 bytes/s: proceed");
}
