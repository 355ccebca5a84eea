"""Every provider the sandbox can be, by name: its answers, ids and callbacks. A new relative is a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from client.errors import BadArgumentError
from client.sandbox.settings import Settings
from client.sandbox.wires.capsolver import CapSolverWire, OneCaptchaWire
from client.sandbox.wires.json_family import (
    ANTICAPTCHA,
    CAPMONSTER,
    CAPSOLUTION,
    EZCAPTCHA,
    EZCAPTCHASYNC,
    HARDCAPTCHA,
    NEXTCAPTCHA,
    TWOCAPTCHA,
    UCAPTCHA,
    YESCAPTCHA,
    JsonWire,
)
from client.sandbox.wires.messages import (
    capsolution_event,
    captchaai_query,
    form_message,
    hardcaptcha_envelope,
    scrapeless_envelope,
    ucaptcha_query,
)
from client.sandbox.wires.profile import Profile, numbers, prefixed
from client.sandbox.wires.scrapeless import ScrapelessWire
from client.sandbox.wires.solutions import bare_solution, onecaptcha_solution, token_solution, twocaptcha_solution
from client.sandbox.wires.v1_family import V1Wire

__all__ = ["PROFILES", "Profile", "profile_named"]

# 11 digits, beyond 2^31 (PROVIDERS.md 3.4, 3.6).
_LONG_NUMBERS = numbers(73_043_008_354)


def _of_unknown_status(wire: JsonWire) -> Callable[[Settings], JsonWire]:
    """The wire, with the HTTP status of errors that the settings choose where nobody knows it (PROVIDERS.md 4)."""

    def made(settings: Settings) -> JsonWire:
        return wire if settings.error_status is None else replace(wire, refused_status=settings.error_status)

    return made


# CapMonster's callback is its getTaskResult answer, which has no id (PROVIDERS.md 2.1, read literally).
_CAPMONSTER = Profile(
    wire=lambda _: CAPMONSTER,
    has_known_error_status=True,
    id_maker=numbers(1_000_000_001),
    is_id_in_callback=False,
    callback_seconds=2.0,
    not_ready_code="CAPTCHA_NOT_READY",
)
_CAPMONSTER_REPORTS = {"reportIncorrectImageCaptcha": ("imagetotext",), "reportIncorrectTokenCaptcha": ()}
_TWOCAPTCHA = Profile(
    wire=lambda _: TWOCAPTCHA,
    has_known_error_status=True,
    id_maker=_LONG_NUMBERS,
    solution=twocaptcha_solution,
    write=form_message,
    has_registered_hosts=True,
    reports={"reportCorrect": (), "reportIncorrect": ()},
)
# Nobody is answered at once, and every value is text.
_V1 = Profile(
    wire=lambda _: V1Wire(),
    has_known_error_status=True,
    api="v1",
    id_maker=numbers(2_122_988_149),
    solution=bare_solution,
    write=form_message,
    has_registered_hosts=True,
    reports={"reportgood": (), "reportbad": ()},
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "anticaptcha": Profile(
            wire=_of_unknown_status(ANTICAPTCHA),
            id_maker=_LONG_NUMBERS,
            reports={
                "reportCorrectRecaptcha": ("recaptcha",),
                "reportIncorrectHcaptcha": ("hcaptcha",),
                "reportIncorrectImageCaptcha": ("imagetotext",),
                "reportIncorrectRecaptcha": ("recaptcha",),
            },
            report_fields={"status": "success"},
        ),
        "capkill": _CAPMONSTER,
        "capmonster": replace(_CAPMONSTER, reports=_CAPMONSTER_REPORTS),
        # The address of its callbacks is set for the account (PROVIDERS.md 2.4).
        "capsolution": Profile(
            wire=_of_unknown_status(CAPSOLUTION),
            id_maker=prefixed("task_"),
            is_account_wide=True,
            write=capsolution_event,
            signed_with="secret",
        ),
        "capsolver": Profile(
            wire=lambda settings: CapSolverWire(is_status_sent=settings.is_status_sent),
            sync="recognition",
            has_known_error_status=True,
            reports={"feedbackTask": ()},
        ),
        "captcha69": _CAPMONSTER,
        "captchaai": replace(_V1, write=captchaai_query, has_error_pages=True, has_registered_hosts=False, reports={}),
        "ezcaptcha": Profile(wire=lambda _: EZCAPTCHA, has_known_error_status=True, has_callback=False),
        # The host that answers at once (PROVIDERS.md 3.7).
        "ezcaptchasync": Profile(
            wire=lambda _: EZCAPTCHASYNC, has_known_error_status=True, has_callback=False, sync="all"
        ),
        # Tried four times in all (PROVIDERS.md 2.4).
        "hardcaptcha": Profile(
            wire=_of_unknown_status(HARDCAPTCHA),
            solution=token_solution,
            write=hardcaptcha_envelope,
            signed_with="key",
            callback_seconds=5.0,
            callback_retries=3,
        ),
        # 13 digits (PROVIDERS.md 3.7).
        "nextcaptcha": Profile(wire=_of_unknown_status(NEXTCAPTCHA), id_maker=numbers(1_000_000_000_001)),
        "onecaptcha": Profile(
            wire=lambda settings: OneCaptchaWire(error_status=settings.error_status or 200),
            solution=onecaptcha_solution,
            has_callback=False,
        ),
        "rucaptcha": _TWOCAPTCHA,
        "rucaptchav1": _V1,
        "scrapeless": Profile(
            wire=lambda settings: ScrapelessWire(error_status=settings.error_status or 200),
            api="scrapeless",
            solution=token_solution,
            write=scrapeless_envelope,
        ),
        "twocaptcha": _TWOCAPTCHA,
        "twocaptchav1": _V1,
        "ucaptcha": Profile(wire=_of_unknown_status(UCAPTCHA), write=ucaptcha_query, reports={"feedbackTask": ()}),
        "yescaptcha": Profile(wire=_of_unknown_status(YESCAPTCHA), has_callback=False),
    }
)


def profile_named(name: str) -> Profile:
    """Return the profile of a provider.

    Raises:
        BadArgumentError: no such provider; the text lists those there are.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise BadArgumentError(f"unknown dialect {name!r}: expected one of {', '.join(sorted(PROFILES))}") from None
