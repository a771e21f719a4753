//! `bridgeward certs`: a development CA with server and client certificates, in a directory of its own.
//!
//! Overwrites nothing and keeps no CA key: whoever finds the directory later can use what was issued, but issue
//! nothing. Not for production, where certificates come from the site's CA.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::clock::Clock;
use crate::trust::mint::{Authority, Issued, Validity};

/// Whose certificate `client.pem` is.
const DEFAULT_CLIENT: &str = "node1.example.com";
/// What the server certificate is for unless other names are given.
const DEFAULT_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Longest certname: X.520's bound on a common name.
const LONGEST_CERTNAME: usize = 64;
/// Stems of files that no client's may have.
const TAKEN: [&str; 4] = ["ca", "crl", "server", "client"];

/// Make a development CA, and server and client certificates signed by it
///
/// Writes ca.pem, crl.pem, server.pem, server.key, client.pem and client.key, which the listen section of a policy
/// and `curl --cacert ca.pem --cert client.pem --key client.key` take as they are. The CA's own key is not kept.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The directory to make and to write into; no file in it is ever overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// A DNS name or IP address of the server (repeatable)
    #[arg(long, value_name = "NAME", default_values = DEFAULT_NAMES, value_parser = server_name)]
    server_name: Vec<String>,

    /// A further client, whose certificate becomes CERTNAME.pem and CERTNAME.key (repeatable); client.pem is always
    /// node1.example.com's
    #[arg(long, value_name = "CERTNAME", value_parser = certname)]
    client: Vec<String>,

    /// How many days everything is valid, the CRL too
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// Makes the certificates.
///
/// # Errors
/// When a file is there already, a name cannot be used, or the directory cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    make(args, &Clock::system(), &mut stdout)
}

/// A file to be written: its name, what goes into it, and who may read it.
struct File {
    name: String,
    content: zeroize::Zeroizing<String>,
    mode: u32,
}

fn make(args: &Args, clock: &Clock, out: &mut impl Write) -> anyhow::Result<()> {
    let files = mint(args, clock)?;
    let directory = &args.out;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    // Looked for first, so that no half of a set is left beside an older one.
    for file in &files {
        if directory.join(&file.name).symlink_metadata().is_ok() {
            return Err(exists(directory, &file.name));
        }
    }
    for file in &files {
        write(directory, file)?;
    }
    report(args, &files, out).context("cannot write to the standard output")
}

fn mint(args: &Args, clock: &Clock) -> anyhow::Result<Vec<File>> {
    let validity = Validity::days(clock.now(), args.days);
    let ca = Authority::new("bridgeward development CA", validity)?;
    let mut files = vec![public("ca.pem", ca.pem()), public("crl.pem", ca.crl(&[], validity)?)];
    files.extend(pair("server", ca.issue_server(&args.server_name, validity)?));
    let client = |certname: &str| ca.issue_client(certname, &BTreeMap::new(), validity);
    files.extend(pair("client", client(DEFAULT_CLIENT)?));
    for (index, certname) in args.client.iter().enumerate() {
        if TAKEN.contains(&certname.as_str()) || args.client[..index].contains(certname) {
            bail!("--client {certname}: a file of that name is written already; choose another certname");
        }
        files.extend(pair(certname, client(certname)?));
    }
    Ok(files)
}

fn public(name: &str, content: String) -> File {
    File { name: name.to_owned(), content: content.into(), mode: 0o644 }
}

fn pair(stem: &str, issued: Issued) -> [File; 2] {
    let key = File { name: format!("{stem}.key"), content: issued.key, mode: 0o600 };
    [public(&format!("{stem}.pem"), issued.certificate), key]
}

fn write(directory: &Path, file: &File) -> anyhow::Result<()> {
    let path = directory.join(&file.name);
    let opened = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&path);
    let mut opened = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(exists(directory, &file.name));
        }
        opened => opened.with_context(|| format!("cannot create {}", path.display()))?,
    };
    opened.write_all(file.content.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn exists(directory: &Path, name: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{} is there already, and nothing is overwritten; choose another directory with --out, or remove {}",
        directory.join(name).display(),
        directory.display()
    )
}

