//! Facts that the model needs: the dirty curve of a guest and the throughput of a path.
