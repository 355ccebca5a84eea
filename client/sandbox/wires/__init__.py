"""Every provider the sandbox can be, by name: its answers, ids and callbacks. A new relative is a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType

from uuid_utils import uuid7

from client.errors import BadArgumentError
from client.sandbox.settings import Settings
from client.sandbox.wire import CapSolverWire, OneCaptchaWire, Wire
from client.sandbox.wires.json_family import CAPMONSTER, NEXTCAPTCHA, YESCAPTCHA

__all__ = ["PROFILES", "Profile", "profile_named"]


def _uuids() -> Callable[[], str]:
    return lambda: str(uuid7())


def _numbers(first: int) -> Callable[[], Callable[[], str]]:
    """Makers of integer ids in a row; `first` decides how long they are."""

    def new_maker() -> Callable[[], str]:
        numbers = count(first)
        return lambda: str(next(numbers))

    return new_maker


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one provider shows itself; `is_id_in_callback` is what it does where the settings do not say."""

    wire: Callable[[Settings], Wire]
    id_maker: Callable[[], Callable[[], str]] = _uuids
    has_callback: bool = True
    is_id_in_callback: bool = True


# CapMonster's callback is its getTaskResult answer, which has no id (PROVIDERS.md 2.1, read literally).
_CAPMONSTER = Profile(wire=lambda _: CAPMONSTER, id_maker=_numbers(1_000_000_001), is_id_in_callback=False)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "capkill": _CAPMONSTER,
        "capmonster": _CAPMONSTER,
        "capsolver": Profile(wire=lambda settings: CapSolverWire(is_status_sent=settings.is_status_sent)),
        "captcha69": _CAPMONSTER,
        # 13 digits (PROVIDERS.md 3.7).
        "nextcaptcha": Profile(wire=lambda _: NEXTCAPTCHA, id_maker=_numbers(1_000_000_000_001)),
        "onecaptcha": Profile(
            wire=lambda settings: OneCaptchaWire(error_status=settings.error_status or 200), has_callback=False
        ),
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
