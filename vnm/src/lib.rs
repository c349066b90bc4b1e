//! The desired network of a VM, and the fabrics it is applied to.

pub mod announce;
pub mod asked;
pub mod bandwidth;
pub mod connections;
pub mod desired;
pub mod fabric;
pub mod lock;
pub mod reservation;
pub mod root;
#[cfg(test)]
#[path = "../../tests/fuzz/seeded.rs"]
mod seeded;
pub mod slot;
