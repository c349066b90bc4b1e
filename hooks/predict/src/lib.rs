//! The migration model: time, downtime, bytes and convergence, each with its interval.
