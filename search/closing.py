"""The end of a search: what deserves another measurement, and what there is to say."""

from __future__ import annotations

from pathlib import Path

from search.device import DeviceProfile, had_kind
from search.device_lock import DeviceLock
from search.ends import NothingFits
from search.measure import RANKING, MeasurementFailed
from search.network_latency import measuring, network_latency
from search.ranking import share_latency
from search.record import TrialRecord
from search.selection import fits, front_of, nearest_misses
from search.store import Store
from search.study import StudyDefinition
from search.variants import flat, model_file, students
from search.view import View


def measure_again(store: Store, device: DeviceProfile, folder: Path, lock: DeviceLock, view: View) -> None:
    """What stands on the front by a figure of a machine that was slowed gets another chance, once."""
    study = store.definition
    limits, kind = study.budget.limits(), had_kind(study.device)
    front = front_of(flat(store.records()), study.objectives.names, limits, device.name, kind=kind)
    again = [student for student in front if "slowed" in student.latency.get(device.name, {}).get("flags", ())]
    if again:
        view.say(f"measuring {len(again)} students again, since the machine was slow when they were")
    for student in again:
        path = model_file(folder, student)
        try:
            with measuring(device, lock) as held:
                latency = network_latency(path, device, folder / "measured", level=RANKING, lock=held)
        except (MeasurementFailed, OSError):  # what is on record stands
            continue
        share_latency(student.model_copy(update={"latency": {device.name: latency}}), store, device.name)


def require_a_student(study: StudyDefinition, trials: list[TrialRecord], device: str) -> None:
    """
    Raises:
        NothingFits: the search ended without one student within the budget.
    """
    limits, kind = study.budget.limits(), had_kind(study.device)
    records = students(trials, limits, device, kind=kind)
    known = [record for record in records if record.status in ("COMPLETE", "INFEASIBLE")]
    if known and all(r.status == "INFEASIBLE" or fits(r, limits, device, kind=kind) for r in known):
        raise NothingFits(
            f"no student of '{study.name}' fits its budget on {device}",
            nearest_misses(records, limits, device, kind=kind),
        )
