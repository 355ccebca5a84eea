"""The schema of the database: its migrations, and the check that a database is ours and not newer."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from receiver.errors import CannotStartError

__all__ = ["MIGRATIONS", "check_owner", "check_schema", "migrate"]

_APPLICATION_ID = 0x43425243

MIGRATIONS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

    CREATE TABLE signing_key (id INTEGER PRIMARY KEY, key BLOB NOT NULL, created_at INTEGER NOT NULL) STRICT;

    CREATE TABLE task (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        ref TEXT NOT NULL UNIQUE,
        provider TEXT NOT NULL,
        type TEXT,
        tags TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created_by TEXT,
        client_key_id TEXT,
        has_url INTEGER NOT NULL,
        open_to_standing INTEGER NOT NULL,
        standing_id TEXT,
        task_id TEXT,
        task_id_is_integer INTEGER NOT NULL,
        bound_by TEXT,
        registered_at INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        poll_after INTEGER NOT NULL,
        next_poll_at INTEGER,
        deadline_at INTEGER NOT NULL,
        hinted_at INTEGER,
        is_disputed INTEGER NOT NULL,
        deliveries INTEGER NOT NULL,
        polls INTEGER NOT NULL,
        quota TEXT,
        kept_bytes INTEGER NOT NULL,
        joined_ref TEXT,
        position INTEGER,
        status TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX task_by_task_id ON task (task_id, provider) WHERE task_id IS NOT NULL;
    CREATE INDEX task_by_joined_ref ON task (joined_ref) WHERE joined_ref IS NOT NULL;
    CREATE INDEX task_by_deadline ON task (deadline_at) WHERE status = 'processing';

    CREATE TABLE log (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        task INTEGER,
        ref TEXT,
        status TEXT,
        solution TEXT,
        error_id INTEGER,
        error_code TEXT,
        error_description TEXT,
        source TEXT,
        trust TEXT,
        finished_at INTEGER,
        valid_until INTEGER,
        supersedes INTEGER
    ) STRICT;

    CREATE TABLE delivery (
        id INTEGER PRIMARY KEY,
        received_at INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        method TEXT NOT NULL,
        content_type TEXT,
        body BLOB,
        size INTEGER NOT NULL,
        task_id TEXT,
        standing_id TEXT
    ) STRICT;

    CREATE TABLE stray_delivery (
        id INTEGER PRIMARY KEY,
        received_at INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        method TEXT NOT NULL,
        content_type TEXT,
        body BLOB,
        size INTEGER NOT NULL,
        task_id TEXT,
        standing_id TEXT
    ) STRICT;

    CREATE TABLE tag (tag TEXT, task INTEGER, PRIMARY KEY (tag, task)) STRICT, WITHOUT ROWID;
    CREATE INDEX tag_by_task ON tag (task);

    CREATE TABLE idempotency (
        owner TEXT,
        key TEXT,
        body_digest BLOB NOT NULL,
        ref TEXT NOT NULL,
        is_new INTEGER NOT NULL,
        PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX idempotency_by_ref ON idempotency (ref);

    CREATE TABLE tombstone (id INTEGER PRIMARY KEY, ref TEXT NOT NULL, provider TEXT NOT NULL, task_id TEXT,
        forgotten_at INTEGER NOT NULL) STRICT;
    CREATE UNIQUE INDEX tombstone_by_ref ON tombstone (ref);
    CREATE INDEX tombstone_by_task_id ON tombstone (task_id, provider);
    CREATE INDEX tombstone_by_age ON tombstone (forgotten_at);

    CREATE TABLE standing_url (
        id TEXT PRIMARY KEY,
        provider TEXT NOT NULL,
        label TEXT,
        created_at INTEGER NOT NULL,
        revoked_at INTEGER
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE quota (name TEXT PRIMARY KEY, used_rows INTEGER NOT NULL, used_bytes INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE task ADD COLUMN is_polled_here INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE task ADD COLUMN lease INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE task ADD COLUMN leased_until INTEGER;
    ALTER TABLE task ADD COLUMN polled_at INTEGER;
    ALTER TABLE task ADD COLUMN held_until INTEGER;
    CREATE INDEX task_by_hold ON task (held_until) WHERE held_until IS NOT NULL;
    CREATE INDEX task_by_next_poll ON task (provider, next_poll_at)
        WHERE status = 'processing' AND is_polled_here = 1 AND task_id IS NOT NULL;
    CREATE INDEX task_by_dispute ON task (provider, next_poll_at)
        WHERE is_disputed = 1 AND is_polled_here = 1 AND task_id IS NOT NULL;

    CREATE TABLE poll (
        id INTEGER PRIMARY KEY,
        started_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL,
        lease INTEGER NOT NULL,
        said TEXT NOT NULL
    ) STRICT;
    """,
    # From here on hints and deletions have a time, too: when they came.
    """
    UPDATE log SET finished_at = (SELECT task.hinted_at FROM task WHERE task.id = log.task) WHERE kind = 'hint';
    UPDATE log SET finished_at = (SELECT tombstone.forgotten_at FROM tombstone WHERE tombstone.ref = log.ref)
        WHERE kind = 'deleted';
    CREATE INDEX task_by_position ON task (position) WHERE position IS NOT NULL;
    CREATE INDEX delivery_by_age ON delivery (received_at) WHERE body IS NOT NULL;
    """,
    """
    CREATE TABLE shape (
        id INTEGER PRIMARY KEY,
        provider TEXT NOT NULL,
        method TEXT NOT NULL,
        content_type TEXT NOT NULL,
        fields TEXT NOT NULL,
        callbacks INTEGER NOT NULL,
        readable INTEGER NOT NULL,
        first_seen INTEGER NOT NULL,
        last_seen INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX shape_by_itself ON shape (provider, method, content_type, fields);
    CREATE INDEX shape_by_last_seen ON shape (provider, last_seen);
    """,
    "ALTER TABLE task ADD COLUMN bound_at INTEGER",
    # How long a row of answers with one unlisted code is, as of each poll; and how often which codes came. From here
    # on, what has failed is polled where a hint asks for it.
    """
    UPDATE task SET next_poll_at = NULL WHERE status = 'failed' AND is_disputed = 0;
    CREATE INDEX task_by_second_look ON task (provider, next_poll_at)
        WHERE status = 'failed' AND is_disputed = 0 AND is_polled_here = 1 AND task_id IS NOT NULL
        AND next_poll_at IS NOT NULL;
    ALTER TABLE poll ADD COLUMN unlisted_code TEXT;
    ALTER TABLE poll ADD COLUMN unlisted_times INTEGER;
    ALTER TABLE poll ADD COLUMN unlisted_since INTEGER;
    CREATE TABLE unlisted_code (
        provider TEXT,
        code TEXT,
        times INTEGER NOT NULL,
        first_seen INTEGER NOT NULL,
        last_seen INTEGER NOT NULL,
        PRIMARY KEY (provider, code)
    ) STRICT, WITHOUT ROWID;
    """,
    # From here on the delivery that became an outcome is kept with it, received at `finished_at`. The others, and all
    # earlier ones, are in their table. No earlier entry has a body. Behind a long body a column costs more to read.
    """
    ALTER TABLE log ADD COLUMN slot INTEGER;
    ALTER TABLE log ADD COLUMN verdict TEXT;
    ALTER TABLE log ADD COLUMN method TEXT;
    ALTER TABLE log ADD COLUMN content_type TEXT;
    ALTER TABLE log ADD COLUMN size INTEGER;
    ALTER TABLE log ADD COLUMN task_id TEXT;
    ALTER TABLE log ADD COLUMN standing_id TEXT;
    ALTER TABLE log ADD COLUMN body BLOB;
    INSERT INTO meta (name, value) SELECT 'bodies_floor', seq FROM sqlite_sequence WHERE name = 'log';
    """,
    # The end of a signing key that was replaced, in microseconds since 1970.
    "ALTER TABLE signing_key ADD COLUMN accepted_until INTEGER",
    """
    CREATE TABLE api_key (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        scopes TEXT NOT NULL,
        providers TEXT,
        created_at INTEGER NOT NULL,
        expires_at INTEGER,
        revoked_at INTEGER,
        last_used_at INTEGER
    ) STRICT, WITHOUT ROWID;
    """,
    # The span that submitted the task.
    "ALTER TABLE task ADD COLUMN traceparent TEXT",
    # The receiver's own tasks, which are removed after an hour.
    "CREATE INDEX task_of_canary ON task (id) WHERE provider = 'canary'",
    # Shared by all receivers on the database: claims that end by themselves, tickets of pages, and the requests, errors
    # and pauses of provider keys. All times are those of the database's clock.
    """
    CREATE TABLE lease (name TEXT PRIMARY KEY, holder TEXT NOT NULL, ends_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX lease_by_end ON lease (ends_at);

    CREATE TABLE ticket (digest BLOB PRIMARY KEY, owner TEXT NOT NULL, fingerprint BLOB NOT NULL,
        ends_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX ticket_by_owner ON ticket (owner, ends_at);
    CREATE INDEX ticket_by_end ON ticket (ends_at);

    CREATE TABLE key_budget (
        name TEXT PRIMARY KEY,
        next_poll_at INTEGER NOT NULL,
        next_submit_at INTEGER NOT NULL,
        polls INTEGER NOT NULL,
        tasks INTEGER NOT NULL,
        paused_at INTEGER NOT NULL,
        paused_until INTEGER NOT NULL,
        halts INTEGER NOT NULL,
        was_banned INTEGER NOT NULL,
        errors TEXT NOT NULL,
        receivers TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)
"""Released steps never change. Step N brings `user_version` from N to N + 1, in one transaction with it."""


def check_owner(connection: sqlite3.Connection, path: Path) -> None:
    """Check that an open database is ours, or empty.

    Raises:
        CannotStartError: it is another program's.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != _APPLICATION_ID and (tables or application):
        raise CannotStartError(f"{path}: this is another program's database")


def check_schema(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema of an open database, 0 for an empty file.

    Raises:
        CannotStartError: the database is newer than this program, or another program's.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    check_owner(connection, path)
    if version > len(MIGRATIONS):
        raise CannotStartError(
            f"{path}: the database is newer (schema {version}) than this program (schema {len(MIGRATIONS)})"
        )
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, in the transaction of the caller.

    Raises:
        CannotStartError: as `check_schema`.
    """
    version = check_schema(connection, path)
    for step in MIGRATIONS[version:]:
        # Not executescript: it commits first. No statement may have a semicolon inside, as a trigger would.
        for statement in step.split(";"):
            if statement.strip():
                connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
