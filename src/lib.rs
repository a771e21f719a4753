//! bridgeward: a TLS-secured webhook gateway that runs declared commands as argv arrays.
//!
//! This page is the map; each room's own page says what it owns and what it refuses to do.
//!
//! # The rooms
//!
//! | room | owns | imports |
//! |---|---|---|
//! | [`clock`], [`domain`] | time; the nouns that all rooms speak | nothing of ours |
//! | [`policy`] | file text to proven values, all errors at once | clock, domain |
//! | [`trust`] | certificates: anchors, revocation, names, minting | clock, domain |
//! | [`queue`] | durable jobs; knows no policy | clock, domain |
//! | [`audit`] | the record of decisions and runs | clock, domain |
//! | [`listener`] | TCP, TLS and HTTP connections, capped and timed | clock, domain, policy, trust |
//! | [`gate`] | request to permit to receipt: the ordered stack of guards | clock, domain, policy, trust, queue, audit |
//! | [`executor`] | submission to job to argv to exit; the one place that starts processes | clock, domain, policy, queue, audit |
//! | [`promote`] | the edit of a value in a control repository, its commit and push | domain, executor |
//! | [`admin`] | the operators' socket: health, metrics, jobs, reload | clock, domain, queue, audit |
//! | [`app`] | wires the rooms; what is in force, and its exchange; the order of starting and stopping | all above but promote |
//! | [`cli`] | one file a subcommand | all |
//!
//! Sibling rooms do not know each other, and nothing imports upward. `tests/layout.rs` holds this table.
//!
//! # A request's life
//!
//! 1. [`listener`] accepts, shakes hands and hands each request to [`gate`] with what the handshake showed.
//! 2. The *entrance* counts the source, reads the body within its bounds, and passes an `Arrived` on.
//! 3. The stack of guards, in `gate::stack`, turns it into `Matched`, `Verified`, `Allowed`, `Paced` and at last a
//!    `Permit`. Each guard is a tower layer that changes the request's type: a stack in the wrong order does not
//!    compile. A refusal that says more than the wall can only be made from an `Allowed`.
//! 4. *Dispatch* puts the decision on record and submits a [`Submission`](domain::submission::Submission): a route's
//!    name and raw parameters. [`executor::intake`] asks its own policy, and [`queue`] commits it, as a job of its own or
//!    as one more submitter of an equal job that waits. Only then is the sender told 202.
//!    Where gate and workers are two processes, `queue::socket` carries the submission to `executor::door`.
//! 5. A worker claims the job, asks its own policy once more, renders the argv arrays, and runs them one by one.
//!
//! # Invariants
//!
//! Each has tests named after it (`i1_` to `i10_`) as far as what it speaks of is built.
//!
//! * **I1 Fail closed.** A route without an identity rule is not a policy. A missing or invalid parameter runs nothing.
//!   What cannot be read, parsed or verified is refused.
//! * **I2 The wall.** Whoever has not proven an identity that the route allows gets one answer, whatever they asked
//!   for: same status, headers and body as an unknown path, in indistinguishable time. Exceptions, none of which
//!   depends on a route: a certificate that does not verify ends the handshake, malformed HTTP gets hyper's fixed
//!   answer or a close, a flood gets 429.
//! * **I3 argv only.** One place in the code starts processes. It takes an absolute program path and an array of
//!   arguments. No shell, ever.
//! * **I4 A job is a route name and raw parameters, never an argv.** Gate and worker derive values and argv with the
//!   same function, each from its own copy of the policy, so a hostile queue or a broken-into front end can ask for
//!   nothing that the worker's policy does not offer. What a gate in another process says is read strictly, and only
//!   from its user.
//! * **I5 202 means durable.** An accepted job survives `kill -9` and power loss from the moment that the sender is
//!   told.
//! * **I6 One message, at most one job**, for as long as message ids are kept: not twice concurrently, nor after a
//!   restart. A job starts again only where the route says that it may.
//! * **I7 Nothing unbounded before identity.** Memory, time, descriptors, disk and log lines that an unproven caller
//!   can cost are capped. Nothing is stored for one.
//! * **I8 Secrets stay secret.** No key material in logs, errors, `Debug`, argv, environment, job records, core dumps.
//! * **I9 A bad policy never replaces a good one**, and a reload drops no request.
//! * **I10 Every decision leaves a record** that cannot be changed unnoticed: who, what, which rule, which argv, how it
//!   ended.
//!
//! # Deliberately absent
//!
//! * A shell, a search path, a command line in one string.
//! * HTTP/2, upgrades, session tickets and resumption: webhooks gain nothing from them, and a revoked certificate must
//!   not resume.
//! * Trust in headers that name an address or an identity.
//! * Anonymous routes, a default identity, an answer that tells a wrong path from a wrong signature.
//! * Plugins, templates with logic, expressions in policies.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod domain;
pub mod executor;
pub mod gate;
pub mod listener;
pub mod policy;
pub mod promote;
pub mod queue;
pub mod trust;
