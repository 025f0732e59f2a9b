"""A search from its definition to its results: what `sekd launch`, `sekd resume` and Python share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from search.backends.local import LocalBackend
from search.results import Results, open_results
from search.run_folder import driving, keep_definition, start_run
from search.study import StudyDefinition, find_definition
from search.tuner import Tuner, View


def launch(
    study: str | Path,
    *,
    trials: int | None = None,
    workers: int | None = None,
    storage: str | None = None,
    torch_device: str = "cpu",
    force: bool = False,
    trust_code: bool = False,
) -> Results:
    """Runs the study of that name or file, or continues it, and gives back what is on record.

    Args:
        trials: run this many more; without it, what the definition still owes.
        force: run even if the teacher does not beat unprocessed audio.
        trust_code: whether the function that ``teacher.module`` names may be called.

    Raises:
        InputError: the definition, its recordings, its device or the storage cannot be used.
        NothingFits: the search ended without one student within the budget.
        Interrupted: Ctrl-C came; what was finished is on record.
    """
    return drive(
        find_definition(str(study)), trials=trials, workers=workers, storage=storage, torch_device=torch_device,
        force=force, trust_code=trust_code,
    )  # fmt: skip


def drive(
    path: Path,
    watch: Callable[[StudyDefinition], View] = lambda study: View(),
    *,
    trials: int | None = None,
    workers: int | None = None,
    storage: str | None = None,
    torch_device: str = "cpu",
    force: bool = False,
    trust_code: bool = False,
) -> Results:
    """`launch` for the definition at ``path``, which may be a run's own; ``watch`` makes who is told of events."""
    study, folder = start_run(path)
    backend = LocalBackend(workers or study.run.workers, study.run.threads, folder / "logs")
    with closing(watch(study)) as view, driving(folder):
        tuner = Tuner(
            study, folder, backend, view, storage=storage, torch_device=torch_device, force=force,
            trust_code=trust_code,
        )  # fmt: skip
        keep_definition(path, folder)
        tuner.run(trials)
    return open_results(str(folder), storage=storage)
