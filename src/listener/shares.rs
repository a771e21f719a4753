//! How many connections one source, or the holder of one certificate, has open, and who waits for a place of its source.
//!
//! Counts connections and nothing else: its map has at most one entry per connection that is open or waits, and an entry
//! goes with the last of them. Whoever waits is served in the order in which it came to its source, and is not timed here.
//! The limits are those in force, also for whoever came under others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Limits;
use crate::domain::source::Source;

/// Whose connections are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// Everybody at one source who has not shown a certificate.
    Source(Source),
    /// The holder of a verified certificate with this common name.
    Certname(Arc<str>),
}

/// The open and the waiting connections.
pub(super) struct Shares(Mutex<Book>);

struct Book {
    limits: Limits,
    holders: HashMap<Holder, Account>,
    /// Connections that wait, for whatever place.
    waiting: usize,
    /// How many have ever waited.
    tickets: u64,
}

#[derive(Default)]
struct Account {
    /// Connections that are open.
    open: usize,
    /// Those that wait, by their tickets. As long as anybody waits no place is free.
    waiting: BTreeMap<u64, oneshot::Sender<Share>>,
}

/// What a new connection has of its source.
pub(super) enum Claim {
    /// A place.
    Now(Share),
    /// The wait for one.
    Later(Waiting),
}

/// One open connection; it is counted until this is dropped.
#[must_use]
pub(super) struct Share {
    shares: Arc<Shares>,
    holder: Holder,
}

/// One connection that waits for a place of its source; it has left the queue when this is dropped.
#[must_use]
pub(super) struct Waiting {
    _turn: Turn,
    place: oneshot::Receiver<Share>,
}

/// One of the connections that wait.
struct Turn {
    shares: Arc<Shares>,
    holder: Holder,
    ticket: u64,
}

impl Shares {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Book { limits, holders: HashMap::new(), waiting: 0, tickets: 0 })))
    }

    /// From now on these limits are in force: whom they leave a place gets it at once, and where more are open than they
    /// allow, places go as they are given back.
    pub(super) fn hold_to(self: &Arc<Self>, limits: Limits) {
        let mut book = self.lock();
        book.limits = limits;
        let holders: Vec<_> = book.holders.keys().cloned().collect();
        let mut called = Vec::new();
        for holder in holders {
            while let Some(place) = book.call(&holder) {
                called.push((place, Share { shares: Arc::clone(self), holder: holder.clone() }));
            }
        }
        drop(book);
        for (place, share) in called {
            // One that has just gone gives it back by dropping it.
            let _ = place.send(share);
        }
    }

    /// One more connection for `source`: a place, the wait for one behind all others of that source, or `None` when too
    /// many wait.
    pub(super) fn claim(self: &Arc<Self>, source: Source) -> Option<Claim> {
        let holder = Holder::Source(source);
        let mut book = self.lock();
        let limits = book.limits;
        let Some(account) =
            book.holders.get_mut(&holder).filter(|account| !account.is_free(&holder, &limits))
        else {
            return Some(Claim::Now(self.open(book, holder)));
        };
        if account.waiting.len() >= limits.waiting_per_source() || book.waiting >= limits.waiting() {
            return None;
        }
        let (sender, place) = oneshot::channel();
        book.waiting += 1;
        book.tickets += 1;
        let ticket = book.tickets;
        book.account(&holder).waiting.insert(ticket, sender);
        drop(book);
        let _turn = Turn { shares: Arc::clone(self), holder, ticket };
        Some(Claim::Later(Waiting { _turn, place }))
    }

    /// One more connection with this certificate, or `None` when there are as many as may be.
    pub(super) fn take(self: &Arc<Self>, certname: &str) -> Option<Share> {
        let holder = Holder::Certname(certname.into());
        let book = self.lock();
        let is_free = book.holders.get(&holder).is_none_or(|account| account.is_free(&holder, &book.limits));
        is_free.then(|| self.open(book, holder))
    }

    fn open(self: &Arc<Self>, mut book: MutexGuard<'_, Book>, holder: Holder) -> Share {
        book.account(&holder).open += 1;
        Share { shares: Arc::clone(self), holder }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn account(&mut self, holder: &Holder) -> &mut Account {
        self.holders.entry(holder.clone()).or_default()
    }

    /// Gives a free place to whoever has waited longest for it; who that is.
    fn call(&mut self, holder: &Holder) -> Option<oneshot::Sender<Share>> {
        let account = self.holders.get_mut(holder).filter(|account| account.is_free(holder, &self.limits))?;
        let (_, place) = account.waiting.pop_first()?;
        account.open += 1;
        self.waiting -= 1;
        Some(place)
    }
}

impl Account {
    fn is_free(&self, holder: &Holder, limits: &Limits) -> bool {
        let most = match holder {
            Holder::Source(_) => limits.connections_per_source,
            Holder::Certname(_) => limits.connections_per_identity,
        };
        self.open < most
    }
}

