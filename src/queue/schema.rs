//! The tables of the store, and the number of their form.
//!
//! Times are wall time in microseconds since 1970, UTC. A job *waits* while its state is `queued` and it is not
//! claimed: the partial indexes below hold waiting jobs alone, so that finding one does not depend on how many there
//! are. There are no foreign keys: rows that belong to a job are removed by `purge`, together with it.

use rusqlite::{Connection, TransactionBehavior};

/// Marks the file as ours (`PRAGMA application_id`): "brWg" in ASCII.
const APPLICATION: i64 = 0x6272_5767;

/// The form of the tables (`PRAGMA user_version`) that this program reads and writes.
pub(super) const VERSION: i64 = 2;

const TABLES: &str = "
-- seq is the order of acceptance. Whose a job is stands before whatever may be large, and is read without that. `claimed` and `started` are separate marks. `expires_at` is null once a job may no
-- longer be given up. `likeness` tells equal jobs, `retry_of` names the job that an
-- operator repeated, `attempt` counts runs from 1, `not_before` delays one, `awaits` is a file that holds it while it
-- exists. `reason` says why a job ended as it did; `recorded` is when its end was put on record elsewhere, and `closing`
-- the step whose end goes there together with the job's. `keeps` counts the bytes of output and body that a finished job keeps; it
-- is -1 once they are discarded.
CREATE TABLE jobs (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    route       TEXT    NOT NULL,
    identity    TEXT    NOT NULL,
    parameters  TEXT    NOT NULL,
    proofs      TEXT    NOT NULL,
    lock        TEXT    NOT NULL,
    concurrency INTEGER NOT NULL,
    state       TEXT    NOT NULL,
    idempotent  INTEGER NOT NULL,
    likeness    BLOB,
    awaits      BLOB,
    retry_of    TEXT,
    attempt     INTEGER NOT NULL DEFAULT 1,
    not_before  INTEGER,
    submitted   INTEGER NOT NULL,
    expires_at  INTEGER,
    claimed     INTEGER,
    started     INTEGER,
    finished    INTEGER,
    reason      TEXT,
    closing     INTEGER,
    recorded    INTEGER,
    keeps       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX jobs_state    ON jobs (state, seq);
CREATE INDEX jobs_route    ON jobs (route, seq);
CREATE INDEX jobs_waiting  ON jobs (lock, seq)   WHERE state = 'queued' AND claimed IS NULL;
CREATE INDEX jobs_expiring ON jobs (expires_at)
    WHERE state = 'queued' AND claimed IS NULL AND expires_at IS NOT NULL;
CREATE INDEX jobs_active   ON jobs (seq)         WHERE claimed IS NOT NULL AND finished IS NULL;
CREATE INDEX jobs_unrecorded ON jobs (finished) WHERE finished IS NOT NULL AND recorded IS NULL;
CREATE INDEX jobs_finished ON jobs (finished)    WHERE finished IS NOT NULL;
CREATE INDEX jobs_keeping  ON jobs (finished, keeps) WHERE keeps > 0;

-- Everyone who joined a job, each once; `parameters` are their own. Who submitted it stands in the job, and here, too, if it
-- asked again.
CREATE TABLE submitters (
    job        INTEGER NOT NULL,
    identity   TEXT    NOT NULL,
    proofs     TEXT    NOT NULL,
    joined     INTEGER NOT NULL,
    parameters TEXT    NOT NULL
) STRICT;
CREATE UNIQUE INDEX submitters_once ON submitters (job, identity);

-- Bodies for the commands of jobs: apart, so that a change of a job does not write its body again.
CREATE TABLE bodies (
    job   INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- Finished steps; `dropped` counts the bytes of output that were not kept.
CREATE TABLE steps (
    job     INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    argv    TEXT    NOT NULL,
    exit    TEXT    NOT NULL,
    output  BLOB    NOT NULL,
    dropped INTEGER NOT NULL,
    PRIMARY KEY (job, number)
) STRICT;

-- For each scope the youngest `created` that was forgotten: what is not younger is refused.
CREATE TABLE floors (
    scope   TEXT PRIMARY KEY,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Locks that somebody holds or waits for; filled anew whenever the queue is opened. `head` is the seq of the first waiting
-- job. `not_before` and `awaits` are those of the head, the former until it is over: a head that is held by either holds
-- its lock.
CREATE TABLE locks (
    lock        TEXT PRIMARY KEY,
    concurrency INTEGER NOT NULL,
    active      INTEGER NOT NULL,
    waiting     INTEGER NOT NULL,
    head        INTEGER,
    not_before  INTEGER,
    awaits      BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX locks_ready ON locks (head)
    WHERE head IS NOT NULL AND active < concurrency AND not_before IS NULL AND awaits IS NULL;
CREATE INDEX locks_held ON locks (head)
    WHERE head IS NOT NULL AND active < concurrency AND not_before IS NULL AND awaits IS NOT NULL;
CREATE INDEX locks_delayed ON locks (not_before) WHERE not_before IS NOT NULL;
";

/// Rows in the order of acceptance: ids come in any order, and what is written for one is little where an index alone
/// sorts them.
const MESSAGES: &str = "
-- Message ids. `ended` is the final state of a job that is no longer kept although the id still is.
CREATE TABLE messages (
    number     INTEGER PRIMARY KEY,
    scope      TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    job        TEXT    NOT NULL,
    ended      TEXT,
    created    INTEGER,
    keep_until INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_id ON messages (scope, id);
";

const OF_MESSAGES: &str = "
CREATE INDEX messages_keep ON messages (keep_until);
CREATE INDEX messages_job  ON messages (job);
";

/// Before and after the making of [`MESSAGES`], where a database of form 1 has them sorted by id. Nothing is sorted in
/// memory, however many they are.
const MESSAGES_OF_FORM_1: [&str; 2] = [
    "ALTER TABLE messages RENAME TO sorted",
    "INSERT INTO messages (scope, id, digest, job, ended, created, keep_until)
         SELECT scope, id, digest, job, ended, created, keep_until FROM sorted INDEXED BY messages_keep ORDER BY keep_until;
     DROP TABLE sorted;",
];

/// What stands in a database file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The tables above, perhaps made just now.
    Current,
    /// Tables of a later program.
    Newer(i64),
    /// Tables of something else.
    Foreign,
}

/// Makes the tables in an empty database, changes those of an earlier program, and tells what stands in another.
pub(super) fn prepare(connection: &mut Connection) -> rusqlite::Result<Form> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let pragma = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = transaction.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version, tables) {
        (0, 0, 0) => {
            transaction.execute_batch(TABLES)?;
            transaction.execute_batch(MESSAGES)?;
            transaction.execute_batch(OF_MESSAGES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
        }
        (APPLICATION, 1, _) => {
            let [before, after] = MESSAGES_OF_FORM_1;
            transaction.execute_batch(before)?;
            transaction.execute_batch(MESSAGES)?;
            transaction.execute_batch(after)?;
            transaction.execute_batch(OF_MESSAGES)?;
        }
        (APPLICATION, VERSION, _) => return Ok(Form::Current),
        (APPLICATION, newer, _) if newer > VERSION => return Ok(Form::Newer(newer)),
        _ => return Ok(Form::Foreign),
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(Form::Current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_database_is_filled_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(prepare(&mut connection).unwrap(), Form::Current);
        assert_eq!(prepare(&mut connection).unwrap(), Form::Current);
    }

    #[test]
    fn messages_of_an_earlier_program_are_kept() {
        let mut connection = Connection::open_in_memory().unwrap();
        prepare(&mut connection).unwrap();
        let form_1 = "DROP TABLE messages;
            CREATE TABLE messages (scope TEXT NOT NULL, id TEXT NOT NULL, digest BLOB NOT NULL, job TEXT NOT NULL,
                ended TEXT, created INTEGER, keep_until INTEGER NOT NULL, PRIMARY KEY (scope, id)) STRICT, WITHOUT ROWID;
            CREATE INDEX messages_keep ON messages (keep_until);
            CREATE INDEX messages_job  ON messages (job);
            INSERT INTO messages VALUES ('key:a', '2', x'02', 'j2', NULL, NULL, 8), ('key:a', '1', x'01', 'j1', 'failed', 7, 9);
            PRAGMA user_version = 1";
        connection.execute_batch(form_1).unwrap();
        assert_eq!(prepare(&mut connection).unwrap(), Form::Current);
        assert_eq!(prepare(&mut connection).unwrap(), Form::Current);
        let all = "SELECT group_concat(concat_ws(' ', number, scope, id, hex(digest), job, ended, created, keep_until), ';')
            FROM messages INDEXED BY messages_keep";
        let all: String = connection.query_row(all, [], |row| row.get(0)).unwrap();
        assert_eq!(all, "1 key:a 2 02 j2 8;2 key:a 1 01 j1 failed 7 9");
        let again =
            "INSERT INTO messages (scope, id, digest, job, keep_until) VALUES ('key:a', '1', x'', '', 0)";
        assert!(connection.execute(again, []).is_err(), "one scope uses an id once");
        let tables = "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'sorted'";
        assert_eq!(connection.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    }

    #[test]
    fn tables_of_a_later_program_or_of_another_one_are_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE songs (name TEXT)").unwrap();
        assert_eq!(prepare(&mut connection).unwrap(), Form::Foreign);

        let mut connection = Connection::open_in_memory().unwrap();
        prepare(&mut connection).unwrap();
        connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
        assert_eq!(prepare(&mut connection).unwrap(), Form::Newer(VERSION + 1));
    }
}
