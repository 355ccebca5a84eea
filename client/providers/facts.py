"""What is known of a provider, and how surely (PROVIDERS.md 0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Fact", "Mark"]

Mark = Literal["documented", "observed", "inferred", "unknown"]
"""Documented by the provider; seen in its code, another's or a capture; concluded from those; looked for in vain."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that the code leans on: what it is about, what is known, how surely, and who says so."""

    about: str
    known: str
    mark: Mark
    source: str
