//! Which sockets a policy names, for commands that ask the gateway of that policy.
//!
//! Follows no policy of another user: root, too, asks nobody only because somebody else's file says so.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::bail;

use crate::policy::{self, Admin, Purpose};

/// `[admin]` of the policy in `directory`.
///
/// # Errors
/// When it is another user's, or is not valid.
pub(in crate::cli) fn sockets(directory: &Path) -> anyhow::Result<Admin> {
    let gateway = directory.join("gateway.toml");
    let own = rustix::process::geteuid().as_raw();
    for path in [directory, &gateway] {
        // What is not there is said below.
        let owner = path.metadata().map_or(own, |found| found.uid());
        if owner != 0 && owner != own {
            let user = nix::unistd::User::from_uid(owner.into()).ok().flatten();
            let user = user.map_or_else(|| format!("#{owner}"), |user| user.name);
            bail!(
                "{} belongs to the user {user}, and what another user wrote does not decide whom this command asks: \
                 name the gateway's socket with --socket FILE, or ask as that user",
                path.display()
            );
        }
    }
    match policy::load(directory, Purpose::Operate) {
        Ok(loaded) => Ok(loaded.policy.admin),
        Err(found) => bail!(
            "which gateway to ask cannot be read from {}; --socket FILE names it, too:\n{found}",
            gateway.display()
        ),
    }
}
