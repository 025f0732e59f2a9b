"""The commands about where a study's record lies."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from search.storage.copying import copy_study
from search.study import run_folder


def copy(options: Namespace) -> int:
    """`sekd copy NAME --to URL [--storage URL] [--json]`."""
    done = copy_study(run_folder(options.study), options.to, storage=options.storage, say=_tell)
    if options.json:
        print(json.dumps({"study": done.study, "trials": done.trials, "storage": done.target}))
        return 0
    print(f"copied {done.trials} trials of {done.study} to {done.target}, where the run goes on from now")
    print(f"the record in {done.source} stays as it was: delete it when you need it no longer")
    print(f"next: sekd status {done.study}, or sekd resume {done.study}")
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
