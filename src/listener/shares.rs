//! How many connections one source, or the holder of one certificate, has open.
//!
//! Counts connections and nothing else: its map has at most one entry per open connection, and an entry goes with the
//! last of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Limits;
use crate::domain::source::Source;

/// Whose connections are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// Everybody at one source who has not shown a certificate.
    Source(Source),
    /// The holder of a verified certificate with this common name.
    Certname(Arc<str>),
}

/// The open connections by holder.
#[derive(Default)]
pub(super) struct Shares {
    open: Mutex<HashMap<Holder, usize>>,
}

/// One open connection; it is counted until this is dropped.
#[must_use]
pub(super) struct Share {
    shares: Arc<Shares>,
    holder: Holder,
}

impl Shares {
    /// One more connection for `holder`, or `None` when it has as many as `limits` allow it.
    pub(super) fn take(self: &Arc<Self>, holder: Holder, limits: &Limits) -> Option<Share> {
        let most = match &holder {
            Holder::Source(_) => limits.connections_per_source,
            Holder::Certname(_) => limits.connections_per_identity,
        };
        let mut open = self.lock();
        let count = open.get(&holder).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        open.insert(holder.clone(), count + 1);
        drop(open);
        Some(Share { shares: Arc::clone(self), holder })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.lock();
        match open.get_mut(&self.holder) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => {
                open.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::generous;
    use super::*;

    fn source(address: &str) -> Holder {
        Holder::Source(Source::of(address.parse().unwrap()))
    }

    #[test]
    fn a_holder_gets_no_more_than_its_share_and_leaves_nothing_behind() {
        let shares = Arc::new(Shares::default());
        let limits = Limits { connections_per_source: 2, connections_per_identity: 1, ..generous() };
        let take = |holder| shares.take(holder, &limits);
        let held: Vec<_> = (0..2).map(|_| take(source("192.0.2.1")).unwrap()).collect();
        assert!(take(source("192.0.2.1")).is_none());
        let more = Limits { connections_per_source: 3, ..limits };
        assert!(
            shares.take(source("192.0.2.1"), &more).is_some(),
            "what is open counts under new limits, too"
        );
        let other = take(source("192.0.2.2")).unwrap();
        let certname = take(Holder::Certname("node1".into())).unwrap();
        assert!(take(Holder::Certname("node1".into())).is_none());
        drop(held);
        assert!(take(source("192.0.2.1")).is_some());
        drop((other, certname));
        assert!(shares.lock().is_empty());
    }
}
