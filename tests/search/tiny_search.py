"""A whole search in this process, its students really trained, its times made up: for tests of what comes of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from definitions import write_definition

import search.network_latency
from search.backends.table import TableBackend
from search.objective import run_trial
from search.run_folder import driving, keep_definition
from search.study import read_study
from search.trial import Job
from search.tuner import Tuner
from search.view import View

PROFILE = """
name = "near"
description = "for tests"
latency = "local"
max_segment_ms = 300
[sources]
max_segment_ms = "for tests"
"""


@contextmanager
def searched(home: Path, changes: dict[str, Any], timed: Callable[..., Any]) -> Iterator[tuple[Path, list[Job]]]:
    """The folder of a search on the device ``near``, with ``timed`` in the place of measuring, and its jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEKD_HOME", str(home))
        patch.delenv("SEKD_CACHE", raising=False)
        patch.setattr(search.network_latency, "measure", timed)
        (home / "near.toml").write_text(PROFILE)
        path = write_definition(home, changes | {"device": "near.toml"})
        folder = home / "runs" / "tiny"
        keep_definition(path, folder)
        backend = TableBackend(lambda job: run_trial(job, lambda stage, share: None))
        with driving(folder):
            Tuner(read_study(path), folder, backend, View(), force=True).run()
        yield folder, backend.submitted
