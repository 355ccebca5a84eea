"""Errors of the server and the driver, by what a caller can do about them."""

from __future__ import annotations

import asyncpg

from receiver.errors import CannotStartError

__all__ = [
    "CommitUnknownError",
    "NotDurableError",
    "OutdatedError",
    "is_blocked",
    "is_lost",
    "is_worth_repeating",
    "reason_of",
    "refuse",
]


class CommitUnknownError(Exception):
    """The connection broke during a COMMIT."""


class NotDurableError(Exception):
    """The server acknowledges commits that it may lose."""


class OutdatedError(CannotStartError):
    """A newer program has changed the schema so that this one no longer fits. It has to end."""

    def __init__(self) -> None:
        super().__init__("the database was updated for newer receivers, so this one ends; start the newer version")


# Another batch was in the way: serialization, deadlock, a row with the same key. Or another version of the program has
# changed the schema under a prepared statement.
_IN_THE_WAY = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
    asyncpg.InvalidCachedStatementError,
)
# A pooler has given another session of the server, in which a statement is unknown or another one.
_OF_A_POOLER = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_OF_THE_SERVER = (
    *_OF_A_POOLER,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresIOError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    # Reads of a program that is too old by now.
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.LockNotAvailableError,
    # The session is in a transaction that this program does not know.
    asyncpg.ActiveSQLTransactionError,
    # After a server's last words asyncpg 0.32 refuses the next statement with this, until it reads the end.
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.TransactionRollbackError,
    NotDurableError,
    OSError,
)
# Another start fails in the same way, until somebody changes something.
_STAYS = (
    *_OF_A_POOLER,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedTableError,
    # An unknown option in the URL.
    asyncpg.UndefinedObjectError,
    NotDurableError,
)


def is_worth_repeating(error: Exception) -> bool:
    """Return True if another batch was in the way, so that the same batch may succeed now."""
    return isinstance(error, _IN_THE_WAY)


def is_blocked(error: Exception) -> bool:
    """Return True if a statement took too long, or a lock that another session held. `is_lost` is then True, too."""
    return isinstance(error, asyncpg.LockNotAvailableError | asyncpg.QueryCanceledError)


def is_lost(error: Exception) -> bool:
    """Return True if the server, or the way to it, failed. Return False if the content of one command failed."""
    # asyncpg raises InterfaceError for a closed connection, and its DataError, for a bad value, is one, too.
    is_closed = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError | TypeError)
    # Such an error ended the session, whatever it says.
    is_fatal = isinstance(error, asyncpg.PostgresError) and error.severity_en in ("FATAL", "PANIC")
    return is_closed or is_fatal or isinstance(error, _OF_THE_SERVER)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error. Further lines may hold values of a row."""
    if isinstance(error, _OF_A_POOLER):
        return "a pooler is in between; RECEIVER_DATABASE_LISTEN has to name the server itself"
    return (str(error) or type(error).__name__).splitlines()[0]


def refuse(name: str, error: Exception) -> CannotStartError:
    """Return the refusal for an error while opening. Errors of the driver do not name the password."""
    if isinstance(error, asyncpg.InterfaceError | ValueError) and not is_lost(error):
        # Python's own errors quote a part of the URL.
        reason = reason_of(error) if isinstance(error, asyncpg.InterfaceError) else "the port or an option is malformed"
        return CannotStartError(f"{name}: expected another URL of a database: {reason}")
    passes = is_lost(error) and not isinstance(error, _STAYS)
    return CannotStartError(f"{name}: the database cannot be used: {reason_of(error)}", passes=passes)
