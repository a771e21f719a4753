//! Which control group of version 2 this process is in, and whether that was delegated to it.
//!
//! Reads only. Without the mark that systemd puts on what it delegates (`Delegate=yes`), a group is somebody else's to
//! divide, even where this process had the right to. See `CGROUP_DELEGATION` of systemd, cgroups(7) and
//! `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// The mark: root's own, and the one that others can read, too.
const MARKS: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// The directory of the group that this process is in.
///
/// # Errors
/// When there is none, or it cannot be seen from here; the text says which.
pub(super) fn own() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read(path).map_err(|error| format!("`{path}`: {error}"));
    find(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
}

/// # Errors
/// When it is not; the text says what to do about it.
pub(super) fn is_delegated(directory: &Path) -> Result<(), String> {
    let is_marked = MARKS.iter().any(|mark| {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(directory, *mark, &mut value);
        length.is_ok_and(|length| &value[..length] == b"1")
    });
    if is_marked {
        return Ok(());
    }
    Err(format!(
        "`{}` is not delegated to it; in its systemd unit, `Delegate=yes` does that",
        directory.display()
    ))
}

/// From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn find(groups: &[u8], mounts: &[u8]) -> Result<PathBuf, String> {
    let mut lines = groups.split(|byte| *byte == b'\n');
    let Some(group) = lines.find_map(|line| line.strip_prefix(b"0::")) else {
        return Err("this machine has no control groups of version 2".into());
    };
    let group = PathBuf::from(OsString::from_vec(group.to_vec()));
    // A later mount may hide an earlier one.
    let found = mounts.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(dash + 1)? != b"cgroup2" {
            return None;
        }
        // What lies outside of a mount, or of this process's namespace, begins with `..`.
        let below = group.strip_prefix(path(fields.get(3)?)).ok()?;
        let is_within = !below.components().any(|part| part == std::path::Component::ParentDir);
        is_within.then(|| path(fields[4]).join(below))
    });
    found.ok_or_else(|| format!("the control group `{}` is mounted nowhere", group.display()))
}

/// A path of mountinfo, in which blanks and backslashes are octal.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, more @ ..] = rest {
        let digits = more.first_chunk::<3>().filter(|_| *first == b'\\');
        let octal = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &more[3..] } else { more };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"1:name=systemd:/a\n0::/system.slice/bridgeward.service\n";

    fn found(groups: &[u8], mounts: &str) -> Option<String> {
        find(groups, mounts.as_bytes()).ok().map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_own_group_is_below_the_mount_that_shows_it() {
        let unified = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "37 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      38 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let service = "system.slice/bridgeward.service";
        assert_eq!(found(HYBRID, unified), Some(format!("/sys/fs/cgroup/{service}")));
        assert_eq!(found(HYBRID, hybrid), Some(format!("/sys/fs/cgroup/unified/{service}")));
        let part = "38 31 0:28 /system.slice /mnt/a\\040b\\134x2d rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(HYBRID, part).as_deref(), Some("/mnt/a b\\x2d/bridgeward.service"));
        let hidden = format!("{unified}{}", unified.replace("/sys/fs/cgroup", "/new"));
        assert_eq!(found(HYBRID, &hidden), Some(format!("/new/{service}")));
        let root = find(b"0::/\n", unified.as_bytes()).unwrap();
        assert_eq!(root, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn what_cannot_be_seen_is_not_found() {
        let other = "38 31 0:28 /user.slice /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(HYBRID, other), None);
        assert_eq!(found(HYBRID, "38 31 0:28 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu\n"), None);
        let unified = "25 30 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(b"0::/../elsewhere\n", unified), None);
        assert_eq!(found(b"4:memory:/a\n", unified), None);
        assert_eq!(found(HYBRID, "25 30 0:23 / -\n"), None);
    }

    #[test]
    fn a_directory_without_the_mark_is_not_delegated() {
        let directory = tempfile::tempdir().unwrap();
        let refused = is_delegated(directory.path()).unwrap_err();
        assert!(refused.contains("Delegate=yes"), "{refused}");
    }
}
