//! Where messages begin and end, told apart more strictly than by the HTTP library: what two readers could understand
//! differently never reaches it.
//!
//! Stands between TLS and hyper and reads along, by RFC 9112 without its leniences. In place of the first byte that
//! breaks them hyper is given something that it refuses itself, and then the end: it answers as it does to everything
//! malformed, and closes. Knows no paths and no identities, and keeps at most the one line that is not complete yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::malformed::{Malformed, Verdict};

/// What hyper is given from a refused byte on: no head, chunk or trailer can hold a NUL, and the empty line makes it
/// look at once. The end of the stream follows.
const REFUSED: &[u8] = b"\0\r\n\r\n";
/// Most digits of a chunk's size: 64 bits.
const MOST_DIGITS: u8 = 16;

/// A stream of HTTP/1.1 requests that ends where the first one is not well-framed.
pub struct Framed<S> {
    stream: S,
    reader: Reader,
    /// What is left of [`REFUSED`] to give out; `None` as long as nothing was refused.
    refused: Option<&'static [u8]>,
    verdict: Verdict,
}

impl<S> Framed<S> {
    /// Heads larger than `largest_head` bytes are hyper's to refuse: it is asked to, with an answer of its own. `verdict`
    /// is told why the stream was refused.
    pub(super) fn new(stream: S, largest_head: usize, verdict: Verdict) -> Self {
        let reader = Reader { largest_head, head: Head::default(), part: Part::Head, unfinished: Vec::new() };
        Self { stream, reader, refused: None, verdict }
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Lines up to an empty one.
    Head,
    /// A head that is too large: the rest is not looked at, because hyper refuses it for its size.
    Beyond,
    /// This many bytes.
    Body(u64),
    /// Hexadecimal digits.
    ChunkSize { size: u64, digits: u8 },
    /// The line feed behind a chunk's size. A size with anything behind it, an extension above all, is refused.
    ChunkSizeLf(u64),
    /// This many bytes of a chunk.
    Chunk(u64),
    /// The carriage return behind a chunk; after the last chunk, that of the empty line: trailers are refused.
    ChunkCr { last: bool },
    /// The line feed behind that.
    ChunkLf { last: bool },
}

/// What a head has said so far of how the message is framed and where it goes.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    has_request_line: bool,
    is_http_1_1: bool,
    has_host: bool,
    length: Option<u64>,
    is_chunked: bool,
}

#[derive(Debug)]
struct Reader {
    largest_head: usize,
    head: Head,
    part: Part,
    /// The beginning of a head's line; at most `largest_head` bytes.
    unfinished: Vec<u8>,
}

