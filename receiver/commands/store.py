"""The store of the settings, opened for one command beside a running receiver or without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from receiver.errors import CannotStartError, ReceiverError
from receiver.settings import Settings
from receiver.storage import opening
from receiver.storage.opening import OwnedStore

__all__ = ["open_store"]


@asynccontextmanager
async def open_store(settings: Settings, now: int, *, create: bool = False) -> AsyncIterator[OwnedStore]:
    """Yield the store of the settings, with its writer. With `create`, make the database if there is none.

    Raises:
        CannotStartError: there is no database, or it cannot carry out the command now.
    """
    refused: ReceiverError | CannotStartError | None = None
    async with (
        opening.open_store(settings, now=now, clock=time.monotonic, create=create) as store,
        asyncio.TaskGroup() as owner,
    ):
        owner.create_task(store.run(), name="writer")
        try:
            yield store
        except (ReceiverError, CannotStartError) as error:
            # Raised in here, it would be wrapped in an exception group.
            refused = error
        finally:
            store.stop()
    if isinstance(refused, CannotStartError):
        raise refused
    if refused is not None:
        raise CannotStartError(f"{settings.database_name}: {refused.detail}", passes=refused.slug == "not-stored")
