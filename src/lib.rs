//! bridgeward: a TLS-secured webhook gateway that runs declared commands as argv arrays.
//! Built room by room; each says at its top what it owns and refuses.

pub mod audit;
pub mod clock;
pub mod domain;
pub mod executor;
pub mod gate;
pub mod listener;
pub mod policy;
pub mod queue;
pub mod trust;
