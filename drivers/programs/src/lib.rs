//! What the executables share. Each program's `main` starts logging, parses, calls in here, and maps the result to an
//! exit code.

pub mod admin;
pub mod driver;
pub mod host;
#[cfg(test)]
#[path = "../../../tests/fuzz/seeded.rs"]
mod seeded;
pub mod start;
pub mod storage;
