//! What a caller orders: repository, branch, file, keys and values, words for the commit. Each is checked when it is read.
//!
//! After this nothing can leave the repository, be taken for an option, name an odd protocol, or break a line.

use std::fmt;
use std::path::Path;

use super::scalar::is_plain_text;

/// Longest value, key, path, name or message, in bytes.
const LONGEST: usize = 4096;

/// One promotion, complete.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where the control repository is.
    pub remote: Remote,
    /// The branch that is changed.
    pub branch: Branch,
    /// The file in it.
    pub file: FilePath,
    /// What is set.
    pub settings: Settings,
    /// The commit's message; made up from the settings unless given.
    pub message: Option<Message>,
    /// The commit's author; bridgeward on this machine unless given.
    pub author: Option<Author>,
    /// Whether a missing file or key is made.
    pub create: bool,
}

/// A clone URL or a path: `https`, `ssh` or `file`, never one that names a helper program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote(String);

impl Remote {
    /// Reads one; a relative path starts from `here`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str, here: &Path) -> Result<Self, String> {
        short_line(text)?;
        if text.starts_with('-') {
            return Err("it starts with `-`, as options do".to_owned());
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let known = ["https", "ssh", "file"].contains(&scheme);
            if !known {
                return Err(format!("`{scheme}` is no protocol for this; use https, ssh or a path"));
            }
            let authority = rest.split('/').next().unwrap_or_default();
            if authority.starts_with('-') {
                return Err("the host starts with `-`, as options do".to_owned());
            }
            let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
            if scheme == "https" && !user.is_empty() || user.contains(':') {
                return Err(
                    "it holds a user's name or password, which every process and log could see; use git's credential \
                     helpers, or ssh"
                        .to_owned(),
                );
            }
            return Ok(Self(text.to_owned()));
        }
        // As git reads it: a colon before any slash names a host, two name a helper program.
        match text.split_once(':') {
            Some((host, path)) if !host.contains('/') => {
                if host.is_empty() || path.is_empty() || path.starts_with(':') {
                    return Err("it is neither a path, nor a URL, nor `user@host:path`".to_owned());
                }
                Ok(Self(text.to_owned()))
            }
            Some(_) | None => Ok(Self(here.join(text).to_string_lossy().into_owned())),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch's name, as git-check-ref-format(1) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch(String);

impl Branch {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        short_line(text)?;
        let part = |part: &str| {
            let ends = part.strip_suffix(".lock").is_some();
            !part.is_empty() && !part.starts_with('.') && !ends
        };
        let is_name = text.split('/').all(part)
            && !text.starts_with('-')
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains([' ', '~', '^', ':', '?', '*', '[', '\\'])
            && !["@", "HEAD"].contains(&text);
        if is_name { Ok(Self(text.to_owned())) } else { Err("it is no name of a branch to git".to_owned()) }
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path inside the repository, in its shortest form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(String);

impl FilePath {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        short_line(text)?;
        if text.contains('\\') {
            return Err("a backslash separates nothing here; use `/`".to_owned());
        }
        for part in text.split('/') {
            if matches!(part, "" | "." | "..") {
                return Err(
                    "it is a path from the repository's root, without `.`, `..` or empty parts, such as \
                     `data/roles/web.yaml`"
                        .to_owned(),
                );
            }
            if part.eq_ignore_ascii_case(".git") {
                return Err("`.git` is git's own".to_owned());
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// Its directories and its name, in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key, and the string that becomes its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key at the top of the document.
    pub key: String,
    /// The value, on one line.
    pub value: String,
}

impl Setting {
    /// Reads `key=value`; the first `=` ends the key.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it is `key=value`, such as `web::version=1.2.3`")?;
        short_line(key)?;
        if !value.is_empty() {
            short_line(value)?;
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// At least one setting, each key once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings(Vec<Setting>);

impl Settings {
    /// Takes them together.
    ///
    /// # Errors
    /// A sentence that names a key that is set twice, or says that none is.
    pub fn new(settings: Vec<Setting>) -> Result<Self, String> {
        if settings.is_empty() {
            return Err("nothing is to be set".to_owned());
        }
        let twice = settings
            .iter()
            .enumerate()
            .find(|(at, it)| settings[..*at].iter().any(|other| other.key == it.key));
        match twice {
            Some((_, setting)) => Err(format!("the key `{}` is set twice", setting.key)),
            None => Ok(Self(settings)),
        }
    }

    pub(super) fn as_slice(&self) -> &[Setting] {
        &self.0
    }
}

/// A commit's message: printable lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(String);

impl Message {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("it says nothing".to_owned());
        }
        if text.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        if text.lines().all(is_plain_text) { Ok(Self(text.to_owned())) } else { Err(UNPRINTABLE.to_owned()) }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whom a commit names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub(super) name: String,
    pub(super) email: String,
}

impl Author {
    /// Reads `Name <address>`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        short_line(text)?;
        let parts = text.strip_suffix('>').and_then(|text| text.split_once(" <"));
        let named = parts.map(|(name, email)| (name.trim(), email));
        let (name, email) = named
            .filter(|(name, email)| !name.is_empty() && !email.is_empty() && !email.contains(' '))
            .filter(|(name, email)| !name.contains(['<', '>']) && !email.contains(['<', '>']))
            .filter(|(name, _)| name.chars().any(char::is_alphanumeric))
            .ok_or("it is `Name <address>`, such as `Jenkins <jenkins@example.com>`")?;
        Ok(Self { name: name.to_owned(), email: email.to_owned() })
    }
}

const UNPRINTABLE: &str = "it holds a control character or a line break";

fn short_line(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    if is_plain_text(text) { Ok(()) } else { Err(UNPRINTABLE.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> Result<String, String> {
        Remote::parse(text, Path::new("/here")).map(|remote| remote.to_string())
    }

    #[test]
    fn i1_fail_closed_on_odd_protocols_and_options() {
        for (text, is) in [
            ("/srv/control", "/srv/control"),
            ("control.git", "/here/control.git"),
            ("./a:b", "/here/./a:b"),
            ("https://git.example.com/control", "https://git.example.com/control"),
            ("ssh://git@git.example.com:2222/control", "ssh://git@git.example.com:2222/control"),
            ("ssh://git@[::1]/control", "ssh://git@[::1]/control"),
            ("file:///srv/control", "file:///srv/control"),
            ("git@git.example.com:control", "git@git.example.com:control"),
        ] {
            assert_eq!(remote(text).as_deref(), Ok(is));
        }
        for bad in [
            "",
            "-u",
            "--upload-pack=x",
            "ext::sh -c x",
            "fd::3",
            "http://h/x",
            "git://h/x",
            "ftp://h/x",
            "foo::bar",
            "ext::https://x",
            "https://user:word@h/x",
            "https://token@h/x",
            "ssh://u:w@h/x",
            "ssh://-oProxyCommand=x/y",
            ":x",
            "h:",
            "a\nb",
        ] {
            assert!(remote(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn i1_fail_closed_on_paths_that_leave_the_repository() {
        for good in ["a.yaml", "data/roles/web.yaml", "data/a b.yaml", "data/.hidden", "a/..b", ":(top)x"] {
            assert!(FilePath::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "./a",
            "a//b",
            "a/",
            ".git/config",
            "a/.GIT/x",
            "a\\b",
            "a\0",
            "a\nb",
            &"x".repeat(LONGEST + 1),
        ] {
            assert!(FilePath::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn i1_fail_closed_on_what_is_no_branch() {
        for good in ["production", "feature/x", "a.b", "a-b", "é", "a@b"] {
            assert!(Branch::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "-f", "/a", "a/", "a//b", ".a", "a/.b", "a..b", "a.lock", "a.lock/b", "a b", "a~1", "a^",
            "a:b", "a?", "a*", "a[", "a\\", "@", "HEAD", "a@{1}", "a.", "a\u{7f}", "+a:b",
        ] {
            assert!(Branch::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn settings_messages_and_authors_are_read() {
        let setting = Setting::parse("web::version=1=2").unwrap();
        assert_eq!((setting.key.as_str(), setting.value.as_str()), ("web::version", "1=2"));
        assert_eq!(Setting::parse("a=").unwrap().value, "");
        for bad in ["", "a", "=b", "a=b\nc", "a\tb=c", "a=\u{2028}"] {
            assert!(Setting::parse(bad).is_err(), "{bad:?}");
        }
        let twice = Settings::new(vec![Setting::parse("a=1").unwrap(), Setting::parse("a=2").unwrap()]);
        assert!(twice.unwrap_err().contains("`a` is set twice") && Settings::new(vec![]).is_err());
        assert!(Message::parse("one\n\ntwo").is_ok());
        assert!(Message::parse(" \n").is_err() && Message::parse("a\u{1b}[2J").is_err());
        let author = Author::parse("Jane Doe <jane@example.com>").unwrap();
        assert_eq!((author.name.as_str(), author.email.as_str()), ("Jane Doe", "jane@example.com"));
        for bad in ["Jane", "<a@b>", "Jane <>", "Jane <a> <b>", "Jane <a b>", "J\n <a@b>", "... <a@b>"] {
            assert!(Author::parse(bad).is_err(), "{bad:?}");
        }
    }
}
