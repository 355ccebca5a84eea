"""The sandbox: a provider on this machine, for development, demos and tests, with faults on demand."""

from __future__ import annotations

from client.sandbox.callbacks import SentCallback
from client.sandbox.counts import Stats
from client.sandbox.faults import Faults
from client.sandbox.provider import Sandbox
from client.sandbox.settings import FaultRates, SandboxLimits, SandboxSettings
from client.sandbox.wires.profiles import expected_solution

__all__ = [
    "FaultRates",
    "Faults",
    "Sandbox",
    "SandboxLimits",
    "SandboxSettings",
    "SentCallback",
    "Stats",
    "expected_solution",
]
