//! `[admin]`: where operators reach the gateway; and what holds for every Unix socket.
//!
//! Only paths are judged here; whether something listens there already is found out when the gateway starts.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::{Decoded, Table, Value};
use crate::policy::Admin;
use crate::policy::files::{Files, Surroundings};
use crate::policy::opening::NotOpened;

/// The kernel's limit for the path of a Unix socket, in bytes, without the zero at its end.
const LONGEST_SOCKET: usize = 107;

pub(super) fn decode(table: &mut Table<'_>, files: &Files) -> Decoded<Admin> {
    let purpose = files.purpose();
    let own = table.optional("socket", |value| socket(value, files, purpose.listens()));
    let work = table.optional("work_socket", |value| socket(value, files, purpose.works()));
    table.unsupported("address");
    table.unsupported("allow");
    Ok(Admin { socket: own?, work_socket: work? })
}

/// A socket that is made at each start, by this process if `made`. Its directory may be one that systemd makes only then.
pub(super) fn socket(value: Value<'_>, files: &Files, made: bool) -> Decoded<PathBuf> {
    let path = value.path()?;
    if path.as_os_str().as_bytes().len() > LONGEST_SOCKET {
        return Err(value.refuse(format_args!("the path of a socket has at most {LONGEST_SOCKET} bytes")));
    }
    if !made {
        return Ok(path);
    }
    match files.may_be_created(&path) {
        Ok((path, Surroundings::Private)) => Ok(path),
        Ok((path, Surroundings::Shared)) => {
            let help = "give it a directory of its own";
            let message = "the socket is in a directory in which others may make files, too";
            value.page().warn(value.place(), message, help);
            Ok(path)
        }
        Err(NotOpened::Missing(missing)) => {
            let help = "make it before the gateway starts: systemd does so with RuntimeDirectory=bridgeward";
            value.page().warn(value.place(), format!("there is no directory `{}`", missing.display()), help);
            Ok(path)
        }
        Err(error) => Err(value.refuse(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::policy::tests::{GATEWAY, ROUTE, compile, findings};

    fn with(lines: &str) -> Vec<String> {
        findings(&format!("{GATEWAY}\n[admin]\n{lines}"), &[("r", ROUTE)])
    }

    #[test]
    fn a_socket_is_a_path_and_without_one_there_is_none() {
        let text =
            format!("{GATEWAY}\n[admin]\nsocket = \"run/admin.sock\"\nwork_socket = \"/run/work.sock\"");
        let policy = compile(&text, &[("r", ROUTE)]).unwrap().policy;
        assert_eq!(policy.admin.socket.as_deref(), Some(Path::new("/policy/run/admin.sock")));
        assert_eq!(policy.admin.work_socket.as_deref(), Some(Path::new("/run/work.sock")));
        for text in [GATEWAY.to_owned(), format!("{GATEWAY}\n[admin]")] {
            assert_eq!(compile(&text, &[("r", ROUTE)]).unwrap().policy.admin.socket, None);
        }
    }

    #[test]
    fn what_is_wrong_or_not_built_is_refused() {
        let long = format!("socket = \"/{}\"", "x".repeat(107));
        for (lines, finding) in [
            ("socket = 1", "`socket`: takes a string, not an integer"),
            ("socket = \"\"", "`socket`: the path of a file"),
            (long.as_str(), "`socket`: the path of a socket has at most 107 bytes"),
            ("sockets = \"/x\"", "unknown key `sockets` in `[admin]`"),
            ("work_socket = []", "`work_socket`: takes a string, not an array"),
            ("address = \"[::]:1\"", "`address` is not supported yet in `[admin]`"),
            ("allow = []", "`allow` is not supported yet in `[admin]`"),
        ] {
            assert_eq!(with(lines), [finding], "{lines}");
        }
        assert_eq!(with(&format!("socket = \"/{}\"", "x".repeat(106))), [""; 0]);
    }
}
