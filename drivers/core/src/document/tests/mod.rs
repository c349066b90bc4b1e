//! Tests of the documents that need more than one of their modules.

mod hostile;
mod round_trip;
mod values;
