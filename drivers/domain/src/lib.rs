//! Libvirt, and the only crate that knows it.
