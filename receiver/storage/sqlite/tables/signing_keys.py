"""The table of signing keys: its rows, and the change to a new key."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from receiver.domain.tokens import SigningKey
from receiver.errors import CannotStartError
from receiver.storage.sqlite.backups.locks import opening
from receiver.storage.sqlite.database import require_database, write_transaction
from receiver.storage.sqlite.schema import migrate
from receiver.storage.sqlite.statements import INSERT_SIGNING_KEY

__all__ = ["read_signing_keys", "replace_signing_key"]

# All keys that may still be accepted, newest first.
SELECT_KEYS = "SELECT key, created_at, accepted_until FROM signing_key ORDER BY id DESC LIMIT 16"
# The end of all keys. An earlier end stays.
END_KEYS = "UPDATE signing_key SET accepted_until = min(coalesce(accepted_until, :until), :until)"


def read_signing_keys(connection: sqlite3.Connection) -> Sequence[SigningKey]:
    """Return the keys, newest first, with those that have ended."""
    return [SigningKey(*row) for row in connection.execute(SELECT_KEYS)]


def replace_signing_key(path: Path, key: bytes, *, now: int, until: int) -> None:
    """Let `key` sign from now on, and let all earlier keys end. A receiver may run meanwhile.

    Raises:
        CannotStartError: there is no database, or it cannot be written.
    """
    require_database(path)
    try:
        with opening(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            connection.isolation_level = None
            connection.execute("PRAGMA synchronous = FULL")
            with write_transaction(connection):
                migrate(connection, path)
                connection.execute(END_KEYS, {"until": until})
                connection.execute(INSERT_SIGNING_KEY, (key, now))
    except sqlite3.Error as error:
        raise CannotStartError(f"{path}: the key cannot be stored: {error}", passes=True) from error
