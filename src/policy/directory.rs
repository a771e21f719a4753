//! Finds and reads the files of a policy directory: `gateway.toml` and `routes/<name>.toml`.
//!
//! Dot-files are left alone; anything else in `routes/` that is not a route's file is an error, because whoever put it
//! there expects it to do something.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::diagnostic::{Diagnostics, Finding, Place, SourceText};
use super::opening::{self, Kind, NotOpened};
use super::rights::Caller;
use crate::domain::name::RouteName;

/// What a policy directory must hold.
const EXPECTED: &str = "a policy directory holds `gateway.toml` and `routes/<name>.toml`";

/// The text of a policy's files.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// `None` when it could not be read, which was said.
    pub(super) gateway: Option<(PathBuf, String)>,
    /// In the order of their names.
    pub(super) routes: Vec<RouteText>,
    /// Where routes are looked for.
    pub(super) routes_directory: PathBuf,
    /// Whether a file of a route could not be read, which was said.
    pub(super) unread_routes: bool,
}

/// The text of one `routes/<name>.toml`.
#[derive(Debug)]
pub(super) struct RouteText {
    /// The file's name without `.toml`; whether it is a route's name is asked when the text is read.
    pub(super) stem: String,
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Texts {
    /// Gives each file the path that it would have in the directory `place`, which need not be there yet.
    pub(super) fn stand_in(&mut self, place: &Path, caller: &Caller, found: &mut Diagnostics) {
        let place = match std::path::absolute(place) {
            Ok(absolute) => absolute,
            Err(error) => return found.error_in_directory(place, error.to_string()),
        };
        match opening::directory(&place, caller) {
            Ok(_) | Err(NotOpened::Missing(_)) => {}
            Err(error) => found.error_in_directory(&place, error.to_string()),
        }
        self.routes_directory = place.join("routes");
        if let Some((path, _)) = &mut self.gateway {
            *path = place.join("gateway.toml");
        }
        for route in &mut self.routes {
            route.path = self.routes_directory.join(format!("{}.toml", route.stem));
        }
    }

    /// SHA-256 of all that is written, in hexadecimal digits; lengths keep the parts apart.
    pub(super) fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let gateway = self.gateway.iter().map(|(_, text)| ["gateway", text.as_str()]);
        let routes = self.routes.iter().map(|route| [route.stem.as_str(), route.text.as_str()]);
        for part in gateway.chain(routes).flatten() {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Reads what can be read, and says what cannot.
pub(super) fn read(directory: &Path, caller: &Caller) -> (Texts, Diagnostics) {
    let mut found = Diagnostics::default();
    let mut texts = Texts { unread_routes: true, ..Texts::default() };
    let directory = match std::path::absolute(directory) {
        Ok(absolute) => absolute,
        Err(error) => {
            found.error_in_directory(directory, format!("{error}; {EXPECTED}"));
            return (texts, found);
        }
    };
    texts.routes_directory = directory.join("routes");
    if let Err(error) = opening::directory(&directory, caller) {
        let is_there = !matches!(error, NotOpened::Missing(_)) && !directory.is_file();
        let message = if is_there { error.to_string() } else { format!("{error}; {EXPECTED}") };
        found.error_in_directory(&directory, message);
        return (texts, found);
    }
    let gateway = directory.join("gateway.toml");
    if gateway.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        found.error_in_file(&gateway, format!("there is no `gateway.toml`; {EXPECTED}"));
    } else {
        texts.gateway = text_of(&gateway, caller, &mut found).map(|text| (gateway, text));
    }
    let Some(files) = route_files(&texts.routes_directory, caller, &mut found) else {
        return (texts, found);
    };
    texts.unread_routes = false;
    for (stem, path) in files {
        match text_of(&path, caller, &mut found) {
            Some(text) => texts.routes.push(RouteText { stem, path, text }),
            None => {
                texts.unread_routes = true;
                if let Err(error) = RouteName::parse(&stem) {
                    found.error_in_file(&path, format!("not a route's file: {error}"));
                }
            }
        }
    }
    (texts, found)
}

/// The same for texts that stand in no file.
pub(super) fn in_memory(directory: &Path, gateway: &str, routes: &[(&str, &str)]) -> Texts {
    let routes_directory = directory.join("routes");
    let route = |(stem, text): &(&str, &str)| {
        let path = routes_directory.join(format!("{stem}.toml"));
        RouteText { stem: (*stem).to_owned(), path, text: (*text).to_owned() }
    };
    Texts {
        gateway: Some((directory.join("gateway.toml"), gateway.to_owned())),
        routes: routes.iter().map(route).collect(),
        routes_directory,
        unread_routes: false,
    }
}

/// The stems and paths of a directory's route files in the order of their names; `None` when it cannot be read, which
/// was said.
fn route_files(directory: &Path, caller: &Caller, found: &mut Diagnostics) -> Option<Vec<(String, PathBuf)>> {
    if directory.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Some(Vec::new());
    }
    let listed = opening::directory(directory, caller)
        .map_err(|error| error.to_string())
        .and_then(|opened| list(&opened.canonical).map_err(|error| error.to_string()));
    let entries = match listed {
        Ok(entries) => entries,
        Err(error) => {
            found.error_in_directory(directory, error);
            return None;
        }
    };
    let mut files = Vec::new();
    for file_name in entries {
        let path = directory.join(&file_name);
        let shown = file_name.to_string_lossy();
        if shown.starts_with('.') {
            continue;
        }
        let Some(stem) = shown.strip_suffix(".toml") else {
            found.error_in_file(
                &path,
                "not a route's file: only files that end in `.toml` belong in `routes/`; move it away, or let its name start with a dot",
            );
            continue;
        };
        files.push((stem.to_owned(), path));
    }
    Some(files)
}

fn list(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let entries = std::fs::read_dir(directory)?;
    let mut names = entries
        .map(|entry| entry.as_ref().map(DirEntry::file_name).map_err(|e| e.kind().into()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn text_of(path: &Path, caller: &Caller, found: &mut Diagnostics) -> Option<String> {
    let bytes = match opening::read(path, Kind::Policy, caller) {
        Ok(read) => read.bytes,
        Err(error) => {
            found.error_in_file(path, error.to_string());
            return None;
        }
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(error) => {
            // Up to the first fault it is the same text, so that this shows the place.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let source = Arc::new(SourceText { path: path.to_owned(), text });
            let fault = error.valid_up_to();
            let place = Place { source, span: fault..fault + char::REPLACEMENT_CHARACTER.len_utf8() };
            found.push(Finding::error(place, "not UTF-8 text from here on"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    fn found_in(directory: &Path) -> (Texts, Vec<String>) {
        let (texts, found) = read(directory, &Caller::current());
        let shown = directory.to_str().unwrap();
        (texts, found.messages().map(|message| message.replace(shown, "")).collect())
    }

    fn directory_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        create_dir(directory.path().join("routes")).unwrap();
        set_permissions(directory.path().join("routes"), PermissionsExt::from_mode(0o755)).unwrap();
        for (name, bytes) in files {
            write(directory.path().join(name), bytes).unwrap();
            set_permissions(directory.path().join(name), PermissionsExt::from_mode(0o644)).unwrap();
        }
        directory
    }

    #[test]
    fn a_missing_or_empty_directory_says_what_it_must_hold() {
        let directory = tempfile::tempdir().unwrap();
        let expected = "a policy directory holds `gateway.toml` and `routes/<name>.toml`";
        let (texts, found) = found_in(directory.path());
        assert_eq!(found, [format!("there is no `gateway.toml`; {expected}")]);
        assert!(texts.gateway.is_none() && texts.routes.is_empty());
        let none = directory.path().join("none");
        assert_eq!(found_in(&none).1, [format!("`` does not exist; {expected}")]);
        let file = directory_with(&[("gateway.toml", b"")]).path().join("gateway.toml");
        assert_eq!(found_in(&file).1.len(), 1);
    }

    #[test]
    fn every_file_in_routes_is_a_route_or_an_error() {
        let directory = directory_with(&[
            ("gateway.toml", b"g"),
            ("README.md", b""),
            ("routes/b.toml", b"b"),
            ("routes/a-1.x.toml", b"a"),
            ("routes/.a.toml.swp", b""),
            ("routes/a.toml~", b""),
            ("routes/notes.txt", b""),
            ("routes/a b.toml", b""),
            ("routes/_x.toml", b""),
            ("routes/latin.toml", b"ok = 1\nx = \xe9"),
        ]);
        create_dir(directory.path().join("routes/old.toml")).unwrap();
        let (texts, found) = found_in(directory.path());
        assert_eq!(texts.gateway.map(|(_, text)| text), Some("g".into()));
        let routes: Vec<_> =
            texts.routes.iter().map(|route| (route.stem.as_str(), route.text.as_str())).collect();
        assert_eq!(routes, [("_x", ""), ("a b", ""), ("a-1.x", "a"), ("b", "b")]);
        assert!(texts.unread_routes);
        let extension = "not a route's file: only files that end in `.toml` belong in `routes/`; move it away, or let its name start with a dot";
        let mut expected = [
            extension,
            extension,
            "not UTF-8 text from here on",
            "`/routes/old.toml` is a directory, not a file",
        ];
        let mut found = found;
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_route_that_others_can_write_is_refused_and_named() {
        let directory = directory_with(&[("gateway.toml", b""), ("routes/a.toml", b"")]);
        set_permissions(directory.path().join("routes/a.toml"), PermissionsExt::from_mode(0o666)).unwrap();
        let (texts, found) = found_in(directory.path());
        assert_eq!(
            found,
            ["`/routes/a.toml` is writable by its group or by others (mode 0666): `chmod go-w` it"]
        );
        assert!(texts.routes.is_empty() && texts.unread_routes);
        let bad = directory.path().join("routes/b b.toml");
        std::fs::rename(directory.path().join("routes/a.toml"), &bad).unwrap();
        let (_, found) = found_in(directory.path());
        assert!(found[0].contains("writable") && found[1].starts_with("not a route's file"), "{found:?}");
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused_and_nothing_else_is_said_of_it() {
        let directory = directory_with(&[("gateway.toml", b"")]);
        for name in ["/routes", ""] {
            let path = directory.path().join(name.trim_start_matches('/'));
            set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
            let (texts, found) = found_in(directory.path());
            let writable = "is a directory that others may write in (mode 0777): `chmod go-w` it";
            assert_eq!(found, [format!("`{name}` {writable}")]);
            assert!(texts.unread_routes, "no warning that there were none");
        }
    }

    #[test]
    fn what_is_no_text_is_shown_where_it_begins() {
        let directory = directory_with(&[("gateway.toml", b"ok = 1\nx = \xe9\xff\n")]);
        let shown = read(directory.path(), &Caller::current()).1.to_string();
        assert!(shown.contains("gateway.toml:2:5\n") && shown.contains("    ^"), "{shown}");
    }
}
