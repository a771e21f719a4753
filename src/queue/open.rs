//! Opening the database: its file and permissions, the lock that one process holds, the settings of a connection.
//!
//! Refuses what others could read or replace, what another process has open, and what is not a queue of this form.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use super::schema::{self, Form};

/// How long a statement waits for an operator's sqlite3 shell to let go of the database.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prepared statements kept by each connection; there are about forty.
const STATEMENTS: usize = 64;

/// Why the queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file, its lock file or its directory cannot be opened.
    #[error("{}: {source}: the queue needs a file that this process may create and write", path.display())]
    File {
        /// What was opened.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something other than a regular file.
    #[error("{} is not a regular file: choose another `queue.file`", .0.display())]
    Kind(PathBuf),
    /// Others may read or write it.
    #[error("{} is open to other users (mode {mode:03o}): run `chmod 600` on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A second process.
    #[error(
        "another process works on the queue {}: stop it first, because a queue has exactly one worker process",
        .0.display()
    )]
    Held(PathBuf),
    /// A later program wrote it.
    #[error(
        "the queue {} was written by a newer bridgeward (form {found}, this one knows {}): install that version",
        path.display(), schema::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The form that was found.
        found: i64,
    },
    /// Another program's database.
    #[error("{} is a database, but not a queue of bridgeward: choose another `queue.file`", .0.display())]
    Foreign(PathBuf),
    /// SQLite says no.
    #[error("the queue {} cannot be used: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// What stands in it makes no sense.
    #[error("the queue {} cannot be recovered: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// It belongs to somebody else, who could put jobs into it.
    #[error("{} belongs to uid {owner}, not to the user that runs jobs: chown it, or choose another file", path.display())]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The writer's thread cannot be started.
    #[error("the queue's writer cannot be started: {0}")]
    Thread(io::Error),
}

/// The one connection that writes, and the lock that goes with it.
pub(super) struct Opened {
    /// Dropped first: the lock outlives the connection.
    pub(super) connection: Connection,
    /// Held for as long as this lives.
    pub(super) lock: Lock,
}

/// An exclusive lock on a file.
pub(super) struct Lock(File);

/// A child that was forked and has not executed its program yet has a copy of the descriptor: closing ours alone would
/// keep the lock until it does.
impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Opens `file`, making it when it is not there, and takes the lock.
pub(super) fn open(file: &Path) -> Result<Opened, OpenError> {
    let mut lock_file = file.as_os_str().to_owned();
    lock_file.push(".lock");
    let lock = Lock(private_file(Path::new(&lock_file))?);
    match flock(&lock.0, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Held(file.to_owned())),
        Err(error) => return Err(OpenError::File { path: lock_file.into(), source: error.into() }),
    }
    // SQLite gives the -wal and -shm files the mode of this one.
    drop(private_file(file)?);
    sync_directory(file)?;

    let failed = |source| OpenError::Database { path: file.to_owned(), source };
    let mut connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(failed)?;
    settle(&connection).map_err(failed)?;
    match schema::prepare(&mut connection).map_err(failed)? {
        Form::Current => Ok(Opened { connection, lock }),
        Form::Newer(found) => Err(OpenError::Newer { path: file.to_owned(), found }),
        Form::Foreign => Err(OpenError::Foreign(file.to_owned())),
    }
}

/// The file beside the queue `file` whose lock is held while anything runs that a worker of the queue has started,
/// whether or not the worker itself still does.
///
/// # Errors
/// When others could read or replace it, or it cannot be made.
pub fn runs_lock(file: &Path) -> Result<File, OpenError> {
    let mut lock_file = file.as_os_str().to_owned();
    lock_file.push(".runs");
    private_file(Path::new(&lock_file))
}

/// A connection that cannot write.
pub(super) fn reader(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    prepare(&connection)?;
    Ok(connection)
}

/// What all connections have in common.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Else every other value of a parameter that an index could be chosen by has its statement compiled again.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(())
}

fn settle(connection: &Connection) -> rusqlite::Result<()> {
    prepare(connection)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    // Every commit waits for the disk: an accepted job survives power loss (invariant I5).
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // In KiB. Message ids are random: with SQLite's 2 MiB their index is read again and again. With much more, a commit takes
    // longer: after pages of an index were put in order, SQLite walks through all of the cache.
    connection.pragma_update(None, "cache_size", -4096)?;
    // A burst's write-ahead log is cut back to this many bytes when it starts over.
    connection.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |row| row.get::<_, i64>(0))?;
    Ok(())
}

fn private_file(path: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::File { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(OpenError::Kind(path.to_owned()));
    }
    let owner = metadata.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(OpenError::Owner { path: path.to_owned(), owner });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Exposed { path: path.to_owned(), mode });
    }
    Ok(file)
}

/// Makes the file's name as durable as what will be written into it.
fn sync_directory(file: &Path) -> Result<(), OpenError> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|source| OpenError::File { path: directory.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_others_may_read_or_replace_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("queue.db");
        drop(open(&file).unwrap());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(open(&file), Err(OpenError::Exposed { mode: 0o640, .. })));

        let link = directory.path().join("link.db");
        symlink(&file, &link).unwrap();
        assert!(matches!(open(&link), Err(OpenError::File { .. })));
        assert!(matches!(open(&directory.path().join("no/such/queue.db")), Err(OpenError::File { .. })));
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("notes");
        std::fs::write(&file, "not a database, but somebody's notes\n".repeat(40)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(open(&file), Err(OpenError::Database { .. })));
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("not a database"));
    }

    #[test]
    fn a_later_form_is_refused_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("queue.db");
        let opened = open(&file).unwrap();
        opened.connection.pragma_update(None, "user_version", 99).unwrap();
        drop(opened);
        let error = open(&file).err().unwrap();
        assert!(matches!(error, OpenError::Newer { found: 99, .. }));
        assert!(error.to_string().contains("newer bridgeward"));
    }
}
