"""Counts of the error codes that no list has, by name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable

from client.logs import Log
from client.providers import Dialect
from client.providers.codes import REASON_NOT_GIVEN, code_named
from client.providers.readings import Failed, Submitted

__all__ = ["MOST_CODES", "OTHER", "UnlistedCodes"]

MOST_CODES = 20
"""So many unlisted codes of a provider are told apart; all further ones are counted as `OTHER`."""

OTHER = "other"

_NAME = re.compile(r"[A-Z0-9_: ]{1,80}", re.ASCII)

_log = Log()


class UnlistedCodes:
    """Counts the unlisted codes that providers send, by name, and logs them; bounded.

    `counted` is told provider and name of each, as counted: `OTHER` for what is no plausible code, and for more than
    `MOST_CODES` of a provider. Logged are the 1st, 10th, 100th and so on of a name.
    """

    def __init__(self, counted: Callable[[str, str], None] | None = None) -> None:
        self._counted = counted
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def note(self, dialect: Dialect, said: object) -> None:
        """Count the code in what the dialect read, if there is one that it does not list."""
        reading = said.reading if isinstance(said, Submitted) else said
        if not isinstance(reading, Failed) or reading.error_code == REASON_NOT_GIVEN:
            return
        if code_named(dialect.codes, reading.error_code) is not None:
            return
        counts = self._counts[dialect.provider]
        name = reading.error_code if _NAME.fullmatch(reading.error_code) else OTHER
        if name not in counts and len(counts) >= MOST_CODES:
            name = OTHER
        counts[name] += 1
        if self._counted is not None:
            self._counted(dialect.provider, name)
        if str(counts[name]).strip("0") == "1":
            _log.warning(
                "code.unlisted",
                provider=dialect.provider,
                errorCode=reading.error_code[:80],
                times=counts[name],
                consequence="a poll with it ends no task unless it comes again and again",
            )
