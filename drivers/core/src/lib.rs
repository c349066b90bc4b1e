//! What every driver speaks and none owns: names, oned's lines and documents, plans and the engine that runs them, the
//! ways to reach a host, settings and answers.

pub mod answer;
pub mod document;
pub mod engine;
pub mod journal;
pub mod locks;
pub mod names;
pub mod outcome;
pub mod plan;
pub mod protocol;
pub mod reach;
pub mod settings;