impl Waiting {
    /// The place, as soon as it is this connection's turn.
    pub(super) async fn place(mut self) -> Option<Share> {
        (&mut self.place).await.ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut book = self.shares.lock();
        book.account(&self.holder).open -= 1;
        let called = book.call(&self.holder);
        if book.account(&self.holder).open == 0 {
            book.holders.remove(&self.holder);
        }
        drop(book);
        if let Some(place) = called {
            // One that has just gone gives it back by dropping it.
            let _ = place.send(Self { shares: Arc::clone(&self.shares), holder: self.holder.clone() });
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut book = self.shares.lock();
        // It is not there when it has been called meanwhile.
        let left =
            book.holders.get_mut(&self.holder).and_then(|account| account.waiting.remove(&self.ticket));
        book.waiting -= usize::from(left.is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::super::fixture::{defaults, generous};
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    fn poll<T>(waiting: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
        waiting.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn now(shares: &Arc<Shares>, source: Source) -> Share {
        match shares.claim(source) {
            Some(Claim::Now(share)) => share,
            Some(Claim::Later(_)) | None => panic!("there is no place"),
        }
    }

    fn later(shares: &Arc<Shares>, source: Source) -> Option<Waiting> {
        match shares.claim(source) {
            Some(Claim::Later(waiting)) => Some(waiting),
            Some(Claim::Now(_)) => panic!("there is a place"),
            None => None,
        }
    }

    fn is_empty(shares: &Shares) -> bool {
        let book = shares.lock();
        book.holders.is_empty() && book.waiting == 0
    }

    #[test]
    fn a_holder_gets_no_more_than_its_share_and_leaves_nothing_behind() {
        let limits = Limits { connections_per_source: 2, connections_per_identity: 1, ..generous() };
        let shares = Shares::new(limits);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(source);
        let held = [now(&shares, one), now(&shares, one)];
        drop(later(&shares, one).unwrap());
        let elsewhere = now(&shares, other);
        let certname = shares.take("node1").unwrap();
        assert!(shares.take("node1").is_none());
        assert!(shares.take("node2").is_some());
        drop(held);
        drop(now(&shares, one));
        drop((elsewhere, certname));
        assert!(shares.take("node1").is_some());
        assert!(is_empty(&shares));
    }

    #[test]
    fn i7_an_ipv6_network_of_one_customer_has_one_share() {
        let shares = Shares::new(Limits { connections_per_source: 1, ..generous() });
        let _held = now(&shares, source("2001:db8:1:2::1"));
        assert!(later(&shares, source("2001:db8:1:2:ffff::9")).is_some());
        drop(now(&shares, source("2001:db8:1:3::1")));
    }

    #[test]
    fn i7_no_more_wait_than_a_quarter_of_all_connections_and_half_of_them_at_one_source() {
        let limits = defaults();
        let shares = Shares::new(limits);
        assert_eq!((limits.connections_per_source, limits.waiting()), (256, 1024));
        let [one, two, three] = ["192.0.2.1", "2001:db8::1", "192.0.2.3"].map(source);
        let fill = |source| -> Vec<_> { (0..256).map(|_| now(&shares, source)).collect() };
        let held = [one, two, three].map(fill);
        let queue = |source| -> Vec<_> { (0..512).map(|_| later(&shares, source).unwrap()).collect() };
        let first = queue(one);
        assert!(later(&shares, one).is_none(), "half of the places to wait are for others");
        let mut second = queue(two);
        assert!(later(&shares, three).is_none());
        drop(now(&shares, source("192.0.2.4")));
        second.pop();
        assert!(later(&shares, three).is_some());
        drop((held, first, second));
        assert!(is_empty(&shares));
    }

    #[test]
    fn a_place_goes_to_who_came_first_to_its_source() {
        let shares = Shares::new(Limits { connections_per_source: 1, ..generous() });
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(source);
        let (place, elsewhere) = (now(&shares, one), now(&shares, other));
        let queue = |source| Box::pin(later(&shares, source).unwrap().place());
        let (mut first, mut gone, mut second, mut third) = (queue(one), queue(one), queue(one), queue(other));
        // Who came first is asked last: not the first look counts, but the arrival.
        for waiting in [&mut third, &mut second, &mut gone, &mut first] {
            assert!(poll(waiting.as_mut()).is_pending());
        }
        drop(gone);
        drop(place);
        drop(later(&shares, one).expect("nobody overtakes who waits"));
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        let Poll::Ready(Some(place)) = poll(first.as_mut()) else { panic!("it was first") };
        assert!(poll(second.as_mut()).is_pending());
        drop(place);
        // Whoever goes with a place in its hand gives it back.
        drop(second);
        drop(now(&shares, one));
        drop(elsewhere);
        let elsewhere = poll(third.as_mut());
        assert!(matches!(elsewhere, Poll::Ready(Some(_))));
        drop((elsewhere, first, third));
        assert!(is_empty(&shares));
    }

    #[test]
    fn i7_less_share_holds_as_places_come_back_although_others_wait() {
        let limits = Limits { connections_per_source: 3, ..generous() };
        let shares = Shares::new(limits);
        let one = source("192.0.2.1");
        let mut held: Vec<_> = (0..3).map(|_| now(&shares, one)).collect();
        let mut waiting = Box::pin(later(&shares, one).unwrap().place());
        shares.hold_to(Limits { connections_per_source: 1, ..limits });
        while let Some(share) = held.pop() {
            assert!(poll(waiting.as_mut()).is_pending(), "{} are still open", held.len() + 1);
            drop(share);
        }
        assert!(poll(waiting.as_mut()).is_ready());
    }

    #[test]
    fn a_larger_share_reaches_those_who_wait_at_once_and_in_order() {
        let limits = Limits { connections_per_source: 1, ..generous() };
        let shares = Shares::new(limits);
        let one = source("192.0.2.1");
        let held = now(&shares, one);
        let [mut first, mut second, mut third] =
            [(); 3].map(|()| Box::pin(later(&shares, one).unwrap().place()));
        shares.hold_to(Limits { connections_per_source: 3, ..limits });
        assert!(poll(third.as_mut()).is_pending());
        let [Poll::Ready(Some(_first)), Poll::Ready(Some(_second))] =
            [poll(first.as_mut()), poll(second.as_mut())]
        else {
            panic!("there is room for two more")
        };
        assert!(poll(third.as_mut()).is_pending());
        drop((held, third));
    }
}
