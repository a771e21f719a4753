//! Which control group of version 2 this process is in, and whether that was delegated to it.
//!
//! Reads only. Without the mark that systemd puts on what it delegates (`Delegate=yes`), a group is somebody else's to
//! divide, even where this process had the right to. See `CGROUP_DELEGATION` of systemd, cgroups(7) and
//! `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The mark: root's own, and the one that others can read, too.
const MARKS: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// What the system said of a file; the number of its error is kept.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {error}", path.display())]
struct At {
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// The same error, which says where.
pub(super) fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), At { path: path.to_owned(), error })
}

/// The directory of the group that this process is in.
///
/// # Errors
/// When there is none, or it cannot be seen from here; the text says which.
pub(super) fn own() -> io::Result<PathBuf> {
    let read = |path: &str| fs::read(path).map_err(|error| at(Path::new(path), error));
    let found = find(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
    let not_found = |reason| io::Error::new(io::ErrorKind::NotFound, reason);
    let (group, found) = found.map_err(not_found)?;
    // What another mount hides is not there.
    let seen = found.into_iter().find(|path| path.join("cgroup.procs").exists());
    seen.ok_or_else(|| not_found(format!("the control group `{}` is mounted nowhere", group.display())))
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

/// The group, and where it should be seen, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn find(groups: &[u8], mounts: &[u8]) -> Result<(PathBuf, Vec<PathBuf>), String> {
    let mut lines = groups.split(|byte| *byte == b'\n');
    let Some(group) = lines.find_map(|line| line.strip_prefix(b"0::")) else {
        return Err("this machine has no control groups of version 2".into());
    };
    let group = PathBuf::from(OsString::from_vec(group.to_vec()));
    let found = mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let dash = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(dash + 1)? != b"cgroup2" {
            return None;
        }
        // What lies outside of a mount, or of this process's namespace, begins with `..`.
        let below = group.strip_prefix(path(fields.get(3)?)).ok()?;
        let is_within = !below.components().any(|part| part == std::path::Component::ParentDir);
        let mount = path(fields.get(4)?);
        // Joining nothing would end in a slash.
        is_within.then(|| mount.components().chain(below.components()).collect())
    });
    let found = found.collect();
    Ok((group, found))
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

    fn found(groups: &[u8], mounts: &str) -> Vec<String> {
        let (_, found) = find(groups, mounts.as_bytes()).unwrap();
        found.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_own_group_is_below_the_mount_that_shows_it() {
        let unified = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "37 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      38 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let service = "system.slice/bridgeward.service";
        assert_eq!(found(HYBRID, unified), [format!("/sys/fs/cgroup/{service}")]);
        assert_eq!(found(HYBRID, hybrid), [format!("/sys/fs/cgroup/unified/{service}")]);
        let part = "38 31 0:28 /system.slice /mnt/a\\040b\\134x2d rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(HYBRID, part), ["/mnt/a b\\x2d/bridgeward.service"]);
        let twice = format!("{unified}{}", unified.replace("/sys/fs/cgroup", "/new"));
        assert_eq!(found(HYBRID, &twice), [format!("/sys/fs/cgroup/{service}"), format!("/new/{service}")]);
        assert_eq!(found(b"0::/\n", unified), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn what_cannot_be_seen_is_not_found() {
        let nothing = Vec::<String>::new();
        let other = "38 31 0:28 /user.slice /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(HYBRID, other), nothing);
        assert_eq!(found(HYBRID, "38 31 0:28 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu\n"), nothing);
        let unified = "25 30 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(b"0::/../elsewhere\n", unified), nothing);
        assert_eq!(found(HYBRID, "25 30 0:23 / -\n"), nothing);
        assert!(find(b"4:memory:/a\n", unified.as_bytes()).is_err());
    }

    #[test]
    fn a_directory_without_the_mark_is_not_delegated() {
        let directory = tempfile::tempdir().unwrap();
        let refused = is_delegated(directory.path()).unwrap_err();
        assert!(refused.contains("Delegate=yes"), "{refused}");
    }
}
