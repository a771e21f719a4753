//! A connection's bytes, with a limit on how long each part may take.
//!
//! Stands below TLS, where it sees what really arrives. Between requests, and before the first one, a connection may
//! be idle; from a request's first byte its head must be complete in time; while a request is being answered the time
//! is the service's to limit; and whoever does not take what we write is ended at any time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::phase::Phase;

/// The limits of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From a request's first byte to the end of its head.
    pub(super) headers: Duration,
    /// Doing nothing, or taking nothing of what is written.
    pub(super) idle: Duration,
}

/// What the connection is doing, and until when it may.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Handshake, or a request is being answered.
    Busy,
    /// Nothing has come since the last answer.
    Idle { until: Instant },
    /// A request has begun.
    Head { until: Instant },
    /// It was idle for too long and has been told to close.
    Closing { until: Instant },
}

/// A TCP stream with its timers.
pub(super) struct TimedStream {
    stream: TcpStream,
    patience: Patience,
    phase: Phase,
    turn: usize,
    stage: Stage,
    /// Since when nothing could be written is behind this; until when that may last.
    stalled_until: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    close: CancellationToken,
}

impl TimedStream {
    /// A stream that is busy as long as `phase` says. When it has been idle for too long, `close` is cancelled, and
    /// only then, if nobody closes it, an error ends it.
    pub(super) fn new(stream: TcpStream, patience: Patience, phase: Phase, close: CancellationToken) -> Self {
        let timer = Box::pin(sleep(patience.idle));
        let turn = phase.turn();
        Self { stream, patience, phase, turn, stage: Stage::Busy, stalled_until: None, timer, close }
    }

    /// The socket, for its options.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Notices that requests have begun or ended since the last time.
    fn follow(&mut self) {
        let turn = self.phase.turn();
        if self.phase.is_busy() {
            self.stage = Stage::Busy;
        } else if turn != self.turn {
            self.stage = Stage::Idle { until: Instant::now() + self.patience.idle };
        }
        self.turn = turn;
    }

    fn bytes_arrived(&mut self) {
        self.follow();
        if let Stage::Idle { .. } = self.stage {
            self.stage = Stage::Head { until: Instant::now() + self.patience.headers };
        }
    }

    fn bytes_left(&mut self) {
        self.stalled_until = None;
        if let Stage::Idle { until } = &mut self.stage {
            *until = Instant::now() + self.patience.idle;
        }
    }

    fn limit(&self) -> Option<Instant> {
        let of_stage = match self.stage {
            Stage::Busy => None,
            Stage::Idle { until } | Stage::Head { until } | Stage::Closing { until } => Some(until),
        };
        of_stage.into_iter().chain(self.stalled_until).min()
    }

    /// Ready when the connection must end now.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.phase.watch(cx.waker());
        self.follow();
        while let Some(limit) = self.limit() {
            // The timer is left as it is when the limit has moved on: it looks again when it fires.
            if self.timer.deadline() > limit {
                self.timer.as_mut().reset(limit);
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now < limit {
                self.timer.as_mut().reset(limit);
                continue;
            }
            let stalled = self.stalled_until.is_some_and(|until| now >= until);
            if let (Stage::Idle { .. }, false) = (self.stage, stalled) {
                self.stage = Stage::Closing { until: now + self.patience.headers };
                self.close.cancel();
            } else {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
        }
        Poll::Pending
    }

    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = result {
            if result.as_ref().is_ok_and(|count| *count > 0) {
                self.bytes_left();
            }
            return Poll::Ready(result);
        }
        if self.stalled_until.is_none() {
            self.stalled_until = Some(Instant::now() + self.patience.idle);
        }
        self.poll_limit(cx).map(Err)
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before {
                self.bytes_arrived();
            }
            return Poll::Ready(result);
        }
        self.poll_limit(cx).map(Err)
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
