//! What a command writes: read to its end, kept up to the run's limit, counted beyond it, and logged line by line.
//!
//! Memory is bounded by the limit however much is written. Only what is kept is logged, so that a flood fills no
//! journal; control characters never reach the log as they are.

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::domain::argv::Argv;
use crate::domain::printable::printable;
use crate::queue::output::Live;

/// How much is read at once, in bytes: a quarter of a pipe.
const CHUNK: usize = 16 * 1024;
/// Longest piece of a line in one log record, in bytes; what is longer goes on in the next.
const LONGEST_LINE: usize = 2 * 1024;

/// How much of its commands' output a run may still keep, and where that is seen while they run.
#[derive(Debug)]
pub struct Room {
    left: usize,
    live: Option<Live>,
}

impl Room {
    /// For this many bytes, which nobody sees before the end.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { left: bytes, live: None }
    }

    /// For this many bytes, which are shown at once.
    pub(super) fn live(bytes: usize, live: Option<Live>) -> Self {
        Self { left: bytes, live }
    }

    /// A step begins.
    pub(super) fn begin(&self, step: usize, argv: &Argv) {
        if let Some(live) = &self.live {
            live.begin(step, argv);
        }
    }
}

/// The output of one step.
pub(super) struct Output<'a> {
    pipe: Option<Receiver>,
    chunk: Box<[u8]>,
    kept: Kept<'a>,
}

/// The part of the output that is kept, and how much there was beyond.
struct Kept<'a> {
    room: &'a mut Room,
    bytes: Vec<u8>,
    dropped: u64,
    lines: Lines,
    step: usize,
}

impl<'a> Output<'a> {
    /// Reads from `pipe`; `room` is how many bytes the run may still keep, and shrinks.
    pub(super) fn new(pipe: Receiver, step: usize, room: &'a mut Room) -> Self {
        let kept = Kept { room, bytes: Vec::new(), dropped: 0, lines: Lines::default(), step };
        Self { pipe: Some(pipe), chunk: vec![0; CHUNK].into(), kept }
    }

    /// Reads until every writer has closed the pipe. Nothing is lost when this is dropped midway and called again.
    pub(super) async fn read_to_end(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut self.chunk).await {
                Ok(0) => self.pipe = None,
                Ok(length) => self.kept.take(&self.chunk[..length]),
                Err(error) => {
                    tracing::warn!(step = self.kept.step, %error, "the output cannot be read any more");
                    self.pipe = None;
                }
            }
        }
    }

    /// Closes the pipe: what was kept, and how many bytes were not.
    pub(super) fn close(mut self) -> (Vec<u8>, u64) {
        self.kept.end_line();
        (self.kept.bytes, self.kept.dropped)
    }
}

impl Kept<'_> {
    fn take(&mut self, chunk: &[u8]) {
        let (keep, beyond) = chunk.split_at(chunk.len().min(self.room.left));
        self.room.left -= keep.len();
        if let Some(live) = &self.room.live {
            live.wrote(keep);
        }
        self.bytes.extend_from_slice(keep);
        let step = self.step;
        self.lines.push(keep, &mut |line| log(step, line));
        if !beyond.is_empty() && self.dropped == 0 {
            self.end_line();
            tracing::warn!(step, "the output limit is reached; more is counted, not kept");
        }
        self.dropped = self.dropped.saturating_add(u64::try_from(beyond.len()).unwrap_or(u64::MAX));
    }

    fn end_line(&mut self) {
        let step = self.step;
        self.lines.end(&mut |line| log(step, line));
    }
}

fn log(step: usize, line: &str) {
    tracing::info!(step, line, "output");
}

/// Cuts bytes into lines that are fit for a log.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], log: &mut impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            let mut text = text;
            while self.partial.len() + text.len() > LONGEST_LINE {
                let (head, rest) = text.split_at(LONGEST_LINE - self.partial.len());
                self.partial.extend_from_slice(head);
                self.emit(log);
                text = rest;
            }
            self.partial.extend_from_slice(text);
            if ends {
                self.emit(log);
            }
        }
    }

    fn end(&mut self, log: &mut impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.emit(log);
        }
    }

    fn emit(&mut self, log: &mut impl FnMut(&str)) {
        log(&printable(&String::from_utf8_lossy(&self.partial), false));
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut logged = Vec::new();
        for chunk in chunks {
            lines.push(chunk, &mut |line| logged.push(line.to_owned()));
            assert!(lines.partial.len() <= LONGEST_LINE);
        }
        lines.end(&mut |line| logged.push(line.to_owned()));
        logged
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut_into_chunks() {
        let text = b"one\n\ntwo\nlast";
        let whole = lines(&[text]);
        assert_eq!(whole, ["one", "", "two", "last"]);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes), whole);
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let long = vec![b'x'; 2 * LONGEST_LINE + 1];
        let lengths: Vec<usize> = lines(&[&long, b"\n"]).iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 1]);
    }

    #[test]
    fn nothing_in_a_line_can_forge_the_log() {
        let hostile = b"\x1b[2J\r\x07\xff\xe2\x80\xae\tok \xc3\xa9\n";
        assert_eq!(lines(&[hostile]), ["\\u{1b}[2J\\r\\u{7}\u{fffd}\\u{202e}\\tok é"]);
    }

    #[tokio::test]
    async fn a_flood_is_counted_but_not_kept() {
        let (reader, writer) = std::io::pipe().unwrap();
        let flood = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            (0..100).for_each(|_| (&writer).write_all(&[b'x'; 50_000]).unwrap());
        });
        let mut room = Room::new(70_000);
        let mut output = Output::new(Receiver::from_owned_fd(reader.into()).unwrap(), 1, &mut room);
        output.read_to_end().await;
        assert!(output.kept.bytes.capacity() < 200_000);
        let (kept, dropped) = output.close();
        assert_eq!((kept.len(), dropped, room.left), (70_000, 5_000_000 - 70_000, 0));
        flood.await.unwrap();
    }
}