impl Reader {
    /// Reads on.
    ///
    /// # Errors
    /// The place of the first byte that is refused, and why.
    fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Malformed)> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]).map_err(|(count, why)| (at + count, why))?;
        }
        Ok(())
    }

    /// Reads at least one of `bytes`, which are not empty; how many, or how many before the one that is refused.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, (usize, Malformed)> {
        let one = |accepted: Option<Part>, why| accepted.ok_or((0, why));
        match self.part {
            Part::Head => return self.line(bytes),
            Part::Beyond => return Ok(bytes.len()),
            Part::Body(left) => {
                let (taken, left) = skip(bytes, left);
                self.part = if left == 0 { Part::Head } else { Part::Body(left) };
                return Ok(taken);
            }
            Part::Chunk(left) => {
                let (taken, left) = skip(bytes, left);
                self.part = if left == 0 { Part::ChunkCr { last: false } } else { Part::Chunk(left) };
                return Ok(taken);
            }
            Part::ChunkSize { size, digits } => {
                let next = match char::from(bytes[0]).to_digit(16) {
                    Some(digit) if digits < MOST_DIGITS => {
                        Some(Part::ChunkSize { size: size << 4 | u64::from(digit), digits: digits + 1 })
                    }
                    None if bytes[0] == b'\r' && digits > 0 => Some(Part::ChunkSizeLf(size)),
                    Some(_) | None => None,
                };
                self.part = one(next, Malformed::Chunk)?;
            }
            Part::ChunkSizeLf(size) => {
                let next = if size == 0 { Part::ChunkCr { last: true } } else { Part::Chunk(size) };
                self.part = one((bytes[0] == b'\n').then_some(next), Malformed::Chunk)?;
            }
            Part::ChunkCr { last } => {
                self.part = one((bytes[0] == b'\r').then_some(Part::ChunkLf { last }), behind(last))?;
            }
            Part::ChunkLf { last } => {
                let next = if last { Part::Head } else { Part::ChunkSize { size: 0, digits: 0 } };
                self.part = one((bytes[0] == b'\n').then_some(next), behind(last))?;
            }
        }
        Ok(1)
    }

    /// Reads up to the end of a head's line.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, (usize, Malformed)> {
        let feed = memchr(b'\n', bytes);
        let taken = feed.map_or(bytes.len(), |feed| feed + 1);
        self.head.bytes += taken;
        if self.head.bytes > self.largest_head {
            self.part = Part::Beyond;
            self.unfinished = Vec::new();
            return Ok(taken);
        }
        let Some(feed) = feed else {
            self.unfinished.extend_from_slice(bytes);
            return Ok(taken);
        };
        let earlier;
        let line = if self.unfinished.is_empty() {
            &bytes[..feed]
        } else {
            earlier = [&std::mem::take(&mut self.unfinished)[..], &bytes[..feed]].concat();
            &earlier[..]
        };
        let judged = line.strip_suffix(b"\r").ok_or(Malformed::LineEnd).and_then(|line| {
            if !line.is_empty() {
                self.head.say(line)
            } else if self.head.has_request_line {
                self.part = std::mem::take(&mut self.head).end()?;
                Ok(())
            } else {
                // An empty line before a request is left out, as RFC 9112 section 2.2 asks.
                Ok(())
            }
        });
        judged.map(|()| taken).map_err(|why| (feed, why))
    }
}

impl Head {
    /// Takes in a line that is not empty. What is no header at all is left to hyper, which refuses it.
    fn say(&mut self, line: &[u8]) -> Result<(), Malformed> {
        if !self.has_request_line {
            self.has_request_line = true;
            self.is_http_1_1 = line.ends_with(b" HTTP/1.1");
            // A fragment is no part of a request target, and would be cut off (RFC 9112, section 3.2).
            return refuse_if(memchr(b'#', line).is_some(), Malformed::Fragment);
        }
        let Some(colon) = memchr(b':', line) else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"host") {
            refuse_if(std::mem::replace(&mut self.has_host, true), Malformed::Host)
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = length(value).ok_or(Malformed::Length)?;
            refuse_if(self.length.replace(length).is_some(), Malformed::Length)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            refuse_if(
                std::mem::replace(&mut self.is_chunked, true) || !value.eq_ignore_ascii_case(b"chunked"),
                Malformed::Encoding,
            )
        } else {
            refuse_if(name.eq_ignore_ascii_case(b"upgrade"), Malformed::Upgrade)
        }
    }

    /// What follows this head.
    fn end(self) -> Result<Part, Malformed> {
        refuse_if(self.is_http_1_1 && !self.has_host, Malformed::Host)?;
        match (self.length, self.is_chunked) {
            (Some(_), true) => Err(Malformed::LengthAndEncoding),
            (None, true) => Ok(Part::ChunkSize { size: 0, digits: 0 }),
            (None | Some(0), false) => Ok(Part::Head),
            (Some(length), false) => Ok(Part::Body(length)),
        }
    }
}

fn refuse_if(wrong: bool, why: Malformed) -> Result<(), Malformed> {
    if wrong { Err(why) } else { Ok(()) }
}

/// What it is that stands in place of the end of a chunk.
fn behind(last: bool) -> Malformed {
    if last { Malformed::Trailer } else { Malformed::Chunk }
}

