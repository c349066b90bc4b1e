//! Watching a migration from outside: probes, results, plots.
