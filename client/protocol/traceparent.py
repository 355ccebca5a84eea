"""The header `traceparent` of W3C Trace Context: a task keeps it, so that later spans belong to its trace."""

from __future__ import annotations

import re
import sys

__all__ = ["TRACEPARENT", "current_traceparent", "read_traceparent"]

TRACEPARENT = "traceparent"

# Later versions may append fields.
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?:-.*)?", re.ASCII)
_MOST_CHARACTERS = 512


def read_traceparent(text: str | None) -> str | None:
    """Return the header in the form of version 00. None without a header, or for one without a valid trace."""
    if text is None or len(text) > _MOST_CHARACTERS:
        return None
    found = _FORM.fullmatch(text.strip())
    return None if found is None else f"00-{found[1]}"


def current_traceparent() -> str | None:
    """Return the header for the current span of OpenTelemetry. None without a span.

    OpenTelemetry is not imported here: without another part of the program that uses it, there is no span.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
