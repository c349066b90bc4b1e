//! What the executables share: start-up and the mapping of results to exit codes.
