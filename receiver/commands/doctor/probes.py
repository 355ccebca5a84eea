"""What a running receiver answers to its operator's commands: each question ends soon, and each answer is a value."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from receiver.commands.doctor.findings import Answered, Counted
from receiver.settings import Settings

__all__ = ["ANSWER_SECONDS", "asked", "counted_there", "own_address"]

ANSWER_SECONDS = 5.0
"""No question takes longer, if its session is limited to that."""

_MAX_BODY = 10_000
# A label set takes some 100 bytes, and there are some 50 for each provider.
_MAX_NUMBERS = 4 * 1024 * 1024
_STALE = "callback_receiver_stale_answers_total"
_OUTCOMES = "callback_receiver_outcomes_total"


async def asked(session: aiohttp.ClientSession, url: str) -> Answered:
    """Return the answer to a GET, or why there is none; `reason` is what its JSON gives for one."""
    status, said = await _got(session, url, {}, _MAX_BODY)
    return Answered(status, _reason(said) if isinstance(said, bytes) else said)


async def counted_there(session: aiohttp.ClientSession, settings: Settings, ready: Answered) -> Counted:
    """What the running receiver has counted since it started, or why that is not known; `ready` is its `/readyz`."""
    headers = {}
    if settings.metrics_address:
        url = f"http://{_reachable(*settings.metrics_host_port)}/metrics"
    elif ready.status != 200:
        # Whoever else listens there is not given the key.
        return Counted(None, "no receiver answers that it is ready")
    else:
        url = f"http://{own_address(settings)}/metrics"
        if settings.keys:
            secret = settings.admin_secret
            if secret is None:
                return Counted(None, "no key has the scope admin, and RECEIVER_METRICS_ADDRESS is not set")
            headers["Authorization"] = f"Bearer {secret}"
    status, said = await _got(session, url, headers, _MAX_NUMBERS)
    if isinstance(said, str):
        return Counted(None, f"/metrics: {said}")
    if status != 200:
        return Counted(None, f"/metrics answers {status}")
    return _read(said)


def own_address(settings: Settings) -> str:
    """Where a receiver with these settings is reached from its own machine."""
    return _reachable(settings.host, settings.port)


def _reachable(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104  (asked, not bound)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _got(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], most: int
) -> tuple[int | None, bytes | str]:
    """Status and body, or None and why; errors are told by their kind: their texts may hold the URL and its token."""
    try:
        async with session.get(url, allow_redirects=False, headers=headers) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > most:
                    break
            return response.status, bytes(body[:most])
    except TimeoutError:
        return None, f"no answer within {session.timeout.total:g} s"
    except aiohttp.ClientConnectorDNSError:
        return None, "its name is not known"
    except aiohttp.ClientConnectorCertificateError:
        return None, "its certificate is not valid"
    except aiohttp.ClientConnectorError as error:
        return None, f"cannot connect ({os.strerror(error.errno) if error.errno else 'no reason given'})"
    except (aiohttp.ClientError, ValueError) as error:
        return None, type(error).__name__


def _reason(body: bytes) -> str:
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    return str(said.get("reason", "")) if isinstance(said, dict) else ""


def _read(body: bytes) -> Counted:
    stale: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    is_ours = False
    try:
        for family in text_string_to_metric_families(body.decode()):
            is_ours = is_ours or family.name in (_STALE, _STALE.removesuffix("_total"))
            for sample in family.samples:
                for name, counted in ((_STALE, stale), (_OUTCOMES, outcomes)):
                    if sample.name == name:
                        provider = sample.labels.get("provider", "")
                        counted[provider] = counted.get(provider, 0) + int(sample.value)
    except (ValueError, OverflowError, KeyError, IndexError):
        is_ours = False
    if not is_ours:
        return Counted(None, "what answers /metrics is no receiver")
    return Counted({name: (stale.get(name, 0), outcomes.get(name, 0)) for name in {*stale, *outcomes}}, "")
