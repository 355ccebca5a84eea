"""The facts about a provider, each with its certainty and its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Fact", "Mark"]

Mark = Literal["documented", "observed", "inferred", "unknown"]
"""The certainty of a fact.

Documented: the provider says so. Observed: it was seen in code or in a captured request. Inferred: it follows from such
facts. Unknown: a search for it found nothing.
"""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact behind the code: its subject, its content, its certainty and its source."""

    about: str
    known: str
    mark: Mark
    source: str
