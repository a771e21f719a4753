//! Places for connections, first come, first served.
//!
//! How many there are may change while some are taken. Whom they are for is not known here.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Places, of which none is there before [`Room::resize`].
pub(super) struct Room {
    pub(super) places: Arc<Semaphore>,
    size: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(0)), size: 0 }
    }
}

impl Room {
    /// Makes it as large as `size`; places that are taken go when they are given back.
    pub(super) fn resize(&mut self, size: usize) {
        let size = size.min(Semaphore::MAX_PERMITS);
        if size > self.size {
            self.places.add_permits(size - self.size);
            self.size = size;
        } else {
            self.size -= self.places.forget_permits(self.size - size);
        }
    }
}
