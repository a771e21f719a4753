//! The nouns that every room speaks: peers, proofs, identities, parameters, argv arrays, submissions, jobs.
//!
//! Values only: no I/O, no async, no HTTP framework, and nothing of ours is imported here.

pub mod alarm;
pub mod anchor;
pub mod argv;
pub mod body;
pub mod extension;
pub mod identity;
pub mod job;
pub mod name;
pub mod parameters;
pub mod printable;
pub mod source;
pub mod submission;
