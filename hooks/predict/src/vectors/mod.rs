//! Known-answer files: check the whole model against answers somebody else worked out.
//!
//! A file is a JSON object with a list `vectors`; each has an `id`, a function `fn` of the model, its argument
//! `in`, the fields `out` that must match, and the relative tolerance `tol` for numbers (10⁻⁶ if
//! absent). Text, truth values and lists of text must match exactly; `"inf"` stands for infinity. A
//! vector that cannot be understood is a mismatch of that vector; a file that cannot be is an error.

mod compare;
mod functions;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// The tolerance of a vector that names none.
const TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
struct File {
    vectors: Vec<Value>,
}

/// One vector.
#[derive(Deserialize)]
struct Vector {
    #[serde(default)]
    id: String,
    #[serde(rename = "fn")]
    function: String,
    #[serde(rename = "in")]
    input: Value,
    #[serde(rename = "out")]
    expected: Value,
    #[serde(default, rename = "tol")]
    tolerance: Option<f64>,
}

/// A field that is not what it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mismatch {
    /// The vector's name; its place in the file (`#1` is the first) if it has none.
    pub id: String,
    /// The function it asks for; empty if that could not be read.
    pub function: String,
    /// Which field, as a path of names and indices; `in`, `out` or `fn` if the vector itself is at fault.
    pub field: String,
    /// What the file says.
    pub expected: String,
    /// What the model says.
    pub got: String,
    /// The tolerance that applied.
    pub tolerance: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, function, field, expected, got, tolerance } = self;
        write!(f, "{id} {function}: {field}: expected {expected}, got {got} (tolerance {tolerance})")
    }
}

/// What came of a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Vectors in the file.
    pub total: usize,
    /// Vectors of which every field matched.
    pub passed: usize,
    /// Every field that did not match, in the order of the file.
    pub mismatches: Vec<Mismatch>,
}

impl Report {
    /// Vectors of which at least one field did not match.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.total - self.passed
    }

    /// Did all vectors pass?
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.passed == self.total
    }
}

impl fmt::Display for Report {
    /// One line per mismatch, then one with the counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mismatch in &self.mismatches {
            writeln!(f, "{mismatch}")?;
        }
        write!(f, "{} vectors, {} passed, {} failed", self.total, self.passed, self.failed())
    }
}

/// Run every vector of a file.
///
/// # Errors
/// [`Error::Malformed`] if the file is not of the form above, [`Error::Empty`] if it holds no vector: a
/// check of nothing must not look like a success.
pub fn run(file: &[u8]) -> Result<Report, Error> {
    let document = "the file of vectors";
    let file: File = serde_json::from_slice(file).map_err(|source| Error::Malformed { document, source })?;
    if file.vectors.is_empty() {
        return Err(Error::Empty { list: "the list of vectors" });
    }
    let mut report = Report { total: file.vectors.len(), ..Report::default() };
    for (index, vector) in file.vectors.into_iter().enumerate() {
        let mismatches = check(index + 1, vector);
        if mismatches.is_empty() {
            report.passed += 1;
        }
        report.mismatches.extend(mismatches);
    }
    Ok(report)
}

/// Run one vector; nothing comes back if all is well.
fn check(place: usize, vector: Value) -> Vec<Mismatch> {
    let name = |id: Option<&str>| id.filter(|id| !id.is_empty()).map_or(format!("#{place}"), str::to_owned);
    let outer = name(vector.get("id").and_then(Value::as_str));
    let vector: Vector = match serde_json::from_value(vector) {
        Ok(vector) => vector,
        Err(error) => {
            return vec![Mismatch {
                id: outer,
                function: String::new(),
                field: "vector".to_owned(),
                expected: "id, fn, in, out and tol".to_owned(),
                got: error.to_string(),
                tolerance: TOLERANCE,
            }];
        }
    };
    let tolerance = vector.tolerance.unwrap_or(TOLERANCE);
    let mismatch = |field: String, expected: String, got: String| Mismatch {
        id: name(Some(&vector.id)),
        function: vector.function.clone(),
        field,
        expected,
        got,
        tolerance,
    };
    match functions::call(&vector.function, vector.input) {
        Ok(got) => compare::differences(&vector.expected, &got, tolerance)
            .into_iter()
            .map(|d| mismatch(d.field, d.expected, d.got))
            .collect(),
        Err(error) => vec![mismatch(at_fault(&error).to_owned(), "an answer".to_owned(), explain(&error))],
    }
}

/// Which part of the vector an error is about.
fn at_fault(error: &Error) -> &'static str {
    if matches!(error, Error::UnknownFunction { .. }) { "fn" } else { "in" }
}

/// An error and its cause in one line.
fn explain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(vector: &str) -> Report {
        run(format!(r#"{{"vectors": [{vector}]}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn a_wrong_answer_is_named_by_its_path() {
        let report = one(
            r#"{"id": "x", "fn": "reserve", "tol": 1e-6, "out": {"need": {"vcpus": 3}, "fails": ["RAM"]}, "in": {
                "vm": {"ram_bytes": 1048576, "vcpus": 2, "guest_mtu": 1500},
                "dest": {"total_ram": 1e9, "used_ram": 0, "vcpus": 4, "vcpus_used": 0, "underlay_mtu": 1500}}}"#,
        );
        let fields: Vec<&str> = report.mismatches.iter().map(|m| m.field.as_str()).collect();
        assert_eq!(fields, ["fails", "need.vcpus"]);
        assert_eq!(report.failed(), 1);
        assert!(report.to_string().ends_with("1 vectors, 0 passed, 1 failed"), "{report}");
    }

    #[test]
    fn what_cannot_be_understood_is_a_mismatch_and_not_a_panic() {
        for (vector, field) in [
            (r#"{"id": "a", "fn": "teleport", "in": {}, "out": {}}"#, "fn"),
            (r#"{"id": "a", "fn": "mtu_plan", "in": {"underlay_mtu": -1}, "out": {}}"#, "in"),
            (r#"{"id": "a", "fn": "mtu_plan", "in": [[[]]], "out": {}}"#, "in"),
            (r#"{"fn": "predict"}"#, "vector"),
            ("7", "vector"),
            (r#"{"fn": "dirty_curve", "in": {"w": 1, "r": 1, "t": 1}, "out": {"nothing": 1}}"#, "nothing"),
            (r#"{"fn": "monitor", "in": {"cfg": {}, "samples": [[1]]}, "out": {}}"#, "in"),
        ] {
            let report = one(vector);
            assert_eq!(report.mismatches.len(), 1, "{vector}");
            assert_eq!(report.mismatches[0].field, field, "{report}");
        }
    }

    #[test]
    fn a_file_that_checks_nothing_is_an_error() {
        assert!(matches!(run(br#"{"vectors": []}"#), Err(Error::Empty { .. })));
        assert!(matches!(run(b"{"), Err(Error::Malformed { .. })));
        assert!(matches!(run(br#"{"vectors": 1}"#), Err(Error::Malformed { .. })));
    }
}
