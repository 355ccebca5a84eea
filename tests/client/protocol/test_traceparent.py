"""The header `traceparent`: read strictly, and made from the current span."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from client.protocol.traceparent import current_traceparent, read_traceparent

VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VALID, VALID),
        (f" {VALID}\t", VALID),
        (VALID[:-2] + "00", VALID[:-2] + "00"),
        # A later version has further fields.
        (f"cc{VALID[2:]}-what-comes-then", VALID),
        (None, None),
        ("", None),
        (VALID.upper(), None),
        (f"ff{VALID[2:]}", None),
        (VALID[:-1], None),
        (f"{VALID}0", None),
        (VALID.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), None),
        (VALID.replace("b7ad6b7169203331", "0" * 16), None),
        (VALID.replace("-", "_"), None),
        (f"{VALID}\nX: y", None),
        (f"cc{VALID[2:]}-{'x' * 500}", None),
    ],
)
def test_only_a_valid_header_is_kept(text: str | None, expected: str | None) -> None:
    """It is kept in one form, so that its length is known. Any other one is ignored, as W3C asks for."""
    assert read_traceparent(text) == expected


def test_the_header_names_the_current_span() -> None:
    """Without a valid span there is no header."""
    tracer = TracerProvider().get_tracer("tests")
    with tracer.start_as_current_span("outer") as span:
        context = span.get_span_context()
        header = current_traceparent()
    with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)):
        invalid = current_traceparent()

    ids = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    assert header == f"00-{ids[0]}-{ids[1]}-{context.trace_flags:02x}"
    assert read_traceparent(header) == header
    assert (invalid, current_traceparent()) == (None, None)


def test_nothing_of_opentelemetry_is_imported_without_it() -> None:
    """Neither half imports it by itself. Asking for the current span imports nothing either."""
    program = (
        "import sys, client, receiver.app, receiver.mounting, receiver.commands.serve\n"
        "from client.protocol.traceparent import current_traceparent\n"
        "from receiver.tracing import current_tracing\n"
        "assert current_traceparent() is None and current_tracing() is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "[]\n"
