"""A search from its definition to its results: what `sekd launch`, `sekd resume` and Python share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from search.backends.base import Backend
from search.backends.local import LocalBackend
from search.device import load_device
from search.preflight import wants_latency
from search.results import Results, open_results
from search.run_folder import driving, keep_definition, start_run
from search.storage.places import remember, remembered
from search.study import StudyDefinition, find_definition
from search.tuner import Tuner
from search.view import View
from sekd.config import Frozen, parse
from sekd.errors import InputError


class RunOptions(Frozen):
    """How a search is run this time; nothing here changes a result, and nothing is kept.

    Args:
        trials: run this many more; without it, what the definition still owes.
        workers: trials at once; without it what the definition says, or under Ray what the cluster can take.
        backend: where trials run.
        address: of a Ray cluster to join: "auto", or HOST:PORT; without it one is started here.
        ray_storage: folder or URI that all nodes reach, for checkpoints; without it the run folder.
        storage: URL of the study; without it where it lies, at first SQLite in the run folder.
        join: work beside other drivers of the study.
        torch_device: of training.
        force: run even if the teacher does not beat unprocessed audio.
        trust_code: whether the function that ``teacher.module`` names may be called.
    """

    trials: int | None = None
    workers: int | None = None
    backend: Literal["local", "ray"] = "local"
    address: str | None = None
    ray_storage: str | None = None
    storage: str | None = None
    join: bool = False
    torch_device: str = "cpu"
    force: bool = False
    trust_code: bool = False


def launch(study: str | Path, *, callbacks: Sequence[Any] = (), **options: Any) -> Results:
    """Runs the study of that name or file, or continues it, and gives back what is on record.

    Args:
        callbacks: Ray Tune's, such as loggers, for ``backend="ray"``.
        options: see ``RunOptions``.

    Raises:
        InputError: the definition, its recordings, its device or the storage cannot be used.
        NothingFits: the search ended without one student within the budget.
        Interrupted: Ctrl-C came; what was finished is on record.
    """
    return drive(find_definition(str(study)), parse(RunOptions, options, "launch"), callbacks=callbacks)


def drive(
    path: Path,
    options: RunOptions = RunOptions(),  # noqa: B008
    watch: Callable[[StudyDefinition], View] = lambda study: View(),
    *,
    callbacks: Sequence[Any] = (),
) -> Results:
    """`launch` for the definition at ``path``, which may be a run's own; ``watch`` makes who is told of events."""
    study, folder = start_run(path)
    with closing(watch(study)) as view, driving(folder, join=options.join):
        if options.storage is not None and remembered(folder) is None and not (folder / "study.db").exists():
            remember(folder, options.storage)  # now: preparing may take long, and a kill must not lead elsewhere
        backend = make_backend(study, folder, options, callbacks)
        try:
            tuner = Tuner(
                study, folder, backend, view, storage=options.storage, torch_device=options.torch_device,
                force=options.force, trust_code=options.trust_code, join=options.join,
            )  # fmt: skip
            if options.storage is not None:
                remember(folder, options.storage)
            keep_definition(path, folder)
            tuner.run(options.trials)
        finally:
            backend.stop(now=True)
    return open_results(str(folder), storage=options.storage)


def make_backend(study: StudyDefinition, folder: Path, options: RunOptions, callbacks: Sequence[Any] = ()) -> Backend:
    """The backend that ``options`` name.

    Raises:
        InputError: Ray's options without Ray, or a cluster that cannot be joined.
    """
    if options.backend == "ray":
        from search.backends.ray.backend import RayBackend  # late: it takes a second to import

        measured = [load_device(name) for name in (study.device, *study.also_on)] if wants_latency(study) else []
        return RayBackend(
            options.workers if options.address else options.workers or study.run.workers, folder,
            study.trial_resources, address=options.address, storage_path=options.ray_storage, callbacks=callbacks,
            devices=measured,
        )  # fmt: skip
    for name in ("address", "ray_storage"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is of Ray: use it with --backend ray")
    return LocalBackend(options.workers or study.run.workers, study.run.threads, folder / "logs")
