"""Every provider the sandbox can be, by name: its answers, ids and callbacks. A new relative is a row here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from client.errors import BadArgumentError
from client.sandbox.wire import CapSolverWire, OneCaptchaWire
from client.sandbox.wires.json_family import (
    ANTICAPTCHA,
    CAPMONSTER,
    EZCAPTCHA,
    EZCAPTCHASYNC,
    NEXTCAPTCHA,
    TWOCAPTCHA,
    UCAPTCHA,
    YESCAPTCHA,
)
from client.sandbox.wires.messages import form_message, ucaptcha_query
from client.sandbox.wires.profile import Profile, numbers
from client.sandbox.wires.solutions import onecaptcha_solution, twocaptcha_solution

__all__ = ["PROFILES", "Profile", "profile_named"]

# 11 digits, beyond 2^31 (PROVIDERS.md 3.4, 3.6).
_LONG_NUMBERS = numbers(73_043_008_354)

# CapMonster's callback is its getTaskResult answer, which has no id (PROVIDERS.md 2.1, read literally).
_CAPMONSTER = Profile(
    wire=lambda _: CAPMONSTER,
    id_maker=numbers(1_000_000_001),
    is_id_in_callback=False,
    callback_seconds=2.0,
    not_ready_code="CAPTCHA_NOT_READY",
)
_TWOCAPTCHA = Profile(
    wire=lambda _: TWOCAPTCHA, id_maker=_LONG_NUMBERS, solution=twocaptcha_solution, write=form_message
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "anticaptcha": Profile(wire=lambda _: ANTICAPTCHA, id_maker=_LONG_NUMBERS),
        "capkill": _CAPMONSTER,
        "capmonster": _CAPMONSTER,
        "capsolver": Profile(
            wire=lambda settings: CapSolverWire(is_status_sent=settings.is_status_sent), sync="recognition"
        ),
        "captcha69": _CAPMONSTER,
        "ezcaptcha": Profile(wire=lambda _: EZCAPTCHA, has_callback=False),
        # The host that answers at once (PROVIDERS.md 3.7).
        "ezcaptchasync": Profile(wire=lambda _: EZCAPTCHASYNC, has_callback=False, sync="all"),
        # 13 digits (PROVIDERS.md 3.7).
        "nextcaptcha": Profile(wire=lambda _: NEXTCAPTCHA, id_maker=numbers(1_000_000_000_001)),
        "onecaptcha": Profile(
            wire=lambda settings: OneCaptchaWire(error_status=settings.error_status or 200),
            solution=onecaptcha_solution,
            has_callback=False,
        ),
        "rucaptcha": _TWOCAPTCHA,
        "twocaptcha": _TWOCAPTCHA,
        "ucaptcha": Profile(wire=lambda _: UCAPTCHA, write=ucaptcha_query),
        "yescaptcha": Profile(wire=lambda _: YESCAPTCHA, has_callback=False),
    }
)


def profile_named(name: str) -> Profile:
    """The profile of a provider.

    Raises:
        BadArgumentError: no such provider; the text lists those there are.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise BadArgumentError(f"unknown dialect {name!r}: expected one of {', '.join(sorted(PROFILES))}") from None
