//! Plans of the recorded requests, held against the contract's tables and against what the stock driver was seen to do.

// clippy.toml allows unwrapping in tests, but takes only `#[test]` functions for tests, not what they call.
#![expect(clippy::unwrap_used, clippy::indexing_slicing)]

mod contract;
mod data;
mod differences;
mod recordings;
mod refusals;
