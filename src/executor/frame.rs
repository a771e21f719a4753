//! What worker, launcher and supervisors say to each other: a length, as much JSON, and descriptors beside it.
//!
//! Strict and bounded: a frame that is too long, cut off or not of the expected type ends the conversation. Knows nothing
//! of what is said. One side is asynchronous (the worker), the other blocks (processes that do nothing else).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

/// Longest frame, in bytes of JSON: more than the kernel takes as the arguments and environment of a process.
const LONGEST: usize = 8 << 20;
/// Most descriptors beside a frame.
const MOST_DESCRIPTORS: usize = 2;
/// The length, little-endian.
const HEAD: usize = 4;

/// The bytes of a frame.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEAD];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - HEAD;
    match u32::try_from(length) {
        Ok(head) if length <= LONGEST => frame[..HEAD].copy_from_slice(&head.to_le_bytes()),
        Ok(_) | Err(_) => return Err(io::Error::from_raw_os_error(libc::E2BIG)),
    }
    Ok(frame)
}

fn length(head: [u8; HEAD]) -> io::Result<usize> {
    match usize::try_from(u32::from_le_bytes(head)) {
        Ok(length) if length <= LONGEST => Ok(length),
        Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long")),
    }
}

/// Sends a frame, and blocks until it is sent.
pub(super) fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Receives a frame and the descriptors beside it, and blocks until it is whole; `None` at the end of the conversation.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut head = [0; HEAD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(stream, &mut [IoSliceMut::new(&mut head)], &mut beside, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let mut stream = stream;
    stream.read_exact(&mut head[received.bytes..])?;
    let mut body = vec![0; length(head)?];
    stream.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

/// The worker's end of a conversation.
#[derive(Debug)]
pub(super) struct Link {
    stream: tokio::net::UnixStream,
    bytes: Vec<u8>,
}

impl Link {
    /// A conversation, and the other side's end of it.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(ours)?;
        Ok((Self { stream, bytes: Vec::new() }, theirs.into()))
    }

    /// Sends a frame and copies of descriptors beside it.
    pub(super) async fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let frame = encode(message)?;
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::other("too many descriptors beside a frame"));
            }
            let sent =
                sendmsg(self.stream.as_fd(), &[IoSlice::new(&frame)], &mut beside, SendFlags::NOSIGNAL);
            Ok(sent?)
        };
        let sent = self.stream.async_io(Interest::WRITABLE, send).await?;
        self.stream.write_all(&frame[sent..]).await
    }

    /// The next frame; `None` at the end of the conversation. Nothing is lost when this is dropped midway.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(frame) = self.received()? {
                return Ok(Some(frame));
            }
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Says that nothing more will be sent. What the other side still says can be received.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// The next frame, if it has been received already.
    pub(super) fn received<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(head) = self.bytes.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let end = HEAD + length(*head)?;
        let Some(body) = self.bytes.get(HEAD..end) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..end);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_with_their_descriptors() {
        let (mut link, theirs) = Link::pair().unwrap();
        let theirs = UnixStream::from(theirs);
        let long = "x".repeat(1 << 20);
        let answer = std::thread::spawn(move || {
            let (first, beside) = receive::<String>(&theirs).unwrap().unwrap();
            let (second, none) = receive::<String>(&theirs).unwrap().unwrap();
            assert_eq!((beside.len(), none.len()), (1, 0));
            let flags = rustix::io::fcntl_getfd(&beside[0]).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            send(&theirs, &first).unwrap();
            send(&theirs, &second.len()).unwrap();
            assert!(receive::<String>(&theirs).unwrap().is_none(), "the end");
        });
        let file = tempfile::tempfile().unwrap();
        link.send(&"first", &[file.as_fd()]).await.unwrap();
        link.send(&long, &[]).await.unwrap();
        assert_eq!(link.next::<String>().await.unwrap().as_deref(), Some("first"));
        assert_eq!(link.next::<usize>().await.unwrap(), Some(1 << 20));
        drop(link);
        answer.join().unwrap();
    }

    #[tokio::test]
    async fn what_is_no_frame_ends_the_conversation() {
        for bytes in [&[0xff, 0xff, 0xff, 0x7f][..], &[1, 0, 0, 0, b'{'], &[2, 0, 0, 0, b'{', b'}']] {
            let (mut link, theirs) = Link::pair().unwrap();
            let mut theirs = UnixStream::from(theirs);
            theirs.write_all(bytes).unwrap();
            assert!(link.next::<String>().await.is_err(), "{bytes:?}");
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            drop(ours);
            assert!(receive::<String>(&theirs).is_err(), "{bytes:?}");
        }
        let (cut_off, theirs) = UnixStream::pair().unwrap();
        (&cut_off).write_all(&[9, 0, 0]).unwrap();
        drop(cut_off);
        assert!(receive::<String>(&theirs).is_err());
        assert!(encode(&"x".repeat(LONGEST)).is_err());
    }
}