/// Digits alone: no sign, no list of equal numbers.
fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// How many of `left` bytes are here, and how many are still to come.
fn skip(bytes: &[u8], left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (taken, left - taken as u64)
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refused.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            let Err((at, why)) = this.reader.read(&buffer.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            this.verdict.refuse(why);
            buffer.set_filled(before + at);
        }
        let left = this.refused.unwrap_or(REFUSED);
        let (now, later) = left.split_at(left.len().min(buffer.remaining()));
        buffer.put_slice(now);
        this.refused = Some(later);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGEST: usize = 256;

    fn reader() -> Reader {
        Framed::new((), LARGEST, Verdict::default()).reader
    }

    /// Where the reading stops, when the bytes come all at once.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        reader().read(bytes).err().map(|(at, _)| at)
    }

    fn head(lines: &str) -> String {
        format!("POST /x HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n")
    }

    #[test]
    fn messages_one_after_the_other_are_read_to_their_ends() {
        let chunked = "Transfer-Encoding: Chunked\r\n";
        for accepted in [
            head(""),
            head("content-length: 0\r\n"),
            head("Content-Length:\t5 \r\n") + "12345",
            head("content-length: 005\r\n") + "12345",
            head(chunked) + "0\r\n\r\n",
            head(chunked) + "5\r\n12345\r\n0A\r\n1234567890\r\n000\r\n\r\n",
            "\r\n\r\n".to_owned() + &head(""),
            "GET / HTTP/1.0\r\n\r\n".to_owned(),
            "OPTIONS * HTTP/1.1\r\nhost:\r\n\r\n".to_owned(),
        ] {
            // A second message shows that the first one's end was found.
            let twice = accepted.repeat(2) + "\n";
            assert_eq!(refused_at(twice.as_bytes()), Some(twice.len() - 1), "{accepted:?}");
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused_at_once() {
        let chunked = "transfer-encoding: chunked\r\n";
        for (row, marked) in [
            "GET / HTTP/1.1|\nhost: localhost\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nhost: localhost|\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nhost: localhost\r\n|\n".to_owned(),
            "|\nGET / HTTP/1.1\r\n".to_owned(),
            "GET /x#y HTTP/1.1\r|\n".to_owned(),
            "GET / HTTP/1.1\r\n\r|\n".to_owned(),
            head("host: localhost\r|\n"),
            head("Host: other\r|\n"),
            head("upgrade: h2c\r|\n"),
            head("content-length: 1\r\ncontent-length: 1\r|\n"),
            head("content-length: 1, 1\r|\n"),
            head("content-length: +1\r|\n"),
            head("content-length: -1\r|\n"),
            head("content-length: 1 1\r|\n"),
            head("content-length: 0x1\r|\n"),
            head("content-length:\r|\n"),
            head("content-length: 18446744073709551616\r|\n"),
            head("content-length: \u{664}\r|\n"),
            head("transfer-encoding: identity\r|\n"),
            head("transfer-encoding: gzip, chunked\r|\n"),
            head("transfer-encoding: chunked, chunked\r|\n"),
            head("transfer-encoding: xchunked\r|\n"),
            head(&(chunked.to_owned() + "transfer-encoding: chunked\r|\n")),
            head("content-length: 0\r\ntransfer-encoding: chunked\r\n\r|\n"),
            head("transfer-encoding: chunked\r\ncontent-length: 0\r\n\r|\n"),
            head(chunked) + "1|;a=b\r\n1\r\n0\r\n\r\n",
            head(chunked) + "1| \r\n1\r\n0\r\n\r\n",
            head(chunked) + "|\r\n",
            head(chunked) + "|+1\r\n",
            head(chunked) + "|-1\r\n",
            head(chunked) + "0|x1\r\n",
            head(chunked) + "1|\n1\r\n",
            head(chunked) + "1\r|1",
            head(chunked) + "0000000000000001|0\r\n",
            head(chunked) + "1\r\n1|2\r\n",
            head(chunked) + "1\r\n1|\n",
            head(chunked) + "1\r\n1\r|1",
            head(chunked) + "0\r\n|signature: x\r\n\r\n",
            head(chunked) + "0\r\n|\n",
            head(chunked) + "0\r\n\r|x",
        ]
        .into_iter()
        .enumerate()
        {
            let at = marked.find('|').unwrap();
            assert_eq!(refused_at(marked.replacen('|', "", 1).as_bytes()), Some(at), "{row}: {marked:?}");
        }
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let chunks = head("transfer-encoding: chunked\r\n");
        for (bytes, why) in [
            ("GET / HTTP/1.1\n".to_owned(), Malformed::LineEnd),
            ("GET /#x HTTP/1.1\r\n".to_owned(), Malformed::Fragment),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), Malformed::Host),
            (head("host: x\r\n"), Malformed::Host),
            (head("content-length: x\r\n"), Malformed::Length),
            (head("content-length: 1\r\ncontent-length: 1\r\n"), Malformed::Length),
            (head("transfer-encoding: gzip\r\n"), Malformed::Encoding),
            (head("content-length: 1\r\ntransfer-encoding: chunked\r\n"), Malformed::LengthAndEncoding),
            (head("upgrade: h2c\r\n"), Malformed::Upgrade),
            (format!("{chunks}1;a\r\n"), Malformed::Chunk),
            (format!("{chunks}1\r\n12"), Malformed::Chunk),
            (format!("{chunks}0\r\nx: y\r\n"), Malformed::Trailer),
            (format!("{chunks}0\r\n\rx"), Malformed::Trailer),
        ] {
            assert_eq!(reader().read(bytes.as_bytes()).unwrap_err().1, why, "{bytes:?}");
        }
    }

    #[test]
    fn i7_no_line_is_kept_beyond_the_largest_head() {
        let mut reader = reader();
        for _ in 0..LARGEST {
            assert_eq!(reader.read(b"xxx"), Ok(()));
            assert!(reader.unfinished.capacity() <= 2 * LARGEST);
        }
        assert!(matches!(reader.part, Part::Beyond) && reader.unfinished.is_empty());
        let mut largest = head("");
        largest.insert_str(largest.len() - 2, &format!("x: {}\r\n", "y".repeat(LARGEST - largest.len() - 5)));
        assert_eq!(largest.len(), LARGEST);
        assert_eq!(refused_at((largest + "\n").as_bytes()), Some(LARGEST));
    }

    #[tokio::test]
    async fn what_was_refused_is_followed_by_nothing() {
        use tokio::io::AsyncReadExt as _;
        for (sent, passed) in [("GET / HTTP/1.1\nhost: x\r\n\r\n", "GET / HTTP/1.1"), ("\n", "")] {
            let mut got = Vec::new();
            let verdict = Verdict::default();
            let mut framed = Framed::new(sent.as_bytes(), LARGEST, verdict.clone());
            framed.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, [passed.as_bytes(), REFUSED].concat());
            assert_eq!(verdict.of(&Ok(())), Some(Malformed::LineEnd));
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(
            parts in proptest::collection::vec(prop_oneof![
                Just("POST / HTTP/1.1\r\n"), Just("host: a\r\n"), Just("\r\n"), Just("\n"), Just("content-length: 3\r\n"),
                Just("transfer-encoding: chunked\r\n"), Just("3\r\n"), Just("abc"), Just("0\r\n"), Just("\r"), Just("x: y\r\n"),
            ], 0..20),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let bytes = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut reader = reader();
            let piecewise = cuts.windows(2).find_map(|cut| {
                reader.read(&bytes[cut[0]..cut[1]]).err().map(|(at, _)| cut[0] + at)
            });
            prop_assert_eq!(piecewise, refused_at(&bytes));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = refused_at(&bytes);
        }
    }
}
