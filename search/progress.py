"""What a person sees of a running search: bars in a terminal, one line per event elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from search.labels import settings_text, shown
from search.record import LATENCIES, TrialRecord
from search.study import StudyDefinition
from search.variants import points
from search.view import View


class Lines(View):
    """One line per event, with the time left, on ``out``."""

    def __init__(self, study: StudyDefinition, out: TextIO | None = None) -> None:
        self.study, self.out = study, out or sys.stdout
        self._began = time.monotonic()
        self._first: int | None = None

    def say(self, line: str) -> None:
        print(line, file=self.out, flush=True)

    def trial_ended(self, record: TrialRecord, done: int, wanted: int) -> None:
        self.say(f"[{done}/{wanted}] {_outcome(record, self.study)}{self._left(done, wanted)}")

    def _left(self, done: int, wanted: int) -> str:
        if self._first is None:
            self._first, self._began = done, time.monotonic()
            return ""
        since = done - self._first
        if since < 1 or done >= wanted:
            return ""
        left = (time.monotonic() - self._began) / since * (wanted - done)
        return f", about {_duration(left)} left"


class Live(Lines):
    """A bar for the study and one for each running trial; events scroll by above."""

    def __init__(self, study: StudyDefinition, console: Console) -> None:
        super().__init__(study)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}", markup=False), console=console, transient=True,
        )  # fmt: skip
        self._study = self._progress.add_task(study.name, total=study.trials, note="")
        self._trials: dict[int, TaskID] = {}
        self._progress.start()

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)

    def trial_started(self, number: int, params: dict[str, Any]) -> None:
        self._trials[number] = self._progress.add_task(f"trial {number}", total=1.0, note="")

    def trial_moved(self, number: int, stage: str, share: float) -> None:
        if number in self._trials:
            self._progress.update(self._trials[number], completed=share, note=stage)

    def trial_ended(self, record: TrialRecord, done: int, wanted: int) -> None:
        super().trial_ended(record, done, wanted)
        self._progress.update(self._study, completed=done, total=wanted, note=self._left(done, wanted).strip(", "))
        task = self._trials.pop(record.number, None)
        if task is not None:
            self._progress.remove_task(task)

    def close(self) -> None:
        self._progress.stop()


def view_for(study: StudyDefinition, out: TextIO) -> Lines:
    """Bars where a person watches a terminal, lines elsewhere."""
    if out.isatty():
        return Live(study, Console(file=out))
    return Lines(study, out)


def _outcome(record: TrialRecord, study: StudyDefinition) -> str:
    trial = f"trial {record.number} {settings_text({k.split('.')[-1]: v for k, v in record.params.items()})}:"
    if record.duplicate_of is not None:
        return f"{trial} the same as trial {record.duplicate_of}, not trained again"
    if record.status != "COMPLETE":
        return f"{trial} {record.status.lower()}, {record.reason}"
    return f"{trial} {'; '.join(_figures(point, study) for point in points(record))}"


def _figures(record: TrialRecord, study: StudyDefinition) -> str:
    """What a student came to, and at which setting of the free knobs."""
    device = study.device_name
    kind = record.latency_kind(device)
    setting = f"{settings_text({k.split('.')[-1]: v for k, v in record.variant.items()})}: " if record.variant else ""
    if record.status == "FAILED":
        return f"{setting}failed, {record.reason}"
    figures = [
        f"{name} {shown(name, record.value(name, device, kind=kind))}"
        f"{' (predicted)' if name in LATENCIES and kind == 'predicted' else ''}"
        for name in study.objectives.names
    ]
    beaten = ", beats its teacher" if record.teacher_beaten else ""
    flags = f" ({', '.join(record.flags)})" if record.flags else ""
    return f"{setting}{', '.join(figures)}{beaten}{flags}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
