//! Whether a connection is busy with a request, as the service knows and the stream's timers need to know.
//!
//! Counters that both sides share, and a bell that rings at the end; it measures no time itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use hyper::body::{Body, Bytes, Frame, SizeHint};

/// Shared between a connection's stream and its service.
#[derive(Clone, Default)]
pub(super) struct Phase(Arc<Counters>);

#[derive(Default)]
struct Counters {
    open: AtomicUsize,
    turns: AtomicUsize,
    /// Of the task that drives the connection.
    waker: AtomicWaker,
}

impl Phase {
    /// Something is under way until the returned value is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.0))
    }

    /// Wakes the task when what is under way ends: the stream's timers start then, and not when they are next looked at.
    pub(super) fn watch(&self, waker: &Waker) {
        self.0.waker.register(waker);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) > 0
    }

    /// A number that is another one after each beginning and end.
    pub(super) fn turn(&self) -> usize {
        self.0.turns.load(Ordering::Relaxed)
    }
}

/// A request that is being answered, or a handshake.
pub(super) struct Busy(Arc<Counters>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        self.0.waker.wake();
    }
}

/// A response body; the connection is busy until it has been sent or given up.
pub(super) struct Answer {
    pub(super) body: axum::body::Body,
    pub(super) _busy: Busy,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    struct Rung(AtomicBool);

    impl Wake for Rung {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_end_of_a_request_is_noticed_at_once() {
        let phase = Phase::default();
        let busy = phase.begin();
        let rung = Arc::new(Rung(AtomicBool::new(false)));
        phase.watch(&Waker::from(Arc::clone(&rung)));
        assert!(phase.is_busy() && !rung.0.load(Ordering::SeqCst));
        drop(busy);
        assert!(!phase.is_busy() && rung.0.load(Ordering::SeqCst));
    }
}
