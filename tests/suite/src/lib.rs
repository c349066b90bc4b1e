//! What needs more than one crate: conformance, faults, lab.
