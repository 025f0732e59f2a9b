"""Latencies had after their trials were told: on another device, or again on the study's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.record import TrialRecord

LATENCY_OF = "sekd_latency_of:"  # then the device and the student: one attribute of the study each
LATENCY = "sekd_latency:"  # then the device: all its students in one, as format 1 had it


def key_of(number: int, variant: str | None) -> str:
    """How a student is called here: its trial, and its variant if there are several."""
    return str(number) if variant is None else f"{number}:{variant}"


class Later:
    """What was had later, laid over records as they were told; each is made once, not at every reading."""

    def __init__(self) -> None:
        self._latencies: dict[str, dict[str, Any]] = {}  # by student, then by device
        self._applied: dict[int, TrialRecord] = {}
        self.version = 0  # another number after every change

    def read(self, notes: Mapping[str, Any]) -> None:
        """Takes in the study's attributes."""
        found: dict[str, dict[str, Any]] = {}
        for key, measured in notes.items():
            if key.startswith(LATENCY):
                for student, latency in measured.items():
                    found.setdefault(student, {})[key.removeprefix(LATENCY)] = latency
        for key, latency in notes.items():  # over the old form, which nobody writes to any more
            if key.startswith(LATENCY_OF):
                device, _, student = key.removeprefix(LATENCY_OF).partition(":")
                found.setdefault(student, {})[device] = latency
        if found != self._latencies:
            self._latencies = found
            self._applied.clear()
            self.version += 1

    def applied(self, told: Mapping[int, TrialRecord]) -> list[TrialRecord]:
        """The records in order, with what came later."""
        for number in told.keys() - self._applied.keys():
            self._applied[number] = self._with_later(told[number])
        return [self._applied[number] for number in sorted(told)]

    def _with_later(self, record: TrialRecord) -> TrialRecord:
        """A device that gave a latency by now is flagged no longer."""
        found = self._latencies.get(key_of(record.number, record.variant_id if record.variant else None), {})
        variants = [self._with_later(v.model_copy(update={"number": record.number})) for v in record.variants]
        flags = [flag for flag in record.flags if flag.removeprefix("unmeasured:") not in found]
        return record.model_copy(update={"latency": record.latency | found, "variants": variants, "flags": flags})
