//! Room for connections: how many are open, and whether there is room for one more.
//!
//! Its size may change at any time; when it shrinks, places that are taken go as they are given back. Whom they are for is
//! not known here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Room for so many connections, of which so many are open.
#[derive(Default)]
pub(super) struct Room {
    size: AtomicUsize,
    taken: AtomicUsize,
    /// Of the one task that accepts connections.
    waker: AtomicWaker,
}

/// One place; it is taken until this is dropped.
#[must_use]
pub(super) struct Place(Arc<Room>);

impl Room {
    /// Makes it as large as `size`.
    pub(super) fn resize(&self, size: usize) {
        self.size.store(size, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Ready when a place is free. Wakes one task, the last that asked, when that may have changed.
    pub(super) fn poll_free(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        let is_free = self.taken.load(Ordering::SeqCst) < self.size.load(Ordering::SeqCst);
        if is_free { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes a place, whether or not one is free: that was asked before.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        self.taken.fetch_add(1, Ordering::SeqCst);
        Place(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// What becomes of one who waits for room, as the runtime would: asked again only after a wake.
    #[tokio::test]
    async fn who_waits_hears_of_a_place_given_back_and_of_more_room() {
        let room = Arc::new(Room::default());
        let waits = || {
            let room = Arc::clone(&room);
            tokio::spawn(async move { poll_fn(|cx| room.poll_free(cx)).await })
        };
        let waiting = waits();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        room.resize(1);
        waiting.await.unwrap();

        let place = room.enter();
        let waiting = waits();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(place);
        waiting.await.unwrap();
    }

    #[test]
    fn i7_less_room_holds_as_places_come_back() {
        let room = Arc::new(Room::default());
        let is_free = || room.poll_free(&mut Context::from_waker(std::task::Waker::noop())).is_ready();
        room.resize(3);
        let mut places: Vec<_> = (0..3).map(|_| room.enter()).collect();
        room.resize(1);
        while let Some(place) = places.pop() {
            assert!(!is_free());
            drop(place);
        }
        assert!(is_free());
    }
}
