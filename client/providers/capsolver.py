"""CapSolver (PROVIDERS.md 3.1; seed: CapSolver).

Documented: ids are UUIDs in text; "" means no error; recognition types are answered at once with `status` "ready";
results are ready in 1 to 30 s, are asked for every 3 s, at most 120 times, and can be read for 5 minutes after
creation; errors come as JSON under HTTP 400 and 401. `callbackUrl` is documented in one line: the token will be
POSTed there. That the body repeats the getTaskResult answer with its `taskId` is inferred, not documented.
"""

from __future__ import annotations

from client.providers.dialect import CallbackRule, PollPlan
from client.providers.json_family import JsonDialect

__all__ = ["CAPSOLVER"]

CAPSOLVER = JsonDialect(
    provider="capsolver",
    base_url="https://api.capsolver.com",
    callback=CallbackRule(task_id="inferred"),
    polls=PollPlan(
        first_after_seconds=3.0,
        first_after_callback_seconds=35.0,
        interval_seconds=3.0,
        max_polls=120,
        window_seconds=300.0,
    ),
    has_app_id=True,
)
"""The first poll behind a callback comes after 35 s: the documented 30 s and a margin."""
