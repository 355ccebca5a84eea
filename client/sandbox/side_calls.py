"""What is asked beside tasks: reports of answers (PROVIDERS.md 7), registered hosts (PROVIDERS.md 2.2). No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.sandbox.limits import RefusalError
from client.sandbox.service import Read, SandboxTask, Service
from client.sandbox.settings import Settings
from client.sandbox.wires.capsolver import Answer, json_answer

__all__ = ["SideCalls"]

_MOST_REPORTED = 50_000


class SideCalls:
    """The side calls of one sandbox."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._reported: dict[str, None] = {}

    def report(self, name: str, read: Read, *, address: str, now: float) -> Answer:
        """Answers a report: it is counted for a task that has ended, of a kind that can be reported so."""

        def answer(fields: Mapping[str, Any], now: float) -> Answer:
            return self._report(name, fields, now)

        return self._service.side_call(name, answer, read, address=address, now=now)

    def pingback(self, action: str, read: Read, *, address: str, now: float) -> Answer:
        """Answers add_pingback, get_pingback and del_pingback."""

        def answer(fields: Mapping[str, Any], now: float) -> Answer:
            del now
            return self._pingback(action, str(fields.get("addr") or ""), address)

        return self._service.side_call(action, answer, read, address=address, now=now)

    def _report(self, name: str, fields: Mapping[str, Any], now: float) -> Answer:
        profile = self._service.profile
        task = self._service.task_of(fields)
        types = profile.reports[name]
        if types and not any(part in task.type.lower() for part in types):
            raise RefusalError("ERROR_INVALID_TASK_DATA", f"taskId: {name} is not for tasks of this type")
        self._check_time(task, now)
        if task.id in self._reported and profile.api == "v1":
            raise RefusalError("ERROR_DUPLICATE_REPORT")
        self._reported[task.id] = None
        if len(self._reported) > _MOST_REPORTED:
            del self._reported[next(iter(self._reported))]
        self._service.counts.reports[name] += 1
        if profile.api == "v1":
            return json_answer({"status": 1, "request": "OK_REPORT_RECORDED"})
        return json_answer({"errorId": 0, **profile.report_fields})

    def _check_time(self, task: SandboxTask, now: float) -> None:
        """A report comes after the end of the task, and not too long after it (PROVIDERS.md 3.4, 3.6)."""
        if not task.finished_at <= now <= task.finished_at + self._service.report_seconds:
            is_v1 = self._service.profile.api == "v1"
            raise RefusalError("REPORT_NOT_RECORDED" if is_v1 else "ERROR_TASKID_INVALID")

    def _pingback(self, action: str, host: str, address: str) -> Answer:
        hosts = self._service.registered_hosts
        match action:
            case "add_pingback":
                # Asked from another address than the host has, it is refused (PROVIDERS.md 2.2); names are not looked
                # up here, but for that of this machine.
                if host not in (address, "localhost"):
                    raise RefusalError("ERROR_IP_ADDRES")
                hosts.add(host)
            case "get_pingback":
                return json_answer({"status": 1, "request": sorted(hosts)})
            case _:
                hosts.difference_update(list(hosts) if host == "all" else [host])
        return json_answer({"status": 1, "request": "OK_PINGBACK"})
