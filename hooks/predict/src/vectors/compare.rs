//! Does an answer match? Only fields that are expected count.

use serde_json::Value;

/// One difference.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    /// Path of names and indices.
    pub(super) field: String,
    pub(super) expected: String,
    pub(super) got: String,
}

/// Numbers below this are compared as if they were this large.
const SMALL: f64 = 1e-9;

/// All differences between what is expected and what was got, numbers within a relative `tolerance`.
pub(super) fn differences(expected: &Value, got: &Value, tolerance: f64) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", expected, Some(got), tolerance, &mut found);
    found
}

fn compare(field: &str, expected: &Value, got: Option<&Value>, tolerance: f64, found: &mut Vec<Difference>) {
    match (expected, got) {
        (Value::Object(fields), Some(Value::Object(answer))) => {
            for (name, value) in fields {
                compare(&join(field, name), value, answer.get(name), tolerance, found);
            }
        }
        (Value::Array(items), Some(Value::Array(answer)))
            if items.len() == answer.len() && items.iter().all(|item| !item.is_string()) =>
        {
            for (index, (value, item)) in items.iter().zip(answer).enumerate() {
                compare(&join(field, &index.to_string()), value, Some(item), tolerance, found);
            }
        }
        (_, Some(value)) if is_same(expected, value, tolerance) => {}
        (_, got) => found.push(Difference {
            field: if field.is_empty() { "out".to_owned() } else { field.to_owned() },
            expected: expected.to_string(),
            got: got.map_or_else(|| "nothing".to_owned(), Value::to_string),
        }),
    }
}

fn join(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}

fn is_same(expected: &Value, got: &Value, tolerance: f64) -> bool {
    match (expected.as_f64(), got.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(SMALL),
        _ => expected == got,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_match_within_the_tolerance_and_everything_else_exactly() {
        let same = |a: Value, b: Value, tolerance: f64| differences(&a, &b, tolerance).is_empty();
        assert!(same(json!(100), json!(101.9), 0.02));
        assert!(!same(json!(100), json!(102.1), 0.02));
        assert!(same(json!({"a": "inf"}), json!({"a": "inf", "b": 1}), 0.0));
        assert!(!same(json!(true), json!(1), 1.0));
        assert!(!same(json!("inf"), json!(1e300), 1.0));
        assert!(!same(json!(["a", "b"]), json!(["b", "a"]), 1.0));
        assert!(!same(json!([1, 2]), json!([1, 2, 3]), 1.0));
    }

    #[test]
    fn a_missing_field_is_a_difference() {
        let found = differences(&json!({"a": {"b": [1, 2]}}), &json!({"a": {"b": [1, 3]}}), 1e-6);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].field.as_str(), found[0].got.as_str()), ("a.b.1", "3"));
    }
}
