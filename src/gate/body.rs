//! Reads a request's body, bounded in size, in time, and together with all other bodies.
//!
//! Looks at no byte of it. Whatever goes wrong is a value that is judged after identity, so that it tells nothing
//! about the path.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body as Incoming, HttpBody as _};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::stage::{Body, Whole};

/// The bodies of all requests together are at their limit.
#[derive(Debug)]
pub(super) struct Exhausted;

/// Bounds of one body and of all.
pub(super) struct Bounds {
    /// `limits.body`
    pub(super) each: usize,
    /// `limits.request`
    pub(super) within: Duration,
    /// `limits.bodies`, a permit a byte
    pub(super) together: Arc<Semaphore>,
}

/// Reads one body.
///
/// # Errors
/// When all bodies together are at their limit.
pub(super) async fn read(body: Incoming, bounds: &Bounds) -> Result<Body, Exhausted> {
    // What announces itself as too large is not read, and `100 Continue` is not sent for it.
    if body.size_hint().lower() > bounds.each as u64 {
        return Ok(Body::TooLarge);
    }
    tokio::time::timeout(bounds.within, collect(body, bounds)).await.unwrap_or(Ok(Body::TooSlow))
}

async fn collect(mut body: Incoming, bounds: &Bounds) -> Result<Body, Exhausted> {
    let mut whole = Whole { bytes: Vec::new(), _share: None };
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Ok(Body::Broken(cause(&error))),
        };
        // Trailers do not get here; if they did, nothing of them could be covered by a signature.
        let Ok(data) = frame.into_data() else { return Ok(Body::Broken("it has trailers".to_owned())) };
        if data.is_empty() {
            continue;
        }
        if data.len() > bounds.each - whole.bytes.len() {
            return Ok(Body::TooLarge);
        }
        let share = share(&bounds.together, data.len())?;
        match &mut whole._share {
            Some(held) => held.merge(share),
            none @ None => *none = Some(share),
        }
        whole.bytes.extend_from_slice(&data);
    }
    Ok(Body::Whole(whole))
}

/// The innermost of what an error is made of.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

fn share(together: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Exhausted> {
    let bytes = u32::try_from(bytes).map_err(|_| Exhausted)?;
    Arc::clone(together).try_acquire_many_owned(bytes).map_err(|_| Exhausted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use futures_util::stream;

    fn bounds(each: usize, together: usize) -> Bounds {
        Bounds { each, within: Duration::from_secs(5), together: Arc::new(Semaphore::new(together)) }
    }

    fn chunks(sizes: &[usize]) -> Incoming {
        let sizes = sizes.to_vec();
        Incoming::from_stream(stream::iter(
            sizes.into_iter().map(|size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size]))),
        ))
    }

    #[tokio::test]
    async fn i7_a_body_is_bounded_alone_and_together() {
        let bounds = bounds(10, 15);
        let held = read(chunks(&[4, 6]), &bounds).await.unwrap();
        assert_eq!(held.whole().map(<[u8]>::len), Some(10));
        assert!(matches!(read(chunks(&[4, 7]), &bounds).await, Ok(Body::TooLarge)));
        assert!(matches!(read(Incoming::from(vec![0; 11]), &bounds).await, Ok(Body::TooLarge)));
        assert!(matches!(read(chunks(&[6]), &bounds).await, Err(Exhausted)));
        drop(held);
        assert!(matches!(read(chunks(&[6]), &bounds).await, Ok(Body::Whole(_))));
        assert_eq!(bounds.together.available_permits(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn i7_a_body_that_does_not_come_is_not_waited_for() {
        let never = Incoming::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert!(matches!(read(never, &bounds(10, 10)).await, Ok(Body::TooSlow)));
    }

    #[tokio::test]
    async fn a_broken_body_is_not_a_whole_one() {
        let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("reset"))]);
        let read = read(Incoming::from_stream(broken), &bounds(10, 10)).await;
        assert!(matches!(read, Ok(Body::Broken(how)) if how == "reset"));
    }
}
