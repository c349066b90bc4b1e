//! Fakes and a fake host, for tests only.
