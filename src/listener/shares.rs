//! How many connections one source, or the holder of one certificate, has open, and who waits for a place of its source.
//!
//! Counts connections and nothing else: its map has at most one entry per connection that is open or waits, and an entry
//! goes with the last of them. Whoever waits is served in the order of arrival at its source, and is not timed here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::room::Room;
use crate::domain::source::Source;

/// Whose connections are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// Everybody at one source who has not shown a certificate.
    Source(Source),
    /// The holder of a verified certificate with this common name.
    Certname(Arc<str>),
}

/// The open and the waiting connections.
#[derive(Default)]
pub(super) struct Shares(Mutex<Book>);

#[derive(Default)]
struct Book {
    holders: HashMap<Holder, Account>,
    /// Connections that wait, for whatever place.
    waiting: usize,
}

#[derive(Default)]
struct Account {
    room: Room,
    /// Connections that are open or wait.
    connections: usize,
}

/// One open connection; it is counted until this is dropped.
#[must_use]
pub(super) struct Share {
    // Given back before the entry can go.
    _place: OwnedSemaphorePermit,
    _entry: Entry,
}

/// One connection that waits for a place of its source; it has left the queue when this is dropped.
#[must_use]
pub(super) struct Waiting {
    places: Arc<Semaphore>,
    entry: Entry,
    _turn: Turn,
}

/// Keeps a holder's account.
struct Entry {
    shares: Arc<Shares>,
    holder: Holder,
}

/// One of the connections that wait.
struct Turn(Arc<Shares>);

impl Shares {
    /// One more connection for `holder`, or `None` when it has as many as `limits` allow it, or others wait for one.
    pub(super) fn take(self: &Arc<Self>, holder: Holder, limits: &Limits) -> Option<Share> {
        let (places, entry) = self.enter(holder, limits);
        let place = places.try_acquire_owned().ok()?;
        Some(Share { _place: place, _entry: entry })
    }

    /// A place in the queue of `source`, or `None` when as many wait, for whatever source, as `limits` allow.
    pub(super) fn queue(self: &Arc<Self>, source: Source, limits: &Limits) -> Option<Waiting> {
        let turn = self.turn(limits.waiting())?;
        let (places, entry) = self.enter(Holder::Source(source), limits);
        Some(Waiting { places, entry, _turn: turn })
    }

    fn enter(self: &Arc<Self>, holder: Holder, limits: &Limits) -> (Arc<Semaphore>, Entry) {
        let most = match &holder {
            Holder::Source(_) => limits.connections_per_source,
            Holder::Certname(_) => limits.connections_per_identity,
        };
        let mut book = self.lock();
        let account = book.holders.entry(holder.clone()).or_default();
        account.connections += 1;
        account.room.resize(most);
        (Arc::clone(&account.room.places), Entry { shares: Arc::clone(self), holder })
    }

    fn turn(self: &Arc<Self>, most: usize) -> Option<Turn> {
        let mut book = self.lock();
        if book.waiting >= most {
            return None;
        }
        book.waiting += 1;
        drop(book);
        Some(Turn(Arc::clone(self)))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The place, as soon as it is this connection's turn.
    pub(super) async fn place(self) -> Option<Share> {
        let place = self.places.acquire_owned().await.ok()?;
        Some(Share { _place: place, _entry: self.entry })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut book = self.shares.lock();
        match book.holders.get_mut(&self.holder) {
            Some(account) if account.connections > 1 => account.connections -= 1,
            Some(_) | None => {
                book.holders.remove(&self.holder);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut book = self.0.lock();
        book.waiting = book.waiting.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::super::fixture::{defaults, generous};
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    fn poll<T>(waiting: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
        waiting.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_holder_gets_no_more_than_its_share_and_leaves_nothing_behind() {
        let shares = Arc::new(Shares::default());
        let limits = Limits { connections_per_source: 2, connections_per_identity: 1, ..generous() };
        let take = |holder| shares.take(holder, &limits);
        let of = |address| Holder::Source(source(address));
        let held: Vec<_> = (0..2).map(|_| take(of("192.0.2.1")).unwrap()).collect();
        assert!(take(of("192.0.2.1")).is_none());
        let more = Limits { connections_per_source: 3, ..limits };
        assert!(shares.take(of("192.0.2.1"), &more).is_some(), "what is open counts under new limits, too");
        let other = take(of("192.0.2.2")).unwrap();
        let certname = take(Holder::Certname("node1".into())).unwrap();
        assert!(take(Holder::Certname("node1".into())).is_none());
        assert!(take(of("192.0.2.1")).is_none(), "and under old ones");
        drop(held);
        assert!(take(of("192.0.2.1")).is_some());
        drop((other, certname));
        assert!(shares.lock().holders.is_empty());
    }

    #[test]
    fn i7_no_more_wait_than_a_quarter_of_all_connections() {
        let shares = Arc::new(Shares::default());
        let limits = defaults();
        assert_eq!((limits.connections_per_source, limits.waiting()), (256, 1024));
        let [one, other] = ["192.0.2.1", "2001:db8::1"].map(source);
        let held: Vec<_> = (0..256).map(|_| shares.take(Holder::Source(one), &limits).unwrap()).collect();
        assert!(shares.take(Holder::Source(one), &limits).is_none());
        let mut waiting: Vec<_> = (0..1024).map(|_| shares.queue(one, &limits).unwrap()).collect();
        assert!(shares.queue(one, &limits).is_none() && shares.queue(other, &limits).is_none());
        assert!(shares.take(Holder::Source(other), &limits).is_some(), "others need not wait");
        drop(waiting.pop());
        assert!(shares.queue(other, &limits).is_some());
        drop((held, waiting));
        let book = shares.lock();
        assert!(book.holders.is_empty() && book.waiting == 0);
    }

    #[test]
    fn a_place_goes_to_who_has_waited_longest_at_its_source() {
        let shares = Arc::new(Shares::default());
        let limits = Limits { connections_per_source: 1, ..generous() };
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(source);
        let place = shares.take(Holder::Source(one), &limits).unwrap();
        let elsewhere = shares.take(Holder::Source(other), &limits).unwrap();
        let queue = |source| Box::pin(shares.queue(source, &limits).unwrap().place());
        let (mut first, mut gone, mut second, mut third) = (queue(one), queue(one), queue(one), queue(other));
        for waiting in [&mut first, &mut gone, &mut second, &mut third] {
            assert!(poll(waiting.as_mut()).is_pending());
        }
        drop(gone);
        drop(place);
        assert!(shares.take(Holder::Source(one), &limits).is_none(), "nobody overtakes who waits");
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        let Poll::Ready(Some(place)) = poll(first.as_mut()) else { panic!("it was first") };
        assert!(poll(second.as_mut()).is_pending());
        drop(place);
        let Poll::Ready(Some(place)) = poll(second.as_mut()) else { panic!("it was next") };
        drop(elsewhere);
        let elsewhere = poll(pin!(third));
        assert!(matches!(elsewhere, Poll::Ready(Some(_))));
        assert_eq!(shares.lock().waiting, 0);
        drop((place, elsewhere, first, second));
        assert!(shares.lock().holders.is_empty());
    }
}