fn report(args: &Args, files: &[File], out: &mut impl Write) -> io::Result<()> {
    // Relative paths in a policy start from the policy's directory.
    let directory = std::path::absolute(&args.out)?;
    let directory = directory.display();
    writeln!(out, "Development certificates, valid for {} days, in {directory}:", args.days)?;
    for file in files {
        writeln!(out, "  {}", file.name)?;
    }
    writeln!(
        out,
        "The CA's own key was not kept: for more certificates, or to revoke one, make a new directory."
    )?;
    writeln!(out, "In gateway.toml, under [listen]:")?;
    for (key, name) in [
        ("certificate", "server.pem"),
        ("private_key", "server.key"),
        ("client_ca  ", "ca.pem"),
        ("client_crl ", "crl.pem"),
    ] {
        writeln!(out, "  {key} = \"{directory}/{name}\"")?;
    }
    Ok(())
}

fn server_name(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() { Ok(text.to_owned()) } else { certname(text) }
}

/// A name that can stand in a certificate and, with a suffix, be a file's.
fn certname(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && text.len() <= LONGEST_CERTNAME && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "it takes 1 to {LONGEST_CERTNAME} letters, digits, `.`, `-` and `_`, a letter or digit first"
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;
    use crate::trust::Trust;
    use crate::trust::server::ServerIdentity;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    fn args(out: &Path, more: &[&str]) -> Result<Args, clap::Error> {
        let start = ["certs", "--out", out.to_str().unwrap()];
        CommandLine::try_parse_from(start.iter().chain(more)).map(|line| line.args)
    }

    fn make(args: &Args) -> anyhow::Result<String> {
        let mut out = Vec::new();
        super::make(args, &Clock::system(), &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn what_is_written_can_be_served_with_and_keys_are_private() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("certs");
        let out = make(&args(&directory, &["--client", "node2.example.com"]).unwrap()).unwrap();
        assert!(out.contains("key was not kept"), "{out}");
        let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&directory), 0o700);
        for key in ["server.key", "client.key", "node2.example.com.key"] {
            assert_eq!(mode(&directory.join(key)), 0o600, "{key}");
            assert!(out.contains(key), "{out}");
        }
        let now = Clock::system().now();
        let server = ServerIdentity::parse(&read("server.pem"), &read("server.key"), now).unwrap();
        assert_eq!(server.names(), DEFAULT_NAMES);
        assert!(Trust::parse(&read("ca.pem"), Some(&read("crl.pem")), now).is_ok());
        assert!(!directory.join("ca.key").exists());
    }

    #[test]
    fn nothing_is_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let mine = parent.path().join("server.key");
        std::fs::write(&mine, "mine").unwrap();
        let error = make(&args(parent.path(), &[]).unwrap()).unwrap_err().to_string();
        assert!(error.contains("server.key is there already") && error.contains("--out"), "{error}");
        assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
        assert_eq!(parent.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_link_where_a_file_is_to_be_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("elsewhere");
        std::os::unix::fs::symlink(&target, parent.path().join("ca.pem")).unwrap();
        assert!(make(&args(parent.path(), &[]).unwrap()).is_err());
        assert!(!target.exists());
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let long = "x".repeat(LONGEST_CERTNAME + 1);
        for bad in ["", "../node", "/etc/node", ".hidden", "-x", "a b", "n\u{f6}de", &long] {
            let client = format!("--client={bad}");
            assert!(args(parent.path(), &[&client]).is_err(), "{bad:?}");
        }
        for bad in [&["--client=ca"][..], &["--client=a", "--client=a"]] {
            assert!(make(&args(parent.path(), bad).unwrap()).is_err(), "{bad:?}");
        }
        assert_eq!(parent.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn the_days_have_bounds() {
        let parent = tempfile::tempdir().unwrap();
        for bad in ["0", "-1", "3651", "x"] {
            assert!(args(parent.path(), &[&format!("--days={bad}")]).is_err(), "{bad}");
        }
    }
}
