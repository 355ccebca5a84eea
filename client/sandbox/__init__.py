"""The sandbox: a provider that runs on this machine, for development, demos and tests, with faults on demand."""

from __future__ import annotations

from client.sandbox.answers import expected_solution
from client.sandbox.callbacks import SentCallback
from client.sandbox.counts import Stats
from client.sandbox.faults import FaultRates, Faults
from client.sandbox.limits import Limits
from client.sandbox.provider import Sandbox
from client.sandbox.settings import Settings

__all__ = ["FaultRates", "Faults", "Limits", "Sandbox", "SentCallback", "Settings", "Stats", "expected_solution"]
