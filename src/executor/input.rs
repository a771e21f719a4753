//! What commands read on standard input: a body, in a file that has no name and never changes.
//!
//! A file rather than a pipe: nobody has to feed it, so a command that reads nothing, or little, holds nobody up.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::domain::body::Body;

/// A body in memory; it is gone with the last descriptor.
#[derive(Debug)]
pub struct Input(File);

impl Input {
    /// A file that holds this body.
    ///
    /// # Errors
    /// When the system has no room or no descriptor for it.
    pub fn holding(body: &Body) -> io::Result<Self> {
        let mut file = File::from(unnamed()?);
        file.write_all(body.bytes())?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self(file))
    }

    /// A descriptor that reads it from its beginning: an opening of its own, so that no command moves another's place.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?.into())
    }
}

/// Nobody executes it, where the kernel knows how to refuse that (Linux 6.3).
fn unnamed() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("body", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create("body", flags)?),
        made => Ok(made?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn each_opening_reads_all_of_it_and_none_can_change_it() {
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let input = Input::holding(&bytes.clone().into()).unwrap();
        for _ in 0..2 {
            let mut file = File::from(input.open().unwrap());
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(read == bytes);
            assert!(file.write_all(b"x").is_err());
            assert!(file.set_len(1).is_err());
        }
        let path = format!("/proc/self/fd/{}", input.0.as_raw_fd());
        let written =
            std::fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"x"));
        assert!(written.is_err());
        assert!((&input.0).write_all(b"x").is_err());
    }
}
